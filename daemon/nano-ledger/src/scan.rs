//! Sums over the small tables: everything but the blocks themselves.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use crate::error::LedgerError;
use crate::file::{LedgerFile, Table};
use crate::schema::{
    self, Account, HEIGHT_LEN, Height, ID_LEN, PENDING_KEY_LEN, PENDING_LEN, Pending, WEIGHT_LEN,
    hex,
};
use crate::walk::{Entries, Row};

/// Most representatives whose weights are held in memory at a time: 24 MiB.
pub(crate) const WEIGHT_ROWS: usize = 1 << 19;
/// Most passes over the accounts that comparing all weights may take below the deepest level.
pub(crate) const WEIGHT_PASSES: u32 = 8;

/// Something a scan came across, of which the first example is kept and all are counted.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    count: u64,
    first: String,
}

impl Findings {
    pub(crate) fn add(&mut self, example: impl FnOnce() -> String) {
        if self.count == 0 {
            self.first = example();
        }
        self.count += 1;
    }

    /// Adds what came across behind these.
    pub(crate) fn append(&mut self, later: Self) {
        if self.count == 0 {
            self.first = later.first;
        }
        self.count += later.count;
    }

    /// The first finding and the number of others; `None` when there is none.
    pub(crate) fn describe(&self) -> Option<String> {
        match self.count {
            0 => None,
            1 => Some(self.first.clone()),
            count => Some(format!("{}, and {} more", self.first, count - 1)),
        }
    }
}

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

/// A row of fixed sizes, or the error that names it.
fn record<'e, const KEY: usize, T>(
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

/// Walks `accounts` and `confirmation_height` side by side and shows `visit` every account.
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
        // Heights of accounts before this one belong to none.
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

/// Compares `rep_weights` with the balances delegated to each representative, a range of
/// representatives at a time, so that memory stays bounded however many there are.
pub(crate) struct Weights<'a> {
    file: &'a LedgerFile,
    rows: Entries<'a>,
    /// Most rows in a range.
    range: usize,
    /// Representatives of the current range with the weight no account has claimed yet.
    left: Vec<([u8; ID_LEN], u128)>,
    /// The greatest representative of the ranges before this one.
    after: Option<[u8; ID_LEN]>,
    /// Whether `rows` has more.
    more: bool,
    passes: u32,
    /// The representatives of most weight.
    greatest: Greatest,
    findings: Findings,
}

impl<'a> Weights<'a> {
    /// Reads the first range, of at most `range` rows.
    pub(crate) fn new(
        file: &'a LedgerFile,
        table: &'a Table,
        range: usize,
    ) -> Result<Self, LedgerError> {
        let mut weights = Self {
            file,
            rows: file.entries(table),
            range,
            left: Vec::new(),
            after: None,
            more: true,
            passes: 0,
            greatest: Greatest::default(),
            findings: Findings::default(),
        };
        weights.load()?;
        Ok(weights)
    }

    /// Takes the next range of rows.
    fn load(&mut self) -> Result<(), LedgerError> {
        self.after = self
            .left
            .last()
            .map(|(representative, _)| *representative)
            .or(self.after);
        self.left.clear();
        self.passes += 1;
        while self.left.len() < self.range {
            let Some(row) = self.rows.next()? else {
                self.more = false;
                return Ok(());
            };
            let row = record(
                self.file,
                "rep_weights",
                row,
                WEIGHT_LEN,
                schema::parse_weight,
            )?;
            self.greatest.offer(row.1, row.0);
            self.left.push(row);
        }
        Ok(())
    }

    /// The representatives of most weight among those read so far.
    pub(crate) fn greatest(&self) -> impl Iterator<Item = [u8; ID_LEN]> {
        self.greatest.ids()
    }

    /// Takes an account's balance off its representative's weight.
    pub(crate) fn take(&mut self, account: &[u8; ID_LEN], record: &Account) {
        let representative = &record.representative;
        let before = self.after.is_some_and(|after| *representative <= after);
        let behind = self.more
            && self
                .left
                .last()
                .is_none_or(|(last, _)| representative > last);
        if record.balance == 0 || before || behind {
            return;
        }
        let row = self
            .left
            .binary_search_by(|(row, _)| row.cmp(representative));
        let Some((_, left)) = row.ok().and_then(|index| self.left.get_mut(index)) else {
            self.findings.add(|| {
                format!(
                    "no weight of {}, to which {} delegates",
                    hex(representative),
                    hex(account)
                )
            });
            return;
        };
        match left.checked_sub(record.balance) {
            Some(rest) => *left = rest,
            None => {
                *left = 0;
                self.findings.add(|| {
                    format!(
                        "the weight of {} is below the balances behind it",
                        hex(representative)
                    )
                });
            }
        }
    }

