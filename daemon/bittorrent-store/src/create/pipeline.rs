//! Hashing a stream in one pass: one thread reads and writes, others hash what it has read.

use std::collections::BTreeMap;
use std::io::{IoSlice, Read};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use bittorrent_protocol::metainfo::{HashedContent, v1_pads_tail};
use bittorrent_protocol::{BLOCK_LEN, MerkleHash, PieceLength, PieceSha1, merkle};
use crossbeam_channel::{Receiver, Sender, bounded};
use sha1::{Digest as _, Sha1};

use super::{Cut, Progress, Shape};
use crate::error::StoreError;
use crate::io::IoFile;

/// Bytes handed to the hashing threads at once; every piece length divides it or is a multiple.
const CHUNK: usize = 1 << 20;

/// Chunks that exist at once: all the memory this takes, beside one leaf hash a block of one piece.
const CHUNKS: usize = 8;

/// Which SHA-1 piece hashes of a hybrid are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum V1Pieces {
    /// None: a v2 torrent.
    None,
    /// The last piece at its true length.
    Plain,
    /// The last piece filled up with zeros, as a pad file behind the file makes it.
    Padded,
}

impl V1Pieces {
    pub(super) const fn of(shape: Shape, cut: Cut) -> Self {
        match (cut.hybrid, shape) {
            (false, _) => Self::None,
            (true, Shape::Directory { files }) if v1_pads_tail(files) => Self::Padded,
            (true, _) => Self::Plain,
        }
    }
}

struct Chunk {
    number: u64,
    bytes: Vec<u8>,
}

/// Hashes a stream to its end, writing it to a file on the way if one is given. Leaf hashes are handed
/// to `leaves` in order as they become known and are not kept. Memory is bounded, whatever the length.
///
/// # Errors
///
/// When the source or the disk fails, whatever `leaves` returns, and [`StoreError::Cancelled`].
pub fn hash_stream(
    source: &mut (dyn Read + Send),
    target: Option<(&dyn IoFile, &Path)>,
    piece_length: PieceLength,
    v1: V1Pieces,
    leaves: &mut dyn FnMut(&[MerkleHash]) -> Result<(), StoreError>,
    progress: Progress<'_>,
) -> Result<HashedContent, StoreError> {
    let (give_back, free) = bounded(CHUNKS);
    for _ in 0..CHUNKS {
        // The channel has room for all of them.
        let _ = give_back.try_send(Vec::with_capacity(CHUNK));
    }
    let leaf_workers = if v1 == V1Pieces::None { 2 } else { 1 };
    thread::scope(|scope| {
        let (to_leaves, leaf_work) = bounded::<Arc<Chunk>>(CHUNKS);
        // One result a chunk, and no more chunks than these: sending never blocks.
        let (hashed, results) = bounded(CHUNKS);
        for _ in 0..leaf_workers {
            let (work, hashed, give_back) = (leaf_work.clone(), hashed.clone(), give_back.clone());
            scope.spawn(move || hash_leaves(&work, &hashed, &give_back));
        }
        drop((leaf_work, hashed));
        let (to_sha1, sha1_work) = bounded::<Arc<Chunk>>(CHUNKS);
        let sha1 = (v1 != V1Pieces::None).then(|| {
            let give_back = give_back.clone();
            scope.spawn(move || hash_v1(&sha1_work, piece_length, v1, &give_back))
        });
        drop(give_back);

        let mut folder = Folder::new(piece_length, leaves);
        let mut length = 0;
        let mut number = 0;
        loop {
            for (number, hashes) in results.try_iter() {
                folder.take(number, hashes)?;
            }
            // Every chunk comes back, unless a worker panicked: then the scope panics too.
            let Ok(mut bytes) = free.recv() else { break };
            let read = fill(source, &mut bytes)?;
            if read == 0 {
                break;
            }
            if let Some((file, path)) = target {
                file.write_all_at(&mut [IoSlice::new(&bytes)], length)
                    .map_err(StoreError::io("write", path))?;
            }
            length += read as u64;
            let chunk = Arc::new(Chunk { number, bytes });
            number += 1;
            if sha1.is_some() && to_sha1.send(chunk.clone()).is_err()
                || to_leaves.send(chunk).is_err()
            {
                break;
            }
            if !progress(length) {
                return Err(StoreError::Cancelled);
            }
            if read < CHUNK {
                break;
            }
        }
        drop((to_leaves, to_sha1));
        for (number, hashes) in &results {
            folder.take(number, hashes)?;
        }
        let (root, layer) = folder.finish()?;
        let v1_pieces = match sha1.map(thread::ScopedJoinHandle::join) {
            Some(Ok(pieces)) => pieces,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Vec::new(),
        };
        Ok(HashedContent {
            length,
            root,
            layer,
            v1_pieces,
            executable: false,
        })
    })
}

