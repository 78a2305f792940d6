//! The piece layer of a file (BEP 52, "piece layers").

use crate::hash::MerkleHash;
use crate::layout::FileSpan;
use crate::merkle::{fold_layer, pad, tree_height};
use crate::units::PieceLength;

/// Hashes are not the piece layer of a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayerError {
    /// Files of at most one piece have no piece layer: their root is their only piece hash.
    #[error("a file of {length} bytes has no piece layer with pieces of {piece_length} bytes")]
    NoLayer {
        /// The file's length in bytes.
        length: u64,
        /// The piece length in use.
        piece_length: PieceLength,
    },
    /// There must be one hash for each piece of the file.
    #[error("{found} piece hashes for a file of {expected} pieces")]
    Count {
        /// The number of hashes.
        found: usize,
        /// Pieces of the file.
        expected: u32,
    },
    /// A piece hash is all zero, which no hash is.
    #[error("piece hash {index} of the file is zero")]
    Zero {
        /// The piece, counted in the file.
        index: usize,
    },
    /// The hashes do not fold to the file's root.
    #[error("the piece hashes give the root {found}, not {expected}")]
    Root {
        /// What the hashes fold to.
        found: MerkleHash,
        /// The file's root.
        expected: MerkleHash,
    },
}

/// The complete piece hashes of one file longer than a piece, proven against the file's root when
/// they were taken in. Takes 64 bytes of memory for each piece: the nodes above are kept too,
/// so that answers to hash requests need no hashing.
#[derive(Clone, PartialEq, Eq)]
pub struct PieceLayer {
    piece_length: PieceLength,
    root: MerkleHash,
    /// From the piece layer up to the root; nodes that are padding only are left out.
    layers: Vec<Vec<MerkleHash>>,
}

impl PieceLayer {
    /// Takes the piece hashes of a file, in order and without padding.
    pub fn new(
        file: &FileSpan,
        piece_length: PieceLength,
        hashes: Vec<MerkleHash>,
    ) -> Result<Self, LayerError> {
        let expected = match file.root() {
            Some(root) if file.length() > piece_length.bytes().into() => root,
            _ => {
                return Err(LayerError::NoLayer {
                    length: file.length(),
                    piece_length,
                });
            }
        };
        if hashes.len() != file.pieces() as usize {
            return Err(LayerError::Count {
                found: hashes.len(),
                expected: file.pieces(),
            });
        }
        if let Some(index) = hashes.iter().position(|hash| *hash == MerkleHash::ZERO) {
            return Err(LayerError::Zero { index });
        }
        let bottom = piece_length.layer();
        let mut layers = vec![hashes];
        for up in 0..tree_height(file.pieces().into()) {
            let above = fold_layer(&layers[usize::from(up)], bottom + up, 1);
            layers.push(above);
        }
        // The last layer folded has one node: the height is that of the tree above the pieces.
        let root = layers[layers.len() - 1][0];
        if root != expected {
            return Err(LayerError::Root {
                found: root,
                expected,
            });
        }
        Ok(Self {
            piece_length,
            root,
            layers,
        })
    }

    /// The piece hashes in order, without padding.
    pub fn hashes(&self) -> &[MerkleHash] {
        &self.layers[0]
    }

    /// The root of the file.
    pub const fn root(&self) -> MerkleHash {
        self.root
    }

    /// The piece length the layer was made for.
    pub const fn piece_length(&self) -> PieceLength {
        self.piece_length
    }

    /// A node of the file's tree at the piece layer or above it, padding included; `layer` counts
    /// from the leaves. `None` below the piece layer, and where the tree has no such node.
    pub fn node(&self, layer: u8, index: u64) -> Option<MerkleHash> {
        let up = layer.checked_sub(self.piece_length.layer())?;
        let nodes = self.layers.get(usize::from(up))?;
        // The padded layer doubles in width with each layer below the root.
        let width = 1u64 << (self.layers.len() - 1 - usize::from(up));
        (index < width).then(|| {
            usize::try_from(index)
                .ok()
                .and_then(|index| nodes.get(index).copied())
                .unwrap_or_else(|| pad(layer))
        })
    }
}

impl std::fmt::Debug for PieceLayer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "PieceLayer({} pieces, root {})",
            self.layers[0].len(),
            self.root
        )
    }
}
