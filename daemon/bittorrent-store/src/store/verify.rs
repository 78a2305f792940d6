//! Reading everything again.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread;

use bittorrent_protocol::{BlockIndex, MerkleHash, PieceIndex, PieceSha1, merkle};
use sha1::{Digest as _, Sha1};

use super::TorrentStore;
use crate::create::hash_zeros;
use crate::error::StoreError;

/// What reading everything again found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verification {
    /// Bytes read.
    pub bytes: u64,
    /// Blocks that were verified and are not what they were: bit rot or meddling. They count as
    /// missing now.
    pub damaged: Vec<BlockIndex>,
    /// Blocks that were not verified, found good; they are claimed now.
    pub found: u64,
    /// Leaf hashes of good blocks that were missing or wrong, written again.
    pub leaves_mended: u64,
    /// Pieces of a hybrid that are what its v2 half says and not what its v1 half says: whoever made
    /// the torrent gives one half of its peers something else.
    pub contradictions: Vec<PieceIndex>,
}

/// Found blocks are claimed whenever there are so many bytes of them.
const WINDOW: u64 = 1 << 30;

#[derive(Debug, Default)]
pub(super) struct Sum {
    pub(super) found: Verification,
    /// Leaf files that were written to.
    pub(super) mended: BTreeSet<u32>,
}

impl TorrentStore {
    /// Reads all content with as many threads as there are cores, compares it with its hashes, and
    /// corrects what counts as verified and what is claimed. `progress` is told the bytes read so far
    /// and says whether to go on. A sealed generation with damaged blocks is no longer sealed: they can
    /// be written, and once they are there, [`Self::finish`] seals it again.
    ///
    /// # Errors
    ///
    /// When the disk fails, and [`StoreError::Cancelled`]; what was found damaged until then counts as
    /// missing.
    pub fn verify_all(
        &self,
        progress: &(dyn Fn(u64) -> bool + Sync),
    ) -> Result<Verification, StoreError> {
        let next = AtomicU32::new(0);
        let bytes = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        let sum = Mutex::new(Sum::default());
        let work = || -> Result<(), StoreError> {
            let mut buffer = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let Some(piece) = self.layout().piece(next.fetch_add(1, Ordering::Relaxed)) else {
                    break;
                };
                match self.verify_piece(piece, &mut buffer, &sum) {
                    // A place that cannot be read: the blocks around it may be good.
                    Err(StoreError::Io { action: "read", .. }) => {
                        let held: Vec<BlockIndex> = self
                            .layout()
                            .blocks(piece)
                            .filter(|block| self.is_block_verified(*block))
                            .collect();
                        self.check_blocks(piece, &held, &mut buffer, &sum);
                    }
                    other => other?,
                }
                if self.dirty_bytes() >= WINDOW {
                    self.checkpoint()?;
                }
                let size = u64::from(self.layout().piece_size(piece));
                let so_far = bytes.fetch_add(size, Ordering::Relaxed) + size;
                if !progress(so_far) {
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
            // All are waited for; the first failure counts.
            let ends: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
            ends.into_iter().try_for_each(|end| match end {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            })
        });
        let mut sum = sum
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        // Also when it did not come to its end: what is known to be bad must not be served.
        sum.found.damaged.sort();
        sum.found.contradictions.sort();
        if !sum.found.damaged.is_empty() {
            self.unverify(&sum.found.damaged)?;
        }
        self.leaves.sync(&sum.mended)?;
        ended?;
        self.checkpoint()?;
        sum.found.bytes = bytes.into_inner();
        Ok(sum.found)
    }

