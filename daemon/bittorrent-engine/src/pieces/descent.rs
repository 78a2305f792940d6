//! Finds the leaves of a piece from the top: most are in older content, so only those below nodes that
//! differ are requested.

use bittorrent_protocol::{MerkleHash, merkle};

/// Layers above the leaves of the nodes that are requested first: each covers 64 KiB.
pub(crate) const LAYER: u8 = 2;
/// Leaves below such a node.
pub(crate) const GROUP: usize = 1 << LAYER;
/// The most leaves in one request.
const WIDEST: usize = 512;
/// Bytes of a request and its answer besides the hashes: length, kind and the requested range, twice (BEP 52).
const MESSAGES: usize = 2 * (4 + 1 + 48);

/// The known leaves of a piece, and the requests for the rest.
#[derive(Debug, Clone)]
pub(crate) struct Descent {
    /// Proven.
    nodes: Vec<MerkleHash>,
    /// One for each block; known for all or none below a node.
    leaves: Vec<Option<MerkleHash>>,
    /// To be requested.
    wanted: Vec<LeafRange>,
}

/// Neighbouring leaves below one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeafRange {
    /// The first one's number in the piece.
    pub(crate) first: u16,
    /// How many there are, with those past the end of the content: a power of two.
    pub(crate) width: u16,
}

impl Descent {
    /// Creates a descent from the nodes over `blocks` blocks.
    pub(crate) fn new(nodes: Vec<MerkleHash>, blocks: u32) -> Self {
        Self {
            nodes,
            leaves: vec![None; blocks as usize],
            wanted: Vec::new(),
        }
    }

    /// Takes leaves of older content and ignores those that do not fold to a node. The missing ones must be
    /// requested. Returns below how many nodes some are missing, and the number of nodes.
    pub(crate) fn recall(
        &mut self,
        held: impl IntoIterator<Item = (u16, MerkleHash)>,
    ) -> (usize, usize) {
        let mut found = vec![None; self.leaves.len()];
        for (in_piece, leaf) in held {
            if let Some(slot) = found.get_mut(usize::from(in_piece)) {
                *slot = Some(leaf);
            }
        }
        let groups = self.leaves.chunks_mut(GROUP).zip(found.chunks(GROUP));
        let differs: Vec<bool> = groups
            .zip(&self.nodes)
            .map(|((leaves, found), node)| {
                let known: Option<Vec<MerkleHash>> = found.iter().copied().collect();
                let known = known.filter(|known| merkle::fold(known, 0, LAYER) == *node);
                if known.is_some() {
                    leaves.copy_from_slice(found);
                }
                known.is_none()
            })
            .collect();
        let mut width = differs.len().next_power_of_two();
        width = width.min(WIDEST / GROUP);
        for (number, part) in differs.chunks(width).enumerate() {
            cover(part, number * width, width, &mut self.wanted);
        }
        // Taken from the end.
        self.wanted.reverse();
        (
            differs.iter().filter(|differs| **differs).count(),
            differs.len(),
        )
    }

    /// Returns the next range to request, and counts it as requested.
    pub(crate) fn ask(&mut self) -> Option<LeafRange> {
        self.wanted.pop()
    }

    pub(crate) fn has_wanted(&self) -> bool {
        !self.wanted.is_empty()
    }

    /// Returns the node to which the leaves of a range must fold.
    pub(crate) fn node(&self, range: LeafRange) -> Option<MerkleHash> {
        let first = usize::from(range.first) / GROUP;
        let count = usize::from(range.width) / GROUP;
        let end = (first + count).min(self.nodes.len());
        let nodes = self
            .nodes
            .get(first..end)
            .filter(|nodes| !nodes.is_empty())?;
        Some(merkle::fold(nodes, LAYER, count.ilog2() as u8))
    }

    /// Takes the proven leaves of a range that was requested.
    pub(crate) fn learn(&mut self, range: LeafRange, leaves: &[MerkleHash]) {
        let slots = self.leaves.iter_mut().skip(range.first.into());
        for (slot, leaf) in slots.zip(leaves) {
            *slot = Some(*leaf);
        }
    }

