//! A producer in a container beside a node in another: both are process 1, each in its PID namespace.
//!
//! Needs util-linux' `unshare`, and root or user namespaces. Without them it says so and passes, unless
//! `REQUIRE_NAMESPACES` is set, as in CI.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Lines, Read as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use common::{BEFORE, World, command, copy_ledger, run_command};
use nano_ledger::LiveLedger;

/// A command that runs `program` as process 1 of a PID namespace of its own.
fn process_1(program: impl AsRef<OsStr>) -> Command {
    let mut unshare = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        unshare.args(["--user", "--map-current-user"]);
    }
    unshare
        .args(["--pid", "--fork", "--kill-child"])
        .arg(program);
    unshare
}

fn namespaces_are_missing() -> bool {
    let tried = process_1("true").output();
    if tried.as_ref().is_ok_and(|output| output.status.success()) {
        return false;
    }
    assert!(
        std::env::var_os("REQUIRE_NAMESPACES").is_none(),
        "no PID namespace can be made here: {tried:?}"
    );
    eprintln!("SKIPPED: no PID namespace can be made here; run this test as root, with util-linux");
    true
}

/// The ledger that [`reads_when_asked_to`] reads.
const READS: &str = "LEDGER_TO_READ";

/// No test, but a process of its own for one: it reads a ledger, says what came of that, and holds its reader
/// until its standard input ends.
#[test]
fn reads_when_asked_to() {
    let Some(path) = std::env::var_os(READS) else {
        return;
    };
    let ledger = LiveLedger::open(Path::new(&path)).unwrap();
    let answer = match ledger.register() {
        Ok(()) => format!("process {} reads", std::process::id()),
        Err(error) => error.to_string(),
    };
    println!("\nanswer: {answer}");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// A reader in a PID namespace of its own, and its output, to be read to its end.
struct Reader(Child, Lines<BufReader<ChildStdout>>);

impl Reader {
    /// Starts it, and gives its answer.
    fn start(ledger: &Path) -> (Self, String) {
        let mut child = process_1(std::env::current_exe().unwrap())
            .args(["reads_when_asked_to", "--exact", "--nocapture"])
            .env(READS, ledger)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let answer =
            lines.find_map(|line| Some(line.unwrap().strip_prefix("answer: ")?.to_owned()));
        (Self(child, lines), answer.unwrap())
    }

    fn end(mut self) {
        drop(self.0.stdin.take());
        self.1.for_each(drop);
        assert!(self.0.wait().unwrap().success());
    }
}

#[test]
fn process_numbers_of_two_namespaces_may_be_the_same() {
    if namespaces_are_missing() {
        return;
    }
    let world = World::new();
    let ledger = world.path("node.ldb");
    copy_ledger(BEFORE, &ledger);
    let (node, answer) = Reader::start(&ledger);
    assert_eq!(answer, "process 1 reads");

    // Two readers cannot have one number, and why is said.
    let (other, answer) = Reader::start(&ledger);
    for part in ["process number 1 already", "PID namespace", "node.ldb-lock"] {
        assert!(answer.contains(part), "{answer}");
    }
    other.end();

    // What copies for `produce` is a process of another number.
    let program = command().get_program().to_owned();
    let mut produce = process_1(program);
    produce.args(["produce", "--offline", "--ledger"]);
    produce.arg(&ledger).arg("--data-dir").arg(world.path("p"));
    produce.stdin(Stdio::null());
    run_command(&mut produce).failed_with(3, &["not published"]);

    // The node's reader is left alone.
    let mut clear = command();
    clear.args(["clear-readers", "--ledger"]);
    let said = run_command(clear.arg(&ledger)).succeeded();
    assert_eq!(said.value("cleared"), "0");
    node.end();
}
