//! Random swarms: whatever happens, what is proven is true, and where an honest seed stays, the
//! download completes. What a node checks at each step stands in `world.rs`.

use std::time::Duration;

use bittorrent_engine::Config;
use proptest::prelude::*;

use crate::node::{Answers, Habits};
use crate::world::World;
use simulation::{BLOCK, SyntheticTorrent};

fn answers() -> impl Strategy<Value = Answers> {
    prop_oneof![
        3 => Just(Answers::Truly),
        1 => Just(Answers::Falsely),
        1 => Just(Answers::WithReject),
        1 => Just(Answers::Late),
        1 => Just(Answers::Not),
    ]
}

pub(crate) fn habits() -> impl Strategy<Value = Habits> {
    let lies: [fn(bittorrent_protocol::BlockIndex) -> bool; 4] = [
        |_| false,
        |_| false,
        |block| block.in_piece() == 1,
        |block| (block.piece().get() + u32::from(block.in_piece())) % 11 == 4,
    ];
    (
        (prop::sample::select(lies.to_vec()), answers(), answers()),
        (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()),
        (50_000_u64..20_000_000, 1_u32..600, 1_u64..50),
        prop::option::weighted(0.2, 1_u64..300),
        prop::option::weighted(0.2, 1_u64..300),
        prop::option::weighted(0.2, 20_u64..100),
        prop::bool::weighted(0.1).prop_map(u32::from),
    )
        .prop_map(
            |(
                (lies, hashes, metadata),
                (fast, v1, local, gives_leaves),
                (upload_rate, reqq, write_millis),
                silent_after,
                vanishes_after,
                chokes_every,
                failing_writes,
            )| Habits {
                lies,
                hashes,
                gives_leaves,
                gives_nodes: reqq % 5 > 0,
                seed_mode: reqq % 4 == 0,
                metadata,
                fast,
                v1,
                exchanges: reqq % 3 == 0,
                local,
                upload_rate,
                silent_after,
                vanishes_after,
                reqq,
                write_time: Duration::from_millis(write_millis),
                failing_writes,
                chokes_every,
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 60,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_leech_completes_while_one_honest_seed_stays(
        seed in any::<u64>(),
        piece_blocks in prop::sample::select(vec![1_u64, 2, 8, 32]),
        files in prop::collection::vec(0..150 * BLOCK, 1..4),
        others in prop::collection::vec((habits(), 0_u32..3), 0..4),
        from_magnet in any::<bool>(),
    ) {
        prop_assume!(files.iter().any(|length| *length > 0));
        let torrent = SyntheticTorrent::new(piece_blocks, &files).unwrap();
        let mut world = World::new(seed);
        world.strict = false;
        let honest = world.add_seed(&torrent, Habits { upload_rate: 2_000_000, ..Habits::default() });
        for (habits, kind) in others {
            match kind {
                0 => world.add_seed(&torrent, habits),
                1 => world.add_leech(&torrent, habits),
                _ => world.add_with(&torrent, habits, |block| block.piece().get() % 2 == 0),
            };
        }
        let leech = world.add(&torrent, Habits::default(), Config::default());
        if !from_magnet {
            world.give_content(leech, true, |_| false);
        }
        world.introduce_all();
        world.run_until_complete(&[leech], Duration::from_secs(3600));
        let honest = world.nodes[honest].addr;
        prop_assert!(world.nodes[leech].banned.iter().all(|(addr, _)| *addr != honest));
    }
}
