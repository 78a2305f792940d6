//! What a torrent is doing.

use std::sync::Arc;

use bittorrent_engine::{PeerStatus, StopReason};
use bittorrent_protocol::InfoHashV2;
use bittorrent_protocol::metainfo::InfoError;

use crate::disk::DiskError;
use crate::transport::handshake::Encryption;

/// Why a torrent stopped. It stays stopped until it is removed and added again.
#[derive(Debug, thiserror::Error)]
pub enum TorrentError {
    /// The info dictionary has the right hash, yet describes nothing we can take.
    #[error("the metadata is not usable")]
    Metadata(#[source] InfoError),
    /// The disk did not take or give what it should.
    #[error("{doing} failed")]
    Disk {
        /// What was tried.
        doing: &'static str,
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The engine found that going on makes no sense.
    #[error("{0}")]
    Engine(StopReason),
}

impl TorrentError {
    pub(crate) fn disk(doing: &'static str, error: DiskError) -> Self {
        Self::Disk {
            doing,
            source: Box::new(error),
        }
    }
}

/// What a torrent is doing.
#[derive(Debug, Clone, Default)]
pub enum Phase {
    /// The info dictionary is being looked for, or the torrent waits for
    /// [`attach`](crate::TorrentHandle::attach).
    #[default]
    Metadata,
    /// Blocks are missing, or the last ones are not durable yet.
    Downloading,
    /// Everything is verified, durable and sealed.
    Seeding,
    /// It does nothing any more.
    Stopped(Arc<TorrentError>),
}

impl Phase {
    /// Whether everything is there, durable.
    pub const fn is_seeding(&self) -> bool {
        matches!(self, Self::Seeding)
    }

    /// Why the torrent stopped, if it did.
    pub const fn error(&self) -> Option<&Arc<TorrentError>> {
        match self {
            Self::Stopped(error) => Some(error),
            Self::Metadata | Self::Downloading | Self::Seeding => None,
        }
    }
}

/// A torrent at a moment; at most about a second old.
#[derive(Debug, Clone, Default)]
pub struct TorrentStatus {
    /// What it is doing.
    pub phase: Phase,
    /// The greatest length of an info dictionary that a peer offered and that was refused as too long, bytes.
    pub refused_metadata: Option<u32>,
    /// Bytes of content; 0 while the metadata is unknown.
    pub bytes_total: u64,
    /// Bytes of content that are written and proven; durable from the next checkpoint on.
    pub bytes_verified: u64,
    /// Bytes of content that were found in what is held already, and proven, since the torrent was
    /// added.
    pub bytes_reused: u64,
    /// Bytes of content that peers sent, written and proven, since the torrent was added.
    pub bytes_fetched: u64,
    /// Bytes of content that peers have to send: neither verified nor still looked for in what is
    /// held already. An upper bound at the ends of files.
    pub bytes_to_fetch: u64,
    /// Pieces; 0 while the metadata is unknown.
    pub pieces_total: u32,
    /// Pieces that are verified as a whole.
    pub pieces_verified: u32,
    /// Payload bytes received since the torrent was added, wasted ones included.
    pub downloaded_payload: u64,
    /// Payload bytes sent since the torrent was added.
    pub uploaded_payload: u64,
    /// Payload bytes received in vain: duplicate, false or unasked.
    pub wasted: u64,
    /// Bytes of hashes received.
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
    /// Addresses banned for what they sent, ever.
    pub banned: u64,
}

/// A connection at a moment.
#[derive(Debug, Clone)]
pub struct Peer {
    /// What is exchanged over it.
    pub status: PeerStatus,
    /// How it is hidden from who looks for the protocol.
    pub encryption: Encryption,
}

/// How a session ended.
#[derive(Debug, Clone, Default)]
pub struct ShutdownReport {
    /// Connections that were open.
    pub connections: usize,
    /// Tasks that were joined: connections, dials, acceptors and the driver.
    pub tasks: usize,
    /// Threads that were joined.
    pub threads: usize,
    /// Torrents whose state was made durable.
    pub torrents: usize,
    /// Torrents that had stopped, or whose state could not be made durable.
    pub failures: Vec<(InfoHashV2, Arc<TorrentError>)>,
}
