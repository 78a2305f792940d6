//! A fetch that is killed at random moments goes on where it was.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::time::{Duration, Instant};

use common::{Running, World, assert_same, numbers, pause, run_command};
use nano_ledger::synthetic;

/// How often to kill; another number in this variable for a longer or a shorter run.
const KILLS: &str = "KILLS";
const DEFAULT_KILLS: u64 = 20;

/// Bytes of the ledger: enough that a kill meets the download and not its end.
const LENGTH: u64 = 96 << 20;

/// What may be fetched twice for each kill: what was received and not yet written down as verified.
/// Requests in flight, the write buffer, and the blocks since the journal was last written.
const LOST_PER_KILL: u64 = 32 << 20;

/// A number that differs in every run, from 0 to 1.
fn random() -> f64 {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).unwrap();
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}

/// Whether the download has begun.
fn downloads(fetch: &Running) -> bool {
    fetch.stderr().contains("Downloading")
}

#[test]
fn a_killed_fetch_resumes_and_loses_little() {
    let kills = std::env::var(KILLS).map_or(DEFAULT_KILLS, |text| text.parse().unwrap());
    let world = World::new();
    let ledger = world.path("node.ldb");
    synthetic::create(
        &ledger,
        &synthetic::Options {
            seed: 3,
            target_len: LENGTH,
        },
    )
    .unwrap();
    let produced = run_command(&mut world.produce("producer", &ledger)).succeeded();
    let snapshot = produced.value("snapshot");
    let length = world
        .content("producer", &snapshot)
        .metadata()
        .unwrap()
        .len();
    let mut seeder = Running::start(&mut world.mirror("producer"));
    seeder.until("seeding", || seeder_seeds(&world));

    // Once without a kill: how long the download alone takes.
    let mut whole = Running::start(world.mirror("whole").arg("--once"));
    whole.until("the download", || true);
    while !downloads(&whole) {
        assert!(!whole.has_ended(), "{}", whole.stderr());
        pause();
    }
    let started = Instant::now();
    whole.end().succeeded();
    let window = started.elapsed().max(Duration::from_millis(50));

    // A fetch that completes before its kill is one whole copy; the next one begins with nothing.
    let (mut killed, mut copies) = (0, 1);
    let data = |copies: u64| format!("killed-{copies}");
    while killed < kills {
        let mut fetch = Running::start(world.mirror(&data(copies)).arg("--once"));
        while !downloads(&fetch) && !fetch.has_ended() {
            pause();
        }
        std::thread::sleep(window.mul_f64(random()));
        if let Some(ended) = fetch.kill() {
            ended.succeeded();
            assert_same(
                &world.content("producer", &snapshot),
                &world.content(&data(copies), &snapshot),
            );
            copies += 1;
        } else {
            killed += 1;
        }
    }
    run_command(world.mirror(&data(copies)).arg("--once")).succeeded();
    assert_same(
        &world.content("producer", &snapshot),
        &world.content(&data(copies), &snapshot),
    );
    copies += 1;

    let given: u64 = numbers(&seeder.stop().succeeded().stderr, "uploaded=")
        .iter()
        .sum();
    let again = given
        .checked_sub(copies * length)
        .expect("fewer bytes than the copies have");
    println!(
        "{killed} kills within {window:?} of download: {again} bytes fetched again, {} each",
        again / killed
    );
    assert!(
        again <= killed * LOST_PER_KILL,
        "{again} bytes fetched again"
    );
}

fn seeder_seeds(world: &World) -> bool {
    world.current("producer").is_some()
}
