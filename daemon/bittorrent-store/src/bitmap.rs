//! Which blocks are verified, readable by any thread without a lock.

use std::sync::atomic::{AtomicU64, Ordering};

/// A bit for each number, changed and read by several threads.
///
/// Setting a bit is a release and reading one an acquire: who sees a bit also sees what was written
/// before it was set.
#[derive(Debug)]
pub(crate) struct AtomicBitmap {
    words: Box<[AtomicU64]>,
    count: AtomicU64,
}

impl AtomicBitmap {
    pub(crate) fn new(bits: u64) -> Self {
        Self {
            // A torrent has at most 2^35 blocks by the bound on its pieces.
            words: (0..bits.div_ceil(64)).map(|_| AtomicU64::new(0)).collect(),
            count: AtomicU64::new(0),
        }
    }

    /// Sets a bit; true when it was not set before.
    pub(crate) fn set(&self, number: u64) -> bool {
        let (word, mask) = self.place(number);
        let fresh = word.fetch_or(mask, Ordering::Release) & mask == 0;
        if fresh {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        fresh
    }

    /// Clears a bit; true when it was set before.
    pub(crate) fn clear(&self, number: u64) -> bool {
        let (word, mask) = self.place(number);
        let was = word.fetch_and(!mask, Ordering::AcqRel) & mask != 0;
        if was {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        was
    }

    pub(crate) fn get(&self, number: u64) -> bool {
        let (word, mask) = self.place(number);
        word.load(Ordering::Acquire) & mask != 0
    }

    /// How many bits are set.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn place(&self, number: u64) -> (&AtomicU64, u64) {
        (&self.words[(number / 64) as usize], 1 << (number % 64))
    }
}
