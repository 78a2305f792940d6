//! The piece hashes of a torrent: known from the start, or asked of peers in chunks.
//!
//! A chunk is up to 512 neighbouring hashes of a file's piece layer with the uncles that lead to
//! the file's root, so each chunk proves itself before any hash in it is kept (BEP 52, "hash
//! request").

use std::sync::Arc;
use std::time::Instant;

use bittorrent_protocol::merkle::{self, CheckedRequest, HashRequest, ProofFault};
use bittorrent_protocol::metainfo::PieceLayer;
use bittorrent_protocol::{FileIndex, FileSpan, Layout, MerkleHash, PieceIndex};

use crate::pieces::piece_set::PieceSet;

/// Hashes in a chunk.
const CHUNK: u32 = 512;

/// A chunk of a file's piece layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ChunkId {
    pub(crate) file: FileIndex,
    number: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Chunk {
    /// To be requested, from this time on.
    Missing(Option<Instant>),
    /// A peer was asked.
    Asked,
    Known,
}

#[derive(Debug)]
enum FileHashes {
    /// At most one piece: the root is the piece's hash.
    Root(Option<MerkleHash>),
    Known(Arc<PieceLayer>),
    Wanted(Wanted),
}

/// A layer that is not complete.
#[derive(Debug)]
struct Wanted {
    hashes: Vec<MerkleHash>,
    chunks: Vec<Chunk>,
    left: u32,
}

/// The piece hashes of all files.
#[derive(Debug)]
pub(crate) struct Layers {
    files: Vec<FileHashes>,
    /// The files whose layers are not complete, in order.
    wanted: Vec<FileIndex>,
}

/// What a chunk completed.
#[derive(Debug)]
pub(crate) enum LayerProgress {
    /// These pieces' hashes are known now.
    Chunk(std::ops::Range<u32>),
    /// So are these, and with them the file's layer is complete.
    Layer(std::ops::Range<u32>, Arc<PieceLayer>),
    /// They were known already.
    Nothing,
}

impl Layers {
    /// `given` has one entry for each file; files of at most one piece need no layer.
    pub(crate) fn new(layout: &Layout, given: Vec<Option<Arc<PieceLayer>>>) -> Self {
        let mut wanted = Vec::new();
        let files = (0..)
            .zip(layout.files().iter().zip(given))
            .map(|(number, (span, layer))| match layer {
                _ if span.pieces() < 2 => FileHashes::Root(span.root()),
                Some(layer) if layer.hashes().len() == span.pieces() as usize => {
                    FileHashes::Known(layer)
                }
                _ => {
                    wanted.extend(layout.file_index(number));
                    let chunks = span.pieces().div_ceil(CHUNK);
                    FileHashes::Wanted(Wanted {
                        hashes: vec![MerkleHash::ZERO; span.pieces() as usize],
                        chunks: vec![Chunk::Missing(None); chunks as usize],
                        left: chunks,
                    })
                }
            })
            .collect();
        Self { files, wanted }
    }

    /// Every piece's hash is known.
    pub(crate) fn is_complete(&self) -> bool {
        self.wanted.is_empty()
    }

    /// What the leaves of a piece must fold to.
    pub(crate) fn piece_hash(&self, layout: &Layout, piece: PieceIndex) -> Option<MerkleHash> {
        let file = layout.file_of(piece);
        let number = number_in_file(layout.file(file), piece);
        match self.files.get(file.as_usize())? {
            FileHashes::Root(root) => *root,
            FileHashes::Known(layer) => layer.hashes().get(number as usize).copied(),
            FileHashes::Wanted(wanted) => (*wanted.chunks.get((number / CHUNK) as usize)?
                == Chunk::Known)
                .then(|| wanted.hashes.get(number as usize).copied())
                .flatten(),
        }
    }

