//! Updates: most of what a torrent consists of is held already.

use std::time::Duration;

use bittorrent_engine::{Blame, Config};
use bittorrent_protocol::BlockIndex;
use proptest::prelude::*;

use crate::node::{Answers, Habits, Held};
use crate::random::habits;
use crate::world::World;
use simulation::{BLOCK, SyntheticTorrent};

const MINUTES: Duration = Duration::from_secs(600);

/// One block in ten, scattered.
fn changed(block: BlockIndex) -> bool {
    let number = block.piece().get() * 7 + u32::from(block.in_piece());
    number.wrapping_mul(0x9e37_79b9) >> 16 & 0xffff < 6_554
}

/// Bytes of the blocks for which this is so.
fn bytes(torrent: &SyntheticTorrent, which: impl Fn(BlockIndex) -> bool) -> u64 {
    let blocks = torrent.blocks().filter(|block| which(*block));
    blocks
        .map(|block| u64::from(torrent.layout.block_size(block)))
        .sum()
}

#[test]
fn an_update_transfers_exactly_the_changed_leaves() {
    for piece_blocks in [1, 4, 64, 256] {
        let torrent =
            SyntheticTorrent::new(piece_blocks, &[3_000 * BLOCK + 77, 5, 40 * BLOCK]).unwrap();
        let mut world = World::new(piece_blocks);
        let seed = world.add_seed(&torrent, Habits::default());
        let held = Held::new(|block| !changed(block));
        let leech = world.add_updating(&torrent, Habits::default(), held);
        world.introduce(leech, seed);
        world.run_until_complete(&[leech], MINUTES);
        let node = &world.nodes[leech];
        let status = node.engine.status(node.torrent).unwrap();
        let payload = bytes(&torrent, changed);
        assert_eq!(status.downloaded, payload, "{piece_blocks}: {status:?}");
        assert_eq!(status.bytes_fetched, payload);
        assert_eq!(status.bytes_reused, status.bytes_total - payload);
        assert_eq!(status.bytes_to_fetch, 0);
        assert!(node.faults.is_empty() && node.banned.is_empty());
    }
}

/// What an update came to.
fn update(world: &mut World, leech: usize) -> bittorrent_engine::TorrentStatus {
    world.run_until_complete(&[leech], 6 * MINUTES);
    let node = &world.nodes[leech];
    assert!(node.banned.is_empty(), "{:?}", node.banned);
    node.engine.status(node.torrent).unwrap()
}

#[test]
fn leaves_of_many_pieces_travel_in_one_message() {
    let torrent = SyntheticTorrent::new(4, &[4_096 * BLOCK]).unwrap();
    let mut world = World::new(1);
    let seed = world.add_seed(&torrent, Habits::default());
    // One block of every piece is new, so that the leaves of all 1024 pieces are needed.
    let held = Held::new(|block| block.in_piece() != 1);
    let leech = world.add_updating(&torrent, Habits::default(), held);
    world.introduce(leech, seed);
    let status = update(&mut world, leech);
    assert_eq!(status.bytes_fetched, 1_024 * BLOCK);
    assert_eq!(status.downloaded, status.bytes_fetched);
    let requests = world.nodes[leech].hash_requests;
    assert_eq!(status.hash_bytes, 4_096 * 32 + requests * 53);
    assert!(requests < 40, "{requests} requests for 8 times 512 leaves");
}

#[test]
fn where_most_is_held_only_leaves_below_nodes_that_differ_are_asked_for() {
    let torrent = SyntheticTorrent::new(256, &[100 * 256 * BLOCK + 5_000]).unwrap();
    // Three blocks of each piece, two of them below one node.
    let few_new = |block: BlockIndex| matches!(block.in_piece(), 9 | 10 | 200);
    let run = |gives_nodes, new: fn(BlockIndex) -> bool| {
        let mut world = World::new(3);
        let habits = Habits {
            gives_nodes,
            ..Habits::default()
        };
        let seed = world.add_seed(&torrent, habits);
        let held = Held::new(move |block| !new(block));
        let leech = world.add_updating(&torrent, Habits::default(), held);
        world.introduce(leech, seed);
        let status = update(&mut world, leech);
        assert_eq!(status.downloaded, bytes(&torrent, new));
        status.hash_bytes
    };
    let leaves = torrent.blocks().count() as u64 * 32;
    let few = run(true, few_new);
    assert!(few < leaves / 2, "{few} of {leaves}");
    // BEP 52 asks for leaves and piece layers only.
    let all = run(false, few_new);
    assert!(
        (leaves..leaves * 21 / 20).contains(&all),
        "{all} of {leaves}"
    );
    // Where nothing is held, nodes are asked for in vain, but not for long.
    let vain = run(true, |_| true);
    assert!(vain < leaves * 23 / 20, "{vain} of {leaves}");
}

