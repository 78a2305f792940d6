//! Genuine LMDB ledgers with invented content, for demonstrations and tests.
//!
//! They have the tables, record sizes and byte orders of store version 24, pass [`verify`] up to
//! [`Level::L1`] and the sums of [`Level::L2`] (not its sample), and change from day to day as a node's file does: blocks have random hashes and go
//! to random accounts, so a day touches pages all over the file, in place and without compaction.
//! Signatures, work and hashes are random bytes; the network is none that is known.
//!
//! [`verify`]: crate::verify
//! [`Level::L1`]: crate::Level::L1
//! [`Level::L2`]: crate::Level::L2

mod day;
mod generate;
mod rows;
mod store;
mod writer;

use std::io;
use std::path::{Path, PathBuf};

use store::Store;
pub use writer::{LiveWriter, write_while};

/// What to generate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The same seed and target make the same file.
    pub seed: u64,
    /// Bytes the file shall have, within about a tenth; at least some 200 KiB. Generating takes about
    /// 40 bytes of memory per 600 bytes of this.
    pub target_len: u64,
}

/// Why a synthetic ledger could not be made or added to.
#[derive(Debug, thiserror::Error)]
pub enum SyntheticError {
    /// A new ledger never replaces a file.
    #[error("{} exists already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// LMDB failed.
    #[error("LMDB failed to {action}")]
    Lmdb {
        /// What was tried.
        action: &'static str,
        /// Its answer.
        #[source]
        source: heed::Error,
    },
    /// A row to be updated is not as a node or this module writes it.
    #[error("a row of table {table} is not as expected")]
    Row {
        /// The table.
        table: &'static str,
    },
    /// The ledger has no accounts to continue from.
    #[error("the ledger has no accounts")]
    Empty,
    /// The writing thread could not be started.
    #[error("cannot start the writing thread")]
    Thread {
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
}

/// Makes a ledger at `path`, where there must be no file, and syncs it to disk. LMDB leaves its lock
/// file beside it.
///
/// # Errors
///
/// [`SyntheticError`]; an unfinished file may be left.
pub fn create(path: &Path, options: &Options) -> Result<(), SyntheticError> {
    if path.exists() {
        return Err(SyntheticError::Exists {
            path: path.to_owned(),
        });
    }
    let store = Store::open(path)?;
    generate::fill(&store, options)?;
    store.sync()
}

/// Adds a day of `blocks` blocks to the ledger at `path` in place, `per_txn` (at least 1) in each
/// transaction, and syncs it to disk. Works on copies of a node's own ledgers, too.
///
/// The same ledger gets the same day. Run days of different lengths for different days.
///
/// # Errors
///
/// [`SyntheticError`]; transactions already committed stay.
pub fn add_day(path: &Path, blocks: u64, per_txn: u32) -> Result<(), SyntheticError> {
    let store = Store::open(path)?;
    let mut day = day::Day::begin(&store)?;
    let mut left = blocks;
    while left > 0 {
        let count = left.min(u64::from(per_txn.max(1)));
        day.commit_blocks(count)?;
        left -= count;
    }
    store.sync()
}
