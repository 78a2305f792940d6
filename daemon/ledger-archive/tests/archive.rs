//! Packing, and what others make of it and we of theirs.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::{Command, Stdio};

use ledger_archive::{
    self, ExtractError, LedgerFormat, PackError, PackOptions, PackReport, Refusal, detect, pack,
};
use nano_ledger::synthetic;
use support::{Bench, LIMIT, ledger, options};

const LEAF: usize = 16 << 10;

fn small_frames() -> PackOptions {
    PackOptions::default().with_frame_bytes(64 << 10).unwrap()
}

fn packed(ledger: &[u8], options: &PackOptions) -> (Vec<u8>, PackReport) {
    let mut archive = Vec::new();
    let report = pack(ledger, ledger.len() as u64, &mut archive, options).unwrap();
    (archive, report)
}

/// Lengths around all that is a unit here: tar blocks, leaves, frames.
const LENGTHS: &[usize] = &[
    1, 511, 512, 513, 4096, 16_383, 16_384, 16_385, 65_535, 65_536, 65_537, 131_072, 300_000,
    458_752,
];

#[test]
fn what_is_packed_is_extracted() {
    for &len in LENGTHS {
        let content = ledger(len, len as u64);
        let (archive, report) = packed(&content, &small_frames());
        assert_eq!(report.archive_bytes, archive.len() as u64);
        assert_eq!(report.ledger_bytes, len as u64);
        assert_eq!(report.frames, len.div_ceil(64 << 10) as u64);
        let bench = Bench::new(&archive);
        assert_eq!(detect(&bench.archive).unwrap(), LedgerFormat::TarZst);
        let report = bench.succeeds(options(), &content);
        assert_eq!(
            (report.format, report.resumed_bytes),
            (LedgerFormat::TarZst, 0)
        );
    }
}

#[test]
fn an_empty_file_is_packed_and_extracted() {
    let (archive, report) = packed(b"", &small_frames());
    assert_eq!(report.frames, 0);
    Bench::new(&archive).succeeds(options(), b"");
}

#[test]
fn threads_do_not_show_in_the_bytes() {
    let content = ledger(1_000_000, 5);
    let (one, _) = packed(&content, &small_frames().with_threads(NonZeroUsize::MIN));
    for threads in [2, 3, 7] {
        let threads = NonZeroUsize::new(threads).unwrap();
        let (many, _) = packed(&content, &small_frames().with_threads(threads));
        assert!(many == one, "{threads}");
    }
    let (other, _) = packed(&content, &small_frames().with_level(4).unwrap());
    assert!(other != one);
}

#[test]
fn frames_start_at_leaves_and_the_table_knows_them() {
    let content = ledger(500_000, 6);
    let (archive, report) = packed(&content, &small_frames());
    let (rest, magic) = archive.split_last_chunk::<4>().unwrap();
    assert_eq!(u32::from_le_bytes(*magic), 0x8F92_EAB1);
    let (rest, descriptor) = rest.split_last_chunk::<1>().unwrap();
    assert_eq!(descriptor, &[0]);
    let (rest, count) = rest.split_last_chunk::<4>().unwrap();
    let count = u32::from_le_bytes(*count) as usize;
    let table_at = archive.len() - 17 - count * 8;
    assert_eq!(table_at % LEAF, 0);
    assert_eq!(archive[table_at..table_at + 4], [0x5E, 0x2A, 0x4D, 0x18]);
    let entries: Vec<(usize, usize)> = rest[table_at + 8..]
        .chunks(8)
        .map(|entry| {
            let number = |at: usize| u32::from_le_bytes(entry[at..at + 4].try_into().unwrap());
            (number(0) as usize, number(4) as usize)
        })
        .collect();
    assert_eq!(entries.len(), count);
    // Every frame can be decoded alone, where the table says, and starts at a leaf; padding has no content.
    let (mut at, mut tar, mut frames, mut padding) = (0, Vec::new(), 0, 0);
    for (len, content_len) in entries {
        let frame = &archive[at..at + len];
        if content_len == 0 {
            assert_eq!(frame[..4], [0x50, 0x2A, 0x4D, 0x18]);
            padding += len;
        } else {
            assert_eq!(at % LEAF, 0);
            let content = zstd::decode_all(frame).unwrap();
            assert_eq!(content.len(), content_len);
            tar.extend(content);
            frames += 1;
        }
        at += len;
    }
    assert_eq!(at, table_at);
    assert_eq!(frames as u64, report.frames + 2);
    assert_eq!(padding as u64, report.padding_bytes);
    assert_eq!(tar[512..][..content.len()], content);
}

#[test]
fn an_unchanged_frame_is_found_again_by_its_leaves() {
    let old = ledger(20 << 16, 8);
    let mut new = old.clone();
    // One page.
    new[7 * 65_536 + 100..][..4000].fill(0);
    let leaves =
        |bytes: &[u8]| -> Vec<Vec<u8>> { bytes.chunks(LEAF).map(<[u8]>::to_vec).collect() };
    let old_leaves = leaves(&packed(&old, &small_frames()).0);
    let new_leaves = leaves(&packed(&new, &small_frames()).0);
    let fresh = new_leaves
        .iter()
        .filter(|leaf| !old_leaves.contains(leaf))
        .count();
    // The changed frame, and at most the seek table.
    assert!((1..=5).contains(&fresh), "{fresh} of {}", new_leaves.len());
}

