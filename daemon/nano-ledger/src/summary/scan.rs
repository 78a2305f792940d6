//! Sums over the small tables: everything but the blocks themselves.

use std::cmp::Ordering;

use crate::blocks::schema::{
    self, Account, HEIGHT_LEN, Height, ID_LEN, PENDING_KEY_LEN, PENDING_LEN, Pending, hex,
};
use crate::findings::Findings;
use crate::lmdb::error::LedgerError;
use crate::lmdb::file::LedgerFile;
use crate::lmdb::tables::Table;
use crate::lmdb::walk::{Entries, Row};

/// Sums over `accounts` and `confirmation_height`.
#[derive(Debug, Default)]
pub(crate) struct AccountScan {
    /// Rows of `accounts`.
    pub(crate) accounts: u64,
    /// Sum of the accounts' block counts, at most `u64::MAX`.
    pub(crate) blocks: u64,
    /// Sum of the confirmation heights, at most `u64::MAX`.
    pub(crate) cemented: u64,
    /// Sum of the balances; `None` when it exceeds 128 bits.
    pub(crate) balances: Option<u128>,
    /// Accounts without blocks.
    pub(crate) empty: Findings,
    /// Heights above the account's block count, or of accounts that do not exist.
    pub(crate) heights: Findings,
}

/// Parses a row of fixed sizes.
pub(crate) fn record<'e, const KEY: usize, T>(
    file: &LedgerFile,
    table: &str,
    (key, value): Row<'e>,
    expected: usize,
    parse: impl FnOnce(&'e [u8]) -> Option<T>,
) -> Result<([u8; KEY], T), LedgerError> {
    key.try_into()
        .ok()
        .zip(parse(value))
        .ok_or_else(|| LedgerError::Record {
            path: file.path().to_owned(),
            table: table.to_owned(),
            key: hex(key.get(..KEY).unwrap_or(key)),
            found: (key.len(), value.len()),
            expected: (KEY, expected),
        })
}

pub(crate) fn next_account(
    file: &LedgerFile,
    entries: &mut Entries<'_>,
) -> Result<Option<([u8; ID_LEN], Account)>, LedgerError> {
    let Some(row) = entries.next()? else {
        return Ok(None);
    };
    record(file, "accounts", row, Account::LEN, Account::parse).map(Some)
}

pub(crate) fn next_height(
    file: &LedgerFile,
    entries: &mut Entries<'_>,
) -> Result<Option<([u8; ID_LEN], Height)>, LedgerError> {
    let Some(row) = entries.next()? else {
        return Ok(None);
    };
    record(
        file,
        "confirmation_height",
        row,
        HEIGHT_LEN,
        schema::parse_height,
    )
    .map(Some)
}

/// Walks `accounts` and `confirmation_height` side by side and calls `visit` with every account.
pub(crate) fn scan_accounts<E: From<LedgerError>>(
    file: &LedgerFile,
    accounts: &Table,
    heights: &Table,
    mut visit: impl FnMut(&[u8; ID_LEN], &Account) -> Result<(), E>,
) -> Result<AccountScan, E> {
    let mut scan = AccountScan {
        balances: Some(0),
        ..AccountScan::default()
    };
    let mut heights = file.entries(heights);
    let mut height = next_height(file, &mut heights)?;
    let mut entries = file.entries(accounts);
    loop {
        let account = next_account(file, &mut entries)?;
        // Heights of accounts before this one belong to no account.
        while let Some((owner, Height { height: rows, .. })) = height {
            let order = account
                .as_ref()
                .map_or(Ordering::Less, |(key, _)| owner.cmp(key));
            if order == Ordering::Greater {
                break;
            }
            scan.cemented = scan.cemented.saturating_add(rows);
            match &account {
                Some((_, account)) if order == Ordering::Equal => {
                    if rows > account.block_count {
                        scan.heights.add(|| {
                            format!(
                                "height {rows} of account {} with {} blocks",
                                hex(&owner),
                                account.block_count
                            )
                        });
                    }
                }
                _ => scan.heights.add(|| {
                    format!(
                        "height {rows} of account {}, which does not exist",
                        hex(&owner)
                    )
                }),
            }
            height = next_height(file, &mut heights)?;
        }
        let Some((key, account)) = account else {
            return Ok(scan);
        };
        scan.accounts += 1;
        scan.blocks = scan.blocks.saturating_add(account.block_count);
        scan.balances = scan
            .balances
            .and_then(|sum| sum.checked_add(account.balance));
        if account.block_count == 0 {
            scan.empty
                .add(|| format!("account {} has no blocks", hex(&key)));
        }
        visit(&key, &account)?;
    }
}

/// The next receivable send: its key (receiving account and block), and the rest.
pub(crate) fn next_pending(
    file: &LedgerFile,
    entries: &mut Entries<'_>,
) -> Result<Option<([u8; PENDING_KEY_LEN], Pending)>, LedgerError> {
    let Some(row) = entries.next()? else {
        return Ok(None);
    };
    record(file, "pending", row, PENDING_LEN, schema::parse_pending).map(Some)
}

/// Sum of all receivable amounts; `None` when it exceeds 128 bits. `step` is called for every row.
pub(crate) fn sum_pending<E: From<LedgerError>>(
    file: &LedgerFile,
    table: &Table,
    mut step: impl FnMut() -> Result<(), E>,
) -> Result<Option<u128>, E> {
    let mut entries = file.entries(table);
    let mut sum = Some(0_u128);
    while let Some((_, Pending { amount, .. })) = next_pending(file, &mut entries)? {
        sum = sum.and_then(|sum| sum.checked_add(amount));
        step()?;
    }
    Ok(sum)
}
