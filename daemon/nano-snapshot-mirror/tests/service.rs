//! The mirror and the fetch through what a year brings: signals, new days, bad days, bad disks.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bittorrent_protocol::PieceLength;
use bittorrent_store::create::{Cut, copy_path};
use bittorrent_store::{RealIo, TorrentStore};
use common::{
    AFTER, BEFORE, Running, World, assert_same, copy_ledger, names, numbers, rot, run_command,
};
use nano_ledger::synthetic;
use rustix::process::Signal;

/// A world with one published day, and the mirror that seeds it from the producer's store.
fn published(ledger: &str) -> (World, String, Running) {
    let world = World::new();
    copy_ledger(ledger, &world.path("node.ldb"));
    let snapshot = produce(&world);
    let seeder = Running::start(&mut world.mirror("producer"));
    (world, snapshot, seeder)
}

fn produce(world: &World) -> String {
    let said = run_command(&mut world.produce("producer", &world.path("node.ldb"))).succeeded();
    said.value("snapshot")
}

fn snapshots(world: &World, data: &str) -> Vec<String> {
    names(&world.path(data).join("snapshots"))
}

#[test]
fn two_generations_are_kept_and_no_more() {
    let (world, first, mut seeder) = published(BEFORE);
    let mut mirror = Running::start(&mut world.mirror("mirror"));
    let mut days = vec![first];
    loop {
        let newest = days.last().unwrap().clone();
        mirror.until("the new day", || {
            world.current("mirror") == Some(newest.clone())
        });
        assert_same(
            &world.content("producer", &newest),
            &world.content("mirror", &newest),
        );
        if days.len() == 3 {
            break;
        }
        next_day(&world, days.len());
        days.push(produce(&world));
    }
    let mut kept = days[1..].to_vec();
    kept.sort();
    mirror.until("the oldest to go", || snapshots(&world, "mirror") == kept);
    // The producer could not remove what its mirror seeds; the mirror does.
    seeder.until("the oldest to go", || snapshots(&world, "producer") == kept);
    for (data, daemon) in [("mirror", &mut mirror), ("producer", &mut seeder)] {
        let incoming = world.path(data).join("incoming");
        daemon.until("an empty incoming/", || {
            fs::read_dir(&incoming).unwrap().count() == 0
        });
    }
    for daemon in [mirror, seeder] {
        daemon.stop().succeeded();
    }
}

/// Another day of the node's ledger: the later of the two real ones, then days of invented blocks on top of it.
fn next_day(world: &World, day: usize) {
    let ledger = world.path("node.ldb");
    match day {
        1 => copy_ledger(AFTER, &ledger),
        _ => synthetic::add_day(&ledger, 10 * day as u64, 4).unwrap(),
    }
}

#[test]
fn what_is_pinned_stays_until_it_is_unpinned() {
    let (world, first, seeder) = published(BEFORE);
    let mut mirror = Running::start(&mut world.mirror("mirror"));
    mirror.until("the first day", || {
        world.current("mirror") == Some(first.clone())
    });
    let pin = |what: &str, id: &str| {
        let mut command = common::command();
        let command = command.args([what, id, "--data-dir"]);
        run_command(command.arg(world.path("mirror")))
    };
    let status = || {
        let mut command = common::command();
        let command = command.args(["status", "--data-dir"]);
        run_command(command.arg(world.path("mirror")))
            .succeeded()
            .stdout
    };
    assert!(!status().contains("pinned"));
    let said = pin("pin", &first[..8]).succeeded();
    assert_eq!(said.stdout.trim(), format!("{first}: pinned"));
    assert!(status().contains("pinned"));
    pin("pin", "0123").failed_with(1, &["begins with", "status lists"]);

    let mut days = vec![first.clone()];
    for day in 1..4 {
        next_day(&world, day);
        days.push(produce(&world));
        mirror.until("the new day", || {
            world.current("mirror") == days.last().cloned()
        });
    }
    let mut kept = vec![days[0].clone(), days[2].clone(), days[3].clone()];
    kept.sort();
    mirror.until("the second to go", || snapshots(&world, "mirror") == kept);
    pin("unpin", &first).succeeded();
    mirror.signal(Signal::HUP);
    mirror.until("the first to go", || {
        !snapshots(&world, "mirror").contains(&first)
    });
    for daemon in [mirror, seeder] {
        daemon.stop().succeeded();
    }
}

