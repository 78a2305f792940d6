//! Those who hold keys: a second authority that attests, one that hands over, a run that no other process is to
//! follow; and mirrors that keep alive what they signed.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::process::Command;

use common::{AFTER, BEFORE, Running, World, copy_ledger, run_command};
use rustix::process::Signal;
use serde_json::Value;
use snapshot_pointer::{Dht as _, MainlineDht, Salt};

fn published(ledger: &str) -> (World, String) {
    let world = World::new();
    copy_ledger(ledger, &world.path("node.ldb"));
    let said = run_command(&mut world.produce("producer", &world.path("node.ldb"))).succeeded();
    let snapshot = said.value("snapshot");
    (world, snapshot)
}

/// A command on a data directory of a mirror that runs; itself it knows no DHT node that lives.
fn beside_a_mirror(world: &World, command: &str, data: &str) -> Command {
    let mut said = common::command();
    said.arg(command).arg("--data-dir").arg(world.path(data));
    said.args(["--dht-port", "0", "--dht-bootstrap", "127.0.0.1:9"]);
    said
}

#[test]
fn whoever_looked_into_a_snapshot_attests_it() {
    let (world, snapshot) = published(BEFORE);
    let second = world.keygen("second");
    let file = world.path("config.toml");
    let two = format!(
        "poll-interval = \"1s\"\n[stream.daily]\nthreshold = 2\nauthorities = [\"{}\", \"{second}\"]\n",
        world.authority
    );
    fs::write(&file, two).unwrap();
    let fetch = || run_command(world.mirror_of_file("node", &file).arg("--once"));
    fetch().failed_with(1, &["1 of 2 needed authorities"]);

    // The operator's own mirror follows the producer alone, and lends its network.
    let seeder = Running::start(&mut world.mirror("producer"));
    let mut mirror = Running::start(&mut world.mirror("mirror"));
    mirror.until("the snapshot", || world.current("mirror").is_some());
    let attest = |extra: &[&str]| {
        let mut attest = beside_a_mirror(&world, "attest", "mirror");
        attest.arg("--key").arg(world.path("second")).args(extra);
        run_command(&mut attest)
    };
    let record = world
        .path("mirror/snapshots")
        .join(&snapshot)
        .join("ledger.json");
    let level = || -> String {
        let record: Value = serde_json::from_slice(&fs::read(&record).unwrap()).unwrap();
        record["level"].as_str().unwrap().to_owned()
    };
    let said = attest(&["--dry-run"]).succeeded();
    assert!(
        said.value("ledger").contains("to be verified at L2"),
        "{}",
        said.stdout
    );
    assert!(said.value("would").contains("sign"), "{}", said.stdout);
    assert_eq!(level(), "L1");

    let said = attest(&[]).succeeded();
    assert!(
        said.stderr.contains("verifying the ledger"),
        "{}",
        said.stderr
    );
    assert!(
        said.stderr.contains("the DHT of the running mirror"),
        "{}",
        said.stderr
    );
    assert_eq!(
        ["snapshot", "seq", "authority"].map(|key| said.value(key)),
        [snapshot.clone(), "1".into(), second]
    );
    assert_eq!(level(), "L2");
    // Now there are two.
    fetch().succeeded();
    assert_eq!(world.current("node"), Some(snapshot.clone()));

    // The same again is put again, with the number it has and without another look.
    let said = attest(&[&snapshot[..9]]).succeeded();
    assert_eq!(said.value("seq"), "1");
    assert!(said.value("ledger").contains("at L2"), "{}", said.stdout);
    assert!(
        !said.stderr.contains("verifying the ledger"),
        "{}",
        said.stderr
    );

    // What is not sound is not attested, nor what is not there.
    let text = fs::read_to_string(&record).unwrap();
    let bad = text.replace("\"faults\": []", "\"faults\": [\"supply: less\"]");
    assert_ne!(bad, text);
    fs::write(&record, bad).unwrap();
    attest(&[]).failed_with(1, &["not attested", "supply: less"]);
    attest(&["0123"]).failed_with(1, &["begins with \"0123\""]);
    attest(&["--stream", "weekly"]).failed_with(1, &["no stream weekly"]);
    for daemon in [mirror, seeder] {
        daemon.stop().succeeded();
    }
}

#[test]
fn an_older_ledger_than_the_last_is_attested_only_where_that_is_allowed() {
    let (world, older) = published(BEFORE);
    copy_ledger(AFTER, &world.path("node.ldb"));
    let said = run_command(&mut world.produce("producer", &world.path("node.ldb"))).succeeded();
    let newer = said.value("snapshot");
    world.keygen("second");
    let mirror = Running::start(&mut world.mirror("producer"));
    let attest = |snapshot: &str, extra: &[&str]| {
        let mut attest = beside_a_mirror(&world, "attest", "producer");
        attest.arg(snapshot).arg("--key").arg(world.path("second"));
        run_command(attest.args(extra))
    };
    assert_eq!(attest(&newer, &["--first"]).succeeded().value("seq"), "1");
    let parts = ["not attested", "5,338 cemented", "older", "--allow-older"];
    attest(&older, &[]).failed_with(1, &parts);
    attest(&older, &["--dry-run"]).failed_with(1, &parts);
    let said = attest(&older, &["--allow-older"]).succeeded();
    assert_eq!(said.value("seq"), "2");
    mirror.stop().succeeded();
}

