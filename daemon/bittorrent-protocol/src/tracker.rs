//! What is said to trackers and what they answer: over HTTP (BEP 3, BEP 7, BEP 23) and over UDP
//! (BEP 15).

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

/// Addresses taken from one answer; what is behind them is left out.
pub const MAX_PEERS: usize = 1_000;

/// A tracker's words, safe to print.
fn printable(reason: &[u8]) -> String {
    Printable(String::from_utf8_lossy(reason)).to_string()
}

/// Why we announce ourselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AnnounceEvent {
    /// It is time to.
    #[default]
    Regular,
    /// For the first time.
    Started,
    /// We have everything, having been without something before.
    Completed,
    /// For the last time.
    Stopped,
}

/// What we tell a tracker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announce {
    /// The swarm: a v1 info-hash or a truncated v2 one (BEP 52).
    pub swarm: SwarmHash,
    /// Our peer id.
    pub peer_id: PeerId,
    /// Where we listen.
    pub port: u16,
    /// Bytes sent to peers.
    pub uploaded: u64,
    /// Bytes received from peers.
    pub downloaded: u64,
    /// Bytes still missing.
    pub left: u64,
    /// Why.
    pub event: AnnounceEvent,
    /// Tells us from others at the same address.
    pub key: u32,
    /// How many peers to name.
    pub want: u16,
    /// Whether connections with us may be encrypted; there is no word for it over UDP.
    pub crypto: Crypto,
}

/// What a tracker is told about encrypted connections (Vuze wiki, "Message Stream Encryption"), so that
/// it can name peers that fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Crypto {
    /// We turn them away.
    #[default]
    None,
    /// We take them: `supportcrypto`.
    Supported,
    /// We take no others: `requirecrypto`.
    Required,
}

/// What a tracker answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// When to come again; nothing about it has been checked.
    pub interval: Duration,
    /// Addresses of peers; at most [`MAX_PEERS`], nothing about them has been checked.
    pub peers: Vec<SocketAddr>,
}
