//! Merkle trees of files (BEP 52, "pieces root").
//!
//! A file is cut into blocks of 16 KiB; the SHA-256 of each block, the last one at its true length,
//! is a *leaf*. Leaves are padded with zero hashes to a power of two, and each node above is the
//! SHA-256 of its two children. Layers are counted from the leaves (layer 0) to the root; the
//! *piece layer* is the one where a node covers one piece. A file of at most one piece has no
//! piece layer: its own, shorter tree ends in the root, which then is the hash of its only piece.

mod request;

use std::sync::LazyLock;

use sha2::{Digest as _, Sha256};

use crate::hash::MerkleHash;
use crate::layout::Layout;
use crate::units::{BLOCK_LEN, PieceIndex, PieceLength};

pub use request::{CheckedRequest, HashRequest, MAX_HASH_COUNT, ProofFault, RequestFault};

/// Returns the hash of one block: its content at its true length, 1 to 16384 bytes.
pub fn leaf(block: &[u8]) -> MerkleHash {
    MerkleHash::from_bytes(Sha256::digest(block).into())
}

/// Returns the hashes of blocks, in order, as [`leaf`] does for one. Two and more at once take
/// nearly half the time.
pub fn leaves(blocks: &[&[u8]]) -> Vec<MerkleHash> {
    let mut digests = vec![[0; MerkleHash::LEN]; blocks.len()];
    sha_lanes::sha256_many(blocks, &mut digests);
    digests.into_iter().map(MerkleHash::from_bytes).collect()
}

/// Cuts content into blocks, the last of which may be short, and appends their hashes.
pub fn extend_leaves(leaves: &mut Vec<MerkleHash>, content: &[u8]) {
    const TOGETHER: usize = 16;
    for some in content.chunks(TOGETHER * BLOCK_LEN as usize) {
        let mut blocks: [&[u8]; TOGETHER] = [&[]; TOGETHER];
        let mut digests = [[0; MerkleHash::LEN]; TOGETHER];
        let mut count = 0;
        for (slot, block) in blocks.iter_mut().zip(some.chunks(BLOCK_LEN as usize)) {
            *slot = block;
            count += 1;
        }
        let (digests, _) = digests.split_at_mut(count);
        sha_lanes::sha256_many(&blocks, digests);
        leaves.extend(digests.iter().copied().map(MerkleHash::from_bytes));
    }
}

/// Returns the parent of two nodes.
pub fn parent(left: &MerkleHash, right: &MerkleHash) -> MerkleHash {
    let mut both = [0; 2 * MerkleHash::LEN];
    let (first, second) = both.split_at_mut(MerkleHash::LEN);
    first.copy_from_slice(left.as_bytes());
    second.copy_from_slice(right.as_bytes());
    MerkleHash::from_bytes(Sha256::digest(both).into())
}

/// Every layer a `u8` can name; trees of real files stay below 36.
static PADS: LazyLock<[MerkleHash; 256]> = LazyLock::new(|| {
    let mut node = MerkleHash::ZERO;
    std::array::from_fn(|_| {
        let this = node;
        node = parent(&this, &this);
        this
    })
});

/// Returns the node of a layer that covers padding only: all zero for leaves, the hash of padding
/// above them.
pub fn pad(layer: u8) -> MerkleHash {
    PADS[usize::from(layer)]
}

/// Returns the height of the tree of a file: the number of layers from the leaves up to the root, 0
/// for a single block.
pub const fn tree_height(blocks: u64) -> u8 {
    match blocks {
        0 | 1 => 0,
        // At most 64.
        _ => (u64::BITS - (blocks - 1).leading_zeros()) as u8,
    }
}

