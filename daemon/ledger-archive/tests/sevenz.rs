//! 7z archives that 7-Zip made, and what their headers can say.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;

use ledger_archive::{ExtractError, ExtractOptions, LedgerFormat, Refusal, detect, extract_file};
use support::{Bench, ledger, options};

fn fixture(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    fs::read(path.join(name)).unwrap()
}

fn small() -> Vec<u8> {
    ledger(3000, 7)
}

#[test]
fn ledgers_are_extracted() {
    for (name, content) in [
        ("solid.7z", small().repeat(100)),
        ("reset.7z", small().repeat(1700)),
        ("nested.7z", small()),
        ("separate.7z", small()),
        ("plain-header.7z", small()),
        ("stored.7z", small()),
        ("lzma.7z", small()),
        ("pipe.7z", small()),
    ] {
        println!("{name}");
        let bench = Bench::new(&fixture(name));
        assert_eq!(detect(&bench.archive).unwrap(), LedgerFormat::SevenZ);
        let report = bench.succeeds(options(), &content);
        assert_eq!(report.format, LedgerFormat::SevenZ);
        // As the file system counts, in blocks.
        let least = fixture(name).len() + content.len();
        assert!((least as u64..least as u64 + (64 << 10)).contains(&report.peak_disk_bytes));
    }
}

/// The archive with other bytes in its header, which is not compressed, and right checksums.
fn patched(name: &str, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut archive = fixture(name);
    let offset = 32 + u64::from_le_bytes(archive[12..20].try_into().unwrap()) as usize;
    let mut header = archive.split_off(offset);
    change(&mut header);
    archive[20..28].copy_from_slice(&(header.len() as u64).to_le_bytes());
    archive[28..32].copy_from_slice(&crc32fast::hash(&header).to_le_bytes());
    archive.extend_from_slice(&header);
    with_start_checksum(archive)
}

fn with_start_checksum(mut archive: Vec<u8>) -> Vec<u8> {
    let checksum = crc32fast::hash(&archive[12..32]);
    archive[8..12].copy_from_slice(&checksum.to_le_bytes());
    archive
}

fn replace(header: &mut Vec<u8>, from: &[u8], to: &[u8]) {
    let at = header
        .windows(from.len())
        .position(|window| window == from)
        .unwrap();
    header.splice(at..at + from.len(), to.iter().copied());
}

fn utf16(name: &str) -> Vec<u8> {
    name.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn renamed(from: &str, to: &str) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    patched("plain-header.7z", |header| {
        replace(header, &utf16(from), &utf16(to));
    })
}

#[test]
fn what_has_content_is_a_file_whatever_it_was_read_from() {
    for mode in [0o010_600_u32, 0o020_666, 0o060_660, 0o140_666] {
        let archive = patched("plain-header.7z", |header| {
            let of = |mode: u32| (mode << 16 | 0x8020).to_le_bytes();
            // The empty file, the readme and the ledger, one after the other.
            let from = [of(0o100_644), of(0o100_644), of(0o100_644)].concat();
            let to = [of(0o100_644), of(mode), of(mode)].concat();
            replace(header, &from, &to);
        });
        Bench::new(&archive).succeeds(options(), &small());
    }
}

