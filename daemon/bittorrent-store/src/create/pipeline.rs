//! Hashes a stream in one pass: one thread reads and writes, others hash.

use std::io::{self, IoSlice, Read};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use bittorrent_protocol::metainfo::HashedContent;
use bittorrent_protocol::{MerkleHash, PieceLength, PieceSha1, merkle};
use crossbeam_channel::{Receiver, Sender, bounded};

use super::ProgressCallback;
use super::folder::{Folder, Hashed};
use super::v1::{PieceHasher, V1Pieces};
use crate::disk::io::IoFile;
use crate::error::{Operation, StoreError};

/// Bytes handed to the hashing threads at once; whole blocks. Few enough that they are still in a
/// cache when they are written and hashed: with 1 MiB copying a file takes twice the time.
const CHUNK: usize = 128 << 10;

/// The number of chunks. This is all memory used, besides one leaf hash per block of one piece.
const CHUNKS: usize = 16;

struct Chunk {
    number: u64,
    /// Of [`CHUNK`] bytes, of which the first `length` count.
    buffer: Vec<u8>,
    length: usize,
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        self.buffer.split_at(self.length).0
    }
}

/// Hashes a stream to its end, and writes it to a file if there is one. Passes leaf hashes to
/// `leaves` in order and does not keep them. The memory is bounded for any length.
///
/// # Errors
///
/// When the source or the disk fails, errors of `leaves`, and [`StoreError::Cancelled`].
pub fn hash_stream(
    source: &mut (dyn Read + Send),
    target: Option<(&dyn IoFile, &Path)>,
    piece_length: PieceLength,
    v1: V1Pieces,
    leaves: &mut dyn FnMut(&[MerkleHash]) -> Result<(), StoreError>,
    progress: ProgressCallback<'_>,
) -> Result<HashedContent, StoreError> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    // SHA-1 goes through a piece from start to end, so it has one thread, and the leaves the rest.
    let leaf_workers = match v1 {
        V1Pieces::None => cores,
        _ => cores.saturating_sub(1).max(1),
    };
    let (give_back, free) = bounded(CHUNKS);
    for _ in 0..CHUNKS {
        // The channel has capacity for all of them.
        let _ = give_back.try_send(Vec::new());
    }
    thread::scope(|scope| {
        let (to_leaves, leaf_work) = bounded::<Arc<Chunk>>(CHUNKS);
        // One result a chunk, and no more chunks than these: sending never blocks for long.
        let (hashed, results) = bounded(CHUNKS);
        for _ in 0..leaf_workers {
            let (work, hashed, give_back) = (leaf_work.clone(), hashed.clone(), give_back.clone());
            scope.spawn(move || hash_leaves(&work, &hashed, &give_back));
        }
        drop((leaf_work, hashed));
        let (to_sha1, sha1_work) = bounded::<Arc<Chunk>>(CHUNKS);
        let sha1 = PieceHasher::new(piece_length, v1).map(|hasher| {
            let give_back = give_back.clone();
            scope.spawn(move || hash_v1(&sha1_work, hasher, &give_back))
        });
        drop(give_back);

        let mut folder = Folder::new(piece_length, leaves);
        let mut length = 0;
        for number in 0.. {
            for (number, hashed) in results.try_iter() {
                folder.take(number, hashed)?;
            }
            // All chunks return, unless a worker panicked: then the scope panics too.
            let Ok(mut buffer) = free.recv() else { break };
            let read = fill(source, &mut buffer)?;
            if read == 0 {
                break;
            }
            let chunk = Chunk {
                number,
                buffer,
                length: read,
            };
            if let Some((file, path)) = target {
                file.write_all_at(&mut [IoSlice::new(chunk.bytes())], length)
                    .map_err(StoreError::io(Operation::Write, path))?;
            }
            length += read as u64;
            let chunk = Arc::new(chunk);
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
        for (number, hashed) in &results {
            folder.take(number, hashed)?;
        }
        let folded = folder.finish();
        let v1_pieces = match sha1.map(thread::ScopedJoinHandle::join) {
            Some(Ok(pieces)) => pieces,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Vec::new(),
        };
        Ok(HashedContent {
            length,
            root: folded.root,
            layer: folded.layer,
            v1_pieces,
            executable: false,
        })
    })
}

/// Fills a chunk from the source, which may be a pipe with short reads. Returns less only at its
/// end.
fn fill(source: &mut (dyn Read + Send), buffer: &mut Vec<u8>) -> Result<usize, StoreError> {
    // Cleared once, when it is new.
    buffer.resize(CHUNK, 0);
    let mut filled = 0;
    while filled < CHUNK {
        match source.read(buffer.split_at_mut(filled).1) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(StoreError::Source { source }),
        }
    }
    Ok(filled)
}

fn hash_leaves(
    work: &Receiver<Arc<Chunk>>,
    hashed: &Sender<(u64, Hashed)>,
    give_back: &Sender<Vec<u8>>,
) {
    for chunk in work {
        let mut part = Hashed::default();
        merkle::extend_leaves(&mut part.leaves, chunk.bytes());
        if hashed.send((chunk.number, part)).is_err() {
            break;
        }
        recycle(chunk, give_back);
    }
}

fn hash_v1(
    work: &Receiver<Arc<Chunk>>,
    mut hasher: PieceHasher,
    give_back: &Sender<Vec<u8>>,
) -> Vec<PieceSha1> {
    for chunk in work {
        hasher.update(chunk.bytes());
        recycle(chunk, give_back);
    }
    hasher.finish()
}

/// The last user of a chunk returns its memory.
fn recycle(chunk: Arc<Chunk>, give_back: &Sender<Vec<u8>>) {
    if let Some(chunk) = Arc::into_inner(chunk) {
        // The channel has capacity for all chunks; sending fails only after the reader failed.
        let _ = give_back.try_send(chunk.buffer);
    }
}