/// Folds adjacent nodes into the node `height` layers above them.
///
/// `hashes` are the leftmost nodes of `layer` that it covers; missing ones are padding. At most
/// 2^`height` nodes fit below it: more are a caller's error, and ignored. Takes no memory beyond
/// the stack.
pub fn fold(hashes: &[MerkleHash], layer: u8, height: u8) -> MerkleHash {
    let fits = 1usize.checked_shl(height.into()).unwrap_or(usize::MAX);
    debug_assert!(hashes.len() <= fits, "{} nodes, {fits} fit", hashes.len());
    let hashes = hashes.get(..fits).unwrap_or(hashes);
    if hashes.is_empty() {
        return pad(layer.saturating_add(height));
    }
    let low = height.min(WIDE);
    let (layer_above, height_above) = (layer.saturating_add(low), height - low);

    // `complete[n]` is a complete subtree of height n above the low ones, waiting for its right
    // neighbour; it waits exactly when bit n of the number of nodes seen so far is set.
    let mut complete = [MerkleHash::ZERO; usize::BITS as usize];
    let mut seen = 0usize;
    for below in hashes.chunks(1 << WIDE) {
        let mut node = fold_low(below, layer, low);
        let merges = seen.trailing_ones() as usize;
        for left in &complete[..merges] {
            node = parent(left, &node);
        }
        complete[merges] = node;
        seen += 1;
    }

    // Close the right edge with padding, from low to high.
    let mut edge: Option<MerkleHash> = None;
    for up in 0..height_above {
        let waiting = seen.checked_shr(up.into()).unwrap_or(0) & 1 == 1;
        let padding = pad(layer_above.saturating_add(up));
        edge = match (waiting, edge) {
            (true, right) => {
                // A set bit of a `usize` is below its width.
                Some(parent(
                    &complete[usize::from(up)],
                    &right.unwrap_or(padding),
                ))
            }
            (false, Some(left)) => Some(parent(&left, &padding)),
            (false, None) => None,
        };
    }
    match edge {
        Some(node) => node,
        // The nodes fill the whole width: one complete subtree is all there is, and it is lower than
        // a `usize` has bits.
        None => complete[usize::from(height_above)],
    }
}

/// Up to this height trees are folded layer by layer, which hashes neighbours side by side.
const WIDE: u8 = 7;

/// As [`fold`], for at least one hash and a height of at most [`WIDE`].
fn fold_low(hashes: &[MerkleHash], layer: u8, height: u8) -> MerkleHash {
    // One more for the padding beside a last node without a sibling.
    let mut nodes = [[0; MerkleHash::LEN]; (1 << WIDE) + 1];
    for (node, hash) in nodes.iter_mut().zip(hashes) {
        *node = *hash.as_bytes();
    }
    let mut count = hashes.len();
    for up in 0..height {
        if count % 2 == 1 {
            nodes[count] = *pad(layer.saturating_add(up)).as_bytes();
            count += 1;
        }
        sha_lanes::sha256_parents(nodes.split_at_mut(count).0);
        count /= 2;
    }
    MerkleHash::from_bytes(nodes[0])
}

/// Folds a run of nodes at `layer` into the layer `height` above it; the last node is padded. Omits
/// nodes that cover padding only.
pub fn fold_layer(hashes: &[MerkleHash], layer: u8, height: u8) -> Vec<MerkleHash> {
    let width = 1usize.checked_shl(height.into()).unwrap_or(usize::MAX);
    hashes
        .chunks(width)
        .map(|below| fold(below, layer, height))
        .collect()
}

/// Returns the hash of a piece from all its leaves, in order: the node of the piece layer, or the
/// root of a file of at most one piece.
pub fn piece_hash(leaves: &[MerkleHash], layout: &Layout, piece: PieceIndex) -> MerkleHash {
    fold(leaves, 0, piece_height(layout, piece))
}

/// Returns the number of layers from the leaves of a piece up to its hash: less than
/// [`PieceLength::layer`] only in files shorter than a piece.
pub fn piece_height(layout: &Layout, piece: PieceIndex) -> u8 {
    let file = layout.file(layout.file_of(piece));
    match file.pieces() {
        0 | 1 => tree_height(file.blocks()),
        _ => layout.piece_length().layer(),
    }
}

