//! A bitmap that threads read and change without a lock.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

/// One bit per number, changed and read by several threads.
///
/// Setting a bit is a release and reading one an acquire: a thread that sees a bit also sees what
/// was written before the bit was set.
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

    /// Sets a bit; returns whether it was clear before.
    pub(crate) fn set(&self, number: u64) -> bool {
        let (word, mask) = self.word_of(number);
        let fresh = word.fetch_or(mask, Ordering::Release) & mask == 0;
        if fresh {
            self.count.fetch_add(1, Ordering::Relaxed);
        }
        fresh
    }

    /// Clears a bit; returns whether it was set before.
    pub(crate) fn clear(&self, number: u64) -> bool {
        let (word, mask) = self.word_of(number);
        let was = word.fetch_and(!mask, Ordering::AcqRel) & mask != 0;
        if was {
            self.count.fetch_sub(1, Ordering::Relaxed);
        }
        was
    }

    pub(crate) fn get(&self, number: u64) -> bool {
        let (word, mask) = self.word_of(number);
        word.load(Ordering::Acquire) & mask != 0
    }

    /// Returns whether all bits of a range are set; `true` for an empty range.
    pub(crate) fn all(&self, numbers: Range<u64>) -> bool {
        let mut at = numbers.start;
        while at < numbers.end {
            let stop = numbers.end.min((at / 64 + 1) * 64);
            let bits = u64::MAX >> (64 - (stop - at)) << (at % 64);
            let (word, _) = self.word_of(at);
            if word.load(Ordering::Acquire) & bits != bits {
                return false;
            }
            at = stop;
        }
        true
    }

    /// Returns a copy of all words; the first number is the lowest bit of the first word.
    pub(crate) fn words(&self) -> impl Iterator<Item = u64> + '_ {
        self.words.iter().map(|word| word.load(Ordering::Acquire))
    }

    /// Returns the number of set bits.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn word_of(&self, number: u64) -> (&AtomicU64, u64) {
        (&self.words[(number / 64) as usize], 1 << (number % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_full_exactly_when_each_of_its_bits_is_set() {
        for (start, end) in [
            (0, 1),
            (0, 64),
            (1, 64),
            (63, 65),
            (5, 5),
            (60, 200),
            (64, 128),
            (127, 192),
        ] {
            let bitmap = AtomicBitmap::new(256);
            for number in start..end {
                assert!(!bitmap.all(start..end), "{start}..{end} without {number}");
                assert!(bitmap.set(number) && !bitmap.set(number));
            }
            assert!(bitmap.all(start..end), "{start}..{end}");
            assert!(!bitmap.all(start..end + 1), "{start}..{end} and one more");
            assert_eq!(bitmap.count(), end - start);
            let set: u32 = bitmap.words().map(u64::count_ones).sum();
            assert_eq!(u64::from(set), end - start);
            for number in start..end {
                assert!(bitmap.clear(number) && !bitmap.clear(number));
            }
            assert_eq!((bitmap.count(), bitmap.words().sum()), (0, 0u64));
        }
    }
}
