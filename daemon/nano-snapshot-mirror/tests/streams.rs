//! Whom a mirror believes, and how it follows several at once.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::path::PathBuf;

use bittorrent_protocol::InfoHashV2;
use common::{AFTER, BEFORE, Running, World, assert_same, copy_ledger, run_command};
use rustix::process::Signal;

/// A world with a file for a mirror's configuration.
fn configured(world: &World, text: &str) -> PathBuf {
    let file = world.path("config.toml");
    fs::write(&file, format!("poll-interval = \"1s\"\n{text}")).unwrap();
    file
}

fn produce(world: &World, ledger: &str) -> String {
    copy_ledger(ledger, &world.path("node.ldb"));
    let said = run_command(&mut world.produce("producer", &world.path("node.ldb"))).succeeded();
    said.value("snapshot")
}

fn link(world: &World, data: &str, stream: &str) -> Option<String> {
    let link = fs::read_link(world.path(data).join("current").join(stream)).ok()?;
    Some(link.file_name()?.to_str()?.to_owned())
}

#[test]
fn two_of_three_stand_silence_lies_rollback_and_two_words() {
    let mut world = World::new();
    let snapshot = produce(&world, BEFORE);
    let id: InfoHashV2 = snapshot.parse().unwrap();
    let other = |byte| InfoHashV2::from_bytes([byte; 32]);
    let [b, c] = ["b", "c"].map(|name| world.keygen(name));
    let file = configured(
        &world,
        &format!(
            "[stream.daily]\nthreshold = 2\nauthorities = [\"{}\", \"{b}\", \"{c}\"]\n",
            world.authority
        ),
    );
    let good = |world: &World| {
        world.put_by("key", 5, id);
        world.put_by("b", 5, id);
    };
    let fetch = |world: &World| run_command(world.mirror_of_file("node", &file).arg("--once"));

    // One alone is not enough, and nothing is fetched.
    fetch(&world).failed_with(1, &["1 of 2 needed authorities"]);

    // The third is silent.
    good(&world);
    let seeder = Running::start(&mut world.mirror("producer"));
    fetch(&world).succeeded();
    assert_eq!(world.current("node"), Some(snapshot.clone()));
    seeder.stop().succeeded();

    // It lies.
    world.put_by("c", 9, other(1));
    fetch(&world).succeeded();

    // It, or who stands between, rolls back.
    world.forget();
    good(&world);
    world.put_by("c", 7, other(2));
    let said = fetch(&world).succeeded();
    assert!(said.stderr.contains("seq 7 is below 9"), "{}", said.stderr);

    // It says two things at once; the proof is kept.
    world.forget();
    good(&world);
    world.put_by("c", 9, other(3));
    let said = fetch(&world).succeeded();
    assert!(
        said.stderr.contains("two different values with seq 9"),
        "{}",
        said.stderr
    );
    let mut status = common::command();
    let status = status
        .args(["status", "--json", "--data-dir"])
        .arg(world.path("node"));
    let status: serde_json::Value = serde_json::from_str(&run_command(status).stdout).unwrap();
    let contested = |key: &str| {
        let pointers = status["pointers"].as_array().unwrap();
        let pointer = pointers.iter().find(|pointer| pointer["authority"] == key);
        pointer.unwrap()["contested"].as_bool().unwrap()
    };
    assert!(contested(&c) && !contested(&b));

    // With the second gone astray too there is no majority: the mirror stays.
    world.put_by("b", 6, other(4));
    fetch(&world).failed_with(
        1,
        &["there is no snapshot to fetch", "two different snapshots"],
    );
    assert_eq!(world.current("node"), Some(snapshot));
}

#[test]
fn several_streams_are_followed_and_come_and_go_with_a_reload() {
    let world = World::new();
    let other = world.keygen("other");
    let first = produce(&world, BEFORE);
    copy_ledger(AFTER, &world.path("other.ldb"));
    let mut produce_other = common::command();
    produce_other
        .arg("produce")
        .arg("--ledger")
        .arg(world.path("other.ldb"));
    produce_other.arg("--key").arg(world.path("other"));
    produce_other.args(["--salt", "weekly", "--publish", "exact", "--dht-port", "0"]);
    produce_other.arg("--data-dir").arg(world.path("producer"));
    for node in world.dht.bootstrap() {
        produce_other.args(["--dht-bootstrap", &node]);
    }
    let second = run_command(&mut produce_other)
        .succeeded()
        .value("snapshot");
    assert_ne!(first, second);
    let seeder = Running::start(&mut world.mirror("producer"));

    let days = format!("[stream.days]\nauthorities = [\"{}\"]\n", world.authority);
    let weeks =
        |name: &str| format!("[stream.{name}]\nauthorities = [\"{other}\"]\nsalt = \"weekly\"\n");
    let file = configured(&world, &format!("{days}{}", weeks("weeks")));
    let mut mirror = Running::start(&mut world.mirror_of_file("mirror", &file));
    mirror.until("both streams", || {
        link(&world, "mirror", "days") == Some(first.clone())
            && link(&world, "mirror", "weeks") == Some(second.clone())
    });
    for snapshot in [&first, &second] {
        assert_same(
            &world.content("producer", snapshot),
            &world.content("mirror", snapshot),
        );
    }

    // One goes, and one comes that wants the same snapshot.
    configured(&world, &format!("{days}{}", weeks("others")));
    mirror.signal(Signal::HUP);
    mirror.until("the new stream", || {
        link(&world, "mirror", "others") == Some(second.clone())
    });

    // Who fetches once has to say which.
    let fetch = |stream: &[&str]| {
        let mut fetch = world.mirror_of_file("node", &file);
        run_command(fetch.arg("--once").args(stream))
    };
    fetch(&[]).failed_with(1, &["--stream", "days, others"]);
    fetch(&["--stream", "weeks"]).failed_with(1, &["no stream weeks", "days, others"]);
    fetch(&["--stream", "others"]).succeeded();
    assert_eq!(link(&world, "node", "others"), Some(second));
    for daemon in [mirror, seeder] {
        daemon.stop().succeeded();
    }
}

