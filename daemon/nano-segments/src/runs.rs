//! Differences: for some accounts, their blocks of consecutive heights.

use std::fmt;
use std::ops::Range;

use thiserror::Error;

/// The greatest height of a block. Nothing comes near it; it keeps sums of heights in range.
pub const MAX_HEIGHT: u64 = 1 << 62;

/// 32 bytes that name an account: of a run, as destination, or as representative.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub [u8; 32]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

/// The number of a key: that of the dictionary, or above it the rank among the new keys of a segment.
pub type Number = u64;

/// A block without what follows from its account's earlier blocks: previous, balance, height, epoch, link, hash. `K` is [`Key`] or [`Number`].
#[expect(
    missing_docs,
    reason = "destination, amount, source and representative are Nano's words"
)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Block<K> {
    /// Legacy send.
    Send { destination: K, amount: Amount },
    /// Legacy receive.
    Receive { source: Source<K> },
    /// Legacy open.
    Open {
        source: Source<K>,
        representative: K,
    },
    /// Legacy change.
    Change { representative: K },
    /// State send. The representative of this and the next two is named exactly if it differs from the account's.
    StateSend {
        destination: K,
        amount: Amount,
        representative: Option<K>,
    },
    /// State receive, or open.
    StateReceive {
        source: Source<K>,
        representative: Option<K>,
    },
    /// State block that moves nothing.
    StateChange { representative: Option<K> },
    /// Upgrade to epoch 1.
    Epoch1,
    /// Upgrade to epoch 2.
    Epoch2,
}

/// What a send takes from the balance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// All of it, which is not zero.
    Whole,
    /// This many raw.
    Raw(u128),
}

/// What a receive receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source<K> {
    /// The supply, by the genesis block.
    Genesis,
    /// The send at this height, from 1, of this account.
    #[expect(missing_docs, reason = "the line above")]
    Send { account: K, height: u64 },
}

impl<K: Copy> Block<K> {
    /// Returns the representative that is named.
    pub fn representative(&self) -> Option<K> {
        match *self {
            Self::Open { representative, .. } | Self::Change { representative } => {
                Some(representative)
            }
            Self::StateSend { representative, .. }
            | Self::StateReceive { representative, .. }
            | Self::StateChange { representative } => representative,
            Self::Send { .. } | Self::Receive { .. } | Self::Epoch1 | Self::Epoch2 => None,
        }
    }

    /// Returns the destination and the amount of a send.
    pub fn send(&self) -> Option<(K, Amount)> {
        match *self {
            Self::Send {
                destination,
                amount,
            }
            | Self::StateSend {
                destination,
                amount,
                ..
            } => Some((destination, amount)),
            _ => None,
        }
    }

    /// Returns the source of a receive or open.
    pub fn source(&self) -> Option<Source<K>> {
        match *self {
            Self::Receive { source }
            | Self::Open { source, .. }
            | Self::StateReceive { source, .. } => Some(source),
            _ => None,
        }
    }

    /// Returns this block with each key replaced by what `f` makes of it.
    pub fn map<L>(&self, mut f: impl FnMut(K) -> L) -> Block<L> {
        let source = |source, f: &mut dyn FnMut(K) -> L| match source {
            Source::Genesis => Source::Genesis,
            Source::Send { account, height } => Source::Send {
                account: f(account),
                height,
            },
        };
        match *self {
            Self::Send {
                destination,
                amount,
            } => Block::Send {
                destination: f(destination),
                amount,
            },
            Self::Receive { source: s } => Block::Receive {
                source: source(s, &mut f),
            },
            Self::Open {
                source: s,
                representative,
            } => Block::Open {
                source: source(s, &mut f),
                representative: f(representative),
            },
            Self::Change { representative } => Block::Change {
                representative: f(representative),
            },
            Self::StateSend {
                destination,
                amount,
                representative,
            } => Block::StateSend {
                destination: f(destination),
                amount,
                representative: representative.map(f),
            },
            Self::StateReceive {
                source: s,
                representative,
            } => Block::StateReceive {
                source: source(s, &mut f),
                representative: representative.map(f),
            },
            Self::StateChange { representative } => Block::StateChange {
                representative: representative.map(f),
            },
            Self::Epoch1 => Block::Epoch1,
            Self::Epoch2 => Block::Epoch2,
        }
    }
}

