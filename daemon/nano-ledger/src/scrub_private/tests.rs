use std::collections::BTreeSet;

use heed::{Database, RwTxn};
use tempfile::TempDir;

use super::*;
use crate::random::Random;
use crate::synthetic;
use crate::verify::{CheckOutcome, Level, VerifyOptions, verify};

type Rows = Vec<(Vec<u8>, Vec<u8>)>;
type Table = Database<'static, Bytes, Bytes>;

const LEAF: usize = 16 * 1024;

fn copy_of(name: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data.ldb");
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    std::fs::copy(data.join(name), &path).unwrap();
    (dir, path)
}

/// Runs transactions on the private tables, in their order in [`PRIVATE`].
fn in_transactions(
    path: &Path,
    count: usize,
    mut run: impl FnMut(usize, &mut RwTxn<'_>, [Table; 3]),
) {
    let env = crate::lmdb::env::open_for_generating(path, 1 << 30).unwrap();
    let txn = env.write_txn().unwrap();
    let tables = env
        .create_databases_and_commit(txn, |opener, txn| {
            let [a, b, c] =
                PRIVATE.map(|(name, ..)| opener.create_database::<Bytes, Bytes>(txn, Some(name)));
            Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit([a?, b?, c?]))
        })
        .unwrap()
        .unwrap_commit();
    for number in 0..count {
        let mut txn = env.write_txn().unwrap();
        run(number, &mut txn, tables);
        txn.commit().unwrap();
    }
}

/// What a node that runs does to these tables: peers come and go, the weight is sampled, and votes
/// of what was cemented are taken out again. Gives all rows that ever were.
fn live_through(path: &Path, transactions: usize, seed: u64) -> Vec<Rows> {
    let mut random = Random::new(seed);
    let mut ever = vec![Rows::new(); 3];
    in_transactions(path, transactions, |_, txn, tables| {
        for (place, table) in tables.into_iter().enumerate() {
            let (_, of_key, of_value) = PRIVATE[place];
            for _ in 0..4 {
                let (mut key, mut value) = (vec![0; of_key], vec![0; of_value]);
                random.fill(&mut key);
                random.fill(&mut value);
                table.put(txn, &key, &value).unwrap();
                ever[place].push((key, value));
            }
            for _ in 0..3 {
                let nth = usize::try_from(random.below(ever[place].len() as u64)).unwrap();
                table.delete(txn, &ever[place][nth].0).unwrap();
            }
        }
    });
    ever
}

fn rows(path: &Path, name: &str) -> Rows {
    let file = LedgerFile::open(path).unwrap();
    let tables = file.tables().unwrap();
    let mut entries = file.entries(find(&tables, name).unwrap());
    let mut rows = Rows::new();
    while let Some((key, value)) = entries.next().unwrap() {
        rows.push((key.to_vec(), value.to_vec()));
    }
    rows
}

fn names(path: &Path) -> Vec<String> {
    let tables = LedgerFile::open(path).unwrap().tables().unwrap();
    tables.into_iter().map(|table| table.name).collect()
}

/// Where any of the needles, all of one length, is in the file.
fn search(bytes: &[u8], needles: &BTreeSet<Vec<u8>>) -> Option<usize> {
    let len = needles.first()?.len();
    // Two bytes in the middle tell most places.
    let tell = |window: &[u8]| usize::from(window[3]) << 8 | usize::from(window[4]);
    let mut may_be = vec![false; 1 << 16];
    for needle in needles {
        may_be[tell(needle)] = true;
    }
    (0..=bytes.len() - len).find(|at| {
        let window = &bytes[*at..at + len];
        may_be[tell(window)] && needles.contains(window)
    })
}

fn assert_all_pass(path: &Path) {
    for level in [Level::L0, Level::L1, Level::L2, Level::L3] {
        let report = verify(path, level, &VerifyOptions::default()).unwrap();
        for check in report.checks {
            assert!(
                matches!(check.outcome, CheckOutcome::Passed { .. }),
                "{check:?}"
            );
        }
    }
}

#[test]
fn no_row_is_left_anywhere_and_nothing_else_changes() {
    for (name, transactions) in [("before.ldb", 0), ("after.ldb", 0), ("after.ldb", 300)] {
        let (_dir, path) = copy_of(name);
        let mut ever = live_through(&path, transactions, 7);
        for (place, (table, ..)) in PRIVATE.iter().enumerate() {
            ever[place].extend(rows(&path, table));
        }
        assert!(ever.iter().map(Vec::len).sum::<usize>() > 5000);
        let before = std::fs::read(&path).unwrap();
        let others: Vec<_> = names(&path)
            .into_iter()
            .filter(|name| PRIVATE.iter().all(|(private, ..)| name != private))
            .map(|name| (rows(&path, &name), name))
            .collect();
        let counts: Vec<_> = PRIVATE
            .iter()
            .map(|(name, ..)| (*name, rows(&path, name).len() as u64))
            .collect();
        let all_names = names(&path);

        let report = scrub_copy(&path).unwrap();
        assert_eq!(report.cleared, counts);
        assert!(report.pages_in_use > 200, "{report:?}");
        assert!(report.pages_trimmed > 500, "{report:?}");
        if transactions > 0 {
            assert!(report.pages_stale > 0, "{report:?}");
        }
        println!("{name} {transactions}: {report:?}");

        // Whole rows, and keys by themselves where they are nothing but that: keys of votes are
        // what any block says of itself.
        let after = std::fs::read(&path).unwrap();
        for (place, rows) in ever.iter().enumerate() {
            let whole: BTreeSet<_> = rows
                .iter()
                .map(|(key, value)| [&key[..], value].concat())
                .collect();
            assert!(whole.is_empty() || search(&before, &whole).is_some());
            assert_eq!(search(&after, &whole), None, "{}", PRIVATE[place].0);
            if place < 2 {
                let keys: BTreeSet<_> = rows.iter().map(|(key, _)| key.clone()).collect();
                assert_eq!(search(&after, &keys), None, "{}", PRIVATE[place].0);
            }
        }

        assert_eq!(names(&path), all_names);
        for (old, name) in others {
            assert!(rows(&path, &name) == old, "{name}");
        }
        for (name, ..) in PRIVATE {
            assert_eq!(rows(&path, name), Rows::new());
        }
        assert_all_pass(&path);

        // The same again changes nothing, and the same file becomes the same bytes.
        let again = scrub_copy(&path).unwrap();
        assert_eq!(
            (again.pages_in_use, again.pages_stale, again.pages_trimmed),
            (0, 0, 0)
        );
        assert!(std::fs::read(&path).unwrap() == after);
        std::fs::write(&path, &before).unwrap();
        assert_eq!(scrub_copy(&path).unwrap(), report);
        assert!(std::fs::read(&path).unwrap() == after);
    }
}