#[test]
fn a_ledger_of_another_length_is_no_archive() {
    let content = ledger(100_000, 9);
    for declared in [99_999, 100_001, 0] {
        let result = pack(&content[..], declared, io::sink(), &small_frames());
        assert!(
            matches!(result, Err(PackError::Length { declared: said }) if said == declared),
            "{result:?}"
        );
    }
}

struct Broken;

impl Read for Broken {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::other("broken"))
    }
}

#[test]
fn failures_name_the_side_they_are_of() {
    let content = ledger(1_000_000, 10);
    let (archive, _) = packed(&content, &small_frames());
    for room in [0, 1, 16_384, 100_000, archive.len() - 1] {
        let result = pack(
            &content[..],
            1_000_000,
            Limited(&mut Vec::new(), room),
            &small_frames(),
        );
        assert!(
            matches!(result, Err(PackError::Write { .. })),
            "{room}: {result:?}"
        );
    }
    pack(
        &content[..],
        1_000_000,
        Limited(&mut Vec::new(), archive.len()),
        &small_frames(),
    )
    .unwrap();
    let broken = content[..200_000].chain(Broken);
    let result = pack(broken, 1_000_000, io::sink(), &small_frames());
    assert!(
        matches!(
            result,
            Err(PackError::Read {
                offset: 196_608,
                ..
            })
        ),
        "{result:?}"
    );
    let result = ledger_archive::pack_file(Path::new("/nowhere"), io::sink(), &small_frames());
    assert!(matches!(result, Err(PackError::Open { .. })));
}

#[test]
fn formats_are_told_apart_by_content() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("snapshot.7z");
    let options = synthetic::Options {
        seed: 1,
        target_len: 200 << 10,
    };
    synthetic::create(&path, &options).unwrap();
    assert_eq!(detect(&path).unwrap(), LedgerFormat::Plain);
    for (start, format) in [
        (&b"7z\xBC\xAF\x27\x1C\0\x04"[..], Some(LedgerFormat::SevenZ)),
        (b"\x28\xB5\x2F\xFD", Some(LedgerFormat::TarZst)),
        (b"\x50\x2A\x4D\x18", Some(LedgerFormat::TarZst)),
        (b"\x5F\x2A\x4D\x18", Some(LedgerFormat::TarZst)),
        (b"\x60\x2A\x4D\x18", None),
        (b"\x28\xB5\x2F", None),
        (b"7z\xBC\xAF\x27", None),
        (&[0; 20], None),
        (b"", None),
    ] {
        assert_eq!(LedgerFormat::from_header(start), format, "{start:?}");
    }
    fs::write(&path, "short").unwrap();
    assert!(matches!(
        detect(&path),
        Err(ExtractError::Refused {
            refusal: Refusal::UnknownFormat
        })
    ));
    assert!(matches!(
        detect(&dir.path().join("nothing")),
        Err(ExtractError::OpenArchive { .. })
    ));
}

#[test]
fn the_limit_is_the_last_byte_allowed() {
    let content = ledger(100_000, 11);
    let bench = Bench::new(&packed(&content, &small_frames()).0);
    let refusal = bench.refused(ledger_archive::ExtractOptions::new(99_999));
    assert!(matches!(
        refusal,
        Refusal::TooLarge {
            declared: 100_000,
            limit: 99_999
        }
    ));
    bench.succeeds(ledger_archive::ExtractOptions::new(100_000), &content);
}

/// A stock program. Without it the test cannot tell anything, and says so.
fn stock(program: &str) -> Command {
    let found = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .status();
    assert!(
        found.is_ok_and(|status| status.success()),
        "there is no {program} here; on Debian: apt-get install zstd tar"
    );
    Command::new(program)
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let messages = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {messages}");
    assert_eq!(messages, "", "{command:?}");
}

#[test]
fn stock_tools_unpack_what_is_packed() {
    for len in [100_000, 458_752, 1] {
        let dir = tempfile::tempdir().unwrap();
        let content = ledger(len, 12);
        let path = dir.path().join("snapshot.tar.zst");
        fs::write(&path, packed(&content, &small_frames()).0).unwrap();
        run(stock("zstd").arg("--quiet").arg("--test").arg(&path));
        run(stock("zstd").arg("--quiet").arg("-d").arg(&path));
        let tar = dir.path().join("snapshot.tar");
        run(stock("tar").arg("-xf").arg(&tar).arg("-C").arg(dir.path()));
        assert!(fs::read(dir.path().join("data.ldb")).unwrap() == content);
        fs::remove_file(dir.path().join("data.ldb")).unwrap();
        // In one go.
        let zstd = stock("tar")
            .arg("--zstd")
            .arg("-xf")
            .arg(&path)
            .arg("-C")
            .arg(dir.path())
            .output();
        let zstd = zstd.unwrap();
        assert!(zstd.status.success() && zstd.stderr.is_empty(), "{zstd:?}");
        assert!(fs::read(dir.path().join("data.ldb")).unwrap() == content);
        let listed = stock("tar")
            .arg("-tvf")
            .arg(&tar)
            .arg("--numeric-owner")
            .output()
            .unwrap();
        let listed = String::from_utf8(listed.stdout).unwrap();
        assert!(listed.starts_with("-rw-r--r-- 0/0"), "{listed}");
        assert!(
            listed.contains("1970-01-01") && listed.ends_with(" data.ldb\n"),
            "{listed}"
        );
    }
}