#[test]
fn everything_held_needs_no_peer_and_nothing_held_costs_nothing() {
    let torrent = SyntheticTorrent::new(64, &[2_000 * BLOCK, 1]).unwrap();
    let mut world = World::new(2);
    let all = world.add_updating(&torrent, Habits::default(), Held::new(|_| true));
    let status = update(&mut world, all);
    assert_eq!(status.bytes_reused, status.bytes_total);
    assert_eq!((status.downloaded, status.hash_bytes), (0, 0));
    let seed = world.add_seed(&torrent, Habits::default());
    let none = world.add_updating(&torrent, Habits::default(), Held::new(|_| false));
    world.introduce(none, seed);
    let status = update(&mut world, none);
    assert_eq!(status.downloaded, status.bytes_total);
    assert_eq!(status.bytes_reused, 0);
}

#[test]
fn looking_in_vain_hardly_delays_a_download() {
    for (piece_blocks, from_magnet) in [(16, true), (64, false), (64, true), (2_048, true)] {
        let torrent = SyntheticTorrent::new(piece_blocks, &[6_144 * BLOCK]).unwrap();
        let took = |looks: bool| {
            let mut world = World::new(13);
            let fast = Habits {
                upload_rate: 160_000_000,
                reqq: 2_000,
                local: true,
                ..Habits::default()
            };
            let seed = world.add_seed(&torrent, fast);
            let leech = world.add(&torrent, Habits::default(), Config::default());
            world.nodes[leech].held = looks.then(|| Held::new(|_| false));
            if !from_magnet {
                world.give_content(leech, true, |_| false);
            }
            world.introduce(leech, seed);
            world.run_until_complete(&[leech], MINUTES)
        };
        let (without, with) = (took(false), took(true));
        assert!(
            with < without * 3 / 2,
            "{piece_blocks} blocks a piece: {with:?} instead of {without:?}"
        );
    }
}

#[test]
fn a_seed_that_learns_leaves_by_sending_is_asked_for_a_block_of_each_piece_first() {
    for piece_blocks in [4, 64] {
        let torrent = SyntheticTorrent::new(piece_blocks, &[40 * 64 * BLOCK]).unwrap();
        let mut world = World::new(3);
        let habits = Habits {
            seed_mode: true,
            ..Habits::default()
        };
        let seed = world.add_seed(&torrent, habits);
        let leech = world.add_updating(
            &torrent,
            Habits::default(),
            Held::new(|block| !changed(block)),
        );
        world.introduce(leech, seed);
        let status = update(&mut world, leech);
        let payload = bytes(&torrent, changed);
        let probes = bytes(&torrent, |block| block.in_piece() == 0);
        assert!(status.downloaded <= payload + probes, "{status:?}");
        assert_eq!(status.wasted, 0);
    }
}

#[test]
fn seeds_that_give_leaves_at_once_are_preferred() {
    let torrent = SyntheticTorrent::new(64, &[40 * 64 * BLOCK]).unwrap();
    let mut world = World::new(4);
    let shy = Habits {
        seed_mode: true,
        ..Habits::default()
    };
    let seeds = [
        world.add_seed(&torrent, shy.clone()),
        world.add_seed(&torrent, Habits::default()),
        world.add_seed(&torrent, shy),
    ];
    let leech = world.add_updating(
        &torrent,
        Habits::default(),
        Held::new(|block| !changed(block)),
    );
    for seed in seeds {
        world.introduce(leech, seed);
    }
    let status = update(&mut world, leech);
    assert_eq!(status.bytes_fetched, bytes(&torrent, changed));
}

#[test]
fn peers_that_give_no_leaves_serve_the_pieces_that_differ_as_a_whole() {
    let answers = [Answers::Truly, Answers::WithReject, Answers::Not];
    for (hashes, v1) in answers.into_iter().flat_map(|a| [(a, false), (a, true)]) {
        let torrent = SyntheticTorrent::new(16, &[900 * BLOCK]).unwrap();
        let mut world = World::new(5);
        let habits = Habits {
            hashes,
            v1,
            gives_leaves: false,
            ..Habits::default()
        };
        let seed = world.add_seed(&torrent, habits);
        // Every third piece differs.
        let held = Held::new(|block| block.piece().get() % 3 > 0 || block.in_piece() > 0);
        let leech = world.add_updating(&torrent, Habits::default(), held);
        world.introduce(leech, seed);
        let status = update(&mut world, leech);
        let differ = bytes(&torrent, |block| block.piece().get() % 3 == 0);
        assert_eq!(status.bytes_fetched, differ, "{hashes:?} {v1}");
    }
}

