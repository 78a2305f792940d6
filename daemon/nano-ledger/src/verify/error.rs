//! Why a verification has no result.

use crate::blocks::sort::SortError;
use crate::lmdb::error::LedgerError;

/// Why a verification has no result.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The file could not be read, or is not a ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The caller asked to stop.
    #[error("the verification was stopped")]
    Cancelled,
    /// Blocks could not be sorted on disk. Only [`Level::L3`](super::Level::L3) sorts: it needs at most some 220
    /// bytes a block beyond the memory it may use.
    #[error(transparent)]
    Sort(#[from] SortError),
}
