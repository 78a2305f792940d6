//! Extractions that are interrupted, and archives that arrive bit by bit.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ledger_archive::{
    self, ArchiveId, ArchiveSource, ExtractError, ExtractOptions, ExtractStep, Extracted,
    Extractor, FileSource, PackOptions, Refusal, extract_file, pack,
};
use support::{Bench, OLD, Tar, frame, frames, ledger, options};

const FRAME: usize = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(10);
const ID: ArchiveId = id(7);

const fn id(byte: u8) -> ArchiveId {
    ArchiveId::from_bytes([byte; 32])
}

fn packed(ledger: &[u8]) -> Vec<u8> {
    let options = PackOptions::default()
        .with_frame_bytes(FRAME as u32)
        .unwrap();
    let mut archive = Vec::new();
    pack(ledger, ledger.len() as u64, &mut archive, &options).unwrap();
    archive
}

/// A checkpoint at every frame.
fn often() -> ExtractOptions {
    options().with_checkpoint_bytes(1)
}

/// An archive in memory that is there up to some byte, and remembers the lowest byte read.
struct Prefix<'a> {
    bytes: &'a [u8],
    available: u64,
    lowest: Cell<u64>,
}

impl<'a> Prefix<'a> {
    fn new(bytes: &'a [u8], available: usize) -> Self {
        Self {
            bytes,
            available: available as u64,
            lowest: Cell::new(u64::MAX),
        }
    }
}

impl ArchiveSource for Prefix<'_> {
    fn available(&self) -> u64 {
        self.available
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset + buffer.len() as u64;
        assert!(
            end <= self.available,
            "read up to {end} of {}",
            self.available
        );
        self.lowest.set(self.lowest.get().min(offset));
        buffer.copy_from_slice(&self.bytes[offset as usize..end as usize]);
        Ok(())
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn discard_before(&self, _: u64) -> io::Result<()> {
        unreachable!("the archive is not discarded");
    }
}

/// A process that another test starts holds on to the files that are open here, and so to their locks,
/// until it has become its program.
fn open_at(target: &Path, id: ArchiveId, length: u64, options: &ExtractOptions) -> Extractor {
    let begun = Instant::now();
    loop {
        match Extractor::open(target, id, length, options.clone()) {
            Err(ExtractError::Busy { .. }) if begun.elapsed() < PATIENCE => thread::yield_now(),
            opened => return opened.unwrap(),
        }
    }
}

fn open(bench: &Bench, archive: &[u8]) -> Extractor {
    open_at(&bench.target, ID, archive.len() as u64, &often())
}

/// Goes on until there is nothing more to read.
fn drive(
    mut extractor: Extractor,
    source: &impl ArchiveSource,
) -> ControlFlow<Extracted, Extractor> {
    loop {
        extractor = match extractor.advance(source).unwrap() {
            ExtractStep::More(extractor) => extractor,
            ExtractStep::NeedsMore(extractor) => return ControlFlow::Continue(extractor),
            ExtractStep::Whole(extracted) => return ControlFlow::Break(extracted),
        };
    }
}

fn finish(bench: &Bench, archive: &[u8], content: &[u8]) -> ledger_archive::ExtractReport {
    let whole = Prefix::new(archive, archive.len());
    let extracted = drive(open(bench, archive), &whole).break_value().unwrap();
    let report = extracted.install().unwrap();
    assert!(fs::read(&bench.target).unwrap() == content);
    assert_eq!(bench.names(), ["archive", "data.ldb"]);
    report
}

#[test]
fn an_archive_is_extracted_as_it_arrives() {
    let content = ledger(500_000, 1);
    let archive = packed(&content);
    for step in [1_000, 16_384, 100_000] {
        let bench = Bench::new(b"");
        let mut extractor = open(&bench, &archive);
        let mut available = 0;
        let mut last = 0;
        let extracted = loop {
            let source = Prefix::new(&archive, available);
            extractor = match drive(extractor, &source) {
                ControlFlow::Continue(extractor) => extractor,
                ControlFlow::Break(extracted) => break extracted,
            };
            let progress = extractor.progress();
            // All that is there is used at once.
            assert_eq!(progress.archive_bytes, available as u64);
            assert!(progress.ledger_bytes >= last);
            assert_eq!(progress.archive_len, archive.len() as u64);
            last = progress.ledger_bytes;
            available = (available + step).min(archive.len());
        };
        assert_eq!(available, archive.len());
        assert_eq!(fs::read(&bench.target).unwrap(), OLD);
        assert!(fs::read(extracted.path()).unwrap() == content);
        extracted.install().unwrap();
        assert!(fs::read(&bench.target).unwrap() == content);
    }
}

