//! What a ledger holds.

use std::path::Path;

use crate::error::LedgerError;

/// The network a ledger belongs to, told by its genesis block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// The live network.
    Live,
    /// A development network, or one this version does not know.
    Unknown,
}

/// One named database of a ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSummary {
    /// Its name.
    pub name: String,
    /// Its number of entries.
    pub entries: u64,
}

/// What a ledger holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerSummary {
    /// Bytes per LMDB page.
    pub page_size: u32,
    /// Bytes of the file.
    pub file_len: u64,
    /// Bytes of the file that LMDB has given out.
    pub used_len: u64,
    /// The store version in the `meta` table.
    pub store_version: u32,
    /// The network.
    pub network: Network,
    /// All tables in order of their names.
    pub tables: Vec<TableSummary>,
    /// Blocks: the sum of the accounts' block counts.
    pub blocks: u64,
    /// Cemented blocks: the sum of the confirmation heights.
    pub cemented: u64,
    /// Opened accounts.
    pub accounts: u64,
    /// Receivable sends.
    pub pending: u64,
}

/// Reads what the ledger at `path` holds.
pub fn summarize(_path: &Path) -> Result<LedgerSummary, LedgerError> {
    unimplemented!()
}
