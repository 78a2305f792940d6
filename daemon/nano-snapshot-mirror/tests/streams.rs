//! Whom a mirror believes, and how it follows several at once.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use bittorrent_protocol::{InfoHashV2, PieceLength};
use bittorrent_store::create::{Cut, copy_path};
use common::{AFTER, BEFORE, Running, World, assert_same, copy_ledger, run_command};
use rustix::process::Signal;
use serde_json::Value;

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

/// What a third authority is, and what comes of it.
struct Third<'a> {
    is: &'static str,
    /// How it stands in the report.
    state: &'static str,
    /// Why what was found of it is not accepted.
    refused: &'static [&'static str],
    /// Codes of what is wrong then.
    wrong: &'static [&'static str],
    /// What the log has of it.
    logged: &'a str,
}

/// Runs a mirror on `node` until what it says of its stream is as `wanted`; gives that, the codes of
/// what it calls wrong, and its log.
fn stands(
    world: &World,
    file: &Path,
    what: &str,
    wanted: impl Fn(&Value) -> bool,
) -> (Value, Vec<String>, String) {
    let mut mirror = Running::start(&mut world.mirror_of_file("node", file));
    let mut said = Value::Null;
    mirror.until(what, || {
        said = world.status("node")["mirror"].take();
        wanted(&said["streams"][0])
    });
    let codes = said["problems"].as_array().unwrap().iter();
    let codes = codes.map(|one| one["code"].as_str().unwrap().to_owned());
    let codes = codes.collect();
    let log = mirror.stop().succeeded().stderr;
    (said["streams"][0].take(), codes, log)
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

    good(&world);
    let seeder = Running::start(&mut world.mirror("producer"));
    fetch(&world).succeeded();
    assert_eq!(world.current("node"), Some(snapshot.clone()));
    seeder.stop().succeeded();

    let lied = format!("seq=9 snapshot={}", other(1));
    let cases = [
        Third {
            is: "silent",
            state: "silent",
            refused: &[],
            wrong: &[],
            logged: "no pointer of this authority was found yet",
        },
        Third {
            is: "lying",
            state: "differs",
            refused: &[],
            wrong: &[],
            logged: &lied,
        },
        // By itself, or by who stands between.
        Third {
            is: "rolled back",
            state: "differs",
            refused: &["lower-seq"],
            wrong: &[],
            logged: "seq 7 is below 9",
        },
        Third {
            is: "equivocating",
            state: "contested",
            refused: &["equivocation"],
            wrong: &["equivocation"],
            logged: "two different values with seq 9",
        },
    ];
    for case in cases {
        let what = case.is;
        match what {
            "lying" => world.put_by("c", 9, other(1)),
            "rolled back" => {
                world.forget();
                good(&world);
                world.put_by("c", 7, other(2));
            }
            "equivocating" => {
                world.forget();
                good(&world);
                world.put_by("c", 9, other(3));
            }
            _ => {}
        }
        let third = |stream: &Value| {
            let authorities = stream["authorities"].as_array().cloned();
            let mut authorities = authorities.unwrap_or_default().into_iter();
            authorities.find(|one| one["authority"] == *c)
        };
        let refused = |third: &Value| -> Vec<String> {
            let refused = third["refused"].as_array().unwrap().iter();
            refused
                .map(|one| one["reason"].as_str().unwrap().to_owned())
                .collect()
        };
        let (stream, wrong, log) = stands(&world, &file, what, |stream| {
            let third = third(stream).unwrap_or_default();
            !stream["answered"].is_null()
                && third["state"] == case.state
                && refused(&third) == case.refused
        });
        // The other two agree, and what they name stays.
        assert_eq!(stream["desired"], *snapshot, "{what}");
        assert_eq!(stream["current"], *snapshot, "{what}");
        for agreeing in &stream["authorities"].as_array().unwrap()[..2] {
            assert_eq!(agreeing["state"], "agrees", "{what}");
        }
        assert_eq!(wrong, case.wrong, "{what}");
        let logged = case.logged;
        assert!(log.contains(logged), "{what}: no {logged:?} in {log}");
    }
    // The proof is kept.
    let status = world.status("node");
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
    let mirror_log = mirror.stderr_path();
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
    assert_eq!(link(&world, "node", "others"), Some(second.clone()));

    // What a stream that went has had is kept, which is said, until its link is removed.
    configured(&world, &format!("{days}[retention]\ngenerations = 1\n"));
    mirror.signal(Signal::HUP);
    let gone = world.path("mirror/current");
    let hint = |name: &str| format!("rm {}", gone.join(name).display());
    mirror.until("what to do about the links", || {
        let log = fs::read_to_string(&mirror_log).unwrap();
        log.contains(&hint("weeks")) && log.contains(&hint("others"))
    });
    assert!(
        !fs::read_to_string(&mirror_log)
            .unwrap()
            .contains(&hint("days"))
    );
    for name in ["weeks", "others"] {
        fs::remove_file(gone.join(name)).unwrap();
    }
    mirror.signal(Signal::HUP);
    let kept = world.path("mirror/snapshots").join(&second);
    mirror.until("the end of what it had", || !kept.exists());
    assert!(world.path("mirror/snapshots").join(&first).exists());
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
        world.keygen("stranger")
    );
    let file = configured(&world, &stream);
    let said = run_command(world.mirror_of_file("node", &file).arg("--once")).succeeded();
    assert!(said.stderr.contains("using the pinned"), "{}", said.stderr);
    assert_eq!(world.current("node"), Some(first.clone()));

    let mut mirror = Running::start(&mut world.mirror_of_file("mirror", &file));
    mirror.until("the pinned snapshot", || {
        world.current("mirror") == Some(first.clone())
    });
    world.put_by("stranger", 1, second.parse().unwrap());
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
    let warnings = |mirror: &Running| {
        mirror
            .stderr()
            .matches("nothing newer was published for longer")
            .count()
    };
    common::eventually("the alarm", || (warnings(&mirror) > 0).then_some(()));
    assert_eq!(world.current("producer"), Some(snapshot));
    let newer = produce(&world, AFTER);
    mirror.until("the next day", || {
        world.current("producer") == Some(newer.clone())
    });
    common::eventually("the end of the alarm", || {
        let log = mirror.stderr();
        let mut lines = log.lines();
        lines
            .any(|line| line.contains("problem resolved") && line.contains("pointer-stale"))
            .then_some(())
    });
    mirror.stop().succeeded();
}