    /// Closes the first range after `take` saw every account, and compares the others.
    ///
    /// `Err(reason)` inside when there are more representatives than `passes` over the accounts
    /// compare. `step` is called for every account.
    pub(crate) fn finish<E: From<LedgerError>>(
        mut self,
        accounts: &Table,
        passes: u32,
        mut step: impl FnMut() -> Result<(), E>,
    ) -> Result<Result<Findings, String>, E> {
        loop {
            for (representative, left) in &self.left {
                if *left != 0 {
                    self.findings.add(|| {
                        format!(
                            "the weight of {} exceeds the balances behind it by {left}",
                            hex(representative)
                        )
                    });
                }
            }
            if !self.more {
                return Ok(Ok(self.findings));
            }
            if self.passes == passes {
                let rows = self.range * passes as usize;
                return Ok(Err(format!("more than {rows} representatives")));
            }
            self.load()?;
            let mut entries = self.file.entries(accounts);
            while let Some((key, account)) = next_account(self.file, &mut entries)? {
                self.take(&key, &account);
                step()?;
            }
        }
    }
}

/// The most of something that [`Greatest`] keeps.
const GREATEST: usize = 64;

/// The ids with the greatest amounts.
#[derive(Debug, Default)]
pub(crate) struct Greatest(BinaryHeap<Reverse<(u128, [u8; ID_LEN])>>);

impl Greatest {
    pub(crate) fn offer(&mut self, amount: u128, id: [u8; ID_LEN]) {
        self.0.push(Reverse((amount, id)));
        if self.0.len() > GREATEST {
            self.0.pop();
        }
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = [u8; ID_LEN]> {
        self.0.iter().map(|Reverse((_, id))| *id)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::summary::find;

    const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/after.ldb");

    /// Compares the weights of a ledger in ranges of a size.
    fn compare(path: &Path, range: usize) -> Result<Option<String>, String> {
        let file = LedgerFile::open(path).unwrap();
        let tables = file.tables().unwrap();
        let [accounts, rows] = ["accounts", "rep_weights"].map(|name| find(&tables, name).unwrap());
        assert!(
            (91..320).contains(&rows.tree.entries()),
            "ranges of 90 and 40 make several"
        );
        let mut weights = Weights::new(&file, rows, range).unwrap();
        let mut entries = file.entries(accounts);
        while let Some((key, account)) = next_account(&file, &mut entries).unwrap() {
            weights.take(&key, &account);
        }
        weights
            .finish::<LedgerError>(accounts, WEIGHT_PASSES, || Ok(()))
            .unwrap()
            .map(|findings| findings.describe())
    }

    #[test]
    fn weights_compare_alike_in_one_pass_and_in_several() {
        let genuine = Path::new(DATA);
        for range in [1000, 90, 40] {
            assert_eq!(compare(genuine, range), Ok(None), "{range}");
        }
        let reason = compare(genuine, 1).unwrap_err();
        assert!(reason.contains("more than 8 representatives"), "{reason}");
    }

    #[test]
    fn one_false_weight_is_found_in_any_pass() {
        let original = std::fs::read(DATA).unwrap();
        let file = LedgerFile::open(Path::new(DATA)).unwrap();
        let tables = file.tables().unwrap();
        let mut entries = file.entries(find(&tables, "rep_weights").unwrap());
        let mut rows = Vec::new();
        while let Some((key, value)) = entries.next().unwrap() {
            rows.push([key, value].concat());
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.ldb");
        for row in [rows.first(), rows.get(rows.len() / 2), rows.last()] {
            let row = row.unwrap();
            // Weights end on odd and even numbers: some rise and some fall by one.
            let mut bytes = original.clone();
            for at in 0..bytes.len() - row.len() {
                if bytes[at..].starts_with(row) {
                    bytes[at + row.len() - 1] ^= 1;
                }
            }
            std::fs::write(&path, bytes).unwrap();
            for range in [1000, 90, 40] {
                let found = compare(&path, range).unwrap().unwrap();
                assert!(found.contains(&hex(&row[..ID_LEN])), "{found}");
                assert!(!found.contains("more"), "{found}");
            }
        }
    }
}
