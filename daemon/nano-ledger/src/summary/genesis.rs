//! The genesis block of a ledger, which determines its network.

use crate::blocks::block::{BlockKind, Id, Signed};
use crate::blocks::network::{GENESIS, Network};
use crate::blocks::schema::{self, ID_LEN};
use crate::lmdb::error::LedgerError;
use crate::lmdb::file::LedgerFile;
use crate::lmdb::tables::{Table, find};
use crate::summary::scan;

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

/// Returns a fault if the genesis block of a known network is not stored under its own hash. Rows in the unknown formats
/// of newer store versions are not checked.
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

/// Maximum number of accounts whose first blocks are read to find the genesis block of an unknown network. No test
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
            row.first() == Some(&BlockKind::Open.byte())
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
