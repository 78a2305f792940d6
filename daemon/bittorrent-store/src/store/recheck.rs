//! Reads content again and compares it with its hashes: all of it, or a part at a time.

mod scrub;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;

use bittorrent_protocol::{BLOCK_LEN, BlockIndex, MerkleHash, PieceIndex, PieceSha1, merkle};
use sha1::{Digest as _, Sha1};

use super::TorrentStore;
use crate::error::{Operation, StoreError};
use crate::sync;
use crate::zeros::hash_zeros;

pub use scrub::{DamagedBlock, Scrub, ScrubCursor};

/// What [`TorrentStore::verify_all`] found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verification {
    /// The bytes read.
    pub bytes: u64,
    /// Verified blocks that changed on disk: bit rot, or another program. They count as missing now.
    pub damaged: Vec<BlockIndex>,
    /// The number of missing blocks that were found good. They are claimed now.
    pub found: u64,
    /// The number of missing or wrong leaf hashes of good blocks that were written again.
    pub leaves_mended: u64,
    /// Pieces of a hybrid torrent that match its v2 hashes and not its v1 hashes. Such a torrent gives v1 and
    /// v2 peers different content.
    pub contradictions: Vec<PieceIndex>,
}

/// Bytes of found blocks after which a checkpoint is made.
const WINDOW: u64 = 1 << 30;

/// One run over content of a store, with what it found so far. Threads share it.
#[derive(Debug)]
pub(super) struct Recheck<'s> {
    store: &'s TorrentStore,
    findings: Mutex<Findings>,
}

#[derive(Debug, Default)]
struct Findings {
    found: Verification,
    /// The numbers of the leaf files that were written to.
    mended: BTreeSet<u32>,
}

impl<'s> Recheck<'s> {
    pub(super) fn new(store: &'s TorrentStore) -> Self {
        Self {
            store,
            findings: Mutex::default(),
        }
    }

