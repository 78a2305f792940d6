//! `install`: a ledger into the data directory of a node, and back.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::io::{BufRead as _, BufReader, Lines, Read as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use common::{
    AFTER, BEFORE, Running, Said, World, assert_same, command, copy_ledger, names, rot, run_command,
};
use nano_ledger::LiveLedger;
use tempfile::TempDir;

/// A node's directory with a ledger in it.
fn node(ledger: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("data.ldb");
    copy_ledger(ledger, &place);
    (dir, place)
}

fn install(to: &Path, args: &[&str]) -> Said {
    let mut install = command();
    install.arg("install").arg("--to").arg(to);
    run_command(install.args(args))
}

/// The name of the ledger for [`holds_a_ledger_when_asked_to`].
const HELD: &str = "LEDGER_TO_HOLD";

/// No test, but a process of its own for one: it has a ledger open as a node has, until its standard
/// input ends.
#[test]
fn holds_a_ledger_when_asked_to() {
    let Some(path) = std::env::var_os(HELD) else {
        return;
    };
    let _held = LiveLedger::open(Path::new(&path)).unwrap();
    println!("\nheld");
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
}

/// Another process that has a ledger open, and what it says, to be read to its end.
struct Holder(Child, Lines<BufReader<ChildStdout>>);

impl Holder {
    fn of(ledger: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["holds_a_ledger_when_asked_to", "--exact", "--nocapture"])
            .env(HELD, ledger)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "held"));
        Self(child, lines)
    }

    fn let_go(mut self) {
        drop(self.0.stdin.take());
        self.1.for_each(drop);
        self.0.wait().unwrap();
    }
}

#[test]
fn a_ledger_is_installed_and_rolled_back() {
    let (dir, place) = node(BEFORE);
    fs::set_permissions(&place, fs::Permissions::from_mode(0o640)).unwrap();
    let said = install(dir.path(), &[AFTER]).succeeded();
    assert_eq!(said.stdout.trim(), place.to_str().unwrap());
    assert_same(&place, Path::new(AFTER));
    assert_same(&dir.path().join("data.ldb.backup"), Path::new(BEFORE));
    let metadata = place.metadata().unwrap();
    assert_eq!((metadata.mode() & 0o777, metadata.nlink()), (0o640, 1));
    let all = ["data.ldb", "data.ldb-lock", "data.ldb.backup"];
    assert_eq!(names(dir.path()), all);
    // A node can open it.
    drop(LiveLedger::open(&place).unwrap());

    for (now, backup) in [(BEFORE, AFTER), (AFTER, BEFORE)] {
        install(dir.path(), &["--rollback"]).succeeded();
        assert_same(&place, Path::new(now));
        assert_same(&dir.path().join("data.ldb.backup"), Path::new(backup));
        assert_eq!(names(dir.path()), all);
        drop(LiveLedger::open(&place).unwrap());
    }
}

