//! Copies of ledgers, at rest and under a writer in another process.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::{data, failures, without_sample};
use nano_ledger::{
    CopyError, LedgerFile, Level, LiveLedger, OpenError, copy_exact, summarize, synthetic, verify,
};
use tempfile::TempDir;

/// A genuine ledger in a directory of its own.
fn ledger(name: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data.ldb");
    fs::copy(data(name), &path).unwrap();
    (dir, path)
}

/// Runs `copy` into a pipe and returns what came out of it.
fn through_pipe<T: Send>(copy: impl FnOnce(&mut File) -> T + Send) -> (T, Vec<u8>) {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut writer = File::from(std::os::fd::OwnedFd::from(writer));
    thread::scope(|scope| {
        let copy = scope.spawn(move || copy(&mut writer));
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        (copy.join().unwrap(), bytes)
    })
}

#[test]
fn a_copy_of_a_ledger_at_rest_is_the_file() {
    for name in ["before.ldb", "after.ldb"] {
        let (dir, path) = ledger(name);
        let original = fs::read(data(name)).unwrap();
        let live = LiveLedger::open(&path).unwrap();
        assert_eq!(live.size_hint().unwrap(), original.len() as u64);

        let (result, piped) = through_pipe(|out| live.copy_to(out));
        result.unwrap();
        assert!(piped == original, "{name}: the pipe got something else");

        let copy = dir.path().join("copy.ldb");
        live.copy_to(&mut File::create(&copy).unwrap()).unwrap();
        assert!(
            fs::read(&copy).unwrap() == original,
            "{name}: the file got something else"
        );

        let (result, exact) = through_pipe(|out| copy_exact(&path, out));
        assert_eq!(result.unwrap(), original.len() as u64);
        assert!(exact == original, "{name}: the exact copy is another");
        // Copying changed nothing.
        assert!(fs::read(&path).unwrap() == original);
    }
}

#[test]
fn bytes_behind_the_last_page_are_only_in_an_exact_copy() {
    let (_dir, path) = ledger("before.ldb");
    let original = fs::read(&path).unwrap();
    let mut longer = original.clone();
    longer.extend_from_slice(&[7; 10_000]);
    fs::write(&path, &longer).unwrap();
    let summary = summarize(&path).unwrap();
    assert_eq!(
        (summary.used_len, summary.file_len),
        (original.len() as u64, longer.len() as u64)
    );
    assert!(
        verify(&path, Level::L2, &without_sample())
            .unwrap()
            .passed()
    );

    let live = LiveLedger::open(&path).unwrap();
    assert_eq!(live.size_hint().unwrap(), original.len() as u64);
    let (result, copy) = through_pipe(|out| live.copy_to(out));
    result.unwrap();
    assert!(copy == original);
    let (result, copy) = through_pipe(|out| copy_exact(&path, out));
    assert_eq!(result.unwrap(), longer.len() as u64);
    assert!(copy == longer);
}

#[test]
fn a_closed_pipe_ends_the_copy() {
    let (_dir, path) = ledger("before.ldb");
    let live = LiveLedger::open(&path).unwrap();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut writer = File::from(std::os::fd::OwnedFd::from(writer));
    let copy = thread::spawn(move || {
        let error = live.copy_to(&mut writer).unwrap_err();
        (live, error)
    });
    let mut start = [0; 100_000];
    reader.read_exact(&mut start).unwrap();
    drop(reader);
    let (live, error) = copy.join().unwrap();
    assert!(matches!(error, CopyError::ReaderGone), "{error:?}");
    // And the next copy is a whole one.
    let (result, bytes) = through_pipe(|out| live.copy_to(out));
    result.unwrap();
    assert!(bytes == fs::read(&path).unwrap());
}

