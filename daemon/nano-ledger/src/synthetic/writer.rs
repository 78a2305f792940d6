//! A writer that keeps going, as a node does, while copies are taken.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use super::SyntheticError;
use super::day::Day;
use super::store::Store;

/// Adds transactions of `per_txn` (at least 1) blocks to the ledger at `path` while `go_on` says so,
/// which it is asked after each one with the number of transactions so far. Returns that number.
///
/// LMDB lets a process open a ledger once: to copy it with [`LiveLedger`](crate::LiveLedger) at the
/// same time, write from another process.
///
/// # Errors
///
/// [`SyntheticError`]; transactions already committed stay.
pub fn write_while(
    path: &Path,
    per_txn: u32,
    mut go_on: impl FnMut(u64) -> bool,
) -> Result<u64, SyntheticError> {
    let store = Store::open(path)?;
    let mut day = Day::begin(&store)?;
    let mut transactions = 0;
    loop {
        day.commit_blocks(u64::from(per_txn.max(1)))?;
        transactions += 1;
        if !go_on(transactions) {
            store.sync()?;
            return Ok(transactions);
        }
    }
}

/// A thread that keeps writing to a ledger until it is stopped.
#[derive(Debug)]
pub struct LiveWriter {
    /// Transactions so far; the highest bit asks to stop.
    state: Arc<AtomicU64>,
    thread: JoinHandle<Result<u64, SyntheticError>>,
}

const STOP: u64 = 1 << 63;

impl LiveWriter {
    /// Starts adding transactions of `per_txn` blocks to the ledger at `path`.
    ///
    /// # Errors
    ///
    /// [`SyntheticError::Thread`]; [`stop`](Self::stop) returns failures to write.
    pub fn start(path: &Path, per_txn: u32) -> Result<Self, SyntheticError> {
        let state = Arc::new(AtomicU64::new(0));
        let path = path.to_owned();
        let shared = Arc::clone(&state);
        let thread = thread::Builder::new()
            .name("ledger-writer".into())
            .spawn(move || {
                write_while(&path, per_txn, |_| {
                    shared.fetch_add(1, Ordering::Relaxed) & STOP == 0
                })
            })
            .map_err(|source| SyntheticError::Thread { source })?;
        Ok(Self { state, thread })
    }

    /// Transactions committed so far.
    pub fn transactions(&self) -> u64 {
        self.state.load(Ordering::Relaxed) & !STOP
    }

    /// Stops after the transaction under way, closes the ledger and returns how many there were.
    ///
    /// # Errors
    ///
    /// What ended the writing before.
    pub fn stop(self) -> Result<u64, SyntheticError> {
        self.state.fetch_or(STOP, Ordering::Relaxed);
        match self.thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}