#[test]
fn false_leaves_cost_the_connection_and_prove_nothing() {
    let torrent = SyntheticTorrent::new(16, &[900 * BLOCK]).unwrap();
    let mut world = World::new(6);
    let liar = Habits {
        hashes: Answers::Falsely,
        ..Habits::default()
    };
    let liar = world.add_seed(&torrent, liar);
    let leech = world.add_updating(
        &torrent,
        Habits::default(),
        Held::new(|block| !changed(block)),
    );
    world.introduce(leech, liar);
    world.run(MINUTES / 60, |_| false);
    assert!(!world.nodes[leech].faults.is_empty());
    let seed = world.add_seed(&torrent, Habits::default());
    world.introduce(leech, seed);
    world.run_until_complete(&[leech], 6 * MINUTES);
    let node = &world.nodes[leech];
    let status = node.engine.status(node.torrent).unwrap();
    assert_eq!(status.bytes_fetched, bytes(&torrent, changed));
    assert_eq!(node.banned, [(world.nodes[liar].addr, Blame::Hashes)]);
}

#[test]
fn held_bytes_that_turn_out_wrong_are_fetched_and_nobody_is_blamed() {
    let torrent = SyntheticTorrent::new(16, &[900 * BLOCK, 5 * BLOCK, 7]).unwrap();
    for halves in [false, true] {
        let mut world = World::new(7);
        world.strict = false;
        let seed = world.add_seed(&torrent, Habits::default());
        let spoilt =
            |block: BlockIndex| (block.piece().get() + u32::from(block.in_piece())) % 9 == 4;
        let mut held = Held::new(|block| !changed(block));
        held.spoils = Box::new(spoilt);
        held.halves = halves;
        let leech = world.add_updating(&torrent, Habits::default(), held);
        world.introduce(leech, seed);
        let status = update(&mut world, leech);
        let payload = bytes(&torrent, |block| changed(block) || spoilt(block));
        assert_eq!(status.bytes_fetched, payload);
        assert_eq!(status.downloaded, payload);
    }
}

#[test]
fn look_ups_that_are_never_answered_do_not_keep_the_torrent_from_completing() {
    for unanswered in [3, 1] {
        let torrent = SyntheticTorrent::new(16, &[4_000 * BLOCK]).unwrap();
        let mut world = World::new(8);
        let seed = world.add_seed(&torrent, Habits::default());
        let mut held = Held::new(|block| !changed(block));
        held.answers = Box::new(move |piece| piece.get() % unanswered > 0);
        let leech = world.add_updating(&torrent, Habits::default(), held);
        // Whatever becomes of a look-up is the node's affair once it is given up.
        world.nodes[leech].forgets_look_ups = true;
        world.introduce(leech, seed);
        let status = update(&mut world, leech);
        assert_eq!(
            status.bytes_reused + status.bytes_fetched,
            status.bytes_total
        );
    }
}

#[test]
fn peers_with_other_pieces_and_peers_that_leave_stall_nothing() {
    let torrent = SyntheticTorrent::new(16, &[3_000 * BLOCK]).unwrap();
    let mut world = World::new(9);
    let even = |block: BlockIndex| block.piece().get().is_multiple_of(2);
    let habits = Habits {
        vanishes_after: Some(100),
        ..Habits::default()
    };
    let leaver = world.add_seed(&torrent, habits);
    let half = world.add_with(&torrent, Habits::default(), even);
    let v1 = Habits {
        v1: true,
        upload_rate: 500_000,
        ..Habits::default()
    };
    let whole = world.add_seed(&torrent, v1);
    let leech = world.add_updating(
        &torrent,
        Habits::default(),
        Held::new(|block| !changed(block)),
    );
    for node in [leaver, half, whole] {
        world.introduce(leech, node);
    }
    let status = update(&mut world, leech);
    let needed = bytes(&torrent, |block| !even(block) || changed(block));
    assert!(status.bytes_fetched <= needed, "{status:?}");
}

#[test]
fn a_magnet_link_looks_for_pieces_as_their_hashes_arrive() {
    let torrent = SyntheticTorrent::new(4, &[4_100 * BLOCK, 900 * BLOCK]).unwrap();
    let mut world = World::new(10);
    let seed = world.add_seed(&torrent, Habits::default());
    let leech = world.add(&torrent, Habits::default(), Config::default());
    world.nodes[leech].held = Some(Held::new(|block| !changed(block)));
    world.introduce(leech, seed);
    let status = update(&mut world, leech);
    assert_eq!(status.bytes_fetched, bytes(&torrent, changed));
}

