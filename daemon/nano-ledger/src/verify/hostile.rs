//! Ten thousand small ledgers, each with a fault in a page of some kind: every verification ends with a report after a
//! bounded number of reads.
//!
//! Two thousand of them are the default; `LEDGER_HOSTILE_CASES=10000` runs all. A case that fails
//! names its number, by which it can be run alone.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::thread;

use heed::CommitOrAbort;
use heed::types::Bytes;

use super::*;
use crate::bytes::u16_at;
use crate::lmdb::error::LedgerError;
use crate::lmdb::meta::PAGE_HEADER;
use crate::lmdb::page::{NodeValue, Page, PageKind};
use crate::random::Random;

const PAGE: usize = 4096;
const DEFAULT_CASES: u64 = 2000;
/// Rows taken from each table of the genuine ledger.
const ROWS: usize = 60;

/// A ledger of a few rows of a genuine one, with branches in most tables and a list of free pages that
/// has pages of its own.
fn make(path: &Path) {
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/after.ldb");
    let genuine = LedgerFile::open(Path::new(data)).unwrap();
    let tables = genuine.tables().unwrap();
    let env = crate::lmdb::env::open_for_generating(path, 1 << 26).unwrap();
    for clear in [false, true] {
        let txn = env.write_txn().unwrap();
        env.create_databases_and_commit(txn, |opener, txn| {
            for table in &tables {
                let name = table.name.as_str();
                let into = opener.create_database::<Bytes, Bytes>(txn, Some(name))?;
                if name == "peers" || name == "online_weight" {
                    let (of_key, of_value) = if name == "peers" { (18, 8) } else { (8, 16) };
                    for nth in 0..10 {
                        into.put(txn, &vec![nth; of_key], &vec![nth; of_value])?;
                    }
                }
                if name == "pruned" {
                    // Grows the file and then frees it again.
                    if clear {
                        into.clear(txn)?;
                    } else {
                        for nth in 0..300_u32 {
                            into.put(txn, &nth.to_be_bytes(), &[0; 3000])?;
                        }
                    }
                }
                let mut entries = genuine.entries(table);
                let mut left = if clear { 0 } else { ROWS };
                while left > 0
                    && let Some((key, value)) = entries.next().unwrap()
                {
                    into.put(txn, key, value)?;
                    left -= 1;
                }
            }
            // The genesis block and account, so that the network is known.
            let genesis = crate::blocks::proof::DEV_GENESIS;
            let accounts = crate::lmdb::tables::find(&tables, "accounts").unwrap();
            let row = genuine.get(accounts, &genesis).unwrap().unwrap();
            let into = opener.create_database::<Bytes, Bytes>(txn, Some("accounts"))?;
            into.put(txn, &genesis, &row)?;
            let blocks = crate::lmdb::tables::find(&tables, "blocks").unwrap();
            let open = genuine.get(blocks, &row[64..96]).unwrap().unwrap();
            let into = opener.create_database::<Bytes, Bytes>(txn, Some("blocks"))?;
            into.put(txn, &row[64..96], &open)?;
            Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(()))
        })
        .unwrap();
    }
}

/// Pages in use by what they are: `meta`, `blocks branch`, `the list of free pages run`, ….
fn pages_by_kind(path: &Path) -> BTreeMap<String, Vec<u64>> {
    let file = LedgerFile::open(path).unwrap();
    let mut kinds = BTreeMap::from([("meta".to_owned(), vec![0, 1])]);
    let meta = *file.meta();
    let mut roots: Vec<_> = file
        .tables()
        .unwrap()
        .into_iter()
        .map(|table| (table.name, table.tree))
        .collect();
    roots.push(("free".into(), meta.free));
    roots.push(("main".into(), meta.main));
    let mut buffer = Vec::new();
    for (name, tree) in roots {
        let mut waiting: Vec<_> = tree
            .root
            .map(|root| (root, tree.depth))
            .into_iter()
            .collect();
        while let Some((number, levels)) = waiting.pop() {
            file.read_page(&name, number, &mut buffer).unwrap();
            let kind = if levels == 1 {
                PageKind::Leaf
            } else {
                PageKind::Branch
            };
            let page = Page::new(&buffer, number, kind).unwrap();
            for node in 0..page.len() {
                if kind == PageKind::Branch {
                    waiting.push((page.child(node).unwrap(), levels - 1));
                } else if let NodeValue::Overflow { page, .. } = page.value(node).unwrap() {
                    kinds.entry(format!("{name} run")).or_default().push(page);
                }
            }
            kinds
                .entry(format!("{name} {kind:?}"))
                .or_default()
                .push(number);
        }
    }
    kinds
}

