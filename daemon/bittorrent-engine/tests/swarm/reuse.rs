//! Updates: most of what a torrent consists of is held already.

use std::time::Duration;

use bittorrent_protocol::BlockIndex;

use crate::node::{Habits, Held};
use crate::torrent::{BLOCK, Torrent};
use crate::world::World;

const MINUTES: Duration = Duration::from_secs(600);

/// One block in ten, scattered.
fn changed(block: BlockIndex) -> bool {
    let number = block.piece().get() * 7 + u32::from(block.in_piece());
    number.wrapping_mul(0x9e37_79b9) >> 16 & 0xffff < 6_554
}

/// Bytes of the blocks for which this is so.
fn bytes(torrent: &Torrent, which: impl Fn(BlockIndex) -> bool) -> u64 {
    let blocks = torrent.blocks().filter(|block| which(*block));
    blocks
        .map(|block| u64::from(torrent.layout.block_size(block)))
        .sum()
}

#[test]
fn an_update_transfers_exactly_the_changed_leaves() {
    for piece_blocks in [1, 4, 64, 256] {
        let torrent = Torrent::new(piece_blocks, &[3_000 * BLOCK + 77, 5, 40 * BLOCK]);
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
