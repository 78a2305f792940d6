//! Peers that lie about content or hashes.

use std::time::Duration;

use bittorrent_engine::{Blame, PeerEvent};
use bittorrent_protocol::merkle::{self, HashRequest};

use crate::node::{Answers, Habits};
use crate::world::World;
use simulation::{BLOCK, SyntheticTorrent};

const MINUTE: Duration = Duration::from_secs(60);

fn world(seed: u64) -> World {
    let mut world = World::new(seed);
    world.strict = false;
    world
}

fn liar(lies: fn(bittorrent_protocol::BlockIndex) -> bool) -> Habits {
    Habits {
        lies,
        ..Habits::default()
    }
}

#[test]
fn a_liar_alone_is_banned_at_its_first_piece_and_the_next_seed_completes() {
    let torrent = SyntheticTorrent::new(16, &[200 * BLOCK]).unwrap();
    let mut world = world(1);
    let bad = world.add_seed(&torrent, liar(|_| true));
    let good = world.add_seed(&torrent, Habits::default());
    let leech = world.add_leech(&torrent, Habits::default());
    world.introduce(leech, bad);
    assert!(world.run(MINUTE, |world| !world.nodes[leech].banned.is_empty()));
    assert!(world.nodes[leech].proven.is_empty());
    let (addr, blame) = world.nodes[leech].banned[0];
    assert_eq!(addr, world.nodes[bad].addr);
    assert!(matches!(blame, Blame::Piece(_)));
    world.run(10 * MINUTE, |_| false);
    assert_eq!(world.nodes[leech].ports, 40_001, "it is not dialled again");
    world.introduce(leech, good);
    world.run_until_complete(&[leech], MINUTE);
    assert_eq!(world.nodes[leech].banned.len(), 1);
    assert!(world.nodes[leech].links.is_empty());
}

#[test]
fn among_many_seeds_the_liars_are_found_by_leaves() {
    for seed in 0..8 {
        let torrent = SyntheticTorrent::new(64, &[1_000 * BLOCK, 40 * BLOCK]).unwrap();
        let mut world = world(seed);
        for _ in 0..3 {
            world.add_seed(&torrent, Habits::default());
        }
        let bad = world.add_seed(&torrent, liar(|block| block.in_piece() % 7 == 3));
        let leech = world.add_leech(&torrent, Habits::default());
        world.introduce_all();
        world.run_until_complete(&[leech], 2 * MINUTE);
        let node = &world.nodes[leech];
        let liar = world.nodes[bad].addr;
        assert!(
            node.banned.iter().all(|(addr, _)| *addr == liar),
            "{:?}",
            node.banned
        );
        assert_eq!(node.banned.len(), 1);
    }
}

#[test]
fn without_leaves_the_liars_are_found_by_comparison() {
    for seed in 0..8 {
        for answers in [Answers::WithReject, Answers::Not] {
            let torrent = SyntheticTorrent::new(64, &[600 * BLOCK]).unwrap();
            let mut world = world(seed);
            let tight = Habits {
                hashes: answers,
                upload_rate: 3_000_000,
                ..Habits::default()
            };
            for _ in 0..3 {
                world.add_seed(&torrent, tight.clone());
            }
            let bad = world.add_seed(
                &torrent,
                Habits {
                    lies: |block| block.in_piece() % 5 == 1,
                    ..tight
                },
            );
            let leech = world.add_leech(&torrent, Habits::default());
            world.introduce_all();
            world.run_until_complete(&[leech], 5 * MINUTE);
            let node = &world.nodes[leech];
            let liar = world.nodes[bad].addr;
            assert!(
                node.banned.iter().all(|(addr, _)| *addr == liar),
                "{:?}",
                node.banned
            );
            assert_eq!(node.banned.len(), 1, "seed {seed} {answers:?}");
        }
    }
}

#[test]
fn two_liars_among_leeches_are_found() {
    for seed in 0..4 {
        let torrent = SyntheticTorrent::new(32, &[500 * BLOCK]).unwrap();
        let mut world = world(seed);
        let slow = Habits {
            upload_rate: 4_000_000,
            ..Habits::default()
        };
        world.add_seed(&torrent, slow);
        let bad: Vec<_> = (0..2)
            .map(|_| world.add_seed(&torrent, liar(|block| block.in_piece() == 9)))
            .collect();
        let leeches: Vec<_> = (0..3)
            .map(|_| world.add_leech(&torrent, Habits::default()))
            .collect();
        world.introduce_all();
        world.run_until_complete(&leeches, 5 * MINUTE);
        let liars: Vec<_> = bad.iter().map(|n| world.nodes[*n].addr).collect();
        for n in leeches {
            for (addr, _) in &world.nodes[n].banned {
                assert!(liars.contains(addr), "{addr} is honest");
            }
        }
    }
}

#[test]
fn a_liar_about_one_block_pieces_is_found_on_arrival() {
    let torrent = SyntheticTorrent::new(1, &[300 * BLOCK]).unwrap();
    let mut world = world(2);
    // Nothing false is written, so nothing is written twice.
    world.strict = true;
    let bad = world.add_seed(&torrent, liar(|block| block.piece().get() % 50 == 49));
    world.add_seed(&torrent, Habits::default());
    let leech = world.add_leech(&torrent, Habits::default());
    world.introduce_all();
    world.run_until_complete(&[leech], MINUTE);
    let node = &world.nodes[leech];
    assert_eq!(node.banned.len(), 1);
    let (addr, blame) = node.banned[0];
    assert_eq!(addr, world.nodes[bad].addr);
    assert!(matches!(blame, Blame::Block(_)));
}