/// What nano-snapshot-swarm's mirror leaves in its data directory, besides its archive.
const LEFT: [&str; 5] = [
    "mirror_state.json",
    "snapshot-meta.json",
    ".dht_state",
    ".resume/00.fastresume",
    "data.ldb",
];

/// What it calls the archive.
const ARCHIVE: &str = "nano-ledger-snapshot.7z";

/// Our program with its environment.
fn as_of_the_swarm(world: &World, data: &Path) -> Command {
    let mut fetch = common::command();
    fetch
        .arg("--once")
        .env("PRODUCER_SIGNING_PUBKEY", &world.authority)
        .env("DATA_DIR", data)
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
    fetch
}

#[test]
fn the_archive_of_the_swarm_is_taken_over_where_it_is_the_snapshot() {
    let world = World::new();
    // Its stream: a 7z of some pieces, hybrid, under its name.
    let mut content = b"7z\xbc\xaf\x27\x1c".to_vec();
    content.extend((0..700_000_u32).flat_map(u32::to_le_bytes));
    let archive = world.path(ARCHIVE);
    fs::write(&archive, &content).unwrap();
    let cut = Cut {
        piece_length: PieceLength::DEFAULT,
        hybrid: true,
    };
    let io = Arc::new(bittorrent_store::RealIo);
    let store = copy_path(&archive, &world.path("seed"), cut, io, &mut |_| true).unwrap();
    let snapshot = store.info().hashes().v2;
    world.put(1, snapshot);
    let (_session, peer) = world.seed(store);

    for (name, left, taken) in [
        ("same", content.clone(), true),
        (
            "damaged",
            [&content[..9], b"?", &content[10..]].concat(),
            false,
        ),
        ("shorter", content[..content.len() - 1].to_vec(), false),
    ] {
        let data = world.path(name);
        fs::create_dir_all(data.join(".resume")).unwrap();
        for name in LEFT {
            fs::write(data.join(name), name).unwrap();
        }
        fs::write(data.join(ARCHIVE), &left).unwrap();
        let mut fetch = as_of_the_swarm(&world, &data);
        let said = run_command(fetch.env("SEED_PEERS", peer.to_string())).succeeded();
        let fetched: u64 = common::numbers(&said.stderr, "fetched=").into_iter().sum();
        assert_eq!(fetched == 0, taken, "{name}: {}", said.stderr);
        let held = data.join("snapshots").join(snapshot.to_string());
        assert_same(&archive, &held.join("content").join(ARCHIVE));
        assert_eq!(link(&world, name, "daily"), Some(snapshot.to_string()));
        // All it had is as it was.
        assert!(fs::read(data.join(ARCHIVE)).unwrap() == left);
        for name in LEFT {
            assert_eq!(fs::read(data.join(name)).unwrap(), name.as_bytes());
        }
    }
}

#[test]
fn an_operator_of_the_swarm_changes_the_command_and_nothing_else() {
    let world = World::new();
    let snapshot = produce(&world, BEFORE);
    let seeder = Running::start(&mut world.mirror("producer"));
    let data = world.path("data");
    fs::create_dir_all(data.join(".resume")).unwrap();
    for name in LEFT.iter().chain([&ARCHIVE]) {
        fs::write(data.join(name), name).unwrap();
    }
    let mut fetch = as_of_the_swarm(&world, &data);
    let said = run_command(&mut fetch).succeeded();
    assert!(
        said.stderr
            .contains("using variables of nano-snapshot-swarm"),
        "{}",
        said.stderr
    );
    assert_eq!(link(&world, "data", "daily"), Some(snapshot.clone()));
    assert_same(
        &world.content("producer", &snapshot),
        &world.content("data", &snapshot),
    );
    for name in LEFT.iter().chain([&ARCHIVE]) {
        assert_eq!(fs::read(data.join(name)).unwrap(), name.as_bytes());
    }
    seeder.stop().succeeded();
}
