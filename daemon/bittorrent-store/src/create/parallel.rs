//! Hashes a file that can be read at any position. Each core reads and hashes its own parts, while
//! the bytes are in its cache.

use std::ops::Range;
use std::path::Path;
use std::thread;

use bittorrent_protocol::metainfo::HashedContent;
use bittorrent_protocol::{BLOCK_LEN, MerkleHash, PieceLength, merkle};
use crossbeam_channel::{Receiver, Sender, bounded};
use sha_lanes::Sha1;

use super::ProgressCallback;
use super::folder::{Folder, Hashed, LeafSink};
use super::v1::{PieceInLane, V1Pieces};
use crate::disk::io::{IoFile, read_full};
use crate::disk::pages::{PAGE, page_aligned};
use crate::error::{Operation, StoreError};

/// Bytes read at once, by each thread; whole blocks.
const READ: usize = 64 << 10;

/// The smallest part that a thread gets, in bytes.
const PART: u64 = 1 << 20;

/// Unfinished parts per thread. Bounds the leaf hashes that arrive early.
const PARTS_UNDER_WAY: u64 = 4;

/// How a file is cut into parts.
#[derive(Debug, Clone, Copy)]
struct Parts {
    /// The length of the file.
    length: u64,
    /// The length of a part, in bytes: whole pieces if there are v1 pieces.
    part: u64,
    piece_length: PieceLength,
    v1: V1Pieces,
}

impl Parts {
    fn new(length: u64, piece_length: PieceLength, v1: V1Pieces, threads: u64) -> Self {
        let piece = u64::from(piece_length.bytes());
        let part = match v1 {
            V1Pieces::None => PART,
            // SHA-1 goes through each piece from start to end, and through several side by side.
            _ => {
                let share = length.div_ceil(piece).div_ceil(threads);
                PART.max(piece * share.clamp(1, Sha1::LANES as u64))
            }
        };
        Self {
            length,
            part,
            piece_length,
            v1,
        }
    }
}

/// Hashes a file of the given length. See [`hash_stream`](super::hash_stream).
pub(super) fn hash_file(
    file: &dyn IoFile,
    path: &Path,
    piece_length: PieceLength,
    v1: V1Pieces,
    leaves: LeafSink<'_>,
    progress: ProgressCallback<'_>,
) -> Result<HashedContent, StoreError> {
    let length = file
        .identity()
        .map_err(StoreError::io(Operation::Inspect, path))?
        .length;
    let threads = thread::available_parallelism().map_or(1, usize::from) as u64;
    let parts = Parts::new(length, piece_length, v1, threads);
    let count = length.div_ceil(parts.part);
    let threads = threads.min(count).max(1);
    let most = PARTS_UNDER_WAY * threads;
    let folded = thread::scope(|scope| {
        // The channel has capacity for all unfinished parts: sending never blocks.
        let (give, work) = bounded(most as usize);
        let (hashed, results) = bounded(most as usize);
        for _ in 0..threads {
            let (work, hashed) = (work.clone(), hashed.clone());
            scope.spawn(move || hash_parts(file, path, parts, &work, &hashed));
        }
        drop((work, hashed));
        let mut folder = Folder::new(piece_length, leaves);
        let mut given = 0;
        for done in 0..count {
            while given < count.min(done + most) {
                // Fails only when all threads have panicked, which the scope passes on.
                let _ = give.send(given);
                given += 1;
            }
            let Ok((number, part)) = results.recv() else {
                break;
            };
            folder.take(number, part?)?;
            if !progress(length.min((done + 1) * parts.part)) {
                return Err(StoreError::Cancelled);
            }
        }
        Ok(folder.finish())
    })?;
    Ok(HashedContent {
        length,
        root: folded.root,
        layer: folded.layer,
        v1_pieces: folded.v1_pieces,
        executable: false,
    })
}

