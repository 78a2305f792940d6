//! Sets of pieces.

use bittorrent_protocol::{Layout, PieceIndex};

use crate::api::input::PeerFault;

/// A set of the pieces of one layout, one bit each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PieceSet {
    words: Vec<u64>,
    pieces: u32,
    count: u32,
}

impl PieceSet {
    pub(crate) fn new(pieces: u32) -> Self {
        Self {
            words: vec![0; pieces.div_ceil(64) as usize],
            pieces,
            count: 0,
        }
    }

    pub(crate) fn full(pieces: u32) -> Self {
        let mut set = Self::new(pieces);
        set.fill();
        set
    }

    pub(crate) fn fill(&mut self) {
        self.words.fill(u64::MAX);
        let spare = self.words.len() as u32 * 64 - self.pieces;
        if let Some(last) = self.words.last_mut() {
            *last >>= spare;
        }
        self.count = self.pieces;
    }

    /// Reads a bitfield message, which must be of exactly the right length with no spare bit set
    /// (BEP 3, "bitfield").
    pub(crate) fn from_wire(bytes: &[u8], pieces: u32) -> Result<Self, PeerFault> {
        let expected = pieces.div_ceil(8) as usize;
        if bytes.len() != expected {
            return Err(PeerFault::BitfieldLength {
                expected,
                found: bytes.len(),
            });
        }
        let mut set = Self::new(pieces);
        for (word, chunk) in set.words.iter_mut().zip(bytes.chunks(8)) {
            let mut eight = [0; 8];
            for (to, from) in eight.iter_mut().zip(chunk) {
                *to = from.reverse_bits();
            }
            *word = u64::from_le_bytes(eight);
        }
        let spare = set.words.len() as u32 * 64 - pieces;
        if spare > 0
            && set
                .words
                .last()
                .is_some_and(|last| last.leading_zeros() < spare)
        {
            return Err(PeerFault::BitfieldSpareBits);
        }
        set.count = set.words.iter().map(|word| word.count_ones()).sum();
        Ok(set)
    }

    /// Writes a bitfield message.
    pub(crate) fn to_wire(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self
            .words
            .iter()
            .flat_map(|word| word.to_le_bytes().map(u8::reverse_bits))
            .collect();
        bytes.truncate(self.pieces.div_ceil(8) as usize);
        bytes
    }

    /// Adds a piece; `false` when it was there.
    pub(crate) fn insert(&mut self, piece: PieceIndex) -> bool {
        let (word, bit) = position(piece);
        let added = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.count += u32::from(added);
        added
    }

    /// Takes a piece out; `false` when it was not there.
    pub(crate) fn remove(&mut self, piece: PieceIndex) -> bool {
        let (word, bit) = position(piece);
        let there = self.words[word] & bit != 0;
        self.words[word] &= !bit;
        self.count -= u32::from(there);
        there
    }

    pub(crate) fn contains(&self, piece: PieceIndex) -> bool {
        let (word, bit) = position(piece);
        self.words[word] & bit != 0
    }

    pub(crate) fn len(&self) -> u32 {
        self.count
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) fn is_full(&self) -> bool {
        self.count == self.pieces
    }

    /// How many pieces are in here and not in `other`.
    pub(crate) fn count_without(&self, other: &Self) -> u32 {
        self.words
            .iter()
            .zip(&other.words)
            .map(|(mine, theirs)| (mine & !theirs).count_ones())
            .sum()
    }

    /// Returns whether any of the pieces `from..to` is in here.
    pub(crate) fn any_in(&self, from: u32, to: u32) -> bool {
        let to = to.min(self.pieces);
        if from >= to {
            return false;
        }
        let (first, last) = (from / 64, (to - 1) / 64);
        (first..=last).any(|index| {
            let mut word = self.words[index as usize];
            if index == first {
                word &= u64::MAX << (from % 64);
            }
            if index == last {
                word &= u64::MAX >> (63 - (to - 1) % 64);
            }
            word != 0
        })
    }

    /// The first piece in here from `start` on, or else the first of all.
    pub(crate) fn next_from(&self, start: u32, layout: &Layout) -> Option<PieceIndex> {
        let words = self.words.len();
        let first = (start / 64) as usize;
        let ahead = self.words.get(first)? & (u64::MAX << (start % 64));
        let number = if ahead != 0 {
            first as u32 * 64 + ahead.trailing_zeros()
        } else {
            let index = (1..=words)
                .map(|step| (first + step) % words)
                .find(|index| self.words[*index] != 0)?;
            index as u32 * 64 + self.words[index].trailing_zeros()
        };
        layout.piece(number)
    }

