//! Hashing a file that can be read at any position: every core reads and hashes parts of its own,
//! and what it has read is still in its cache when it is hashed.

use std::path::Path;
use std::thread;

use bittorrent_protocol::metainfo::HashedContent;
use bittorrent_protocol::{BLOCK_LEN, PieceLength, merkle};
use crossbeam_channel::{Receiver, Sender, bounded};

use super::Progress;
use super::folder::{Folder, Hashed, LeafSink};
use super::v1::{PieceHasher, V1Pieces};
use crate::error::StoreError;
use crate::io::{IoFile, read_full};

/// Bytes read at once, by each thread; whole blocks. From 256 KiB on the kernel takes four times as
/// long to copy them, measured.
const READ: usize = 64 << 10;

/// The least a thread is given at once, in bytes.
const PART: u64 = 1 << 20;

/// Parts given out and not yet folded, for each thread: bounds the leaf hashes that come early.
const PARTS_UNDER_WAY: u64 = 4;

/// How a file is cut into parts.
#[derive(Debug, Clone, Copy)]
struct Parts {
    /// Of the file.
    length: u64,
    /// Of a part, in bytes.
    part: u64,
    piece_length: PieceLength,
    v1: V1Pieces,
}

/// Hashes a file of the given length. See [`hash_stream`](super::hash_stream).
pub(super) fn hash_file(
    file: &dyn IoFile,
    path: &Path,
    piece_length: PieceLength,
    v1: V1Pieces,
    leaves: LeafSink<'_>,
    progress: Progress<'_>,
) -> Result<HashedContent, StoreError> {
    let length = file
        .identity()
        .map_err(StoreError::io("inspect", path))?
        .length;
    let parts = Parts {
        length,
        part: match v1 {
            V1Pieces::None => PART,
            // Whole pieces: SHA-1 goes through each from start to end.
            _ => PART.max(piece_length.bytes().into()),
        },
        piece_length,
        v1,
    };
    let count = length.div_ceil(parts.part);
    let threads = thread::available_parallelism().map_or(1, usize::from) as u64;
    let threads = threads.min(count).max(1);
    let most = PARTS_UNDER_WAY * threads;
    let folded = thread::scope(|scope| {
        // There is a place for every part under way: nobody ever waits to send.
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
    let mut buffer = vec![0; READ];
    for number in work {
        let part = hash_part(file, path, parts, number, &mut buffer);
        if hashed.send((number, part)).is_err() {
            break;
        }
    }
}

fn hash_part(
    file: &dyn IoFile,
    path: &Path,
    parts: Parts,
    number: u64,
    buffer: &mut [u8],
) -> Result<Hashed, StoreError> {
    let start = number * parts.part;
    let end = parts.length.min(start + parts.part);
    let mut leaves = Vec::with_capacity((end - start).div_ceil(BLOCK_LEN.into()) as usize);
    let mut sha1 = PieceHasher::new(parts.piece_length, parts.v1);
    let mut offset = start;
    while offset < end {
        let wanted = (end - offset).min(READ as u64) as usize;
        let (bytes, _) = buffer.split_at_mut(wanted);
        let read = read_full(file, bytes, offset).map_err(StoreError::io("read", path))?;
        if read < wanted {
            // Somebody cut it: it is not what was to be hashed.
            return Err(StoreError::io("read", path)(
                std::io::ErrorKind::UnexpectedEof.into(),
            ));
        }
        leaves.extend(bytes.chunks(BLOCK_LEN as usize).map(merkle::leaf));
        if let Some(sha1) = &mut sha1 {
            sha1.update(bytes);
        }
        offset += wanted as u64;
    }
    Ok(Hashed {
        leaves,
        v1_pieces: sha1.map(PieceHasher::finish).unwrap_or_default(),
    })
}