#[test]
fn every_rule_refuses_by_name() {
    let solid = fixture("solid.7z");
    let damaged = |at: usize| {
        let mut archive = solid.clone();
        archive[at] ^= 0x10;
        archive
    };
    // Of the empty file, which comes before those with content.
    let unix_mode = |mode: u32| {
        patched("plain-header.7z", |header| {
            let (from, to) = (0o100_644_u32 << 16 | 0x8020, mode << 16 | 0x8020);
            replace(header, &from.to_le_bytes(), &to.to_le_bytes());
        })
    };
    let table: Vec<(&str, &str, Vec<u8>)> = vec![
        ("two ledgers", "TwoLedgers", fixture("two.7z")),
        ("no ledger", "NoLedger", fixture("none.7z")),
        ("nothing", "NoLedger", fixture("empty.7z")),
        (
            "bzip2",
            "SevenZMethod { name: \"BZip2 (040202)\"",
            fixture("bzip2.7z"),
        ),
        (
            "filter",
            "SevenZMethod { name: \"the filter BCJ (x86) (03030103)\"",
            fixture("filtered.7z"),
        ),
        ("encrypted", "SevenZEncrypted", fixture("encrypted.7z")),
        (
            "encrypted header",
            "SevenZEncrypted",
            fixture("encrypted-header.7z"),
        ),
        ("link", "Link", fixture("link.7z")),
        ("link by mode", "Link", unix_mode(0o120_777)),
        ("device", "Device", unix_mode(0o020_666)),
        ("fifo", "Device", unix_mode(0o010_666)),
        ("socket", "Device", unix_mode(0o140_666)),
        (
            "Windows link",
            "Link",
            patched("plain-header.7z", |header| {
                let from = (0o100_644_u32 << 16 | 0x8020).to_le_bytes();
                replace(header, &from, &0x400_u32.to_le_bytes());
            }),
        ),
        ("absolute path", "AbsolutePath", renamed("Nano/z", "/ano/z")),
        ("parent path", "ParentPath", renamed("Nano/z", "../a/z")),
        (
            "parent path of Windows",
            "ParentPath",
            renamed("Nano/z", "..\\a/z"),
        ),
        ("no name", "BadName", renamed("Nano/z", "\0\0\0\0\0\0")),
        (
            "duplicate",
            "Duplicate",
            renamed("Nano/empty", "Nano/////z"),
        ),
        ("version", "SevenZHeader", {
            let mut archive = solid.clone();
            archive[6] = 1;
            archive
        }),
        ("start header", "SevenZHeaderChecksum", damaged(14)),
        ("header", "SevenZHeaderChecksum", damaged(solid.len() - 3)),
        ("content", "SevenZ", damaged(100)),
        ("stored content", "SevenZChecksum", {
            let mut archive = fixture("stored.7z");
            archive[1000] ^= 1;
            archive
        }),
        ("cut", "SevenZIncomplete", solid[..solid.len() - 1].to_vec()),
        (
            "first volume",
            "SevenZIncomplete",
            solid[..solid.len() / 2].to_vec(),
        ),
        (
            "cut within the first bytes",
            "Truncated",
            solid[..20].to_vec(),
        ),
        (
            "something behind",
            "TrailingGarbage",
            [&solid[..], &[0]].concat(),
        ),
        (
            "a header of 2 MiB",
            "SevenZHeader",
            patched("stored.7z", |header| header.resize(2 << 20, 0)),
        ),
        (
            "something behind the header's end",
            "SevenZHeader",
            patched("stored.7z", |header| header.push(0)),
        ),
        (
            "more than the stream has",
            "LessThanDeclared",
            // 3000 as 7-Zip writes it.
            patched("stored.7z", |header| {
                replace(header, &[0x0C, 0x8B, 0xB8], &[0x0C, 0x8B, 0xB9]);
            }),
        ),
        (
            "less than the stream has",
            "MoreThanDeclared",
            patched("stored.7z", |header| {
                replace(header, &[0x0C, 0x8B, 0xB8], &[0x0C, 0x8B, 0xB7]);
            }),
        ),
        (
            "beyond the limit",
            "TooLarge",
            patched("stored.7z", |header| {
                let many = [0x0C, 0xFF, 0, 0, 0, 0, 0, 0, 0, 1];
                replace(header, &[0x0C, 0x8B, 0xB8], &many);
            }),
        ),
        (
            "a stream outside",
            "SevenZHeader",
            patched("stored.7z", |header| {
                replace(header, &[0x09, 0x8B, 0xB8], &[0x09, 0x8B, 0xB9]);
            }),
        ),
        (
            "no checksum",
            "SevenZUnchecked",
            patched("stored.7z", |header| {
                let at = header
                    .windows(2)
                    .position(|pair| pair == [0x0A, 0x01])
                    .unwrap();
                header.drain(at..at + 6);
            }),
        ),
        (
            "millions of files",
            "TooManyEntries",
            patched("stored.7z", |header| {
                replace(header, &[0x05, 0x01], &[0x05, 0xFF, 0, 0, 0, 0, 1, 0, 0, 0]);
            }),
        ),
        (
            "a dictionary of 3 GiB",
            "SevenZDictionary { needed: 3221225472, limit: 1073741824 }",
            patched("plain-header.7z", |header| {
                let at = header
                    .windows(2)
                    .position(|pair| pair == [0x21, 0x01])
                    .unwrap();
                header[at + 2] = 39;
            }),
        ),
    ];
    let mut wrong = Vec::new();
    for (what, expected, archive) in table {
        let refusal = Bench::new(&archive).refused(options());
        if !format!("{refusal:?}").starts_with(expected) {
            wrong.push(format!("{what}: {refusal:?} instead of {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn limits_are_the_callers() {
    let bench = Bench::new(&fixture("solid.7z"));
    let short = ExtractOptions::new(299_999);
    assert!(matches!(
        bench.refused(short),
        Refusal::TooLarge {
            declared: 300_000,
            limit: 299_999
        }
    ));
    let needed = match bench.refused(options().with_max_dictionary_bytes(4096)) {
        Refusal::SevenZDictionary {
            needed,
            limit: 4096,
        } => needed,
        other => panic!("{other:?}"),
    };
    assert!(matches!(
        bench.refused(options().discarding_archive()),
        Refusal::SevenZDiscard
    ));
    let exact = ExtractOptions::new(300_000).with_max_dictionary_bytes(needed);
    bench.succeeds(exact, &small().repeat(100));
}

#[test]
fn an_interrupted_extraction_starts_from_zero() {
    let bench = Bench::new(&fixture("reset.7z"));
    let stopped = extract_file(&bench.archive, &bench.target, options(), |progress| {
        assert_eq!(
            (progress.ledger_bytes, progress.ledger_len),
            (0, Some(5_100_000))
        );
        ControlFlow::Break(())
    });
    assert!(matches!(stopped, Err(ExtractError::Stopped)));
    assert_eq!(bench.names(), ["archive", "data.ldb", "data.ldb.partial"]);
    // What an extraction of something else left does not matter either.
    fs::write(bench.beside(".partial"), vec![9; 6_000_000]).unwrap();
    let report = bench.succeeds(options(), &small().repeat(1700));
    assert_eq!(report.resumed_bytes, 0);
}
