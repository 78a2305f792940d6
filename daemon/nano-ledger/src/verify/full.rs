//! The checks of L3: every block, and everything the node derives from blocks.
//!
//! There are three passes, and each reads what the previous one sorted:
//!
//! 1. all blocks by hash, as they are stored, with their proofs ([`workers`](super::workers));
//! 2. the blocks of each account in order, beside the rows of `accounts` and `confirmation_height`;
//! 3. all sends beside the receives and the rows of `pending` ([`moves`](super::moves)).
//!
//! There are no random lookups, and memory does not depend on the size of the ledger. The proofs, by far the most work,
//! are checked on all cores.

use std::path::Path;

use crate::blocks::block::{Block, Id, NONE};
use crate::blocks::chain::{Chain, Effect};
use crate::blocks::network::{Network, is_genesis};
use crate::blocks::schema::{Account, Height, SUPPLY, hex};
use crate::blocks::sort::Sorted;
use crate::findings::Findings;
use crate::lmdb::tables::{Table, find};
use crate::summary::scan::{next_account, next_height};
use crate::verify::error::VerifyError;
use crate::verify::ledger::Ledger;
use crate::verify::moves::{Move, MoveKind, Moves, match_moves};
use crate::verify::outcomes::{Checks, skipped, unless};
use crate::verify::proofs::{Links, Proofs, skip_all};
use crate::verify::sample::{self, SampleScope, SampledAccounts};
use crate::verify::workers::{Blocks, prove};

/// Runs the three passes. The last two are not possible for a pruned ledger; the accounts `picked` are checked instead.
pub(super) fn run(
    ledger: &Ledger<'_>,
    picked: Option<&SampledAccounts>,
    checks: &mut Checks,
) -> Result<(), VerifyError> {
    let table = |name| find(ledger.tables, name);
    let (Some(blocks), Some(accounts), Some(heights), Some(pending)) = (
        table("blocks"),
        table("accounts"),
        table("confirmation_height"),
        table("pending"),
    ) else {
        skip_all("a table is missing", checks);
        return Ok(());
    };
    if let Some(reason) = ledger.unreadable_blocks() {
        skip_all(&reason, checks);
        return Ok(());
    }
    let scratch = ledger
        .options
        .scratch
        .or_else(|| ledger.file.path().parent())
        .filter(|dir| !dir.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    // Two sorters are in use at a time.
    let memory = ledger.options.memory / 2;

    let mut sorter = Blocks::new(memory, scratch);
    let mut proofs = Proofs::default();
    let read = prove(ledger, blocks, &mut sorter, &mut proofs);
    if let Err(error) = read {
        checks.run::<(), _>("block-hashes", Err(error))?;
        return Ok(());
    }
    proofs.report("", checks);
    if table("pruned").is_some_and(|pruned| pruned.tree.entries() > 0) {
        sample::run(ledger, picked, SampleScope::Links, checks)?;
        checks.add("cementing", skipped("blocks were pruned from this ledger"));
        return Ok(());
    }

    let mut moves = Moves::new(memory, scratch);
    let mut chains = Chains {
        ledger,
        links: Links::default(),
        genesis: Findings::default(),
        has_genesis: false,
    };
    let walked = chains.walk(sorter.finish()?, accounts, heights, &mut moves);
    if let Err(error) = walked {
        checks.run::<(), _>("chains", Err(error))?;
        return Ok(());
    }
    let Chains { links, genesis, .. } = chains;
    links.report("", checks);

    let matched = match_moves(ledger, pending, moves, genesis);
    let cementing = checks.run(
        "receivables",
        matched.map(|(receivables, cementing)| {
            let outcome = unless(
                receivables.describe(),
                "every send either received once or receivable, as its rows say",
                || "every send, receive and receivable".into(),
            );
            (outcome, cementing)
        }),
    )?;
    if let Some(cementing) = cementing {
        let outcome = unless(
            cementing.describe(),
            "only what depends on cemented blocks is cemented",
            || "every cemented receive".into(),
        );
        checks.add("cementing", outcome);
    }
    Ok(())
}

/// The second pass: accounts and their blocks.
struct Chains<'a> {
    ledger: &'a Ledger<'a>,
    links: Links,
    genesis: Findings,
    has_genesis: bool,
}

/// The sorted blocks, with the next one read ahead.
struct BlockQueue {
    sorted: Sorted<{ Block::SORTED_LEN }>,
    next: Option<(Id, Block)>,
}

impl BlockQueue {
    fn new(sorted: Sorted<{ Block::SORTED_LEN }>) -> Result<Self, VerifyError> {
        let mut queue = Self { sorted, next: None };
        queue.advance()?;
        Ok(queue)
    }

    fn advance(&mut self) -> Result<(), VerifyError> {
        let record = self.sorted.next()?;
        self.next = record.and_then(|record| Block::from_sorted(&record));
        Ok(())
    }