#[test]
fn a_node_goes_on_with_a_scrubbed_copy() {
    let (_dir, path) = copy_of("after.ldb");
    scrub_copy(&path).unwrap();
    let given_out = LedgerFile::open(&path).unwrap().meta().last_page;
    let ever = live_through(&path, 100, 3);
    assert!(!rows(&path, "peers").is_empty());
    assert!(ever[0].len() > rows(&path, "peers").len());
    // The pages of the tables are free: the file has not grown.
    assert_eq!(LedgerFile::open(&path).unwrap().meta().last_page, given_out);
    assert_all_pass(&path);
}

#[test]
fn both_meta_pages_lead_to_what_is_there() {
    let (_dir, path) = copy_of("after.ldb");
    scrub_copy(&path).unwrap();
    let metas = LedgerFile::open(&path).unwrap().metas().clone();
    assert_eq!(metas[0], metas[1]);
}

#[test]
fn a_ledger_of_large_free_lists_keeps_them() {
    let (_dir, path) = copy_of("before.ldb");
    // Votes by the thousand, then none: more free pages than a record in a leaf can list.
    in_transactions(&path, 2, |number, txn, [.., votes]| {
        if number == 0 {
            for nth in 0..60_000_u64 {
                let mut key = [0; 64];
                key[..8].copy_from_slice(&nth.to_be_bytes());
                votes.put(txn, &key, &[nth as u8 | 1; 32]).unwrap();
            }
        } else {
            votes.clear(txn).unwrap();
        }
    });
    let free = |path: &Path| {
        let file = LedgerFile::open(path).unwrap();
        assert!(file.meta().free.overflow_pages > 0);
        let mut pages = BTreeSet::new();
        free_list::read_each(&file, &mut |page| assert!(pages.insert(page))).unwrap();
        pages
    };
    let before = free(&path);
    assert!(before.len() > 1500);
    let report = scrub_copy(&path).unwrap();
    assert!(report.pages_stale > 1500, "{report:?}");
    assert_eq!(free(&path), before);
    assert_all_pass(&path);
}

/// Leaves of 16 KiB in which two files differ.
fn changed_leaves(a: &[u8], b: &[u8]) -> usize {
    let longer = a.len().max(b.len()).div_ceil(LEAF);
    let leaf = |bytes: &[u8], nth: usize| {
        let end = bytes.len().min((nth + 1) * LEAF);
        bytes.get(nth * LEAF..end).unwrap_or_default().to_vec()
    };
    (0..longer)
        .filter(|nth| leaf(a, *nth) != leaf(b, *nth))
        .count()
}

/// What publishing scrubbed copies costs those who fetch every day.
#[test]
fn scrubbing_adds_little_to_what_changes_in_a_day() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data.ldb");
    let options = synthetic::Options {
        seed: 5,
        target_len: 24 << 20,
    };
    synthetic::create(&path, &options).unwrap();
    let mut days = Vec::new();
    for day in 0..3 {
        synthetic::add_day(&path, 60 + day, 1).unwrap();
        live_through(&path, 20, day);
        let exact = std::fs::read(&path).unwrap();
        let copy = dir.path().join("copy.ldb");
        std::fs::write(&copy, &exact).unwrap();
        scrub_copy(&copy).unwrap();
        days.push((exact, std::fs::read(&copy).unwrap()));
    }
    for pair in days.windows(2) {
        let [(exact_a, scrubbed_a), (exact_b, scrubbed_b)] = pair else {
            panic!("two days")
        };
        let exact = changed_leaves(exact_a, exact_b);
        let scrubbed = changed_leaves(scrubbed_a, scrubbed_b);
        let all = exact_b.len().div_ceil(LEAF);
        println!(
            "leaves of 16 KiB that change in a day, of {all}: exact {exact}, scrubbed {scrubbed}"
        );
        // The list of free pages and the list of tables are written once more.
        assert!(scrubbed <= exact + 8, "{scrubbed} and {exact}");
    }
}

#[test]
fn what_is_no_ledger_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data.ldb");
    std::fs::write(&path, [7; 10_000]).unwrap();
    assert!(matches!(scrub_copy(&path), Err(ScrubError::Read(_))));
    assert_eq!(std::fs::read(&path).unwrap(), [7; 10_000]);
    let missing = dir.path().join("nowhere");
    assert!(matches!(scrub_copy(&missing), Err(ScrubError::Read(_))));
}