#[test]
fn what_stock_tools_pack_is_extracted() {
    let dir = tempfile::tempdir().unwrap();
    let content = ledger(700_000, 13);
    fs::create_dir(dir.path().join("Nano")).unwrap();
    fs::write(dir.path().join("Nano/data.ldb"), &content).unwrap();
    fs::write(dir.path().join("Nano/config-node.toml"), "[node]\n").unwrap();
    for (format, what, zstd) in [
        ("gnu", "Nano", &["-3"][..]),
        ("pax", "Nano", &["-19"]),
        ("ustar", "Nano/data.ldb", &["-1", "--check"]),
        ("v7", "Nano/data.ldb", &["-1", "--no-check"]),
        ("gnu", "./Nano", &["-T2", "-B64K"]),
        ("gnu", "Nano", &["--long=27"]),
        ("posix", "Nano", &["--rsyncable"]),
    ] {
        println!("{format} {what} {zstd:?}");
        let tar = dir.path().join("snapshot.tar");
        let path = dir.path().join("snapshot.tar.zst");
        let _ = fs::remove_file(&path);
        run(stock("tar")
            .arg(format!("--format={format}"))
            .arg("-C")
            .arg(dir.path())
            .arg("-cf")
            .arg(&tar)
            .arg(what));
        run(stock("zstd")
            .arg("--quiet")
            .args(zstd)
            .arg(&tar)
            .arg("-o")
            .arg(&path));
        Bench::new(&fs::read(&path).unwrap()).succeeds(options(), &content);
    }
}

#[test]
fn tar_lists_a_ledger_beyond_octal_sizes() {
    // Only the start of the archive is needed for its header: packing ends when this is full.
    const LEN: u64 = 121_000_000_000;
    let mut start = Vec::new();
    let limited = Limited(&mut start, 2 * LEAF);
    let result = pack(io::repeat(0), LEN, limited, &small_frames());
    assert!(matches!(result, Err(PackError::Write { .. })), "{result:?}");
    let mut zstd = zstd::Decoder::new(&start[..]).unwrap().single_frame();
    let mut header = Vec::new();
    zstd.read_to_end(&mut header).unwrap();
    assert_eq!(header.len(), 512);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("header.tar");
    fs::write(&path, header).unwrap();
    // It lists the entry, then complains that the archive is cut.
    let listed = stock("tar").arg("-tvf").arg(&path).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains(" 121000000000 "), "{listed}");
}

/// Takes so many bytes, then fails.
struct Limited<'a>(&'a mut Vec<u8>, usize);

impl Write for Limited<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(self.1 - self.0.len());
        self.0.extend_from_slice(&bytes[..taken]);
        match taken {
            0 => Err(io::ErrorKind::StorageFull.into()),
            taken => Ok(taken),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_disk_needed_is_told_beforehand() {
    use ledger_archive::disk_needed;
    assert_eq!(disk_needed(LedgerFormat::Plain, 121, 121, false), 121);
    assert_eq!(disk_needed(LedgerFormat::SevenZ, 57, 121, false), 178);
    assert_eq!(disk_needed(LedgerFormat::TarZst, 78, 121, false), 199);
    let window = 64 << 20;
    assert_eq!(
        disk_needed(LedgerFormat::TarZst, 78, 121, true),
        121 + window
    );
    assert_eq!(
        disk_needed(LedgerFormat::TarZst, 130, 121, true),
        130 + window
    );
    assert_eq!(
        disk_needed(LedgerFormat::TarZst, u64::MAX, LIMIT, false),
        u64::MAX
    );
}

#[test]
fn a_synthetic_ledger_comes_out_as_it_went_in() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger");
    let options = synthetic::Options {
        seed: 2,
        target_len: 2 << 20,
    };
    synthetic::create(&path, &options).unwrap();
    let packed = dir.path().join("packed");
    let out = File::create(&packed).unwrap();
    let report = ledger_archive::pack_file(&path, out, &PackOptions::default()).unwrap();
    assert_eq!(report.archive_bytes, fs::metadata(&packed).unwrap().len());
    let bench = Bench::new(&fs::read(&packed).unwrap());
    bench.succeeds(support::options(), &fs::read(&path).unwrap());
}
