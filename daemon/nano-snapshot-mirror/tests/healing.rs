//! Whatever is wrong in the data directory: every command survives it, the mirror keeps serving what is
//! good, says what is wrong, and repairs it by itself.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use common::{BEFORE, Running, World, assert_same, command, copy_ledger, names, run_command};
use serde_json::Value;

/// A published ledger and what seeds it.
struct Published {
    world: World,
    snapshot: String,
    seeder: Option<Running>,
}

impl Published {
    fn new() -> Self {
        let world = World::new();
        let ledger = world.path("node/data.ldb");
        copy_ledger(BEFORE, &ledger);
        let produced = run_command(&mut world.produce("producer", &ledger)).succeeded();
        let seeder = Running::start(&mut world.mirror("producer"));
        Self {
            snapshot: produced.value("snapshot"),
            world,
            seeder: Some(seeder),
        }
    }

    fn start_seeder(&mut self) {
        self.seeder = Some(Running::start(&mut self.world.mirror("producer")));
    }

    fn stop_seeder(&mut self) {
        self.seeder.take().unwrap().stop().succeeded();
    }

    /// A place in the directory of the snapshot.
    fn place(&self, name: &str) -> PathBuf {
        let dir = self.world.path("mirror").join("snapshots");
        dir.join(&self.snapshot).join(name)
    }

    fn fetch(&self) {
        run_command(self.world.mirror("mirror").arg("--once")).succeeded();
        self.is_whole();
    }

    fn is_whole(&self) {
        assert_same(
            &self.world.content("producer", &self.snapshot),
            &self.world.content("mirror", &self.snapshot),
        );
    }

    /// Runs a command on the data directory. It may fail, but by itself.
    fn run(&self, args: &[&str]) -> common::Said {
        let mut command = command();
        command.args(args).arg("--data-dir");
        let said = run_command(command.arg(self.world.path("mirror")));
        assert!(said.status.code().is_some(), "{args:?}: {}", said.stderr);
        assert!(
            !said.stderr.contains("panicked"),
            "{args:?}: {}",
            said.stderr
        );
        said
    }

    fn state(&self) -> String {
        let status = self.world.status("mirror");
        let snapshots = status["snapshots"].as_array().cloned();
        let mut snapshots = snapshots.unwrap_or_default().into_iter();
        let ours = snapshots.find(|one| one["snapshot"] == self.snapshot.as_str());
        ours.map_or("none".to_owned(), |one| {
            one["state"].as_str().unwrap().to_owned()
        })
    }

    /// The problems of the running mirror by code, and whether it is ready.
    fn problems(&self) -> Option<(Vec<String>, bool)> {
        let status = self.world.status("mirror");
        let mirror = &status["mirror"];
        let codes = mirror["problems"].as_array()?.iter();
        let codes = codes.map(|one| one["code"].as_str().unwrap().to_owned());
        Some((codes.collect(), mirror["ready"].as_bool()?))
    }

    fn has_problem(&self, code: &str) -> bool {
        let problems = self.problems();
        problems.is_some_and(|(codes, ready)| codes.iter().any(|one| one == code) && !ready)
    }

    fn is_ready(&self) -> bool {
        self.problems()
            .is_some_and(|(codes, ready)| codes.is_empty() && ready)
    }
}

fn remove(path: &Path) {
    match path.symlink_metadata() {
        Ok(found) if found.is_dir() => fs::remove_dir_all(path).unwrap(),
        Ok(_) => fs::remove_file(path).unwrap(),
        Err(_) => {}
    }
}

/// Changes one bit. The time of the file stays what it was, as when a disk rots.
fn flip(path: &Path, at: u64) {
    let before = path.metadata().unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    file.set_modified(before.modified().unwrap()).unwrap();
    fs::set_permissions(path, before.permissions()).unwrap();
}

/// Where some bytes stand in a file.
fn find(path: &Path, bytes: &[u8]) -> u64 {
    let all = fs::read(path).unwrap();
    let at = all.windows(bytes.len()).position(|some| some == bytes);
    at.unwrap() as u64
}

