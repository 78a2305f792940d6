//! `produce` that is interrupted goes on where it was: it is killed at random moments and at chosen ones.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::small_disk::MIB;
use common::{Running, Said, World, children, command, numbers, run_command};
use nano_ledger::synthetic;
use rustix::process::{Pid, Signal, kill_process};

/// How often to kill in each way of making; another number in this variable for a longer or a shorter run.
const KILLS: &str = "KILLS";
const DEFAULT_KILLS: u64 = 4;

/// What may be copied again after an interruption: what is being synced, what waits for that, what was
/// written meanwhile (32 MiB each), and what is on its way.
const COPIED_AGAIN: u64 = 97 * MIB;

/// A number that differs in every run, from 0 to 1.
fn random() -> f64 {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).unwrap();
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}

/// A ledger that takes some syncs.
fn ledger(world: &World, length: u64) -> PathBuf {
    let ledger = world.path("node.ldb");
    let options = synthetic::Options {
        seed: 5,
        target_len: length,
    };
    synthetic::create(&ledger, &options).unwrap();
    ledger
}

/// `produce` without a key and a network.
fn offline(world: &World, data: &str, ledger: &Path, how: &[&str]) -> Command {
    let mut produce = command();
    produce.args(["produce", "--offline", "--verify-level", "l0"]);
    produce.arg("--ledger").arg(ledger);
    produce.arg("--data-dir").arg(world.path(data)).args(how);
    produce
}

#[track_caller]
fn made(said: Said) -> Said {
    said.failed_with(3, &["not published"])
}

/// Every file of the generation that is made, but for when it was read and by which inodes
/// its files are known again.
fn generation(world: &World, data: &str, said: &Said) -> BTreeMap<PathBuf, Vec<u8>> {
    let root = world
        .path(data)
        .join("snapshots")
        .join(said.value("snapshot"));
    let mut files = BTreeMap::new();
    let mut waiting = vec![root.clone()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else if !["ledger.json", "progress"]
                .iter()
                .any(|other| path.ends_with(other))
            {
                let bytes = fs::read(&path).unwrap();
                files.insert(path.strip_prefix(&root).unwrap().to_owned(), bytes);
            }
        }
    }
    files
}

/// How far the snapshot in the making is, as it was last written down.
fn stage(world: &World, data: &str) -> String {
    let noted = world.path(data).join("produced/daily.making.json");
    fs::read(noted).map_or(String::new(), |json| {
        let noted: serde_json::Value = serde_json::from_slice(&json).unwrap();
        noted["stage"].to_string()
    })
}

fn left_over(world: &World, data: &str) -> usize {
    fs::read_dir(world.path(data).join("incoming"))
        .unwrap()
        .count()
}

/// Starts one and ends it with a signal as soon as it is so far.
fn interrupted(world: &World, mut produce: Command, so_far: &str, signal: Signal) {
    let mut running = Running::start(&mut produce);
    running.until(so_far, || stage(world, "p").contains(so_far));
    // The process that copies would outlive a killed producer until it reports next, and might complete the copy by then.
    let copying = children(running.pid());
    running.signal(signal);
    if signal == Signal::KILL {
        for pid in copying {
            // It may have ended by itself meanwhile.
            let _ = kill_process(Pid::from_raw(pid).unwrap(), signal);
        }
    }
    let said = running.end();
    assert!(!said.stdout.contains("snapshot:"), "{}", said.stdout);
    assert_eq!(left_over(world, "p"), 1, "{}", said.stderr);
}

#[test]
fn whatever_kills_it_the_generation_is_the_same() {
    let kills = std::env::var(KILLS).map_or(DEFAULT_KILLS, |text| text.parse().unwrap());
    let world = World::new();
    let ledger = ledger(&world, 160 * MIB);
    for (name, how) in [
        ("exact", &["--publish", "exact"][..]),
        ("scrubbed", &[]),
        ("packed", &["--layout", "tar.zst"]),
    ] {
        let started = Instant::now();
        let whole = made(run_command(&mut offline(&world, name, &ledger, how)));
        let window = started.elapsed().max(Duration::from_millis(50));
        let expected = generation(&world, name, &whole);

        let (mut killed, mut copies, mut gone_on, mut again) = (0, 0, 0, Vec::new());
        let data = |copies: u64| format!("{name}-{copies}");
        let mut look = |stderr: &str| {
            gone_on += stderr.matches("resuming").count();
            again.extend(numbers(stderr, "again="));
        };
        loop {
            let mut produce = Running::start(&mut offline(&world, &data(copies), &ledger, how));
            let ended = if killed < kills {
                std::thread::sleep(window.mul_f64(random()));
                look(&produce.stderr());
                produce.kill()
            } else {
                produce.until("what it does", || true);
                let ended = produce.end();
                look(&ended.stderr);
                Some(ended)
            };
            let Some(ended) = ended else {
                killed += 1;
                continue;
            };
            let said = made(ended);
            let same = generation(&world, &data(copies), &said) == expected;
            assert!(same, "{name}: another generation after {killed} kills");
            assert_eq!(left_over(&world, &data(copies)), 0);
            assert_eq!(stage(&world, &data(copies)), "");
            copies += 1;
            if killed == kills {
                break;
            }
        }
        let most = again.iter().max().copied().unwrap_or_default();
        println!(
            "{name}: {killed} kills within {window:?}, {copies} generations, {gone_on} times gone on, \
             {most} bytes copied again at most"
        );
        assert!(most <= COPIED_AGAIN, "{most} bytes were copied again");
    }
}

