//! Torrents without content: a block is known by its hash only.

use std::ops::Range;
use std::sync::Arc;

use bittorrent_engine::{Content, PieceLeaves};
use bittorrent_protocol::merkle::{self, HashRequest};
use bittorrent_protocol::metainfo::{LayerError, PieceLayer};
use bittorrent_protocol::{
    BLOCK_LEN, BlockIndex, BlockSet, InfoHashV1, InfoHashV2, InfoHashes, Layout, LayoutError,
    MerkleHash, PieceIndex, PieceLength,
};

/// Bytes in a block.
pub const BLOCK: u64 = BLOCK_LEN as u64;

/// Why a torrent cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum TorrentError {
    /// The piece length is not one.
    #[error("{blocks} blocks are no piece length: it takes a power of two, at most 2^16")]
    PieceLength {
        /// Blocks in a piece.
        blocks: u64,
    },
    /// The files are none, or too many or too long.
    #[error("no torrent has such files")]
    Layout(#[from] LayoutError),
    /// A file's piece layer does not fit it.
    #[error("a piece layer does not fit its file")]
    Layer(#[from] LayerError),
}

/// A torrent with everything that is true about it. The leaf hash of a block is that of the block's
/// name, the hashes above are those of BEP 52: 32 bytes a block, shared by all nodes.
#[derive(Debug)]
pub struct SyntheticTorrent {
    /// Its piece space.
    pub layout: Arc<Layout>,
    /// Bytes that stand for the info dictionary: engines do not read them.
    pub info: Vec<u8>,
    /// The piece layers of files of more than a piece.
    pub layers: Vec<Option<Arc<PieceLayer>>>,
    /// The nodes of each file's tree, by layer from the leaves up; those between leaves and pieces
    /// are left out.
    nodes: Vec<Vec<Vec<MerkleHash>>>,
}

impl SyntheticTorrent {
    /// Files of these lengths in bytes; `piece_blocks` is a power of two.
    pub fn new(piece_blocks: u64, files: &[u64]) -> Result<Arc<Self>, TorrentError> {
        let refused = TorrentError::PieceLength {
            blocks: piece_blocks,
        };
        let length = piece_blocks.checked_mul(BLOCK);
        let piece_length = length
            .and_then(|n| PieceLength::new(n).ok())
            .ok_or(refused)?;
        let leaves: Vec<Vec<MerkleHash>> = (0_u64..)
            .zip(files)
            .map(|(file, length)| (0..length.div_ceil(BLOCK)).map(|n| leaf(file, n)).collect())
            .collect();
        let nodes: Vec<_> = leaves
            .into_iter()
            .map(|leaves| tree(leaves, piece_length.layer()))
            .collect();
        let spans = files.iter().zip(&nodes).map(|(length, nodes)| {
            let root = nodes.last().and_then(|top| top.first());
            (*length, root.copied().filter(|_| *length > 0))
        });
        let layout = Arc::new(Layout::new(piece_length, spans)?);
        let layers = layout
            .files()
            .iter()
            .zip(&nodes)
            .map(|(span, nodes)| {
                let hashes = nodes.get(usize::from(piece_length.layer()));
                let hashes = hashes.filter(|_| span.pieces() > 1);
                hashes
                    .map(|hashes| PieceLayer::new(span, piece_length, hashes.clone()).map(Arc::new))
                    .transpose()
            })
            .collect::<Result<_, _>>()?;
        let info = (0..40_000_u32)
            .flat_map(|n| (n ^ files.len() as u32).to_le_bytes())
            .collect();
        Ok(Arc::new(Self {
            layout,
            info,
            layers,
            nodes,
        }))
    }

    /// Its info-hashes: a hybrid's.
    pub fn hashes(&self) -> InfoHashes {
        InfoHashes {
            v2: InfoHashV2::of_info(&self.info),
            v1: Some(InfoHashV1::of_info(&self.info)),
        }
    }

    /// All blocks, in the order of the content.
    pub fn blocks(&self) -> impl Iterator<Item = BlockIndex> + '_ {
        self.layout
            .piece_indices()
            .flat_map(|piece| self.layout.blocks(piece))
    }

    /// The true hash of a block.
    pub fn leaf(&self, block: BlockIndex) -> MerkleHash {
        let file = self.layout.file_of(block.piece());
        let before = self.layout.offset_in_file(block.piece()) / BLOCK;
        self.nodes[file.as_usize()][0][before as usize + usize::from(block.in_piece())]
    }

    /// What a peer that has all of it answers to a hash request.
    pub fn hashes_for(&self, request: &HashRequest) -> Option<Vec<MerkleHash>> {
        let (span, layers) = self
            .layout
            .files()
            .iter()
            .zip(&self.nodes)
            .find(|(span, _)| span.root() == Some(request.root))?;
        let leaves = layers.first()?;
        let nodes = |layer: u8, range: Range<u64>| {
            if let Some(known) = layers.get(usize::from(layer)).filter(|l| !l.is_empty()) {
                let known = known.get(range.start as usize..range.end as usize);
                return Ok::<_, std::convert::Infallible>(known.map(<[_]>::to_vec));
            }
            let below = |index: u64| {
                let end = ((index + 1) << layer).min(leaves.len() as u64) as usize;
                leaves.get((index << layer) as usize..end)
            };
            let nodes = range.map(|index| below(index).map(|below| merkle::fold(below, 0, layer)));
            Ok(nodes.collect())
        };
        match request.validate(span).ok()?.respond(nodes) {
            Ok(hashes) => hashes,
            Err(never) => match never {},
        }
    }

    /// The leaves of these blocks, by piece.
    pub fn held_leaves(&self, has: impl Fn(BlockIndex) -> bool) -> Vec<PieceLeaves> {
        let leaves = |piece| {
            let blocks = self.layout.blocks(piece).filter(|block| has(*block));
            blocks.map(|b| (b.in_piece(), self.leaf(b))).collect()
        };
        let pieces = self.layout.piece_indices();
        pieces
            .map(|piece| PieceLeaves {
                piece,
                leaves: leaves(piece),
            })
            .collect()
    }

    /// The pieces whose leaves a request asks for.
    pub fn pieces_of(&self, request: &HashRequest) -> Vec<PieceIndex> {
        let in_piece = u64::from(self.layout.piece_length().blocks());
        let first = u64::from(request.index) << request.base.min(32);
        let end = (u64::from(request.index) + u64::from(request.count)) << request.base.min(32);
        let pieces = (first / in_piece) as usize..end.div_ceil(in_piece) as usize;
        let files = self.layout.files().iter();
        files
            .filter(|span| span.root() == Some(request.root))
            .flat_map(|span| span.piece_indices().take(pieces.end).skip(pieces.start))
            .collect()
    }

    /// Returns the content as a store with these blocks reports it.
    pub fn content(&self, with_layers: bool, has: impl Fn(BlockIndex) -> bool) -> Content {
        let mut verified = BlockSet::new(&self.layout);
        for block in self.blocks().filter(|block| has(*block)) {
            verified.insert(block);
        }
        self.content_of(with_layers, verified)
    }

    /// Returns the content as a store with these blocks reports it.
    pub fn content_of(&self, with_layers: bool, verified: BlockSet) -> Content {
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

/// The hash of a block's name.
fn leaf(file: u64, number: u64) -> MerkleHash {
    let mut name = [0; 16];
    name[..8].copy_from_slice(&file.to_le_bytes());
    name[8..].copy_from_slice(&number.to_le_bytes());
    merkle::leaf(&name)
}

/// All nodes of a file's tree, by layer; the layers between leaves and pieces are empty.
fn tree(leaves: Vec<MerkleHash>, piece_layer: u8) -> Vec<Vec<MerkleHash>> {
    let height = merkle::tree_height(leaves.len() as u64);
    let mut layers = vec![leaves];
    for layer in 1..=height {
        let nodes = if layer < piece_layer.min(height) {
            Vec::new()
        } else if layer <= piece_layer {
            merkle::fold_layer(&layers[0], 0, layer)
        } else {
            merkle::fold_layer(&layers[usize::from(layer) - 1], layer - 1, 1)
        };
        layers.push(nodes);
    }
    layers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_proves_itself() {
        for (piece_blocks, blocks) in [(1, 1), (1, 5), (4, 3), (4, 4), (4, 13), (8, 100)] {
            let torrent = SyntheticTorrent::new(piece_blocks, &[0, blocks * BLOCK - 1]).unwrap();
            let span = &torrent.layout.files()[1];
            let height = merkle::tree_height(blocks);
            for base in 0..height {
                let count = 2;
                for index in (0..(1_u32 << (height - base))).step_by(2) {
                    let request = HashRequest::anchored(span, base, index, count, height).unwrap();
                    if request.content().is_empty() {
                        continue;
                    }
                    let hashes = torrent.hashes_for(&request.request()).unwrap();
                    let root = |layer: u8, _| (layer == height).then(|| span.root().unwrap());
                    assert!(
                        request.verify(&hashes, root).is_ok(),
                        "{blocks}: {request:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_pieces_of_a_request_are_those_its_leaves_are_in() {
        let torrent = SyntheticTorrent::new(4, &[3 * BLOCK, 13 * BLOCK]).unwrap();
        let request = |base, index, count| HashRequest {
            root: torrent.layout.files()[1].root().unwrap(),
            base,
            index,
            count,
            proof_layers: 0,
        };
        let pieces = |request| {
            let pieces = torrent.pieces_of(&request).into_iter();
            pieces.map(PieceIndex::get).collect::<Vec<_>>()
        };
        assert_eq!(pieces(request(0, 0, 4)), [1]);
        assert_eq!(pieces(request(0, 4, 8)), [2, 3]);
        assert_eq!(pieces(request(2, 2, 2)), [3, 4]);
        assert_eq!(pieces(request(0, 16, 4)), []);
    }
}
