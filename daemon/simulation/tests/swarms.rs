//! How swarms behave, in small: the larger tables are in `docs/simulation.md`.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::time::Duration;

use simulation::{Outcome, Plan, World};

const MOST: Duration = Duration::from_secs(2 * 86_400);

/// 10 MB in pieces of 64 KiB, everybody as fast as the producer.
fn plan(mirrors: usize) -> Plan {
    Plan {
        mirrors,
        piece_blocks: 4,
        files: vec![600 * simulation::BLOCK],
        up: (1_000_000, 1_000_000),
        down: 4_000_000,
        ..Plan::default()
    }
}

fn run(plan: Plan) -> Outcome {
    let mut world = World::new(plan).unwrap();
    let outcome = world.run(MOST);
    assert_eq!(outcome.unfinished, 0, "{:#?}", world.stuck());
    outcome
}

fn all(plan: Plan) -> f64 {
    let outcome = run(plan);
    outcome.in_onces(outcome.after(1.0))
}

#[test]
fn many_mirrors_take_little_longer_than_few() {
    let times = [1, 4, 16].map(|mirrors| all(plan(mirrors)));
    // Without help among them 16 would take 16 times as long as one.
    assert!(times[2] < 4.0 * times[0], "{times:?}");
    // Four times as many add about a constant, not a factor.
    assert!(times[2] - times[1] < 1.8, "{times:?}");
    assert!(times[1] - times[0] < 1.8, "{times:?}");
}

#[test]
fn everybody_in_the_same_order_is_slower_than_rarest_first() {
    let in_order = Plan {
        in_order: true,
        ..plan(12)
    };
    let (rarest, in_order) = (all(plan(12)), all(in_order));
    assert!(in_order > 1.1 * rarest, "{in_order} and {rarest}");
}

#[test]
fn one_liar_in_ten_changes_little() {
    let lied_to = Plan {
        liars: 2,
        ..plan(20)
    };
    let outcome = run(lied_to.clone());
    assert!(outcome.counts.bans > 0, "{outcome:?}");
    let (honest, lied_to) = (all(plan(20)), all(lied_to));
    assert!(lied_to < 1.3 * honest, "{lied_to} and {honest}");
}

#[test]
fn every_random_world_finishes() {
    for seed in 0..10 {
        let mut world = World::new(Plan::random(seed)).unwrap();
        let outcome = world.run(MOST);
        assert_eq!(outcome.unfinished, 0, "world {seed}: {:#?}", world.stuck());
        assert_eq!(
            outcome.counts.faults, 0,
            "world {seed}: an engine broke the protocol"
        );
    }
}

#[test]
fn equal_seeds_give_equal_worlds() {
    let worlds = [3, 3, 4].map(|seed| World::new(Plan::random(seed)).unwrap().run(MOST));
    assert_eq!(worlds[0], worlds[1]);
    assert_ne!(worlds[0], worlds[2]);
}
