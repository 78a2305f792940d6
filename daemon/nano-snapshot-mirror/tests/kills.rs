//! Commands that replace a ledger or a snapshot are killed before each system call that changes a name:
//! nothing may be lost, and the next run has to complete and leave nothing behind.
//!
//! The registers of other processors than x86-64 have other names; nothing is traced there.
#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::kills::{FileSystem, Traced, run};
use common::{AFTER, BEFORE, World, command, copy_ledger, run_command};

/// A directory that a command changes, and what has to hold in it.
struct Story<'a> {
    name: &'a str,
    on: FileSystem,
    /// Makes the directory as it is before the command.
    prepare: &'a dyn Fn(),
    command: &'a dyn Fn() -> Command,
    /// After a kill: what is lost.
    lost: &'a dyn Fn() -> Option<String>,
    /// After the next run, and after one that was not killed: everything there.
    there: &'a dyn Fn() -> Vec<String>,
}

impl Story<'_> {
    /// Kills the command before its first call, its second, and so on until it ends by itself.
    #[track_caller]
    fn tell(&self) {
        (self.prepare)();
        let Traced::Ended { code: 0, calls, .. } = run(&(self.command)(), usize::MAX, self.on)
        else {
            panic!("{}: failed without a kill", self.name);
        };
        let expected = (self.there)();
        for nth in 0.. {
            (self.prepare)();
            let call = match run(&(self.command)(), nth, self.on) {
                Traced::Killed(call) => call,
                Traced::Ended {
                    code,
                    calls,
                    stderr,
                } => {
                    assert_eq!(code, 0, "{}: {stderr}", self.name);
                    println!("{}: {calls} calls, killed before each", self.name);
                    break;
                }
            };
            let at = format!("{}, killed before call {nth} of {calls}, {call}", self.name);
            if let Some(lost) = (self.lost)() {
                panic!("{at}: lost: {lost}");
            }
            match run(&(self.command)(), usize::MAX, self.on) {
                Traced::Ended { code: 0, .. } => {}
                other => panic!("{at}: the next run: {other:?}"),
            }
            assert_eq!((self.there)(), expected, "{at}: after the next run");
        }
    }
}

fn has(path: &Path, ledger: &str) -> bool {
    fs::read(path).is_ok_and(|bytes| bytes == fs::read(ledger).unwrap())
}

/// Which of the ledgers a file is.
fn which(path: &Path) -> String {
    let name = path.file_name().unwrap().to_str().unwrap();
    let metadata = path.symlink_metadata().unwrap();
    let what = match () {
        () if metadata.is_symlink() => fs::read_link(path).unwrap().display().to_string(),
        () if has(path, AFTER) => "after".to_owned(),
        () if has(path, BEFORE) => "before".to_owned(),
        () => "other".to_owned(),
    };
    let (links, mode) = (metadata.nlink(), metadata.permissions().mode() & 0o777);
    format!("{name}: {what}, {links} names, mode {mode:o}")
}

/// All files below a directory, but the nodes of the DHT and the journals of snapshots: that of a copied
/// one, whose files are others than its record of progress says, has one or not.
fn files(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() && !path.is_symlink() {
            found.push(format!("{name}/"));
            found.extend(files(&path).iter().map(|below| format!("{name}/{below}")));
        } else if name != "dht-nodes" && !name.starts_with("journal.") {
            found.push(which(&path));
        }
    }
    found.sort();
    found
}

/// `install` of a ledger over another one, beside an older backup.
fn installs(on: FileSystem) {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("node");
    let (ledger, backup) = (dir.join("data.ldb"), dir.join("data.ldb.backup"));
    let older = temp.path().join("older");
    fs::write(&older, "an older backup").unwrap();
    let install = |rollback: bool| {
        let mut install = command();
        install.arg("install").arg("--to").arg(&dir);
        install.arg(if rollback { "--rollback" } else { AFTER });
        install
    };
    Story {
        name: &format!("install, {on:?}"),
        on,
        prepare: &|| {
            let _ = fs::remove_dir_all(&dir);
            copy_ledger(BEFORE, &ledger);
            fs::copy(&older, &backup).unwrap();
        },
        command: &|| install(false),
        lost: &|| {
            let in_place = has(&ledger, BEFORE) || has(&ledger, AFTER);
            let kept = has(&ledger, BEFORE) || has(&backup, BEFORE);
            (!kept || !(in_place || on == FileSystem::NoLinks && !ledger.exists()))
                .then(|| files(&dir).join("; "))
        },
        there: &|| files(&dir),
    }
    .tell();
    // The last run left a new ledger and its backup, and nothing else.
    let all = [
        "data.ldb-lock: other, 1 names, mode 600",
        "data.ldb.backup: before, 1 names, mode 644",
        "data.ldb: after, 1 names, mode 644",
    ];
    assert_eq!(files(&dir), all);

    // Back to the ledger before. A rollback that was killed may be completed by the next one, which then
    // undoes it: only that both ledgers are there counts.
    let both = || {
        let found = [&ledger, &backup].map(|path| has(path, BEFORE));
        let other = [&ledger, &backup].map(|path| has(path, AFTER));
        (found, other)
    };
    Story {
        name: &format!("install --rollback, {on:?}"),
        on,
        prepare: &|| {
            let _ = fs::remove_dir_all(&dir);
            copy_ledger(AFTER, &ledger);
            copy_ledger(BEFORE, &backup);
        },
        command: &|| install(true),
        lost: &|| {
            let all = files(&dir);
            let somewhere = |what| all.iter().any(|file| file.contains(what));
            let in_place = ledger.exists() || on == FileSystem::NoLinks;
            (!in_place || !somewhere(": before") || !somewhere(": after")).then(|| all.join("; "))
        },
        there: &|| {
            let (before, after) = both();
            assert_eq!(before.iter().filter(|is| **is).count(), 1);
            assert_eq!(after.iter().filter(|is| **is).count(), 1);
            common::names(&dir)
        },
    }
    .tell();
}

