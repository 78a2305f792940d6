//! Torrents whose blocks are named by their hashes only.

use std::ops::Range;
use std::sync::Arc;

use bittorrent_engine::{Content, HeldLeaves};
use bittorrent_protocol::merkle::{self, HashRequest};
use bittorrent_protocol::metainfo::PieceLayer;
use bittorrent_protocol::{
    BLOCK_LEN, BlockIndex, BlockSet, InfoHashV1, InfoHashV2, InfoHashes, Layout, MerkleHash,
    PieceIndex, PieceLength,
};

pub(crate) const BLOCK: u64 = BLOCK_LEN as u64;

/// A torrent with everything that is true about it.
pub(crate) struct Torrent {
    pub(crate) layout: Arc<Layout>,
    pub(crate) info: Vec<u8>,
    pub(crate) layers: Vec<Option<Arc<PieceLayer>>>,
    /// The leaves of each file.
    leaves: Vec<Vec<MerkleHash>>,
}

impl Torrent {
    /// Files of these lengths in bytes; `piece_blocks` is a power of two.
    pub(crate) fn new(piece_blocks: u64, files: &[u64]) -> Arc<Self> {
        let piece_length = PieceLength::new(piece_blocks * BLOCK).unwrap();
        let leaves: Vec<Vec<MerkleHash>> = (0_u64..)
            .zip(files)
            .map(|(file, length)| {
                (0..length.div_ceil(BLOCK))
                    .map(|n| merkle::leaf(format!("{file}:{n}").as_bytes()))
                    .collect()
            })
            .collect();
        let spans = files.iter().zip(&leaves).map(|(length, leaves)| {
            (
                *length,
                (*length > 0).then(|| merkle::file_root_from_leaves(leaves)),
            )
        });
        let layout = Arc::new(Layout::new(piece_length, spans).unwrap());
        let layers = layout
            .files()
            .iter()
            .zip(&leaves)
            .map(|(span, leaves)| {
                (span.pieces() > 1).then(|| {
                    let hashes = merkle::piece_layer_from_leaves(leaves, piece_length);
                    Arc::new(PieceLayer::new(span, piece_length, hashes).unwrap())
                })
            })
            .collect();
        // Any bytes do: the engine never looks into them.
        let info = (0..40_000_u32)
            .flat_map(|n| (n ^ files.len() as u32).to_le_bytes())
            .collect();
        Arc::new(Self {
            layout,
            info,
            layers,
            leaves,
        })
    }

    pub(crate) fn hashes(&self) -> InfoHashes {
        InfoHashes {
            v2: InfoHashV2::of_info(&self.info),
            v1: Some(InfoHashV1::of_info(&self.info)),
        }
    }

    pub(crate) fn blocks(&self) -> impl Iterator<Item = BlockIndex> + '_ {
        self.layout
            .piece_indices()
            .flat_map(|piece| self.layout.blocks(piece))
    }

    pub(crate) fn piece(&self, number: u32) -> PieceIndex {
        self.layout.piece(number).unwrap()
    }

    /// The true hash of a block.
    pub(crate) fn leaf(&self, block: BlockIndex) -> MerkleHash {
        let file = self.layout.file_of(block.piece());
        let before = self.layout.offset_in_file(block.piece()) / BLOCK;
        self.leaves[file.as_usize()][before as usize + usize::from(block.in_piece())]
    }

    /// What a peer that has all of it answers to a hash request.
    pub(crate) fn hashes_for(&self, request: &HashRequest) -> Option<Vec<MerkleHash>> {
        let (span, leaves) = self
            .layout
            .files()
            .iter()
            .zip(&self.leaves)
            .find(|(span, _)| span.root() == Some(request.root))?;
        let nodes = |layer: u8, range: Range<u64>| {
            let nodes = range.map(|index| {
                let first = (index << layer) as usize;
                let end = ((index + 1) << layer).min(leaves.len() as u64) as usize;
                merkle::fold(&leaves[first..end], 0, layer)
            });
            Ok::<_, std::convert::Infallible>(Some(nodes.collect()))
        };
        request.validate(span).ok()?.respond(nodes).unwrap()
    }

    /// The leaves of these blocks, by piece.
    pub(crate) fn held_leaves(&self, has: impl Fn(BlockIndex) -> bool) -> Vec<HeldLeaves> {
        let leaves = |piece| {
            let blocks = self.layout.blocks(piece).filter(|block| has(*block));
            blocks.map(|b| (b.in_piece(), self.leaf(b))).collect()
        };
        let pieces = self.layout.piece_indices();
        pieces
            .map(|piece| HeldLeaves {
                piece,
                leaves: leaves(piece),
            })
            .collect()
    }

    /// The pieces whose leaves a request asks for.
    pub(crate) fn pieces_of(&self, request: &HashRequest) -> Vec<PieceIndex> {
        let files = self.layout.files().iter();
        files
            .filter(|span| span.root() == Some(request.root))
            .flat_map(|span| span.piece_indices())
            .filter(|piece| {
                let first = self.layout.offset_in_file(*piece) / BLOCK;
                let end = first + u64::from(self.layout.block_count(*piece));
                let asked = u64::from(request.index) << request.base
                    ..u64::from(request.index + request.count) << request.base;
                first < asked.end && asked.start < end
            })
            .collect()
    }

    /// The content as a store with these pieces would tell it.
    pub(crate) fn content(&self, with_layers: bool, has: impl Fn(BlockIndex) -> bool) -> Content {
        let mut verified = BlockSet::new(&self.layout);
        for block in self.blocks().filter(|block| has(*block)) {
            verified.insert(block);
        }
        Content {
            layout: Arc::clone(&self.layout),
            layers: if with_layers {
                self.layers.clone()
            } else {
                vec![None; self.layers.len()]
            },
            verified,
            leaves: Vec::new(),
            reuse: false,
        }
    }
}
