//! Files that were cut, edited, or never were ledgers: refused or found out, never a panic, never a
//! loop, never memory out of proportion.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::LazyLock;

use common::{data, failures};
use nano_ledger::{
    LedgerError, LedgerFile, Level, Sample, VerifyError, VerifyOptions, VerifyReport, summarize,
};
use proptest::prelude::*;
use std::path::Path;
use tempfile::TempDir;

const PAGE: usize = 4096;
/// Start of the record in a meta page, and of fields in it.
const META: usize = 16;
const PAGE_SIZE: usize = META + 24;
const MAIN_TREE: usize = META + 72;
const LAST_PAGE: usize = META + 120;
const TXN: usize = META + 128;

/// Verifies; what keeps that from ending in a report must be the ledger's fault.
fn verify(path: &Path, level: Level) -> Result<VerifyReport, LedgerError> {
    let options = VerifyOptions {
        sample: Sample {
            accounts: 4,
            depth: 2,
            ..Sample::default()
        },
        ..VerifyOptions::default()
    };
    nano_ledger::verify(path, level, &options).map_err(|error| match error {
        VerifyError::Ledger(error) => error,
        other => panic!("{other:?}"),
    })
}

static ORIGINAL: LazyLock<Vec<u8>> = LazyLock::new(|| fs::read(data("before.ldb")).unwrap());

fn write(bytes: &[u8]) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data.ldb");
    fs::write(&path, bytes).unwrap();
    (dir, path)
}

/// Reads all there is by every way of reading, and says whether verification found it sound.
fn read_everything(bytes: &[u8]) -> bool {
    let (_dir, path) = write(bytes);
    let sound = verify(&path, Level::L2).is_ok_and(|report| report.passed());
    let summary = summarize(&path);
    if let Ok(file) = LedgerFile::open(&path)
        && let Ok(tables) = file.tables()
    {
        for table in &tables {
            let mut entries = file.entries(table);
            let mut rows = 0_usize;
            while let Ok(Some((key, _))) = entries.next() {
                rows += 1;
                if rows.is_multiple_of(97) {
                    let _ = file.get(table, key);
                }
            }
            assert!(
                rows <= bytes.len() / 8,
                "more rows than the file has room for"
            );
            let _ = file.get(table, &[0x80; 32]);
        }
    }
    // What is sound can be summarised.
    assert!(!sound || summary.is_ok());
    sound
}

#[test]
fn cut_files_are_never_sound() {
    let len = ORIGINAL.len();
    let mut cuts = vec![
        0,
        1,
        15,
        16,
        META + 8,
        151,
        152,
        PAGE - 1,
        PAGE,
        PAGE + 151,
        PAGE + 152,
    ];
    cuts.extend([
        2 * PAGE,
        2 * PAGE + 1,
        3 * PAGE,
        len / 2,
        len / 2 + 7,
        len - PAGE,
        len - 1,
    ]);
    for cut in cuts {
        assert!(!read_everything(&ORIGINAL[..cut]), "cut at {cut}");
    }
    assert!(read_everything(&ORIGINAL));
}

#[test]
fn other_files_are_told_from_ledgers() {
    let (dir, path) = write(b"");
    let not_a_ledger = |content: &[u8], mention: &str| {
        fs::write(&path, content).unwrap();
        let texts = [
            summarize(&path).unwrap_err(),
            verify(&path, Level::L0).unwrap_err(),
            verify(&path, Level::L2).unwrap_err(),
        ];
        for error in texts {
            assert!(matches!(error, LedgerError::NotALedger { .. }), "{error:?}");
            assert!(error.to_string().contains(mention), "{error}");
        }
    };
    not_a_ledger(b"", "empty");
    not_a_ledger(b"hello", "too short");
    not_a_ledger("some text ".repeat(10_000).as_bytes(), "magic");
    not_a_ledger(&[0; 20_000], "magic");
    not_a_ledger(b"7z\xBC\xAF\x27\x1C and more", "7z archive");
    not_a_ledger(b"\x28\xB5\x2F\xFD and more", "zstd archive");
    not_a_ledger(b"d8:announce35:http://", "torrent");
    let mut bytes = ORIGINAL[..2 * PAGE].to_vec();
    for meta in [0, PAGE] {
        bytes[meta + META..meta + META + 4].reverse();
    }
    not_a_ledger(&bytes, "byte order");
    for meta in [0, PAGE] {
        bytes[meta + META..meta + META + 4].reverse();
        bytes[meta + META + 4] = 2;
    }
    not_a_ledger(&bytes, "version 2");

    let error = summarize(dir.path()).unwrap_err();
    assert!(error.to_string().contains("directory"), "{error}");
    let missing = dir.path().join("nowhere");
    assert!(matches!(summarize(&missing), Err(LedgerError::Open { .. })));
}

#[test]
fn other_lmdb_files_are_told_from_ledgers() {
    // A ledger whose table of blocks has another name.
    let mut bytes = ORIGINAL.clone();
    let name = b"blocks";
    for at in 0..bytes.len() - name.len() {
        if bytes[at..].starts_with(name) {
            bytes[at..at + name.len()].copy_from_slice(b"bricks");
        }
    }
    let (_dir, path) = write(&bytes);
    for error in [
        summarize(&path).unwrap_err(),
        verify(&path, Level::L0).unwrap_err(),
    ] {
        assert!(matches!(error, LedgerError::NotALedger { .. }), "{error:?}");
        assert!(
            error.to_string().contains("tables of a ledger: blocks"),
            "{error}"
        );
    }
    // An environment without any table: no root at all.
    let mut bytes = ORIGINAL.clone();
    for meta in [0, PAGE] {
        bytes[meta + MAIN_TREE..][..48].fill(0);
        bytes[meta + MAIN_TREE + 40..][..8].fill(0xFF);
    }
    let (_dir, path) = write(&bytes);
    assert!(matches!(
        summarize(&path),
        Err(LedgerError::NotALedger { .. })
    ));
}

