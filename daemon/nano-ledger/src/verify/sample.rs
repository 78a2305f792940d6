//! The sample of L2: the newest blocks of some accounts.

use std::hash::{BuildHasher as _, RandomState};
use std::thread;

use crate::blocks::block::{Id, NONE, Signed};
use crate::blocks::chain::{Chain, Effect};
use crate::blocks::network::{Network, is_genesis};
use crate::blocks::schema::{self, Account, hex};
use crate::lmdb::tables::Table;
use crate::lmdb::tables::find;
use crate::random::Random;
use crate::summary::weights::Greatest;
use crate::verify::error::VerifyError;
use crate::verify::ledger::Ledger;
use crate::verify::options::Sample;
use crate::verify::outcomes::{Checks, unless};
use crate::verify::proofs::{Links, Proofs, skip_all, skip_links};
use crate::verify::representatives::Representatives;
use crate::verify::workers::threads;

/// Maximum number of accounts that are added for their representative, which is free to choose in a state block.
const MAX_SUSPECTS: u32 = 10_000;

/// The accounts of the sample: some at random, and those with the largest balances and weights.
pub(super) struct SampledAccounts {
    seed: u64,
    random: Random,
    wanted: u64,
    seen: u64,
    /// Every account so far with the same probability: reservoir sampling.
    random_ones: Vec<Id>,
    richest: Greatest,
    others: Vec<Id>,
    suspects: u32,
}

impl SampledAccounts {
    pub(super) fn new(sample: &Sample) -> Self {
        // The keys of hash maps are seeded from the system's randomness.
        let seed = sample
            .seed
            .unwrap_or_else(|| RandomState::new().hash_one(0));
        Self {
            seed,
            random: Random::new(seed),
            wanted: sample.accounts.into(),
            seen: 0,
            random_ones: Vec::new(),
            richest: Greatest::default(),
            others: Vec::new(),
            suspects: 0,
        }
    }

    pub(super) fn offer(&mut self, key: &Id, account: &Account) {
        if self.wanted == 0 {
            return;
        }
        self.seen += 1;
        self.richest.offer(account.balance, *key);
        if self.seen <= self.wanted {
            self.random_ones.push(*key);
        } else if let Ok(place) = usize::try_from(self.random.below(self.seen))
            && let Some(picked) = self.random_ones.get_mut(place)
        {
            *picked = *key;
        }
    }

    pub(super) fn add(&mut self, keys: impl Iterator<Item = Id>) {
        self.others.extend(keys);
    }

    /// Returns whether a sample was asked for.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted > 0
    }

    /// Adds an account whose representative is a block: its chain may have a receive that is stored as a change.
    pub(super) fn add_suspect(&mut self, key: Id) {
        if self.suspects < MAX_SUSPECTS {
            self.suspects += 1;
            self.others.push(key);
        }
    }

    fn keys(&self) -> Vec<Id> {
        let mut keys = self.random_ones.clone();
        keys.extend(self.richest.ids());
        keys.extend(&self.others);
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}

/// The checks that run on the sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SampleScope {
    /// The blocks and their order.
    All,
    /// The order of the blocks only; all blocks have been checked already.
    Links,
}

