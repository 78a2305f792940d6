//! Folds leaf hashes to a piece layer and a root.

use std::collections::BTreeMap;

use bittorrent_protocol::{MerkleHash, PieceLength, PieceSha1, merkle};

use crate::error::StoreError;

/// The hashes of a part of a file.
#[derive(Debug, Default)]
pub(super) struct Hashed {
    pub(super) leaves: Vec<MerkleHash>,
    /// The hashes of the v1 pieces that end in the part.
    pub(super) v1_pieces: Vec<PieceSha1>,
}

/// The receiver of the leaf hashes of a file, in order.
pub(super) type LeafSink<'a> = &'a mut dyn FnMut(&[MerkleHash]) -> Result<(), StoreError>;

/// Orders the hashes of parts and folds leaves to piece hashes. Keeps the leaves of one piece and
/// of parts that arrive early.
pub(super) struct Folder<'a> {
    piece_length: PieceLength,
    sink: LeafSink<'a>,
    next: u64,
    early: BTreeMap<u64, Hashed>,
    piece: Vec<MerkleHash>,
    layer: Vec<MerkleHash>,
    v1_pieces: Vec<PieceSha1>,
}

/// The hashes of a whole file.
#[derive(Debug, Default)]
pub(super) struct Folded {
    /// `None` for an empty file.
    pub(super) root: Option<MerkleHash>,
    /// Empty for files of at most one piece.
    pub(super) layer: Vec<MerkleHash>,
    pub(super) v1_pieces: Vec<PieceSha1>,
}

impl<'a> Folder<'a> {
    pub(super) fn new(piece_length: PieceLength, sink: LeafSink<'a>) -> Self {
        Self {
            piece_length,
            sink,
            next: 0,
            early: BTreeMap::new(),
            piece: Vec::new(),
            layer: Vec::new(),
            v1_pieces: Vec::new(),
        }
    }

    /// Takes the hashes of a part; the parts are numbered from zero.
    pub(super) fn take(&mut self, number: u64, hashed: Hashed) -> Result<(), StoreError> {
        self.early.insert(number, hashed);
        while let Some(hashed) = self.early.remove(&self.next) {
            self.next += 1;
            (self.sink)(&hashed.leaves)?;
            for leaf in hashed.leaves {
                // Folded only when the next piece starts: a file of one piece has a tree of its own
                // height.
                if self.piece.len() == self.piece_length.blocks() as usize {
                    self.fold();
                }
                self.piece.push(leaf);
            }
            self.v1_pieces.extend(hashed.v1_pieces);
        }
        Ok(())
    }

    fn fold(&mut self) {
        let height = self.piece_length.layer();
        self.layer.push(merkle::fold(&self.piece, 0, height));
        self.piece.clear();
    }

    pub(super) fn finish(mut self) -> Folded {
        if self.piece.is_empty() {
            return Folded::default();
        }
        if self.layer.is_empty() {
            return Folded {
                root: Some(merkle::file_root_from_leaves(&self.piece)),
                layer: Vec::new(),
                v1_pieces: self.v1_pieces,
            };
        }
        self.fold();
        Folded {
            root: Some(merkle::file_root_from_layer(&self.layer, self.piece_length)),
            layer: self.layer,
            v1_pieces: self.v1_pieces,
        }
    }
}
