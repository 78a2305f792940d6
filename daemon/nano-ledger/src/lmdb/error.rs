//! Why a file cannot be read as a ledger.

use std::io;
use std::path::PathBuf;

use super::page::PageFault;

/// Why a file could not be read as a ledger.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The file could not be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
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
        /// The error of the operating system.
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
    #[error("{} is damaged in {tree}; get another copy", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The table or list.
        tree: String,
        /// The contradiction and its page.
        #[source]
        source: PageFault,
    },
    /// A row has other sizes than the node writes.
    #[error(
        "{} is damaged or of an unknown version: row {key} of {table} has {}+{} bytes, expected {}+{}",
        path.display(), found.0, found.1, expected.0, expected.1
    )]
    Record {
        /// The file.
        path: PathBuf,
        /// The table.
        table: String,
        /// The row's key in hexadecimal, or its start.
        key: String,
        /// Bytes of key and value.
        found: (usize, usize),
        /// Bytes they must have.
        expected: (usize, usize),
    },
}
