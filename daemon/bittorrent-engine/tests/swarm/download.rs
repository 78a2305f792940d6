//! Downloads among well-behaved peers.

use std::time::Duration;

use bittorrent_engine::{Config, Discard, DisconnectReason, PieceLeaves, StopReason, TorrentPhase};
use bittorrent_protocol::merkle;

use crate::node::Habits;
use crate::world::World;
use simulation::{BLOCK, SyntheticTorrent};

const MINUTE: Duration = Duration::from_secs(60);

#[test]
fn one_seed_serves_one_leech() {
    for (piece_blocks, files) in [
        (1, vec![100 * BLOCK]),
        (1, vec![1]),
        (4, vec![40 * BLOCK + 1]),
        (64, vec![1_000 * BLOCK]),
        (
            16,
            vec![0, 1, BLOCK, 16 * BLOCK, 0, 16 * BLOCK + 1, 100 * BLOCK - 5],
        ),
    ] {
        let torrent = SyntheticTorrent::new(piece_blocks, &files).unwrap();
        let mut world = World::new(1);
        let seed = world.add_seed(&torrent, Habits::default());
        let leech = world.add_leech(&torrent, Habits::default());
        world.introduce(leech, seed);
        world.run_until_complete(&[leech], MINUTE);
        let node = &world.nodes[leech];
        let status = node.engine.status(node.torrent).unwrap();
        assert_eq!(status.phase, TorrentPhase::Seeding);
        assert_eq!(status.wasted, 0);
        assert_eq!(status.downloaded, torrent.layout.content_length());
        assert!(node.faults.is_empty() && node.banned.is_empty());
        // Two seeds have nothing for each other.
        assert_eq!(node.disconnects, [DisconnectReason::Redundant]);
        world.run(10 * MINUTE, |_| false);
        assert_eq!(world.nodes[leech].ports, 40_001, "a seed dials a seed");
    }
}

#[test]
fn a_fast_line_is_used_in_full() {
    let torrent = SyntheticTorrent::new(64, &[8_000 * BLOCK]).unwrap();
    let mut world = World::new(2);
    let fast = Habits {
        upload_rate: 200_000_000,
        reqq: 2_000,
        ..Habits::default()
    };
    let seed = world.add_seed(&torrent, fast);
    let leech = world.add_leech(&torrent, Habits::default());
    world.introduce(leech, seed);
    let took = world.run_until_complete(&[leech], MINUTE);
    // 131 MB at 200 MB/s and a round trip of 20 ms: slow start may cost a few round trips.
    assert!(took < Duration::from_millis(1_000), "{took:?}");
}

#[test]
fn five_leeches_help_each_other() {
    let torrent = SyntheticTorrent::new(16, &[700 * BLOCK, 300 * BLOCK + 7]).unwrap();
    for seed in 0..5 {
        let mut world = World::new(seed);
        let slow = Habits {
            upload_rate: 2_000_000,
            ..Habits::default()
        };
        world.add_seed(&torrent, slow);
        let leeches: Vec<_> = (0..5)
            .map(|_| world.add_leech(&torrent, Habits::default()))
            .collect();
        world.introduce_all();
        let took = world.run_until_complete(&leeches, 2 * MINUTE);
        // 16 MB at 2 MB/s take 8 s to leave the seed once; five times that without help.
        assert!(took < Duration::from_secs(16), "{took:?}");
        let wasted: u64 = leeches
            .iter()
            .map(|n| &world.nodes[*n])
            .map(|node| node.engine.status(node.torrent).unwrap().wasted)
            .sum();
        let length = torrent.layout.content_length();
        assert!(wasted < length / 20, "{wasted} of {}", 5 * length);
    }
}

#[test]
fn peers_with_parts_complete_each_other() {
    let torrent = SyntheticTorrent::new(8, &[400 * BLOCK]).unwrap();
    let mut world = World::new(3);
    let all: Vec<_> = (0..3)
        .map(|n| {
            world.add_with(&torrent, Habits::default(), move |block| {
                block.piece().get() % 3 == n
            })
        })
        .collect();
    world.introduce_all();
    world.run_until_complete(&all, MINUTE);
}

#[test]
fn a_seed_that_vanishes_is_replaced() {
    let torrent = SyntheticTorrent::new(16, &[600 * BLOCK]).unwrap();
    let mut world = World::new(4);
    let leaving = Habits {
        vanishes_after: Some(200),
        ..Habits::default()
    };
    let first = world.add_seed(&torrent, leaving);
    let second = world.add_seed(&torrent, Habits::default());
    let leech = world.add_leech(&torrent, Habits::default());
    world.introduce(leech, first);
    assert!(world.run(MINUTE, |world| !world.nodes[first].online));
    world.run(MINUTE, |_| false);
    assert!(!world.nodes[leech].is_complete());
    world.introduce(leech, second);
    world.run_until_complete(&[leech], 2 * MINUTE);
}