#[test]
fn an_extraction_goes_on_where_it_stopped() {
    let content = ledger(500_000, 2);
    let archive = packed(&content);
    let mut last = 0;
    let mut resumed = 0;
    for available in (0..archive.len()).step_by(40_000) {
        let bench = Bench::new(b"");
        drop(drive(
            open(&bench, &archive),
            &Prefix::new(&archive, available),
        ));
        let extractor = open(&bench, &archive);
        let claimed = extractor.progress();
        assert_eq!(claimed.ledger_bytes % FRAME as u64, 0);
        assert!(claimed.ledger_bytes >= last, "progress was lost");
        assert!(claimed.archive_bytes <= available as u64);
        last = claimed.ledger_bytes;
        drop(extractor);
        // Whatever was not claimed may be lost or wrong after a power failure.
        let partial = File::options()
            .write(true)
            .open(bench.beside(".partial"))
            .unwrap();
        partial.set_len(claimed.ledger_bytes).unwrap();
        partial
            .write_all_at(&[9; 10_000], claimed.ledger_bytes)
            .unwrap();
        if claimed.ledger_bytes > 0 {
            resumed += 1;
            let journal = File::options().append(true).open(bench.beside(".journal"));
            io::Write::write_all(&mut journal.unwrap(), b"a torn rec").unwrap();
        }
        let source = Prefix::new(&archive, archive.len());
        let extracted = drive(open(&bench, &archive), &source)
            .break_value()
            .unwrap();
        assert_eq!(source.lowest.get(), claimed.archive_bytes, "read again");
        assert_eq!(extracted.report().resumed_bytes, claimed.ledger_bytes);
        extracted.install().unwrap();
        assert!(fs::read(&bench.target).unwrap() == content);
    }
    assert!(resumed > 3);
}

#[test]
fn what_does_not_belong_together_starts_from_zero() {
    let content = ledger(300_000, 3);
    let archive = packed(&content);
    let stopped = || {
        let bench = Bench::new(b"");
        drop(drive(
            open(&bench, &archive),
            &Prefix::new(&archive, archive.len() - 60_000),
        ));
        assert!(open(&bench, &archive).progress().ledger_bytes > 0);
        bench
    };
    let len = archive.len() as u64;
    let progress = |bench: &Bench, id, len, options| {
        let extractor = open_at(&bench.target, id, len, &options);
        extractor.progress().ledger_bytes
    };
    assert_eq!(
        progress(&stopped(), id(8), len, often()),
        0,
        "another archive"
    );
    assert_eq!(
        progress(&stopped(), ID, len + 1, often()),
        0,
        "another length"
    );
    let less = ExtractOptions::new(299_999);
    assert_eq!(
        progress(&stopped(), ID, len, less),
        0,
        "more than is allowed"
    );

    let bench = stopped();
    fs::remove_file(bench.beside(".partial")).unwrap();
    assert_eq!(progress(&bench, ID, len, often()), 0, "no partial file");

    let bench = stopped();
    let copy = fs::read(bench.beside(".partial")).unwrap();
    fs::write(bench.beside(".copy"), copy).unwrap();
    fs::rename(bench.beside(".copy"), bench.beside(".partial")).unwrap();
    assert_eq!(progress(&bench, ID, len, often()), 0, "another file");

    let bench = stopped();
    let partial = File::options()
        .write(true)
        .open(bench.beside(".partial"))
        .unwrap();
    partial.set_len(1000).unwrap();
    assert_eq!(
        progress(&bench, ID, len, often()),
        0,
        "less than was claimed"
    );

    let bench = stopped();
    fs::remove_file(bench.beside(".journal")).unwrap();
    assert_eq!(progress(&bench, ID, len, often()), 0, "no journal");
    // And from zero it is right.
    finish(&bench, &archive, &content);
}

#[test]
fn a_whole_ledger_is_not_extracted_again() {
    let content = ledger(300_000, 4);
    let archive = packed(&content);
    let nothing = Prefix::new(&archive, 0);
    let bench = Bench::new(b"");
    drop(
        drive(
            open(&bench, &archive),
            &Prefix::new(&archive, archive.len()),
        )
        .break_value()
        .unwrap(),
    );
    // The process ended before the rename.
    let extracted = drive(open(&bench, &archive), &nothing)
        .break_value()
        .unwrap();
    assert_eq!(extracted.path(), bench.beside(".partial"));
    let journal = fs::read(bench.beside(".journal")).unwrap();
    extracted.install().unwrap();
    assert!(fs::read(&bench.target).unwrap() == content);
    // The process ended after the rename, before the journal was removed.
    fs::write(bench.beside(".journal"), &journal).unwrap();
    let extracted = drive(open(&bench, &archive), &nothing)
        .break_value()
        .unwrap();
    assert_eq!(extracted.path(), bench.target);
    extracted.install().unwrap();
    assert!(fs::read(&bench.target).unwrap() == content);
    assert_eq!(bench.names(), ["archive", "data.ldb"]);
    // A target that only looks like it: from zero.
    fs::write(bench.beside(".journal"), &journal).unwrap();
    fs::copy(&bench.target, bench.beside(".copy")).unwrap();
    fs::rename(bench.beside(".copy"), &bench.target).unwrap();
    assert_eq!(open(&bench, &archive).progress().ledger_bytes, 0);
}

