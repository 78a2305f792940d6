//! The demonstration, small: it succeeds, cleans up, and never leaves a process behind.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::path::Path;

use common::{Running, command, eventually, run_command};
use rustix::process::Signal;

/// Processes that have `path` in their arguments.
fn processes_with(path: &Path) -> Vec<String> {
    let path = path.to_str().unwrap();
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| fs::read(entry.path().join("cmdline")).ok())
        .map(|arguments| String::from_utf8_lossy(&arguments).replace('\0', " "))
        .filter(|arguments| arguments.contains(path) && !arguments.contains("demo"))
        .collect()
}

#[test]
fn the_story_comes_to_its_end() {
    let temp = tempfile::tempdir().unwrap();
    let mut demo = command();
    demo.args(["demo", "--size", "24M"])
        .env("TMPDIR", temp.path());
    let said = run_command(&mut demo).succeeded();
    for part in [
        "Anna",
        "Ben",
        "Carl",
        "A day later",
        "The end: all copies were equal",
    ] {
        assert!(
            said.stdout.contains(part),
            "no {part:?} in: {}",
            said.stdout
        );
    }
    assert_eq!(
        fs::read_dir(temp.path()).unwrap().count(),
        0,
        "something was left"
    );
}

#[test]
fn a_kept_story_can_be_looked_at_and_is_not_written_over() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("kept");
    let demo = || {
        let mut demo = command();
        run_command(demo.args(["demo", "--size", "8M", "--keep"]).arg(&dir))
    };
    demo().succeeded();
    let mut verify = command();
    run_command(verify.arg("verify").arg("--data-dir").arg(dir.join("anna"))).succeeded();
    demo().failed_with(1, &["--keep", "is not empty"]);
}

#[test]
fn ending_the_demo_ends_all_it_started() {
    for signal in [Signal::TERM, Signal::KILL] {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("story");
        let mut start = command();
        let mut demo = Running::start(start.args(["demo", "--size", "8M", "--keep"]).arg(&dir));
        demo.until("a mirror", || processes_with(&dir.join("anna")).len() == 1);
        demo.signal(signal);
        let said = demo.end();
        assert!(!said.status.success(), "{signal:?}");
        eventually("end of all children", || {
            processes_with(&dir).is_empty().then_some(())
        });
    }
}