fn hash_parts(
    file: &dyn IoFile,
    path: &Path,
    parts: Parts,
    work: &Receiver<u64>,
    hashed: &Sender<(u64, Result<Hashed, StoreError>)>,
) {
    let mut buffer = vec![0; READ * Sha1::LANES + PAGE];
    let buffer = page_aligned(&mut buffer);
    for number in work {
        let start = number * parts.part;
        let part = start..parts.length.min(start + parts.part);
        let part = match parts.v1 {
            V1Pieces::None => hash_leaves(file, path, part, buffer),
            v1 => hash_pieces(file, path, part, parts.piece_length, v1, buffer),
        };
        if hashed.send((number, part)).is_err() {
            break;
        }
    }
}

fn hash_leaves(
    file: &dyn IoFile,
    path: &Path,
    part: Range<u64>,
    buffer: &mut [u8],
) -> Result<Hashed, StoreError> {
    let mut leaves = Vec::with_capacity(blocks_in(part.end - part.start));
    let mut offset = part.start;
    while offset < part.end {
        let bytes = read(file, path, buffer, offset..part.end)?;
        merkle::extend_leaves(&mut leaves, bytes);
        offset += bytes.len() as u64;
    }
    Ok(Hashed {
        leaves,
        v1_pieces: Vec::new(),
    })
}

/// A v1 piece that is hashed side by side with others.
struct Lane {
    /// The part of the piece that is not read yet.
    ahead: Range<u64>,
    leaves: Vec<MerkleHash>,
    sha1: PieceInLane,
}

/// Reads some of each piece in turn, so that the bytes for SHA-1 are still in a cache after their
/// leaves were hashed.
fn hash_pieces(
    file: &dyn IoFile,
    path: &Path,
    part: Range<u64>,
    piece_length: PieceLength,
    v1: V1Pieces,
    buffer: &mut [u8],
) -> Result<Hashed, StoreError> {
    let piece = u64::from(piece_length.bytes());
    let mut lanes: Vec<Lane> = (part.start..part.end)
        .step_by(piece_length.bytes() as usize)
        .map(|start| Lane {
            ahead: start..part.end.min(start + piece),
            leaves: Vec::with_capacity(piece_length.blocks() as usize),
            sha1: PieceInLane::default(),
        })
        .collect();
    let mut hashed = Hashed::default();
    for lanes in lanes.chunks_mut(Sha1::LANES) {
        while lanes.iter().any(|lane| !lane.ahead.is_empty()) {
            let mut some = Vec::with_capacity(Sha1::LANES);
            for (lane, buffer) in lanes.iter_mut().zip(buffer.chunks_mut(READ)) {
                let bytes = read(file, path, buffer, lane.ahead.clone())?;
                merkle::extend_leaves(&mut lane.leaves, bytes);
                lane.ahead.start += bytes.len() as u64;
                some.push((&mut lane.sha1, bytes));
            }
            PieceInLane::update_many(&mut some);
        }
        for lane in lanes {
            hashed.leaves.append(&mut lane.leaves);
            let sha1 = std::mem::take(&mut lane.sha1);
            hashed.v1_pieces.push(sha1.finish(piece_length, v1));
        }
    }
    Ok(hashed)
}

/// Reads the beginning of a range, as much as fits and at most [`READ`].
fn read<'b>(
    file: &dyn IoFile,
    path: &Path,
    buffer: &'b mut [u8],
    range: Range<u64>,
) -> Result<&'b [u8], StoreError> {
    let most = buffer.len().min(READ) as u64;
    let wanted = most.min(range.end.saturating_sub(range.start)) as usize;
    let (bytes, _) = buffer.split_at_mut(wanted);
    let read =
        read_full(file, bytes, range.start).map_err(StoreError::io(Operation::Read, path))?;
    if read < wanted {
        // Another program shortened the file while it was hashed.
        return Err(StoreError::io(Operation::Read, path)(
            std::io::ErrorKind::UnexpectedEof.into(),
        ));
    }
    Ok(bytes)
}

fn blocks_in(bytes: u64) -> usize {
    bytes.div_ceil(BLOCK_LEN.into()) as usize
}