    /// Returns the next block and advances, if it belongs to the account.
    fn take(&mut self, account: &Id) -> Result<Option<(Id, Block)>, VerifyError> {
        let taken = self.next.filter(|(_, block)| block.account == *account);
        if taken.is_some() {
            self.advance()?;
        }
        Ok(taken)
    }
}

impl Chains<'_> {
    fn walk(
        &mut self,
        sorted: Sorted<{ Block::SORTED_LEN }>,
        accounts: &Table,
        heights: &Table,
        moves: &mut Moves,
    ) -> Result<(), VerifyError> {
        let file = self.ledger.file;
        let mut pace = self.ledger.options.pace("chains", accounts.tree.entries());
        let mut blocks = BlockQueue::new(sorted)?;
        let (mut rows, mut height_rows) = (file.entries(accounts), file.entries(heights));
        let mut row = next_account(file, &mut rows)?;
        let mut height = next_height(file, &mut height_rows)?;
        loop {
            let with_blocks = blocks.next.map(|(_, block)| block.account);
            let with_row = row.map(|(key, _)| key);
            let Some(key) = with_blocks.into_iter().chain(with_row).min() else {
                break;
            };
            // The check of confirmation heights has reported heights of accounts that do not exist.
            while height.is_some_and(|(owner, _)| owner < key) {
                height = next_height(file, &mut height_rows)?;
            }
            let confirmed = height.filter(|(owner, _)| *owner == key);
            let own = row.filter(|(owner, _)| *owner == key);
            self.account(
                &key,
                own.map(|(_, row)| row),
                confirmed.map(|(_, height)| height),
                &mut blocks,
                moves,
            )?;
            if own.is_some() {
                row = next_account(file, &mut rows)?;
                pace.step()?;
            }
        }
        if !self.has_genesis {
            self.genesis
                .add(|| "there is no block that opens the genesis account".into());
        }
        Ok(())
    }

    fn account(
        &mut self,
        key: &Id,
        row: Option<Account>,
        confirmed: Option<Height>,
        blocks: &mut BlockQueue,
        moves: &mut Moves,
    ) -> Result<(), VerifyError> {
        self.links.accounts += 1;
        let mut chain = None;
        let height = confirmed.map_or(0, |confirmed| confirmed.height);
        let mut is_confirmed =
            confirmed.is_none_or(|confirmed| confirmed.height == 0 && confirmed.frontier == NONE);
        let mut opened_by = None;
        let mut steps = 0_u64;
        while let Some((hash, block)) = blocks.take(key)? {
            let effect = self.links.follow(&mut chain, &hash, &block);
            opened_by.get_or_insert(hash);
            is_confirmed |= confirmed.is_some_and(|confirmed| {
                confirmed.height == block.height && confirmed.frontier == hash
            });
            let is_cemented = block.height <= height;
            let epoch = chain.as_ref().map_or(0, |chain: &Chain| chain.epoch);
            match effect {
                Effect::None => {}
                Effect::Send {
                    destination,
                    amount,
                } => {
                    let sent = Move {
                        send: hash,
                        kind: MoveKind::Sent,
                        receiver: destination,
                        amount,
                        epoch,
                        is_cemented,
                        sender: *key,
                    };
                    moves.push(sent.to_bytes())?;
                }
                Effect::Receive { source, amount, .. }
                    if self.is_genesis(&hash, &block, &source, amount) =>
                {
                    if self.has_genesis || amount != SUPPLY || !is_cemented {
                        self.genesis.add(|| {
                            format!(
                                "block {} is no genesis of all there is, cemented",
                                hex(&hash)
                            )
                        });
                    }
                    self.has_genesis = true;
                }
                Effect::Receive {
                    source,
                    amount,
                    epoch,
                } => {
                    let received = Move {
                        send: source,
                        kind: MoveKind::Received,
                        receiver: *key,
                        amount,
                        epoch,
                        is_cemented,
                        sender: NONE,
                    };
                    moves.push(received.to_bytes())?;
                }
            }
            steps += 1;
            if steps.is_multiple_of(1024) {
                self.ledger.options.go_on()?;
            }
        }
        match (row, chain) {
            (None, _) => self
                .links
                .heads
                .add(|| format!("there are blocks of account {}, but no row", hex(key))),
            (Some(_), None) => self
                .links
                .heads
                .add(|| format!("account {} has a row, but no blocks", hex(key))),
            (Some(row), Some(chain)) => {
                self.links.head(key, &row, &chain);
                if opened_by != Some(row.open) {
                    self.links
                        .heads
                        .add(|| format!("account {} is opened by another block", hex(key)));
                }
            }
        }
        if !is_confirmed {
            self.links.confirmed.add(|| {
                format!(
                    "the confirmed block of account {} is not the one at height {height}",
                    hex(key)
                )
            });
        }
        Ok(())
    }

    /// Returns whether this is the genesis block, which receives without a send.
    fn is_genesis(&self, hash: &Id, block: &Block, source: &Id, amount: u128) -> bool {
        match self.ledger.network {
            Network::Unknown => block.height == 1 && *source == block.account && amount == SUPPLY,
            network => is_genesis(network, hash),
        }
    }
}
