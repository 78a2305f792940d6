//! A torrent of which everything is known, its content being hashes only.

use std::sync::Arc;

use bittorrent_engine::{Content, PieceLeaves};
use bittorrent_protocol::merkle::{HashRequest, leaf, piece_layer_from_leaves};
use bittorrent_protocol::metainfo::PieceLayer;
use bittorrent_protocol::{
    BLOCK_LEN, BlockIndex, BlockSet, InfoHashV1, InfoHashV2, InfoHashes, Layout, MerkleHash,
    PieceLength,
};

use crate::input::Input;
use crate::merkle::{answer, tree};

pub(super) struct Truth {
    pub(super) layout: Arc<Layout>,
    pub(super) info: Vec<u8>,
    pub(super) layers: Vec<Option<Arc<PieceLayer>>>,
    /// For each file all layers of its tree, from the leaves up.
    trees: Vec<Vec<Vec<MerkleHash>>>,
}

impl Truth {
    /// One to three files of at most 20 blocks, in pieces of 1 to 8 blocks.
    pub(super) fn new(input: &mut Input<'_>, salt: u8) -> Self {
        let piece_length = PieceLength::new(u64::from(BLOCK_LEN) << (input.u8() % 4))
            .expect("a power of two in range");
        let lengths: Vec<u64> = (0..=input.u8() % 3)
            .map(|_| 1 + (u64::from(input.u16()) * 5) % (20 * u64::from(BLOCK_LEN)))
            .collect();
        let trees: Vec<_> = (0_u8..)
            .zip(&lengths)
            .map(|(file, length)| {
                let blocks = length.div_ceil(BLOCK_LEN.into()) as u8;
                tree((0..blocks).map(|n| leaf(&[salt, file, n])).collect())
            })
            .collect();
        let roots = trees.iter().map(|layers| layers[layers.len() - 1][0]);
        let files = lengths.iter().copied().zip(roots.map(Some));
        let layout = Layout::new(piece_length, files).expect("some content");
        let layers = layout
            .files()
            .iter()
            .zip(&trees)
            .map(|(span, tree)| {
                (span.pieces() > 1).then(|| {
                    let leaves = &tree[0][..span.blocks() as usize];
                    let hashes = piece_layer_from_leaves(leaves, piece_length);
                    let layer = PieceLayer::new(span, piece_length, hashes);
                    Arc::new(layer.expect("the layer of this very tree"))
                })
            })
            .collect();
        Self {
            layout: Arc::new(layout),
            // Any bytes do: the engine does not look into them.
            info: vec![salt; 1 + usize::from(input.u16()) % 40_000],
            layers,
            trees,
        }
    }

    pub(super) fn hashes(&self) -> InfoHashes {
        InfoHashes {
            v2: InfoHashV2::of_info(&self.info),
            v1: Some(InfoHashV1::of_info(&self.info)),
        }
    }

    pub(super) fn blocks(&self) -> Vec<BlockIndex> {
        let pieces = self.layout.piece_indices();
        pieces.flat_map(|piece| self.layout.blocks(piece)).collect()
    }

    pub(super) fn leaf(&self, block: BlockIndex) -> MerkleHash {
        let file = self.layout.file_of(block.piece());
        let before = self.layout.offset_in_file(block.piece()) / u64::from(BLOCK_LEN);
        self.trees[file.as_usize()][0][before as usize + usize::from(block.in_piece())]
    }

    /// The true answer to a request that makes sense.
    pub(super) fn answer(&self, request: &HashRequest) -> Option<Vec<MerkleHash>> {
        let mut files = self.layout.files().iter().zip(&self.trees);
        let (span, tree) = files.find(|(span, _)| span.root() == Some(request.root))?;
        request.validate(span).ok()?;
        Some(answer(request, tree))
    }

    /// The content when these blocks are on disk, with their leaves, so that none is dropped.
    pub(super) fn content(&self, with_layers: bool, held: &[BlockIndex]) -> Content {
        let mut verified = BlockSet::new(&self.layout);
        let mut leaves: Vec<PieceLeaves> = Vec::new();
        for block in held {
            verified.insert(*block);
            let leaf = (block.in_piece(), self.leaf(*block));
            match leaves.last_mut() {
                Some(last) if last.piece == block.piece() => last.leaves.push(leaf),
                _ => leaves.push(PieceLeaves {
                    piece: block.piece(),
                    leaves: vec![leaf],
                }),
            }
        }
        Content {
            layout: Arc::clone(&self.layout),
            layers: match with_layers {
                true => self.layers.clone(),
                false => vec![None; self.layers.len()],
            },
            verified,
            leaves,
            reuse: false,
        }
    }
}
