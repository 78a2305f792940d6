//! Hostile archives: every refusal by name, and random damage.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::fs;
use std::os::unix::fs::symlink;

use ledger_archive::{
    ArchiveId, ExtractError, Extractor, PackOptions, Refusal, extract_file, pack,
};
use support::{Bench, LIMIT, OLD, Tar, frame, frames, header, ledger, options};

/// A tar file whose ledger comes after `begin`.
fn with_ledger(begin: Tar) -> Vec<u8> {
    begin.file("data.ldb", &ledger(5000, 1)).end()
}

fn good() -> Vec<u8> {
    with_ledger(Tar::new())
}

fn forged_size(field: [u8; 12]) -> Vec<u8> {
    let mut header = header(b'0', b"data.ldb", 0);
    header.as_old_mut().size = field;
    header.set_cksum();
    Tar::new().header(&header).content(&[1; 5000]).end()
}

/// The name of a refusal's variant.
fn variant(refusal: &Refusal) -> String {
    let debug = format!("{refusal:?}");
    debug.split([' ', '{']).next().unwrap().to_owned()
}

#[test]
fn every_rule_of_tar_refuses_by_name() {
    let other = |kind: u8, name: &[u8]| with_ledger(Tar::new().entry(kind, name, b""));
    let named = |name: &[u8]| with_ledger(Tar::new().entry(b'0', name, b"content"));
    let mut wrong_checksum = good();
    wrong_checksum[0] ^= 1;
    let mut no_header = good();
    no_header.splice(5632..5632, [b'x'; 512]);
    let mut trailing = good();
    trailing.push(1);
    let mut data_in_directory = header(b'5', b"dir/", 512);
    data_in_directory.set_cksum();

    let table: Vec<(&str, &str, Vec<u8>)> = vec![
        ("symbolic link", "Link", other(b'2', b"link")),
        (
            "symbolic link as ledger",
            "Link",
            Tar::new().entry(b'2', b"data.ldb", b"").end(),
        ),
        ("hard link", "Link", other(b'1', b"link")),
        ("long link name", "Link", other(b'K', b"././@LongLink")),
        ("character device", "Device", other(b'3', b"null")),
        ("block device", "Device", other(b'4', b"sda")),
        ("fifo", "Device", other(b'6', b"pipe")),
        ("GNU sparse file", "Sparse", other(b'S', b"data.ldb")),
        (
            "pax sparse file",
            "Sparse",
            with_ledger(Tar::new().pax(b'x', &[("GNU.sparse.major", "1")])),
        ),
        (
            "pax sparse files to come",
            "Sparse",
            with_ledger(Tar::new().pax(b'g', &[("GNU.sparse.major", "1")])),
        ),
        ("contiguous file", "UnknownEntry", other(b'7', b"file")),
        ("volume", "UnknownEntry", other(b'V', b"volume")),
        ("continued volume", "UnknownEntry", other(b'M', b"data.ldb")),
        ("unknown type", "UnknownEntry", other(b'?', b"file")),
        ("absolute path", "AbsolutePath", named(b"/etc/passwd")),
        (
            "absolute ledger",
            "AbsolutePath",
            Tar::new().file("/data.ldb", b"x").end(),
        ),
        ("parent", "ParentPath", named(b"../file")),
        ("parent within", "ParentPath", named(b"a/../../file")),
        (
            "parent of the ledger",
            "ParentPath",
            Tar::new().file("../data.ldb", b"x").end(),
        ),
        ("parent, Windows", "ParentPath", named(b"a\\..\\..\\file")),
        ("no name", "BadName", named(b"")),
        (
            "NUL in a pax name",
            "BadName",
            with_ledger(Tar::new().pax(b'x', &[("path", "a\0b")])),
        ),
        (
            "long name too long",
            "BadName",
            with_ledger(Tar::new().entry(b'L', b"long", &[b'a'; 5000])),
        ),
        ("duplicate", "Duplicate", named(b"data.ldb")),
        (
            "duplicate by another spelling",
            "Duplicate",
            named(b".//data.ldb"),
        ),
        (
            "duplicate by long name",
            "Duplicate",
            Tar::new()
                .file("data.ldb", b"x")
                .entry(b'L', b"long", b"data.ldb\0")
                .file("other", b"y")
                .end(),
        ),
        ("two ledgers", "TwoLedgers", named(b"old/data.ldb")),
        (
            "no ledger",
            "NoLedger",
            Tar::new().file("wallets.ldb", b"x").end(),
        ),
        ("nothing", "NoLedger", Tar::new().end()),
        (
            "a directory as ledger",
            "NoLedger",
            Tar::new().entry(b'5', b"data.ldb", b"").end(),
        ),
        (
            "an old directory as ledger",
            "NoLedger",
            Tar::new().entry(0, b"data.ldb/", b"").end(),
        ),
        (
            "too many entries",
            "TooManyEntries",
            with_ledger((0..10_000).fold(Tar::new(), |tar, n| tar.file(&format!("file{n}"), b""))),
        ),
        ("no tar file", "TarHeader", ledger(5000, 2)),
        ("wrong header checksum", "TarHeader", wrong_checksum),
        ("no second header", "TarHeader", no_header),
        (
            "directory with content",
            "TarHeader",
            Tar::new()
                .header(&data_in_directory)
                .content(&[0; 512])
                .end(),
        ),
        (
            "size without digits",
            "TarHeader",
            forged_size(*b"zzzzzzzzzzz\0"),
        ),
        ("negative size", "TarHeader", forged_size([0xFF; 12])),
        (
            "size beyond 64 bits",
            "TarHeader",
            forged_size([0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]),
        ),
        (
            "size near 2^64",
            "TooLarge",
            forged_size([0x80, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255]),
        ),
        (
            "ledger beyond the limit",
            "TooLarge",
            Tar::new()
                .header(&header(b'0', b"data.ldb", LIMIT + 1))
                .end(),
        ),
        (
            "pax size beyond the limit",
            "TooLarge",
            with_ledger(Tar::new().pax(b'x', &[("size", "999999999999")])),
        ),
        (
            "large other file",
            "OthersTooLarge",
            Tar::new().header(&header(b'0', b"other", 65 << 20)).end(),
        ),
        (
            "other file near 2^64",
            "OthersTooLarge",
            Tar::new().header(&header(b'0', b"other", u64::MAX)).end(),
        ),
        (
            "endless zeros behind the end",
            "OthersTooLarge",
            [good(), vec![0; 65 << 20]].concat(),
        ),
        (
            "large extension",
            "TarExtension",
            with_ledger(Tar::new().entry(b'x', b"pax", &[b'a'; 70_000])),
        ),
        (
            "malformed pax",
            "TarExtension",
            with_ledger(Tar::new().entry(b'x', b"pax", b"what")),
        ),
        (
            "pax behind an empty line",
            "TarExtension",
            with_ledger(Tar::new().entry(b'x', b"pax", b"\n12 path=abc\n")),
        ),
        (
            "pax size no number",
            "TarExtension",
            with_ledger(Tar::new().pax(b'x', &[("size", "+7")])),
        ),
        (
            "pax size twice",
            "TarExtension",
            with_ledger(Tar::new().pax(b'x', &[("size", "1"), ("size", "2")])),
        ),
        (
            "pax name twice",
            "TarExtension",
            with_ledger(Tar::new().pax(b'x', &[("path", "a"), ("path", "b")])),
        ),
        (
            "two long names",
            "TarExtension",
            with_ledger(Tar::new().entry(b'L', b"l", b"a").entry(b'L', b"l", b"b")),
        ),
        (
            "names for all to come",
            "TarExtension",
            with_ledger(Tar::new().pax(b'g', &[("path", "a")])),
        ),
        (
            "sizes for all to come",
            "TarExtension",
            with_ledger(Tar::new().pax(b'g', &[("size", "1")])),
        ),
        (
            "extension of nothing",
            "TarExtension",
            Tar::new()
                .file("data.ldb", b"x")
                .pax(b'x', &[("path", "a")])
                .end(),
        ),
        ("something behind the end", "TarTrailing", trailing),
        (
            "a second tar file behind the end",
            "TarTrailing",
            [good(), good()].concat(),
        ),
        (
            "one block of zeros",
            "Truncated",
            good()[..5632 + 512].to_vec(),
        ),
        ("no end", "Truncated", good()[..5632].to_vec()),
        ("half a header", "Truncated", good()[..100].to_vec()),
        ("no padding", "Truncated", good()[..5512].to_vec()),
        ("half a ledger", "Truncated", good()[..3000].to_vec()),
    ];
    let mut wrong = Vec::new();
    for (what, expected, tar) in table {
        // In one frame and in many.
        for len in [usize::MAX, 700] {
            let refusal = Bench::new(&frames(&tar, len)).refused(options());
            if variant(&refusal) != expected {
                wrong.push(format!("{what}: {refusal:?} instead of {expected}"));
            }
            if tar.len() > 1 << 20 {
                break;
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn what_is_allowed_is_extracted() {
    let content = ledger(5000, 1);
    let long = format!("{}/data.ldb", "a".repeat(200));
    let forms = [
        ("alone", good()),
        (
            "in directories, beside others",
            with_ledger(
                Tar::new()
                    .entry(b'5', b"./", b"")
                    .entry(b'5', b"./Nano/", b"")
                    .file("./Nano/readme", b"read me")
                    .file("./Nano/wallets.ldb", &[1; 70_000]),
            ),
        ),
        (
            "old file type",
            Tar::new().entry(0, b"data.ldb", &content).end(),
        ),
        (
            "others behind it",
            Tar::new()
                .file("a/data.ldb", &content)
                .file("z", b"z")
                .end(),
        ),
        (
            "GNU long name",
            Tar::new()
                .entry(b'L', b"././@LongLink", format!("{long}\0").as_bytes())
                .file("cut", &content)
                .end(),
        ),
        (
            "pax name and size",
            Tar::new()
                .pax(b'g', &[("comment", "made by hand")])
                .pax(b'x', &[("path", &long), ("size", "5000"), ("mtime", "1.5")])
                .header(&header(b'0', b"cut", 0))
                .content(&content)
                .end(),
        ),
        ("records of 10 KiB", {
            let mut tar = good();
            tar.resize(tar.len().next_multiple_of(10_240), 0);
            tar
        }),
    ];
    for (what, tar) in forms {
        for len in [usize::MAX, 700, 512, 1] {
            println!("{what}, frames of {len}");
            Bench::new(&frames(&tar, len)).succeeds(options(), &content);
        }
    }
}

#[test]
fn every_rule_of_zstd_refuses_by_name() {
    let archive = frames(&good(), 1000);
    let mut checksum = archive.clone();
    *checksum.last_mut().unwrap() ^= 1;
    let mut reserved = archive.clone();
    // A bit of the frame header that must be zero.
    reserved[4] |= 0x08;
    let dictionary = {
        let mut frame = frame(&good());
        // The frame header says that a dictionary's number follows, of one byte.
        frame[4] |= 1;
        frame.insert(5, 77);
        frame
    };
    let window = {
        let mut compressor = zstd::Encoder::new(Vec::new(), 1).unwrap();
        compressor.window_log(28).unwrap();
        std::io::Write::write_all(&mut compressor, &good()).unwrap();
        compressor.finish().unwrap()
    };
    let skipped = |content: &[u8], len: u32| {
        let header = [0x184D_2A50_u32.to_le_bytes(), len.to_le_bytes()].concat();
        [header, content.to_vec()].concat()
    };
    let table: Vec<(&str, &str, Vec<u8>)> = vec![
        ("wrong checksum", "FrameChecksum", checksum),
        ("reserved bit", "Frame", reserved),
        ("dictionary", "FrameDictionary", dictionary),
        ("window of 256 MiB", "Window", window),
        (
            "something behind",
            "TrailingGarbage",
            [&archive[..], b"more"].concat(),
        ),
        (
            "zeros behind",
            "TrailingGarbage",
            [&archive[..], &[0; 512]].concat(),
        ),
        (
            "something short behind",
            "Truncated",
            [&archive[..], &[0x28]].concat(),
        ),
        ("cut", "Truncated", archive[..archive.len() - 1].to_vec()),
        (
            "skippable frame cut",
            "Truncated",
            [&archive[..], &skipped(b"abc", 4)].concat(),
        ),
        ("skippable frames only", "Truncated", skipped(b"", 0)),
        ("nothing", "UnknownFormat", Vec::new()),
        (
            "something else",
            "UnknownFormat",
            b"PK\x03\x04 and so on, not ours".to_vec(),
        ),
        (
            "an older zstd",
            "UnknownFormat",
            b"\x27\xB5\x2F\xFD and so on, not ours".to_vec(),
        ),
        (
            "a ledger",
            "Plain",
            [&[0; 16][..], &[0xDE, 0xC0, 0xEF, 0xBE]].concat(),
        ),
    ];
    let mut wrong = Vec::new();
    for (what, expected, archive) in table {
        let refusal = Bench::new(&archive).refused(options());
        if variant(&refusal) != expected {
            wrong.push(format!("{what}: {refusal:?} instead of {expected}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_bomb_is_refused_before_it_is_written() {
    // 1 GiB of zeros in 32 KiB.
    let mut tar = Tar::new().header(&header(b'0', b"data.ldb", 1 << 30)).0;
    tar.resize(tar.len() + (64 << 20), 0);
    let bench = Bench::new(&frame(&tar));
    assert!(matches!(
        bench.refused(options()),
        Refusal::TooLarge {
            declared: 0x4000_0000,
            limit: LIMIT
        }
    ));
    // As much as declared and allowed, but not what the archive has: more.
    let mut tar = Tar::new().header(&header(b'0', b"data.ldb", 1000)).0;
    tar.resize(tar.len() + 5000, 7);
    assert_eq!(
        variant(&Bench::new(&frame(&tar)).refused(options())),
        "TarHeader"
    );
}

#[test]
fn what_is_in_the_way_is_not_followed() {
    let archive = frames(&good(), 1000);
    let elsewhere = tempfile::tempdir().unwrap();
    let precious = elsewhere.path().join("precious");
    fs::write(&precious, "precious").unwrap();
    for (name, put) in [
        (".partial", "symlink"),
        (".journal", "symlink"),
        (".partial", "hard link"),
        (".partial", "directory"),
        (".journal", "directory"),
        ("", "symlink"),
        ("", "directory"),
    ] {
        let bench = Bench::new(&archive);
        let path = bench.beside(name);
        if name.is_empty() {
            fs::remove_file(&path).unwrap();
        }
        match put {
            "symlink" => symlink(&precious, &path).unwrap(),
            "hard link" => fs::hard_link(&precious, &path).unwrap(),
            _ => fs::create_dir(&path).unwrap(),
        }
        let result = extract_file(&bench.archive, &bench.target, options(), |_| {
            std::ops::ControlFlow::Continue(())
        });
        assert!(
            matches!(&result, Err(ExtractError::NotAFile { path: at }) if *at == path),
            "{name} {put}: {result:?}"
        );
        assert_eq!(fs::read(&precious).unwrap(), b"precious");
    }
    for target in ["/", ".."] {
        let id = ArchiveId::from_bytes([0; 32]);
        assert!(matches!(
            Extractor::open(target.as_ref(), id, 1, options()),
            Err(ExtractError::NotAFile { .. })
        ));
    }
}

#[test]
fn one_extraction_at_a_time() {
    let bench = Bench::new(&frames(&good(), 1000));
    let id = ArchiveId::from_bytes([0; 32]);
    let first = Extractor::open(&bench.target, id, 9, options()).unwrap();
    assert!(matches!(
        Extractor::open(&bench.target, id, 9, options()),
        Err(ExtractError::Busy { .. })
    ));
    drop(first);
    Extractor::open(&bench.target, id, 9, options()).unwrap();
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

/// One to four changes.
fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len());
        let until = at + random.below((bytes.len() - at).min(600));
        match random.below(6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = random.next() as u8,
            2 => drop(bytes.drain(at..until)),
            3 => bytes.truncate(at),
            4 => {
                let copy = bytes[at..until].to_vec();
                bytes.splice(at..at, copy);
            }
            _ => bytes.insert(at, random.next() as u8),
        }
    }
}

/// Extracts a mutant. True if it was extracted.
fn attempt(bench: &Bench, archive: &[u8], ledgers: &[&[u8]], case: &str) -> bool {
    fs::write(&bench.archive, archive).unwrap();
    match bench.extract(options()) {
        Ok(report) => {
            let found = fs::read(&bench.target).unwrap();
            assert_eq!(report.ledger_bytes, found.len() as u64, "{case}");
            assert!(
                ledgers.is_empty() || ledgers.contains(&&found[..]),
                "{case}: another ledger"
            );
            fs::write(&bench.target, OLD).unwrap();
            true
        }
        Err(ExtractError::Refused { .. }) => {
            bench.untouched();
            false
        }
        Err(error) => panic!("{case}: {error:?}"),
    }
}

#[test]
fn mutated_archives_are_refused_or_unchanged() {
    const CASES: usize = 10_000;
    let content = ledger(150_000, 3);
    let mut packed = Vec::new();
    let small = PackOptions::default().with_frame_bytes(64 << 10).unwrap();
    pack(&content[..], content.len() as u64, &mut packed, &small).unwrap();
    let tar = Tar::new()
        .file("readme", b"read")
        .file("data.ldb", &ledger(3000, 4))
        .end();
    let seven = include_bytes!("data/solid.7z");
    let readme_ledger = ledger(3000, 4);
    let bench = Bench::in_memory(&packed);
    let mut random = Random(0x6e61_6e6f);
    let mut extracted = 0;
    for case in 0..CASES {
        let (mut bytes, inner) = match case % 4 {
            0 => (packed.clone(), false),
            1 => (frames(&tar, 1000), false),
            2 => (seven.to_vec(), false),
            _ => (tar.clone(), true),
        };
        mutate(&mut random, &mut bytes);
        let name = format!("case {case}");
        if inner {
            // Damage that the frames' checksums do not show: the tar file itself. Its content may
            // differ, as tar has no checksum of it.
            extracted += usize::from(attempt(&bench, &frames(&bytes, 1000), &[], &name));
        } else {
            let ledgers: [&[u8]; 3] = [&content, &readme_ledger, &solid_ledger()];
            extracted += usize::from(attempt(&bench, &bytes, &ledgers, &name));
        }
    }
    // Some changes do no harm, such as those to padding; most do.
    assert!((CASES / 50..CASES / 2).contains(&extracted), "{extracted}");
}

/// What is in `solid.7z`; see `data/README.md`.
fn solid_ledger() -> Vec<u8> {
    ledger(3000, 7).repeat(100)
}
