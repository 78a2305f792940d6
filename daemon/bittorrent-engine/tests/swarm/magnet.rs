//! Downloads that start from nothing but the info-hash.

use std::time::Duration;

use bittorrent_engine::{Blame, Config};

use crate::node::{Answers, Habits};
use crate::world::World;
use simulation::{BLOCK, SyntheticTorrent};

const MINUTE: Duration = Duration::from_secs(60);

fn fast() -> Habits {
    Habits {
        upload_rate: 200_000_000,
        ..Habits::default()
    }
}

#[test]
fn metadata_layers_and_content_come_from_one_seed() {
    // More than one chunk of 512 hashes, a lone last piece, and files without a layer.
    for (piece_blocks, files) in [
        (1, vec![600 * BLOCK]),
        (1, vec![513 * BLOCK, 1, 2 * BLOCK]),
        (2, vec![1_025 * 2 * BLOCK, 2 * BLOCK, 0]),
        (16, vec![3 * BLOCK, 17 * BLOCK]),
    ] {
        let torrent = SyntheticTorrent::new(piece_blocks, &files).unwrap();
        let mut world = World::new(1);
        let seed = world.add_seed(&torrent, fast());
        let leech = world.add(&torrent, Habits::default(), Config::default());
        world.introduce(leech, seed);
        let took = world.run_until_complete(&[leech], MINUTE);
        assert!(took < Duration::from_secs(3), "{took:?}");
        let layers = torrent.layers.iter().flatten().count();
        assert_eq!(world.nodes[leech].layers.len(), layers);
        assert!(world.nodes[leech].faults.is_empty());
    }
}

#[test]
fn a_false_dictionary_is_found_out_and_its_sender_banned() {
    for seed in 0..6 {
        let torrent = SyntheticTorrent::new(4, &[100 * BLOCK]).unwrap();
        let mut world = World::new(seed);
        let forger = Habits {
            metadata: Answers::Falsely,
            ..fast()
        };
        let bad = world.add_seed(&torrent, forger);
        for _ in 0..2 {
            world.add_seed(&torrent, fast());
        }
        let leech = world.add(&torrent, Habits::default(), Config::default());
        world.introduce_all();
        world.run_until_complete(&[leech], MINUTE);
        for (addr, blame) in &world.nodes[leech].banned {
            assert_eq!((*addr, *blame), (world.nodes[bad].addr, Blame::Metadata));
        }
    }
}

#[test]
fn peers_that_keep_the_dictionary_to_themselves_are_passed_over() {
    for answers in [Answers::Not, Answers::WithReject] {
        let torrent = SyntheticTorrent::new(4, &[100 * BLOCK]).unwrap();
        let mut world = World::new(3);
        let tight = Habits {
            metadata: answers,
            ..fast()
        };
        for _ in 0..3 {
            world.add_seed(&torrent, tight.clone());
        }
        world.add_seed(&torrent, fast());
        let leech = world.add(&torrent, Habits::default(), Config::default());
        world.introduce_all();
        let took = world.run_until_complete(&[leech], MINUTE);
        assert!(took < Duration::from_secs(20), "{took:?}");
    }
}

#[test]
fn silent_peers_do_not_keep_layers_from_coming_from_others() {
    for answers in [Answers::Not, Answers::WithReject] {
        let torrent = SyntheticTorrent::new(1, &[5_000 * BLOCK]).unwrap();
        let mut world = World::new(4);
        let tight = Habits {
            hashes: answers,
            ..fast()
        };
        world.add_seed(&torrent, tight);
        world.add_seed(&torrent, fast());
        let leech = world.add(&torrent, Habits::default(), Config::default());
        world.introduce_all();
        let took = world.run_until_complete(&[leech], MINUTE);
        assert!(took < Duration::from_secs(15), "{took:?}");
    }
}

#[test]
fn a_swarm_without_v2_links_is_proven_by_the_root() {
    let torrent = SyntheticTorrent::new(4, &[90 * BLOCK, 3 * BLOCK, 21 * BLOCK]).unwrap();
    let mut world = World::new(5);
    let old = Habits { v1: true, ..fast() };
    world.add_seed(&torrent, old.clone());
    world.add_seed(&torrent, old);
    let leech = world.add(&torrent, Habits::default(), Config::default());
    world.introduce_all();
    let took = world.run_until_complete(&[leech], MINUTE);
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert_eq!(world.nodes[leech].layers.len(), 2);
}

#[test]
fn layers_that_turn_up_late_prove_what_came_before() {
    let torrent = SyntheticTorrent::new(4, &[400 * BLOCK]).unwrap();
    let mut world = World::new(6);
    let old = Habits {
        v1: true,
        upload_rate: 500_000,
        ..Habits::default()
    };
    let first = world.add_seed(&torrent, old);
    let second = world.add_seed(&torrent, fast());
    let leech = world.add(&torrent, Habits::default(), Config::default());
    world.introduce(leech, first);
    world.run(Duration::from_secs(10), |_| false);
    assert!(world.nodes[leech].disk.len() > 50);
    assert!(world.nodes[leech].proven.is_empty());
    world.introduce(leech, second);
    world.run_until_complete(&[leech], MINUTE);
}

#[test]
fn without_v2_links_a_lone_liar_is_banned_by_the_root() {
    let torrent = SyntheticTorrent::new(4, &[60 * BLOCK]).unwrap();
    let mut world = World::new(7);
    world.strict = false;
    let old = Habits { v1: true, ..fast() };
    let liar = Habits {
        lies: |block| block.piece().get() == 3,
        ..old.clone()
    };
    let bad = world.add_seed(&torrent, liar);
    let good = world.add_seed(&torrent, old);
    let leech = world.add(&torrent, Habits::default(), Config::default());
    world.introduce(leech, bad);
    assert!(world.run(MINUTE, |world| !world.nodes[leech].banned.is_empty()));
    assert!(world.nodes[leech].proven.is_empty());
    world.introduce(leech, good);
    world.run_until_complete(&[leech], MINUTE);
}

#[test]
fn leeches_start_from_each_other() {
    let torrent = SyntheticTorrent::new(4, &[2_600 * BLOCK]).unwrap();
    let mut world = World::new(8);
    let slow = Habits {
        upload_rate: 5_000_000,
        ..Habits::default()
    };
    world.add_seed(&torrent, slow);
    let leeches: Vec<_> = (0..4)
        .map(|_| world.add(&torrent, Habits::default(), Config::default()))
        .collect();
    world.introduce_all();
    world.run_until_complete(&leeches, 2 * MINUTE);
}
