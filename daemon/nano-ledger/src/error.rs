//! What can go wrong, by operation.

use std::io;
use std::path::PathBuf;

/// Why a file could not be read as a ledger.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file could not be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// The file could not be read.
    #[error("cannot read {} at byte {offset}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// First byte of the failed read.
        offset: u64,
        /// What the system answered.
        #[source]
        source: io::Error,
    },
    /// The file is not an LMDB file as a Nano node writes it.
    #[error("{} is not a Nano ledger: {detail}; give the path of a node's data.ldb, unpacked", path.display())]
    NotALedger {
        /// The file.
        path: PathBuf,
        /// What was found instead.
        detail: String,
    },
    /// The file starts as a ledger does, but its pages contradict each other.
    #[error("{} is damaged: {detail}; get another copy", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found where.
        detail: String,
    },
}

/// Why a node's live ledger could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no such file.
    #[error("no ledger at {}", path.display())]
    NotFound {
        /// The file.
        path: PathBuf,
    },
}

/// Why copying a live ledger failed.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The reading end of the pipe was closed.
    #[error("the reader of the copy went away")]
    ReaderGone,
}
