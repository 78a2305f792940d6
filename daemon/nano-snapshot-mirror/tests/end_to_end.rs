//! Real ledgers from a producer to a mirror to a fetch, over a DHT on the loopback interface.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::path::Path;

use common::{AFTER, BEFORE, Running, World, assert_same, command, copy_ledger, run_command};

/// What the node that wrote them said of the ledgers: blocks, cemented, accounts, pending.
const BEFORE_COUNTS: [u64; 4] = [5460, 5338, 195, 878];
const AFTER_COUNTS: [u64; 4] = [5966, 5926, 232, 944];

fn counts(ledger: &Path) -> [u64; 4] {
    let summary = nano_ledger::summarize(ledger).unwrap();
    [
        summary.blocks,
        summary.cemented,
        summary.accounts,
        summary.pending,
    ]
}

#[test]
fn two_days_of_a_real_ledger_reach_a_node() {
    let world = World::new();
    let ledger = world.path("node/data.ldb");
    copy_ledger(BEFORE, &ledger);

    let first = run_command(&mut world.produce("producer", &ledger)).succeeded();
    let first = first.value("snapshot");
    assert_eq!(world.current("producer"), Some(first.clone()));

    // The producer's own store is seeded by a mirror that runs in it.
    let mut seeder = Running::start(&mut world.mirror("producer"));
    let mut mirror = Running::start(&mut world.mirror("mirror"));
    mirror.until("the first day", || {
        world.current("mirror") == Some(first.clone())
    });
    assert_same(
        &world.content("producer", &first),
        &world.content("mirror", &first),
    );
    assert_eq!(counts(&world.content("mirror", &first)), BEFORE_COUNTS);

    run_command(world.mirror("node-1").args(["--once", "--extract"])).succeeded();
    let extracted = world.path("node-1/data.ldb");
    assert_same(Path::new(BEFORE), &extracted);
    assert_eq!(counts(&extracted), BEFORE_COUNTS);

    // A day later.
    copy_ledger(AFTER, &ledger);
    let second = run_command(&mut world.produce("producer", &ledger)).succeeded();
    assert_eq!(second.value("seq"), "2");
    let second = second.value("snapshot");
    assert_ne!(second, first);
    seeder.until("the second day", || {
        world.current("producer") == Some(second.clone())
    });
    mirror.until("the second day", || {
        world.current("mirror") == Some(second.clone())
    });
    assert_same(
        &world.content("producer", &second),
        &world.content("mirror", &second),
    );
    assert_same(
        &world.content("producer", &first),
        &world.content("mirror", &first),
    );

    // The fetch has the first day and gets the second.
    run_command(world.fetch("node-1").arg("--extract")).succeeded();
    assert_same(Path::new(AFTER), &extracted);
    assert_eq!(counts(&extracted), AFTER_COUNTS);

    for daemon in [seeder, mirror] {
        daemon.stop().succeeded();
    }
}

#[test]
fn the_copy_is_what_the_ledger_was() {
    let world = World::new();
    let ledger = world.path("node/data.ldb");
    copy_ledger(BEFORE, &ledger);
    let before = fs::read(&ledger).unwrap();
    let said = run_command(&mut world.produce("producer", &ledger)).succeeded();
    assert_eq!(
        fs::read(&ledger).unwrap(),
        before,
        "the node's file was changed"
    );
    assert_same(
        Path::new(BEFORE),
        &world.content("producer", &said.value("snapshot")),
    );
}

/// What a producer publishes by default: the ledger without what is the node's own.
#[test]
fn peers_and_votes_stay_with_the_producer() {
    let world = World::new();
    let ledger = world.path("node/data.ldb");
    copy_ledger(AFTER, &ledger);
    let said = run_command(&mut world.produce_default("producer", &ledger)).succeeded();
    assert_same(Path::new(AFTER), &ledger);
    let published = world.content("producer", &said.value("snapshot"));
    assert_eq!(counts(&published), AFTER_COUNTS);
    let rows = |path: &Path, name: &str| {
        let summary = nano_ledger::summarize(path).unwrap();
        let table = summary.tables.iter().find(|table| table.name == name);
        table.unwrap().entries
    };
    assert_eq!(rows(&ledger, "final_votes"), 5925);
    for private in ["final_votes", "peers", "online_weight"] {
        assert_eq!(rows(&published, private), 0, "{private}");
    }
    // The same ledger makes the same snapshot, and one that is right to the last block.
    let again = run_command(&mut world.produce_default("producer", &ledger)).succeeded();
    assert_eq!(again.value("snapshot"), said.value("snapshot"));
    assert_eq!(again.value("state"), "unchanged");
    let mut verify = command();
    let said = run_command(verify.arg("verify").arg(&published).args(["--level", "l3"]));
    let said = said.succeeded().stdout;
    assert!(said.contains("receivables: every send"), "{said}");
    assert!(
        said.contains("store version 24, opened by nodes from V27.0"),
        "{said}"
    );
}

#[test]
fn verification_refuses_by_name() {
    let world = World::new();
    let ledger = world.path("data.ldb");
    copy_ledger(AFTER, &ledger);
    let verify = |more: &[&str]| {
        let mut verify = command();
        run_command(verify.arg("verify").arg(&ledger).args(more))
    };
    verify(&[]).succeeded();
    verify(&["--level", "L2", "--seed", "5", "--store-version", "21-24"]).succeeded();
    let said = verify(&["--level", "l0", "--store-version", "25"]);
    assert!(
        said.stdout
            .contains("FAILED  policy: expected store version 25"),
        "{}",
        said.stdout
    );
    said.failed_with(1, &["found faults"]);
}
