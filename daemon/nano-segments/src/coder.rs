//! An adaptive binary range coder: 32-bit range, carry by a cached byte, 12-bit probabilities that move by a sixteenth. Integer arithmetic only, so its
//! bytes follow from the description and from no library's version.

use thiserror::Error;

/// The range is renormalised below this.
const TOP: u32 = 1 << 24;
/// Bits of a probability.
const PRECISION: u32 = 12;
/// How fast a probability follows what was coded.
const RATE: u32 = 4;

/// Why a coded column is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CoderError {
    /// The bytes end before the last symbol, go on after it, or the last symbol leaves a remainder.
    #[error("the coded bytes do not end with the last symbol")]
    End,
    /// A symbol is outside of its model's range.
    #[error("a symbol is out of range")]
    Range,
}

/// The probability of a zero bit, in 4096ths; stays within 15..=4081.
#[derive(Debug, Clone, Copy)]
struct Probability(u16);

impl Probability {
    const EVEN: Self = Self(1 << (PRECISION - 1));

    fn bound(self, range: u32) -> u32 {
        (range >> PRECISION) * u32::from(self.0)
    }

    fn learn(&mut self, bit: bool) {
        if bit {
            self.0 -= self.0 >> RATE;
        } else {
            self.0 += ((1 << PRECISION) - self.0) >> RATE;
        }
    }
}

/// Writes a column.
#[derive(Debug)]
pub struct Encoder {
    low: u64,
    range: u32,
    cache: u8,
    pending: usize,
    out: Vec<u8>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self {
            low: 0,
            range: u32::MAX,
            cache: 0,
            pending: 1,
            out: Vec::new(),
        }
    }
}

impl Encoder {
    /// Returns the bytes of everything that was put.
    pub fn finish(mut self) -> Vec<u8> {
        for _ in 0..5 {
            self.shift();
        }
        // The first byte is the initial cache, which no carry can reach: always zero.
        self.out.remove(0);
        self.out
    }

    fn shift(&mut self) {
        if self.low < 0xFF00_0000 || self.low > u64::from(u32::MAX) {
            let carry = (self.low >> 32) as u8;
            self.out.push(self.cache.wrapping_add(carry));
            for _ in 1..self.pending {
                self.out.push(0xFF_u8.wrapping_add(carry));
            }
            self.pending = 0;
            self.cache = (self.low >> 24) as u8;
        }
        self.pending += 1;
        self.low = (self.low & 0x00FF_FFFF) << 8;
    }

    fn normalise(&mut self) {
        while self.range < TOP {
            self.range <<= 8;
            self.shift();
        }
    }

    fn bit(&mut self, probability: &mut Probability, bit: bool) {
        let bound = probability.bound(self.range);
        if bit {
            self.low += u64::from(bound);
            self.range -= bound;
        } else {
            self.range = bound;
        }
        probability.learn(bit);
        self.normalise();
    }

    /// Writes the lowest `count` bits of `value` as they are, highest first.
    fn plain(&mut self, value: u128, count: u32) {
        for place in (0..count).rev() {
            self.range >>= 1;
            if value >> place & 1 == 1 {
                self.low += u64::from(self.range);
            }
            self.normalise();
        }
    }
}

/// Reads a column.
#[derive(Debug)]
pub struct Decoder<'a> {
    rest: &'a [u8],
    range: u32,
    code: u32,
}

impl<'a> Decoder<'a> {
    /// Begins to read `bytes`. Fails if there are fewer than four.
    pub fn new(bytes: &'a [u8]) -> Result<Self, CoderError> {
        let (code, rest) = bytes.split_first_chunk().ok_or(CoderError::End)?;
        Ok(Self {
            rest,
            range: u32::MAX,
            code: u32::from_be_bytes(*code),
        })
    }

    /// Fails unless all bytes were used and nothing of the code remains.
    pub fn finish(self) -> Result<(), CoderError> {
        if self.rest.is_empty() && self.code == 0 {
            Ok(())
        } else {
            Err(CoderError::End)
        }
    }

    fn normalise(&mut self) -> Result<(), CoderError> {
        while self.range < TOP {
            let (&byte, rest) = self.rest.split_first().ok_or(CoderError::End)?;
            self.rest = rest;
            self.range <<= 8;
            self.code = self.code << 8 | u32::from(byte);
        }
        Ok(())
    }

    fn bit(&mut self, probability: &mut Probability) -> Result<bool, CoderError> {
        let bound = probability.bound(self.range);
        let bit = self.code >= bound;
        if bit {
            self.code -= bound;
            self.range -= bound;
        } else {
            self.range = bound;
        }
        probability.learn(bit);
        self.normalise()?;
        Ok(bit)
    }

    fn plain(&mut self, count: u32) -> Result<u128, CoderError> {
        let mut value = 0;
        for _ in 0..count {
            self.range >>= 1;
            let bit = self.code >= self.range;
            if bit {
                self.code -= self.range;
            }
            self.normalise()?;
            value = value << 1 | u128::from(bit);
        }
        Ok(value)
    }
}