#[test]
fn a_ledger_that_fails_its_verification_is_removed() {
    let archive = packed(&ledger(300_000, 5));
    let bench = Bench::new(b"");
    let source = Prefix::new(&archive, archive.len());
    let extracted = drive(open(&bench, &archive), &source)
        .break_value()
        .unwrap();
    extracted.remove().unwrap();
    bench.untouched();
    assert_eq!(open(&bench, &archive).progress().ledger_bytes, 0);
}

/// An extraction of which half the archive came, and that was interrupted.
fn half_way(archive: &[u8]) -> Bench {
    let bench = Bench::new(b"");
    drop(drive(
        open(&bench, archive),
        &Prefix::new(archive, archive.len() / 2),
    ));
    bench
}

#[test]
fn other_archives_go_on_at_their_frames_too() {
    let content = ledger(100_000, 6);
    let tar = Tar::new()
        .entry(b'5', b"Nano/", b"")
        .file("Nano/readme", b"read me")
        .file("Nano/data.ldb", &content)
        .file("Nano/other", b"more")
        .end();
    let archive = frames(&tar, 10_000);
    let bench = half_way(&archive);
    assert!(finish(&bench, &archive, &content).resumed_bytes > 30_000);
    // Names seen before the interruption still count.
    let tar = Tar::new()
        .file("readme", b"read me")
        .file("data.ldb", &content)
        .file("readme", b"again")
        .end();
    let archive = frames(&tar, 10_000);
    let bench = half_way(&archive);
    let extractor = open(&bench, &archive);
    assert!(extractor.progress().ledger_bytes > 30_000);
    let refused = extractor
        .advance(&Prefix::new(&archive, archive.len()))
        .err();
    assert!(matches!(
        refused,
        Some(ExtractError::Refused {
            refusal: Refusal::Duplicate { .. }
        })
    ));
    bench.untouched();
    // One frame: nothing to go on at.
    let archive = frame(&tar);
    let bench = half_way(&archive);
    assert_eq!(open(&bench, &archive).progress().ledger_bytes, 0);
}

#[test]
fn a_damaged_end_takes_back_what_was_extracted() {
    let mut archive = packed(&ledger(500_000, 7));
    let bench = half_way(&archive);
    assert!(open(&bench, &archive).progress().ledger_bytes > 0);
    *archive.last_mut().unwrap() ^= 1;
    let seek_table = drive(
        open(&bench, &archive),
        &Prefix::new(&archive, archive.len()),
    );
    // The seek table is not read.
    seek_table.break_value().unwrap().remove().unwrap();
    // Within a frame of the last quarter.
    let leaf = (archive.len() * 3 / 4).next_multiple_of(16_384);
    let at = (leaf..archive.len())
        .step_by(16_384)
        .find(|&at| archive[at..].starts_with(&[0x28, 0xB5, 0x2F, 0xFD]))
        .unwrap();
    archive[at + 10_000] ^= 1;
    let refused = open(&bench, &archive).advance(&Prefix::new(&archive, archive.len()));
    assert!(matches!(
        refused.err(),
        Some(ExtractError::Refused {
            refusal: Refusal::Frame { .. } | Refusal::FrameChecksum { .. }
        })
    ));
    bench.untouched();
}

/// Bytes a file system may count beyond a file's length.
const SLACK: u64 = 64 << 10;

