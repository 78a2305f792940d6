//! How much a mirror gives: what an operator limits, and when.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Instant;

use common::{BEFORE, Running, World, copy_ledger, run_command};
use rustix::process::Signal;

/// A world with one day in the producer's store.
fn produced() -> (World, String) {
    let world = World::new();
    copy_ledger(BEFORE, &world.path("node.ldb"));
    let said = run_command(&mut world.produce("producer", &world.path("node.ldb"))).succeeded();
    (world, said.value("snapshot"))
}

#[test]
fn what_may_be_given_in_a_month_ends_and_begins_again() {
    let (world, snapshot) = produced();
    let file = world.path("config.toml");
    let limit = |limit: &str| {
        let text = format!("poll-interval = \"1h\"\n[limits]\nmonthly-upload = \"{limit}\"\n");
        fs::write(&file, text).unwrap();
    };
    limit("0");
    let mut seeder = Running::start(&mut world.mirror_configured("producer", &file));
    let report = || world.status("producer")["mirror"].take();
    seeder.until("the pause", || report()["month"]["paused"] == true);
    let mut fetch = Running::start(world.mirror("node").arg("--once"));
    fetch.until("a connection", || {
        report()["peers"]["connections"].as_u64() > Some(0)
    });
    // For some seconds of the seeder's nothing goes.
    let then = report()["now"].as_u64().unwrap();
    fetch.until("time", || {
        report()["now"].as_u64().is_some_and(|now| now > then + 2)
    });
    assert_eq!(report()["month"]["uploaded"], 0);
    assert!(report()["ready"] == true, "that is no fault");

    limit("unlimited");
    seeder.signal(Signal::HUP);
    fetch.end().succeeded();
    assert_eq!(world.current("node"), Some(snapshot));
    let said = seeder.stop().succeeded();
    for part in ["monthly-upload is reached", "resumed uploads"] {
        assert!(said.stderr.contains(part), "no {part} in {}", said.stderr);
    }
    let kept = fs::read_to_string(world.path("producer/monthly-upload.json")).unwrap();
    let kept: serde_json::Value = serde_json::from_str(&kept).unwrap();
    let length = world.path("node.ldb").metadata().unwrap().len();
    assert!(kept["given"].as_u64().unwrap() >= length, "{kept}");
}

#[test]
fn the_window_of_a_schedule_that_is_open_says_how_much_is_given() {
    const RATE: f64 = 524_288.0;
    let (world, snapshot) = produced();
    let file = world.path("config.toml");
    let limits = |limits: &str| {
        fs::write(
            &file,
            format!("poll-interval = \"1h\"\n[limits]\n{limits}\n"),
        )
        .unwrap();
    };
    // Bytes given, the mirror's clock and how many peers there are.
    let report = || {
        let mirror = world.status("producer")["mirror"].take();
        [
            &mirror["transfer"]["uploaded"],
            &mirror["now"],
            &mirror["peers"]["connections"],
        ]
        .map(|number| number.as_u64().unwrap_or(0))
    };
    // Open for whole days, one after the other; outside of it nothing would be given.
    limits(
        "upload = \"0\"\nschedule = [{ from = \"00:00\", to = \"00:00\", upload = \"512KiB/s\" }]",
    );
    let seeder = Running::start(&mut world.mirror_configured("producer", &file));
    common::eventually("a report", || (report()[1] > 0).then_some(()));
    let begun = Instant::now();
    run_command(world.mirror("first").arg("--once")).succeeded();
    let took = begun.elapsed().as_secs_f64();
    assert_eq!(world.current("first"), Some(snapshot.clone()));
    let bytes = world.path("node.ldb").metadata().unwrap().len() as f64;
    let share = bytes / took / RATE;
    println!("{share:.3} of the limit");
    // Never more than 5 % above it, and a good part of it, start and end of the process included.
    assert!((0.2..1.05).contains(&share), "{share}");

    // The window is gone: what holds at other times holds now.
    limits("upload = \"0\"");
    seeder.signal(Signal::HUP);
    common::eventually("the reload", || {
        seeder.stderr().contains("now in effect").then_some(())
    });
    // Reports are a moment behind.
    let before = common::eventually("all of it", || {
        Some(report()[0]).filter(|given| *given as f64 >= bytes)
    });
    let mut fetch = Running::start(world.mirror("second").arg("--once"));
    fetch.until("a connection", || report()[2] > 0);
    let [_, then, _] = report();
    fetch.until("time", || report()[1] > then + 2);
    assert_eq!(report()[0], before);
    limits("upload = \"unlimited\"");
    seeder.signal(Signal::HUP);
    fetch.end().succeeded();
    assert_eq!(world.current("second"), Some(snapshot));
    seeder.stop().succeeded();
}

/// The same command under a limit on open files.
fn with_open_files(command: &Command, limit: u32) -> Command {
    let mut limited = Command::new("sh");
    let script = format!("ulimit -n {limit} && exec \"$0\" \"$@\"");
    limited.args(["-c", &script]).arg(command.get_program());
    limited.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => limited.env(name, value),
            None => limited.env_remove(name),
        };
    }
    limited
}

/// Connects to a seeder of a snapshot, sends the handshake of the peer protocol (BEP 3) and nothing else.
fn idle_peer(addr: SocketAddr, snapshot: &str, number: u8) -> TcpStream {
    let mut handshake = b"\x13BitTorrent protocol\0\0\0\0\0\x10\0\x04".to_vec();
    // The name of a v2 torrent in a handshake: the first 20 bytes of its hash.
    handshake
        .extend((0..20).map(|at| u8::from_str_radix(&snapshot[2 * at..2 * at + 2], 16).unwrap()));
    handshake.extend([number; 20]);
    let mut peer = TcpStream::connect(addr).unwrap();
    peer.write_all(&handshake).unwrap();
    peer
}

#[test]
fn a_mirror_with_few_descriptors_serves_a_fetch_beside_idle_peers() {
    for limit in [28, 40] {
        let (world, snapshot) = produced();
        let mirror = world.mirror("producer");
        let mut mirror = Running::start(&mut with_open_files(&mirror, limit));
        let addr: SocketAddr = common::eventually("a seeding mirror", || {
            let report = world.status("producer")["mirror"].take();
            let addr = report["addresses"]["peers"][0].as_str()?.parse().ok()?;
            (report["ready"] == true).then_some(addr)
        });
        let idle: Vec<TcpStream> = (1..=40).map(|n| idle_peer(addr, &snapshot, n)).collect();
        mirror.until("connections", || {
            let report = world.status("producer")["mirror"].take();
            report["peers"]["connections"].as_u64() > Some(0)
        });
        let peer = addr.to_string();
        let mut fetch = world.mirror("node");
        fetch.args(["--once", "--seed-peer", &peer]);
        run_command(&mut fetch).succeeded();
        assert_eq!(world.current("node"), Some(snapshot), "{limit}");
        drop(idle);
        let said = mirror.stop().succeeded();
        for wrong in [
            "content-damaged",
            "repairing",
            "cannot accept",
            "cannot read",
        ] {
            assert!(!said.stderr.contains(wrong), "{wrong}: {}", said.stderr);
        }
    }
}