    fn findings(&self) -> MutexGuard<'_, Findings> {
        sync::lock(&self.findings)
    }

    /// Revokes the damaged blocks and makes the mended leaf hashes durable. To be called also after a
    /// failure: blocks that are known to be damaged must not be served.
    fn revoke_damaged(self) -> Result<Verification, StoreError> {
        let Findings { mut found, mended } = sync::into_inner(self.findings);
        found.damaged.sort();
        found.contradictions.sort();
        if !found.damaged.is_empty() {
            self.store.revoke(&found.damaged)?;
        }
        self.store.files.leaves().sync(&mended)?;
        Ok(found)
    }

    /// Does the work of [`TorrentStore::verify_all`].
    pub(super) fn verify_all(
        self,
        go_on: &(dyn Fn(u64) -> bool + Sync),
    ) -> Result<Verification, StoreError> {
        let store = self.store;
        let next = AtomicU32::new(0);
        let bytes = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        let work = || -> Result<(), StoreError> {
            let mut buffer = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let Some(piece) = self
                    .store
                    .layout()
                    .piece(next.fetch_add(1, Ordering::Relaxed))
                else {
                    break;
                };
                match self.verify_piece(piece, &mut buffer) {
                    // A range that cannot be read: the blocks around it may be good.
                    Err(StoreError::Read { .. }) => {
                        let verified: Vec<BlockIndex> = store
                            .layout()
                            .blocks(piece)
                            .filter(|block| self.store.is_block_verified(*block))
                            .collect();
                        self.check_blocks(piece, &verified, &mut buffer)?;
                    }
                    other => other?,
                }
                if self.store.dirty_bytes() >= WINDOW {
                    self.store.checkpoint()?;
                }
                let size = u64::from(self.store.layout().piece_size(piece));
                let so_far = bytes.fetch_add(size, Ordering::Relaxed) + size;
                if !go_on(so_far) {
                    return Err(StoreError::Cancelled);
                }
            }
            Ok(())
        };
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let ended = thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|_| {
                    scope.spawn(|| work().inspect_err(|_| stop.store(true, Ordering::Relaxed)))
                })
                .collect();
            // Waits for all; the first failure counts.
            let ends: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
            ends.into_iter().try_for_each(|end| match end {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        });
        let mut found = self.revoke_damaged()?;
        ended?;
        store.checkpoint()?;
        found.bytes = bytes.into_inner();
        Ok(found)
    }

    /// Reads a piece and compares it with its hash. Notes its damaged blocks, and counts its missing blocks as
    /// verified if they are good.
    pub(super) fn verify_piece(
        &self,
        piece: PieceIndex,
        buffer: &mut Vec<u8>,
    ) -> Result<(), StoreError> {
        let layout = self.store.layout();
        // Listed before the piece is read, so that a block that is written and proven meanwhile is not compared
        // with older bytes.
        let verified: Vec<BlockIndex> = layout
            .blocks(piece)
            .filter(|block| self.store.is_block_verified(*block))
            .collect();
        let v1 = self.store.files.info().v1_pieces();
        let v1 = v1.and_then(|pieces| pieces.get(piece.as_usize()));
        let mut sha1 = v1.is_some().then(Sha1::new);
        let leaves = self.hash_piece_if_whole(piece, buffer, &mut |bytes| {
            if let Some(sha1) = &mut sha1 {
                sha1.update(bytes);
            }
        })?;
        let proven = !leaves.is_empty()
            && self.store.metainfo().piece_hash(piece)
                == Some(merkle::piece_hash(&leaves, layout, piece));
        if proven {
            if let Some((sha1, expected)) = sha1.zip(v1)
                && self.v1_hash(piece, sha1) != *expected
            {
                self.findings().found.contradictions.push(piece);
            }
            if !verified.is_empty() {
                self.mend_leaves(piece, &verified, &leaves)?;
            }
            let Some(first) = layout
                .block(piece, 0)
                .filter(|_| verified.len() < leaves.len())
            else {
                return Ok(());
            };
            let _alone = sync::write(&self.store.gate);
            let fresh = || {
                layout
                    .blocks(piece)
                    .filter(|b| !self.store.is_block_verified(*b))
            };
            let found = fresh().count() as u64;
            // Blocks that the disk lost can still be read for a while, and blocks that were written
            // meanwhile may have other bytes. So the piece is read again, from the disk.
            let (file, open) = self.store.files.content_of(piece)?;
            open.forget_cached(
                layout.offset_in_file(piece),
                layout.piece_size(piece).into(),
            )
            .map_err(self.store.files.contents().failed(Operation::Read, file))?;
            if !fresh().any(|block| self.store.blocks.is_lost(layout.block_number(block)))
                && self.hash_piece_if_whole(piece, buffer, &mut |_| {})? == leaves
            {
                self.store.mark(first, &leaves)?;
                self.findings().found.found += found;
            }
            return Ok(());
        }
        let file = layout.file_of(piece);
        let first = layout
            .block(piece, 0)
            .map(|block| self.store.files.number_in_file(block));
        let count = layout.block_count(piece) as usize;
        let kept = self
            .store
            .files
            .stored_leaves(file, first.unwrap_or(0), count)?;
        let is_bad = |block: &BlockIndex| {
            let number = usize::from(block.in_piece());
            leaves.get(number).is_none() || leaves.get(number) != kept.get(number)
        };
        self.findings()
            .found
            .damaged
            .extend(verified.into_iter().filter(is_bad));
        Ok(())
    }

    /// Returns the leaves of a piece; none when the file ends before the piece does. A cut file is damage, not a
    /// failure of the disk.
    fn hash_piece_if_whole(
        &self,
        piece: PieceIndex,
        buffer: &mut Vec<u8>,
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<Vec<MerkleHash>, StoreError> {
        match self.store.hash_piece(piece, buffer, each) {
            Err(StoreError::Truncated { .. }) => Ok(Vec::new()),
            other => other,
        }
    }

    /// Completes the SHA-1 of a v1 piece, whose content was added already, with the zeros of its pad file.
    fn v1_hash(&self, piece: PieceIndex, mut sha1: Sha1) -> PieceSha1 {
        let content = self.store.layout().piece_size(piece);
        let whole = self
            .store
            .files
            .info()
            .v1_piece_size(piece)
            .unwrap_or(content);
        hash_zeros(&mut sha1, whole.saturating_sub(content) as usize);
        PieceSha1::from_bytes(sha1.finalize().into())
    }

    /// Writes the leaf hashes of verified blocks again that do not match the content.
    fn mend_leaves(
        &self,
        piece: PieceIndex,
        verified: &[BlockIndex],
        leaves: &[MerkleHash],
    ) -> Result<(), StoreError> {
        let file = self.store.layout().file_of(piece);
        let Some(first) = self.store.layout().block(piece, 0) else {
            return Ok(());
        };
        let first = self.store.files.number_in_file(first);
        let kept = self.store.files.stored_leaves(file, first, leaves.len())?;
        let start = self.store.files.numbers(file).start + first;
        let bad: Vec<_> = verified
            .iter()
            .filter_map(|block| {
                let number = usize::from(block.in_piece());
                let leaf = leaves.get(number)?;
                (kept.get(number) != Some(leaf)).then_some((start + number as u64, *leaf))
            })
            .collect();
        if bad.is_empty() {
            return Ok(());
        }
        self.store.files.write_leaves(file, &bad)?;
        let mut sum = self.findings();
        sum.found.leaves_mended += bad.len() as u64;
        sum.mended.insert(file.get());
        Ok(())
    }

    /// Reads blocks of a piece one by one, when the piece cannot be read as a whole, and notes the damaged
    /// ones. Returns the bytes read.
    ///
    /// # Errors
    ///
    /// Only [`StoreError::is_busy`]: nothing is known of the blocks then. A block that cannot be read for
    /// another reason is damaged.
    pub(super) fn check_blocks(
        &self,
        piece: PieceIndex,
        verified: &[BlockIndex],
        buffer: &mut Vec<u8>,
    ) -> Result<u64, StoreError> {
        let layout = self.store.layout();
        let file = layout.file_of(piece);
        let first = layout.offset_in_file(piece) / u64::from(BLOCK_LEN);
        let mut bad = Vec::new();
        let mut read = 0;
        for block in verified.iter().copied() {
            let length = layout.block_size(block);
            read += u64::from(length);
            buffer.resize(length as usize, 0);
            let content = self.store.read(piece, block.begin(), buffer);
            let leaf = unless_busy(content)?.map(|()| merkle::leaf(buffer));
            let number = first + u64::from(block.in_piece());
            let stored = unless_busy(self.store.files.stored_leaves(file, number, 1))?;
            let stored = stored.and_then(|leaves| leaves.first().copied());
            if leaf.is_none() || stored != leaf {
                bad.push(block);
            }
        }
        self.findings().found.damaged.append(&mut bad);
        Ok(read)
    }
}

/// Returns `None` for a failure of the disk, and the error when no file descriptor is free.
fn unless_busy<T>(result: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match result {
        Err(error) if error.is_busy() => Err(error),
        other => Ok(other.ok()),
    }
}
