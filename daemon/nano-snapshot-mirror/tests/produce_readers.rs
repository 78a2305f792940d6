//! `produce` that is killed in mid-copy: no reader of it stays in the lock file of a running node, whose
//! file would grow without end.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Lines, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use common::small_disk::MIB;
use common::{Running, Said, World, children, command, eventually, run_command};
use nano_ledger::synthetic;
use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal, kill_process};

/// The ledger that [`commits_when_asked_to`] writes to.
const COMMITS_TO: &str = "LEDGER_TO_COMMIT_TO";

/// Transactions of each look at the growth.
const TRANSACTIONS: u64 = 200;

/// No test, but a process of its own for one: it has a ledger open as a node has, and adds transactions of
/// one block for every line of its standard input, until that ends.
#[test]
fn commits_when_asked_to() {
    let Some(path) = std::env::var_os(COMMITS_TO) else {
        return;
    };
    let mut lines = std::io::stdin().lines();
    synthetic::write_while(Path::new(&path), 1, |transactions| {
        let pause = transactions % TRANSACTIONS == 1;
        if pause {
            println!("\ncommitted {transactions}");
        }
        !pause || lines.next().is_some()
    })
    .unwrap();
}

/// A node: another process that has the ledger open and commits.
struct Node {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    ledger: PathBuf,
}

impl Node {
    fn start(ledger: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["commits_when_asked_to", "--exact", "--nocapture"])
            .env(COMMITS_TO, ledger)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut node = Self {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
            ledger: ledger.to_owned(),
        };
        node.wait();
        node
    }

    fn wait(&mut self) {
        let mut line = String::new();
        while !line.starts_with("committed") {
            line.clear();
            assert_ne!(self.output.read_line(&mut line).unwrap(), 0, "it ended");
        }
    }

    /// Commits, and gives the bytes by which the ledger's file grew.
    fn growth(&mut self) -> u64 {
        let used = |path: &Path| {
            nano_ledger::LedgerFile::open(path)
                .unwrap()
                .meta()
                .used_len()
        };
        let before = used(&self.ledger);
        writeln!(self.input, "go on").unwrap();
        self.wait();
        used(&self.ledger) - before
    }

    fn end(mut self) {
        drop(self.input);
        self.output.read_to_end(&mut Vec::new()).unwrap();
        assert!(self.child.wait().unwrap().success());
    }
}

/// A world with a node on a ledger that takes some time to copy.
fn world() -> (World, Node) {
    let world = World::new();
    let ledger = world.path("node.ldb");
    let options = synthetic::Options {
        seed: 5,
        target_len: 48 * MIB,
    };
    synthetic::create(&ledger, &options).unwrap();
    let mut node = Node::start(&ledger);
    // From here on it has free pages to re-use.
    node.growth();
    (world, node)
}

fn produce(world: &World) -> Command {
    let mut produce = command();
    produce.args(["produce", "--offline", "--verify-level", "l0", "--ledger"]);
    produce.arg(world.path("node.ldb"));
    produce.arg("--data-dir").arg(world.path("p"));
    produce
}

fn clear_readers(world: &World) -> String {
    let mut clear = command();
    clear.args(["clear-readers", "--ledger"]);
    run_command(clear.arg(world.path("node.ldb")))
        .succeeded()
        .value("cleared")
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// The state of a process as ps shows it.
fn state(pid: i32) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit(") ").next().unwrap_or_default();
    after_name.split(' ').next().unwrap_or_default().to_owned()
}

/// A `produce` that is stopped in mid-copy, and the process that copies for it.
fn in_mid_copy(world: &World) -> (Running, i32) {
    let mut running = Running::start(&mut produce(world));
    let own = i32::try_from(running.pid()).unwrap();
    let mut copying = None;
    running.until("the copy", || {
        let copy = walk(&world.path("p/incoming"), "data.ldb");
        copying = children(own.cast_unsigned()).first().copied();
        copying.is_some() && copy.is_some_and(|copy| copy.metadata().unwrap().len() > 0)
    });
    // Nothing is read any longer, so the copying process soon waits for room in its pipe.
    signal(own, Signal::STOP);
    let copying = copying.unwrap();
    (running, copying)
}

/// The file `name` below a directory.
fn walk(dir: &Path, name: &str) -> Option<PathBuf> {
    let entries = std::fs::read_dir(dir).ok()?;
    entries.filter_map(Result::ok).find_map(|entry| {
        let path = entry.path();
        match path.is_dir() {
            true => walk(&path, name),
            false => path.ends_with(name).then_some(path),
        }
    })
}

/// What a pinned state costs: every commit takes new pages for all that it changes.
fn without_end(growth: u64) -> bool {
    growth > TRANSACTIONS * 4096 * 4
}

