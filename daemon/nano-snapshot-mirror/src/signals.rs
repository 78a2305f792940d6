//! What the outside asks of the running process.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The exit code after SIGINT or SIGTERM ended a command before its work was done.
pub(crate) const INTERRUPTED: u8 = 130;

/// Requests by signal.
#[derive(Debug, Clone)]
pub(crate) struct Signals {
    /// Cancelled by the first SIGINT or SIGTERM; the second ends the process at once.
    pub(crate) stop: CancellationToken,
    /// Told by every SIGHUP: look at the configuration, the store and the pointer again.
    pub(crate) rescan: Arc<Notify>,
}

impl Signals {
    /// Starts listening. Must be called inside the runtime.
    pub(crate) fn listen() -> Result<Self> {
        let signals = Self {
            stop: CancellationToken::new(),
            rescan: Arc::new(Notify::new()),
        };
        let on = |kind| signal(kind).context("cannot listen for signals");
        let mut interrupt = on(SignalKind::interrupt())?;
        let mut terminate = on(SignalKind::terminate())?;
        let mut hangup = on(SignalKind::hangup())?;
        let heard = signals.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = interrupt.recv() => heard.asked_to_stop("SIGINT"),
                    _ = terminate.recv() => heard.asked_to_stop("SIGTERM"),
                    _ = hangup.recv() => {
                        info!("SIGHUP: reading the configuration again, and looking again");
                        heard.rescan.notify_one();
                    }
                }
            }
        });
        Ok(signals)
    }

    fn asked_to_stop(&self, signal: &str) {
        if self.stop.is_cancelled() {
            warn!("{signal} again: ending at once; the next start re-hashes what was in flight");
            std::process::exit(i32::from(INTERRUPTED));
        }
        info!("{signal}: stopping; once more to end at once");
        self.stop.cancel();
    }
}
