//! Blocks as the node stores them: type, block, and the *sideband* with the data that the node derived.
//!
//! Layouts and hashes after nano-node's `nano/lib/blocks.cpp`, store versions 21 to 24.

use blake2::digest::consts::U32;
use blake2::{Blake2b, Digest as _};

use crate::blocks::schema::ID_LEN;
use crate::bytes::{array_at, joined, u64_at, u64_be_at, u128_be_at};

/// An account, block hash, representative or link.
pub(crate) type Id = [u8; ID_LEN];

/// The value of an absent id.
pub(crate) const NONE: Id = [0; ID_LEN];

/// The kinds of blocks; state blocks replaced the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlockKind {
    Send,
    Receive,
    Open,
    Change,
    State,
}

impl BlockKind {
    /// The type byte before a stored block.
    pub(crate) fn parse(byte: u8) -> Option<Self> {
        Some(match byte {
            2 => Self::Send,
            3 => Self::Receive,
            4 => Self::Open,
            5 => Self::Change,
            6 => Self::State,
            _ => return None,
        })
    }

    pub(crate) fn byte(self) -> u8 {
        match self {
            Self::Send => 2,
            Self::Receive => 3,
            Self::Open => 4,
            Self::Change => 5,
            Self::State => 6,
        }
    }

    /// Bytes of a row: type, hashed fields, signature 64, work 8, sideband.
    fn row_len(self) -> usize {
        match self {
            Self::State => 1 + 216 + 50,
            Self::Open => 1 + 168 + 56,
            Self::Send => 1 + 152 + 80,
            Self::Receive | Self::Change => 1 + 136 + 96,
        }
    }

    /// Bytes that are hashed, from the first after the type.
    fn hashed_len(self) -> usize {
        match self {
            Self::State => 144,
            Self::Open => 96,
            Self::Send => 80,
            Self::Receive | Self::Change => 64,
        }
    }
}

/// Details of a state block in its sideband: a send.
pub(crate) const SEND: u8 = 0x80;
/// A receive.
pub(crate) const RECEIVE: u8 = 0x40;
/// An epoch upgrade.
pub(crate) const EPOCH: u8 = 0x20;
/// The bits of the details that hold the epoch.
const EPOCH_BITS: u8 = 0x1F;
/// How epoch 0 is written; the later ones follow.
pub(crate) const EPOCH_0: u8 = 2;

/// A stored block, in one form for all kinds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) kind: BlockKind,
    pub(crate) account: Id,
    /// Position in the account's chain, from 1.
    pub(crate) height: u64,
    /// Zero for the first block of an account.
    pub(crate) previous: Id,
    /// Zero for the last.
    pub(crate) successor: Id,
    /// Zero where a kind has none: the account keeps the one it had.
    pub(crate) representative: Id,
    /// The account's balance after the block.
    pub(crate) balance: u128,
    /// Destination of a send, source of a receive or open, link of a state block.
    pub(crate) link: Id,
    /// Of state blocks; as epoch 0 without any flag for others.
    pub(crate) details: u8,
    /// The epoch of the send that a state block receives, [`EPOCH_0`] for all else.
    pub(crate) source_epoch: u8,
}

/// A block with its hash, signature and work.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Signed {
    pub(crate) block: Block,
    pub(crate) hash: Id,
    pub(crate) signature: [u8; 64],
    pub(crate) work: u64,
}

impl Block {
    /// Returns the input of the proof of work: the previous block, or the account for its first block.
    pub(crate) fn root(&self) -> Id {
        if self.previous == NONE {
            self.account
        } else {
            self.previous
        }
    }

    /// The epoch in the details: 0, 1 or 2; `None` for anything else.
    pub(crate) fn epoch(&self) -> Option<u8> {
        epoch(self.details & EPOCH_BITS)
    }

    /// Bytes of the form for sorting.
    pub(crate) const SORTED_LEN: usize = 5 * ID_LEN + 8 + 16 + 3 + ID_LEN;

