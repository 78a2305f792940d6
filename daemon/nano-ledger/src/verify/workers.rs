//! The first pass of L3: all blocks as they are stored, proven on all cores and sorted by account.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::blocks::block::Block;
use crate::blocks::network::Network;
use crate::blocks::sort::Sorter;
use crate::lmdb::tables::Table;
use crate::verify::error::VerifyError;
use crate::verify::ledger::Ledger;
use crate::verify::options::StageMeter;
use crate::verify::proofs::Proofs;
use crate::verify::representatives::Representatives;

/// Maximum number of threads that check blocks.
const MAX_THREADS: usize = 16;

/// Rows in one batch for a worker thread.
const BATCH: usize = 256;

pub(super) type Blocks = Sorter<{ Block::SORTED_LEN }>;

/// Returns the number of threads to check blocks with.
pub(super) fn threads() -> usize {
    thread::available_parallelism()
        .map_or(1, NonZero::get)
        .min(MAX_THREADS)
}

/// Rows of `blocks`, one behind the other.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    /// Where each key and each value ends.
    ends: Vec<(usize, usize)>,
}

/// The result of a batch.
struct Proven {
    number: u64,
    proofs: Proofs,
    sorted: Vec<[u8; Block::SORTED_LEN]>,
}

/// Reads all blocks and checks each on its own.
pub(super) fn prove(
    ledger: &Ledger<'_>,
    blocks: &Table,
    sorter: &mut Blocks,
    proofs: &mut Proofs,
) -> Result<(), VerifyError> {
    let workers = threads();
    let (rows_in, rows_out) = sync_channel::<(u64, Batch)>(2 * workers);
    let (proven_in, proven_out) = sync_channel::<Result<Proven, VerifyError>>(2 * workers);
    // Dropped by the last worker, which ends the reader too.
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
        // The receiver is gone when the verification ended early.
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
    pace: &mut StageMeter<'_>,
) -> Result<(), VerifyError> {
    // Findings are reported in the order of the rows, whichever thread finds them first.
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
