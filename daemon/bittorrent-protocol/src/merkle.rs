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
use crate::units::{PieceIndex, PieceLength};

pub use request::{CheckedRequest, HashRequest, MAX_HASH_COUNT, ProofFault, RequestFault};

/// The hash of one block: its content at its true length, 1 to 16384 bytes.
pub fn leaf(block: &[u8]) -> MerkleHash {
    MerkleHash::from_bytes(Sha256::digest(block).into())
}

/// The node above two nodes.
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

/// The node of a layer that covers no content: all zero for leaves, above them what hashing
/// padding only gives.
pub fn pad(layer: u8) -> MerkleHash {
    PADS[usize::from(layer)]
}

/// How many layers the root stands above the leaves in the tree of a file of so many blocks: 0 for
/// a single block, else the power of two that holds them all.
pub const fn tree_height(blocks: u64) -> u8 {
    match blocks {
        0 | 1 => 0,
        // At most 64.
        _ => (u64::BITS - (blocks - 1).leading_zeros()) as u8,
    }
}

/// Folds neighbouring nodes into the node `height` layers above them.
///
/// `hashes` are the leftmost nodes that it covers, standing at `layer`; those missing are padding.
/// At most 2^`height` nodes fit below it: more are a caller's error, and ignored.
/// Takes no memory beyond the stack.
pub fn fold(hashes: &[MerkleHash], layer: u8, height: u8) -> MerkleHash {
    let fits = 1usize.checked_shl(height.into()).unwrap_or(usize::MAX);
    debug_assert!(hashes.len() <= fits, "{} nodes, {fits} fit", hashes.len());
    let hashes = hashes.get(..fits).unwrap_or(hashes);

    // `complete[n]` is a complete subtree of height n, waiting for its right neighbour; it waits
    // exactly when bit n of the number of nodes seen so far is set.
    let mut complete = [MerkleHash::ZERO; usize::BITS as usize];
    for (seen, hash) in hashes.iter().enumerate() {
        let merges = seen.trailing_ones() as usize;
        let mut node = *hash;
        for left in &complete[..merges] {
            node = parent(left, &node);
        }
        complete[merges] = node;
    }

    // Close the right edge with padding, from low to high.
    let mut edge: Option<MerkleHash> = None;
    for up in 0..height {
        let waiting = hashes.len().checked_shr(up.into()).unwrap_or(0) & 1 == 1;
        let padding = pad(layer.saturating_add(up));
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
        None if hashes.len() == fits => complete[usize::from(height)],
        None => pad(layer.saturating_add(height)),
    }
}

/// Folds a run of nodes at `layer` into the layer `height` above it; the last node gained is
/// padded. Nodes that cover padding only are not part of the result.
pub fn fold_layer(hashes: &[MerkleHash], layer: u8, height: u8) -> Vec<MerkleHash> {
    let width = 1usize.checked_shl(height.into()).unwrap_or(usize::MAX);
    hashes
        .chunks(width)
        .map(|below| fold(below, layer, height))
        .collect()
}

/// The hash of a piece from all its leaves, in order: the node of the piece layer, or the file's
/// root for a file of at most one piece.
pub fn piece_hash(leaves: &[MerkleHash], layout: &Layout, piece: PieceIndex) -> MerkleHash {
    fold(leaves, 0, piece_height(layout, piece))
}

/// How many layers the hash of a piece stands above its leaves: less than
/// [`PieceLength::layer`] only in files shorter than a piece.
pub fn piece_height(layout: &Layout, piece: PieceIndex) -> u8 {
    let file = layout.file(layout.file_of(piece));
    match file.pieces() {
        0 | 1 => tree_height(file.blocks()),
        _ => layout.piece_length().layer(),
    }
}

/// The root of a file longer than a piece, from its complete piece layer.
pub fn file_root_from_layer(layer: &[MerkleHash], piece_length: PieceLength) -> MerkleHash {
    fold(layer, piece_length.layer(), tree_height(layer.len() as u64))
}

/// The root of a file from all its leaves.
pub fn file_root_from_leaves(leaves: &[MerkleHash]) -> MerkleHash {
    fold(leaves, 0, tree_height(leaves.len() as u64))
}

/// The complete piece layer of a file from all its leaves; to be left out of a torrent when the
/// file has at most one piece.
pub fn piece_layer_from_leaves(
    leaves: &[MerkleHash],
    piece_length: PieceLength,
) -> Vec<MerkleHash> {
    fold_layer(leaves, 0, piece_length.layer())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds every layer of the padded tree: slow, and plainly what BEP 52 says.
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
    fn folding_agrees_with_the_definition() {
        let hashes: Vec<_> = (0..33u8).map(|n| leaf(&[n])).collect();
        for count in 0..=33 {
            for height in tree_height(count as u64)..8 {
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