#[test]
fn whatever_is_wrong_in_a_snapshot_is_repaired_and_fetched_again() {
    let published = Published::new();
    published.fetch();
    type Damage = fn(&Path);
    let as_dir: Damage = |path| {
        remove(path);
        fs::create_dir_all(path.join("below")).unwrap();
    };
    let as_link: Damage = |path| {
        remove(path);
        symlink("/nowhere", path).unwrap();
    };
    let as_file: Damage = |path| {
        remove(path);
        fs::write(path, "something else").unwrap();
    };
    let as_loop: Damage = |path| {
        remove(path);
        symlink(path.file_name().unwrap(), path).unwrap();
    };
    let cut: Damage = |path| {
        let half = path.metadata().unwrap().len() / 2;
        File::options()
            .write(true)
            .open(path)
            .unwrap()
            .set_len(half)
            .unwrap();
    };
    // Still a torrent, of something else.
    let other: Damage = |path| flip(path, find(path, b"\"block_count\":") + 14);
    let cases: [(&str, Damage, &str); 21] = [
        ("content", remove, "missing"),
        ("content", as_file, "a file"),
        ("content", as_link, "a link"),
        ("content/data.ldb", remove, "missing"),
        ("content/data.ldb", as_dir, "a directory"),
        ("content/data.ldb", as_link, "a link"),
        ("content/data.ldb", cut, "cut"),
        ("progress", remove, "missing"),
        ("progress", as_dir, "a directory"),
        ("progress", as_link, "a link"),
        ("progress", cut, "cut"),
        ("snapshot.torrent", remove, "missing"),
        ("snapshot.torrent", as_dir, "a directory"),
        ("snapshot.torrent", as_loop, "a link to itself"),
        ("snapshot.torrent", cut, "cut"),
        ("snapshot.torrent", other, "another torrent"),
        ("leaves", as_file, "a file"),
        ("leaves/0", as_dir, "a directory"),
        ("ledger.json", as_dir, "a directory"),
        ("", as_file, "a file"),
        ("", as_link, "a link"),
    ];
    for (part, damage, what) in cases {
        println!("{part:?} is {what}");
        let path = published.place(part);
        let path = path.components().collect::<PathBuf>();
        damage(&path);
        published.run(&["status"]);
        let verified = published.run(&["verify"]);
        assert_ne!(verified.status.code(), Some(101), "{}", verified.stderr);
        published.run(&["unpin", &published.snapshot]);
        published.fetch();
        assert_eq!(published.state(), "whole", "{part:?} is {what}");
        published.run(&["verify"]).succeeded();
        let aside = published.world.path("mirror").join("set-aside");
        let count = if aside.exists() {
            names(&aside).len()
        } else {
            0
        };
        assert!(count <= 9, "{:?}", names(&aside));
    }
}

#[test]
fn a_mirror_repairs_what_was_damaged_while_it_was_off() {
    let published = Published::new();
    published.fetch();
    let torrent = published.place("snapshot.torrent");
    flip(&torrent, find(&torrent, b"\"block_count\":") + 14);
    remove(&published.place("content"));
    let mut mirror = Running::start(&mut published.world.mirror("mirror"));
    mirror.until("the snapshot", || published.is_ready());
    published.is_whole();
    mirror.stop().succeeded();
}

