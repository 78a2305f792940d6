//! What the outside asks of the running process.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The exit code after SIGINT or SIGTERM ended a command before its work was done.
pub(crate) const INTERRUPTED: u8 = 130;

/// Signals that come within this time are one request to stop: a terminal sends SIGINT to a whole process
/// group, and shells, container engines and service managers pass a signal on that the process received itself.
const SAME_REQUEST: Duration = Duration::from_secs(1);

/// Requests by signal.
#[derive(Debug, Clone)]
pub(crate) struct Signals {
    /// Cancelled by the first SIGINT or SIGTERM; one that comes at least a second later ends the process
    /// at once.
    pub(crate) stop: CancellationToken,
    /// Told by every SIGHUP: look at the configuration, the store and the pointer again.
    pub(crate) rescan: Arc<Notify>,
}

/// Ignores SIGINT, SIGTERM and SIGHUP from now on, as long as the result is kept.
pub(crate) fn ignore() -> Result<impl Sized> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .context("cannot start the runtime")?;
    let ignored = {
        let _inside = runtime.enter();
        let on = |kind| signal(kind).context("cannot listen for signals");
        [
            on(SignalKind::interrupt())?,
            on(SignalKind::terminate())?,
            on(SignalKind::hangup())?,
        ]
    };
    Ok((ignored, runtime))
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
        let received = signals.clone();
        tokio::spawn(async move {
            let mut stopping = Stopping::default();
            loop {
                let signal = tokio::select! {
                    _ = interrupt.recv() => "SIGINT",
                    _ = terminate.recv() => "SIGTERM",
                    _ = hangup.recv() => {
                        info!("SIGHUP: reading the configuration again, and looking again");
                        received.rescan.notify_one();
                        continue;
                    }
                };
                match stopping.signal(Instant::now()) {
                    Reaction::Stop => {
                        info!("{signal}: stopping; send it again after a second to end at once");
                        received.stop.cancel();
                    }
                    Reaction::Ignore => {}
                    Reaction::EndAtOnce => {
                        warn!(
                            "{signal} again: ending at once; the next start re-hashes what was in flight"
                        );
                        std::process::exit(i32::from(INTERRUPTED));
                    }
                }
            }
        });
        Ok(signals)
    }
}

/// What a signal that stops the process leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reaction {
    Stop,
    Ignore,
    EndAtOnce,
}

/// When the process was asked to stop.
#[derive(Debug, Default)]
struct Stopping {
    since: Option<Instant>,
}

impl Stopping {
    /// Reacts to one more signal at `now`.
    fn signal(&mut self, now: Instant) -> Reaction {
        match self.since {
            None => {
                self.since = Some(now);
                Reaction::Stop
            }
            Some(since) if now.duration_since(since) < SAME_REQUEST => Reaction::Ignore,
            Some(_) => Reaction::EndAtOnce,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_signals_within_a_second_are_one_request() {
        let start = Instant::now();
        let mut stopping = Stopping::default();
        for (millis, reaction) in [
            (0, Reaction::Stop),
            (0, Reaction::Ignore),
            (999, Reaction::Ignore),
            (1000, Reaction::EndAtOnce),
        ] {
            let now = start + Duration::from_millis(millis);
            assert_eq!(stopping.signal(now), reaction, "{millis} ms");
        }
    }
}