#[test]
fn what_is_no_ledger_is_never_current() {
    let (world, day, seeder) = published(BEFORE);
    let mut mirror = Running::start(&mut world.mirror("mirror"));
    mirror.until("the first day", || {
        world.current("mirror") == Some(day.clone())
    });

    let junk = world.path("data.ldb");
    fs::write(&junk, "junk, but signed ".repeat(100_000)).unwrap();
    let cut = Cut {
        piece_length: PieceLength::MIN,
        hybrid: true,
    };
    let store = copy_path(
        &junk,
        &world.path("junk"),
        cut,
        Arc::new(RealIo),
        &mut |_| true,
    )
    .unwrap();
    let id = store.info().hashes().v2;
    let (_session, peer) = world.seed(store);
    world.put(2, id);

    // Neither peer knows the other's swarm but by the DHT, where the test does not announce.
    mirror.stop().succeeded();
    let mut mirror = Running::start(
        world
            .mirror("mirror")
            .args(["--seed-peer", &peer.to_string()]),
    );
    mirror.until("the refusal", || {
        was_refused(&world.path("mirror"), &id.to_string())
    });
    assert_eq!(world.current("mirror"), Some(day.clone()));
    mirror.stop().succeeded();

    let mut status = common::command();
    let status = run_command(
        status
            .args(["status", "--data-dir"])
            .arg(world.path("mirror")),
    );
    assert_eq!(status.status.code(), Some(5), "no mirror runs");
    assert!(status.stdout.contains("refused: not a sound ledger"));
    let fetch = run_command(world.mirror("mirror").arg("--once"));
    fetch.failed_with(1, &["not a sound ledger", &id.to_string()]);
    assert_eq!(world.current("mirror"), Some(day));
    seeder.stop().succeeded();
}

/// Whether verification has left its finding.
fn was_refused(data: &Path, id: &str) -> bool {
    fs::read_to_string(data.join("snapshots").join(id).join("ledger.json"))
        .is_ok_and(|record| record.contains("not a Nano ledger"))
}

#[test]
fn hangup_makes_a_mirror_look_at_once() {
    let (world, first, seeder) = published(BEFORE);
    // A poll an hour is none in this test.
    let mut mirror = Running::start(&mut world.mirror_polling("mirror", "1h"));
    mirror.until("the first day", || {
        world.current("mirror") == Some(first.clone())
    });
    copy_ledger(AFTER, &world.path("node.ldb"));
    let second = produce(&world);
    mirror.signal(Signal::HUP);
    mirror.until("the second day", || {
        world.current("mirror") == Some(second.clone())
    });
    for daemon in [mirror, seeder] {
        daemon.stop().succeeded();
    }
}

#[test]
fn a_reload_takes_what_can_change_and_refuses_what_is_wrong() {
    let (world, first, seeder) = published(BEFORE);
    let file = world.path("config.toml");
    fs::write(&file, "poll-interval = \"1h\"\n").unwrap();
    let mut mirror = Running::start(&mut world.mirror_configured("mirror", &file));
    mirror.until("the first day", || {
        world.current("mirror") == Some(first.clone())
    });

    fs::write(
        &file,
        "poll-interval = \"soon\"\n\n[log]\nlevel = \"debug\"\n",
    )
    .unwrap();
    mirror.signal(Signal::HUP);
    common::eventually("the refusal", || {
        let said = mirror.stderr();
        said.contains("keeping the one in effect").then(|| {
            assert!(
                said.contains(&format!("{}:1: poll-interval", file.display())),
                "{said}"
            );
            assert!(!said.contains("DEBUG"), "{said}");
        })
    });

    let good = "poll-interval = \"1s\"\n\n[log]\nlevel = \"debug\"\n\n[verify]\nlevel = \"l0\"\n";
    fs::write(&file, good).unwrap();
    mirror.signal(Signal::HUP);
    common::eventually("the reload", || {
        let said = mirror.stderr();
        let line = said.lines().find(|line| line.contains("now in effect"))?;
        assert!(line.contains("poll-interval, log.level"), "{line}");
        let line = said
            .lines()
            .find(|line| line.contains("after a restart only"))?;
        assert!(line.ends_with("verify.level"), "{line}");
        said.contains("DEBUG").then_some(())
    });
    // The reload itself looked; that the next day is found is the new interval's work.
    copy_ledger(AFTER, &world.path("node.ldb"));
    let second = produce(&world);
    mirror.until("the second day", || {
        world.current("mirror") == Some(second.clone())
    });
    for daemon in [mirror, seeder] {
        daemon.stop().succeeded();
    }
}