#[test]
fn a_full_disk_is_told_as_a_failure_to_write() {
    let (_dir, path) = ledger("before.ldb");
    let live = LiveLedger::open(&path).unwrap();
    let mut full = File::options().write(true).open("/dev/full").unwrap();
    for error in [
        live.copy_to(&mut full).unwrap_err(),
        copy_exact(&path, &mut full).unwrap_err(),
    ] {
        match error {
            CopyError::Write { source } => {
                assert_eq!(source.kind(), std::io::ErrorKind::StorageFull);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn copies_under_a_writer_are_consistent() {
    for name in ["before.ldb", "synthetic"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.ldb");
        if name == "synthetic" {
            let options = synthetic::Options {
                seed: 3,
                target_len: 6 << 20,
            };
            synthetic::create(&path, &options).unwrap();
        } else {
            fs::copy(data(name), &path).unwrap();
        }
        let blocks_before = summarize(&path).unwrap().blocks;
        let writer = Helper::start("write", &path, None);
        let live = LiveLedger::open(&path).unwrap();
        let mut last = (0, blocks_before);
        for round in 0..8 {
            let copy = dir.path().join("copy.ldb");
            if round % 2 == 0 {
                live.copy_to(&mut File::create(&copy).unwrap()).unwrap();
            } else {
                let (result, bytes) = through_pipe(|out| live.copy_to(out));
                result.unwrap();
                fs::write(&copy, bytes).unwrap();
            }
            let report = verify(&copy, Level::L2, &without_sample()).unwrap();
            assert_eq!(
                failures(&report),
                [""; 0],
                "{name} round {round}: {report:#?}"
            );
            let summary = report.summary.unwrap();
            let now = (summary.txn, summary.blocks);
            assert!(now > last, "the writer stood still: {now:?} after {last:?}");
            last = now;
        }
        drop(live);
        let transactions: u64 = writer.finish().parse().unwrap();
        assert!(transactions > 8);
        assert!(
            verify(&path, Level::L2, &without_sample())
                .unwrap()
                .passed()
        );
    }
}

/// The reader of the pipe stops half-way for so long that the writer would have re-used most of the
/// pages still to come, were it not for the copy's read transaction.
#[test]
fn a_slow_copy_keeps_the_state_it_began_with() {
    let (_dir, path) = ledger("before.ldb");
    let writer = Helper::start("write", &path, None);
    let live = LiveLedger::open(&path).unwrap();
    let (mut reader, pipe) = std::io::pipe().unwrap();
    let mut pipe = File::from(std::os::fd::OwnedFd::from(pipe));
    let mut bytes = vec![0; 200_000];
    thread::scope(|scope| {
        let copy = scope.spawn(move || live.copy_to(&mut pipe));
        reader.read_exact(&mut bytes).unwrap();
        let now = || LedgerFile::open(&path).unwrap().meta().txn();
        let enough = now() + 1000;
        while now() < enough {
            thread::yield_now();
        }
        reader.read_to_end(&mut bytes).unwrap();
        copy.join().unwrap().unwrap();
    });
    writer.finish();
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("copy.ldb");
    fs::write(&copy, bytes).unwrap();
    let report = verify(&copy, Level::L2, &without_sample()).unwrap();
    assert_eq!(failures(&report), [""; 0], "{report:#?}");
    assert!(report.summary.unwrap().blocks < summarize(&path).unwrap().blocks);
}

#[test]
fn an_exact_copy_notices_a_writer() {
    let (_dir, path) = ledger("before.ldb");
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut writer = File::from(std::os::fd::OwnedFd::from(writer));
    let source = path.clone();
    let copy = thread::spawn(move || copy_exact(&source, &mut writer).unwrap_err());
    let mut start = [0; 4096];
    reader.read_exact(&mut start).unwrap();
    synthetic::add_day(&path, 1, 1).unwrap();
    std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
    let error = copy.join().unwrap();
    assert!(matches!(error, CopyError::Changed { .. }), "{error:?}");
}

/// Record locks of this process on the lock file, as the kernel lists them.
fn record_locks(lock: &Path) -> usize {
    let inode = format!(":{}", fs::metadata(lock).unwrap().ino());
    let pid = std::process::id().to_string();
    fs::read_to_string("/proc/locks")
        .unwrap()
        .lines()
        .filter(|line| {
            let mut fields = line.split_whitespace();
            fields.any(|field| field == pid) && fields.any(|field| field.ends_with(&inode))
        })
        .count()
}

#[test]
fn the_lock_is_held_while_open_and_given_back() {
    let (_dir, path) = ledger("before.ldb");
    let lock = path.with_file_name("data.ldb-lock");
    let live = LiveLedger::open(&path).unwrap();
    assert_eq!(record_locks(&lock), 1);
    live.copy_to(&mut File::options().write(true).open("/dev/null").unwrap())
        .unwrap();
    // One says that the ledger is in use, one that the reader with this process id is alive.
    assert_eq!(record_locks(&lock), 2);
    // Neither looking at the ledger through the page reader nor opening it again costs the lock.
    summarize(&path).unwrap();
    assert!(matches!(
        LiveLedger::open(&path),
        Err(OpenError::AlreadyOpen { .. })
    ));
    assert_eq!(record_locks(&lock), 2);
    drop(live);
    assert_eq!(record_locks(&lock), 0);
    // It can be opened for writing and read again.
    synthetic::add_day(&path, 10, 5).unwrap();
    LiveLedger::open(&path).unwrap();
    assert_eq!(record_locks(&lock), 0);
}

#[test]
fn a_new_lock_file_is_one_the_node_can_use() {
    let (_dir, path) = ledger("before.ldb");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let lock = path.with_file_name("data.ldb-lock");
    assert!(!lock.exists());
    drop(LiveLedger::open(&path).unwrap());
    let (ledger, lock) = (path.metadata().unwrap(), lock.metadata().unwrap());
    assert_eq!((lock.uid(), lock.gid()), (ledger.uid(), ledger.gid()));
    assert_eq!(lock.mode() & 0o777, 0o640);
}

#[test]
fn what_is_no_ledger_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("data.ldb");
    assert!(matches!(
        LiveLedger::open(&path),
        Err(OpenError::NotFound { .. })
    ));
    assert!(matches!(
        LiveLedger::open(dir.path()),
        Err(OpenError::NotALedger { .. })
    ));
    for content in [&b""[..], b"hello", &[0; 100_000]] {
        fs::write(&path, content).unwrap();
        assert!(matches!(
            LiveLedger::open(&path),
            Err(OpenError::NotALedger { .. })
        ));
        assert_eq!(
            fs::read(&path).unwrap(),
            content,
            "LMDB touched a file that is none of its"
        );
    }
    let (_other, target) = ledger("before.ldb");
    let link = dir.path().join("link.ldb");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    assert!(matches!(
        LiveLedger::open(&link),
        Err(OpenError::Symlink { .. })
    ));
    assert!(!dir.path().join("link.ldb-lock").exists());
}

#[test]
fn missing_permissions_are_named() {
    // Root may do everything, so another user asks.
    let other = rustix::process::geteuid().is_root().then_some(65534);
    let (dir, path) = ledger("before.ldb");
    let lock = path.with_file_name("data.ldb-lock");
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    mode(dir.path(), 0o755);
    let ask = || Helper::start("open", &path, other).finish();

    if other.is_some() {
        // Owned by root: no other user can make a lock file that root's node could use.
        mode(&path, 0o644);
        assert_eq!(ask(), "LockMissing");
    }
    fs::write(&lock, "").unwrap();
    mode(&path, 0o000);
    mode(&lock, 0o666);
    assert_eq!(ask(), "NotReadable");
    mode(&path, 0o444);
    mode(&lock, 0o444);
    assert_eq!(ask(), "LockNotWritable");
    // Reading the ledger and writing its lock file is all it takes.
    mode(&lock, 0o666);
    assert_eq!(ask(), "open");
}

#[test]
fn another_lock_format_in_use_is_told() {
    let (_dir, path) = ledger("before.ldb");
    let lock = path.with_file_name("data.ldb-lock");
    // Magic number and a format of LMDB 0.9.2x, in a file as long as its reader table.
    let mut content = vec![0; 8192];
    content[..4].copy_from_slice(&0xBEEF_C0DE_u32.to_le_bytes());
    content[4] = 1;
    fs::write(&lock, content).unwrap();
    // An unused lock file is initialised again.
    drop(LiveLedger::open(&path).unwrap());
    let mut content = fs::read(&lock).unwrap();
    content[4] ^= 3;
    fs::write(&lock, content).unwrap();
    let holder = Helper::start("lock", &lock, None);
    assert!(matches!(
        LiveLedger::open(&path),
        Err(OpenError::LockVersion { .. })
    ));
    holder.finish();
    LiveLedger::open(&path).unwrap();
}

/// This test program once more, doing one thing to one file until its input ends.
struct Helper {
    child: Child,
    output: BufReader<ChildStdout>,
    _program: TempDir,
}

const ROLE: &str = "NANO_LEDGER_TEST_ROLE";
const FILE: &str = "NANO_LEDGER_TEST_FILE";
/// Starts the lines a helper says something in, among those of the test harness.
const SAYS: &str = "helper: ";

impl Helper {
    /// Starts it and waits until it has said that it is ready.
    fn start(role: &str, file: &Path, user: Option<u32>) -> Self {
        // Another user may not enter the build directory.
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut program = std::env::current_exe().unwrap();
        if user.is_some() {
            let copy = dir.path().join("helper");
            fs::copy(&program, &copy).unwrap();
            program = copy;
        }
        let mut command = Command::new(program);
        command
            .args(["--exact", "helper", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .env(FILE, file)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(user) = user {
            command.uid(user).gid(user);
        }
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut helper = Self {
            child,
            output,
            _program: dir,
        };
        assert_eq!(helper.listen(), "ready");
        helper
    }

    fn listen(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert_ne!(
                self.output.read_line(&mut line).unwrap(),
                0,
                "the helper died"
            );
            // The harness names the test on the same line.
            if let Some((_, said)) = line.split_once(SAYS) {
                return said.trim().to_owned();
            }
        }
    }

    /// Ends it and returns its last words.
    fn finish(mut self) -> String {
        drop(self.child.stdin.take());
        let said = self.listen();
        std::io::copy(&mut self.output, &mut std::io::sink()).unwrap();
        assert!(self.child.wait().unwrap().success());
        said
    }
}

/// Not a test but what [`Helper`] runs.
#[test]
fn helper() {
    let (Ok(role), Ok(file)) = (std::env::var(ROLE), std::env::var(FILE)) else {
        return;
    };
    let say = |text: &str| {
        println!("{SAYS}{text}");
        std::io::stdout().flush().unwrap();
    };
    let wait = || std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
    match role.as_str() {
        "write" => {
            let stop = Arc::new(AtomicBool::new(false));
            let asked = Arc::clone(&stop);
            let written = synthetic::write_while(Path::new(&file), 5, |transactions| {
                if transactions == 3 {
                    say("ready");
                    let stop = Arc::clone(&stop);
                    thread::spawn(move || {
                        std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
                        stop.store(true, Ordering::Relaxed);
                    });
                }
                !asked.load(Ordering::Relaxed)
            });
            say(&written.unwrap().to_string());
        }
        "open" => {
            say("ready");
            wait();
            let answer = match LiveLedger::open(Path::new(&file)) {
                Ok(_) => "open".to_owned(),
                Err(error) => format!("{error:?}"),
            };
            say(answer.split([' ', '{']).next().unwrap());
        }
        "lock" => {
            let lock = File::options().read(true).write(true).open(&file).unwrap();
            let shared = rustix::fs::FlockOperation::NonBlockingLockShared;
            rustix::fs::fcntl_lock(&lock, shared).unwrap();
            say("ready");
            wait();
            say("done");
        }
        other => panic!("no role {other}"),
    }
}

#[test]
fn a_copy_goes_on_in_the_same_state_and_in_no_other() {
    let (dir, path) = ledger("before.ldb");
    let original = fs::read(&path).unwrap();
    let live = LiveLedger::open(&path).unwrap();
    let state = live.state().unwrap();
    let begun = dir.path().join("begun");
    fs::write(&begun, &original[..100_000]).unwrap();
    assert!(state.is_of(&begun));
    fs::write(&begun, &fs::read(data("after.ldb")).unwrap()[..100_000]).unwrap();
    assert!(!state.is_of(&begun));
    assert!(!state.is_of(Path::new("/nowhere")));

    let text = state.to_string();
    for from in [0, 8192, 100_001, original.len() as u64] {
        let (result, rest) = through_pipe(|out| live.copy_rest_to(&text, from, out));
        result.unwrap();
        assert!(rest == original[from as usize..], "from byte {from}");
    }

    // A writer that does not commit may have written to free pages: the times tell.
    let moved_on = |live: &LiveLedger, text: &str| {
        let (result, rest) = through_pipe(|out| live.copy_rest_to(text, 8192, out));
        assert!(rest.is_empty());
        assert!(
            matches!(result, Err(CopyError::MovedOn { .. })),
            "{result:?}"
        );
    };
    let file = File::options().write(true).open(&path).unwrap();
    file.set_modified(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    moved_on(&live, &text);
    let text = live.state().unwrap().to_string();
    through_pipe(|out| live.copy_rest_to(&text, 8192, out))
        .0
        .unwrap();

    drop(live);
    let metadata = path.metadata().unwrap();
    synthetic::add_day(&path, 1, 1).unwrap();
    file.set_modified(metadata.modified().unwrap()).unwrap();
    let live = LiveLedger::open(&path).unwrap();
    assert_ne!(live.state().unwrap().to_string(), text);
    moved_on(&live, &text);
}

#[test]
fn while_a_copy_goes_on_its_state_stays() {
    let (_dir, path) = ledger("before.ldb");
    let original = fs::read(&path).unwrap();
    let live = LiveLedger::open(&path).unwrap();
    let text = live.state().unwrap().to_string();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut writer = File::from(std::os::fd::OwnedFd::from(writer));
    thread::scope(|scope| {
        let copy = scope.spawn(move || live.copy_rest_to(&text, 8192, &mut writer));
        let mut rest = vec![0; 1000];
        reader.read_exact(&mut rest).unwrap();
        // It has begun. Without a reader slot the writer would re-use most of the pages still to come.
        let writer = Helper::start("write", &path, None);
        let now = || LedgerFile::open(&path).unwrap().meta().txn();
        let enough = now() + 1000;
        while now() < enough {
            thread::yield_now();
        }
        reader.read_to_end(&mut rest).unwrap();
        copy.join().unwrap().unwrap();
        writer.finish();
        let copied = [&original[..8192], &rest].concat();
        let place = path.with_file_name("copied");
        fs::write(&place, copied).unwrap();
        assert!(
            verify(&place, Level::L2, &without_sample())
                .unwrap()
                .passed()
        );
    });
}
