//! A DHT node that answers each look-up of an item with a configured answer.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The fields of an answer, none of which need belong together.
#[derive(Debug, Clone)]
pub struct Answer {
    pub key: [u8; 32],
    pub seq: i64,
    pub signature: [u8; 64],
    pub value: Vec<u8>,
}

/// Stops when dropped.
pub struct HostileNode {
    pub address: SocketAddr,
    answered: Arc<AtomicU32>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl HostileNode {
    pub fn start(answer: Answer) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        let answered = Arc::new(AtomicU32::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (answered, stop) = (answered.clone(), stop.clone());
            std::thread::spawn(move || {
                let mut buffer = [0; 2048];
                while !stop.load(Ordering::Relaxed) {
                    let Ok((len, from)) = socket.recv_from(&mut buffer) else {
                        continue;
                    };
                    if let Some((reply, is_item)) = reply(&buffer[..len], &answer) {
                        answered.fetch_add(u32::from(is_item), Ordering::Relaxed);
                        socket.send_to(&reply, from).unwrap();
                    }
                }
            })
        };
        Self {
            address,
            answered,
            stop,
            thread: Some(thread),
        }
    }

    /// How often the answer was given.
    pub fn answered(&self) -> u32 {
        self.answered.load(Ordering::Relaxed)
    }
}

impl Drop for HostileNode {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// The reply to a query (BEP 5, "KRPC Protocol"), and whether it carries the item.
fn reply(query: &[u8], answer: &Answer) -> Option<(Vec<u8>, bool)> {
    let after = |mark: &[u8]| {
        query
            .windows(mark.len())
            .position(|window| window == mark)
            .map(|at| &query[at + mark.len()..])
    };
    after(b"1:y1:q")?;
    let transaction = after(b"1:t4:")?.get(..4)?;
    let is_item = after(b"1:q3:get").is_some();
    let mut reply = b"d1:rd2:id20:hostilehostilehostil".to_vec();
    if is_item {
        reply.extend_from_slice(b"1:k32:");
        reply.extend_from_slice(&answer.key);
        reply.extend_from_slice(format!("3:seqi{}e3:sig64:", answer.seq).as_bytes());
        reply.extend_from_slice(&answer.signature);
        reply.extend_from_slice(format!("5:token4:aaaa1:v{}:", answer.value.len()).as_bytes());
        reply.extend_from_slice(&answer.value);
    }
    reply.extend_from_slice(b"e1:t4:");
    reply.extend_from_slice(transaction);
    reply.extend_from_slice(b"1:y1:re");
    Some((reply, is_item))
}
