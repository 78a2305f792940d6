//! A peer written by hand: it says exactly what a test wants it to say.

use std::net::SocketAddr;
use std::time::Duration;

use bittorrent_protocol::wire::{
    HANDSHAKE_LEN, Handshake, MAX_MESSAGE_LEN, Message, Reserved, Step,
};
use bittorrent_protocol::{PeerId, SwarmHash};
use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long a step of a test may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub struct RawPeer {
    pub stream: TcpStream,
    input: BytesMut,
}

/// What a client without extensions offers.
pub const PLAIN: Reserved = Reserved {
    extended: false,
    fast: false,
    dht: false,
    v2: false,
};

/// What today's clients offer under a v2 hash.
pub const MODERN: Reserved = Reserved {
    extended: true,
    fast: true,
    dht: false,
    v2: false,
};

impl RawPeer {
    pub fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            input: BytesMut::new(),
        }
    }

    /// Connects, shakes hands, and gives the answer to the handshake.
    pub async fn connect(
        addr: SocketAddr,
        swarm: SwarmHash,
        reserved: Reserved,
    ) -> (Self, Handshake) {
        let stream = TcpStream::connect(addr).await.unwrap();
        let mut peer = Self::new(stream);
        peer.greet(swarm, reserved, *b"-XX0001-hand-written").await;
        let answer = peer.handshake().await.expect("an answer");
        (peer, answer)
    }

    pub async fn greet(&mut self, swarm: SwarmHash, reserved: Reserved, id: [u8; 20]) {
        let handshake = Handshake {
            reserved,
            swarm,
            peer_id: PeerId::from_bytes(id),
        };
        self.stream.write_all(&handshake.encode()).await.unwrap();
    }

    /// The other side's handshake; `None` when it closed instead.
    pub async fn handshake(&mut self) -> Option<Handshake> {
        let mut bytes = [0; HANDSHAKE_LEN];
        let read = tokio::time::timeout(PATIENCE, self.stream.read_exact(&mut bytes))
            .await
            .expect("a handshake in time");
        read.ok()?;
        Handshake::decode(&bytes).unwrap()
    }

    pub async fn send(&mut self, message: &Message<'_>) {
        let mut bytes = BytesMut::new();
        message.encode(&mut bytes);
        self.raw(&bytes).await;
    }

    pub async fn raw(&mut self, bytes: &[u8]) {
        // A peer that was dropped meanwhile shows when it is read from.
        let _ = self.stream.write_all(bytes).await;
    }

    /// Waits until the other side has read everything that was sent. It must be a socket of this network namespace.
    pub async fn until_read_by_other_side(&self) {
        let ends = (
            self.stream.local_addr().unwrap(),
            self.stream.peer_addr().unwrap(),
        );
        let waited = async {
            while queued(ends.0, ends.1).sent > 0 || queued(ends.1, ends.0).received > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waited)
            .await
            .expect("everything read in time");
    }

    /// The next message's bytes; `None` when the other side closed.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            match Message::decode(&self.input, MAX_MESSAGE_LEN).unwrap() {
                Step::Message { consumed, .. } => {
                    return Some(self.input.split_to(consumed).to_vec());
                }
                Step::Need(_) => {
                    let read =
                        tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.input))
                            .await
                            .expect("a message in time");
                    if !matches!(read, Ok(1..)) {
                        return None;
                    }
                }
            }
        }
    }

    /// The first message that `wanted` makes something of; `None` when the other side closed.
    pub async fn find<T>(&mut self, mut wanted: impl FnMut(Message<'_>) -> Option<T>) -> Option<T> {
        loop {
            let frame = self.next().await?;
            if let Some(found) = wanted(message(&frame)) {
                return Some(found);
            }
        }
    }

    /// Waits until the other side closes.
    pub async fn closed(&mut self) {
        while self.next().await.is_some() {}
    }
}

/// The message a frame is.
pub fn message(frame: &[u8]) -> Message<'_> {
    match Message::decode(frame, MAX_MESSAGE_LEN).unwrap() {
        Step::Message { message, .. } => message,
        Step::Need(_) => panic!("half a message"),
    }
}

/// Bytes in the buffers of a socket: sent and not acknowledged, received and not read.
struct Queued {
    sent: u64,
    received: u64,
}

/// The buffers of the connection between these IPv4 addresses, from `/proc/net/tcp` (Linux, "proc_net_tcp").
fn queued(local: SocketAddr, remote: SocketAddr) -> Queued {
    let hex = |addr: SocketAddr| {
        let SocketAddr::V4(addr) = addr else {
            panic!("{addr} is not IPv4")
        };
        let ip = u32::from_ne_bytes(addr.ip().octets());
        format!("{ip:08X}:{:04X}", addr.port())
    };
    let (local, remote) = (hex(local), hex(remote));
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let mut rows = table
        .lines()
        .map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let row = rows
        .find(|row| row[1] == local && row[2] == remote)
        .expect("the connection is open");
    let (sent, received) = row[4].split_once(':').unwrap();
    let number = |text| u64::from_str_radix(text, 16).unwrap();
    Queued {
        sent: number(sent),
        received: number(received),
    }
}
