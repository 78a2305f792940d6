//! A full disk, at each stage of a mirror's work: it says so, loses nothing, and goes on by itself when
//! there is room. The disks are small ones in memory that the test mounts, for which it has to be root.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use common::small_disk::{MIB, SmallDisk};
use common::{
    AFTER, BEFORE, Running, World, assert_same, copy_ledger, names, numbers, run_command,
};
use nano_ledger::synthetic;
use rustix::process::Signal;

/// Bytes of the ledger.
const LENGTH: u64 = 40 * MIB;

/// A ledger that is seeded.
struct Published {
    world: World,
    snapshot: String,
    seeder: Option<Running>,
}

impl Published {
    fn new() -> Self {
        static LEDGER: OnceLock<tempfile::TempDir> = OnceLock::new();
        let ledger = LEDGER.get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            let options = synthetic::Options {
                seed: 11,
                target_len: LENGTH,
            };
            synthetic::create(&dir.path().join("node.ldb"), &options).unwrap();
            dir
        });
        let world = World::new();
        let ledger = ledger.path().join("node.ldb");
        let produced = run_command(&mut world.produce("producer", &ledger)).succeeded();
        let seeder = Running::start(&mut world.mirror("producer"));
        Self {
            snapshot: produced.value("snapshot"),
            world,
            seeder: Some(seeder),
        }
    }

    /// A place in the mirror's data directory.
    fn place(&self, name: &str) -> PathBuf {
        let name = name.replace("ID", &self.snapshot);
        self.world.path("mirror").join(name)
    }

    /// The mirror says that it waits, and what it could not do.
    fn until_paused(&self, mirror: &mut Running, what: &str) {
        // The log is read before `until` may look at the process again.
        let mut said = String::new();
        let path = mirror.stderr_path();
        mirror.until(&format!("a pause for {what}"), || {
            said = fs::read_to_string(&path).unwrap();
            let pause =
                |line: &str| line.contains("until there is free disk space") && line.contains(what);
            said.lines().any(pause)
        });
        assert_ne!(self.world.current("mirror"), Some(self.snapshot.clone()));
    }

    fn until_whole(&self, mirror: &mut Running) {
        mirror.until("the snapshot", || {
            self.world.current("mirror") == Some(self.snapshot.clone())
        });
        assert_same(
            &self.world.content("producer", &self.snapshot),
            &self.world.content("mirror", &self.snapshot),
        );
    }
}

/// A mirror with one small disk inside its data directory, and others around that have room.
fn pauses_and_goes_on(place: &str, options: &str, roomy: &[&str], larger: &str, what: &str) {
    let published = Published::new();
    let Some(small) = SmallDisk::mount(published.place(place), options) else {
        return;
    };
    let roomy: Vec<SmallDisk> = roomy
        .iter()
        .map(|place| SmallDisk::mount(published.place(place), "size=100m").unwrap())
        .collect();
    let mut mirror = Running::start(&mut published.world.mirror("mirror"));
    published.until_paused(&mut mirror, what);
    small.remount(larger);
    published.until_whole(&mut mirror);
    // Nothing that was there when it paused was fetched twice, but for what was in flight.
    let fetched: u64 = numbers(&mirror.stderr(), " fetched=").iter().sum();
    assert!(fetched <= LENGTH + 32 * MIB, "{fetched}");
    // The mounts go with the process gone.
    let said = mirror.stop().succeeded();
    assert!(!said.stderr.contains("panicked"), "{}", said.stderr);
    drop((roomy, small));
}

#[test]
fn no_room_for_the_metadata() {
    // For two directories and a content file, and none for the torrent.
    let (few, many) = ("nr_inodes=4", "nr_inodes=99");
    pauses_and_goes_on("snapshots/ID", few, &[], many, "snapshot.torrent");
}

#[test]
fn no_room_for_the_content() {
    let place = "snapshots/ID/content";
    pauses_and_goes_on(place, "size=8m", &[], "size=100m", "content/data.ldb");
}

#[test]
fn what_is_there_is_served_during_a_pause() {
    let mut published = Published::new();
    let place = published.place("snapshots/ID/content");
    let Some(small) = SmallDisk::mount(place, "size=20m") else {
        return;
    };
    let mut mirror = Running::start(&mut published.world.mirror("mirror"));
    published.until_paused(&mut mirror, "content/data.ldb");
    let log = mirror.stderr_path();
    mirror.until("what is there to be offered", || {
        fs::read_to_string(&log)
            .unwrap()
            .contains("serving the verified part")
    });
    // No other peer has anything.
    let seeder = published.seeder.take();
    seeder.unwrap().stop().succeeded();
    let mut other = Running::start(published.world.mirror("other").arg("--once"));
    let content = published.world.content("other", &published.snapshot);
    other.until("a part", || {
        content
            .metadata()
            .is_ok_and(|content| content.blocks() * 512 >= 4 * MIB)
    });
    // With room and a peer to ask, both continue.
    small.remount("size=100m");
    published.seeder = Some(Running::start(&mut published.world.mirror("producer")));
    published.until_whole(&mut mirror);
    other.end().succeeded();
    let said = mirror.stop().succeeded();
    assert!(!said.stderr.contains("panicked"), "{}", said.stderr);
}