    /// The next chunk to ask a peer for that has these pieces; it then counts as asked.
    pub(crate) fn ask(
        &mut self,
        layout: &Layout,
        have: &PieceSet,
        now: Instant,
    ) -> Option<(ChunkId, CheckedRequest)> {
        for file in &self.wanted {
            let span = layout.file(*file);
            let Some(FileHashes::Wanted(wanted)) = self.files.get_mut(file.as_usize()) else {
                continue;
            };
            for (number, chunk) in (0..).zip(&mut wanted.chunks) {
                let due = matches!(chunk, Chunk::Missing(from) if from.is_none_or(|at| at <= now));
                let pieces = chunk_pieces(span, number);
                if due
                    && have.any_in(pieces.start, pieces.end)
                    && let Some(request) = chunk_request(layout, span, number)
                {
                    *chunk = Chunk::Asked;
                    let id = ChunkId {
                        file: *file,
                        number,
                    };
                    return Some((id, request));
                }
            }
        }
        None
    }

    /// Returns whether a peer with these pieces could be asked for anything, now or later.
    pub(crate) fn could_use(&self, layout: &Layout, have: &PieceSet) -> bool {
        self.wanted.iter().any(|file| {
            let pieces = piece_range(layout.file(*file));
            have.any_in(pieces.start, pieces.end)
        })
    }

    /// Returns whether a chunk was asked for and is not known yet, and has some of these pieces.
    pub(crate) fn is_asked(&self, layout: &Layout, id: ChunkId, have: &PieceSet) -> bool {
        let pieces = chunk_pieces(layout.file(id.file), id.number);
        let asked = match self.files.get(id.file.as_usize()) {
            Some(FileHashes::Wanted(wanted)) => {
                wanted.chunks.get(id.number as usize) == Some(&Chunk::Asked)
            }
            Some(FileHashes::Root(_) | FileHashes::Known(_)) | None => false,
        };
        asked && have.any_in(pieces.start, pieces.end)
    }

    /// Ends a request for a chunk without an answer; it may be requested again from `after` on.
    pub(crate) fn give_up(&mut self, id: ChunkId, after: Option<Instant>) {
        if let Some(chunk) = self.chunk_mut(id)
            && *chunk == Chunk::Asked
        {
            *chunk = Chunk::Missing(after);
        }
    }

    fn chunk_mut(&mut self, id: ChunkId) -> Option<&mut Chunk> {
        match self.files.get_mut(id.file.as_usize())? {
            FileHashes::Wanted(wanted) => wanted.chunks.get_mut(id.number as usize),
            FileHashes::Root(_) | FileHashes::Known(_) => None,
        }
    }

    /// The answer to a request for a chunk.
    pub(crate) fn answer(
        &mut self,
        layout: &Layout,
        id: ChunkId,
        request: &CheckedRequest,
        hashes: &[MerkleHash],
    ) -> Result<LayerProgress, ProofFault> {
        let span = layout.file(id.file);
        let top = merkle::tree_height(span.blocks());
        let root = span.root();
        let proven = request.verify(hashes, |layer, index| {
            (layer == top && index == 0).then_some(root).flatten()
        })?;
        let Some(FileHashes::Wanted(wanted)) = self.files.get_mut(id.file.as_usize()) else {
            return Ok(LayerProgress::Nothing);
        };
        match wanted.chunks.get_mut(id.number as usize) {
            Some(chunk) if *chunk != Chunk::Known => *chunk = Chunk::Known,
            _ => return Ok(LayerProgress::Nothing),
        }
        let first = (id.number * CHUNK) as usize;
        for (to, from) in wanted.hashes.iter_mut().skip(first).zip(proven) {
            *to = *from;
        }
        wanted.left -= 1;
        let pieces = chunk_pieces(span, id.number);
        if wanted.left > 0 {
            return Ok(LayerProgress::Chunk(pieces));
        }
        let hashes = std::mem::take(&mut wanted.hashes);
        match PieceLayer::new(span, layout.piece_length(), hashes) {
            Ok(layer) => Ok(LayerProgress::Layer(pieces, self.complete(id.file, layer))),
            Err(_) => {
                // Every chunk led to the root, so the whole does too; start over all the same.
                debug_assert!(false, "proven chunks do not make a layer");
                self.start_over(layout, id.file);
                Ok(LayerProgress::Nothing)
            }
        }
    }