#[test]
fn a_seed_that_falls_silent_is_worked_around() {
    let torrent = SyntheticTorrent::new(16, &[600 * BLOCK]).unwrap();
    let mut world = World::new(5);
    let silent = Habits {
        silent_after: Some(150),
        ..Habits::default()
    };
    world.add_seed(&torrent, silent);
    let slow = Habits {
        upload_rate: 500_000,
        ..Habits::default()
    };
    world.add_seed(&torrent, slow);
    let leech = world.add_leech(&torrent, Habits::default());
    world.introduce_all();
    world.run_until_complete(&[leech], MINUTE);
    let node = &world.nodes[leech];
    assert!(
        node.engine.peers(node.torrent).is_empty(),
        "{:?}",
        node.disconnects
    );
}

#[test]
fn choking_without_the_fast_extension_drops_requests_silently() {
    for fast in [false, true] {
        let torrent = SyntheticTorrent::new(16, &[500 * BLOCK]).unwrap();
        let mut world = World::new(6);
        let moody = Habits {
            fast,
            chokes_every: Some(70),
            ..Habits::default()
        };
        let seed = world.add_seed(&torrent, moody);
        let leech = world.add_leech(&torrent, Habits::default());
        world.introduce(leech, seed);
        // Seven pauses of 0.3 s; a lost request would cost 20 s.
        let took = world.run_until_complete(&[leech], MINUTE);
        assert!(took < Duration::from_secs(10), "fast {fast}: {took:?}");
    }
}

#[test]
fn at_the_end_slow_peers_do_not_hold_up_the_rest() {
    let torrent = SyntheticTorrent::new(4, &[400 * BLOCK]).unwrap();
    let mut world = World::new(7);
    world.add_seed(&torrent, Habits::default());
    let crawling = Habits {
        upload_rate: 20_000,
        ..Habits::default()
    };
    world.add_seed(&torrent, crawling);
    let leech = world.add_leech(&torrent, Habits::default());
    world.introduce_all();
    let took = world.run_until_complete(&[leech], 2 * MINUTE);
    // The slow one got 64 requests at the start: 52 s, if no other peer were asked for them.
    assert!(took < Duration::from_secs(3), "{took:?}");
    let node = &world.nodes[leech];
    assert!(node.cancels > 0);
    let status = node.engine.status(node.torrent).unwrap();
    assert!(status.wasted <= 16 * BLOCK, "{status:?}");
}

#[test]
fn at_the_end_hardly_anything_comes_twice() {
    // As in an update among neighbours: little is missing, and all of them have it.
    for (blocks, rates) in [
        (60, [20_000_000, 20_000_000, 20_000_000]),
        (500, [100_000_000, 20_000_000, 5_000_000]),
        (3_000, [20_000_000, 5_000_000, 1_000_000]),
    ] {
        for seed in 0..6 {
            let torrent = SyntheticTorrent::new(64, &[blocks * BLOCK]).unwrap();
            let mut world = World::new(seed);
            for upload_rate in rates {
                let habits = Habits {
                    upload_rate,
                    ..Habits::default()
                };
                world.add_seed(&torrent, habits);
            }
            let leech = world.add_leech(&torrent, Habits::default());
            world.introduce_all();
            let took = world.run_until_complete(&[leech], MINUTE);
            let length = blocks * BLOCK;
            let status = {
                let node = &world.nodes[leech];
                node.engine.status(node.torrent).unwrap()
            };
            assert!(status.wasted <= length / 50, "{rates:?}: {status:?}");
            // What all of them together need for it, and what is waited for at the end.
            let best = length as f64 / rates.iter().sum::<u64>() as f64;
            assert!(took.as_secs_f64() < 1.5 * best + 1.0, "{rates:?}: {took:?}");
        }
    }
}

#[test]
fn small_request_limits_are_kept() {
    for reqq in [1, 3, 10] {
        let torrent = SyntheticTorrent::new(4, &[60 * BLOCK]).unwrap();
        let mut world = World::new(8);
        let narrow = Habits {
            reqq,
            ..Habits::default()
        };
        let seed = world.add_seed(&torrent, narrow);
        let leech = world.add_leech(&torrent, Habits::default());
        world.introduce(leech, seed);
        world.run_until_complete(&[leech], 2 * MINUTE);
    }
}