    /// The pieces in here, in order.
    pub(crate) fn iter<'a>(&'a self, layout: &'a Layout) -> impl Iterator<Item = PieceIndex> + 'a {
        self.words
            .iter()
            .zip(0_u32..)
            .flat_map(|(word, index)| ones(*word).map(move |bit| index * 64 + bit))
            .filter_map(|number| layout.piece(number))
    }

    /// The pieces that are in both sets, beginning at the 64 pieces around `start` and wrapping.
    pub(crate) fn common_from<'a>(
        &'a self,
        other: &'a Self,
        start: u32,
        layout: &'a Layout,
    ) -> impl Iterator<Item = PieceIndex> + 'a {
        let words = self.words.len();
        let first = (start / 64) as usize;
        (0..words)
            .map(move |step| (first + step) % words)
            .flat_map(move |index| {
                ones(self.words[index] & other.words[index]).map(move |bit| index as u32 * 64 + bit)
            })
            .filter_map(|number| layout.piece(number))
    }
}

fn position(piece: PieceIndex) -> (usize, u64) {
    (piece.as_usize() / 64, 1 << (piece.get() % 64))
}

/// The numbers of the bits that are set, lowest first.
fn ones(mut word: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        (word != 0).then(|| {
            let bit = word.trailing_zeros();
            word &= word - 1;
            bit
        })
    })
}

#[cfg(test)]
mod tests {
    use bittorrent_protocol::PieceLength;
    use proptest::prelude::*;

    use super::*;

    fn layout(pieces: u32) -> Layout {
        Layout::new(PieceLength::MIN, [(u64::from(pieces) * 16_384, None)]).unwrap()
    }

    #[test]
    fn the_wire_form_has_the_first_piece_in_the_highest_bit() {
        let layout = layout(10);
        let mut set = PieceSet::new(10);
        for number in [0, 7, 9] {
            assert!(set.insert(layout.piece(number).unwrap()));
            assert!(!set.insert(layout.piece(number).unwrap()));
        }
        assert_eq!(set.to_wire(), [0b1000_0001, 0b0100_0000]);
        assert_eq!(PieceSet::from_wire(&set.to_wire(), 10), Ok(set));
        assert_eq!(
            PieceSet::from_wire(&[0, 0b0010_0000], 10),
            Err(PeerFault::BitfieldSpareBits)
        );
        for wrong in [&[0][..], &[0; 3], &[]] {
            assert!(matches!(
                PieceSet::from_wire(wrong, 10),
                Err(PeerFault::BitfieldLength { expected: 2, .. })
            ));
        }
    }

    #[test]
    fn full_sets_have_no_spare_bits() {
        for pieces in [1, 63, 64, 65, 128, 130] {
            let set = PieceSet::full(pieces);
            assert!(set.is_full());
            assert_eq!(PieceSet::from_wire(&set.to_wire(), pieces), Ok(set));
        }
    }

    proptest! {
        #[test]
        fn a_set_behaves_like_a_set(
            pieces in 1_u32..200,
            ops in prop::collection::vec((any::<u32>(), any::<bool>()), 0..200),
            range in (0_u32..210, 0_u32..210),
        ) {
            let layout = layout(pieces);
            let mut model = std::collections::BTreeSet::new();
            let mut set = PieceSet::new(pieces);
            for (number, add) in ops {
                let piece = layout.piece(number % pieces).unwrap();
                if add {
                    prop_assert_eq!(set.insert(piece), model.insert(piece));
                } else {
                    prop_assert_eq!(set.remove(piece), model.remove(&piece));
                }
            }
            prop_assert_eq!(set.len() as usize, model.len());
            prop_assert!(set.iter(&layout).eq(model.iter().copied()));
            prop_assert_eq!(
                set.any_in(range.0, range.1),
                model.iter().any(|piece| (range.0..range.1).contains(&piece.get()))
            );
            let full = PieceSet::full(pieces);
            prop_assert_eq!(set.count_without(&full), 0);
            prop_assert_eq!(full.count_without(&set), pieces - set.len());
            let mut common: Vec<_> = set.common_from(&full, range.0 % pieces, &layout).collect();
            common.sort();
            prop_assert!(common.into_iter().eq(model));
        }
    }
}