    /// Completes a file's layer from hashes that were computed rather than requested. `None` when
    /// they do not fold to the file's root.
    pub(crate) fn complete_by(
        &mut self,
        layout: &Layout,
        file: FileIndex,
        hashes: Vec<MerkleHash>,
    ) -> Option<Arc<PieceLayer>> {
        let layer = PieceLayer::new(layout.file(file), layout.piece_length(), hashes).ok()?;
        Some(self.complete(file, layer))
    }

    fn complete(&mut self, file: FileIndex, layer: PieceLayer) -> Arc<PieceLayer> {
        let layer = Arc::new(layer);
        self.files[file.as_usize()] = FileHashes::Known(Arc::clone(&layer));
        self.wanted.retain(|wanted| *wanted != file);
        layer
    }

    fn start_over(&mut self, layout: &Layout, file: FileIndex) {
        let pieces = layout.file(file).pieces();
        let chunks = pieces.div_ceil(CHUNK);
        self.files[file.as_usize()] = FileHashes::Wanted(Wanted {
            hashes: vec![MerkleHash::ZERO; pieces as usize],
            chunks: vec![Chunk::Missing(None); chunks as usize],
            left: chunks,
        });
    }

    /// Returns whether a file's layer is not complete.
    pub(crate) fn is_wanted(&self, file: FileIndex) -> bool {
        self.wanted.contains(&file)
    }
}

/// The pieces of a file in the torrent.
pub(crate) fn piece_range(span: &FileSpan) -> std::ops::Range<u32> {
    let first = span.piece_indices().next().map_or(0, PieceIndex::get);
    first..first + span.pieces()
}

/// Which piece of its file a piece is.
fn number_in_file(span: &FileSpan, piece: PieceIndex) -> u32 {
    piece.get() - piece_range(span).start
}

/// The pieces of a chunk in the torrent.
fn chunk_pieces(span: &FileSpan, number: u32) -> std::ops::Range<u32> {
    let pieces = piece_range(span);
    let first = pieces.start + number * CHUNK;
    first..pieces.end.min(first + CHUNK)
}

/// Always proven by the root, which is known from the start; the few uncles more that this takes
/// weigh nothing beside 512 hashes.
fn chunk_request(layout: &Layout, span: &FileSpan, number: u32) -> Option<CheckedRequest> {
    let left = span.pieces() - number * CHUNK;
    HashRequest::anchored(
        span,
        layout.piece_length().layer(),
        number * CHUNK,
        // Never a single hash: clients disagree about its proof.
        left.next_power_of_two().clamp(2, CHUNK),
        merkle::tree_height(span.blocks()),
    )
    .ok()
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to start from"
)]
mod tests {
    use std::convert::Infallible;
    use std::time::Duration;

    use bittorrent_protocol::PieceLength;

    use super::*;

    /// Files of so many one-block pieces, with their leaves.
    fn torrent(files: &[usize]) -> (Layout, Vec<Vec<MerkleHash>>) {
        let leaves: Vec<Vec<_>> = files
            .iter()
            .map(|pieces| {
                (0..*pieces)
                    .map(|n| merkle::leaf(format!("{pieces}:{n}").as_bytes()))
                    .collect()
            })
            .collect();
        let spans = leaves.iter().map(|leaves| {
            let root = merkle::file_root_from_leaves(leaves);
            (leaves.len() as u64 * 16_384, Some(root))
        });
        (Layout::new(PieceLength::MIN, spans).unwrap(), leaves)
    }