#[test]
fn a_new_node_has_nothing_to_go_back_to() {
    let dir = tempfile::tempdir().unwrap();
    install(dir.path(), &["--rollback"]).failed_with(1, &["no backup"]);
    install(dir.path(), &[AFTER]).succeeded();
    assert_same(&dir.path().join("data.ldb"), Path::new(AFTER));
    assert_eq!(names(dir.path()), ["data.ldb", "data.ldb-lock"]);
    let mode = dir.path().join("data.ldb").metadata().unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn what_root_installs_belongs_to_the_node() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: only root can install for another user; run this test as root");
        return;
    }
    let (uid, gid) = (12_345, 54_321);
    let owner = |path: &Path| {
        let metadata = path.metadata().unwrap();
        (metadata.uid(), metadata.gid())
    };
    // The ledger and its lock before: none, the node's own, and what root once left there.
    for before in [
        None,
        Some((uid, gid)),
        Some((0, 0)),
        Some((uid + 1, gid + 1)),
    ] {
        let dir = tempfile::tempdir().unwrap();
        chown(dir.path(), Some(uid), Some(gid)).unwrap();
        let place = dir.path().join("data.ldb");
        let lock = dir.path().join("data.ldb-lock");
        if let Some((uid, gid)) = before {
            copy_ledger(BEFORE, &place);
            fs::write(&lock, "").unwrap();
            for path in [&place, &lock] {
                chown(path, Some(uid), Some(gid)).unwrap();
            }
        }
        let expected = match before {
            Some((other, group)) if other != 0 => (other, group),
            _ => (uid, gid),
        };
        install(dir.path(), &[AFTER]).succeeded();
        assert_eq!(owner(&place), expected, "{before:?}");
        assert_eq!(owner(&lock), expected, "{before:?}");
        assert_same(&place, Path::new(AFTER));
        if before.is_some() {
            install(dir.path(), &["--rollback"]).succeeded();
            assert_eq!([owner(&place), owner(&lock)], [expected; 2], "{before:?}");
            assert_same(&place, Path::new(BEFORE));
        }
    }
    // What the directory's owner puts there is not written to.
    let (dir, place) = node(BEFORE);
    chown(dir.path(), Some(uid), Some(gid)).unwrap();
    let others = dir.path().join("other");
    fs::write(&others, "content").unwrap();
    fs::hard_link(&others, dir.path().join("data.ldb-lock")).unwrap();
    install(dir.path(), &[AFTER]).failed_with(1, &["data.ldb-lock", "another hard link"]);
    assert_eq!(fs::read_to_string(&others).unwrap(), "content");
    assert_eq!(owner(&others), (0, 0));
    assert_same(&place, Path::new(BEFORE));
}

#[test]
fn a_running_node_keeps_its_ledger() {
    let (dir, place) = node(BEFORE);
    let holder = Holder::of(&place);
    let pid = holder.0.id().to_string();
    for args in [&[AFTER][..], &["--rollback"]] {
        install(dir.path(), args).failed_with(1, &["stop the node first", &pid]);
    }
    assert_same(&place, Path::new(BEFORE));
    assert_eq!(names(dir.path()), ["data.ldb", "data.ldb-lock"]);
    // Nor is it taken or looked into while it may change.
    let other = tempfile::tempdir().unwrap();
    let from = place.to_str().unwrap();
    install(other.path(), &[from]).failed_with(1, &["stop it first", &pid]);
    let mut verify = command();
    run_command(verify.arg("verify").arg(&place)).failed_with(1, &["verify a copy", &pid]);
    // It can go on using it, and others beside it.
    drop(LiveLedger::open(&place).unwrap());
    holder.let_go();
    install(dir.path(), &[AFTER]).succeeded();
    assert_same(&place, Path::new(AFTER));
}

#[test]
fn what_is_no_sound_ledger_is_not_installed() {
    let (dir, place) = node(BEFORE);
    let bad = dir.path().join("bad");
    let mut half = fs::read(AFTER).unwrap();
    half.truncate(half.len() / 2);
    for (content, reason) in [
        (half, "file-length"),
        (vec![3; 100_000], "neither a ledger nor a tar.zst"),
        (Vec::new(), "neither a ledger nor a tar.zst"),
        (b"7z\xbc\xaf\x27\x1c and so on".to_vec(), "it is an archive"),
    ] {
        fs::write(&bad, content).unwrap();
        let said = install(dir.path(), &[bad.to_str().unwrap()]);
        said.failed_with(1, &["is not installed", "unchanged", reason]);
        assert_same(&place, Path::new(BEFORE));
        assert_eq!(names(dir.path()), ["bad", "data.ldb", "data.ldb-lock"]);
    }
    let said = install(dir.path(), &[AFTER, "--store-version", "21"]);
    said.failed_with(1, &["is not installed", "store version 24"]);
    let said = install(dir.path(), &[place.to_str().unwrap()]);
    said.failed_with(1, &["the node's ledger already"]);
    install(&bad, &[AFTER]).failed_with(1, &["not a directory"]);
    install(&dir.path().join("none"), &[AFTER]).failed_with(1, &["cannot access"]);

    // A backup that was damaged meanwhile does not come back.
    fs::write(dir.path().join("data.ldb.backup"), "no ledger").unwrap();
    let said = install(dir.path(), &["--rollback"]);
    said.failed_with(1, &["the backup is not a sound ledger"]);
    assert_same(&place, Path::new(BEFORE));
}

