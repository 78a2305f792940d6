//! Every exit code that `docs/operating.md` lists is given, and no other is listed.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use common::{BEFORE, Running, World, command, copy_ledger, run_command};
use rustix::process::Signal;

/// The rows of the table, as code and command.
fn documented() -> BTreeSet<(i32, String)> {
    let text = include_str!("../../../docs/operating.md");
    let (_, table) = text.split_once("Exit codes:\n").unwrap();
    let rows = table
        .trim_start()
        .lines()
        .take_while(|line| line.starts_with('|'));
    let row = |line: &str| {
        let mut cells = line
            .split('|')
            .skip(1)
            .map(|cell| cell.trim().trim_matches('`'));
        let code = cells.next()?.parse().ok()?;
        Some((code, cells.next()?.trim_start_matches('`').to_owned()))
    };
    rows.filter_map(row).collect()
}

fn status(data: &Path) -> Command {
    let mut status = command();
    status.args(["status", "--data-dir"]).arg(data);
    status
}

fn code(command: &mut Command) -> i32 {
    run_command(command).status.code().unwrap()
}

#[test]
fn every_documented_exit_code_is_given() {
    let world = World::new();
    let mut given = BTreeSet::new();
    let mut gives = |code: i32, command: &str| given.insert((code, command.to_owned()));

    gives(code(command().arg("config")), "all");
    gives(code(command().args(["inspect", "/nowhere"])), "all");
    gives(code(command().args(["--authority", "x"])), "all");

    // Nothing was published, so this waits until it is stopped.
    let data = world.path("data");
    let unheard = |data: &str| {
        let mut mirror = command();
        mirror.arg("--data-dir").arg(world.path(data));
        mirror.args(["--authority", &world.authority, "--listen", "127.0.0.1:0"]);
        // No DHT node answers there.
        mirror.args([
            "--http",
            "127.0.0.1:0",
            "--dht-port",
            "0",
            "--dht-bootstrap",
            "127.0.0.1:9",
        ]);
        mirror
    };
    let mut fetch = Running::start(unheard("once").arg("--once"));
    fetch.until("its data directory", || {
        world.path("once/snapshots").is_dir()
    });
    fetch.signal(Signal::INT);
    let stopped = fetch.end().status.code().unwrap();
    gives(stopped, "all but `status` and the mirror itself");

    // Neither ready nor wrong: it was just started.
    let mut mirror = Running::start(&mut unheard("data"));
    mirror.until("an answer", || {
        code(&mut status(&data)) != 5 && code(&mut status(&data)) != 1
    });
    gives(code(&mut status(&data)), "status");
    let (reader, closed) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    drop(reader);
    let unread = status(&data).stdout(closed).status().unwrap();
    gives(unread.code().unwrap(), "status");
    let ended = mirror.stop().status.code();
    assert_eq!(ended, Some(0), "a mirror that is stopped has done its work");
    gives(code(&mut status(&data)), "status");

    let mut mirror = Running::start(&mut world.mirror("data"));
    mirror.until("no pointer", || code(&mut status(&data)) == 3);
    gives(3, "status");
    mirror.stop().succeeded();

    let ledger = world.path("node.ldb");
    copy_ledger(BEFORE, &ledger);
    gives(
        code(world.produce("p", &ledger).arg("--offline")),
        "produce",
    );

    assert_eq!(given, documented());
}

/// A command that is stopped says so by its exit code, whatever it was doing.
#[test]
fn the_demo_can_be_stopped() {
    let temp = tempfile::tempdir().unwrap();
    let place = temp.path().join("demo");
    let mut demo = command();
    let mut demo = Running::start(demo.args(["demo", "--keep"]).arg(&place));
    demo.until("its directory", || place.is_dir());
    demo.signal(Signal::TERM);
    demo.end().failed_with(130, &["stopped by a signal"]);
}
