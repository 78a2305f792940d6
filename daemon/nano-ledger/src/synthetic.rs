//! Genuine LMDB ledgers with invented content, for demonstrations and tests.

use std::path::Path;

/// What to generate.
#[derive(Debug, Clone)]
pub struct Options {
    /// The same seed makes the same content.
    pub seed: u64,
    /// Bytes the file should have, about.
    pub target_len: u64,
}

/// Why a synthetic ledger could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SyntheticError {
    /// LMDB refused.
    #[error("LMDB failed to {action}")]
    Lmdb {
        /// What was tried.
        action: &'static str,
        /// Its answer.
        #[source]
        source: heed::Error,
    },
}

/// Makes a ledger at `path`.
pub fn create(_path: &Path, _options: &Options) -> Result<(), SyntheticError> {
    unimplemented!()
}

/// Appends `blocks` blocks in transactions of `per_txn`, in place.
pub fn add_day(_path: &Path, _blocks: u64, _per_txn: u32) -> Result<(), SyntheticError> {
    unimplemented!()
}