/// The newer of the two meta pages; in `before.ldb` the second.
const NEWER: usize = PAGE;

#[test]
fn edited_meta_pages_fail_their_check() {
    // Field, its new value, check that fails.
    let cases: [(usize, &[u8], &str); 9] = [
        (NEWER + META, b"\0", "meta-pages"),
        (META, b"\0", "meta-pages"),
        (8 + 2, b"\0", "meta-pages"),
        (NEWER, b"\x05", "meta-pages"),
        (NEWER + PAGE_SIZE, &[0, 0, 1, 1], "meta-pages"),
        (NEWER + LAST_PAGE, &[0; 8], "meta-pages"),
        (NEWER + LAST_PAGE, &[0xFF; 8], "meta-pages"),
        (NEWER + TXN + 1, &[0xFF], "meta-pages"),
        (NEWER + LAST_PAGE + 2, &[1], "file-length"),
    ];
    for (offset, value, check) in cases {
        let mut bytes = ORIGINAL.clone();
        bytes[offset..offset + value.len()].copy_from_slice(value);
        let (_dir, path) = write(&bytes);
        let report = verify(&path, Level::L0).unwrap();
        assert!(
            failures(&report).contains(&check),
            "{offset} {value:?}: {report:#?}"
        );
    }
}

#[test]
fn the_reader_takes_the_newer_meta_page_and_the_other_if_that_is_broken() {
    let (_dir, path) = write(&ORIGINAL);
    assert_eq!(LedgerFile::open(&path).unwrap().meta().txn(), 6525);
    for (broken, txn) in [(0, 6525), (PAGE, 6524)] {
        let mut bytes = ORIGINAL.clone();
        bytes[broken + META] ^= 1;
        let (_dir, path) = write(&bytes);
        let file = LedgerFile::open(&path).unwrap();
        assert_eq!(file.meta().txn(), txn);
        assert_eq!(file.meta().page_size(), 4096);
        assert!(!verify(&path, Level::L0).unwrap().passed());
    }
}

/// Offsets of all pages but the meta pages.
fn tree_pages() -> impl Iterator<Item = usize> {
    (2 * PAGE..ORIGINAL.len()).step_by(PAGE)
}

#[test]
fn pages_that_point_at_themselves_or_their_parents_end_the_walk() {
    // Every branch page's children, all made the page itself or the root.
    let mut branches = 0;
    for at in tree_pages() {
        let flags = ORIGINAL[at + 10];
        let number = u64::from_le_bytes(ORIGINAL[at..at + 8].try_into().unwrap());
        if flags != 1 || number as usize * PAGE != at {
            continue;
        }
        branches += 1;
        let lower = u16::from_le_bytes([ORIGINAL[at + 12], ORIGINAL[at + 13]]) as usize;
        for target in [number as u32, 2, u32::MAX] {
            let mut bytes = ORIGINAL.clone();
            for pointer in (16..lower).step_by(2) {
                let offset = [bytes[at + pointer], bytes[at + pointer + 1]];
                let node = at + u16::from_le_bytes(offset) as usize;
                bytes[node..node + 4].copy_from_slice(&target.to_le_bytes());
            }
            read_everything(&bytes);
        }
    }
    assert!(branches >= 4, "{branches}");
}

/// A file as long as a terabyte costs neither time nor memory when nothing is in it.
#[test]
fn sparse_files_are_read_by_their_pages_in_use() {
    let (_dir, path) = write(&ORIGINAL);
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    let report = verify(&path, Level::L2).unwrap();
    assert!(report.passed(), "{report:#?}");
    let summary = report.summary.unwrap();
    assert_eq!(
        (summary.file_len, summary.used_len),
        (1 << 40, ORIGINAL.len() as u64)
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Bits anywhere.
    #[test]
    fn flipped_bits_never_panic(flips in prop::collection::vec((any::<prop::sample::Index>(), 0..8_u32), 1..40)) {
        let mut bytes = ORIGINAL.clone();
        for (index, bit) in flips {
            let at = index.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        read_everything(&bytes);
    }

    /// Bytes where they do most: meta pages, page headers, node lists and node headers.
    #[test]
    fn edited_structure_never_panics(
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0..64_usize, any::<u8>()), 1..200),
        metas in prop::collection::vec((0..2_usize, 0..152_usize, any::<u8>()), 0..3),
    ) {
        let mut bytes = ORIGINAL.clone();
        for (index, offset, value) in edits {
            let page = index.index(bytes.len() / PAGE) * PAGE;
            bytes[page + offset] = value;
        }
        for (meta, offset, value) in metas {
            bytes[meta * PAGE + offset] = value;
        }
        read_everything(&bytes);
    }

    /// Any bytes behind valid meta pages.
    #[test]
    fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..40_000), root in 0..12_u8) {
        let mut bytes = ORIGINAL[..2 * PAGE].to_vec();
        bytes[NEWER + MAIN_TREE + 40..][..8].copy_from_slice(&[root, 0, 0, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(&noise);
        prop_assert!(!read_everything(&bytes));
    }
}