#[test]
fn a_lie_in_a_piece_whose_leaves_are_known_is_refused_on_arrival() {
    // The first liar makes the leaves known, the second one runs into them.
    let torrent = SyntheticTorrent::new(64, &[64 * BLOCK]).unwrap();
    let mut world = world(3);
    let slow = |lies| Habits {
        lies,
        upload_rate: 1_000_000,
        ..Habits::default()
    };
    world.add_seed(&torrent, slow(|_| false));
    world.add_seed(&torrent, slow(|block| block.in_piece() < 60));
    let second = world.add_seed(&torrent, slow(|_| true));
    let leech = world.add_leech(&torrent, Habits::default());
    for other in 0..2 {
        world.introduce(leech, other);
    }
    assert!(world.run(MINUTE, |world| !world.nodes[leech].banned.is_empty()));
    let writes: u32 = world.nodes[leech].writes.values().sum();
    let discards = world.nodes[leech].discards.len();
    world.introduce(leech, second);
    world.run_until_complete(&[leech], MINUTE);
    let node = &world.nodes[leech];
    let after: u32 = node.writes.values().sum();
    let missing = after - writes;
    assert!(
        missing < 64,
        "good blocks were kept: {missing} written again"
    );
    assert_eq!(node.banned.len(), 2);
    assert!(node.discards[discards..].contains(&bittorrent_engine::Discard::False));
}

#[test]
fn false_proofs_cost_the_connection_and_ban_their_sender() {
    let torrent = SyntheticTorrent::new(4, &[6_000 * BLOCK]).unwrap();
    let mut world = world(4);
    world.strict = true;
    let fast = Habits {
        upload_rate: 200_000_000,
        ..Habits::default()
    };
    let false_hashes = Habits {
        hashes: Answers::Falsely,
        ..fast.clone()
    };
    let liar = world.add_seed(&torrent, false_hashes);
    world.add_seed(&torrent, fast);
    let config = bittorrent_engine::Config::default();
    let leech = world.add(&torrent, Habits::default(), config);
    world.give_content(leech, false, |_| false);
    world.introduce_all();
    world.run_until_complete(&[leech], 2 * MINUTE);
    let node = &world.nodes[leech];
    assert!(
        node.faults.iter().all(|f| f.contains("prove")),
        "{:?}",
        node.faults
    );
    assert_eq!(node.faults.len(), 1, "{:?}", node.faults);
    assert_eq!(node.banned, [(world.nodes[liar].addr, Blame::Hashes)]);
    assert_eq!(node.layers.len(), 1);
}

#[test]
fn broken_messages_cost_the_connection() {
    let request = HashRequest {
        root: merkle::leaf(b"x"),
        base: 0,
        index: 0,
        count: 2,
        proof_layers: 0,
    };
    for event in [
        PeerEvent::Have(25),
        PeerEvent::Have(u32::MAX),
        PeerEvent::Bitfield(vec![0; 3]),
        PeerEvent::Bitfield(vec![0xff; 4]),
        PeerEvent::Suggest(99),
        PeerEvent::AllowedFast(99),
        PeerEvent::Hashes {
            request,
            hashes: vec![merkle::leaf(b"y"); 2],
        },
    ] {
        let torrent = SyntheticTorrent::new(4, &[100 * BLOCK]).unwrap();
        let mut world = world(5);
        let slow = Habits {
            upload_rate: 100_000,
            ..Habits::default()
        };
        let seed = world.add_seed(&torrent, slow);
        let leech = world.add_leech(&torrent, Habits::default());
        world.introduce(leech, seed);
        world.run(Duration::from_secs(1), |_| false);
        assert_eq!(world.nodes[leech].links.len(), 1);
        world.push_event(leech, event.clone());
        assert!(world.nodes[leech].links.is_empty(), "{event:?}");
        assert_eq!(world.nodes[leech].faults.len(), 1);
        // The download survives: the seed is dialled again.
        world.run_until_complete(&[leech], 5 * MINUTE);
    }
}

#[test]
fn harmless_oddities_are_borne() {
    let request = |index, begin| bittorrent_protocol::wire::Request {
        index,
        begin,
        length: 16_384,
    };
    let torrent = SyntheticTorrent::new(4, &[100 * BLOCK]).unwrap();
    let mut world = world(6);
    let slow = Habits {
        upload_rate: 500_000,
        ..Habits::default()
    };
    let seed = world.add_seed(&torrent, slow);
    let leech = world.add_leech(&torrent, Habits::default());
    world.introduce(leech, seed);
    world.run(Duration::from_secs(1), |_| false);
    for event in [
        PeerEvent::HaveAll,
        PeerEvent::Bitfield(vec![0xff, 0xff, 0xff, 0x80]),
        PeerEvent::Have(3),
        PeerEvent::Suggest(3),
        PeerEvent::AllowedFast(3),
        PeerEvent::Reject(request(99, 0)),
        PeerEvent::Reject(request(1, 5)),
        PeerEvent::Unchoke,
        PeerEvent::HashReject(HashRequest {
            root: merkle::leaf(b"x"),
            base: 0,
            index: 0,
            count: 2,
            proof_layers: 0,
        }),
    ] {
        world.push_event(leech, event);
    }
    world.run_until_complete(&[leech], MINUTE);
    assert!(world.nodes[leech].faults.is_empty());
}