#[test]
fn the_archive_goes_as_the_ledger_comes() {
    let content = ledger(4 << 20, 8);
    let archive = packed(&content);
    let (archive_len, len) = (archive.len() as u64, content.len() as u64);

    let bench = Bench::new(&archive);
    let report = bench.succeeds(often(), &content);
    assert!(report.peak_disk_bytes >= archive_len + len);
    assert!(report.peak_disk_bytes <= archive_len + len + 2 * SLACK);

    let window = 512 << 10;
    let discarding = options().with_checkpoint_bytes(window).discarding_archive();
    let bench = Bench::new(&archive);
    let report = bench.succeeds(discarding.clone(), &content);
    assert!(report.peak_disk_bytes >= len);
    assert!(
        report.peak_disk_bytes <= len + window + 2 * SLACK,
        "{report:?}"
    );
    let left = File::open(&bench.archive).unwrap();
    assert_eq!(left.metadata().unwrap().len(), archive_len);
    let left = FileSource::whole(left).unwrap().allocated().unwrap();
    assert!(left <= SLACK, "{left} bytes of the archive are left");

    // Interrupted: its start is gone, and not needed. What tells it again must not be the file's times.
    let bench = Bench::new(&archive);
    let source = |available| {
        let file = File::options()
            .read(true)
            .write(true)
            .open(&bench.archive)
            .unwrap();
        let source = FileSource::growing(file);
        source.set_available(available);
        source
    };
    let open = || open_at(&bench.target, ID, archive_len, &discarding);
    drop(drive(open(), &source(archive_len / 2)));
    let mut start = [1; 20];
    File::open(&bench.archive)
        .unwrap()
        .read_exact_at(&mut start, 0)
        .unwrap();
    assert_eq!(start, [0; 20]);
    let going = |_| ControlFlow::Continue(());
    let whole = source(archive_len);
    let extracted =
        ledger_archive::extract(&whole, ID, &bench.target, discarding.clone(), going).unwrap();
    assert!(extracted.report().resumed_bytes > 0);
    extracted.install().unwrap();
    assert!(fs::read(&bench.target).unwrap() == content);
}

#[test]
fn a_source_that_cannot_discard_is_refused_at_once() {
    let archive = packed(&ledger(100_000, 9));
    let bench = Bench::new(&archive);
    // Not opened for writing.
    let source = FileSource::whole(File::open(&bench.archive).unwrap()).unwrap();
    let result = ledger_archive::extract(
        &source,
        ID,
        &bench.target,
        often().discarding_archive(),
        |_| ControlFlow::Continue(()),
    );
    assert!(
        matches!(result, Err(ExtractError::Discard { .. })),
        "{result:?}"
    );
    assert_eq!(fs::metadata(bench.beside(".partial")).unwrap().len(), 0);
}

#[test]
fn the_caller_can_stop() {
    let content = ledger(300_000, 10);
    let bench = Bench::new(&packed(&content));
    let stopped = extract_file(&bench.archive, &bench.target, often(), |_| {
        ControlFlow::Break(())
    });
    assert!(matches!(stopped, Err(ExtractError::Stopped)));
    assert_eq!(fs::read(&bench.target).unwrap(), OLD);
    bench.succeeds(often(), &content);
}

/// The environment variable that makes [`extracting_process`] one.
const PROCESS: &str = "ARCHIVE_TEST_DIRECTORY";

/// Not a test of its own: the process that [`a_killed_process_loses_one_checkpoint`] kills. It says what
/// it has claimed whenever it starts and whenever it has done more.
#[test]
fn extracting_process() {
    let Some(dir) = std::env::var_os(PROCESS) else {
        return;
    };
    let dir = Path::new(&dir);
    let bytes = fs::read(dir.join("archive")).unwrap();
    let target = dir.join("data.ldb");
    let mut extractor = open_at(&target, ID, bytes.len() as u64, &often());
    let mut available = extractor.progress().archive_bytes as usize;
    println!("\nat {}", extractor.progress().ledger_bytes);
    while available < bytes.len() - 1 {
        available = (available + 30_000).min(bytes.len() - 1);
        extractor = drive(extractor, &Prefix::new(&bytes, available))
            .continue_value()
            .unwrap();
        println!("\nat {}", extractor.progress().ledger_bytes);
    }
}

#[test]
fn a_killed_process_loses_one_checkpoint() {
    let content = ledger(2 << 20, 11);
    let archive = packed(&content);
    let bench = Bench::new(&archive);
    let mut reached = 0;
    for round in 0..10 {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "extracting_process", "--nocapture"])
            .env(PROCESS, bench.dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut said = lines.filter_map(|line| {
            let line = line.unwrap();
            line.strip_prefix("at ")
                .map(|at| at.parse::<u64>().unwrap())
        });
        let begun = said.next().unwrap();
        // What was on disk at the kill is at most one frame less than was written then.
        assert!(
            begun + FRAME as u64 >= reached,
            "round {round}: {begun} of {reached}"
        );
        reached = said.nth(round % 4 + 1).unwrap_or(begun);
        process.kill().unwrap();
        process.wait().unwrap();
    }
    assert!(reached > 10 * FRAME as u64, "{reached}");
    assert_eq!(fs::read(&bench.target).unwrap(), OLD);
    assert!(finish(&bench, &archive, &content).resumed_bytes + FRAME as u64 >= reached);
}
