//! Roots of tables that contradict each other or the file, and the check that must name it. LMDB would not
//! write such roots, so they are edited where they stand.

use std::path::PathBuf;

use tempfile::TempDir;

use super::*;

/// Fields of a root, as LMDB has them (`MDB_db`): where in its 48 bytes, and how many bytes.
const FLAGS: (usize, usize) = (4, 2);
const DEPTH: (usize, usize) = (6, 2);
const LEAVES: (usize, usize) = (16, 8);
const OVERFLOWS: (usize, usize) = (24, 8);
const ENTRIES: (usize, usize) = (32, 8);
const LENGTH: usize = 48;

/// A genuine ledger in which a field of a table's root has another value.
fn edited(table: &str, field: (usize, usize), value: impl Fn(u64) -> u64) -> (TempDir, PathBuf) {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/after.ldb");
    let genuine = LedgerFile::open(Path::new(data)).unwrap();
    let tables = genuine.tables().unwrap();
    let tree = &crate::lmdb::tables::find(&tables, table).unwrap().tree;
    let mut root = tree.entries().to_le_bytes().to_vec();
    root.extend(tree.root.unwrap_or(u64::MAX).to_le_bytes());
    let mut bytes = std::fs::read(data).unwrap();
    let ends = LENGTH..=bytes.len();
    let found: Vec<usize> = ends
        .filter(|end| bytes[..*end].ends_with(&root))
        .filter(|end| bytes[..end - LENGTH].ends_with(table.as_bytes()))
        .collect();
    assert!(!found.is_empty(), "no root of {table}");
    // In pages of former transactions it may stand, too.
    for end in found {
        let (offset, width) = field;
        let place = &mut bytes[end - LENGTH + offset..][..width];
        let mut old = [0; 8];
        old[..width].copy_from_slice(place);
        let new = value(u64::from_le_bytes(old)).to_le_bytes();
        place.copy_from_slice(&new[..width]);
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data.ldb");
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

fn failures(path: &Path, level: Level) -> Vec<&'static str> {
    let report = verify(path, level, &VerifyOptions::default()).unwrap();
    report.failures().map(|check| check.name).collect()
}

#[test]
fn numbers_of_rows_that_contradict_each_other_are_named() {
    const MANY: u64 = 1 << 40;
    for (table, entries) in [
        ("accounts", MANY),
        ("accounts", 0),
        ("blocks", 0),
        ("confirmation_height", MANY),
        ("rep_weights", MANY),
        ("pending", MANY),
    ] {
        let (_dir, path) = edited(table, ENTRIES, |_| entries);
        assert_eq!(failures(&path, Level::L0), Vec::<&str>::new(), "{table}");
        assert_eq!(failures(&path, Level::L1), ["counts"], "{table} {entries}");
    }
    // One row less contradicts nothing but the rows.
    for (table, check) in [
        ("accounts", "accounts"),
        ("rep_weights", "rep-weights"),
        ("pending", "supply"),
    ] {
        let (_dir, path) = edited(table, ENTRIES, |entries| entries - 1);
        assert_eq!(failures(&path, Level::L1), Vec::<&str>::new(), "{table}");
        let found = failures(&path, Level::L2);
        assert!(found.contains(&check), "{table}: {found:?}");
    }
}

#[test]
fn pages_that_are_counted_wrong_are_named() {
    for (table, field) in [
        ("blocks", LEAVES),
        ("accounts", LEAVES),
        ("final_votes", OVERFLOWS),
    ] {
        for step in [1, u64::MAX - 3] {
            let (_dir, path) = edited(table, field, |pages| pages.wrapping_add(step));
            let found = failures(&path, Level::L1);
            assert!(found.contains(&"page-accounting"), "{table}: {found:?}");
        }
    }
}

#[test]
fn tables_of_another_kind_are_named() {
    // Several values for a key, and keys in another order.
    for flags in [4, 8] {
        let (_dir, path) = edited("pending", FLAGS, |_| flags);
        assert_eq!(failures(&path, Level::L0), ["table-flags"]);
    }
    let (_dir, path) = edited("accounts", DEPTH, |depth| depth + 1);
    assert!(failures(&path, Level::L2).contains(&"accounts"));
}
