//! Why a connection ended.

use std::io;
use std::time::Duration;

use bittorrent_protocol::wire::{MetadataError, PexError, WireError};

use crate::disk::DiskError;

/// A connection ended, other than because we closed it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    #[error("the peer closed the connection")]
    Closed,
    #[error("the connection broke")]
    Socket(#[source] io::Error),
    #[error("the peer breaks the framing of messages")]
    Wire(#[source] WireError),
    #[error("the peer sends broken metadata messages")]
    Metadata(#[source] MetadataError),
    #[error("the peer sends broken peer exchange messages")]
    Exchange(#[source] PexError),
    #[error("the peer sent {length} bytes from byte {begin} of piece {index}, which is no block")]
    NoBlock { index: u32, begin: u32, length: u32 },
    #[error("the peer sends hash messages on a v1 connection")]
    HashesOnV1,
    #[error("the peer was silent for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the peer does not read: {0} bytes wait for it")]
    NotReading(usize),
    #[error("the rest of a block that is half sent cannot be read")]
    Torn(#[source] DiskError),
    #[error("the peer sent {0} requests in a row that it may not send")]
    Requests(usize),
}
