//! The loops of the mirror that the watchdog watches.

use std::time::Duration;

use bittorrent_session::Session;
use service_kit::watchdog::{Deadline, Pulse, Watchdog, WatchedLoop};

/// The time after the start in which the first poll must begin.
const FIRST_POLL: Duration = Duration::from_secs(5 * 60);

/// Pulses and deadlines of the loops of the mirror.
#[derive(Debug)]
pub(super) struct Heartbeats {
    /// Beats with each round of the main loop.
    pub(super) mirror: Pulse,
    /// Passes when a poll does not begin or end in time.
    pub(super) discovery: Deadline,
    /// Beats while the DHT node answers.
    pub(super) dht: Pulse,
}

impl Heartbeats {
    /// Creates all pulses, and a deadline for the first poll.
    pub(super) fn new() -> Self {
        Self {
            mirror: Pulse::default(),
            discovery: Deadline::new(FIRST_POLL),
            dht: Pulse::default(),
        }
    }

    fn loops(&self) -> Vec<WatchedLoop> {
        vec![
            WatchedLoop::pulse("mirror", self.mirror.clone()),
            WatchedLoop::deadline("discovery", self.discovery.clone()),
            WatchedLoop::pulse("dht", self.dht.clone()),
        ]
    }

    /// Starts watching these loops and those of the session.
    pub(super) fn watch(&self, session: &Session) -> Watchdog {
        let mut loops = self.loops();
        let heartbeat = session.heartbeat();
        for number in 0..heartbeat.writers().count() {
            let heartbeat = heartbeat.clone();
            let count = move || heartbeat.writers().nth(number).unwrap_or_default();
            loops.push(WatchedLoop::counter(format!("disk writer {number}"), count));
        }
        loops.push(WatchedLoop::counter("engine", move || heartbeat.driver()));
        Watchdog::start(loops)
    }
}

#[cfg(test)]
mod tests {
    use service_kit::watchdog::Round;

    use super::*;

    /// A look-up that never ends blocks no thread, so a test of the whole program cannot cause it.
    #[test]
    fn polls_that_do_not_end_are_noticed() {
        let heartbeats = Heartbeats::new();
        let round = Round::new(heartbeats.loops());
        heartbeats.mirror.beat();
        heartbeats.dht.beat();
        assert_eq!(round.stalled(), [""; 0]);
        heartbeats.discovery.renew(Duration::ZERO);
        while !heartbeats.discovery.has_passed() {
            std::thread::yield_now();
        }
        assert_eq!(round.stalled(), ["discovery"]);
    }
}
