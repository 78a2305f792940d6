//! A coarse map of where the content of a torrent came from.

use bittorrent_protocol::{BlockSet, Layout, PieceIndex};

/// Most cells of a map.
pub const MAX_MAP_CELLS: u32 = 512;

/// A run of neighbouring pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MapCell {
    /// Blocks in it.
    pub blocks: u64,
    /// Verified blocks among them.
    pub verified: u64,
    /// Verified blocks that the store had when the torrent was added.
    pub before: u64,
    /// Verified blocks that were found in local snapshots. The others came from peers.
    pub reused: u64,
}

/// Origins of verified blocks in bounded memory.
#[derive(Debug, Clone, Default)]
pub(crate) struct BlockOrigins {
    /// One count for each cell.
    before: Vec<u64>,
    reused: Vec<u64>,
}

impl BlockOrigins {
    /// Creates the counts from the blocks that are verified at the start.
    pub(crate) fn new(verified: &BlockSet) -> Self {
        let before = counts(verified);
        Self {
            reused: vec![0; before.len()],
            before,
        }
    }

    /// Counts `blocks` blocks of a piece that were found in local snapshots.
    pub(crate) fn reuse(&mut self, layout: &Layout, piece: PieceIndex, blocks: u64) {
        // The last cell that begins at the piece or before it.
        let cells = u64::from(cells(layout));
        let cell = (u64::from(piece.get()) * cells + cells - 1) / u64::from(layout.piece_count());
        if let Some(reused) = self.reused.get_mut(cell as usize) {
            *reused += blocks;
        }
    }

    /// Returns the map, given what is verified now.
    pub(crate) fn map(&self, verified: &BlockSet) -> Vec<MapCell> {
        let layout = verified.layout();
        let all = counts(&BlockSet::full(layout));
        let origins = self.before.iter().zip(&self.reused);
        origins
            .zip(counts(verified))
            .zip(all)
            .map(|(((before, reused), verified), blocks)| {
                // Revoked blocks are fetched again and leave the counts slightly high.
                let before = verified.min(*before);
                MapCell {
                    blocks,
                    verified,
                    before,
                    reused: (verified - before).min(*reused),
                }
            })
            .collect()
    }
}

fn cells(layout: &Layout) -> u32 {
    layout.piece_count().min(MAX_MAP_CELLS)
}

/// Returns the first piece of a cell.
fn begin(layout: &Layout, cell: u32) -> u32 {
    let cells = u64::from(cells(layout).max(1));
    (u64::from(cell) * u64::from(layout.piece_count()) / cells) as u32
}

/// Returns the number of blocks of the set in each cell.
fn counts(set: &BlockSet) -> Vec<u64> {
    let layout = set.layout();
    let per_piece = u64::from(layout.piece_length().blocks());
    let number = |cell| u64::from(begin(layout, cell)) * per_piece;
    (0..cells(layout))
        .map(|cell| count_bits(set.words(), number(cell), number(cell + 1)))
        .collect()
}

/// Counts set bits from number `from` up to `to`.
fn count_bits(words: &[u64], from: u64, to: u64) -> u64 {
    let mut count = 0;
    let mut at = from;
    while at < to {
        let stop = to.min((at / 64 + 1) * 64);
        let mask = u64::MAX >> (64 - (stop - at)) << (at % 64);
        let word = words.get((at / 64) as usize).copied().unwrap_or(0);
        count += u64::from((word & mask).count_ones());
        at = stop;
    }
    count
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bittorrent_protocol::PieceLength;

    use super::*;

    /// One file of `blocks` blocks, `per_piece` in each piece.
    fn layout(blocks: u64, per_piece: u64) -> Arc<Layout> {
        let length = PieceLength::new(per_piece * 16384).unwrap();
        Arc::new(Layout::new(length, [(blocks * 16384, None)]).unwrap())
    }

    #[test]
    fn every_block_is_in_one_cell() {
        for (blocks, per_piece) in [(1, 1), (7, 2), (512, 1), (513, 1), (5000, 4), (99_999, 64)] {
            let layout = layout(blocks, per_piece);
            let full = BlockSet::full(&layout);
            let map = BlockOrigins::new(&BlockSet::new(&layout)).map(&full);
            assert!(map.len() <= MAX_MAP_CELLS as usize);
            assert_eq!(map.iter().map(|cell| cell.blocks).sum::<u64>(), blocks);
            for cell in map {
                assert_eq!(
                    (cell.verified, cell.before, cell.reused),
                    (cell.blocks, 0, 0)
                );
            }
        }
    }

    #[test]
    fn origins_stay_with_their_cells() {
        let layout = layout(4096, 1);
        let mut set = BlockSet::new(&layout);
        let piece = |number| layout.piece(number).unwrap();
        for number in 0..8 {
            set.insert(layout.block(piece(number), 0).unwrap());
        }
        let mut origins = BlockOrigins::new(&set);
        for number in [8, 15, 4095] {
            set.insert(layout.block(piece(number), 0).unwrap());
            origins.reuse(&layout, piece(number), 1);
        }
        let map = origins.map(&set);
        let cell = |verified, before, reused| MapCell {
            blocks: 8,
            verified,
            before,
            reused,
        };
        assert_eq!(map[0], cell(8, 8, 0));
        assert_eq!(map[1], cell(2, 0, 2));
        assert_eq!(map[2], cell(0, 0, 0));
        assert_eq!(map[511], cell(1, 0, 1));
    }

    #[test]
    fn a_piece_is_in_the_cell_that_begins_before_it() {
        for pieces in [1, 3, 511, 512, 513, 700, 1024, 1500, 100_003] {
            let layout = layout(pieces, 1);
            let mut origins = BlockOrigins::new(&BlockSet::new(&layout));
            for piece in layout.piece_indices() {
                origins.reuse(&layout, piece, 1);
            }
            let map = origins.map(&BlockSet::full(&layout));
            assert!(
                map.iter().all(|cell| cell.reused == cell.blocks),
                "{pieces}"
            );
        }
    }
}