#[test]
fn a_stopped_fetch_ends_soon_and_goes_on_later() {
    let world = World::new();
    let options = synthetic::Options {
        seed: 5,
        target_len: 64 << 20,
    };
    synthetic::create(&world.path("node.ldb"), &options).unwrap();
    let snapshot = produce(&world);
    let seeder = Running::start(&mut world.mirror("producer"));
    let fetch = Running::start(world.mirror("node").arg("--once"));
    common::eventually("the download", || {
        fetch.stderr().contains("Downloading").then_some(())
    });
    let asked = Instant::now();
    let said = fetch.stop();
    assert!(
        asked.elapsed() < Duration::from_secs(10),
        "took {:?}",
        asked.elapsed()
    );
    // It may have been done by then.
    if said.status.code() != Some(0) {
        said.failed_with(130, &["run the same command again"]);
        assert_eq!(world.current("node"), None);
    }
    run_command(world.mirror("node").arg("--once")).succeeded();
    assert_same(
        &world.content("producer", &snapshot),
        &world.content("node", &snapshot),
    );
    seeder.stop().succeeded();
}

#[test]
fn a_fetch_gives_back_as_much_as_it_was_told() {
    let (world, snapshot, seeder) = published(BEFORE);
    let timed = world
        .mirror("timed")
        .args(["--once", "--seed-for", "1s"])
        .output()
        .unwrap();
    assert!(timed.status.success());

    let mut giver = Running::start(world.mirror("giver").args(["--once", "--seed-for", "1"]));
    giver.until("the fetch", || {
        world.current("giver") == Some(snapshot.clone())
    });
    seeder.stop().succeeded();
    run_command(world.mirror("taker").arg("--once")).succeeded();
    assert_same(
        &world.content("producer", &snapshot),
        &world.content("taker", &snapshot),
    );
    let log = giver.end().succeeded().stderr;
    let length = world.content("taker", &snapshot).metadata().unwrap().len();
    assert!(
        numbers(&log, "uploaded=").iter().sum::<u64>() >= length,
        "{log}"
    );
}

#[test]
fn extracting_beside_a_mirror_leaves_the_mirror_its_own() {
    let (world, snapshot, seeder) = published(BEFORE);
    let mut fetch = world.mirror("producer");
    let said = run_command(fetch.args(["--once", "--extract"])).succeeded();
    let ledger = world.path("producer/data.ldb");
    assert_eq!(said.stdout.trim(), ledger.to_str().unwrap());
    let content = world.content("producer", &snapshot);
    assert_same(&content, &ledger);
    let metadata = ledger.metadata().unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o644);
    assert_ne!(
        metadata.ino(),
        content.metadata().unwrap().ino(),
        "never a hard link"
    );
    assert_eq!(metadata.nlink(), 1);
    assert_eq!(world.current("producer"), Some(snapshot));

    // The same again has nothing to do.
    let mut again = world.mirror("producer");
    let said = run_command(again.args(["--once", "--extract"])).succeeded();
    assert!(said.stderr.contains("already"), "{}", said.stderr);
    assert_eq!(ledger.metadata().unwrap().ino(), metadata.ino());
    seeder.stop().succeeded();
}