#[test]
fn what_a_former_run_proved_is_neither_looked_for_nor_fetched() {
    let torrent = SyntheticTorrent::new(16, &[1_600 * BLOCK]).unwrap();
    let mut world = World::new(11);
    let seed = world.add_seed(&torrent, Habits::default());
    let leech = world.add(&torrent, Habits::default(), Config::default());
    world.nodes[leech].held = Some(Held::new(|block| block.in_piece() < 8));
    // Pieces with some of their blocks, and their leaves.
    world.resume_with(leech, |block| block.in_piece() % 4 == 0);
    world.introduce(leech, seed);
    let status = update(&mut world, leech);
    assert_eq!(
        status.bytes_reused,
        bytes(&torrent, |b| b.in_piece() < 8 && b.in_piece() % 4 > 0)
    );
    assert_eq!(
        status.downloaded,
        bytes(&torrent, |b| b.in_piece() >= 8 && b.in_piece() % 4 > 0)
    );
}

#[test]
fn open_pieces_stay_few_however_long_the_torrent_is() {
    let torrent = SyntheticTorrent::new(64, &[40_000 * BLOCK]).unwrap();
    let mut world = World::new(12);
    let habits = Habits {
        upload_rate: 2_000_000,
        ..Habits::default()
    };
    let seed = world.add_seed(&torrent, habits);
    let config = Config {
        max_reuse_blocks: 1_024,
        max_lookup_blocks: 256,
        ..Config::default()
    };
    let leech = world.add(&torrent, Habits::default(), config);
    world.nodes[leech].held = Some(Held::new(|block| !changed(block)));
    world.give_content(leech, true, |_| false);
    world.introduce(leech, seed);
    let most = std::cell::Cell::new(0);
    let done = world.run(6 * MINUTES, |world| {
        let node = &world.nodes[leech];
        most.set(most.get().max(node.open_pieces()));
        assert!(node.looking.len() <= 64);
        node.is_complete()
    });
    assert!(done);
    // 16 pieces, the eight of one more request, and up to eight looked up as a whole or written.
    assert!(most.get() <= 32, "{}", most.get());
    let status = update(&mut world, leech);
    assert_eq!(status.bytes_fetched, bytes(&torrent, changed));
}

/// A look-up is given up when everything else has been stored for long, and the peer that gave it was sent that
/// nothing is wanted: the other one takes requests and answers none.
#[test]
fn what_turns_up_late_comes_from_whoever_gives_it() {
    let torrent = SyntheticTorrent::new(1, &[90 * BLOCK]).unwrap();
    let mut world = World::new(13);
    world.strict = false;
    let honest = world.add_seed(&torrent, Habits::default());
    let silent = Habits {
        silent_after: Some(1),
        ..Habits::default()
    };
    let silent = world.add_seed(&torrent, silent);
    let mut held = Held::new(|_| false);
    held.answers = Box::new(|piece| piece.get() != 5);
    let leech = world.add_updating(&torrent, Habits::default(), held);
    world.nodes[leech].forgets_look_ups = true;
    world.introduce(leech, honest);
    world.introduce(leech, silent);
    update(&mut world, leech);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 60,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_look_ups_say_the_torrent_completes_and_only_truth_is_proven(
        seed in any::<u64>(),
        piece_blocks in prop::sample::select(vec![1_u64, 2, 8, 32]),
        files in prop::collection::vec(1..150 * BLOCK, 1..4),
        (has, spoils, silent) in (0_u64..100, 0_u64..60, 0_u64..10),
        halves in any::<bool>(),
        others in prop::collection::vec(habits(), 0..3),
        from_magnet in any::<bool>(),
    ) {
        let torrent = SyntheticTorrent::new(piece_blocks, &files).unwrap();
        let mut world = World::new(seed);
        world.strict = false;
        let honest = world.add_seed(&torrent, Habits { upload_rate: 2_000_000, ..Habits::default() });
        for habits in others {
            world.add_seed(&torrent, habits);
        }
        // A number below 100 for each block, another one for each question.
        let dice = move |block: BlockIndex, question: u64| {
            let n = u64::from(block.piece().get()) << 20 | u64::from(block.in_piece()) << 4 | question;
            (n ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 & 0xff_ffff
        };
        let mut held = Held::new(move |block| dice(block, 1) % 100 < has);
        held.spoils = Box::new(move |block| dice(block, 2) % 100 < spoils);
        held.answers = Box::new(move |piece| (u64::from(piece.get()) ^ seed) % 100 >= silent);
        held.halves = halves;
        let leech = world.add(&torrent, Habits::default(), Config::default());
        world.nodes[leech].held = Some(held);
        world.nodes[leech].forgets_look_ups = true;
        if !from_magnet {
            world.give_content(leech, true, |_| false);
        }
        world.introduce_all();
        world.run_until_complete(&[leech], Duration::from_secs(3600));
        let node = &world.nodes[leech];
        let status = node.engine.status(node.torrent).unwrap();
        prop_assert_eq!(status.bytes_reused + status.bytes_fetched, status.bytes_total);
        let honest = world.nodes[honest].addr;
        prop_assert!(node.banned.iter().all(|(addr, _)| *addr != honest));
    }
}