    /// Returns all leaves, once they are known.
    pub(crate) fn leaves(&self) -> Option<Vec<MerkleHash>> {
        self.leaves.iter().copied().collect()
    }
}

/// Finds the cheapest requests for the leaves below nodes that differ. Returns their cost in bytes. `width`
/// is a power of two; nodes past the end stand for no content.
fn cover(differs: &[bool], first: usize, width: usize, wanted: &mut Vec<LeafRange>) -> usize {
    if !differs.contains(&true) {
        return 0;
    }
    let at_once = MESSAGES + MerkleHash::LEN * GROUP * width;
    let before = wanted.len();
    if width > 1 {
        let half = width / 2;
        let (left, right) = differs.split_at(half.min(differs.len()));
        let apart = cover(left, first, half, wanted) + cover(right, first + half, half, wanted);
        if apart <= at_once {
            return apart;
        }
    }
    wanted.truncate(before);
    wanted.push(LeafRange {
        // A piece has at most 2^14 blocks.
        first: (first * GROUP) as u16,
        width: (width * GROUP) as u16,
    });
    at_once
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(n: usize) -> MerkleHash {
        merkle::leaf(&n.to_le_bytes())
    }

    fn descent(blocks: usize) -> (Descent, Vec<MerkleHash>) {
        let leaves: Vec<MerkleHash> = (0..blocks).map(leaf).collect();
        let nodes = merkle::fold_layer(&leaves, 0, LAYER);
        (Descent::new(nodes, blocks as u32), leaves)
    }

    /// What is asked for when these blocks are not held.
    fn asked(blocks: usize, missing: &[usize]) -> Vec<(u16, u16)> {
        let (mut descent, leaves) = descent(blocks);
        let held = (0..blocks).filter(|n| !missing.contains(n));
        descent.recall(held.map(|n| (n as u16, leaves[n])));
        let mut asked = Vec::new();
        while let Some(range) = descent.ask() {
            asked.push((range.first, range.width));
            let (first, width) = (usize::from(range.first), usize::from(range.width));
            let end = (first + width).min(blocks);
            let node = merkle::fold(&leaves[first..end], 0, width.ilog2() as u8);
            assert_eq!(descent.node(range), Some(node));
            assert_eq!(descent.leaves(), None);
            descent.learn(range, &leaves[first..end]);
        }
        assert_eq!(descent.leaves(), Some(leaves));
        asked
    }

    #[test]
    fn only_what_differs_is_asked_for_in_the_cheapest_way() {
        assert_eq!(asked(64, &[]), []);
        assert_eq!(asked(64, &[5]), [(4, 4)]);
        assert_eq!(asked(64, &[5, 33, 63]), [(4, 4), (32, 4), (60, 4)]);
        // Two neighbours cost less together, and many even when one between them is not needed.
        assert_eq!(asked(64, &[0, 5]), [(0, 8)]);
        assert_eq!(asked(64, &[0, 5, 12]), [(0, 8), (12, 4)]);
        assert_eq!(asked(64, &[0, 4, 8, 12, 16, 20, 28]), [(0, 32)]);
        assert_eq!(asked(64, &(0..64).collect::<Vec<_>>()), [(0, 64)]);
        let all: Vec<usize> = (0..2_048).collect();
        let whole = (0..4).map(|n| (n * 512, 512));
        assert_eq!(asked(2_048, &all), whole.collect::<Vec<_>>());
        // The last piece ends anywhere.
        assert_eq!(asked(9, &[8]), [(8, 4)]);
        assert_eq!(asked(33, &[0, 4, 32]), [(0, 8), (32, 4)]);
    }

    #[test]
    fn what_is_held_counts_only_if_it_leads_to_a_node() {
        let (mut descent, leaves) = descent(16);
        let mut held: Vec<_> = (0..).zip(leaves.iter().copied()).collect();
        held[6].1 = leaf(99);
        held.remove(13);
        held.push((7_000, leaf(1)));
        assert_eq!(descent.recall(held), (2, 4));
        let stretches: Vec<_> = std::iter::from_fn(|| descent.ask()).collect();
        assert_eq!(
            stretches.iter().map(|s| s.first).collect::<Vec<_>>(),
            [4, 12]
        );
    }
}