    fn answer(request: &CheckedRequest, leaves: &[MerkleHash]) -> Vec<MerkleHash> {
        request
            .respond(|layer, range| {
                let nodes = range.map(|index| {
                    let first = (index << layer) as usize;
                    let end = leaves.len().min(((index + 1) << layer) as usize);
                    merkle::fold(&leaves[first..end], 0, layer)
                });
                Ok::<_, Infallible>(Some(nodes.collect()))
            })
            .unwrap()
            .unwrap()
    }

    #[test]
    fn chunks_cover_the_layer_and_each_proves_itself() {
        for pieces in [2, 3, 511, 512, 513, 1_024, 1_025, 1_500] {
            let (layout, leaves) = torrent(&[1, pieces]);
            let mut layers = Layers::new(&layout, vec![None, None]);
            let have = PieceSet::full(layout.piece_count());
            let now = Instant::now();
            // A file of one piece needs no layer.
            let first = layout.piece(0).unwrap();
            assert_eq!(layers.piece_hash(&layout, first), Some(leaves[0][0]));
            let mut asked = Vec::new();
            while let Some((id, request)) = layers.ask(&layout, &have, now) {
                let count = request.request().count;
                assert!(count.is_power_of_two() && (2..=512).contains(&count));
                asked.push((id, request));
            }
            assert_eq!(asked.len(), pieces.div_ceil(512));
            let last = asked.len() - 1;
            for (n, (id, request)) in asked.into_iter().enumerate() {
                assert!(!layers.is_complete());
                let hashes = answer(&request, &leaves[1]);
                let mut wrong = hashes.clone();
                wrong[1] = merkle::leaf(b"wrong");
                assert!(layers.answer(&layout, id, &request, &wrong).is_err());
                let piece = layout.piece(1 + n as u32 * 512).unwrap();
                assert_eq!(layers.piece_hash(&layout, piece), None);
                match layers.answer(&layout, id, &request, &hashes).unwrap() {
                    LayerProgress::Chunk(range) => {
                        assert!(n < last && range.len() == 512);
                    }
                    LayerProgress::Layer(range, layer) => {
                        assert!(n == last && range.end == layout.piece_count());
                        assert_eq!(layer.hashes(), leaves[1]);
                    }
                    LayerProgress::Nothing => panic!("a chunk was known already"),
                }
                assert_eq!(layers.piece_hash(&layout, piece), Some(leaves[1][n * 512]));
                assert!(matches!(
                    layers.answer(&layout, id, &request, &hashes),
                    Ok(LayerProgress::Nothing)
                ));
            }
            assert!(layers.is_complete());
        }
    }

    #[test]
    fn only_peers_with_pieces_of_a_chunk_are_asked_and_failures_wait() {
        let (layout, _) = torrent(&[1_000, 600]);
        let mut layers = Layers::new(&layout, vec![None, None]);
        let now = Instant::now();
        let mut have = PieceSet::new(layout.piece_count());
        assert!(layers.ask(&layout, &have, now).is_none());
        assert!(!layers.could_use(&layout, &have));
        have.insert(layout.piece(1_599).unwrap());
        let (id, request) = layers.ask(&layout, &have, now).unwrap();
        assert_eq!((id.file.get(), request.request().index), (1, 512));
        assert!(layers.ask(&layout, &have, now).is_none());
        let later = now + Duration::from_secs(5);
        layers.give_up(id, Some(later));
        assert!(layers.ask(&layout, &have, now).is_none());
        assert!(layers.ask(&layout, &have, later).is_some());
    }

    #[test]
    fn computed_hashes_count_only_when_they_fold_to_the_root() {
        let (layout, leaves) = torrent(&[40]);
        let mut layers = Layers::new(&layout, vec![None]);
        let file = layout.file_index(0).unwrap();
        let mut wrong = leaves[0].clone();
        wrong.swap(3, 4);
        assert!(layers.complete_by(&layout, file, wrong).is_none());
        assert!(layers.is_wanted(file));
        let layer = layers
            .complete_by(&layout, file, leaves[0].clone())
            .unwrap();
        assert_eq!(layer.hashes(), leaves[0]);
        assert!(layers.is_complete());
    }
}
