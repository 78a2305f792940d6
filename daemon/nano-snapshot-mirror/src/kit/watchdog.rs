//! Tells the service manager that the mirror lives, as long as every loop that matters comes round.
//!
//! A ping is earned: it is sent when all loops have made progress since the ping before. A loop that
//! hangs ends the pings, the log says which, and the service manager starts the mirror anew. The
//! watching is done by a thread of its own, so that it can see when the whole runtime hangs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bittorrent_session::Session;
use sd_notify::NotifyState;
use tracing::{error, info, warn};

/// The shortest time between two looks.
const SHORTEST_LOOK: Duration = Duration::from_millis(20);

/// How long after the start the first poll may begin.
const FIRST_POLL: Duration = Duration::from_secs(5 * 60);

/// Below this, loops that come round every two seconds look as if they hung.
const SHORTEST_SENSIBLE: Duration = Duration::from_secs(10);

/// A counter that rises while a loop comes round. Clones count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pulse(Arc<AtomicU64>);

impl Pulse {
    /// The loop came round.
    pub(crate) fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Word given to come back in time, for what is not to happen often. Clones are one.
#[derive(Debug, Clone)]
pub(crate) struct Promise {
    epoch: Instant,
    /// Milliseconds since the epoch.
    due: Arc<AtomicU64>,
}

impl Promise {
    /// To be renewed within so long.
    pub(crate) fn new(within: Duration) -> Self {
        let promise = Self {
            epoch: Instant::now(),
            due: Arc::default(),
        };
        promise.renew(within);
        promise
    }

    /// Comes back, and gives word again.
    pub(crate) fn renew(&self, within: Duration) {
        let due = self.epoch.elapsed().saturating_add(within).as_millis();
        let due = u64::try_from(due).unwrap_or(u64::MAX);
        self.due.store(due, Ordering::Relaxed);
    }

    fn is_kept(&self) -> bool {
        self.epoch.elapsed().as_millis() <= u128::from(self.due.load(Ordering::Relaxed))
    }
}

/// The signs of the mirror's own loops.
#[derive(Debug)]
pub(crate) struct Life {
    /// The mirror's loop.
    pub(crate) mirror: Pulse,
    /// Polls begin and end.
    pub(crate) discovery: Promise,
    /// The DHT node answers.
    pub(crate) dht: Pulse,
}

impl Life {
    /// The first poll is due soon.
    pub(crate) fn new() -> Self {
        Self {
            mirror: Pulse::default(),
            discovery: Promise::new(FIRST_POLL),
            dht: Pulse::default(),
        }
    }

    fn watched(&self) -> Vec<Watched> {
        vec![
            Watched::pulse("mirror", self.mirror.clone()),
            Watched::promise("discovery", self.discovery.clone()),
            Watched::pulse("dht", self.dht.clone()),
        ]
    }

    /// Watches them, and those of the session.
    pub(crate) fn watch(&self, session: &Session) -> Watchdog {
        let mut loops = self.watched();
        let heartbeat = session.heartbeat();
        for number in 0..heartbeat.writers().count() {
            let heartbeat = heartbeat.clone();
            let count = move || heartbeat.writers().nth(number).unwrap_or_default();
            loops.push(Watched::count(format!("disk writer {number}"), count));
        }
        loops.push(Watched::count("engine", move || heartbeat.driver()));
        Watchdog::start(loops)
    }
}

/// A loop that is watched.
struct Watched {
    name: String,
    sign: Sign,
}

enum Sign {
    /// A number that must be another one at every ping.
    Count(Box<dyn Fn() -> u64 + Send>),
    Promise(Promise),
}

impl Watched {
    /// A loop whose counter must rise.
    pub(crate) fn count(name: impl Into<String>, count: impl Fn() -> u64 + Send + 'static) -> Self {
        Self {
            name: name.into(),
            sign: Sign::Count(Box::new(count)),
        }
    }

    /// The same, with a pulse.
    fn pulse(name: impl Into<String>, pulse: Pulse) -> Self {
        Self::count(name, move || pulse.count())
    }