#[test]
fn a_killed_copy_leaves_no_reader() {
    for how in [Signal::KILL, Signal::ABORT] {
        let (world, mut node) = world();
        let before = node.growth();
        assert!(!without_end(before), "{before}");
        let (running, copying) = in_mid_copy(&world);
        let pinned = node.growth();
        assert!(without_end(pinned), "the copy holds no state: {pinned}");
        signal(copying, how);
        running.signal(Signal::CONT);
        let said = running.end();
        assert!(said.stderr.contains("cleared readers"), "{}", said.stderr);
        said.failed_with(1, &["was killed by signal", "run produce again"]);
        node.growth();
        let after = node.growth();
        println!(
            "{how:?}: bytes in {TRANSACTIONS} commits: {before}, {pinned} in the copy, {after}"
        );
        assert!(!without_end(after), "{after}");
        assert_eq!(clear_readers(&world), "0");
        made(run_command(&mut produce(&world)));
        node.end();
    }
}

#[track_caller]
fn made(said: Said) -> Said {
    said.failed_with(3, &["not published"])
}

/// The process that copies notices by its pipe, and gives its reader slot back itself.
#[test]
fn a_killed_produce_leaves_no_reader() {
    for how in [Signal::KILL, Signal::ABORT] {
        let (world, mut node) = world();
        let (running, copying) = in_mid_copy(&world);
        running.signal(how);
        running.signal(Signal::CONT);
        drop(running.end());
        eventually("the end of the copying process", || {
            ["", "Z"].contains(&state(copying).as_str()).then_some(())
        });
        node.growth();
        let after = node.growth();
        assert!(!without_end(after), "{after}");
        assert_eq!(clear_readers(&world), "0");
        node.end();
    }
}

/// As when a service is killed: what clears is its unit, a person, or the next run.
#[test]
fn when_both_are_killed_the_reader_is_cleared_later() {
    for by_hand in [true, false] {
        let (world, mut node) = world();
        let (running, copying) = in_mid_copy(&world);
        signal(copying, Signal::KILL);
        drop(running.kill());
        let pinned = node.growth();
        assert!(without_end(pinned), "no reader is left: {pinned}");
        if by_hand {
            assert_eq!(clear_readers(&world), "1");
        } else {
            let said = made(run_command(&mut produce(&world)));
            assert!(said.stderr.contains("cleared readers"), "{}", said.stderr);
        }
        node.growth();
        let after = node.growth();
        assert!(!without_end(after), "{after}");
        assert_eq!(clear_readers(&world), "0");
        node.end();
    }
}

/// A service manager signals all processes of a unit: the copy ends properly, and can be continued.
#[test]
fn a_stopped_copy_is_no_failure() {
    let (world, node) = world();
    let (running, copying) = in_mid_copy(&world);
    for pid in [copying, i32::try_from(running.pid()).unwrap()] {
        signal(pid, Signal::TERM);
    }
    running.signal(Signal::CONT);
    running.end().failed_with(130, &["stopping"]);
    assert_eq!(clear_readers(&world), "0");
    made(run_command(&mut produce(&world)));
    node.end();
}

#[test]
fn a_ledger_without_a_lock_file_has_no_readers() {
    let world = World::new();
    common::copy_ledger(common::BEFORE, &world.path("node.ldb"));
    assert_eq!(clear_readers(&world), "0");
    assert!(!world.path("node.ldb-lock").exists());
    let mut clear = command();
    clear.args(["clear-readers", "--ledger"]);
    run_command(clear.arg(world.path("none.ldb"))).failed_with(1, &["no ledger at", "none.ldb"]);
}

/// A process in another PID namespace has whatever number it has there: here all of them.
#[test]
fn a_process_number_that_is_taken_is_named() {
    let (world, node) = world();
    let lock = world.path("node.ldb-lock");
    let taken = Taken::start(&lock);
    let said = run_command(&mut produce(&world)).failed_with(
        1,
        &[
            "process number",
            "node.ldb-lock",
            "PID namespace",
            "--pid container:NODE",
        ],
    );
    assert!(!said.stderr.contains("panicked"), "{}", said.stderr);
    taken.end();
    made(run_command(&mut produce(&world)));
    node.end();
}

/// The lock file whose bytes [`takes_all_numbers_when_asked_to`] locks.
const TAKES_IN: &str = "LOCK_FILE_TO_TAKE_NUMBERS_IN";

/// No test, but a process of its own for one: it locks the bytes of all process numbers, until its standard
/// input ends.
#[test]
fn takes_all_numbers_when_asked_to() {
    let Some(path) = std::env::var_os(TAKES_IN) else {
        return;
    };
    let lock = File::options().read(true).write(true).open(path).unwrap();
    // Shared, as the first byte says that the ledger is open, and the node locks it so.
    rustix::fs::fcntl_lock(&lock, FlockOperation::NonBlockingLockShared).unwrap();
    println!("\ntaken");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// Another process that has taken all numbers, and its output, to be read to its end.
struct Taken(Child, Lines<BufReader<ChildStdout>>);

impl Taken {
    fn start(lock: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["takes_all_numbers_when_asked_to", "--exact", "--nocapture"])
            .env(TAKES_IN, lock)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "taken"));
        Self(child, lines)
    }

    fn end(mut self) {
        drop(self.0.stdin.take());
        self.1.for_each(drop);
        self.0.wait().unwrap();
    }
}
