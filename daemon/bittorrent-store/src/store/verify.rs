//! Reading everything again.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::thread;

use bittorrent_protocol::{BlockIndex, MerkleHash, PieceIndex, merkle};

use super::TorrentStore;
use crate::error::StoreError;

/// What reading everything again found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Verification {
    /// Bytes read.
    pub bytes: u64,
    /// Blocks that were verified and are not what they were: bit rot or meddling. They count as
    /// missing now.
    pub damaged: Vec<BlockIndex>,
    /// Blocks that were not verified, found good.
    pub found: u64,
}

impl TorrentStore {
    /// Reads all content with as many threads as there are cores, compares it with its hashes, and
    /// corrects what counts as verified. `progress` is told the bytes read so far and says whether
    /// to go on.
    ///
    /// # Errors
    ///
    /// When the disk fails, and [`StoreError::Cancelled`].
    pub fn verify_all(
        &self,
        progress: &(dyn Fn(u64) -> bool + Sync),
    ) -> Result<Verification, StoreError> {
        let next = AtomicU32::new(0);
        let bytes = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        let sum = Mutex::new(Verification::default());
        let work = || -> Result<(), StoreError> {
            let mut buffer = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let Some(piece) = self.layout().piece(next.fetch_add(1, Ordering::Relaxed)) else {
                    break;
                };
                let (damaged, found) = self.verify_piece(piece, &mut buffer)?;
                let mut sum = sum
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                sum.damaged.extend(damaged);
                sum.found += found;
                let size = u64::from(self.layout().piece_size(piece));
                let so_far = bytes.fetch_add(size, Ordering::Relaxed) + size;
                if !progress(so_far) {
                    return Err(StoreError::Cancelled);
                }
            }
            Ok(())
        };
        let threads = thread::available_parallelism().map_or(1, usize::from);
        thread::scope(|scope| {
            let workers: Vec<_> = (0..threads)
                .map(|_| {
                    scope.spawn(|| work().inspect_err(|_| stop.store(true, Ordering::Relaxed)))
                })
                .collect();
            workers
                .into_iter()
                .try_for_each(|worker| match worker.join() {
                    Ok(result) => result,
                    Err(panic) => std::panic::resume_unwind(panic),
                })
        })?;
        let mut sum = sum
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        sum.bytes = bytes.into_inner();
        sum.damaged.sort();
        if !sum.damaged.is_empty() {
            self.unverify(&sum.damaged)?;
        }
        Ok(sum)
    }

    /// Damaged blocks of a piece, and how many were found good that did not count.
    fn verify_piece(
        &self,
        piece: PieceIndex,
        buffer: &mut Vec<u8>,
    ) -> Result<(Vec<BlockIndex>, u64), StoreError> {
        let layout = self.layout();
        let leaves = match self.hash_piece(piece, buffer) {
            Ok(leaves) => leaves,
            // What a file no longer holds is damaged, not a failure of the disk.
            Err(StoreError::Truncated { .. }) => Vec::new(),
            Err(error) => return Err(error),
        };
        let proven = !leaves.is_empty()
            && self.metainfo().piece_hash(piece)
                == Some(merkle::piece_hash(&leaves, layout, piece));
        if proven {
            let found = layout
                .blocks(piece)
                .filter(|block| !self.is_block_verified(*block))
                .count();
            if found > 0 {
                self.mark_verified(piece, 0, &leaves)?;
            }
            return Ok((Vec::new(), found as u64));
        }
        let file = layout.file_of(piece);
        let mut damaged = Vec::new();
        for block in layout
            .blocks(piece)
            .filter(|block| self.is_block_verified(*block))
        {
            let kept = self.kept_leaves(file, self.number_in_file(block), 1)?;
            let is: Option<&MerkleHash> = leaves.get(usize::from(block.in_piece()));
            if is.is_none() || kept.first() != is {
                damaged.push(block);
            }
        }
        Ok((damaged, 0))
    }
}
