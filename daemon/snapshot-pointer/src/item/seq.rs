//! The sequence number of an item.

use std::fmt;

/// The sequence number of an item (BEP 44, "seq"): 0 to 2⁶³ − 1. A greater one replaces a lesser
/// one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(i64);

impl Seq {
    /// The number of a producer's first item: 1. So 0 is below every published number.
    pub const FIRST: Self = Self(1);

    /// The greatest number that mirrors accept and producers sign: 2⁶².
    ///
    /// Nothing can replace an item with 2⁶³ − 1, so one mistake of the producer would end its
    /// stream for ever. Mirrors refuse an item above this bound and do not republish it. DHT nodes
    /// then forget it after some hours, and the stream can continue. Counters stay below the bound,
    /// and so do clocks in nanoseconds until the year 2116. Smaller jumps are accepted, because a
    /// producer may change from a counter to a clock.
    pub const MAX_PLAUSIBLE: Self = Self(1 << 62);

    /// Returns `None` for a negative number.
    pub const fn new(seq: i64) -> Option<Self> {
        if seq < 0 { None } else { Some(Self(seq)) }
    }

    /// Returns the number.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// Returns the next number; `None` after [`Self::MAX_PLAUSIBLE`].
    pub fn next(self) -> Option<Self> {
        (self < Self::MAX_PLAUSIBLE).then(|| Self(self.0 + 1))
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