    /// A loop that gave its word.
    fn promise(name: impl Into<String>, promise: Promise) -> Self {
        Self {
            name: name.into(),
            sign: Sign::Promise(promise),
        }
    }
}

/// Which loops made progress since the last ping.
struct Round {
    loops: Vec<Watched>,
    /// Their counters at the last ping; 0 for promises.
    before: Vec<u64>,
}

impl Round {
    fn new(loops: Vec<Watched>) -> Self {
        let mut round = Self {
            before: Vec::new(),
            loops,
        };
        round.begin();
        round
    }

    fn begin(&mut self) {
        let count = |watched: &Watched| match &watched.sign {
            Sign::Count(count) => count(),
            Sign::Promise(_) => 0,
        };
        self.before = self.loops.iter().map(count).collect();
    }

    /// The loops that owe a sign.
    fn missing(&self) -> Vec<&str> {
        let pairs = self.loops.iter().zip(&self.before);
        pairs
            .filter(|(watched, before)| match &watched.sign {
                Sign::Count(count) => count() == **before,
                Sign::Promise(promise) => !promise.is_kept(),
            })
            .map(|(watched, _)| watched.name.as_str())
            .collect()
    }
}

/// The watching thread; ended when this is dropped.
#[derive(Debug)]
pub(crate) struct Watchdog {
    thread: Option<JoinHandle<()>>,
    end: Option<SyncSender<()>>,
}

impl Watchdog {
    /// Starts watching if the service manager asks for it.
    fn start(loops: Vec<Watched>) -> Self {
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
                "WatchdogSec= below 10 s ends a mirror that is only busy"
            );
        }
        info!(?limit, loops = loops.len(), "the service manager watches");
        let (end, ended) = sync_channel::<()>(0);
        let look = (limit / 16).max(SHORTEST_LOOK);
        let watch = move || {
            let mut round = Round::new(loops);
            let mut since = Instant::now();
            let mut told = false;
            while ended.recv_timeout(look) == Err(RecvTimeoutError::Timeout) {
                let missing = round.missing();
                if missing.is_empty() {
                    // Best effort, as all notifications.
                    let _ = sd_notify::notify(&[NotifyState::Watchdog]);
                    if told {
                        info!("all loops come round again");
                    }
                    round.begin();
                    since = Instant::now();
                    told = false;
                } else if !told && since.elapsed() >= limit / 2 {
                    error!(
                        loops = missing.join(", "),
                        "no sign of life for {:?}: the service manager will start the mirror anew",
                        since.elapsed()
                    );
                    told = true;
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
                // The manager will end us, and then there may be room for a thread.
                error!(%error, "no thread for the watchdog");
                none
            }
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // It does not panic.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_loop_has_to_come_round_between_two_pings() {
        let (first, second) = (Pulse::default(), Pulse::default());
        let mut round = Round::new(vec![
            Watched::pulse("first", first.clone()),
            Watched::pulse("second", second.clone()),
        ]);
        assert_eq!(round.missing(), ["first", "second"]);
        first.beat();
        assert_eq!(round.missing(), ["second"]);
        second.beat();
        assert_eq!(round.missing(), [""; 0]);
        round.begin();
        second.beat();
        assert_eq!(
            round.missing(),
            ["first"],
            "what was before the ping is past"
        );
    }

    /// A look-up that never ends hangs no thread that a test of the whole program could hold.
    #[test]
    fn polls_that_do_not_end_are_missed() {
        let life = Life::new();
        let round = Round::new(life.watched());
        life.mirror.beat();
        life.dht.beat();
        assert_eq!(round.missing(), [""; 0]);
        life.discovery.renew(Duration::ZERO);
        while life.discovery.is_kept() {
            std::thread::yield_now();
        }
        assert_eq!(round.missing(), ["discovery"]);
    }

    #[test]
    fn a_promise_holds_until_it_is_due() {
        let promise = Promise::new(Duration::from_secs(3600));
        let round = Round::new(vec![Watched::promise("polls", promise.clone())]);
        assert_eq!(round.missing(), [""; 0]);
        promise.renew(Duration::ZERO);
        while promise.epoch.elapsed() < Duration::from_millis(2) {
            std::thread::yield_now();
        }
        assert_eq!(round.missing(), ["polls"]);
        promise.renew(Duration::MAX);
        assert_eq!(round.missing(), [""; 0]);
    }
}
