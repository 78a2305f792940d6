//! How often the DHT is searched for the peers of one torrent.
//!
//! The pace depends on whether content arrives, not on the number of connected peers. Peers that send nothing must not keep a download from finding
//! better ones.

use std::time::Duration;

use bittorrent_session::TorrentStatus;

/// The time between two checks of the status of a torrent.
pub(super) const TICK: Duration = Duration::from_secs(1);

/// Nodes forget an announced peer after half an hour or so (BEP 5 leaves the time open).
const ANNOUNCE_EVERY: Duration = Duration::from_secs(15 * 60);

/// How long to wait for more peers while there are few and content arrives.
const FEW_PEERS_RETRY: Duration = Duration::from_secs(2 * 60);

/// With fewer peers than this a download looks for more.
const FEW_PEERS: usize = 5;

/// How long to wait after the first search that did not make content arrive; doubled each time.
const FIRST_RETRY: Duration = Duration::from_secs(2);

/// The longest of these waits.
const LAST_RETRY: Duration = Duration::from_secs(60);

/// A download that receives fewer useful bytes a second than this searches as if it received none.
const LEAST_RATE: u64 = 16 << 10;

/// When to search next.
#[derive(Debug)]
pub(super) struct SearchPace {
    /// The next pause while nothing arrives.
    retry: Duration,
    /// Time since the last search.
    since_search: Duration,
    /// Time since content last arrived at a fair rate, at most that since the last search.
    starving: Duration,
    /// Useful bytes received at the last check.
    received: u64,
}

impl Default for SearchPace {
    fn default() -> Self {
        Self {
            retry: FIRST_RETRY,
            since_search: Duration::ZERO,
            starving: Duration::ZERO,
            received: 0,
        }
    }
}

impl SearchPace {
    /// A search has ended.
    pub(super) fn searched(&mut self, status: &TorrentStatus) {
        self.since_search = Duration::ZERO;
        self.starving = Duration::ZERO;
        self.received = useful(status);
    }

    /// Returns whether to search again. Must be called once in each [`TICK`].
    pub(super) fn is_due(&mut self, status: &TorrentStatus) -> bool {
        let arrived = useful(status).saturating_sub(self.received);
        self.received = useful(status);
        self.since_search += TICK;
        if status.phase.is_seeding() || status.phase.error().is_some() {
            return self.since_search >= ANNOUNCE_EVERY;
        }
        if arrived >= LEAST_RATE * TICK.as_secs() {
            self.starving = Duration::ZERO;
            self.retry = FIRST_RETRY;
        } else {
            self.starving += TICK;
        }
        if self.starving >= self.retry {
            self.retry = (self.retry * 2).min(LAST_RETRY);
            return true;
        }
        let few = status.peers < FEW_PEERS;
        self.since_search >= if few { FEW_PEERS_RETRY } else { ANNOUNCE_EVERY }
    }
}

/// Returns the bytes received and kept so far.
fn useful(status: &TorrentStatus) -> u64 {
    status.downloaded_payload.saturating_sub(status.wasted)
}

#[cfg(test)]
mod tests {
    use bittorrent_session::Phase;

    use super::*;

    /// Returns the seconds at which searches start. A search takes no time here.
    fn searches(seconds: u64, status: impl Fn(u64) -> TorrentStatus) -> Vec<u64> {
        let mut pace = SearchPace::default();
        pace.searched(&status(0));
        let due = |second: &u64| {
            let due = pace.is_due(&status(*second));
            if due {
                pace.searched(&status(*second));
            }
            due
        };
        (1..=seconds).filter(due).collect()
    }

    fn downloading(peers: usize, received: u64) -> TorrentStatus {
        TorrentStatus {
            phase: Phase::Downloading,
            peers,
            downloaded_payload: received + 1_000,
            wasted: 1_000,
            ..TorrentStatus::default()
        }
    }

    #[test]
    fn peers_that_send_nothing_do_not_delay_the_search() {
        for peers in [0, 1, 4, 100] {
            let found = searches(200, |_| downloading(peers, 0));
            assert_eq!(found, [2, 6, 14, 30, 62, 122, 182], "{peers} peers");
            let trickle = searches(200, |second| downloading(peers, second * 1_000));
            assert_eq!(trickle, found, "{peers} peers that send slowly");
            let wasted = searches(200, |second| TorrentStatus {
                wasted: second << 20,
                ..downloading(peers, second << 20)
            });
            assert_eq!(wasted, found, "{peers} peers whose blocks are of no use");
        }
    }

    #[test]
    fn while_content_arrives_searches_are_rare() {
        let fair = |peers| searches(1_000, move |second| downloading(peers, second << 20));
        assert_eq!(fair(4), [120, 240, 360, 480, 600, 720, 840, 960]);
        assert_eq!(fair(5), [900]);
        // It stops after 100 s.
        let stops = searches(140, |second| downloading(50, second.min(100) << 20));
        assert_eq!(stops, [102, 106, 114, 130]);
    }

    #[test]
    fn a_seed_announces_itself_and_no_more() {
        let found = searches(2_000, |_| TorrentStatus {
            phase: Phase::Seeding,
            ..TorrentStatus::default()
        });
        assert_eq!(found, [900, 1_800]);
    }
}
