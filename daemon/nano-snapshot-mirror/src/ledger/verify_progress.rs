//! Progress and cancellation of a ledger verification, which takes long.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use nano_ledger::StageProgress;
use service_kit::sync::lock;
use tokio_util::sync::CancellationToken;

use crate::progress::{Meter, ProgressDisplay, WorkKind, percent};

/// Receives the progress of a ledger verification and cancels it.
pub(crate) struct VerifyProgress<'a> {
    meter: Mutex<Meter>,
    stop: &'a CancellationToken,
    /// Set when `stop` is cancelled, for `nano_ledger`, which has no cancellation tokens.
    pub(crate) cancel: AtomicBool,
}

impl<'a> VerifyProgress<'a> {
    pub(crate) fn new(display: &ProgressDisplay, stop: &'a CancellationToken) -> Self {
        Self {
            meter: Mutex::new(display.start(WorkKind::VerifyLedger, 0)),
            stop,
            cancel: AtomicBool::new(stop.is_cancelled()),
        }
    }

    /// Reports progress.
    pub(crate) fn tell(&self, progress: StageProgress) {
        if self.stop.is_cancelled() {
            self.cancel.store(true, Ordering::Relaxed);
        }
        let share = percent(progress.done, progress.total.max(progress.done));
        lock(&self.meter).message(&format!("{} {share} %", progress.stage));
    }
}