#[test]
fn a_failed_write_stops_the_torrent() {
    let torrent = SyntheticTorrent::new(16, &[100 * BLOCK]).unwrap();
    let mut world = World::new(9);
    world.strict = false;
    let seed = world.add_seed(&torrent, Habits::default());
    let faulty = Habits {
        failing_writes: 1,
        ..Habits::default()
    };
    let leech = world.add_leech(&torrent, faulty);
    world.introduce(leech, seed);
    assert!(world.run(MINUTE, |world| world.nodes[leech].stopped.is_some()));
    let node = &world.nodes[leech];
    assert_eq!(node.stopped, Some(StopReason::WritesFail));
    world.run(MINUTE, |_| false);
    let node = &world.nodes[leech];
    let writes: u32 = node.writes.values().sum();
    assert!(!node.is_complete() && writes <= 100, "{writes} writes");
}

#[test]
fn a_download_goes_on_from_what_is_there() {
    let torrent = SyntheticTorrent::new(8, &[100 * BLOCK]).unwrap();
    let mut world = World::new(10);
    let seed = world.add_seed(&torrent, Habits::default());
    let leech = world.add(&torrent, Habits::default(), Config::default());
    // Whole pieces, and parts of others: of piece 5 the leaves are known, of piece 6 not.
    let has = |piece: u32, in_piece: u16| match piece {
        0 | 3 | 12 => true,
        5 | 6 => in_piece < 3,
        _ => false,
    };
    let mut content = torrent.content(true, |block| has(block.piece().get(), block.in_piece()));
    content.leaves.push(bittorrent_engine::PieceLeaves {
        piece: torrent.layout.piece(5).unwrap(),
        leaves: torrent
            .layout
            .blocks(torrent.layout.piece(5).unwrap())
            .map(|block| (block.in_piece(), torrent.leaf(block)))
            .collect(),
    });
    let node = &mut world.nodes[leech];
    node.engine
        .set_content(node.torrent, content, world.now)
        .unwrap();
    node.knows_content = true;
    for block in torrent.blocks() {
        if has(block.piece().get(), block.in_piece()) && block.piece().get() != 6 {
            node.disk.insert(block, torrent.leaf(block));
            node.proven.insert(block);
        }
    }
    let held = node.proven.len() as u64;
    let before = node.engine.status(node.torrent).unwrap();
    assert_eq!(before.bytes_verified, held * BLOCK);
    assert_eq!(before.pieces_verified, 3);
    world.introduce(leech, seed);
    world.run_until_complete(&[leech], MINUTE);
    let node = &world.nodes[leech];
    let status = node.engine.status(node.torrent).unwrap();
    assert_eq!(status.downloaded, (100 - held) * BLOCK);
}

#[test]
fn blocks_the_disk_lost_are_downloaded_again() {
    let torrent = SyntheticTorrent::new(8, &[100 * BLOCK]).unwrap();
    let mut world = World::new(11);
    world.strict = false;
    let seed = world.add_seed(&torrent, Habits::default());
    let leech = world.add_leech(&torrent, Habits::default());
    world.introduce(leech, seed);
    world.run_until_complete(&[leech], MINUTE);
    let lost: Vec<_> = torrent
        .layout
        .blocks(torrent.layout.piece(4).unwrap())
        .take(2)
        .collect();
    let node = &mut world.nodes[leech];
    node.completed = None;
    for block in torrent.layout.blocks(torrent.layout.piece(4).unwrap()) {
        node.proven.remove(&block);
    }
    node.engine.handle_lost(node.torrent, &lost, world.now);
    let status = node.engine.status(node.torrent).unwrap();
    assert_eq!(status.bytes_verified, 92 * BLOCK);
    assert_eq!(status.phase, TorrentPhase::Downloading);
    world.run_until_complete(&[leech], 2 * MINUTE);
}

#[test]
fn of_pieces_with_damage_only_the_damaged_blocks_are_downloaded_again() {
    let torrent = SyntheticTorrent::new(8, &[100 * BLOCK, 3 * BLOCK, BLOCK]).unwrap();
    let mut world = World::new(13);
    world.strict = false;
    let seed = world.add_seed(&torrent, Habits::default());
    let leech = world.add_leech(&torrent, Habits::default());
    world.introduce(leech, seed);
    world.run_until_complete(&[leech], MINUTE);
    // Two blocks of a piece, the last one of a short piece, and a whole piece of one block.
    let block = |piece: u32, block: u32| {
        let piece = torrent.layout.piece(piece).unwrap();
        torrent.layout.block(piece, block).unwrap()
    };
    let damaged = [block(4, 1), block(4, 7), block(13, 2), block(14, 0)];
    let held = [4, 13, 14].map(|piece| PieceLeaves {
        piece: torrent.layout.piece(piece).unwrap(),
        leaves: torrent
            .layout
            .blocks(torrent.layout.piece(piece).unwrap())
            .filter(|block| !damaged.contains(block))
            .map(|block| (block.in_piece(), torrent.leaf(block)))
            .collect(),
    });
    let node = &mut world.nodes[leech];
    node.completed = None;
    for block in &damaged {
        node.proven.remove(block);
    }
    let before = node.engine.status(node.torrent).unwrap();
    node.engine
        .handle_damaged(node.torrent, &damaged, held.to_vec(), world.now);
    let status = node.engine.status(node.torrent).unwrap();
    assert_eq!(status.bytes_verified, 100 * BLOCK);
    assert_eq!(status.pieces_verified, before.pieces_verified - 3);
    assert_eq!(status.phase, TorrentPhase::Downloading);
    world.run_until_complete(&[leech], 2 * MINUTE);
    let node = &world.nodes[leech];
    let status = node.engine.status(node.torrent).unwrap();
    assert_eq!(status.downloaded - before.downloaded, 4 * BLOCK);
}

