//! Sealing: consecutive segments as one, by their columns alone, without ledger, hashes or state.

use std::collections::BTreeMap;

use thiserror::Error;

use crate::dictionary::{Dictionary, Keys};
use crate::error::SegmentError;
use crate::proofs::Proofs;
use crate::runs::{Block, Key, Runs};
use crate::segment::Segment;

/// Why segments cannot become one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SealError {
    /// There is none, or one of another network.
    #[error("the segments are not of one network")]
    Network,
    /// A segment is no tail: it needs a dictionary.
    #[error("only tails are sealed, and this segment needs a dictionary")]
    NotTail,
    /// A segment does not begin where the one before ends.
    #[error("a segment begins at {have} where {want} comes next")]
    Position {
        /// Where the one before ends.
        want: u64,
        /// Where this one begins.
        have: u64,
    },
    /// An account's blocks do not go on where they ended.
    #[error("the blocks of account {account:?} leave a gap")]
    HeightGap {
        /// The account.
        account: Key,
    },
    /// Proofs are for another number of blocks.
    #[error("there are proofs of {have} blocks for a segment of {want}")]
    Proofs {
        /// Blocks of the segment.
        want: usize,
        /// Blocks of the proofs.
        have: usize,
    },
    /// The whole is no segment.
    #[error("the tails together are no segment")]
    Segment(#[from] SegmentError),
}

/// Makes one segment of consecutive tails. Its new keys are those that `dictionary` lacks.
pub fn seal(
    tails: &[(Segment, Proofs)],
    dictionary: &impl Dictionary,
) -> Result<(Segment, Proofs), SealError> {
    let Some((first, _)) = tails.first() else {
        return Err(SealError::Network);
    };
    let mut position = first.from();
    // For each account its next height and, in order, its blocks: tail, index in the tail, block.
    let mut accounts: BTreeMap<Key, Account> = BTreeMap::new();
    for (at, (tail, proofs)) in tails.iter().enumerate() {
        if tail.genesis() != first.genesis() {
            return Err(SealError::Network);
        }
        if tail.known() > 0 {
            return Err(SealError::NotTail);
        }
        if tail.from() != position {
            return Err(SealError::Position {
                want: position,
                have: tail.from(),
            });
        }
        position = tail.to();
        let (runs, places) = tail.keyed(&Keys::default());
        if proofs.len() != places.len() {
            return Err(SealError::Proofs {
                want: places.len(),
                have: proofs.len(),
            });
        }
        for run in runs.iter() {
            let account = accounts.entry(run.account).or_insert_with(|| Account {
                first_height: run.first_height,
                blocks: Vec::new(),
            });
            if account.first_height + account.blocks.len() as u64 != run.first_height {
                return Err(SealError::HeightGap {
                    account: run.account,
                });
            }
            let origins = places[run.start..]
                .iter()
                .map(|&place| Origin { tail: at, place });
            account
                .blocks
                .extend(run.blocks.iter().copied().zip(origins));
        }
    }
    let (mut runs, mut origins) = (Runs::default(), Vec::new());
    for (&key, account) in &accounts {
        let blocks = account.blocks.iter().map(|(block, _)| *block);
        runs.push(key, account.first_height, blocks)
            .map_err(SegmentError::from)?;
        origins.extend(account.blocks.iter().map(|(_, origin)| *origin));
    }
    let (segment, order) = Segment::number(first.genesis(), first.from(), &runs, dictionary)?;
    let mut proofs = Proofs::default();
    for index in order {
        let Origin { tail, place } = origins[index as usize];
        // Each tail has as many proofs as blocks.
        if let Some((work, signature)) = tails[tail].1.get(place as usize) {
            proofs.push(work, *signature);
        }
    }
    Ok((segment, proofs))
}

struct Account {
    first_height: u64,
    blocks: Vec<(Block<Key>, Origin)>,
}

#[derive(Clone, Copy)]
struct Origin {
    tail: usize,
    place: u32,
}
