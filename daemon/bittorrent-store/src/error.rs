//! What can go wrong on the disk.

use std::io;
use std::path::{Path, PathBuf};

use bittorrent_protocol::metainfo::{BuildError, LayerError, MetainfoError};
use bittorrent_protocol::{BlockIndex, InfoHashV2, PieceIndex};

/// Something on our disk went wrong; no peer is to blame.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file or directory operation failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// `snapshot.torrent` is no torrent. The generation cannot be used; removing its directory
    /// fetches it again.
    #[error("{} is damaged; remove the directory to fetch it again", path.display())]
    Torrent {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<MetainfoError>,
    },
    /// `snapshot.torrent` is a torrent, and not the one that was asked for: it rotted in a place that
    /// still parses, or it was exchanged.
    #[error(
        "{} is damaged: its info-hash is {found}, not {expected}; remove the directory to fetch it \
         again",
        path.display()
    )]
    OtherTorrent {
        /// The file.
        path: PathBuf,
        /// The info-hash that the caller asked for.
        expected: InfoHashV2,
        /// The info-hash of what the file holds.
        found: InfoHashV2,
    },
    /// A generation was to be made where there is one.
    #[error("{} holds a generation already", path.display())]
    Exists {
        /// Its directory.
        path: PathBuf,
    },
    /// A content file is another one than when the generation was taken up. Taking it up again finds out
    /// what is good.
    #[error("{} was replaced by another file meanwhile", path.display())]
    Replaced {
        /// The file.
        path: PathBuf,
    },
    /// A content file is missing, or another program changed it since it was complete.
    #[error("{} is missing or was changed by another program", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A file ends before its content does.
    #[error("{} ends at byte {length}, before piece {piece} does", path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Where it ends.
        length: u64,
        /// The piece that was to be read.
        piece: PieceIndex,
    },
    /// A block was given with another length than it has: a bug of the caller.
    #[error("block {block} has {expected} bytes, not {found}")]
    BlockLength {
        /// The block.
        block: BlockIndex,
        /// Its length.
        expected: u32,
        /// What was given.
        found: usize,
    },
    /// Leaves were given for blocks that do not exist: a bug of the caller.
    #[error("piece {piece} has no {count} blocks from block {first_block} on")]
    NoSuchBlocks {
        /// The piece.
        piece: PieceIndex,
        /// The first block.
        first_block: u16,
        /// How many leaves there were.
        count: usize,
    },
    /// A piece layer belongs to another file.
    #[error("the piece layer does not fit the file")]
    Layer(#[source] Box<LayerError>),
    /// The disk lost what was written since the last checkpoint: all of it counts as missing again.
    #[error("the disk failed to keep {} blocks written since the last checkpoint", lost.len())]
    SyncFailed {
        /// The blocks that are missing again.
        lost: Vec<BlockIndex>,
        /// What the disk said.
        #[source]
        source: Box<StoreError>,
    },
    /// A block is said to be verified that the disk has lost since it was written: it may still be
    /// read, but only until its memory is needed. It has to be written again.
    #[error("block {block} was lost by the disk and has to be written again")]
    Lost {
        /// The first such block.
        block: BlockIndex,
    },
    /// Sealing was asked for before everything was there.
    #[error("{missing} blocks are missing")]
    Incomplete {
        /// How many.
        missing: u64,
    },
    /// The content makes no torrent.
    #[error("the content makes no usable torrent")]
    Build(#[source] Box<BuildError>),
    /// A file of a new torrent has a name that could leave its directory or that is no name.
    #[error("{name:?} cannot be a file name in a torrent")]
    FileName {
        /// The component of the path.
        name: String,
    },
    /// What was to be hashed could not be read.
    #[error("cannot read the content to be hashed")]
    Source {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A draft has another number of files than was announced: a bug of the caller.
    #[error("{announced} files were announced and {added} added")]
    FileCount {
        /// How many were announced.
        announced: usize,
        /// How many were added.
        added: usize,
    },
    /// The caller asked to stop.
    #[error("stopped on request")]
    Cancelled,
}

impl StoreError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }

    /// Whether the file system, or the owner's quota, is full: waiting or making room helps.
    pub fn is_out_of_space(&self) -> bool {
        match self {
            Self::Io { source, .. } => is_out_of_space(source),
            Self::SyncFailed { source, .. } => source.is_out_of_space(),
            _ => false,
        }
    }
}

/// Whether an operation failed because the file system, or the owner's quota, is full.
pub(crate) fn is_out_of_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
