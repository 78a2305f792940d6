//! `install` does not put an older ledger, or another network's, in place of the node's without a word.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::path::Path;

use common::{AFTER, BEFORE, Said, assert_same, command, copy_ledger, names, run_command};
use nano_ledger::synthetic;

fn install(to: &Path, ledger: &Path, how: &[&str]) -> Said {
    let mut install = command();
    install.arg("install").arg("--to").arg(to).arg(ledger);
    run_command(install.args(how))
}

#[test]
fn an_older_ledger_is_installed_only_where_that_is_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("data.ldb");
    copy_ledger(AFTER, &place);
    install(dir.path(), Path::new(BEFORE), &[]).failed_with(
        1,
        &[
            "5,338 cemented of 5,460 blocks",
            "5,926 of 5,966",
            "older",
            "--allow-older",
        ],
    );
    assert_same(&place, Path::new(AFTER));
    assert_eq!(names(dir.path()), ["data.ldb", "data.ldb-lock"]);
    install(dir.path(), Path::new(BEFORE), &["--allow-older"]).succeeded();
    assert_same(&place, Path::new(BEFORE));
    // A newer one needs no leave.
    install(dir.path(), Path::new(AFTER), &[]).succeeded();
    assert_same(&place, Path::new(AFTER));
}

#[test]
fn a_ledger_of_another_network_is_not_installed() {
    let dir = tempfile::tempdir().unwrap();
    let other = dir.path().join("other.ldb");
    let options = synthetic::Options {
        seed: 1,
        target_len: 8 << 20,
    };
    synthetic::create(&other, &options).unwrap();
    let node = dir.path().join("node");
    let place = node.join("data.ldb");
    copy_ledger(AFTER, &place);
    let parts = ["unknown network", "dev network", "move"];
    install(&node, &other, &["--allow-older"]).failed_with(1, &parts);
    assert_same(&place, Path::new(AFTER));

    // With nothing to compare it with, its network is said.
    let new = dir.path().join("new");
    std::fs::create_dir(&new).unwrap();
    let said = install(&new, Path::new(AFTER), &[]).succeeded();
    assert!(
        said.stderr.contains("not a ledger of the live network"),
        "{}",
        said.stderr
    );
}