/// Checks the accounts of the sample.
pub(super) fn run(
    ledger: &Ledger<'_>,
    picked: Option<&SampledAccounts>,
    part: SampleScope,
    checks: &mut Checks,
) -> Result<(), VerifyError> {
    let sample = ledger.options.sample;
    let skip: fn(&str, &mut Checks) = match part {
        SampleScope::All => skip_all,
        SampleScope::Links => skip_links,
    };
    let picked = match (picked, ledger.unreadable_blocks()) {
        (_, Some(reason)) => {
            skip(&reason, checks);
            return Ok(());
        }
        (None, _) => {
            skip("the accounts cannot be read", checks);
            return Ok(());
        }
        (Some(_), _) if sample.accounts == 0 => {
            skip("no sample was asked for", checks);
            return Ok(());
        }
        (Some(picked), None) => picked,
    };
    let Some(inspector) = AccountInspector::new(ledger) else {
        skip("a table is missing", checks);
        return Ok(());
    };
    let keys = picked.keys();
    let share = keys.len().div_ceil(threads()).max(1);
    let pace = std::sync::Mutex::new(ledger.options.pace("sample", keys.len() as u64));
    let results: Vec<_> = thread::scope(|scope| {
        let started: Vec<_> = keys
            .chunks(share)
            .map(|keys| {
                let (inspector, pace) = (&inspector, &pace);
                scope.spawn(move || {
                    let (mut proofs, mut links) = (Proofs::default(), Links::default());
                    let mut representatives = Representatives::new(ledger.file, ledger.tables);
                    for key in keys {
                        pace.lock()
                            .unwrap_or_else(std::sync::PoisonError::into_inner)
                            .step()?;
                        ledger.options.go_on()?;
                        inspector.account(key, &mut proofs, &mut links, &mut representatives)?;
                    }
                    Ok((proofs, links))
                })
            })
            .collect();
        started
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    });
    let (mut proofs, mut links) = (Proofs::default(), Links::default());
    for result in results {
        // Unreadable pages are a finding of their own; other findings are dropped then.
        match result {
            Ok((more_proofs, more_links)) => {
                proofs.append(more_proofs);
                links.append(more_links);
            }
            Err(error) => {
                checks.run::<(), VerifyError>("block-hashes", Err(error))?;
                return Ok(());
            }
        }
    }
    let of_sample = format!(
        " in a sample of {} accounts, seed {}",
        links.accounts, picked.seed
    );
    let newest = format!(", their newest {} blocks", sample.depth);
    match part {
        SampleScope::All => {
            proofs.report(&of_sample, checks);
            links.report(&newest, checks);
        }
        SampleScope::Links => links.report(&format!("{of_sample}{newest}"), checks),
    }
    checks.add(
        "receivables",
        unless(
            links.receivables.describe(),
            "a send behind every receive",
            || "the sends behind the receives of the sample".into(),
        ),
    );
    Ok(())
}

/// The tables needed to check an account.
struct AccountInspector<'a> {
    ledger: &'a Ledger<'a>,
    accounts: &'a Table,
    blocks: &'a Table,
    heights: &'a Table,
    pending: &'a Table,
    pruned: &'a Table,
}

impl<'a> AccountInspector<'a> {
    fn new(ledger: &'a Ledger<'a>) -> Option<Self> {
        let table = |name| find(ledger.tables, name);
        Some(Self {
            ledger,
            accounts: table("accounts")?,
            blocks: table("blocks")?,
            heights: table("confirmation_height")?,
            pending: table("pending")?,
            pruned: table("pruned")?,
        })
    }

    fn get(&self, table: &Table, key: &[u8]) -> Result<Option<Vec<u8>>, VerifyError> {
        Ok(self.ledger.file.get(table, key)?)
    }

    /// Reads a block that is stored under its hash, without checking its proofs.
    fn block(&self, hash: &Id) -> Result<Option<Signed>, VerifyError> {
        let row = self.get(self.blocks, hash)?;
        Ok(row
            .and_then(|row| Signed::parse(&row))
            .filter(|signed| signed.hash == *hash))
    }

    fn is_pruned(&self, hash: &Id) -> Result<bool, VerifyError> {
        Ok(self.get(self.pruned, hash)?.is_some())
    }

    fn account(
        &self,
        key: &Id,
        proofs: &mut Proofs,
        links: &mut Links,
        representatives: &mut Representatives<'_>,
    ) -> Result<(), VerifyError> {
        let row = self.get(self.accounts, key)?;
        // Representatives need not have an account.
        let Some(row) = row.and_then(|row| Account::parse(&row)) else {
            return Ok(());
        };
        links.accounts += 1;
        let newest = self.newest(key, &row.head, proofs, links, representatives)?;
        let mut chain = None;
        let mut newest = newest.iter().rev();
        if let Some(oldest) = newest.clone().next()
            && oldest.block.previous != NONE
        {
            match self.block(&oldest.block.previous)? {
                Some(before) => chain = Some(Chain::at(&before.hash, &before.block)),
                // Pruned, or missing and reported already: the rest is checked without it.
                None => {
                    chain = Some(Chain::at(&oldest.hash, &oldest.block));
                    newest.next();
                }
            }
        }
        for signed in newest {
            let effect = links.follow(&mut chain, &signed.hash, &signed.block);
            if signed.block.height == 1 && signed.hash != row.open {
                links
                    .heads
                    .add(|| format!("account {} is opened by another block", hex(key)));
            }
            if let Effect::Receive {
                source,
                amount,
                epoch,
            } = effect
                && !is_genesis(self.ledger.network, &signed.hash)
                && !(self.ledger.network == Network::Unknown && source == *key)
            {
                self.source(&signed.hash, key, &source, amount, epoch, links)?;
            }
        }
        match chain {
            Some(chain) => links.head(key, &row, &chain),
            None => links
                .heads
                .add(|| format!("account {} has no last block", hex(key))),
        }
        self.confirmed(key, links)
    }

