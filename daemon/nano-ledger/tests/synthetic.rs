//! Invented ledgers are ledgers, and change from day to day as a node's do.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use common::{data, failures, without_sample};
use nano_ledger::synthetic::{LiveWriter, Options, SyntheticError, add_day, create};
use nano_ledger::{LedgerFile, LedgerSummary, Level, Network, summarize, verify};

/// The summary of a ledger that passes every check.
fn sound(path: &Path) -> LedgerSummary {
    let report = verify(path, Level::L2, &without_sample()).unwrap();
    assert_eq!(failures(&report), [""; 0], "{report:#?}");
    report.summary.unwrap()
}

#[test]
fn invented_ledgers_pass_every_check_and_have_about_the_length_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    for (seed, target_len) in [(1, 0), (2, 1 << 20), (3, 9_000_000)] {
        let path = dir.path().join(format!("{seed}.ldb"));
        create(&path, &Options { seed, target_len }).unwrap();
        let summary = sound(&path);
        assert_eq!(summary.store_version, 24);
        assert_eq!(summary.network, Network::Unknown);
        // One head in fifty is not cemented yet.
        assert!(summary.cemented < summary.blocks || summary.accounts < 100);
        assert!(summary.cemented > summary.blocks * 9 / 10);
        assert!(summary.pending > 0);
        let len = summary.file_len;
        assert!(
            len < (target_len + target_len / 8).max(300 << 10),
            "{len} of {target_len}"
        );
        assert!(len > target_len - target_len / 8, "{len} of {target_len}");
        let again = create(&path, &Options { seed, target_len });
        assert!(matches!(again, Err(SyntheticError::Exists { .. })));
    }
}

#[test]
fn a_seed_makes_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let make = |name: &str, seed| {
        let path = dir.path().join(name);
        create(
            &path,
            &Options {
                seed,
                target_len: 1 << 20,
            },
        )
        .unwrap();
        let fresh = fs::read(&path).unwrap();
        add_day(&path, 40, 3).unwrap();
        (fresh, fs::read(&path).unwrap())
    };
    let first = make("a.ldb", 7);
    assert!(first == make("b.ldb", 7));
    assert!(first.0 != make("c.ldb", 8).0);
}

/// Rows have the sizes of a genuine ledger's.
#[test]
fn rows_have_the_sizes_of_genuine_ones() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data.ldb");
    create(
        &path,
        &Options {
            seed: 5,
            target_len: 1 << 20,
        },
    )
    .unwrap();
    add_day(&path, 20, 2).unwrap();
    let sizes = |path: &Path| {
        let file = LedgerFile::open(path).unwrap();
        let tables = file.tables().unwrap();
        let mut sizes: HashMap<String, Vec<(usize, usize)>> = HashMap::new();
        for table in &tables {
            let sizes = sizes.entry(table.name.clone()).or_default();
            let mut entries = file.entries(table);
            while let Some((key, value)) = entries.next().unwrap() {
                if !sizes.contains(&(key.len(), value.len())) {
                    sizes.push((key.len(), value.len()));
                }
            }
        }
        sizes
    };
    let genuine = sizes(&data("after.ldb"));
    let invented = sizes(&path);
    assert_eq!(invented.len(), genuine.len());
    for (name, sizes) in invented {
        for size in &sizes {
            // No genuine ledger here ran long enough for a sample of the online weight.
            let known = genuine[&name].contains(size) || name == "online_weight";
            assert!(known, "{name}: {sizes:?}");
        }
        let may_be_empty = ["final_votes", "peers", "pruned"].contains(&name.as_str());
        assert!(may_be_empty || !sizes.is_empty(), "{name} is empty");
    }
}

#[test]
fn a_day_adds_its_blocks_to_invented_and_genuine_ledgers() {
    let dir = tempfile::tempdir().unwrap();
    let invented = dir.path().join("invented.ldb");
    create(
        &invented,
        &Options {
            seed: 4,
            target_len: 2 << 20,
        },
    )
    .unwrap();
    let genuine = dir.path().join("genuine.ldb");
    fs::copy(data("after.ldb"), &genuine).unwrap();
    for path in [invented, genuine] {
        let mut before = summarize(&path).unwrap();
        for (blocks, per_txn) in [(0, 1), (1, 1), (100, 7), (300, 1), (5, 0)] {
            add_day(&path, blocks, per_txn).unwrap();
            let after = sound(&path);
            assert_eq!(after.blocks, before.blocks + blocks);
            assert!(after.txn >= before.txn + blocks / u64::from(per_txn.max(1)));
            before = after;
        }
    }
}

/// Share of pieces of a size that differ between two files, in per cent.
fn changed(before: &[u8], after: &[u8], size: usize) -> f64 {
    let pieces = after.chunks(size).enumerate();
    let differ = pieces
        .filter(|(number, piece)| {
            let start = number * size;
            before.get(start..start + piece.len()) != Some(*piece)
        })
        .count();
    100.0 * differ as f64 / after.len().div_ceil(size) as f64
}

/// One block per transaction and one new block in 2,000, as the models of real ledgers have it.
#[test]
fn a_day_changes_few_leaves_and_almost_all_large_pieces() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data.ldb");
    create(
        &path,
        &Options {
            seed: 6,
            target_len: 24 << 20,
        },
    )
    .unwrap();
    let before = fs::read(&path).unwrap();
    add_day(&path, summarize(&path).unwrap().blocks / 2000, 1).unwrap();
    let after = fs::read(&path).unwrap();
    let shares = [4 << 10, 16 << 10, 1 << 20].map(|size| changed(&before, &after, size));
    let [page, leaf, piece] = shares;
    assert!((1.0..5.0).contains(&page), "{shares:?}");
    assert!((5.0..15.0).contains(&leaf), "{shares:?}");
    assert!(piece > 80.0, "{shares:?}");
}

#[test]
fn a_writer_in_a_thread_stops_when_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data.ldb");
    fs::copy(data("before.ldb"), &path).unwrap();
    let before = summarize(&path).unwrap();
    let writer = LiveWriter::start(&path, 4).unwrap();
    while writer.transactions() < 5 {
        std::thread::yield_now();
    }
    let transactions = writer.stop().unwrap();
    assert!(transactions >= 5);
    assert_eq!(sound(&path).blocks, before.blocks + 4 * transactions);

    // Failures are reported at the end.
    let writer = LiveWriter::start(&dir.path().join("no/such/dir"), 1).unwrap();
    assert!(matches!(writer.stop(), Err(SyntheticError::Lmdb { .. })));
}