#[test]
fn what_is_damaged_under_a_mirror_is_not_served_and_fetched_again() {
    let mut published = Published::new();
    let mut mirror = Running::start(&mut published.world.mirror("mirror"));
    mirror.until("the snapshot", || published.is_ready());
    let content = published.world.content("mirror", &published.snapshot);
    let edit = |path: &Path| {
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
        let file = File::options().write(true).open(path).unwrap();
        file.write_all_at(b"edited", 300_000).unwrap();
    };
    let cut = |path: &Path| {
        let file = File::options().write(true).open(path).unwrap();
        file.set_len(100_000).unwrap();
    };
    let snapshot = published.place("");
    type Damage<'a> = &'a dyn Fn();
    let cases: [(&str, Damage<'_>); 5] = [
        ("deleted", &|| remove(&content)),
        ("cut", &|| cut(&content)),
        ("edited", &|| edit(&content)),
        ("without its directory", &|| {
            remove(content.parent().unwrap());
        }),
        ("without everything", &|| remove(&snapshot)),
    ];
    for (what, damage) in cases {
        println!("the content is {what}");
        published.stop_seeder();
        damage();
        mirror.until(&format!("the problem of content that is {what}"), || {
            published.has_problem("content-damaged")
        });
        published.start_seeder();
        mirror.until(&format!("repair of content that is {what}"), || {
            published.is_ready()
        });
        published.is_whole();
    }
    let said = mirror.stop().succeeded();
    assert!(!said.stderr.contains("panicked"), "{}", said.stderr);
}

#[test]
fn damage_that_verify_found_is_not_forgotten_and_a_mirror_repairs_it() {
    let published = Published::new();
    published.fetch();
    let content = published.world.content("mirror", &published.snapshot);
    let again = |what: &str| {
        for run in ["first", "second", "third"] {
            let said = published.run(&["verify"]);
            assert_eq!(
                said.status.code(),
                Some(1),
                "{what}, {run}: {}",
                said.stdout
            );
            assert!(said.stdout.contains("not as published"), "{}", said.stdout);
        }
        assert_eq!(published.state(), "damaged", "{what}");
        published.fetch();
        assert_eq!(published.state(), "whole", "{what}");
        published.run(&["verify"]).succeeded();
    };
    flip(&content, 300_000);
    assert_eq!(published.state(), "whole", "nothing shows it");
    again("a byte that rotted");

    fs::set_permissions(&content, fs::Permissions::from_mode(0o644)).unwrap();
    let file = File::options().write(true).open(&content).unwrap();
    file.write_all_at(b"edited", 300_000).unwrap();
    drop(file);
    assert_eq!(published.state(), "damaged");
    again("an edited file");

    // A copy has the right bytes: its claims do not fit until it was read.
    let copy = content.with_extension("copy");
    fs::copy(&content, &copy).unwrap();
    fs::rename(&copy, &content).unwrap();
    assert_eq!(published.state(), "damaged");
    published.run(&["verify"]).succeeded();
    assert_eq!(published.state(), "whole");

    // Under a mirror, which hears of it from the record.
    let mut mirror = Running::start(&mut published.world.mirror("mirror"));
    mirror.until("the snapshot", || published.is_ready());
    flip(&content, 300_000);
    let said = published.run(&["verify"]);
    assert_eq!(said.status.code(), Some(1), "{}", said.stdout);
    mirror.until("repair", || {
        let same = fs::read(&content).unwrap()
            == fs::read(published.world.content("producer", &published.snapshot)).unwrap();
        same && published.is_ready()
    });
    mirror.stop().succeeded();
}

#[test]
fn the_mirror_goes_on_with_what_is_good() {
    let published = Published::new();
    published.fetch();
    let root = published.world.path("mirror");
    // Foreign files beside the links.
    fs::write(root.join("current/README"), "links to snapshots").unwrap();
    fs::create_dir(root.join("current/lost+found")).unwrap();
    published.run(&["status"]);
    // A record with a wrong bit.
    let record = names(&root.join("streams"));
    let record = record.iter().find(|name| name.ends_with(".json")).unwrap();
    let record = root.join("streams").join(record);
    let right = fs::read(&record).unwrap();
    flip(&record, find(&record, b"\"signature\": ") + 20);
    let mut mirror = Running::start(&mut published.world.mirror("mirror"));
    mirror.until("the problem of the record", || {
        published.has_problem("pointer-memory")
    });
    let seeds = |status: &Value| status["mirror"]["torrents"][0]["state"] == "seeding";
    mirror.until("what is held to be seeded", || {
        seeds(&published.world.status("mirror"))
    });
    fs::write(&record, right).unwrap();
    mirror.until("the end of the problem", || published.is_ready());
    // A directory that cannot be listed for a while.
    let log = mirror.stderr_path();
    for name in ["snapshots", "current"] {
        let away = root.join(format!("{name}.away"));
        fs::rename(root.join(name), &away).unwrap();
        mirror.until(&format!("the problem of {name}"), || {
            // `status` cannot list it either.
            let place = root.join(name).display().to_string();
            let log = fs::read_to_string(&log).unwrap();
            let names_it = |line: &str| line.contains("trying again") && line.contains(&place);
            log.lines().any(names_it)
        });
        let _ = fs::remove_dir_all(root.join(name));
        fs::rename(&away, root.join(name)).unwrap();
        mirror.until(&format!("the end of the problem of {name}"), || {
            published.is_ready()
        });
    }
    let said = mirror.stop().succeeded();
    assert!(!said.stderr.contains("stopped serving"), "{}", said.stderr);
    assert!(said.stderr.contains("names no snapshot"), "{}", said.stderr);
    assert!(root.join("current/README").exists());
}

#[test]
fn a_second_mirror_on_a_directory_is_refused_and_a_fetch_is_not() {
    let published = Published::new();
    let mut mirror = Running::start(&mut published.world.mirror("mirror"));
    mirror.until("the snapshot", || published.is_ready());
    let _ = fs::remove_file(published.world.path("mirror").join("lock"));
    run_command(&mut published.world.mirror("mirror")).failed_with(1, &["already running"]);
    run_command(published.world.mirror("mirror").arg("--once")).succeeded();
    mirror.stop().succeeded();
    Running::start(&mut published.world.mirror("mirror"))
        .until("the snapshot", || published.is_ready());
}