#[test]
fn late_and_unasked_blocks_touch_nothing() {
    let torrent = SyntheticTorrent::new(8, &[64 * BLOCK]).unwrap();
    let mut world = World::new(12);
    let slow = Habits {
        upload_rate: 1_000_000,
        ..Habits::default()
    };
    let seed = world.add_seed(&torrent, slow);
    let leech = world.add_leech(&torrent, Habits::default());
    world.introduce(leech, seed);
    let some = |world: &World| world.nodes[leech].proven.len() >= 8;
    assert!(world.run(MINUTE, some));
    let false_leaf = merkle::leaf(b"false");
    let proven = *world.nodes[leech].proven.first().unwrap();
    for block in torrent.blocks() {
        world.push_block(leech, block, false_leaf);
        if block == proven {
            let discards = &world.nodes[leech].discards;
            assert!(matches!(
                discards.last(),
                Some(Discard::Unrequested | Discard::Duplicate)
            ));
        }
    }
    world.run(Duration::from_secs(1), |_| false);
    // What was asked for at that moment was taken, and its sender found out.
    assert_eq!(world.nodes[leech].banned.len(), 1);
    for (block, leaf) in &world.nodes[leech].disk {
        if world.nodes[leech].proven.contains(block) {
            assert_eq!(*leaf, torrent.leaf(*block));
        }
    }
}

#[test]
fn local_peers_need_no_slot() {
    let torrent = SyntheticTorrent::new(8, &[64 * BLOCK]).unwrap();
    let mut world = World::new(13);
    let config = Config {
        unchoke_slots: 0,
        optimistic_slots: 0,
        ..Config::default()
    };
    let local = Habits {
        local: true,
        ..Habits::default()
    };
    let seed = world.add(&torrent, Habits::default(), config);
    world.give_content(seed, true, |_| true);
    let near = world.add_leech(&torrent, local);
    let far = world.add_leech(&torrent, Habits::default());
    world.introduce(near, seed);
    world.introduce(far, seed);
    world.run_until_complete(&[near], MINUTE);
    world.run(MINUTE, |_| false);
    assert!(world.nodes[far].proven.is_empty());
}

#[test]
fn slots_go_round_among_more_peers_than_there_are() {
    let torrent = SyntheticTorrent::new(8, &[160 * BLOCK]).unwrap();
    let mut world = World::new(14);
    let config = Config {
        unchoke_slots: 2,
        optimistic_slots: 1,
        ..Config::default()
    };
    let slow = Habits {
        upload_rate: 100_000,
        ..Habits::default()
    };
    let seed = world.add(&torrent, slow, config);
    world.give_content(seed, true, |_| true);
    // They know the seed only, not each other.
    let leeches: Vec<_> = (0..6)
        .map(|_| {
            let leech = world.add_leech(&torrent, Habits::default());
            world.introduce(leech, seed);
            leech
        })
        .collect();
    world.run_until_complete(&leeches, 20 * MINUTE);
}

#[test]
fn peers_that_dial_each_other_at_once_keep_one_connection() {
    let torrent = SyntheticTorrent::new(8, &[2_000 * BLOCK]).unwrap();
    for seed in 0..10 {
        let mut world = World::new(seed);
        let slow = Habits {
            upload_rate: 1_000_000,
            ..Habits::default()
        };
        let a = world.add_seed(&torrent, slow);
        let b = world.add_leech(&torrent, Habits::default());
        world.introduce(a, b);
        world.introduce(b, a);
        world.run(Duration::from_secs(3), |_| false);
        assert_eq!(world.nodes[a].links.len(), 1, "seed {seed}");
        assert_eq!(world.nodes[b].links.len(), 1, "seed {seed}");
        world.run_until_complete(&[b], 2 * MINUTE);
    }
}
