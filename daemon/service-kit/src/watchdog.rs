//! Pings to the service manager, as long as every loop of the service makes progress.
//!
//! A ping is sent when all loops have made progress since the last ping. If a loop hangs, the pings end, the log names the loop, and the service
//! manager restarts the service. A thread of its own does this, so that it also notices when the whole runtime hangs.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tracing::{error, info, warn};

/// The shortest time between two checks.
const SHORTEST_CHECK: Duration = Duration::from_millis(20);

/// With a shorter limit than this, loops that run every two seconds may count as hung.
const SHORTEST_SENSIBLE: Duration = Duration::from_secs(10);

/// A counter that a loop increments each time round. Clones share the counter.
#[derive(Debug, Clone, Default)]
pub struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// Counts one more round.
    pub fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A deadline that a slow loop must renew before it passes. Clones share the deadline.
#[derive(Debug, Clone)]
pub struct Deadline {
    epoch: Instant,
    /// Milliseconds since the epoch.
    due: Arc<AtomicU64>,
}

impl Deadline {
    /// Creates a deadline that passes after `within`.
    pub fn new(within: Duration) -> Self {
        let deadline = Self {
            epoch: Instant::now(),
            due: Arc::default(),
        };
        deadline.renew(within);
        deadline
    }

    /// Moves the deadline to `within` from now.
    pub fn renew(&self, within: Duration) {
        let due = self.epoch.elapsed().saturating_add(within).as_millis();
        let due = u64::try_from(due).unwrap_or(u64::MAX);
        self.due.store(due, Ordering::Relaxed);
    }

    /// Returns whether the deadline has passed.
    pub fn has_passed(&self) -> bool {
        self.epoch.elapsed().as_millis() > u128::from(self.due.load(Ordering::Relaxed))
    }
}

/// A loop that the watchdog watches.
pub struct WatchedLoop {
    name: String,
    progress: Progress,
}

enum Progress {
    /// A number that must have changed before each ping.
    Counter(Box<dyn Fn() -> u64 + Send>),
    Deadline(Deadline),
}

impl WatchedLoop {
    /// Watches a loop whose counter must change between two pings.
    pub fn counter(name: impl Into<String>, count: impl Fn() -> u64 + Send + 'static) -> Self {
        Self {
            name: name.into(),
            progress: Progress::Counter(Box::new(count)),
        }
    }

    /// Watches a loop by its pulse, which must beat between two pings.
    pub fn pulse(name: impl Into<String>, pulse: Pulse) -> Self {
        Self::counter(name, move || pulse.count())
    }

    /// Watches a loop by its deadline, which must not pass.
    pub fn deadline(name: impl Into<String>, deadline: Deadline) -> Self {
        Self {
            name: name.into(),
            progress: Progress::Deadline(deadline),
        }
    }
}

impl fmt::Debug for WatchedLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WatchedLoop({})", self.name)
    }
}

/// The loops, with their progress at the last ping.
#[derive(Debug)]
pub struct Round {
    loops: Vec<WatchedLoop>,
    /// Counters at the last ping; 0 for deadlines.
    before: Vec<u64>,
}

impl Round {
    /// Begins a round: loops must make progress from now on.
    pub fn new(loops: Vec<WatchedLoop>) -> Self {
        let mut round = Self {
            before: Vec::new(),
            loops,
        };
        round.begin();
        round
    }

    fn begin(&mut self) {
        let count = |watched: &WatchedLoop| match &watched.progress {
            Progress::Counter(count) => count(),
            Progress::Deadline(_) => 0,
        };
        self.before = self.loops.iter().map(count).collect();
    }

    /// Returns the names of the loops without progress since the last ping.
    pub fn stalled(&self) -> Vec<&str> {
        let pairs = self.loops.iter().zip(&self.before);
        pairs
            .filter(|(watched, before)| match &watched.progress {
                Progress::Counter(count) => count() == **before,
                Progress::Deadline(deadline) => deadline.has_passed(),
            })
            .map(|(watched, _)| watched.name.as_str())
            .collect()
    }
}

/// The thread that sends the pings. Dropping this ends it.
#[derive(Debug)]
pub struct Watchdog {
    thread: Option<JoinHandle<()>>,
    end: Option<SyncSender<()>>,
}

impl Watchdog {
    /// Starts the thread, if the service manager expects pings.
    pub fn start(loops: Vec<WatchedLoop>) -> Self {
        let none = Self {
            thread: None,
            end: None,
        };
        let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else {
            return none;
        };
        if limit < SHORTEST_SENSIBLE {
            warn!(
                ?limit,
                "WatchdogSec= is below 10 s: the service manager may restart a service that is only busy"
            );
        }
        info!(?limit, loops = loops.len(), "sending watchdog pings");
        let (end, ended) = sync_channel::<()>(0);
        let check = (limit / 16).max(SHORTEST_CHECK);
        let watch = move || {
            let mut round = Round::new(loops);
            let mut since = Instant::now();
            let mut logged = false;
            while ended.recv_timeout(check) == Err(RecvTimeoutError::Timeout) {
                let stalled = round.stalled();
                if stalled.is_empty() {
                    // Notifications are best effort.
                    let _ = sd_notify::notify(&[NotifyState::Watchdog]);
                    if logged {
                        info!("all loops make progress again");
                    }
                    round.begin();
                    since = Instant::now();
                    logged = false;
                } else if !logged && since.elapsed() >= limit / 2 {
                    error!(
                        loops = stalled.join(", "),
                        "no progress for {:?}: the service manager will restart the service",
                        since.elapsed()
                    );
                    logged = true;
                }
            }
        };
        match std::thread::Builder::new()
            .name("watchdog".to_owned())
            .spawn(watch)
        {
            Ok(thread) => Self {
                thread: Some(thread),
                end: Some(end),
            },
            Err(error) => {
                // The service manager will restart the service, and then there may be enough memory for a thread.
                error!(%error, "cannot start the watchdog thread");
                none
            }
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // The thread does not panic.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_loop_must_make_progress_between_two_pings() {
        let (first, second) = (Pulse::default(), Pulse::default());
        let mut round = Round::new(vec![
            WatchedLoop::pulse("first", first.clone()),
            WatchedLoop::pulse("second", second.clone()),
        ]);
        assert_eq!(round.stalled(), ["first", "second"]);
        first.beat();
        assert_eq!(round.stalled(), ["second"]);
        second.beat();
        assert_eq!(round.stalled(), [""; 0]);
        round.begin();
        second.beat();
        assert_eq!(
            round.stalled(),
            ["first"],
            "progress before the ping does not count"
        );
    }

    #[test]
    fn a_loop_with_a_deadline_stalls_when_it_passes() {
        let deadline = Deadline::new(Duration::from_secs(3600));
        let round = Round::new(vec![WatchedLoop::deadline("polls", deadline.clone())]);
        assert_eq!(round.stalled(), [""; 0]);
        deadline.renew(Duration::ZERO);
        while !deadline.has_passed() {
            std::thread::yield_now();
        }
        assert_eq!(round.stalled(), ["polls"]);
        deadline.renew(Duration::MAX);
        assert_eq!(round.stalled(), [""; 0]);
    }
}