#[test]
fn without_a_pointer_the_pinned_snapshot_is_taken_until_there_is_one() {
    let mut world = World::new();
    let first = produce(&world, BEFORE);
    let second = produce(&world, AFTER);
    world.forget();
    let seeder = Running::start(&mut world.mirror("producer"));
    let stream = format!(
        "[stream.daily]\nauthorities = [\"{}\"]\npinned = \"{first}\"\npinned-after = \"0s\"\n",
        world.keygen("nobody")
    );
    let file = configured(&world, &stream);
    let said = run_command(world.mirror_of_file("node", &file).arg("--once")).succeeded();
    assert!(said.stderr.contains("taking the pinned"), "{}", said.stderr);
    assert_eq!(world.current("node"), Some(first.clone()));

    let mut mirror = Running::start(&mut world.mirror_of_file("mirror", &file));
    mirror.until("the pinned snapshot", || {
        world.current("mirror") == Some(first.clone())
    });
    world.put_by("nobody", 1, second.parse().unwrap());
    mirror.until("what the pointer names", || {
        world.current("mirror") == Some(second.clone())
    });
    for daemon in [mirror, seeder] {
        daemon.stop().succeeded();
    }
}

#[test]
fn a_stream_without_news_is_called_stale() {
    let world = World::new();
    let snapshot = produce(&world, BEFORE);
    let file = configured(
        &world,
        &format!(
            "[stream.daily]\nauthorities = [\"{}\"]\nmax-age = \"2s\"\n",
            world.authority
        ),
    );
    // It is its own seeder: what is held is followed as well.
    let mut mirror = Running::start(&mut world.mirror_of_file("producer", &file));
    let warnings = |mirror: &Running| mirror.stderr().matches("stale: ").count();
    common::eventually("the alarm", || (warnings(&mirror) > 0).then_some(()));
    assert_eq!(world.current("producer"), Some(snapshot));
    let newer = produce(&world, AFTER);
    mirror.until("the next day", || {
        world.current("producer") == Some(newer.clone())
    });
    common::eventually("the end of the alarm", || {
        mirror.stderr().contains("fresh again").then_some(())
    });
    mirror.stop().succeeded();
}

#[test]
fn an_operator_of_the_swarm_changes_the_command_and_nothing_else() {
    let world = World::new();
    let snapshot = produce(&world, BEFORE);
    let seeder = Running::start(&mut world.mirror("producer"));
    // What its mirror leaves in its data directory.
    let data = world.path("data");
    fs::create_dir_all(data.join(".resume")).unwrap();
    let left = [
        "mirror_state.json",
        "snapshot-meta.json",
        ".dht_state",
        ".resume/00.fastresume",
        "nano-ledger-snapshot.7z",
        "data.ldb",
    ];
    for name in left {
        fs::write(data.join(name), name).unwrap();
    }
    let mut fetch = common::command();
    fetch
        .arg("--once")
        .env("PRODUCER_SIGNING_PUBKEY", &world.authority)
        .env("DATA_DIR", &data)
        .env("DHT_SALT", "daily")
        .env("POLL_INTERVAL", "600")
        .env("SEED_PEERS", "")
        .env("LOG_LEVEL", "INFO")
        .env("METRICS_ENABLED", "true")
        .env("METRICS_PORT", "0")
        .env("METRICS_BIND", "127.0.0.1")
        // The test's own network.
        .env(
            "NANO_SNAPSHOT_MIRROR_DHT__BOOTSTRAP",
            world.dht.bootstrap().join(","),
        )
        .env("NANO_SNAPSHOT_MIRROR_DHT__PORT", "0")
        .env("NANO_SNAPSHOT_MIRROR_PEER__LISTEN", "127.0.0.1:0");
    let said = run_command(&mut fetch).succeeded();
    assert!(
        said.stderr
            .contains("names of nano-snapshot-swarm are understood"),
        "{}",
        said.stderr
    );
    assert_eq!(link(&world, "data", "daily"), Some(snapshot.clone()));
    assert_same(
        &world.content("producer", &snapshot),
        &world.content("data", &snapshot),
    );
    for name in left {
        assert_eq!(fs::read(data.join(name)).unwrap(), name.as_bytes());
    }
    seeder.stop().succeeded();
}
