//! Why a connection ended.

use std::io;
use std::time::Duration;

use bittorrent_protocol::wire::{MetadataError, PexError, WireError};

use crate::disk::DiskError;

/// Why a connection ended, unless we closed it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    #[error("the peer closed the connection")]
    Closed,
    #[error("the connection broke")]
    Socket(#[source] io::Error),
    #[error("the peer sent a malformed message")]
    Wire(#[source] WireError),
    #[error("the peer sent a malformed metadata message")]
    Metadata(#[source] MetadataError),
    #[error("the peer sent a malformed peer exchange message")]
    Exchange(#[source] PexError),
    #[error("the peer sent {length} bytes from byte {begin} of piece {index}, which is no block")]
    NoBlock { index: u32, begin: u32, length: u32 },
    #[error("the peer sent a hash message on a v1 connection")]
    HashesOnV1,
    #[error("the peer sent nothing for {} s", .0.as_secs())]
    Silent(Duration),
    #[error("the peer does not read: {0} bytes wait for it")]
    NotReading(usize),
    #[error("cannot read the rest of a block that was partly sent")]
    Torn(#[source] DiskError),
    #[error("the peer sent {0} invalid requests in a row")]
    Requests(usize),
}
