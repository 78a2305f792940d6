//! A tracker that records announces (BEP 3, BEP 15, BEP 23).

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

type Swarms = Arc<Mutex<HashMap<Vec<u8>, Vec<SocketAddrV4>>>>;

/// Answers until it is dropped.
pub(crate) struct Tracker {
    pub(crate) url: String,
    announces: watch::Receiver<usize>,
    _task: JoinSet<()>,
}

#[derive(Clone)]
struct Book {
    swarms: Swarms,
    announces: watch::Sender<usize>,
}

impl Book {
    /// Records an announce. Returns the compact addresses of all others in the swarm.
    fn announce(&self, swarm: &[u8], peer: SocketAddrV4) -> Vec<u8> {
        let mut swarms = self.swarms.lock().unwrap();
        let peers = swarms.entry(swarm.to_vec()).or_default();
        let others = peers.iter().filter(|known| **known != peer);
        let compact = others
            .flat_map(|known| [&known.ip().octets()[..], &known.port().to_be_bytes()].concat())
            .collect();
        if !peers.contains(&peer) {
            peers.push(peer);
        }
        self.announces.send_modify(|count| *count += 1);
        compact
    }
}

impl Tracker {
    /// Over HTTP.
    pub(crate) async fn http() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/announce", listener.local_addr().unwrap());
        Self::start(url, async move |book| {
            loop {
                let (mut stream, from) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
                    if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                        break;
                    }
                }
                let SocketAddr::V4(from) = from else { continue };
                let Some((swarm, port)) = parse(&head) else {
                    continue;
                };
                let peers = book.announce(&swarm, SocketAddrV4::new(*from.ip(), port));
                let mut body = format!("d8:intervali60e5:peers{}:", peers.len()).into_bytes();
                body.extend(peers);
                body.push(b'e');
                let head = format!(
                    "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(&[head.as_bytes(), &body].concat()).await;
            }
        })
    }

    /// Over UDP.
    pub(crate) async fn udp() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let url = format!("udp://{}/announce", socket.local_addr().unwrap());
        Self::start(url, async move |book| {
            let mut datagram = [0; 2_048];
            loop {
                let (read, from) = socket.recv_from(&mut datagram).await.unwrap();
                let datagram = &datagram[..read];
                let transaction = &datagram[12..16];
                let answer = if datagram[8..12] == [0, 0, 0, 0] {
                    [&[0, 0, 0, 0], transaction, b"8 bytes!"].concat()
                } else {
                    assert_eq!(datagram[..8], *b"8 bytes!", "the id it was given");
                    let port = u16::from_be_bytes([datagram[96], datagram[97]]);
                    let peer = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
                    let peers = book.announce(&datagram[16..36], peer);
                    let numbers = [60_u32, 0, 0].map(u32::to_be_bytes).concat();
                    [&[0, 0, 0, 1], transaction, &numbers, &peers].concat()
                };
                socket.send_to(&answer, from).await.unwrap();
            }
        })
    }

    fn start<F>(url: String, serve: impl FnOnce(Book) -> F) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (sender, announces) = watch::channel(0);
        let book = Book {
            swarms: Swarms::default(),
            announces: sender,
        };
        let mut task = JoinSet::new();
        task.spawn(serve(book));
        Self {
            url,
            announces,
            _task: task,
        }
    }

    /// Waits for an announce.
    pub(crate) async fn heard(&self) {
        let mut announces = self.announces.clone();
        let heard = announces.wait_for(|count| *count > 0);
        tokio::time::timeout(super::PATIENCE, heard)
            .await
            .expect("no announce")
            .unwrap();
    }
}

/// Swarm and port out of a request.
fn parse(head: &[u8]) -> Option<(Vec<u8>, u16)> {
    let line = std::str::from_utf8(head).ok()?.lines().next()?;
    let query = line.split(' ').nth(1)?.split_once('?')?.1;
    let value = |key| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(name, _)| *name == key).map(|(_, value)| value)
    };
    let mut swarm = Vec::new();
    let mut bytes = value("info_hash")?.bytes();
    while let Some(byte) = bytes.next() {
        swarm.push(match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    Some((swarm, value("port")?.parse().ok()?))
}
