//! A fetch that is killed at random moments goes on where it was.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::time::{Duration, Instant};

use common::{Running, World, assert_same, pause, run_command};
use nano_ledger::synthetic;

/// How often to kill; `KILLS=20 cargo test -p nano-snapshot-mirror --test resume` for more.
const KILLS: &str = "KILLS";
const DEFAULT_KILLS: u32 = 4;

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

/// All numbers that follow `key` in a log.
fn numbers(log: &str, key: &str) -> Vec<u64> {
    let digits = |at: usize| log[at..].split(|c: char| !c.is_ascii_digit()).next();
    log.match_indices(key)
        .filter_map(|(at, _)| digits(at + key.len())?.parse().ok())
        .collect()
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

    let mut killed = 0u32;
    for _ in 0..kills {
        let mut fetch = Running::start(world.mirror("killed").arg("--once"));
        while !downloads(&fetch) && !fetch.has_ended() {
            pause();
        }
        std::thread::sleep(window.mul_f64(random()));
        if fetch.has_ended() {
            fetch.end().succeeded();
            break;
        }
        fetch.kill();
        killed += 1;
    }
    run_command(world.mirror("killed").arg("--once")).succeeded();
    assert_same(
        &world.content("producer", &snapshot),
        &world.content("killed", &snapshot),
    );

    let given: u64 = numbers(&seeder.stop().succeeded().stderr, "given=")
        .iter()
        .sum();
    let again = given.saturating_sub(2 * length);
    println!(
        "{killed} kills in {window:?}: {again} of {length} bytes fetched again ({:.1} %)",
        100.0 * again as f64 / length as f64
    );
    assert!(killed > 0, "no kill met the download");
    assert!(
        given >= 2 * length,
        "the seeder gave less than two whole copies"
    );
    assert!(
        again <= u64::from(killed) * LOST_PER_KILL,
        "{again} bytes fetched again"
    );
}

fn seeder_seeds(world: &World) -> bool {
    world.current("producer").is_some()
}
