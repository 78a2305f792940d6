//! Looking into a ledger, which takes long: shows how far it is, and stops when asked to.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use nano_ledger::StageProgress;
use tokio_util::sync::CancellationToken;

use crate::progress::{Meter, ProgressDisplay, WorkKind, percent};

/// What a look into a ledger reports to and is stopped by.
pub(crate) struct VerifyProgress<'a> {
    meter: Mutex<Meter>,
    stop: &'a CancellationToken,
    /// What `nano_ledger` asks, which knows no tokens.
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

    /// It is so far.
    pub(crate) fn tell(&self, progress: StageProgress) {
        if self.stop.is_cancelled() {
            self.cancel.store(true, Ordering::Relaxed);
        }
        let share = percent(progress.done, progress.total.max(progress.done));
        self.meter
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .message(&format!("{} {share} %", progress.stage));
    }
}