    /// The newest blocks of an account, newest first.
    fn newest(
        &self,
        key: &Id,
        head: &Id,
        proofs: &mut Proofs,
        links: &mut Links,
        representatives: &mut Representatives<'_>,
    ) -> Result<Vec<Signed>, VerifyError> {
        let mut found = Vec::new();
        let mut hash = *head;
        for _ in 0..self.ledger.options.sample.depth.max(1) {
            let Some(row) = self.get(self.blocks, &hash)? else {
                if !self.is_pruned(&hash)? {
                    links
                        .chains
                        .add(|| format!("block {} of account {} is missing", hex(&hash), hex(key)));
                }
                break;
            };
            let Some(signed) = proofs.check(&hash, &row, self.ledger.network) else {
                break;
            };
            proofs.representative(&signed, representatives)?;
            if signed.block.account != *key {
                links.chains.add(|| {
                    format!(
                        "block {} in the chain of account {} is another's",
                        hex(&hash),
                        hex(key)
                    )
                });
                break;
            }
            hash = signed.block.previous;
            found.push(signed);
            if hash == NONE {
                break;
            }
        }
        Ok(found)
    }

    /// Checks a receive against the send that it names.
    fn source(
        &self,
        hash: &Id,
        account: &Id,
        source: &Id,
        amount: u128,
        epoch: u8,
        links: &mut Links,
    ) -> Result<(), VerifyError> {
        let fault = match self.block(source)? {
            None if self.is_pruned(source)? => None,
            None => Some("has no source"),
            Some(send) => {
                let before = self.block(&send.block.previous)?;
                let before = before.map(|before| Chain::at(&before.hash, &before.block));
                let (chain, effect) = Chain::follow(before.as_ref(), &send.hash, &send.block);
                match effect {
                    Ok(Effect::Send { destination, .. }) if destination != *account => {
                        Some("takes what was sent to another account")
                    }
                    Ok(Effect::Send { amount: sent, .. }) if sent != amount => {
                        Some("takes another amount than was sent")
                    }
                    Ok(Effect::Send { .. }) if chain.epoch != epoch => {
                        Some("notes another epoch than its send's")
                    }
                    Ok(Effect::Send { .. }) => None,
                    // The send's own previous block may be pruned.
                    _ if before.is_none() && self.is_pruned(&send.block.previous)? => None,
                    _ => Some("takes what is no send"),
                }
            }
        };
        let fault = match fault {
            None if self
                .get(self.pending, &[*account, *source].concat())?
                .is_some() =>
            {
                Some("takes what is still receivable")
            }
            fault => fault,
        };
        if let Some(fault) = fault {
            links
                .receivables
                .add(|| format!("block {} {fault}", hex(hash)));
        }
        Ok(())
    }

    /// Checks that the confirmed block of an account is the one at its confirmation height.
    fn confirmed(&self, key: &Id, links: &mut Links) -> Result<(), VerifyError> {
        let row = self.get(self.heights, key)?;
        let Some(confirmed) = row.and_then(|row| schema::parse_height(&row)) else {
            return Ok(());
        };
        let is_right = if confirmed.height == 0 {
            confirmed.frontier == NONE
        } else {
            self.is_pruned(&confirmed.frontier)?
                || self.block(&confirmed.frontier)?.is_some_and(|signed| {
                    signed.block.account == *key && signed.block.height == confirmed.height
                })
        };
        if !is_right {
            links.confirmed.add(|| {
                format!(
                    "the confirmed block of account {} is not the one at height {}",
                    hex(key),
                    confirmed.height
                )
            });
        }
        Ok(())
    }
}
