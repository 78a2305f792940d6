//! The errors of a store.

use std::io;
use std::path::{Path, PathBuf};

use bittorrent_protocol::metainfo::{BuildError, LayerError, MetainfoError};
use bittorrent_protocol::{BlockIndex, InfoHashV2, PieceIndex};
use rustix::io::Errno;

/// An operation on the local disk failed; no peer caused it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file exists, or may exist, and could not be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// A file could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// A file could not be written to.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// A file could not be created.
    #[error("cannot create {}", path.display())]
    Create {
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// A directory could not be created.
    #[error("cannot create the directory {}", path.display())]
    CreateDirectory {
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// A file or a directory could not be made durable.
    #[error("cannot sync {}", path.display())]
    Sync {
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// A file could not be renamed to this path.
    #[error("cannot rename a file to {}", path.display())]
    Rename {
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// A file could not be removed.
    #[error("cannot remove {}", path.display())]
    Remove {
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// Length and times of a file could not be read.
    #[error("cannot inspect {}", path.display())]
    Inspect {
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// A directory could not be listed.
    #[error("cannot list {}", path.display())]
    List {
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// A new file could not be made a clone (reflink) of another one.
    #[error("cannot clone another file to {}", path.display())]
    Clone {
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The length of a file could not be changed.
    #[error("cannot set the length of {}", path.display())]
    SetLength {
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// A file could not be made read-only.
    #[error("cannot make read-only: {}", path.display())]
    Seal {
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// A file could not be emptied.
    #[error("cannot empty {}", path.display())]
    Empty {
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// `snapshot.torrent` cannot be parsed. Removing the directory lets the snapshot be fetched again.
    #[error("{} is damaged; remove the directory to fetch it again", path.display())]
    Torrent {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<MetainfoError>,
    },
    /// `snapshot.torrent` is another torrent than the expected one: it was damaged in a way that still
    /// parses, or it was replaced.
    #[error(
        "{} is damaged: its info-hash is {found}, not {expected}; remove the directory to fetch it \
         again",
        path.display()
    )]
    OtherTorrent {
        /// The file.
        path: PathBuf,
        /// The info-hash that the caller expected.
        expected: InfoHashV2,
        /// The info-hash of the torrent in the file.
        found: InfoHashV2,
    },
    /// The directory has a generation already.
    #[error("{} already contains a torrent", path.display())]
    Exists {
        /// Its directory.
        path: PathBuf,
    },
    /// A content file was replaced by another file while the generation was open. Opening it again finds
    /// out which blocks are good.
    #[error("{} was replaced by another file while it was in use", path.display())]
    Replaced {
        /// The file.
        path: PathBuf,
    },
    /// A content file is missing, or another program changed it after it was complete.
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
        /// The length of the file.
        length: u64,
        /// The piece that the caller wanted to read.
        piece: PieceIndex,
    },
    /// The caller passed a block of the wrong length, which is a bug of the caller.
    #[error("block {block} has {expected} bytes, not {found}")]
    BlockLength {
        /// The block.
        block: BlockIndex,
        /// The length of the block.
        expected: u32,
        /// The number of bytes passed.
        found: usize,
    },
    /// The caller passed leaves of blocks that do not exist, which is a bug of the caller.
    #[error("piece {piece} has no {count} blocks from block {first_block} on")]
    NoSuchBlocks {
        /// The piece.
        piece: PieceIndex,
        /// The first block.
        first_block: u16,
        /// The number of leaves passed.
        count: usize,
    },
    /// A piece layer belongs to another file.
    #[error("the piece layer does not fit the file")]
    Layer(#[source] Box<LayerError>),
    /// The disk lost what was written since the last checkpoint. All of it counts as missing again.
    #[error("the disk lost {} blocks written since the last checkpoint", lost.len())]
    SyncFailed {
        /// The blocks that are missing again.
        lost: Vec<BlockIndex>,
        /// The operation that failed.
        #[source]
        source: Box<StoreError>,
    },
    /// A block to be marked as verified was lost by the disk after it was written. It may still be readable
    /// from the page cache, but has to be written again.
    #[error("block {block} was lost by the disk and has to be written again")]
    Lost {
        /// The first such block.
        block: BlockIndex,
    },
    /// The generation cannot be sealed, because blocks are missing.
    #[error("{missing} blocks are missing")]
    Incomplete {
        /// The number of missing blocks.
        missing: u64,
    },
    /// No torrent can be made of the content.
    #[error("no torrent can be made of the content")]
    Build(#[source] Box<BuildError>),
    /// A file of a new torrent has an invalid name, or one that could lead out of its directory.
    #[error("{name:?} cannot be a file name in a torrent")]
    FileName {
        /// The component of the path.
        name: String,
    },
    /// The content to be hashed could not be read.
    #[error("cannot read the content to be hashed")]
    Source {
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// A draft has another number of files than announced, which is a bug of the caller.
    #[error("{announced} files were announced and {added} added")]
    FileCount {
        /// The number announced.
        announced: usize,
        /// The number added.
        added: usize,
    },
    /// The caller asked to stop.
    #[error("stopped on request")]
    Cancelled,
}

macro_rules! operations {
    ($($name:ident),* $(,)?) => {
        /// An operation on a file or directory that can fail: each has its variant of [`StoreError`].
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Operation {
            $($name,)*
        }

        impl Operation {
            fn failed(self, path: PathBuf, source: io::Error) -> StoreError {
                match self {
                    $(Self::$name => StoreError::$name { path, source },)*
                }
            }
        }

        impl StoreError {
            /// Returns the error of the operating system, if one is the cause.
            fn io_error(&self) -> Option<&io::Error> {
                match self {
                    $(Self::$name { source, .. } => Some(source),)*
                    Self::Source { source } => Some(source),
                    Self::SyncFailed { source, .. } => source.io_error(),
                    _ => None,
                }
            }
        }
    };
}

operations! {
    Open, Read, Write, Create, CreateDirectory, Sync, Rename, Remove, Inspect, List, Clone, SetLength, Seal, Empty
}

impl StoreError {
    pub(crate) fn io(operation: Operation, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| operation.failed(path.to_owned(), source)
    }

    /// Returns whether the file system, or the owner's quota, is full: waiting or freeing space helps.
    pub fn is_out_of_space(&self) -> bool {
        self.io_error().is_some_and(is_out_of_space)
    }

    /// Returns whether the process or the system had no file descriptor left (`EMFILE`, `ENFILE`). The
    /// files are as good as before: trying again later helps.
    pub fn is_busy(&self) -> bool {
        let errno = self.io_error().and_then(Errno::from_io_error);
        matches!(errno, Some(Errno::MFILE | Errno::NFILE))
    }
}

/// Returns whether an operation failed because the file system, or the owner's quota, is full.
pub(crate) fn is_out_of_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exhausted_process_is_busy_below_other_errors_too() {
        for (errno, busy) in [
            (Errno::MFILE, true),
            (Errno::NFILE, true),
            (Errno::IO, false),
        ] {
            let open = StoreError::Open {
                path: "content".into(),
                source: errno.into(),
            };
            assert_eq!(open.is_busy(), busy, "{errno}");
            let sync = StoreError::SyncFailed {
                lost: Vec::new(),
                source: Box::new(open),
            };
            assert_eq!(sync.is_busy(), busy, "{errno}");
        }
    }
}
