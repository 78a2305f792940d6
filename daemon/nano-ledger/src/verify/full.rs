//! Every block, and everything the node derives from blocks.
//!
//! Three passes, each through what the one before sorted: all blocks as they are stored, by hash, with
//! their proofs; the blocks of each account in order beside the rows of `accounts` and
//! `confirmation_height`; all sends beside what took them and the rows of `pending`. So nothing is
//! ever looked up at random, and memory does not depend on the ledger. The proofs, by far the most
//! work, are checked on all cores.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::block::{self, Block, Id, NONE};
use crate::bytes::{array_at, joined, u128_be_at};
use crate::chain::{Chain, Effect};
use crate::file::Table;
use crate::scan::{Findings, next_account, next_height, next_pending};
use crate::schema::{Account, Height, ID_LEN, SUPPLY, hex};
use crate::sort::{Sorted, Sorter};
use crate::summary::{Network, find, is_genesis};
use crate::verify::VerifyError;
use crate::verify::checks::{Checks, Ledger, skipped, unless};
use crate::verify::options::Pace;
use crate::verify::proofs::{Links, Proofs, skip_all};
use crate::verify::representatives::Representatives;
use crate::verify::sample::{self, Part, Picked, threads};

/// Rows handed to another thread at a time.
const BATCH: usize = 256;

/// A send, a receive or a row of `pending`: hash of the send 32, what it is 1, receiving account 32,
/// amount 16, epoch of the send 1, whether it is cemented 1, sending account 32.
const MOVE_LEN: usize = ID_LEN + 1 + ID_LEN + 16 + 1 + 1 + ID_LEN;
/// What a move is; sends sort before what takes them.
const SENT: u8 = 0;
const RECEIVED: u8 = 1;
const RECEIVABLE: u8 = 2;

type Blocks = Sorter<{ Block::SORTED_LEN }>;
type Moves = Sorter<MOVE_LEN>;

/// Runs the three passes. Of a pruned ledger the last two cannot be run; instead the accounts `picked` are
/// looked into.
pub(super) fn run(
    ledger: &Ledger<'_>,
    picked: Option<&Picked>,
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
        sample::run(ledger, picked, Part::Links, checks)?;
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

/// Rows of `blocks`, one behind the other.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Where each key and each value ends.
    ends: Vec<(usize, usize)>,
}

/// What became of a batch.
struct Proven {
    number: u64,
    proofs: Proofs,
    sorted: Vec<[u8; Block::SORTED_LEN]>,
}

/// Reads all blocks and checks them by themselves.
fn prove(
    ledger: &Ledger<'_>,
    blocks: &Table,
    sorter: &mut Blocks,
    proofs: &mut Proofs,
) -> Result<(), VerifyError> {
    let workers = threads();
    let (rows_in, rows_out) = sync_channel::<(u64, Batch)>(2 * workers);
    let (proven_in, proven_out) = sync_channel::<Result<Proven, VerifyError>>(2 * workers);
    // Gone with the last worker, which ends the reader too.
    let rows_out = Arc::new(Mutex::new(rows_out));
    thread::scope(|scope| {
        let reading = scope.spawn(move || read_blocks(ledger, blocks, &rows_in));
        for _ in 0..workers {
            let (rows_out, proven_in) = (Arc::clone(&rows_out), proven_in.clone());
            scope.spawn(move || prove_batches(ledger, &rows_out, &proven_in));
        }
        drop((rows_out, proven_in));
        let mut pace = ledger.options.pace("blocks", blocks.tree.entries());
        let collected = collect(proven_out, sorter, proofs, &mut pace);
        let read = reading
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        collected.and(read)
    })
}

fn read_blocks(
    ledger: &Ledger<'_>,
    blocks: &Table,
    rows: &SyncSender<(u64, Batch)>,
) -> Result<(), VerifyError> {
    let mut entries = ledger.file.entries(blocks);
    for number in 0.. {
        let mut batch = Batch::default();
        while batch.ends.len() < BATCH
            && let Some((key, value)) = entries.next()?
        {
            batch.bytes.extend_from_slice(key);
            let key_end = batch.bytes.len();
            batch.bytes.extend_from_slice(value);
            batch.ends.push((key_end, batch.bytes.len()));
        }
        // Nobody receives any longer when the verification ended early.
        if batch.ends.is_empty() || rows.send((number, batch)).is_err() {
            break;
        }
    }
    Ok(())
}

