//! Announces to trackers and their answers, over HTTP (BEP 3, BEP 7, BEP 23) and UDP (BEP 15).

mod http;
mod udp;

use std::net::SocketAddr;
use std::time::Duration;

use crate::{PeerId, Printable, SwarmHash};

pub use http::{ResponseError, decode_response, query};
pub use udp::{
    CONNECT_REQUEST_LEN, ConnectionId, MAX_REPLY_LEN, Reply, ReplyError, TransactionId,
    encode_announce, encode_connect,
};

/// The most addresses taken from one answer; further ones are ignored.
pub const MAX_PEERS: usize = 1_000;

/// A message of a tracker, safe to print.
fn printable(reason: &[u8]) -> String {
    Printable(String::from_utf8_lossy(reason)).to_string()
}

/// The event of an announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AnnounceEvent {
    /// None: a regular announce.
    #[default]
    Regular,
    /// The first announce.
    Started,
    /// The download has completed.
    Completed,
    /// The last announce.
    Stopped,
}

/// An announce to a tracker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announce {
    /// The swarm: a v1 info-hash or a truncated v2 one (BEP 52).
    pub swarm: SwarmHash,
    /// This client's peer id.
    pub peer_id: PeerId,
    /// The listening port.
    pub port: u16,
    /// Bytes sent to peers.
    pub uploaded: u64,
    /// Bytes received from peers.
    pub downloaded: u64,
    /// Bytes still missing.
    pub left: u64,
    /// The event.
    pub event: AnnounceEvent,
    /// A key that distinguishes clients at the same address.
    pub key: u32,
    /// The number of peers requested.
    pub want: u16,
    /// Whether connections may be encrypted; not sent over UDP.
    pub crypto: Crypto,
}

/// The support for encrypted connections, sent to trackers so that they return matching peers (Vuze
/// wiki, "Message Stream Encryption").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Crypto {
    /// Encrypted connections are refused.
    #[default]
    None,
    /// Encrypted connections are accepted: `supportcrypto`.
    Supported,
    /// Only encrypted connections are accepted: `requirecrypto`.
    Required,
}

/// The answer of a tracker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// The interval to the next announce; unchecked.
    pub interval: Duration,
    /// Addresses of peers; at most [`MAX_PEERS`]. Unchecked.
    pub peers: Vec<SocketAddr>,
}
