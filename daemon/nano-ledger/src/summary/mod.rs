//! Summary of a ledger: network, tables and counts.

pub(crate) mod genesis;
pub(crate) mod scan;
pub(crate) mod succession;
pub(crate) mod weights;

use std::path::Path;

use crate::blocks::network::Network;
use crate::blocks::schema::{self, TELLTALE_TABLES};
use crate::lmdb::error::LedgerError;
use crate::lmdb::file::LedgerFile;
use crate::lmdb::tables::{Table, find};
use crate::summary::genesis::network;

/// One named table of a ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableSummary {
    /// Its name.
    pub name: String,
    /// Its number of entries.
    pub entries: u64,
}

/// Summary of a ledger: network, tables and counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerSummary {
    /// Bytes per LMDB page: what the operating system of the machine that made the file uses.
    pub page_size: u32,
    /// Bytes of the file.
    pub file_len: u64,
    /// Bytes from the start of the file to the end of the last page LMDB has given out. The file
    /// may be longer (reserved by the writer) or a little shorter (its last pages are free).
    pub used_len: u64,
    /// Number of the last transaction.
    pub txn: u64,
    /// The store version in the `meta` table: 24 for nodes V27 and V28.
    pub store_version: u32,
    /// The network.
    pub network: Network,
    /// All tables in order of their names.
    pub tables: Vec<TableSummary>,
    /// Blocks: the sum of the accounts' block counts, as the node's own count.
    pub blocks: u64,
    /// Cemented blocks: the sum of the confirmation heights.
    pub cemented: u64,
    /// Opened accounts.
    pub accounts: u64,
    /// Receivable sends.
    pub pending: u64,
}

/// Returns the tables of a file. It must have at least those of every ledger.
pub(crate) fn ledger_tables(file: &LedgerFile) -> Result<Vec<Table>, LedgerError> {
    let tables = file.tables()?;
    let missing: Vec<_> = TELLTALE_TABLES
        .iter()
        .filter(|name| find(&tables, name).is_none())
        .copied()
        .collect();
    if missing.is_empty() {
        return Ok(tables);
    }
    let detail = format!(
        "it is an LMDB file, but one without the tables of a ledger: {}",
        missing.join(", ")
    );
    Err(LedgerError::NotALedger {
        path: file.path().to_owned(),
        detail,
    })
}

/// The store version in `meta`; `None` when there is no such record.
pub(crate) fn store_version(
    file: &LedgerFile,
    tables: &[Table],
) -> Result<Option<u32>, LedgerError> {
    let Some(meta) = find(tables, "meta") else {
        return Ok(None);
    };
    let value = file.get(meta, &schema::VERSION_KEY)?;
    Ok(value.and_then(|value| schema::parse_version(&value)))
}

/// The counts in the roots of a ledger's tables; reading them takes milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerOutline {
    /// The network.
    pub network: Network,
    /// Blocks, with those that were pruned.
    pub blocks: u64,
}

/// Reads the outline of the ledger at `path`.
///
/// # Errors
///
/// [`LedgerError`] when the file is not a ledger, is damaged or cannot be read.
pub fn outline(path: &Path) -> Result<LedgerOutline, LedgerError> {
    let file = LedgerFile::open(path)?;
    let tables = ledger_tables(&file)?;
    let entries = |name| find(&tables, name).map_or(0, |table| table.tree.entries());
    Ok(LedgerOutline {
        network: network(&file, &tables)?,
        blocks: entries("blocks").saturating_add(entries("pruned")),
    })
}

/// Reads the summary of the ledger at `path`: roots of all tables, and a scan of the `accounts` and
/// `confirmation_height` tables (seconds to minutes on a live-network ledger).
///
/// # Errors
///
/// [`LedgerError::NotALedger`] when the file is not a ledger, [`LedgerError::Damaged`] and [`LedgerError::Record`] when it
/// contradicts itself.
pub fn summarize(path: &Path) -> Result<LedgerSummary, LedgerError> {
    let file = LedgerFile::open(path)?;
    let tables = ledger_tables(&file)?;
    let missing = |what: &str| LedgerError::NotALedger {
        path: path.to_owned(),
        detail: format!("it is an LMDB file, but one without {what}"),
    };
    let version = store_version(&file, &tables)?.ok_or_else(|| missing("a store version"))?;
    let accounts = find(&tables, "accounts").ok_or_else(|| missing("accounts"))?;
    let heights = find(&tables, "confirmation_height")
        .ok_or_else(|| missing("the table confirmation_height"))?;
    let scan = scan::scan_accounts::<LedgerError>(&file, accounts, heights, |_, _| Ok(()))?;
    let network = network(&file, &tables)?;
    Ok(LedgerSummary::new(&file, &tables, version, network, &scan))
}

impl LedgerSummary {
    pub(crate) fn new(
        file: &LedgerFile,
        tables: &[Table],
        store_version: u32,
        network: Network,
        scan: &scan::AccountScan,
    ) -> Self {
        Self {
            page_size: file.meta().page_size(),
            file_len: file.file_len(),
            used_len: file.meta().used_len(),
            txn: file.meta().txn(),
            store_version,
            network,
            tables: tables
                .iter()
                .map(|table| TableSummary {
                    name: table.name.clone(),
                    entries: table.tree.entries(),
                })
                .collect(),
            blocks: scan.blocks,
            cemented: scan.cemented,
            accounts: scan.accounts,
            pending: find(tables, "pending").map_or(0, |table| table.tree.entries()),
        }
    }
}