/// Changes something in a page.
fn edit(page: &mut [u8], number: u64, pages: u64, random: &mut Random) {
    let below =
        |random: &mut Random, bound: usize| usize::try_from(random.below(bound as u64)).unwrap();
    // Numbers that are at the edge of something.
    let interesting = |random: &mut Random| match random.below(8) {
        0 => 0,
        1 => 1,
        2 => u64::MAX,
        3 => pages,
        4 => pages - 1,
        5 => number,
        6 => random.below(pages),
        _ => random.next(),
    };
    let value = interesting(random).to_le_bytes();
    let width = [1, 2, 4, 8][below(random, 4)];
    // Where it does most: the header, the list of nodes, the nodes, or anywhere.
    let nodes = usize::from(u16_at(page, 12).unwrap()).saturating_sub(PAGE_HEADER) / 2;
    let offset = match random.below(4) {
        0 => below(random, PAGE_HEADER),
        1 if nodes > 0 => PAGE_HEADER + 2 * below(random, nodes),
        2 if nodes > 0 => {
            let node = u16_at(page, PAGE_HEADER + 2 * below(random, nodes)).unwrap_or(0);
            usize::from(node) + below(random, 8 + 64)
        }
        _ if number < 2 => PAGE_HEADER + below(random, 136),
        _ => below(random, PAGE),
    };
    if let Some(place) = page.get_mut(offset..offset + width) {
        place.copy_from_slice(&value[..width]);
    }
}

/// Runs the cases of one in `threads` and gives the most reads any took.
fn run(original: &[u8], kinds: &[Vec<u64>], cases: impl Iterator<Item = u64>) -> u64 {
    let dir = tempfile::tempdir().unwrap();
    let path: PathBuf = dir.path().join("data.ldb");
    std::fs::write(&path, original).unwrap();
    let out = File::options().write(true).open(&path).unwrap();
    let pages = (original.len() / PAGE) as u64;
    let mut most = 0;
    for case in cases {
        let mut random = Random::new(case);
        let mut edited = Vec::new();
        // The kinds take turns.
        for nth in 0..=random.below(3) {
            let kind = &kinds[usize::try_from(case + nth).unwrap() % kinds.len()];
            let number = kind[usize::try_from(random.below(kind.len() as u64)).unwrap()];
            let at = usize::try_from(number).unwrap() * PAGE;
            let mut page = original[at..at + PAGE].to_vec();
            for _ in 0..=random.below(4) {
                edit(&mut page, number, pages, &mut random);
            }
            out.write_all_at(&page, at as u64).unwrap();
            edited.push(at);
        }
        // Any level, any memory for sorting.
        let options = VerifyOptions {
            sample: Sample {
                seed: Some(case),
                accounts: 8,
                depth: 4,
            },
            memory: if case % 5 == 0 { 3000 } else { 1 << 20 },
            ..VerifyOptions::default()
        };
        let level = if case % 3 == 0 { Level::L2 } else { Level::L3 };
        match LedgerFile::open(&path) {
            Ok(file) => {
                match run::run(&file, level, &options) {
                    Ok(report) => assert!(!report.checks.is_empty(), "case {case}"),
                    Err(VerifyError::Ledger(LedgerError::NotALedger { .. })) => {}
                    Err(error) => panic!("case {case}: {error:?}"),
                }
                most = most.max(file.reads.load(Ordering::Relaxed));
            }
            Err(LedgerError::NotALedger { .. }) => {}
            Err(error) => panic!("case {case}: {error:?}"),
        }
        for at in edited {
            out.write_all_at(&original[at..at + PAGE], at as u64)
                .unwrap();
        }
    }
    most
}

#[test]
fn edited_pages_of_every_kind_end_in_a_verdict() {
    let cases =
        std::env::var("LEDGER_HOSTILE_CASES").map_or(DEFAULT_CASES, |cases| cases.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data.ldb");
    make(&path);
    let kinds = pages_by_kind(&path);
    for kind in [
        "meta",
        "free Leaf",
        "free run",
        "main Leaf",
        "blocks Branch",
        "blocks Leaf",
        "accounts Branch",
        "pending Branch",
        "confirmation_height Leaf",
        "rep_weights Leaf",
        "peers Leaf",
        "meta Leaf",
    ] {
        assert!(kinds.contains_key(kind), "no {kind} in {:?}", kinds.keys());
    }
    let kinds: Vec<_> = kinds.into_values().collect();
    let original = std::fs::read(&path).unwrap();
    let threads = 4;
    let most = thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|first| {
                let (original, kinds) = (&original, &kinds);
                let cases = (first..cases).step_by(usize::try_from(threads).unwrap());
                scope.spawn(move || run(original, kinds, cases))
            })
            .collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .max()
            .unwrap()
    });
    // Every table could name every page; none may be read without end.
    let pages = (original.len() / PAGE) as u64;
    println!("{cases} cases on {pages} pages, at most {most} reads");
    assert!(most < 10 * pages, "{most} reads of {pages} pages");
}