/// Fills a chunk from the source, which may be a pipe that gives little at a time.
fn fill(source: &mut (dyn Read + Send), bytes: &mut Vec<u8>) -> Result<usize, StoreError> {
    bytes.clear();
    source
        .take(CHUNK as u64)
        .read_to_end(bytes)
        .map_err(|source| StoreError::Source { source })
}

fn hash_leaves(
    work: &Receiver<Arc<Chunk>>,
    hashed: &Sender<(u64, Vec<MerkleHash>)>,
    give_back: &Sender<Vec<u8>>,
) {
    for chunk in work {
        let leaves = chunk
            .bytes
            .chunks(BLOCK_LEN as usize)
            .map(merkle::leaf)
            .collect();
        if hashed.send((chunk.number, leaves)).is_err() {
            break;
        }
        recycle(chunk, give_back);
    }
}

fn hash_v1(
    work: &Receiver<Arc<Chunk>>,
    piece_length: PieceLength,
    v1: V1Pieces,
    give_back: &Sender<Vec<u8>>,
) -> Vec<PieceSha1> {
    let full = piece_length.bytes() as usize;
    let mut pieces = Vec::new();
    let mut piece = Sha1::new();
    let mut filled = 0;
    for chunk in work {
        for part in chunk.bytes.chunks(full.min(CHUNK)) {
            piece.update(part);
            filled += part.len();
            if filled == full {
                pieces.push(PieceSha1::from_bytes(piece.finalize_reset().into()));
                filled = 0;
            }
        }
        recycle(chunk, give_back);
    }
    if filled > 0 {
        if v1 == V1Pieces::Padded {
            let zeros = [0; BLOCK_LEN as usize];
            while filled < full {
                let some = zeros.split_at((full - filled).min(zeros.len())).0;
                piece.update(some);
                filled += some.len();
            }
        }
        pieces.push(PieceSha1::from_bytes(piece.finalize().into()));
    }
    pieces
}

/// Whoever is done with a chunk last gives its memory back.
fn recycle(chunk: Arc<Chunk>, give_back: &Sender<Vec<u8>>) {
    if let Some(chunk) = Arc::into_inner(chunk) {
        // There is a place for every chunk; the reader may be gone when it failed.
        let _ = give_back.try_send(chunk.bytes);
    }
}

/// Brings leaf hashes in order and folds them to piece hashes.
struct Folder<'a> {
    piece_length: PieceLength,
    leaves: &'a mut dyn FnMut(&[MerkleHash]) -> Result<(), StoreError>,
    next: u64,
    early: BTreeMap<u64, Vec<MerkleHash>>,
    piece: Vec<MerkleHash>,
    layer: Vec<MerkleHash>,
}

impl<'a> Folder<'a> {
    fn new(
        piece_length: PieceLength,
        leaves: &'a mut dyn FnMut(&[MerkleHash]) -> Result<(), StoreError>,
    ) -> Self {
        Self {
            piece_length,
            leaves,
            next: 0,
            early: BTreeMap::new(),
            piece: Vec::new(),
            layer: Vec::new(),
        }
    }

    fn take(&mut self, number: u64, hashes: Vec<MerkleHash>) -> Result<(), StoreError> {
        self.early.insert(number, hashes);
        while let Some(hashes) = self.early.remove(&self.next) {
            self.next += 1;
            (self.leaves)(&hashes)?;
            for hash in hashes {
                // Only folded once the next piece begins: a file of one piece keeps its own height.
                if self.piece.len() == self.piece_length.blocks() as usize {
                    self.fold();
                }
                self.piece.push(hash);
            }
        }
        Ok(())
    }

    fn fold(&mut self) {
        self.layer
            .push(merkle::fold(&self.piece, 0, self.piece_length.layer()));
        self.piece.clear();
    }

    fn finish(mut self) -> Result<(Option<MerkleHash>, Vec<MerkleHash>), StoreError> {
        if self.piece.is_empty() {
            return Ok((None, Vec::new()));
        }
        if self.layer.is_empty() {
            return Ok((Some(merkle::file_root_from_leaves(&self.piece)), Vec::new()));
        }
        self.fold();
        let root = merkle::file_root_from_layer(&self.layer, self.piece_length);
        Ok((Some(root), self.layer))
    }
}