/// One bit with a probability of its own.
#[derive(Debug, Clone, Copy)]
pub struct Flag(Probability);

impl Default for Flag {
    fn default() -> Self {
        Self(Probability::EVEN)
    }
}

impl Flag {
    /// Writes a bit.
    pub fn put(&mut self, to: &mut Encoder, bit: bool) {
        to.bit(&mut self.0, bit);
    }

    /// Reads a bit.
    pub fn get(&mut self, from: &mut Decoder<'_>) -> Result<bool, CoderError> {
        from.bit(&mut self.0)
    }
}

/// Symbols of a fixed number of bits, highest first; each bit's probability depends on the bits before it.
#[derive(Debug, Clone)]
pub struct Tree {
    bits: u32,
    probabilities: Box<[Probability]>,
}

impl Tree {
    /// Makes a model of symbols of `bits` bits, 1 to 10.
    pub fn new(bits: u32) -> Self {
        debug_assert!((1..=10).contains(&bits));
        Self {
            bits,
            probabilities: vec![Probability::EVEN; 1 << bits].into(),
        }
    }

    /// Writes the lowest bits of `symbol`.
    pub fn put(&mut self, to: &mut Encoder, symbol: u32) {
        let mut node = 1;
        for place in (0..self.bits).rev() {
            let bit = symbol >> place & 1;
            to.bit(&mut self.probabilities[node], bit == 1);
            node = node << 1 | bit as usize;
        }
    }

    /// Reads a symbol.
    pub fn get(&mut self, from: &mut Decoder<'_>) -> Result<u32, CoderError> {
        let mut node = 1;
        for _ in 0..self.bits {
            node = node << 1 | usize::from(from.bit(&mut self.probabilities[node])?);
        }
        Ok(node as u32 - (1 << self.bits))
    }
}

/// Any number of 128 bits: the length of number + 1 by a tree, the two bits below its first one by a tree for each length, the others as they are.
#[derive(Debug, Clone)]
pub struct Num {
    lengths: Tree,
    /// Indexed by the length, then by 1 followed by the bits so far.
    seconds: Box<[[Probability; 4]]>,
}

impl Default for Num {
    fn default() -> Self {
        Self {
            lengths: Tree::new(8),
            seconds: vec![[Probability::EVEN; 4]; 130].into(),
        }
    }
}

impl Num {
    /// Writes a number.
    pub fn put(&mut self, to: &mut Encoder, number: u128) {
        // number + 1 as its length and the bits below its first one; 2^128 has none set.
        let (length, below) = match number.checked_add(1) {
            Some(next) => (128 - next.leading_zeros(), next),
            None => (129, 0),
        };
        self.lengths.put(to, length);
        let mut left = length - 1;
        let mut node = 1;
        while left > 0 && length - 1 - left < 2 {
            left -= 1;
            let bit = below >> left & 1 == 1;
            to.bit(&mut self.seconds[length as usize][node], bit);
            node = node << 1 | usize::from(bit);
        }
        to.plain(below, left);
    }

    /// Reads a number.
    pub fn get(&mut self, from: &mut Decoder<'_>) -> Result<u128, CoderError> {
        let length = self.lengths.get(from)?;
        if !(1..=129).contains(&length) {
            return Err(CoderError::Range);
        }
        let mut left = length - 1;
        let (mut node, mut below) = (1, 0_u128);
        while left > 0 && length - 1 - left < 2 {
            left -= 1;
            let bit = from.bit(&mut self.seconds[length as usize][node])?;
            node = node << 1 | usize::from(bit);
            below = below << 1 | u128::from(bit);
        }
        if left > 0 {
            below = below << left | from.plain(left)?;
        }
        match 1_u128.checked_shl(length - 1) {
            Some(first) => Ok((first | below) - 1),
            None if below == 0 => Ok(u128::MAX),
            None => Err(CoderError::Range),
        }
    }
}

/// Numbers below a known bound: up to ten highest bits by a tree, the others as they are.
#[derive(Debug, Clone)]
pub struct Below {
    bound: u64,
    plain: u32,
    tree: Tree,
}

impl Below {
    /// Makes a model of numbers below `bound`. A bound of 0 counts as 1.
    pub fn new(bound: u64) -> Self {
        let width = (64 - (bound.max(2) - 1).leading_zeros()).max(1);
        let top = width.min(10);
        Self {
            bound: bound.max(1),
            plain: width - top,
            tree: Tree::new(top),
        }
    }

    /// Writes a number, which is below the bound.
    pub fn put(&mut self, to: &mut Encoder, number: u64) {
        debug_assert!(number < self.bound);
        self.tree.put(to, (number >> self.plain) as u32);
        to.plain(u128::from(number), self.plain);
    }

    /// Reads a number.
    pub fn get(&mut self, from: &mut Decoder<'_>) -> Result<u64, CoderError> {
        let top = u64::from(self.tree.get(from)?);
        // At most 54 bits are plain, so the cast loses nothing.
        let number = top << self.plain | from.plain(self.plain)? as u64;
        if number < self.bound {
            Ok(number)
        } else {
            Err(CoderError::Range)
        }
    }
}
