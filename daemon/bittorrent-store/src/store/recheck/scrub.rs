//! Looks for bit rot, a part of the content at a time.

use bittorrent_protocol::{BlockIndex, FileIndex, PieceIndex};

use super::Recheck;
use crate::error::{Operation, StoreError};
use crate::sync;

/// The position of a scrub, kept from one slice to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ScrubCursor {
    next: u32,
}

impl ScrubCursor {
    /// Makes a cursor at a piece, given by number. A number past the last piece is the end.
    pub const fn at(piece: u32) -> Self {
        Self { next: piece }
    }

    /// Returns the number of the next piece.
    pub const fn piece(self) -> u32 {
        self.next
    }
}

/// A verified block that changed on disk, or cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DamagedBlock {
    /// The file of the block.
    pub file: FileIndex,
    /// The position of the block in the file.
    pub offset: u64,
    /// The block.
    pub block: BlockIndex,
}

/// What one slice of a scrub found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Scrub {
    /// The bytes read.
    pub bytes: u64,
    /// Verified blocks that changed or cannot be read. They count as missing now.
    pub damage: Vec<DamagedBlock>,
    /// The number of missing or wrong leaf hashes of good blocks that were written again.
    pub leaves_mended: u64,
    /// Pieces of a hybrid torrent that match its v2 hashes and not its v1 hashes.
    pub contradictions: Vec<PieceIndex>,
    /// Whether the last piece was reached. The cursor is at the first one again then.
    pub done: bool,
}

impl Recheck<'_> {
    /// Does the work of [`TorrentStore::scrub_slice`].
    ///
    /// [`TorrentStore::scrub_slice`]: crate::TorrentStore::scrub_slice
    pub(in crate::store) fn scrub_slice(
        self,
        cursor: &mut ScrubCursor,
        max_bytes: u64,
    ) -> Result<Scrub, StoreError> {
        let layout = self.store.layout().clone();
        let mut buffer = Vec::new();
        let mut bytes = 0;
        let mut failed = None;
        while let Some(piece) = layout.piece(cursor.next) {
            if bytes > 0 && bytes >= max_bytes {
                break;
            }
            match self.scrub_piece(piece, &mut buffer) {
                Ok(read) => bytes += read,
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
            cursor.next += 1;
        }
        let done = failed.is_none() && layout.piece(cursor.next).is_none();
        if done {
            *cursor = ScrubCursor::default();
        }
        let found = self.revoke_damaged()?;
        // The next slice meets the error again, while damage is only reported now.
        if let Some(error) = failed.filter(|_| found.damaged.is_empty()) {
            return Err(error);
        }
        let damage = found.damaged.into_iter().map(|block| DamagedBlock {
            file: layout.file_of(block.piece()),
            offset: layout.offset_in_file(block.piece()) + u64::from(block.begin()),
            block,
        });
        Ok(Scrub {
            bytes,
            damage: damage.collect(),
            leaves_mended: found.leaves_mended,
            contradictions: found.contradictions,
            done,
        })
    }

    /// Does the work of [`TorrentStore::recheck_unreadable`].
    ///
    /// [`TorrentStore::recheck_unreadable`]: crate::TorrentStore::recheck_unreadable
    pub(in crate::store) fn recheck_unreadable(self) -> Result<Vec<BlockIndex>, StoreError> {
        let store = self.store;
        let pieces = std::mem::take(&mut *sync::lock(&store.unreadable));
        let mut buffer = Vec::new();
        let mut ended = Ok(());
        for piece in pieces.iter().copied() {
            ended = self.scrub_piece(piece, &mut buffer).map(drop);
            if ended.is_err() {
                break;
            }
        }
        // Reading these again may have failed in the same way, which is no news.
        let mut unreadable = sync::lock(&store.unreadable);
        unreadable.clear();
        if ended.as_ref().is_err_and(StoreError::is_busy) {
            // Nothing is known of them yet.
            unreadable.extend(pieces);
        }
        drop(unreadable);
        let found = self.revoke_damaged()?;
        match ended {
            // The pieces stay queued, while damage is only reported now.
            Err(error) if error.is_busy() && !found.damaged.is_empty() => Ok(found.damaged),
            ended => ended.map(|()| found.damaged),
        }
    }

    /// Reads the verified blocks of a piece from the disk; returns the bytes read.
    fn scrub_piece(&self, piece: PieceIndex, buffer: &mut Vec<u8>) -> Result<u64, StoreError> {
        let store = self.store;
        let layout = store.layout();
        let verified: Vec<BlockIndex> = layout
            .blocks(piece)
            .filter(|block| store.is_block_verified(*block))
            .collect();
        if verified.is_empty() {
            return Ok(0);
        }
        let size = u64::from(layout.piece_size(piece));
        let (file, content) = store.files.content_of(piece)?;
        content
            .forget_cached(layout.offset_in_file(piece), size)
            .map_err(store.files.contents().failed(Operation::Read, file))?;
        if verified.len() == layout.block_count(piece) as usize {
            match self.verify_piece(piece, buffer) {
                // A range that cannot be read: reads block by block to find the good ones.
                Err(StoreError::Read { .. }) => {}
                other => return other.map(|()| size),
            }
        }
        self.check_blocks(piece, &verified, buffer)
    }
}