#[test]
fn a_ledger_on_another_disk_stays_there() {
    let (disk, place) = node(BEFORE);
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(&place, dir.path().join("data.ldb")).unwrap();
    install(dir.path(), &[AFTER]).succeeded();
    let link = dir.path().join("data.ldb");
    assert_eq!(fs::read_link(link).unwrap(), place);
    assert_same(&place, Path::new(AFTER));
    assert_eq!(names(disk.path()), ["data.ldb", "data.ldb.backup"]);
    // The lock lies where the node looks for it.
    assert_eq!(names(dir.path()), ["data.ldb", "data.ldb-lock"]);
}

#[test]
fn the_same_ledger_again_changes_nothing() {
    let (dir, place) = node(BEFORE);
    let backup = dir.path().join("data.ldb.backup");
    let world = World::new();
    let ledger = world.path("node.ldb");
    copy_ledger(AFTER, &ledger);
    for layout in ["plain", "tar.zst"] {
        let mut produce = world.produce(layout, &ledger);
        run_command(produce.args(["--layout", layout])).succeeded();
    }
    install(dir.path(), &[AFTER]).succeeded();
    let inode = place.metadata().unwrap().ino();
    let plain = world.path("plain");
    let archive = world.path("tar.zst");
    let origins = [
        vec![AFTER],
        vec!["--data-dir", plain.to_str().unwrap()],
        vec!["--data-dir", archive.to_str().unwrap()],
    ];
    for args in &origins {
        let said = install(dir.path(), args).succeeded();
        assert_eq!(said.stdout.trim(), place.to_str().unwrap());
        assert!(said.stderr.contains("installed already"), "{}", said.stderr);
        assert_eq!(place.metadata().unwrap().ino(), inode, "{args:?}");
        assert_same(&backup, Path::new(BEFORE));
        let all = ["data.ldb", "data.ldb-lock", "data.ldb.backup"];
        assert_eq!(names(dir.path()), all);
    }
    // What an interrupted run of an earlier version left: second names of the ledger.
    for name in ["data.ldb.old", "data.ldb.backup"] {
        let _ = fs::remove_file(&backup);
        fs::hard_link(&place, dir.path().join(name)).unwrap();
        install(dir.path(), &[AFTER]).succeeded();
        assert_eq!(names(dir.path()), ["data.ldb", "data.ldb-lock"]);
        assert_eq!(place.metadata().unwrap().nlink(), 1);
    }
}

#[test]
fn damaged_snapshots_are_not_installed() {
    let world = World::new();
    let ledger = world.path("node.ldb");
    for (layout, file) in [("plain", "data.ldb"), ("tar.zst", "data.ldb.tar.zst")] {
        copy_ledger(AFTER, &ledger);
        let mut produce = world.produce(layout, &ledger);
        run_command(produce.args(["--layout", layout])).succeeded();
        let snapshot = world.current(layout).unwrap();
        let content = world.content(layout, &snapshot).with_file_name(file);
        let data = world.path(layout);
        let args = ["--data-dir", data.to_str().unwrap()];
        // The default level looks at none of this.
        rot(&content, content.metadata().unwrap().len() - 100_000);
        let (dir, place) = node(BEFORE);
        let refused = || {
            let said = install(dir.path(), &args);
            let parts = [&*snapshot, "is not installed", "not as published", "verify"];
            said.failed_with(1, &parts);
            assert_same(&place, Path::new(BEFORE));
        };
        refused();
        run_command(command().arg("verify").args(args)).failed_with(1, &[]);
        refused();
        assert!(!dir.path().join("data.ldb.backup").exists());
    }
    // A ledger without a snapshot has no hashes.
    let (dir, _) = node(BEFORE);
    let said = install(dir.path(), &[AFTER]).succeeded();
    assert!(said.stderr.contains("no hashes"), "{}", said.stderr);
}

/// A world with a published ledger, and a fetch of it into `node`.
fn extract(world: &World) -> Command {
    let mut fetch = world.mirror("node");
    fetch.args(["--once", "--extract"]);
    fetch
}