/// The blocks of one account in a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run<'a, K> {
    /// The account.
    pub account: K,
    /// The height of the first block, at least 1.
    pub first_height: u64,
    /// The index of the first block among all of the difference.
    pub start: usize,
    /// The blocks, at least one.
    pub blocks: &'a [Block<K>],
}

/// Why a run cannot be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RunsError {
    /// The account does not follow that of the run before.
    #[error("the accounts of runs do not ascend")]
    Order,
    /// There is no block.
    #[error("a run has no block")]
    Empty,
    /// A height is 0 or above [`MAX_HEIGHT`].
    #[error("a height is out of range")]
    Height,
    /// There are more blocks than 32 bits can count.
    #[error("too many blocks")]
    Count,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct RunHead<K> {
    account: K,
    first_height: u64,
    start: u32,
}

/// A difference: runs in ascending order of their accounts. A block's index counts the blocks of earlier runs and the earlier ones of its run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runs<K> {
    heads: Vec<RunHead<K>>,
    blocks: Vec<Block<K>>,
}

impl<K> Default for Runs<K> {
    fn default() -> Self {
        Self {
            heads: Vec::new(),
            blocks: Vec::new(),
        }
    }
}

impl<K: Copy + Ord> Runs<K> {
    /// Adds the run of the next account.
    pub fn push(
        &mut self,
        account: K,
        first_height: u64,
        blocks: impl IntoIterator<Item = Block<K>>,
    ) -> Result<(), RunsError> {
        if self
            .heads
            .last()
            .is_some_and(|last| last.account >= account)
        {
            return Err(RunsError::Order);
        }
        let start = self.blocks.len();
        self.blocks.extend(blocks);
        let count = self.blocks.len() - start;
        let fault = if count == 0 {
            Some(RunsError::Empty)
        } else if self.blocks.len() > u32::MAX as usize {
            Some(RunsError::Count)
        } else if first_height == 0
            || first_height
                .checked_add(count as u64)
                .is_none_or(|end| end > MAX_HEIGHT)
        {
            Some(RunsError::Height)
        } else {
            None
        };
        if let Some(fault) = fault {
            self.blocks.truncate(start);
            return Err(fault);
        }
        self.heads.push(RunHead {
            account,
            first_height,
            start: start as u32,
        });
        Ok(())
    }

    /// Returns how many runs there are.
    pub fn run_count(&self) -> usize {
        self.heads.len()
    }

    /// Returns all blocks, by index.
    pub fn blocks(&self) -> &[Block<K>] {
        &self.blocks
    }

    /// Returns the runs in order.
    pub fn iter(&self) -> impl Iterator<Item = Run<'_, K>> {
        (0..self.heads.len()).map(|at| self.run(at))
    }

    /// Returns the run at an index below [`Self::run_count`].
    pub fn run(&self, at: usize) -> Run<'_, K> {
        let head = &self.heads[at];
        let range = self.range(at);
        Run {
            account: head.account,
            first_height: head.first_height,
            start: range.start,
            blocks: &self.blocks[range],
        }
    }

    fn range(&self, at: usize) -> Range<usize> {
        let end = self
            .heads
            .get(at + 1)
            .map_or(self.blocks.len(), |next| next.start as usize);
        self.heads[at].start as usize..end
    }

    /// Returns the index of the block at this height of this account.
    pub fn index(&self, account: K, height: u64) -> Option<usize> {
        let at = self
            .heads
            .binary_search_by(|head| head.account.cmp(&account))
            .ok()?;
        let offset = height.checked_sub(self.heads[at].first_height)?;
        let range = self.range(at);
        (offset < range.len() as u64).then(|| range.start + offset as usize)
    }
}

impl<K: Copy + Ord> Runs<K> {
    /// Returns which run has the block with this index, which is below the number of blocks.
    pub(crate) fn run_of(&self, index: usize) -> usize {
        self.heads
            .partition_point(|head| head.start as usize <= index)
            - 1
    }

    /// Sets the sources of all receives, in order.
    pub(crate) fn set_sources(&mut self, sources: Vec<Source<K>>) {
        let receives = self.blocks.iter_mut().filter_map(Block::source_mut);
        for (to, source) in receives.zip(sources) {
            *to = source;
        }
    }
}

impl<K> Block<K> {
    fn source_mut(&mut self) -> Option<&mut Source<K>> {
        match self {
            Self::Receive { source }
            | Self::Open { source, .. }
            | Self::StateReceive { source, .. } => Some(source),
            _ => None,
        }
    }
}