    /// Encodes account, height and the rest, so that records sort by chain.
    pub(crate) fn to_sorted(self, hash: &Id) -> [u8; Self::SORTED_LEN] {
        joined(&[
            &self.account,
            &self.height.to_be_bytes(),
            hash,
            &self.previous,
            &self.successor,
            &self.representative,
            &self.balance.to_be_bytes(),
            &self.link,
            &[self.kind.byte(), self.details, self.source_epoch],
        ])
    }

    /// Reads what [`to_sorted`](Self::to_sorted) wrote.
    pub(crate) fn from_sorted(bytes: &[u8; Self::SORTED_LEN]) -> Option<(Id, Self)> {
        let block = Self {
            account: array_at(bytes, 0)?,
            height: u64_be_at(bytes, 32)?,
            previous: array_at(bytes, 72)?,
            successor: array_at(bytes, 104)?,
            representative: array_at(bytes, 136)?,
            balance: u128_be_at(bytes, 168)?,
            link: array_at(bytes, 184)?,
            kind: BlockKind::parse(*bytes.get(216)?)?,
            details: *bytes.get(217)?,
            source_epoch: *bytes.get(218)?,
        };
        Some((array_at(bytes, 40)?, block))
    }
}

/// An epoch as stored: 0, 1 or 2; `None` for anything else.
pub(crate) fn epoch(stored: u8) -> Option<u8> {
    stored.checked_sub(EPOCH_0).filter(|epoch| *epoch <= 2)
}

impl Signed {
    /// Reads a row of the table `blocks`; `None` when it is none.
    pub(crate) fn parse(row: &[u8]) -> Option<Self> {
        let (kind, body) = row.split_first()?;
        let kind = BlockKind::parse(*kind)?;
        if row.len() != kind.row_len() {
            return None;
        }
        let hashed = kind.hashed_len();
        // Work: state blocks write it big-endian, the others little-endian.
        let work = if kind == BlockKind::State {
            u64_be_at(body, hashed + 64)?
        } else {
            u64_at(body, hashed + 64)?
        };
        // The sideband: successor, then what the block itself does not say.
        let side = hashed + 72;
        let first: Id = array_at(body, 0)?;
        let mut block = Block {
            kind,
            account: NONE,
            height: 1,
            previous: first,
            successor: array_at(body, side)?,
            representative: NONE,
            balance: 0,
            link: NONE,
            details: EPOCH_0,
            source_epoch: EPOCH_0,
        };
        if !matches!(kind, BlockKind::State | BlockKind::Open) {
            block.account = array_at(body, side + 32)?;
            block.height = u64_be_at(body, side + 64)?;
        }
        match kind {
            BlockKind::State => {
                block.account = first;
                block.previous = array_at(body, 32)?;
                block.representative = array_at(body, 64)?;
                block.balance = u128_be_at(body, 96)?;
                block.link = array_at(body, 112)?;
                block.height = u64_be_at(body, side + 32)?;
                block.details = *body.get(side + 48)?;
                block.source_epoch = *body.get(side + 49)?;
            }
            BlockKind::Send => {
                block.link = array_at(body, 32)?;
                block.balance = u128_be_at(body, 64)?;
            }
            BlockKind::Receive => {
                block.link = array_at(body, 32)?;
                block.balance = u128_be_at(body, side + 72)?;
            }
            BlockKind::Change => {
                block.representative = array_at(body, 32)?;
                block.balance = u128_be_at(body, side + 72)?;
            }
            BlockKind::Open => {
                block.previous = NONE;
                block.link = first;
                block.representative = array_at(body, 32)?;
                block.account = array_at(body, 64)?;
                block.balance = u128_be_at(body, side + 32)?;
            }
        }
        Some(Self {
            block,
            hash: hash(kind, body.get(..hashed)?),
            signature: array_at(body, hashed)?,
            work,
        })
    }
}

/// The hash of a block: Blake2b-256, of state blocks with a preamble that no other kind begins with.
fn hash(kind: BlockKind, fields: &[u8]) -> Id {
    let mut hasher = Blake2b::<U32>::new();
    if kind == BlockKind::State {
        let mut preamble = NONE;
        let [.., last] = &mut preamble;
        *last = kind.byte();
        hasher.update(preamble);
    }
    hasher.update(fields);
    hasher.finalize().into()
}
