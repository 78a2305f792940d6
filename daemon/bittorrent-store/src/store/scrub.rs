//! Looking for bit rot, a little at a time.

use std::sync::{Mutex, PoisonError};

use bittorrent_protocol::{BLOCK_LEN, BlockIndex, FileIndex, PieceIndex, merkle};

use super::TorrentStore;
use super::verify::Sum;
use crate::error::StoreError;

/// How far a scrub has come, to be kept from one slice to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScrubCursor {
    next: u32,
}

impl ScrubCursor {
    /// Goes on from a piece, given by number. One that does not exist is the end.
    pub const fn at(piece: u32) -> Self {
        Self { next: piece }
    }

    /// The number of the piece that is next.
    pub const fn piece(self) -> u32 {
        self.next
    }
}

/// A block that is no longer what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// The file it is in.
    pub file: FileIndex,
    /// Its first byte in the file.
    pub offset: u64,
    /// Which block it is.
    pub block: BlockIndex,
}

/// What one slice of a scrub found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scrub {
    /// Bytes read.
    pub bytes: u64,
    /// Verified blocks that are not what they were, or cannot be read. They count as missing now.
    pub damage: Vec<Damage>,
    /// Leaf hashes of good blocks that were missing or wrong, written again.
    pub leaves_mended: u64,
    /// Pieces of a hybrid that are what its v2 half says and not what its v1 half says.
    pub contradictions: Vec<PieceIndex>,
    /// The last piece was reached; the cursor stands at the first one again.
    pub done: bool,
}

impl TorrentStore {
    /// Reads verified blocks again from where the cursor stands on, at least a piece and no more than
    /// `max_bytes` beyond that, and takes back those that are not what their hashes say. They can be
    /// written again at once; a sealed generation is no longer sealed until [`Self::finish`]. What
    /// can be computed again is mended.
    ///
    /// The pages are dropped from memory before, so that they come from the disk. Runs on the calling
    /// thread alone, which sets the pace.
    ///
    /// # Errors
    ///
    /// When what was found cannot be noted; the damaged blocks then count as missing until the next start.
    pub fn scrub_slice(
        &self,
        cursor: &mut ScrubCursor,
        max_bytes: u64,
    ) -> Result<Scrub, StoreError> {
        let layout = self.layout();
        let mut buffer = Vec::new();
        let mut bytes = 0;
        let sum = Mutex::new(Sum::default());
        let mut failed = None;
        while let Some(piece) = layout.piece(cursor.next) {
            if bytes > 0 && bytes >= max_bytes {
                break;
            }
            match self.scrub_piece(piece, &mut buffer, &sum) {
                Ok(read) => bytes += read,
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
            cursor.next += 1;
        }
        let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
        let done = failed.is_none() && layout.piece(cursor.next).is_none();
        if done {
            *cursor = ScrubCursor::default();
        }
        // Also when it did not come to its end: what is known to be bad must not be served.
        if !sum.found.damaged.is_empty() {
            self.unverify(&sum.found.damaged)?;
        }
        self.leaves.sync(&sum.mended)?;
        if let Some(error) = failed {
            return Err(error);
        }
        let damage = sum.found.damaged.into_iter().map(|block| Damage {
            file: layout.file_of(block.piece()),
            offset: layout.offset_in_file(block.piece()) + u64::from(block.begin()),
            block,
        });
        Ok(Scrub {
            bytes,
            damage: damage.collect(),
            leaves_mended: sum.found.leaves_mended,
            contradictions: sum.found.contradictions,
            done,
        })
    }

    /// Reads again what could not be read since the last call, and takes back the verified blocks that
    /// still cannot be read or are not what they were. Returns these; nothing while no read failed.
    ///
    /// # Errors
    ///
    /// As [`Self::scrub_slice`].
    pub fn recheck_unreadable(&self) -> Result<Vec<BlockIndex>, StoreError> {
        let pieces = std::mem::take(&mut *self.unreadable());
        let sum = Mutex::new(Sum::default());
        let mut buffer = Vec::new();
        let mut ended = Ok(());
        for piece in pieces {
            ended = self.scrub_piece(piece, &mut buffer, &sum).map(drop);
            if ended.is_err() {
                break;
            }
        }
        // Reading these again failed in the same way.
        self.unreadable().clear();
        let sum = sum.into_inner().unwrap_or_else(PoisonError::into_inner);
        if !sum.found.damaged.is_empty() {
            self.unverify(&sum.found.damaged)?;
        }
        self.leaves.sync(&sum.mended)?;
        ended.map(|()| sum.found.damaged)
    }

    /// Reads the verified blocks of a piece; says how many bytes that were.
    fn scrub_piece(
        &self,
        piece: PieceIndex,
        buffer: &mut Vec<u8>,
        sum: &Mutex<Sum>,
    ) -> Result<u64, StoreError> {
        let layout = self.layout();
        let held: Vec<BlockIndex> = layout
            .blocks(piece)
            .filter(|block| self.is_block_verified(*block))
            .collect();
        if held.is_empty() {
            return Ok(0);
        }
        let size = u64::from(layout.piece_size(piece));
        let (file, content) = self.content_of(piece)?;
        content
            .forget_cached(layout.offset_in_file(piece), size)
            .map_err(self.contents.failed("read", file))?;
        if held.len() == layout.block_count(piece) as usize {
            match self.verify_piece(piece, buffer, sum) {
                // A place that cannot be read: which blocks are there is found out one by one.
                Err(StoreError::Io { action: "read", .. }) => {}
                other => return other.map(|()| size),
            }
        }
        Ok(self.check_blocks(piece, &held, buffer, sum))
    }

    /// Reads blocks of a piece one by one, where the piece cannot be read as a whole. Returns how many
    /// bytes that were.
    pub(super) fn check_blocks(
        &self,
        piece: PieceIndex,
        held: &[BlockIndex],
        buffer: &mut Vec<u8>,
        sum: &Mutex<Sum>,
    ) -> u64 {
        let layout = self.layout();
        let file = layout.file_of(piece);
        let mut bad = Vec::new();
        let mut read = 0;
        for block in held.iter().copied() {
            let length = layout.block_size(block);
            read += u64::from(length);
            buffer.resize(length as usize, 0);
            let leaf = self
                .read(piece, block.begin(), buffer)
                .ok()
                .map(|()| merkle::leaf(buffer));
            let number = layout.offset_in_file(piece) / u64::from(BLOCK_LEN);
            let number = number + u64::from(block.in_piece());
            let kept = self.kept_leaves(file, number, 1).unwrap_or_default();
            if leaf.is_none() || kept.first() != leaf.as_ref() {
                bad.push(block);
            }
        }
        let mut sum = sum.lock().unwrap_or_else(PoisonError::into_inner);
        sum.found.damaged.append(&mut bad);
        read
    }
}
