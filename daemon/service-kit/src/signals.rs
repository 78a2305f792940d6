//! SIGINT and SIGTERM, which stop a process, and SIGHUP, which makes a service reload its configuration and rescan.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// The exit code after SIGINT or SIGTERM ended a command before its work was done.
pub const INTERRUPTED: u8 = 130;

/// Signals cannot be received.
#[derive(Debug, thiserror::Error)]
pub enum SignalError {
    /// No runtime could be started.
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    /// The handler of a signal could not be installed.
    #[error("cannot listen for signals")]
    Listen(#[source] io::Error),
}

/// Stop signals within this time count as one. A terminal sends SIGINT to a whole process group, and shells, container engines and service managers
/// may forward a signal that the process also received itself.
const SAME_REQUEST: Duration = Duration::from_secs(1);

/// The signals of a running process. Clones receive the same ones.
#[derive(Debug, Clone)]
pub struct Signals {
    /// Cancelled by the first SIGINT or SIGTERM. Another one at least a second later ends the process at once.
    pub stop: CancellationToken,
    /// Notified by every SIGHUP, the request to reload the configuration and to rescan.
    pub rescan: Arc<Notify>,
}

/// Ignores SIGINT, SIGTERM and SIGHUP until the returned value is dropped.
///
/// # Errors
///
/// When a handler cannot be installed.
pub fn ignore() -> Result<impl Sized, SignalError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(SignalError::Runtime)?;
    let ignored = {
        let _inside = runtime.enter();
        let on = |kind| signal(kind).map_err(SignalError::Listen);
        [
            on(SignalKind::interrupt())?,
            on(SignalKind::terminate())?,
            on(SignalKind::hangup())?,
        ]
    };
    Ok((ignored, runtime))
}

impl Signals {
    /// Starts a task that receives the signals. Must be called inside the runtime.
    ///
    /// # Errors
    ///
    /// When a handler cannot be installed.
    pub fn listen() -> Result<Self, SignalError> {
        let signals = Self {
            stop: CancellationToken::new(),
            rescan: Arc::new(Notify::new()),
        };
        let on = |kind| signal(kind).map_err(SignalError::Listen);
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
                        info!("SIGHUP: reading the configuration and looking for changes");
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

/// The reaction to a stop signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reaction {
    Stop,
    Ignore,
    EndAtOnce,
}

/// When the first stop signal was received.
#[derive(Debug, Default)]
struct Stopping {
    since: Option<Instant>,
}

impl Stopping {
    /// Returns the reaction to a stop signal at `now`.
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