    pub(super) fn verify_piece(
        &self,
        piece: PieceIndex,
        buffer: &mut Vec<u8>,
        sum: &Mutex<Sum>,
    ) -> Result<(), StoreError> {
        let sum = || {
            sum.lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
        };
        let layout = self.layout();
        // Before it is read: what is written and proven meanwhile is not judged by bytes from before.
        let held: Vec<BlockIndex> = layout
            .blocks(piece)
            .filter(|block| self.is_block_verified(*block))
            .collect();
        let v1 = self.info.v1_pieces();
        let v1 = v1.and_then(|pieces| pieces.get(piece.as_usize()));
        let mut sha1 = v1.is_some().then(Sha1::new);
        let leaves = self.hash_piece_if_whole(piece, buffer, &mut |bytes| {
            if let Some(sha1) = &mut sha1 {
                sha1.update(bytes);
            }
        })?;
        let proven = !leaves.is_empty()
            && self.metainfo().piece_hash(piece)
                == Some(merkle::piece_hash(&leaves, layout, piece));
        if proven {
            if let Some((sha1, expected)) = sha1.zip(v1)
                && self.v1_hash(piece, sha1) != *expected
            {
                sum().found.contradictions.push(piece);
            }
            if !held.is_empty() {
                self.mend_leaves(piece, &held, &leaves, &sum)?;
            }
            let Some(first) = layout.block(piece, 0).filter(|_| held.len() < leaves.len()) else {
                return Ok(());
            };
            let _alone = self
                .gate
                .write()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            let fresh = || layout.blocks(piece).filter(|b| !self.is_block_verified(*b));
            let found = fresh().count() as u64;
            // What the disk lost can still be read for a while, and what was written meanwhile may be
            // another's bytes: so it is read again, from the disk.
            let (file, open) = self.content_of(piece)?;
            open.forget_cached(
                layout.offset_in_file(piece),
                layout.piece_size(piece).into(),
            )
            .map_err(self.contents.failed("read", file))?;
            if !fresh().any(|block| self.is_lost(layout.block_number(block)))
                && self.hash_piece_if_whole(piece, buffer, &mut |_| {})? == leaves
            {
                self.mark(first, &leaves)?;
                sum().found.found += found;
            }
            return Ok(());
        }
        let file = layout.file_of(piece);
        let first = layout
            .block(piece, 0)
            .map(|block| self.number_in_file(block));
        let count = layout.block_count(piece) as usize;
        let kept = self.kept_leaves(file, first.unwrap_or(0), count)?;
        let is_bad = |block: &BlockIndex| {
            let number = usize::from(block.in_piece());
            leaves.get(number).is_none() || leaves.get(number) != kept.get(number)
        };
        sum().found.damaged.extend(held.into_iter().filter(is_bad));
        Ok(())
    }

    /// No leaves when the file ends before the piece does: what it no longer holds is damaged, not a
    /// failure of the disk.
    fn hash_piece_if_whole(
        &self,
        piece: PieceIndex,
        buffer: &mut Vec<u8>,
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<Vec<MerkleHash>, StoreError> {
        match self.hash_piece(piece, buffer, each) {
            Err(StoreError::Truncated { .. }) => Ok(Vec::new()),
            other => other,
        }
    }

    /// The SHA-1 of a v1 piece of which all content went in: the zeros of a pad file behind it are part
    /// of it.
    fn v1_hash(&self, piece: PieceIndex, mut sha1: Sha1) -> PieceSha1 {
        let content = self.layout().piece_size(piece);
        let whole = self.info.v1_piece_size(piece).unwrap_or(content);
        hash_zeros(&mut sha1, whole.saturating_sub(content) as usize);
        PieceSha1::from_bytes(sha1.finalize().into())
    }

    /// Writes the leaf hashes of verified blocks again where they are not what the content says.
    fn mend_leaves<'s>(
        &self,
        piece: PieceIndex,
        held: &[BlockIndex],
        leaves: &[MerkleHash],
        sum: &dyn Fn() -> MutexGuard<'s, Sum>,
    ) -> Result<(), StoreError> {
        let file = self.layout().file_of(piece);
        let Some(first) = self.layout().block(piece, 0) else {
            return Ok(());
        };
        let first = self.number_in_file(first);
        let kept = self.kept_leaves(file, first, leaves.len())?;
        let start = self.numbers(file).start + first;
        let bad: Vec<_> = held
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
        self.write_leaves(file, &bad)?;
        let mut sum = sum();
        sum.found.leaves_mended += bad.len() as u64;
        sum.mended.insert(file.get());
        Ok(())
    }
}