#[test]
fn no_room_for_the_leaves() {
    let place = "snapshots/ID/leaves";
    pauses_and_goes_on(place, "size=16k", &[], "size=10m", "/leaves/");
}

#[test]
fn no_room_for_progress() {
    // The torrent and its first claims have room, the journal of what was verified has not.
    pauses_and_goes_on(
        "snapshots/ID",
        "size=20k",
        &["snapshots/ID/content", "snapshots/ID/leaves"],
        "size=10m",
        "No space left on device",
    );
}

#[test]
fn no_room_for_the_record_of_the_stream() {
    let what = "the pointer is not followed";
    pauses_and_goes_on("streams", "nr_inodes=1", &[], "nr_inodes=99", what);
}

#[test]
fn no_room_for_the_switch() {
    let what = "complete and not yet current";
    pauses_and_goes_on("current", "nr_inodes=1", &[], "nr_inodes=99", what);
}

#[test]
fn no_room_for_what_verification_found() {
    let published = Published::new();
    let Some(disk) = SmallDisk::mount(published.place(""), "size=100m") else {
        return;
    };
    let mut mirror = Running::start(&mut published.world.mirror("mirror"));
    published.until_whole(&mut mirror);
    mirror.stop().succeeded();
    let record = published.place("snapshots/ID/ledger.json");
    fs::remove_file(&record).unwrap();
    disk.fill(0);
    let mut mirror = Running::start(&mut published.world.mirror("mirror"));
    let log = mirror.stderr_path();
    mirror.until("the pause", || {
        let said = fs::read_to_string(&log).unwrap();
        said.lines().any(|line| {
            line.contains("until there is free disk space") && line.contains("ledger.json")
        })
    });
    disk.empty();
    mirror.until("the record", || record.exists());
    mirror.stop().succeeded();
}

#[test]
fn what_cannot_have_room_is_not_begun() {
    let published = Published::new();
    let Some(disk) = SmallDisk::mount(published.place(""), "size=41m") else {
        return;
    };
    let numbers = [
        "the snapshot needs 4",
        "2.05 MiB stay free",
        "has 4",
        "or name another data directory",
    ];
    run_command(published.world.mirror("mirror").arg("--once")).failed_with(1, &numbers);
    let mut mirror = Running::start(&mut published.world.mirror("mirror"));
    published.until_paused(&mut mirror, numbers[0]);
    assert!(!published.place("snapshots/ID/content").exists());
    disk.remount("size=100m");
    published.until_whole(&mut mirror);
    mirror.stop().succeeded();
}

#[test]
fn a_floor_of_free_space_is_kept() {
    let published = Published::new();
    let Some(disk) = SmallDisk::mount(published.place(""), "size=600m") else {
        return;
    };
    // A twentieth of the disk.
    let reserve = 30 * MIB;
    let mut mirror = Running::start(&mut published.world.mirror("mirror"));
    mirror.until("the download", || {
        published.place("snapshots/ID/content/data.ldb").exists()
    });
    // Another process takes all the room that was there when it began.
    mirror.signal(Signal::STOP);
    disk.fill(reserve + 4 * MIB);
    mirror.signal(Signal::CONT);
    let log = mirror.stderr_path();
    mirror.until("a pause before the floor, or the end", || {
        let said = fs::read_to_string(&log).unwrap();
        said.contains("stay free") || published.world.current("mirror").is_some()
    });
    assert!(!mirror.stderr().contains("No space left"));
    disk.empty();
    published.until_whole(&mut mirror);
    mirror.stop().succeeded();
}

#[test]
fn no_room_for_a_producers_copy() {
    let world = World::new();
    let Some(disk) = SmallDisk::mount(world.path("producer"), "size=3m") else {
        return;
    };
    let ledger = world.path("node.ldb");
    copy_ledger(AFTER, &ledger);
    let said = run_command(&mut world.produce_default("producer", &ledger));
    said.failed_with(
        1,
        &["the copy of the ledger needs", "stay free", "--data-dir"],
    );
    assert_eq!(world.current("producer"), None);
    disk.remount("size=30m");
    run_command(&mut world.produce_default("producer", &ledger)).succeeded();
    assert!(names(&world.path("producer/incoming")).is_empty());
}

#[test]
fn no_room_for_the_nodes_new_ledger() {
    let world = World::new();
    let Some(disk) = SmallDisk::mount(world.path("node"), "size=6m") else {
        return;
    };
    let place = world.path("node/data.ldb");
    copy_ledger(BEFORE, &place);
    let install = || {
        let mut install = common::command();
        run_command(
            install
                .arg("install")
                .arg(AFTER)
                .arg("--to")
                .arg(world.path("node")),
        )
    };
    install().failed_with(1, &["the node's new ledger needs", "stay free"]);
    assert_same(&place, Path::new(BEFORE));
    assert_eq!(names(&world.path("node")), ["data.ldb", "data.ldb-lock"]);
    disk.remount("size=20m");
    install().succeeded();
    assert_same(&place, Path::new(AFTER));
}