#[test]
fn a_key_hands_over_to_another() {
    let (world, first) = published(BEFORE);
    let new = world.keygen("new");
    let file = world.path("config.toml");
    let follow = |authorities: &str| {
        let text =
            format!("poll-interval = \"1s\"\n[stream.daily]\nauthorities = [{authorities}]\n");
        fs::write(&file, text).unwrap();
    };
    let old = world.authority.clone();
    follow(&format!("\"{old}\""));
    let mut seeder = Running::start(&mut world.mirror("producer"));
    seeder.until("readiness", || {
        world.status("producer")["mirror"]["ready"] == true
    });
    let rotate = |extra: &[&str]| {
        let mut rotate = beside_a_mirror(&world, "rotate", "producer");
        rotate.arg("--old").arg(world.path("key")).args(extra);
        run_command(&mut rotate)
    };
    let new_key = world.path("new").display().to_string();
    let same_key = world.path("key").display().to_string();
    rotate(&["--new", &same_key]).failed_with(1, &["the same key"]);
    let said = rotate(&["--new", &new_key, "--dry-run"]).succeeded();
    assert!(
        said.value("would").contains("daily.next"),
        "{}",
        said.stdout
    );
    let said = rotate(&["--new", &new_key]).succeeded();
    assert_eq!(
        ["old", "new", "seq"].map(|key| said.value(key)),
        [old.clone(), new.clone(), "1".into()]
    );

    // Mirrors say what to do, and still follow the old one.
    let mut mirror = Running::start(&mut world.mirror_of_file("mirror", &file));
    let problem = || {
        let status = world.status("mirror");
        let problems = status["mirror"]["problems"].as_array().cloned();
        let mut problems = problems.unwrap_or_default().into_iter();
        let rotation = problems.find(|one| one["code"] == "key-rotation")?;
        Some(rotation["text"].as_str().unwrap().to_owned())
    };
    mirror.until("the news", || {
        problem().is_some_and(|text| text.contains(&new))
    });
    mirror.until("the snapshot", || {
        world.current("mirror") == Some(first.clone())
    });

    // Both: it follows the one that names the newer snapshot.
    follow(&format!("\"{old}\", \"{new}\""));
    mirror.signal(Signal::HUP);
    mirror.until("its end", || problem().is_none());
    copy_ledger(AFTER, &world.path("node.ldb"));
    let mut produce = beside_a_mirror(&world, "produce", "producer");
    produce
        .arg("--ledger")
        .arg(world.path("node.ldb"))
        .arg("--key")
        .arg(world.path("new"));
    let second = run_command(&mut produce).succeeded().value("snapshot");
    assert_ne!(first, second);
    mirror.until("the new key's snapshot", || {
        world.current("mirror") == Some(second.clone())
    });

    // And the new one alone.
    follow(&format!("\"{new}\""));
    mirror.signal(Signal::HUP);
    mirror.until("one authority", || {
        let status = world.status("mirror");
        let stream = &status["mirror"]["streams"][0];
        stream["authorities"]
            .as_array()
            .is_some_and(|all| all.len() == 1 && all[0]["state"] == "agrees")
    });
    assert_eq!(world.current("mirror"), Some(second));
    for daemon in [mirror, seeder] {
        daemon.stop().succeeded();
    }
}

#[test]
fn a_mirror_puts_what_it_holds_when_it_starts() {
    let (mut world, _) = published(BEFORE);
    // The nodes that had it are gone, a moment after it was put.
    world.forget();
    let mirror = Running::start(&mut world.mirror_polling("producer", "1h"));
    let dht = world
        .runtime
        .block_on(MainlineDht::start(world.dht.client_settings()))
        .unwrap();
    let salt: Salt = "daily".parse().unwrap();
    let authority = world.authority.parse().unwrap();
    common::eventually("the pointer", || {
        let found = world
            .runtime
            .block_on(dht.get_item(&authority, &salt, &mut |_| {}));
        found.ok()?.best
    });
    mirror.stop().succeeded();
}

#[test]
fn a_validation_run_is_published_where_nobody_follows() {
    let (world, first) = published(BEFORE);
    copy_ledger(AFTER, &world.path("node.ldb"));
    let run = |extra: &[&str]| {
        let mut produce = world.produce("producer", &world.path("node.ldb"));
        run_command(produce.arg("--validation").args(extra))
    };
    for followed in ["daily", "weekly"] {
        let file = world.path("config.toml");
        // The one that everybody follows is refused also where no stream here has it.
        fs::write(&file, "[stream.own]\nsalt = \"weekly\"\n").unwrap();
        let config = file.display().to_string();
        let said = run(&["--salt", followed, "--config", &config]);
        said.failed_with(1, &["--validation", followed]);
    }
    let said = run(&[]).succeeded();
    assert_ne!(said.value("snapshot"), first);
    assert_eq!(said.value("seq"), "1");
    assert_eq!(world.current("producer"), Some(first));
    let link = fs::read_link(world.path("producer/current/validation")).unwrap();
    assert!(link.ends_with(said.value("snapshot")));
}