/// Returns the root of a file longer than a piece, from its complete piece layer.
pub fn file_root_from_layer(layer: &[MerkleHash], piece_length: PieceLength) -> MerkleHash {
    fold(layer, piece_length.layer(), tree_height(layer.len() as u64))
}

/// Returns the root of a file from all its leaves.
pub fn file_root_from_leaves(leaves: &[MerkleHash]) -> MerkleHash {
    fold(leaves, 0, tree_height(leaves.len() as u64))
}

/// Returns the complete piece layer of a file from all its leaves. Torrents omit it for files of at
/// most one piece.
pub fn piece_layer_from_leaves(
    leaves: &[MerkleHash],
    piece_length: PieceLength,
) -> Vec<MerkleHash> {
    fold_layer(leaves, 0, piece_length.layer())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds each layer of the padded tree, as BEP 52 describes it: slow and simple.
    fn naive(hashes: &[MerkleHash], layer: u8, height: u8) -> MerkleHash {
        let mut nodes = hashes.to_vec();
        nodes.resize(1 << height, pad(layer));
        while nodes.len() > 1 {
            nodes = nodes
                .chunks(2)
                .map(|two| parent(&two[0], &two[1]))
                .collect();
        }
        nodes[0]
    }

    #[test]
    fn leaves_together_are_leaves_one_by_one() {
        const BLOCK: usize = BLOCK_LEN as usize;
        let content: Vec<u8> = (0..17 * BLOCK + 1).map(|n| (n / 7) as u8).collect();
        for length in [
            0,
            1,
            BLOCK - 1,
            BLOCK,
            BLOCK + 1,
            3 * BLOCK,
            16 * BLOCK,
            content.len(),
        ] {
            let content = &content[..length];
            let blocks: Vec<_> = content.chunks(BLOCK).collect();
            let expected: Vec<_> = blocks.iter().map(|block| leaf(block)).collect();
            assert_eq!(leaves(&blocks), expected, "{length} bytes");
            let mut extended = vec![pad(3)];
            extend_leaves(&mut extended, content);
            assert_eq!(extended[0], pad(3));
            assert_eq!(extended[1..], expected, "{length} bytes");
        }
    }

    #[test]
    fn folding_agrees_with_the_definition() {
        let hashes: Vec<_> = (0..600u16).map(|n| leaf(&n.to_le_bytes())).collect();
        let counts = (0..=33).chain([
            63, 64, 65, 127, 128, 129, 130, 255, 256, 257, 511, 512, 513, 600,
        ]);
        for count in counts {
            let lowest = tree_height(count as u64);
            for height in lowest..8.max(lowest + 3) {
                for layer in [0, 1, 5] {
                    assert_eq!(
                        fold(&hashes[..count], layer, height),
                        naive(&hashes[..count], layer, height),
                        "{count} nodes at {layer}, {height} up"
                    );
                }
            }
        }
    }

    #[test]
    fn heights() {
        for (blocks, height) in [
            (0, 0),
            (1, 0),
            (2, 1),
            (3, 2),
            (4, 2),
            (5, 3),
            (1 << 35, 35),
        ] {
            assert_eq!(tree_height(blocks), height, "{blocks}");
        }
        assert_eq!(tree_height((1 << 35) + 1), 36);
        assert_eq!(tree_height(u64::MAX), 64);
    }

    #[test]
    fn folding_nothing_or_very_high_gives_padding() {
        assert_eq!(fold(&[], 0, 0), MerkleHash::ZERO);
        assert_eq!(fold(&[], 2, 3), pad(5));
        let one = leaf(b"x");
        let mut node = one;
        for layer in 0..80 {
            node = parent(&node, &pad(layer));
        }
        assert_eq!(fold(&[one], 0, 80), node);
    }
}
