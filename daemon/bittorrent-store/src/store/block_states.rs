//! What is known of each block, readable by any thread without a lock.

use std::ops::Range;
use std::sync::OnceLock;

use bittorrent_protocol::{FileSpan, Layout};

use crate::bitmap::AtomicBitmap;
use crate::error::StoreError;

/// The states of blocks, by block number.
#[derive(Debug)]
pub(crate) struct BlockStates {
    /// The number of blocks; fewer than block numbers where files end within a piece.
    total: u64,
    /// The number of block numbers.
    numbers: u64,
    verified: AtomicBitmap,
    /// Blocks that were written since the files were opened, proven or not.
    touched: AtomicBitmap,
    /// Blocks that a failed sync may have lost, until they are written again. Allocated by the first
    /// failure.
    lost: OnceLock<AtomicBitmap>,
    /// Content files whose page cache of an earlier process was dropped, by number.
    forgotten: AtomicBitmap,
}

impl BlockStates {
    pub(super) fn new(layout: &Layout) -> Self {
        let numbers = layout.block_numbers();
        Self {
            total: layout.files().iter().map(FileSpan::blocks).sum(),
            numbers,
            verified: AtomicBitmap::new(numbers),
            touched: AtomicBitmap::new(numbers),
            lost: OnceLock::new(),
            forgotten: AtomicBitmap::new(layout.files().len() as u64),
        }
    }

    pub(super) const fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn is_verified(&self, number: u64) -> bool {
        self.verified.get(number)
    }

    /// Returns whether all blocks of a range are verified; `true` for an empty range.
    pub(super) fn are_verified(&self, numbers: Range<u64>) -> bool {
        self.verified.all(numbers)
    }

    pub(super) fn verified_count(&self) -> u64 {
        self.verified.count()
    }

    /// Returns [`StoreError::Incomplete`] when blocks are missing.
    pub(super) fn check_complete(&self) -> Result<(), StoreError> {
        match self.total - self.verified_count() {
            0 => Ok(()),
            missing => Err(StoreError::Incomplete { missing }),
        }
    }

    /// Returns a copy of the bitmap of verified blocks, the first number in the lowest bit.
    pub(super) fn verified_words(&self) -> impl Iterator<Item = u64> + '_ {
        self.verified.words()
    }

    /// Counts a block as verified; returns whether it was not before.
    pub(super) fn set_verified(&self, number: u64) -> bool {
        self.verified.set(number)
    }

    /// Counts a block as missing again.
    pub(super) fn revoke(&self, number: u64) {
        self.verified.clear(number);
    }

    /// Notes that a block is about to be written. Must be called before it is: a sync that fails in
    /// between may lose it.
    pub(super) fn begin_write(&self, number: u64) {
        self.touched.set(number);
        if let Some(lost) = self.lost.get() {
            lost.clear(number);
        }
    }

    /// Notes that a block that an earlier process wrote is about to be used as it is. Must be called
    /// before it is read, as [`Self::begin_write`].
    pub(crate) fn touch(&self, number: u64) {
        self.touched.set(number);
    }

    /// Returns whether a block was written, or is used, since the files were opened.
    pub(crate) fn is_touched(&self, number: u64) -> bool {
        self.touched.get(number)
    }

    /// Returns whether the disk may have lost what was written of a block.
    pub(crate) fn is_lost(&self, number: u64) -> bool {
        self.lost.get().is_some_and(|lost| lost.get(number))
    }

    /// After a failed sync: marks all blocks as lost that were touched and are not `claimed`.
    pub(super) fn lose_touched(&self, claimed: impl Fn(u64) -> bool) {
        let lost = self.lost.get_or_init(|| AtomicBitmap::new(self.numbers));
        for number in 0..self.numbers {
            if self.touched.get(number) && !claimed(number) {
                lost.set(number);
            }
        }
    }

    /// Returns `true` the first time it is called for a content file, given by number: then its page
    /// cache has to be dropped.
    pub(crate) fn forget_file(&self, file: u32) -> bool {
        self.forgotten.set(file.into())
    }
}