#[test]
fn bit_rot_is_found_and_mended() {
    let (world, snapshot, seeder) = published(BEFORE);
    run_command(world.mirror("node").arg("--once")).succeeded();
    let content = world.content("node", &snapshot);
    let verify = || {
        let mut command = common::command();
        run_command(
            command
                .arg("verify")
                .arg("--data-dir")
                .arg(world.path("node")),
        )
    };
    assert!(verify().succeeded().stdout.contains("as published"));

    rot(&content, 1_000_000);

    let said = verify();
    assert!(
        said.stdout.contains("1 blocks are not as published"),
        "{}",
        said.stdout
    );
    said.failed_with(1, &["found faults"]);
    let said = run_command(world.mirror("node").arg("--once")).succeeded();
    assert_eq!(
        numbers(&said.stderr, "fetched=").iter().sum::<u64>(),
        16_384,
        "{}",
        said.stderr
    );
    assert_same(&world.content("producer", &snapshot), &content);
    verify().succeeded();
    seeder.stop().succeeded();
}

#[test]
fn a_scrub_finds_rot_and_has_it_mended_by_peers() {
    let (world, snapshot, seeder) = published(BEFORE);
    run_command(world.mirror("node").arg("--once")).succeeded();
    let content = world.content("node", &snapshot);
    let good = world.content("producer", &snapshot);
    let sealed = || {
        let dir = world.path("node/snapshots").join(&snapshot);
        TorrentStore::open_sealed(&dir, Arc::new(RealIo))
            .unwrap()
            .is_some()
    };
    for offset in [1_000_000, 2_000_000] {
        rot(&content, offset);
        assert!(sealed(), "no process knows of it yet");
        let mut mirror = Running::start(
            world
                .mirror("node")
                .env("NANO_SNAPSHOT_MIRROR_SCRUB__INTERVAL", "1s")
                .env("NANO_SNAPSHOT_MIRROR_SCRUB__RATE", "1GiB/s"),
        );
        let log = mirror.stderr_path();
        let said = |text: &str| fs::read_to_string(&log).unwrap().contains(text);
        mirror.until("the damage", || said("damaged on disk"));
        mirror.until("the seal", sealed);
        assert_same(&good, &content);
        assert!(sealed());
        assert_eq!(world.current("node"), Some(snapshot.clone()));
        // The next one finds nothing.
        mirror.until("another scrub", || said("scrub complete: no damage"));
        mirror.stop().succeeded();
    }
    let noted = world
        .path("node/snapshots")
        .join(&snapshot)
        .join("scrub.json");
    assert!(
        fs::read_to_string(noted)
            .unwrap()
            .contains("\"damaged\": 2")
    );

    // Found and not mended, as no peer is there, it is not served and not forgotten.
    seeder.stop().succeeded();
    rot(&content, 3_000_000);
    let scrubbing = || {
        let mut command = world.mirror("node");
        command
            .env("NANO_SNAPSHOT_MIRROR_SCRUB__INTERVAL", "1s")
            .env("NANO_SNAPSHOT_MIRROR_SCRUB__RATE", "1GiB/s");
        Running::start(&mut command)
    };
    let mut mirror = scrubbing();
    let log = mirror.stderr_path();
    mirror.until("the damage", || {
        fs::read_to_string(&log)
            .unwrap()
            .contains("damaged on disk")
    });
    mirror.stop().succeeded();
    assert!(!sealed());
    let seeder = Running::start(&mut world.mirror("producer"));
    let mut mirror = scrubbing();
    mirror.until("the seal", sealed);
    assert_same(&good, &content);
    for daemon in [mirror, seeder] {
        daemon.stop().succeeded();
    }
}

#[test]
fn a_store_that_was_copied_is_read_again_and_not_fetched_again() {
    let (world, snapshot, seeder) = published(BEFORE);
    run_command(world.mirror("node").arg("--once")).succeeded();
    let mut copy = Command::new("cp");
    copy.arg("-r")
        .args([world.path("node"), world.path("moved")]);
    assert!(copy.status().unwrap().success());
    let said = run_command(world.mirror("moved").arg("--once")).succeeded();
    assert_eq!(
        numbers(&said.stderr, "fetched=").iter().sum::<u64>(),
        0,
        "{}",
        said.stderr
    );
    assert_same(
        &world.content("producer", &snapshot),
        &world.content("moved", &snapshot),
    );
    let reopened = TorrentStore::open(
        &world.path("moved/snapshots").join(&snapshot),
        Arc::new(RealIo),
    );
    assert!(reopened.unwrap().0.is_sealed());
    seeder.stop().succeeded();
}
