//! One thing wrong in a genuine ledger, edited through LMDB, and the check that must name it.

mod blocks;
mod policies;
mod rows;
mod running;

use std::path::{Path, PathBuf};

use heed::types::Bytes;
use heed::{CommitOrAbort, Database, RwTxn};
use tempfile::TempDir;

use super::*;

type Table = Database<'static, Bytes, Bytes>;

const TABLES: [&str; 7] = [
    "accounts",
    "blocks",
    "confirmation_height",
    "meta",
    "pending",
    "pruned",
    "rep_weights",
];

/// A ledger under edit.
struct Edit<'e> {
    txn: RwTxn<'e>,
    tables: [Table; 7],
}

impl Edit<'_> {
    fn table(&self, name: &str) -> Table {
        let place = TABLES.iter().position(|table| *table == name).unwrap();
        self.tables[place]
    }

    /// All rows of a table.
    fn rows(&self, name: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
        let rows = self.table(name).iter(&self.txn).unwrap();
        rows.map(|row| row.map(|(key, value)| (key.to_vec(), value.to_vec())))
            .collect::<Result<_, _>>()
            .unwrap()
    }

    fn put(&mut self, name: &str, key: &[u8], value: &[u8]) {
        let table = self.table(name);
        table.put(&mut self.txn, key, value).unwrap();
    }

    fn delete(&mut self, name: &str, key: &[u8]) {
        let table = self.table(name);
        assert!(table.delete(&mut self.txn, key).unwrap());
    }

    /// Changes one byte of the first row that is `wanted`.
    fn flip(&mut self, name: &str, offset: usize, bits: u8, wanted: impl Fn(&[u8]) -> bool) {
        let rows = self.rows(name);
        let (key, mut value) = rows.into_iter().find(|(_, value)| wanted(value)).unwrap();
        value[offset] ^= bits;
        self.put(name, &key, &value);
    }
}

/// An edited copy of a genuine ledger.
fn edited(edit: impl FnOnce(&mut Edit<'_>)) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data.ldb");
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/after.ldb");
    std::fs::copy(data, &path).unwrap();
    apply(&path, edit);
    (dir, path)
}

fn apply(path: &Path, edit: impl FnOnce(&mut Edit<'_>)) {
    let env = crate::lmdb::env::open_for_generating(path, 1 << 30).unwrap();
    let txn = env.write_txn().unwrap();
    let tables = env
        .create_databases_and_commit(txn, |opener, txn| {
            let table = |name| opener.create_database::<Bytes, Bytes>(txn, Some(name));
            let [a, b, c, d, e, f, g] = TABLES.map(table);
            let tables = [a?, b?, c?, d?, e?, f?, g?];
            Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(tables))
        })
        .unwrap()
        .unwrap_commit();
    let mut under_edit = Edit {
        txn: env.write_txn().unwrap(),
        tables,
    };
    edit(&mut under_edit);
    let Edit { txn, .. } = under_edit;
    txn.commit().unwrap();
}

fn failures(path: &Path, level: Level) -> Vec<&'static str> {
    // All accounts to their first blocks.
    let options = VerifyOptions {
        sample: Sample {
            depth: u32::MAX,
            ..Sample::default()
        },
        ..VerifyOptions::default()
    };
    let report = verify(path, level, &options).unwrap();
    report.failures().map(|check| check.name).collect()
}

/// A state block whose account has more behind it: type 6, successor not zero.
fn inner_state(row: &[u8]) -> bool {
    row.len() == 267 && row[217..249] != [0; 32]
}

fn expect(edit: impl FnOnce(&mut Edit<'_>), sampled: &[&str], all: &[&str]) {
    let (_dir, path) = edited(edit);
    let below = failures(&path, Level::L1);
    assert_eq!(below, Vec::<&str>::new(), "the pages are sound");
    assert_eq!(failures(&path, Level::L2), sampled);
    assert_eq!(failures(&path, Level::L3), all);
}

#[test]
fn an_edit_of_nothing_passes() {
    expect(|_| (), &[], &[]);
}
