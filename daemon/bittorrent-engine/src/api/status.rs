//! Numbers about torrents and peers.

use std::net::SocketAddr;

use crate::api::input::{Direction, Link};
use crate::api::keys::PeerKey;
use crate::api::output::StopReason;

/// What a torrent is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TorrentPhase {
    /// The info dictionary is being requested from peers.
    Metadata,
    /// Blocks are missing.
    Downloading,
    /// Every block is verified.
    Seeding,
    /// It requests nothing.
    Stopped(StopReason),
}

/// A torrent at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TorrentStatus {
    /// What it is doing.
    pub phase: TorrentPhase,
    /// The greatest length of an info dictionary that a peer offered and that was refused, as it is more than
    /// [`Config::max_metadata_len`](crate::Config::max_metadata_len). Bytes.
    pub refused_metadata: Option<u32>,
    /// Bytes of content; 0 while the metadata is unknown.
    pub bytes_total: u64,
    /// Bytes of content that are written and proven.
    pub bytes_verified: u64,
    /// Bytes of content that were found in older content, and proven, since the torrent was added.
    pub bytes_reused: u64,
    /// Bytes of content that peers sent, written and proven, since the torrent was added.
    pub bytes_fetched: u64,
    /// Bytes of content that peers have to send: neither verified nor still looked up in older content.
    /// An upper bound at the ends of files.
    pub bytes_to_fetch: u64,
    /// Pieces; 0 while the metadata is unknown.
    pub pieces_total: u32,
    /// Pieces that are verified as a whole.
    pub pieces_verified: u32,
    /// Payload bytes received since the torrent was added, wasted ones included.
    pub downloaded: u64,
    /// Payload bytes reported by `handle_uploaded`.
    pub uploaded: u64,
    /// Payload bytes that were wasted: duplicate, false or not requested.
    pub wasted: u64,
    /// Bytes of messages with hashes received.
    pub hash_bytes: u64,
    /// Payload bytes a second, received.
    pub down_rate: u64,
    /// Payload bytes a second, sent.
    pub up_rate: u64,
    /// Connections.
    pub peers: usize,
    /// Connections to peers that have everything.
    pub seeds: usize,
    /// Addresses known.
    pub candidates: usize,
    /// Dials under way.
    pub dialling: usize,
    /// Addresses banned for what they sent for this torrent, ever.
    pub banned: u64,
}

/// A connection at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its key.
    pub key: PeerKey,
    /// Its remote end.
    pub addr: SocketAddr,
    /// Who opened it.
    pub direction: Direction,
    /// The info-hash in use.
    pub link: Link,
    /// On this machine or in this network.
    pub local: bool,
    /// What the peer calls its software.
    pub client: Option<String>,
    /// Pieces it has.
    pub pieces: u32,
    /// It has everything.
    pub seed: bool,
    /// It wants something from us.
    pub interested: bool,
    /// It chokes us.
    pub choking_us: bool,
    /// We choke it.
    pub choked: bool,
    /// Payload bytes received from it.
    pub downloaded: u64,
    /// Payload bytes sent to it.
    pub uploaded: u64,
    /// Payload bytes a second from it.
    pub down_rate: u64,
    /// Payload bytes a second to it.
    pub up_rate: u64,
}
