//! What is not answered is asked of another host before its time is over.

use std::time::Duration;

use bittorrent_engine::Config;
use proptest::prelude::*;

use crate::node::{Answers, Habits};
use crate::world::World;
use simulation::{BLOCK, SyntheticTorrent};

const MINUTE: Duration = Duration::from_secs(60);

fn fast(hashes: Answers, metadata: Answers) -> Habits {
    Habits {
        hashes,
        metadata,
        upload_rate: 200_000_000,
        ..Habits::default()
    }
}

/// How long a download from nothing but the info-hash takes, beside what it asks for hashes.
fn magnet(seeds: &[Habits], pieces: u64) -> (Duration, u64) {
    let torrent = SyntheticTorrent::new(1, &[pieces * BLOCK]).unwrap();
    let mut world = World::new(1);
    for seed in seeds {
        world.add_seed(&torrent, seed.clone());
    }
    let leech = world.add(&torrent, Habits::default(), Config::default());
    for seed in 0..seeds.len() {
        world.introduce(leech, seed);
        // They come one after another, the silent ones first.
        world.run(Duration::from_millis(50), |_| false);
    }
    let took = world.run_until_complete(&[leech], MINUTE);
    let node = &world.nodes[leech];
    assert!(node.faults.is_empty(), "{:?}", node.faults);
    (took, node.hash_requests)
}

#[test]
fn a_silent_peer_that_came_first_costs_little_more_than_a_second() {
    use Answers::{Not, Truly};
    let honest = fast(Truly, Truly);
    for (silent, most) in [
        (fast(Not, Truly), 2_500),
        (fast(Truly, Not), 2_500),
        (fast(Not, Not), 2_500),
    ] {
        let (took, _) = magnet(&[silent.clone(), honest.clone()], 600);
        assert!(took > Duration::from_secs(1), "it was not asked: {took:?}");
        assert!(took < Duration::from_millis(most), "{silent:?}: {took:?}");
    }
}

#[test]
fn quick_peers_are_asked_for_each_chunk_once() {
    let honest = fast(Answers::Truly, Answers::Truly);
    for seeds in 1..4 {
        let (_, requests) = magnet(&vec![honest.clone(); seeds], 5_000);
        assert_eq!(requests, 5_000_u64.div_ceil(512));
    }
}

#[test]
fn where_answers_take_long_nothing_is_asked_twice_for_ever() {
    let slow = fast(Answers::Late, Answers::Late);
    let chunks = 30_000_u64.div_ceil(512);
    let (_, requests) = magnet(&[slow.clone(), slow], 30_000);
    // The first ones are, before any answer is there.
    assert!((chunks..chunks + 10).contains(&requests), "{requests}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// With silent, slow or unwilling peers, one honest seed is enough, no peer is at fault, and no chunk is
    /// asked for more often than peers failed to give it, and once more. Two hosts without an answer,
    /// asked one after the other, cost one time-out and what came before the second was asked.
    #[test]
    fn downloads_end_and_requests_are_bounded(
        seed in any::<u64>(),
        others in prop::collection::vec((0_usize..4, 0_usize..4), 1..6),
        pieces in 2_u64..3_000,
    ) {
        let answers = |n| [Answers::Truly, Answers::WithReject, Answers::Late, Answers::Not][n];
        let torrent = SyntheticTorrent::new(1, &[pieces * BLOCK]).unwrap();
        let mut world = World::new(seed);
        for (hashes, metadata) in &others {
            world.add_seed(&torrent, fast(answers(*hashes), answers(*metadata)));
        }
        world.add_seed(&torrent, fast(Answers::Truly, Answers::Truly));
        let leech = world.add(&torrent, Habits::default(), Config::default());
        world.introduce_all();
        let took = world.run_until_complete(&[leech], MINUTE);
        let quick = |answers: usize| answers < 2;
        let waits = others.iter().map(|(hashes, metadata)| {
            u32::from(!quick(*hashes)) + u32::from(!quick(*metadata))
        });
        let most = Duration::from_secs(3) + Duration::from_secs(3) * waits.sum();
        prop_assert!(took < most, "{took:?} of {most:?}");
        let node = &world.nodes[leech];
        prop_assert!(node.faults.is_empty(), "{:?}", node.faults);
        let most = 2 * pieces.div_ceil(512) + 8 * others.len() as u64;
        prop_assert!(node.hash_requests <= most, "{} {most}", node.hash_requests);
    }
}
