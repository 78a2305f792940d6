//! A set of the blocks of a torrent.

use std::ops::Range;
use std::sync::Arc;

use crate::layout::Layout;
use crate::units::{BlockIndex, PieceIndex};

/// A set of the blocks of one [`Layout`], one bit for each [`Layout::block_number`]: 1 MiB for
/// 128 GiB of content.
#[derive(Clone, PartialEq, Eq)]
pub struct BlockSet {
    layout: Arc<Layout>,
    words: Vec<u64>,
    count: u64,
}

impl BlockSet {
    /// Makes the empty set of a layout's blocks.
    pub fn new(layout: &Arc<Layout>) -> Self {
        // At most 2^21 pieces of 2^14 blocks: 4 GiB of bits, for content far beyond any disk here.
        let words = layout.block_numbers().div_ceil(64) as usize;
        Self {
            layout: Arc::clone(layout),
            words: vec![0; words],
            count: 0,
        }
    }

    /// Makes the set of all blocks of a layout.
    pub fn full(layout: &Arc<Layout>) -> Self {
        Self::from_words(layout, std::iter::repeat(u64::MAX))
    }

    /// Makes a set of words as [`Self::words`] returns them. Missing words are empty; bits of no
    /// block are ignored.
    pub fn from_words(layout: &Arc<Layout>, words: impl IntoIterator<Item = u64>) -> Self {
        let mut set = Self::new(layout);
        for (word, given) in set.words.iter_mut().zip(words) {
            *word = given;
        }
        let per_piece = u64::from(layout.piece_length().blocks());
        for last in layout
            .files()
            .iter()
            .filter_map(|file| file.piece_indices().next_back())
        {
            let first = u64::from(last.get()) * per_piece;
            set.clear(first + u64::from(layout.block_count(last))..first + per_piece);
        }
        set.clear(layout.block_numbers()..set.words.len() as u64 * 64);
        set.count = set
            .words
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum();
        set
    }

    /// Returns one bit for each [`Layout::block_number`], the first in the lowest bit of the first
    /// word.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Clears the bits of a range of numbers without counting.
    fn clear(&mut self, numbers: Range<u64>) {
        let mut at = numbers.start;
        while at < numbers.end {
            let stop = numbers.end.min((at / 64 + 1) * 64);
            let bits = u64::MAX >> (64 - (stop - at)) << (at % 64);
            self.words[(at / 64) as usize] &= !bits;
            at = stop;
        }
    }

    /// Returns the layout of the blocks.
    pub const fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Adds a block; returns `false` if it was in the set.
    pub fn insert(&mut self, block: BlockIndex) -> bool {
        let (word, bit) = self.word_of(block);
        let added = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.count += u64::from(added);
        added
    }

    /// Removes a block; returns `false` if it was not in the set.
    pub fn remove(&mut self, block: BlockIndex) -> bool {
        let (word, bit) = self.word_of(block);
        let there = self.words[word] & bit != 0;
        self.words[word] &= !bit;
        self.count -= u64::from(there);
        there
    }

    /// Returns whether a block is in the set.
    pub fn contains(&self, block: BlockIndex) -> bool {
        let (word, bit) = self.word_of(block);
        self.words[word] & bit != 0
    }

    /// Returns the number of blocks in the set.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// Returns whether all blocks of a piece are in the set.
    pub fn piece_is_full(&self, piece: PieceIndex) -> bool {
        let blocks = self.layout.block_count(piece);
        let first = u64::from(piece.get()) * u64::from(self.layout.piece_length().blocks());
        if blocks < 64 {
            // Within one word: the blocks of a piece are a power of two, and so is 64.
            let mask = (1 << blocks) - 1;
            return self.words[(first / 64) as usize] >> (first % 64) & mask == mask;
        }
        let (start, whole) = ((first / 64) as usize, (blocks / 64) as usize);
        let rest = (1_u64 << (blocks % 64)) - 1;
        self.words[start..start + whole]
            .iter()
            .all(|word| *word == u64::MAX)
            && (rest == 0 || self.words[start + whole] & rest == rest)
    }

    fn word_of(&self, block: BlockIndex) -> (usize, u64) {
        let number = self.layout.block_number(block);
        ((number / 64) as usize, 1 << (number % 64))
    }
}

impl std::fmt::Debug for BlockSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlockSet({} blocks)", self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{BLOCK_LEN, PieceLength};

    fn layout(piece_blocks: u64, files: &[u64]) -> Arc<Layout> {
        let length = PieceLength::new(piece_blocks * u64::from(BLOCK_LEN)).unwrap();
        Arc::new(Layout::new(length, files.iter().map(|length| (*length, None))).unwrap())
    }

    #[test]
    fn pieces_are_full_exactly_when_all_their_blocks_are_in() {
        let block = u64::from(BLOCK_LEN);
        for piece_blocks in [1, 2, 32, 64, 128, 256] {
            let longest = piece_blocks * block * 3;
            for length in [
                1,
                block,
                block + 1,
                piece_blocks * block,
                longest - 1,
                longest,
            ] {
                let layout = layout(piece_blocks, &[1, length]);
                for piece in layout.piece_indices() {
                    let mut set = BlockSet::new(&layout);
                    let blocks: Vec<_> = layout.blocks(piece).collect();
                    for block in &blocks {
                        assert!(!set.piece_is_full(piece));
                        assert!(set.insert(*block) && !set.insert(*block));
                    }
                    assert!(set.piece_is_full(piece), "{piece_blocks} {length} {piece}");
                    assert_eq!(set.count(), blocks.len() as u64);
                    let last = blocks[blocks.len() - 1];
                    assert!(set.remove(last) && !set.remove(last));
                    assert!(!set.piece_is_full(piece) && !set.contains(last));
                }
                let mut all = BlockSet::new(&layout);
                for piece in layout.piece_indices() {
                    for block in layout.blocks(piece) {
                        all.insert(block);
                    }
                }
                let full = BlockSet::full(&layout);
                assert_eq!(full, all);
                assert_eq!(
                    BlockSet::from_words(&layout, all.words().iter().copied()),
                    all
                );
                assert!(
                    layout
                        .piece_indices()
                        .all(|piece| full.piece_is_full(piece))
                );
            }
        }
    }

    #[test]
    fn words_are_taken_as_far_as_there_are_blocks() {
        let block = u64::from(BLOCK_LEN);
        // Pieces of 64 blocks: one full, one of 3 blocks, and another file of 1 block.
        let layout = layout(64, &[67 * block, 1]);
        let ones = BlockSet::from_words(&layout, [u64::MAX; 9]);
        assert_eq!(ones.words(), [u64::MAX, 0b111, 1]);
        assert_eq!(ones.count(), 68);
        let short = BlockSet::from_words(&layout, [0b101]);
        assert_eq!(
            (short.words(), short.count()),
            ([0b101, 0, 0].as_slice(), 2)
        );
        let odd = self::layout(2, &[block, 3 * block]);
        assert_eq!(BlockSet::full(&odd).words(), [0b01_11_01]);
    }
}
