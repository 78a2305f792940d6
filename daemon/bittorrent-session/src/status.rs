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
    /// The info dictionary has the right hash but cannot be used.
    #[error("the metadata is not usable")]
    Metadata(#[source] InfoError),
    /// A disk operation failed.
    #[error("{doing} failed")]
    Disk {
        /// The operation.
        doing: &'static str,
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The engine stopped the torrent.
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
    /// The info dictionary is unknown, or the torrent waits for
    /// [`attach`](crate::TorrentHandle::attach).
    #[default]
    Metadata,
    /// Blocks are missing, or the last ones are not durable yet.
    Downloading,
    /// Everything is verified, durable and sealed.
    Seeding,
    /// The torrent has stopped for this reason.
    Stopped(Arc<TorrentError>),
}

impl Phase {
    /// Returns whether all content is verified, durable and sealed.
    pub const fn is_seeding(&self) -> bool {
        matches!(self, Self::Seeding)
    }

    /// Returns why the torrent stopped, if it did.
    pub const fn error(&self) -> Option<&Arc<TorrentError>> {
        match self {
            Self::Stopped(error) => Some(error),
            Self::Metadata | Self::Downloading | Self::Seeding => None,
        }
    }
}

/// The status of a torrent, at most about a second old.
#[derive(Debug, Clone, Default)]
pub struct TorrentStatus {
    /// What the torrent is doing.
    pub phase: Phase,
    /// The greatest length of an info dictionary that a peer offered and that was refused as too long, bytes.
    pub refused_metadata: Option<u32>,
    /// Bytes of content; 0 while the metadata is unknown.
    pub bytes_total: u64,
    /// Bytes of content that are written and verified. The next checkpoint makes them durable.
    pub bytes_verified: u64,
    /// Bytes of content that were found in local snapshots and verified, since the torrent was
    /// added.
    pub bytes_reused: u64,
    /// Bytes of content that peers sent and that were verified, since the torrent was added.
    pub bytes_fetched: u64,
    /// Bytes of content still to be requested from peers: neither verified nor still searched for
    /// in local snapshots. An upper bound at the ends of files.
    pub bytes_to_fetch: u64,
    /// Pieces; 0 while the metadata is unknown.
    pub pieces_total: u32,
    /// Pieces that are verified as a whole.
    pub pieces_verified: u32,
    /// Payload bytes received since the torrent was added, wasted ones included.
    pub downloaded_payload: u64,
    /// Payload bytes sent since the torrent was added.
    pub uploaded_payload: u64,
    /// Payload bytes received and discarded: duplicate, false or not requested.
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

/// The status of a connection.
#[derive(Debug, Clone)]
pub struct Peer {
    /// The engine's view of it.
    pub status: PeerStatus,
    /// How it is encrypted.
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
