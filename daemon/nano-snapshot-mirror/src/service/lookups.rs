//! When pointers are looked up in the DHT, and when their items are put again.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use futures_util::future::join_all;
use snapshot_pointer::{
    Poll, REPUBLISH_INTERVAL, RecordError, Republished, Succession, SuccessionError,
};
use snapshot_store::StreamName;
use tokio::time::{Instant, sleep_until};

use super::events::Event;
use super::followed::FollowedStream;
use super::{Running, due, running};
use crate::transfer::network::Network;

/// Time to the next poll while no pointer is known or none could be looked up. Doubles with each poll and
/// never exceeds the poll interval.
const FIRST_RETRY: Duration = Duration::from_secs(5);

/// The longest of these times. A network may start some time after the machine.
const LAST_RETRY: Duration = Duration::from_secs(60);

/// Time to the next round after items could not be put.
const KEEP_ALIVE_RETRY: Duration = Duration::from_secs(5 * 60);

/// Which items a round puts again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Round {
    /// All known items. Authorities are also asked for their successors.
    All,
    /// Those that no round has put yet: they are new, or putting them failed.
    Due,
}

impl Round {
    /// Items that were put within this time are skipped.
    fn every(self) -> Duration {
        match self {
            Self::All => Duration::ZERO,
            Self::Due => REPUBLISH_INTERVAL * 5 / 4,
        }
    }
}

/// Result of keeping the items of one stream alive.
pub(super) struct KeptAlive {
    pub(super) name: StreamName,
    pub(super) republished: Result<Vec<Republished>, RecordError>,
    pub(super) successions: Option<Result<Vec<Succession>, SuccessionError>>,
}

/// The look-up of one stream.
pub(super) type Polled = (StreamName, Result<Poll, RecordError>);

/// The running poll and the running round, and when the next ones are due.
pub(super) struct Lookups<'a> {
    network: &'a Network,
    poll: Option<Running<'a, Vec<Polled>>>,
    next_poll: Instant,
    /// Time to the next poll if this one finds nothing.
    retry: Duration,
    keep_alive: Option<Running<'a, Vec<KeptAlive>>>,
    /// When the next round of all items is due; `None` before the first poll and while one runs.
    next_round: Option<Instant>,
    round: Round,
}

impl<'a> Lookups<'a> {
    /// The first poll is due at once, and the first round after it.
    pub(super) fn new(network: &'a Network) -> Self {
        Self {
            network,
            poll: None,
            next_poll: Instant::now(),
            retry: FIRST_RETRY,
            keep_alive: None,
            next_round: None,
            round: Round::All,
        }
    }

    /// Makes a poll due now.
    pub(super) fn poll_soon(&mut self) {
        self.next_poll = Instant::now();
    }

    /// Returns when the next poll starts; `None` while one runs.
    pub(super) fn next_poll(&self) -> Option<Instant> {
        self.poll.is_none().then_some(self.next_poll)
    }

    /// Returns the next event: a poll or a round is due, or ended.
    pub(super) async fn next_event(&mut self) -> Event {
        tokio::select! {
            polled = running(&mut self.poll) => {
                self.poll = None;
                Event::Polled(polled)
            }
            kept = running(&mut self.keep_alive) => {
                self.keep_alive = None;
                Event::KeptAlive(kept)
            }
            () = sleep_until(self.next_poll), if self.poll.is_none() => Event::PollDue,
            () = due(self.next_round), if self.keep_alive.is_none() => Event::KeepAliveDue,
        }
    }

    /// Starts to look up all streams at once.
    pub(super) fn start_poll(&mut self, streams: &[FollowedStream]) {
        let dht = self.network.dht();
        let polls: Vec<_> = streams
            .iter()
            .map(|followed| {
                let stream = followed.stream.clone();
                async move {
                    let polled = stream.poll(&**dht).await;
                    (stream.name, polled)
                }
            })
            .collect();
        self.poll = Some(Box::pin(join_all(polls)));
    }

    /// Schedules the next poll after the `interval`, or earlier if it should come `soon`. Returns the time
    /// until then.
    pub(super) fn schedule_poll(&mut self, soon: bool, interval: Duration) -> Duration {
        let pause = if soon {
            let pause = self.retry.min(interval);
            self.retry = (self.retry * 2).min(LAST_RETRY);
            pause
        } else {
            self.retry = FIRST_RETRY;
            interval
        };
        self.next_poll = Instant::now() + pause;
        pause
    }

    /// Starts a round of all items.
    pub(super) fn start_full_round(&mut self, streams: &[FollowedStream]) {
        (self.round, self.next_round) = (Round::All, None);
        self.start_round(streams);
    }

    /// Starts the round that is next, unless one runs.
    pub(super) fn ensure_round(&mut self, streams: &[FollowedStream]) {
        if self.keep_alive.is_none() {
            self.start_round(streams);
        }
    }

    fn start_round(&mut self, streams: &[FollowedStream]) {
        let (dht, round) = (self.network.dht(), self.round);
        let streams: Vec<_> = streams
            .iter()
            .map(|followed| {
                let stream = &followed.stream;
                let (name, follower) = (stream.name.clone(), stream.follower.clone());
                async move {
                    let now = SystemTime::now();
                    let republished = follower.republish(&**dht, now, round.every()).await;
                    let successions = match round {
                        Round::All => Some(follower.successions(&**dht, now).await),
                        Round::Due => None,
                    };
                    KeptAlive {
                        name,
                        republished,
                        successions,
                    }
                }
            })
            .collect();
        self.keep_alive = Some(Box::pin(join_all(streams)));
    }

    /// Schedules the next round of all items, if this was one; sooner if putting items `failed`.
    pub(super) fn schedule_round(&mut self, failed: bool) {
        if self.round == Round::All {
            let pause = jittered(if failed {
                KEEP_ALIVE_RETRY
            } else {
                REPUBLISH_INTERVAL
            });
            self.next_round = Some(Instant::now() + pause);
            self.round = Round::Due;
        }
    }
}

/// Returns a time up to a sixth shorter or longer, so that mirrors do not reach the same nodes at once.
fn jittered(time: Duration) -> Duration {
    let mut random = [0; 4];
    // Without randomness the time stays as it is.
    let random = match getrandom::fill(&mut random) {
        Ok(()) => u32::from_ne_bytes(random),
        Err(_) => u32::MAX / 2,
    };
    let sixth = time / 6;
    time - sixth + (sixth * 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_spread_and_stay_near() {
        let around = |_| jittered(REPUBLISH_INTERVAL);
        let times: Vec<Duration> = (0..100).map(around).collect();
        let (least, most) = (REPUBLISH_INTERVAL * 5 / 6, REPUBLISH_INTERVAL * 7 / 6);
        assert!(times.iter().all(|time| (least..=most).contains(time)));
        assert!(times.iter().any(|time| *time != times[0]));
        // An item that a round put is not due again before the next round.
        assert!(most < Round::Due.every());
    }
}