#[test]
fn install_loses_nothing() {
    installs(FileSystem::AsItIs);
}

#[test]
fn install_loses_nothing_where_names_cannot_be_exchanged() {
    installs(FileSystem::NoExchange);
}

#[test]
fn install_loses_nothing_without_hard_links() {
    installs(FileSystem::NoLinks);
}

/// Copies a data directory, and lets its snapshots be compared with their hashes again: they are other
/// files now.
fn copy_store(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    copy_tree(from, to);
    let mut verify = command();
    run_command(verify.args(["verify", "--data-dir"]).arg(to)).succeeded();
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let from = entry.unwrap().path();
        let to = to.join(from.file_name().unwrap());
        if from.is_symlink() {
            symlink(fs::read_link(&from).unwrap(), &to).unwrap();
        } else if from.is_dir() {
            copy_tree(&from, &to);
        } else if from.is_file() {
            fs::copy(&from, &to).unwrap();
        }
    }
}

/// A data directory `node` with the published ledger, and one to change.
struct Published {
    world: World,
    master: PathBuf,
    data: PathBuf,
}

impl Published {
    fn new(layouts: &[(&str, &str)]) -> Self {
        let world = World::new();
        let ledger = world.path("node.ldb");
        for (layout, from) in layouts {
            copy_ledger(from, &ledger);
            let mut produce = world.produce("master", &ledger);
            run_command(produce.args(["--layout", layout])).succeeded();
        }
        Self {
            master: world.path("master"),
            data: world.path("data"),
            world,
        }
    }

    fn extract(&self, args: &[&str]) -> Command {
        let mut fetch = self.world.mirror("data");
        fetch.args(["--once", "--extract"]).args(args);
        fetch
    }

    /// `--extract` into a directory with the ledger of a node.
    fn extracts(&self, name: &str, args: &[&str]) {
        let (ledger, backup) = (
            self.data.join("data.ldb"),
            self.data.join("data.ldb.backup"),
        );
        Story {
            name,
            on: FileSystem::AsItIs,
            prepare: &|| {
                copy_store(&self.master, &self.data);
                copy_ledger(BEFORE, &ledger);
            },
            command: &|| self.extract(args),
            lost: &|| {
                let in_place = has(&ledger, BEFORE) || has(&ledger, AFTER);
                let kept = has(&ledger, BEFORE) || has(&backup, BEFORE);
                (!in_place || !kept).then(|| files(&self.data).join("; "))
            },
            there: &|| {
                assert!(has(&ledger, AFTER) && has(&backup, BEFORE));
                files(&self.data)
            },
        }
        .tell();
    }
}

#[test]
fn extracting_a_ledger_loses_nothing() {
    Published::new(&[("plain", AFTER)]).extracts("--extract", &[]);
}

#[test]
fn extracting_an_archive_loses_nothing() {
    let published = Published::new(&[("tar.zst", AFTER)]);
    published.extracts("--extract of an archive", &[]);
}

#[test]
fn discarding_an_archive_loses_nothing() {
    let published = Published::new(&[("tar.zst", AFTER)]);
    published.extracts("--extract --discard-archive", &["--discard-archive"]);
}

#[test]
fn switching_and_retiring_lose_nothing() {
    let published = Published::new(&[("plain", BEFORE), ("plain", AFTER)]);
    let data = &published.data;
    let current = |of: &Path| fs::read_link(of.join("current/daily")).unwrap();
    let newest = current(&published.master);
    let ids = common::names(&published.master.join("snapshots"));
    let older = ids
        .iter()
        .map(|id| Path::new("../snapshots").join(id))
        .find(|link| *link != newest)
        .unwrap();
    let config = published.world.path("config.toml");
    fs::write(&config, "retention.generations = 1\n").unwrap();
    let content = |link: &Path| data.join("current").join(link).join("content/data.ldb");
    Story {
        name: "switch and retirement",
        on: FileSystem::AsItIs,
        prepare: &|| {
            copy_store(&published.master, data);
            fs::remove_file(data.join("current/daily")).unwrap();
            symlink(&older, data.join("current/daily")).unwrap();
        },
        command: &|| {
            let mut fetch = published.world.mirror("data");
            fetch.arg("--once").arg("--config").arg(&config);
            fetch
        },
        lost: &|| {
            let link = current(data);
            let is_whole = link == newest && has(&content(&link), AFTER)
                || link == older && has(&content(&link), BEFORE);
            (!is_whole || !has(&content(&newest), AFTER)).then(|| files(data).join("; "))
        },
        there: &|| {
            assert_eq!(current(data), newest);
            assert_eq!(common::names(&data.join("snapshots")).len(), 1);
            files(data)
        },
    }
    .tell();
}