#[test]
fn an_interrupted_copy_goes_on_while_the_ledger_stays_the_same() {
    for (how, signal) in [
        (&["--publish", "exact"][..], Signal::KILL),
        (&[], Signal::KILL),
        (&[], Signal::TERM),
    ] {
        let world = World::new();
        let ledger = ledger(&world, 96 * MIB);
        let whole = made(run_command(&mut offline(&world, "whole", &ledger, how)));
        let produce = || offline(&world, "p", &ledger, how);
        interrupted(&world, produce(), "copying", signal);
        // A mirror that starts leaves it there.
        let mut mirror = Running::start(&mut world.mirror("p"));
        let socket = world.path("p/control.sock");
        mirror.until("the socket", || socket.exists());
        mirror.stop().succeeded();
        assert_eq!(left_over(&world, "p"), 1);

        let said = made(run_command(&mut produce()));
        let gone_on = "resuming an interrupted copy";
        assert!(said.stderr.contains(gone_on), "{}", said.stderr);
        let [here, again] = ["here=", "again="].map(|key| numbers(&said.stderr, key)[0]);
        assert!(here >= 32 * MIB && again <= COPIED_AGAIN, "{here} {again}");
        let same = generation(&world, "p", &said) == generation(&world, "whole", &whole);
        assert!(same, "another generation");
        assert_eq!(left_over(&world, "p"), 0);
    }
}

#[test]
fn a_copy_that_was_not_whole_is_begun_anew_when_the_ledger_moved_on() {
    let world = World::new();
    let ledger = ledger(&world, 96 * MIB);
    let produce = || offline(&world, "p", &ledger, &["--publish", "exact"]);
    interrupted(&world, produce(), "copying", Signal::KILL);
    synthetic::add_day(&ledger, 3, 3).unwrap();
    let said = made(run_command(&mut produce()));
    let reason = "cannot resume the interrupted snapshot (the ledger changed since";
    assert!(said.stderr.contains(reason), "{}", said.stderr);
    assert!(!said.stderr.contains("resuming"), "{}", said.stderr);
    let content = world.content("p", &said.value("snapshot"));
    assert!(fs::read(content).unwrap() == fs::read(&ledger).unwrap());
    assert_eq!(left_over(&world, "p"), 0);
}

#[test]
fn a_whole_copy_is_not_made_again_though_the_ledger_moved_on() {
    let world = World::new();
    let ledger = ledger(&world, 96 * MIB);
    let produce = || offline(&world, "p", &ledger, &[]);
    let whole = made(run_command(&mut offline(&world, "whole", &ledger, &[])));
    interrupted(&world, produce(), "changed", Signal::KILL);
    synthetic::add_day(&ledger, 3, 3).unwrap();
    let said = made(run_command(&mut produce()));
    assert!(
        said.stderr.contains("the copy is complete") && !said.stderr.contains("Taking peers"),
        "{}",
        said.stderr
    );
    assert_eq!(said.value("snapshot"), whole.value("snapshot"));
    // The run after that makes one of what the ledger is now.
    let next = made(run_command(&mut produce()));
    assert_ne!(next.value("snapshot"), whole.value("snapshot"));

    // Nor does one go on that was to be made in another way.
    let other = offline(&world, "p", &ledger, &["--piece-length", "1MiB"]);
    interrupted(&world, other, "changed", Signal::KILL);
    synthetic::add_day(&ledger, 4, 4).unwrap();
    let said = made(run_command(&mut produce()));
    assert!(
        said.stderr.contains("(it was made with other options"),
        "{}",
        said.stderr
    );
    assert_eq!(left_over(&world, "p"), 0);
}
