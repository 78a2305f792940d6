//! The rules by which an account's blocks follow one another.
//!
//! Follows `ledger_processor` of nano-node's `nano/secure/ledger.cpp`: the node's checks and the data it stores with a
//! block are computed again here. Times are not checked: they are from the node's own clock, which may be set back.

use crate::blocks::block::{self, Block, BlockKind, EPOCH, Id, NONE, RECEIVE, SEND};
use crate::blocks::proof::epoch_of_link;

/// The end of an account's chain so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chain {
    pub(crate) hash: Id,
    pub(crate) height: u64,
    pub(crate) successor: Id,
    pub(crate) balance: u128,
    /// `None` where it was set before the blocks looked at.
    pub(crate) representative: Option<Id>,
    /// 0, 1 or 2.
    pub(crate) epoch: u8,
    is_state: bool,
}

/// The effect of a block on other accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing.
    None,
    /// Makes an amount receivable by the destination.
    Send { destination: Id, amount: u128 },
    /// Takes what a send made receivable, which was at that epoch.
    Receive { source: Id, amount: u128, epoch: u8 },
}

/// A violation of the rules.
pub(crate) type Breach = &'static str;

impl Chain {
    /// The state after a block whose predecessors are not looked at.
    pub(crate) fn at(hash: &Id, block: &Block) -> Self {
        Self {
            hash: *hash,
            height: block.height,
            successor: block.successor,
            balance: block.balance,
            representative: match block.kind {
                BlockKind::State | BlockKind::Open | BlockKind::Change => {
                    Some(block.representative)
                }
                BlockKind::Send | BlockKind::Receive => None,
            },
            epoch: block.epoch().unwrap_or(0),
            is_state: block.kind == BlockKind::State,
        }
    }

    /// Appends a block to the chain `before` (`None` for an account's first block). After a violation the chain continues
    /// from this block.
    pub(crate) fn follow(
        before: Option<&Self>,
        hash: &Id,
        block: &Block,
    ) -> (Self, Result<Effect, Breach>) {
        let mut chain = Self::at(hash, block);
        if let Some(before) = before {
            chain.representative = chain.representative.or(before.representative);
            if block.kind != BlockKind::State {
                chain.epoch = before.epoch;
            }
        }
        let effect = position(before, block).and_then(|()| match block.kind {
            BlockKind::State => state(before, &mut chain, block),
            _ => legacy(before, block),
        });
        (chain, effect)
    }
}

/// Checks that the block follows the previous one at the stated height.
fn position(before: Option<&Chain>, block: &Block) -> Result<(), Breach> {
    let opens = matches!(block.kind, BlockKind::Open | BlockKind::State);
    match before {
        None if block.height != 1 => Err("the chain does not begin at height 1"),
        None if block.previous != NONE || !opens => Err("the first block opens no account"),
        None => Ok(()),
        Some(before) if before.height.checked_add(1) != Some(block.height) => {
            Err("its height does not follow its predecessor's")
        }
        Some(before) if block.previous != before.hash => {
            Err("its previous block is not the one before it")
        }
        Some(_) if block.kind == BlockKind::Open => Err("it opens an account that is open"),
        Some(before) if before.is_state && block.kind != BlockKind::State => {
            Err("it is of a kind that cannot follow a state block")
        }
        Some(_) => Ok(()),
    }
}

fn legacy(before: Option<&Chain>, block: &Block) -> Result<Effect, Breach> {
    let balance = before.map_or(0, |before| before.balance);
    let received = |amount: Option<u128>| {
        let amount = amount.ok_or("the balance falls by a receive")?;
        Ok(Effect::Receive {
            source: block.link,
            amount,
            epoch: 0,
        })
    };
    match block.kind {
        BlockKind::Send => Ok(Effect::Send {
            destination: block.link,
            amount: balance
                .checked_sub(block.balance)
                .ok_or("the balance rises by a send")?,
        }),
        BlockKind::Change if block.balance == balance => Ok(Effect::None),
        BlockKind::Change => Err("the balance changes without a send or receive"),
        BlockKind::Receive | BlockKind::Open | BlockKind::State => {
            received(block.balance.checked_sub(balance))
        }
    }
}

fn state(before: Option<&Chain>, chain: &mut Chain, block: &Block) -> Result<Effect, Breach> {
    let balance = before.map_or(0, |before| before.balance);
    let epoch = before.map_or(0, |before| before.epoch);
    let details = |flag: u8, epoch: u8| {
        if block.details == flag | (block::EPOCH_0 + epoch) {
            Ok(())
        } else {
            Err("its details are not what the block does")
        }
    };
    let source = block::epoch(block.source_epoch).ok_or("its source epoch is none")?;
    let upgrade = epoch_of_link(&block.link).filter(|_| block.balance == balance);
    let is_receive = upgrade.is_none() && block.balance >= balance && block.link != NONE;
    if !is_receive && source != 0 {
        return Err("it has a source epoch without receiving");
    }
    if let Some(upgrade) = upgrade {
        chain.epoch = upgrade;
        details(EPOCH, upgrade)?;
        let representative = before.map_or(Some(NONE), |before| before.representative);
        if representative.is_some_and(|representative| block.representative != representative) {
            return Err("an epoch upgrade changes the representative");
        }
        // An account without blocks may start in any epoch.
        if before.is_some() && upgrade != epoch + 1 {
            return Err("an epoch upgrade leaves one out or goes back");
        }
        return Ok(Effect::None);
    }
    if let Some(amount) = balance
        .checked_sub(block.balance)
        .filter(|amount| *amount > 0)
    {
        chain.epoch = epoch;
        details(SEND, epoch)?;
        return Ok(Effect::Send {
            destination: block.link,
            amount,
        });
    }
    if is_receive {
        chain.epoch = epoch.max(source);
        details(RECEIVE, chain.epoch)?;
        return Ok(Effect::Receive {
            source: block.link,
            amount: block.balance.saturating_sub(balance),
            epoch: source,
        });
    }
    chain.epoch = epoch;
    if block.balance != balance {
        return Err("the balance rises without a source");
    }
    if before.is_none() {
        return Err("an account is opened without receiving");
    }
    details(0, epoch)?;
    Ok(Effect::None)
}
