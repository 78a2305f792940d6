//! The first 112 bytes of a body.

use std::fmt;

use crate::error::SegmentError;

/// Length of the head in bytes.
pub const HEAD_LEN: usize = 112;
/// The most blocks of a segment.
pub const MAX_BLOCKS: u32 = 1 << 21;

const MAGIC: [u8; 8] = *b"NANOSEG1";

/// The columns of a body, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// New keys, 32 bytes each, ascending.
    Keys,
    /// Accounts and heights.
    Cut,
    /// Kinds of blocks, and whether each names a representative.
    Kinds,
    /// Distinct representatives, then which one each block names.
    Representatives,
    /// Destinations of sends.
    Destinations,
    /// Amounts of sends.
    Amounts,
    /// Sources of receives and opens.
    References,
}

impl Column {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Keys,
        Self::Cut,
        Self::Kinds,
        Self::Representatives,
        Self::Destinations,
        Self::Amounts,
        Self::References,
    ];
}

impl fmt::Display for Column {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keys => "keys",
            Self::Cut => "cut",
            Self::Kinds => "kinds",
            Self::Representatives => "representatives",
            Self::Destinations => "destinations",
            Self::Amounts => "amounts",
            Self::References => "references",
        })
    }
}

/// The counts of a body. Those that were read do not contradict each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The hash of the network's genesis block.
    pub genesis: [u8; 32],
    /// How many blocks are cemented before this segment.
    pub from: u64,
    /// How many keys of the dictionary the body may name; 0 for tails.
    pub known: u64,
    /// New keys.
    pub keys: u32,
    /// Accounts with blocks here.
    pub runs: u32,
    /// Blocks, 1 to [`MAX_BLOCKS`].
    pub blocks: u32,
    /// Distinct representatives that are named.
    pub representatives: u32,
    /// Lengths of the columns in bytes.
    pub lengths: [u32; 7],
}

impl Head {
    /// Returns the position after this segment.
    pub fn to(&self) -> u64 {
        self.from + u64::from(self.blocks)
    }

    /// Reads the head at the beginning of a body.
    pub fn read(body: &[u8]) -> Result<Self, SegmentError> {
        let bytes: &[u8; HEAD_LEN] = body.first_chunk().ok_or(SegmentError::Short)?;
        if bytes[..8] != MAGIC {
            return Err(SegmentError::Magic);
        }
        let mut genesis = [0; 32];
        genesis.copy_from_slice(&bytes[8..40]);
        let long = |at: usize| u64::from(word(bytes, at)) | u64::from(word(bytes, at + 4)) << 32;
        let head = Self {
            genesis,
            from: long(40),
            known: long(56),
            keys: word(bytes, 64),
            runs: word(bytes, 68),
            blocks: word(bytes, 72),
            representatives: word(bytes, 76),
            lengths: std::array::from_fn(|column| word(bytes, 84 + 4 * column)),
        };
        let blocks = head.blocks;
        let agree = (1..=MAX_BLOCKS).contains(&blocks)
            && head.from.checked_add(u64::from(blocks)) == Some(long(48))
            && (1..=blocks).contains(&head.runs)
            && head.representatives <= blocks
            && head.keys <= 3 * blocks
            && word(bytes, 80) == 0
            && head.known <= u64::MAX - u64::from(head.keys);
        if agree {
            Ok(head)
        } else {
            Err(SegmentError::Counts)
        }
    }

    /// Appends the head to `body`.
    pub fn write(&self, body: &mut Vec<u8>) {
        body.extend_from_slice(&MAGIC);
        body.extend_from_slice(&self.genesis);
        for long in [self.from, self.to(), self.known] {
            body.extend_from_slice(&long.to_le_bytes());
        }
        let words = [self.keys, self.runs, self.blocks, self.representatives, 0];
        for word in words.into_iter().chain(self.lengths) {
            body.extend_from_slice(&word.to_le_bytes());
        }
    }
}

/// The little-endian word at an offset, which is at most 108.
fn word(bytes: &[u8; HEAD_LEN], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
