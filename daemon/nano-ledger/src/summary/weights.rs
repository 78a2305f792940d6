//! The table `rep_weights` against the balances of the accounts.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::blocks::schema::{self, Account, ID_LEN, WEIGHT_LEN, hex};
use crate::findings::Findings;
use crate::lmdb::error::LedgerError;
use crate::lmdb::file::LedgerFile;
use crate::lmdb::tables::Table;
use crate::lmdb::walk::Entries;
use crate::summary::scan::{next_account, record};

/// Maximum number of weights in memory at a time: 24 MiB.
pub(crate) const WEIGHT_ROWS: usize = 1 << 19;
/// Maximum number of passes over the accounts to compare all weights, below the deepest level.
pub(crate) const WEIGHT_PASSES: u32 = 8;

/// Compares `rep_weights` with the balances delegated to each representative, a range of
/// representatives at a time, so that memory stays bounded however many there are.
pub(crate) struct Weights<'a> {
    file: &'a LedgerFile,
    rows: Entries<'a>,
    /// Most rows in a range.
    range: usize,
    /// Representatives of the current range, each with its weight minus the balances subtracted so far.
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

    /// Reads the next range of rows.
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
            if row.1 == 0 {
                self.findings.add(|| {
                    format!(
                        "the weight of {} is zero, and a node removes such a row",
                        hex(&row.0)
                    )
                });
            }
            self.greatest.offer(row.1, row.0);
            self.left.push(row);
        }
        Ok(())
    }

    /// The representatives of most weight among those read so far.
    pub(crate) fn greatest(&self) -> impl Iterator<Item = [u8; ID_LEN]> {
        self.greatest.ids()
    }

    /// Subtracts an account's balance from the weight of its representative.
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

    /// Completes the first range, for which `take` was called with every account, and compares the other ranges.
    ///
    /// Returns an inner `Err(reason)` when there are more representatives than `passes` over the accounts can compare.
    /// `step` is called for every account.
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
            if self.passes == passes && !self.findings.is_empty() {
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

/// Number of ids that [`Greatest`] keeps.
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
    use crate::lmdb::tables::find;

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