fn prove_batches(
    ledger: &Ledger<'_>,
    rows: &Mutex<Receiver<(u64, Batch)>>,
    proven: &SyncSender<Result<Proven, VerifyError>>,
) {
    let mut representatives = Representatives::new(ledger.file, ledger.tables);
    loop {
        let received = rows.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((number, batch)) = received else {
            return;
        };
        let result = prove_batch(ledger.network, number, &batch, &mut representatives);
        if proven.send(result).is_err() {
            return;
        }
    }
}

fn prove_batch(
    network: Network,
    number: u64,
    batch: &Batch,
    representatives: &mut Representatives<'_>,
) -> Result<Proven, VerifyError> {
    let mut proofs = Proofs::default();
    let mut sorted = Vec::with_capacity(batch.ends.len());
    let mut start = 0;
    for &(key_end, end) in &batch.ends {
        let key = batch.bytes.get(start..key_end).unwrap_or_default();
        let value = batch.bytes.get(key_end..end).unwrap_or_default();
        start = end;
        if let Some(signed) = proofs.check(key, value, network) {
            proofs.representative(&signed, representatives)?;
            sorted.push(signed.block.to_sorted(&signed.hash));
        }
    }
    Ok(Proven {
        number,
        proofs,
        sorted,
    })
}

#[expect(
    clippy::needless_pass_by_value,
    reason = "dropping the receiver ends the workers"
)]
fn collect(
    proven: Receiver<Result<Proven, VerifyError>>,
    sorter: &mut Blocks,
    proofs: &mut Proofs,
    pace: &mut Pace<'_>,
) -> Result<(), VerifyError> {
    // Findings are told in the order of the rows, whoever is first to find them.
    let mut early = BTreeMap::new();
    let mut next = 0;
    while let Ok(batch) = proven.recv() {
        let batch = batch?;
        pace.advance(batch.proofs.blocks)?;
        for record in batch.sorted {
            sorter.push(record)?;
        }
        early.insert(batch.number, batch.proofs);
        while let Some(batch) = early.remove(&next) {
            proofs.append(batch);
            next += 1;
        }
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

/// Blocks in order, the next one at hand.
struct Queue {
    sorted: Sorted<{ Block::SORTED_LEN }>,
    next: Option<(Id, Block)>,
}

impl Queue {
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

    /// Takes the next block if it is the account's.
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
        let mut blocks = Queue::new(sorted)?;
        let (mut rows, mut height_rows) = (file.entries(accounts), file.entries(heights));
        let mut row = next_account(file, &mut rows)?;
        let mut height = next_height(file, &mut height_rows)?;
        loop {
            let with_blocks = blocks.next.map(|(_, block)| block.account);
            let with_row = row.map(|(key, _)| key);
            let Some(key) = with_blocks.into_iter().chain(with_row).min() else {
                break;
            };
            // Heights of accounts that do not exist were told by an earlier check.
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
        blocks: &mut Queue,
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
                    moves.push(one_move(
                        &hash,
                        SENT,
                        &destination,
                        amount,
                        epoch,
                        is_cemented,
                        key,
                    ))?;
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
                    moves.push(one_move(
                        &source,
                        RECEIVED,
                        key,
                        amount,
                        epoch,
                        is_cemented,
                        &NONE,
                    ))?;
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

    /// Whether this is the block that nobody sent anything for.
    fn is_genesis(&self, hash: &Id, block: &Block, source: &Id, amount: u128) -> bool {
        match self.ledger.network {
            Network::Unknown => block.height == 1 && *source == block.account && amount == SUPPLY,
            network => is_genesis(network, hash),
        }
    }
}

fn one_move(
    send: &Id,
    what: u8,
    receiver: &Id,
    amount: u128,
    epoch: u8,
    is_cemented: bool,
    sender: &Id,
) -> [u8; MOVE_LEN] {
    joined(&[
        send,
        &[what],
        receiver,
        &amount.to_be_bytes(),
        &[epoch, u8::from(is_cemented)],
        sender,
    ])
}

/// A move as read back.
struct Move {
    send: Id,
    what: u8,
    receiver: Id,
    amount: u128,
    epoch: u8,
    is_cemented: bool,
    sender: Id,
}

impl Move {
    fn parse(bytes: &[u8; MOVE_LEN]) -> Option<Self> {
        Some(Self {
            send: array_at(bytes, 0)?,
            what: *bytes.get(32)?,
            receiver: array_at(bytes, 33)?,
            amount: u128_be_at(bytes, 65)?,
            epoch: *bytes.get(81)?,
            is_cemented: *bytes.get(82)? != 0,
            sender: array_at(bytes, 83)?,
        })
    }
}

/// The third pass: every send beside what took it. Gives what is wrong with receivables, and with
/// the order in which blocks were cemented.
fn match_moves(
    ledger: &Ledger<'_>,
    pending: &Table,
    mut moves: Moves,
    mut findings: Findings,
) -> Result<(Findings, Findings), VerifyError> {
    let file = ledger.file;
    let mut pace = ledger.options.pace("receivables", pending.tree.entries());
    let mut rows = file.entries(pending);
    while let Some((key, row)) = next_pending(file, &mut rows)? {
        pace.step()?;
        let (receiver, send) = key.split_at(ID_LEN);
        let (Some(receiver), Some(send)) = (array_at(receiver, 0), array_at(send, 0)) else {
            continue;
        };
        let Some(epoch) = block::epoch(row.epoch) else {
            findings.add(|| format!("the receivable of send {} is of no epoch", hex(&send)));
            continue;
        };
        moves.push(one_move(
            &send,
            RECEIVABLE,
            &receiver,
            row.amount,
            epoch,
            false,
            &row.source,
        ))?;
    }
    let mut sorted = moves.finish()?;
    let mut cementing = Findings::default();
    let mut pace = ledger.options.pace("matching", 0);
    // The last send, and whether something took it.
    let mut last: Option<(Move, bool)> = None;
    while let Some(bytes) = sorted.next()? {
        pace.step()?;
        let Some(this) = Move::parse(&bytes) else {
            continue;
        };
        if this.what == SENT {
            untaken(last.replace((this, false)), &mut findings);
            continue;
        }
        let taken = match &mut last {
            Some((sent, taken)) if sent.send == this.send => Some((&*sent, taken)),
            _ => None,
        };
        let name = if this.what == RECEIVED {
            "receive"
        } else {
            "receivable"
        };
        let fault = match taken {
            None => Some("has no send"),
            Some((_, true)) => Some("takes what was taken already"),
            Some((sent, taken)) => {
                *taken = true;
                if this.what == RECEIVED && this.is_cemented && !sent.is_cemented {
                    cementing.add(|| {
                        format!(
                            "the receive of send {} is cemented and that is not",
                            hex(&sent.send)
                        )
                    });
                }
                if sent.receiver != this.receiver {
                    Some("is another account's")
                } else if sent.amount != this.amount {
                    Some("is of another amount")
                } else if sent.epoch != this.epoch {
                    Some("is of another epoch")
                } else if this.what == RECEIVABLE && sent.sender != this.sender {
                    Some("names another sender")
                } else {
                    None
                }
            }
        };
        if let Some(fault) = fault {
            findings.add(|| format!("a {name} of send {} {fault}", hex(&this.send)));
        }
    }
    untaken(last, &mut findings);
    Ok((findings, cementing))
}

/// Tells of a send that nothing took: its row in `pending` is missing.
fn untaken(sent: Option<(Move, bool)>, findings: &mut Findings) {
    if let Some((sent, false)) = sent {
        findings.add(|| {
            format!(
                "send {} is neither received nor receivable",
                hex(&sent.send)
            )
        });
    }
}