#[test]
fn extracting_does_not_replace_the_ledger_of_a_running_node() {
    let world = World::new();
    let ledger = world.path("node.ldb");
    copy_ledger(AFTER, &ledger);
    run_command(&mut world.produce("producer", &ledger)).succeeded();
    let seeder = Running::start(&mut world.mirror("producer"));
    let place = world.path("node/data.ldb");
    let backup = world.path("node/data.ldb.backup");
    copy_ledger(BEFORE, &place);
    fs::set_permissions(&place, fs::Permissions::from_mode(0o640)).unwrap();

    let holder = Holder::of(&place);
    let pid = holder.0.id().to_string();
    let said = run_command(&mut extract(&world));
    said.failed_with(1, &["stop the node first", "install --to", &pid]);
    assert_same(&place, Path::new(BEFORE));
    assert!(!backup.exists());
    holder.let_go();

    let said = run_command(&mut extract(&world)).succeeded();
    assert!(said.stderr.contains("--rollback"), "{}", said.stderr);
    assert_same(&place, Path::new(AFTER));
    assert_same(&backup, Path::new(BEFORE));
    assert_eq!(place.metadata().unwrap().mode() & 0o777, 0o640);

    // The next snapshot replaces one that can be fetched again, and the backup stays.
    copy_ledger(BEFORE, &ledger);
    run_command(world.produce("producer", &ledger).arg("--allow-older")).succeeded();
    fs::write(&backup, "the ledger of the node").unwrap();
    let older = ["5,338 cemented of 5,460 blocks", "older", "--allow-older"];
    run_command(&mut extract(&world)).failed_with(1, &older);
    assert_same(&place, Path::new(AFTER));
    run_command(extract(&world).arg("--allow-older")).succeeded();
    assert_same(&place, Path::new(BEFORE));
    assert_eq!(fs::read(&backup).unwrap(), b"the ledger of the node");
    seeder.stop().succeeded();
}

#[test]
fn damaged_content_is_not_extracted_and_fetched_again() {
    let world = World::new();
    let ledger = world.path("node.ldb");
    copy_ledger(AFTER, &ledger);
    run_command(&mut world.produce("producer", &ledger)).succeeded();
    let seeder = Running::start(&mut world.mirror("producer"));
    run_command(world.mirror("node").arg("--once")).succeeded();
    let snapshot = world.current("node").unwrap();
    rot(&world.content("node", &snapshot), 4_000_000);
    let said = run_command(&mut extract(&world));
    said.failed_with(
        1,
        &["is not extracted", "1 blocks", "run the same command again"],
    );
    assert!(!world.path("node/data.ldb").exists());
    run_command(&mut extract(&world)).succeeded();
    assert_same(&world.path("node/data.ldb"), Path::new(AFTER));
    seeder.stop().succeeded();
}

#[test]
fn the_current_snapshot_is_installed_whatever_its_layout() {
    let world = World::new();
    let ledger = world.path("node.ldb");
    for (layout, ledger_file) in [("plain", AFTER), ("tar.zst", BEFORE)] {
        copy_ledger(ledger_file, &ledger);
        let mut produce = world.produce(layout, &ledger);
        run_command(produce.args(["--layout", layout])).succeeded();
        let (dir, place) = node(if layout == "plain" { BEFORE } else { AFTER });
        let data = world.path(layout);
        let args = ["--data-dir", data.to_str().unwrap(), "--allow-older"];
        let said = install(dir.path(), &args).succeeded();
        assert!(said.stderr.contains("--rollback"), "{}", said.stderr);
        assert_same(&place, Path::new(ledger_file));
        let all = ["data.ldb", "data.ldb-lock", "data.ldb.backup"];
        assert_eq!(names(dir.path()), all);
        let mode = place.metadata().unwrap().mode();
        assert_eq!(mode & 0o777, 0o644, "that of the ledger before");
    }
    let empty = world.path("empty");
    fs::create_dir_all(empty.join("snapshots")).unwrap();
    let (dir, _) = node(BEFORE);
    let said = install(dir.path(), &["--data-dir", empty.to_str().unwrap()]);
    said.failed_with(1, &["neither a current snapshot", "--once"]);
}
