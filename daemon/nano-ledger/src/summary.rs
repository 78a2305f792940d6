//! What a ledger holds.

use std::fmt;
use std::path::Path;

use crate::block::{Id, Kind, Signed};
use crate::error::LedgerError;
use crate::file::{LedgerFile, Table};
use crate::scan;
use crate::schema::{self, ID_LEN, TELLTALE_TABLES};

/// The network a ledger belongs to, told by its genesis block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Network {
    /// The live network.
    Live,
    /// The development network that test nodes run.
    Dev,
    /// One whose genesis block is not known here: beta, test or private.
    Unknown,
}

const GENESIS: [(Network, [u8; 32]); 2] = [
    (
        Network::Live,
        schema::hash("991CF190094C00F0B68E2E5F75F6BEE95A2E0BD93CEAA4A6734DB9F19B728948"),
    ),
    (
        Network::Dev,
        schema::hash("04270D7F11C4B2B472F2854C5A59F2A7E84226CE9ED799DE75744BD7D85FC9D9"),
    ),
];

/// Whether this is the genesis block of the network, which receives what nobody sent.
pub(crate) fn is_genesis(network: Network, hash: &[u8; 32]) -> bool {
    GENESIS.contains(&(network, *hash))
}

/// The text of a [`Network`] is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("networks are live, dev and unknown")]
pub struct UnknownNetwork;

impl std::str::FromStr for Network {
    type Err = UnknownNetwork;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        [Self::Live, Self::Dev, Self::Unknown]
            .into_iter()
            .find(|network| network.to_string() == text)
            .ok_or(UnknownNetwork)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Live => "live",
            Self::Dev => "dev",
            Self::Unknown => "unknown",
        })
    }
}

/// One named table of a ledger.
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

/// The tables of a file that has at least those no ledger is without.
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

/// The table called `name`.
pub(crate) fn find<'a>(tables: &'a [Table], name: &str) -> Option<&'a Table> {
    tables.iter().find(|table| table.name == name)
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

/// The network whose genesis block is among the blocks.
pub(crate) fn network(file: &LedgerFile, tables: &[Table]) -> Result<Network, LedgerError> {
    let Some(blocks) = find(tables, "blocks") else {
        return Ok(Network::Unknown);
    };
    for (network, genesis) in GENESIS {
        if file.get(blocks, &genesis)?.is_some() {
            return Ok(network);
        }
    }
    Ok(Network::Unknown)
}

/// What is wrong with the genesis block of a known network, if its hash is not that under which it is stored.
/// Rows of an unknown form, as newer store versions have, are not looked at.
pub(crate) fn forged_genesis(
    file: &LedgerFile,
    tables: &[Table],
    network: Network,
) -> Result<Option<String>, LedgerError> {
    let Some(blocks) = find(tables, "blocks") else {
        return Ok(None);
    };
    for (_, genesis) in GENESIS.iter().filter(|(known, _)| *known == network) {
        let row = file.get(blocks, genesis)?;
        let found = row.and_then(|row| Signed::parse(&row));
        if let Some(found) = found.filter(|found| found.hash != *genesis) {
            return Ok(Some(format!(
                "a block with the hash {}",
                schema::hex(&found.hash)
            )));
        }
    }
    Ok(None)
}

/// Most accounts of a network not known here whose first blocks are read to find the genesis block. No test
/// network has as many.
const MOST_ACCOUNTS_WITHOUT_KNOWN_GENESIS: u64 = 1 << 20;

/// The genesis block of a network that is not known here: the one that opens an account by a receive of the
/// account itself. `None` when there is none, or there are too many accounts for a test network.
pub(crate) fn unknown_genesis(
    file: &LedgerFile,
    tables: &[Table],
) -> Result<Option<Id>, LedgerError> {
    let (Some(accounts), Some(blocks)) = (find(tables, "accounts"), find(tables, "blocks")) else {
        return Ok(None);
    };
    if accounts.tree.entries() > MOST_ACCOUNTS_WITHOUT_KNOWN_GENESIS {
        return Ok(None);
    }
    let mut rows = file.entries(accounts);
    while let Some((key, account)) = scan::next_account(file, &mut rows)? {
        let opens_itself = |row: &[u8]| {
            let field = |at: usize| row.get(at..at + ID_LEN);
            // Type 1, source 32, representative 32, account 32, whatever the store version.
            row.first() == Some(&Kind::Open.byte())
                && field(1) == Some(&key)
                && field(1 + 2 * ID_LEN) == Some(&key)
        };
        let row = file.get(blocks, &account.open)?;
        if row.is_some_and(|row| opens_itself(&row)) {
            return Ok(Some(account.open));
        }
    }
    Ok(None)
}

/// What the roots of the tables say of a ledger; reading it takes milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    /// The network.
    pub network: Network,
    /// Blocks, with those that were pruned.
    pub blocks: u64,
}

/// Reads the outline of the ledger at `path`.
///
/// # Errors
///
/// [`LedgerError`] when the file is something else, is damaged or cannot be read.
pub fn outline(path: &Path) -> Result<Outline, LedgerError> {
    let file = LedgerFile::open(path)?;
    let tables = ledger_tables(&file)?;
    let entries = |name| find(&tables, name).map_or(0, |table| table.tree.entries());
    Ok(Outline {
        network: network(&file, &tables)?,
        blocks: entries("blocks").saturating_add(entries("pruned")),
    })
}

/// Reads what the ledger at `path` holds: roots of all tables, and a scan of the `accounts` and
/// `confirmation_height` tables (seconds to minutes on a live-network ledger).
///
/// # Errors
///
/// [`LedgerError::NotALedger`] when the file is something else, [`LedgerError::Damaged`] and
/// [`LedgerError::Record`] when it contradicts itself on the way.
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
