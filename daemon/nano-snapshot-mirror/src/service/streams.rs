//! What the streams say, and which of them are followed.

use std::time::{Duration, SystemTime};

use anyhow::{Error, Result};
use futures_util::future::join_all;
use snapshot_pointer::{
    Poll, REPUBLISH_INTERVAL, RecordError, Republished, Succession, SuccessionError,
};
use snapshot_store::StreamName;
use tracing::{debug, error, info, warn};

use super::{Running, Service};
use crate::config::{self, Mistakes, Reloaded};
use crate::kit::logging;
use crate::pointers::followed::Followed;
use crate::pointers::stream;
use crate::text::Causes;

/// Time to the next look-up while no pointer is known or none could be looked up; doubled each
/// time, and never above the poll interval.
pub(super) const FIRST_RETRY: Duration = Duration::from_secs(5);

/// And at most so long: networks come up some time after machines do.
const LAST_RETRY: Duration = Duration::from_secs(60);

/// How soon to try again what could not be put.
const KEEP_ALIVE_RETRY: Duration = Duration::from_secs(5 * 60);

/// Which items to put again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Round {
    /// All that are held; and authorities are asked for their successors.
    All,
    /// Those that no round has put, as they are new or were not taken.
    Due,
}

impl Round {
    /// What was put so lately need not be put.
    fn every(self) -> Duration {
        match self {
            Self::All => Duration::ZERO,
            Self::Due => REPUBLISH_INTERVAL * 5 / 4,
        }
    }
}

/// What came of keeping the items of one stream alive.
pub(super) struct KeptAlive {
    name: StreamName,
    republished: Result<Vec<Republished>, RecordError>,
    successions: Option<Result<Vec<Succession>, SuccessionError>>,
}

/// The look-up of one stream.
pub(super) type Polled = (StreamName, Result<Poll, RecordError>);

impl<'a> Service<'a> {
    /// Looks up all streams at once, each as it is now.
    pub(super) fn poll(&self) -> Running<'a, Vec<Polled>> {
        let dht = self.network.dht();
        let polls: Vec<_> = self
            .streams
            .iter()
            .map(|followed| {
                let stream = followed.stream.clone();
                async move {
                    let polled = stream.poll(&**dht).await;
                    (stream.name, polled)
                }
            })
            .collect();
        Box::pin(join_all(polls))
    }

    /// Keeps alive what the authorities signed.
    pub(super) fn keep_alive(&self, round: Round) -> Running<'a, Vec<KeptAlive>> {
        let dht = self.network.dht();
        let streams: Vec<_> = self
            .streams
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
        Box::pin(join_all(streams))
    }

    /// Takes what came of keeping items alive. Returns how long to wait for the next round of all.
    pub(super) fn kept_alive(&mut self, kept: Vec<KeptAlive>) -> Duration {
        let mut failed = false;
        for one in kept {
            failed |= !log_republished(one.republished);
            let mut streams = self.streams.iter();
            let Some(followed) = streams.find(|followed| followed.stream.name == one.name) else {
                // It left with a reload.
                continue;
            };
            match one.successions {
                Some(Ok(successions)) => {
                    let text = followed.stream.handed_over(&successions);
                    self.reporter
                        .problem(stream::KEY_ROTATION, one.name.as_str(), text);
                }
                // A salt without room for it has no successions.
                Some(Err(SuccessionError::Salt(_))) | None => {}
                Some(Err(error)) => {
                    error!("successors are not known: {:#}", Error::from(error));
                }
            }
        }
        jittered(if failed {
            KEEP_ALIVE_RETRY
        } else {
            REPUBLISH_INTERVAL
        })
    }

    /// Takes the results of a poll, and says when to poll again.
    pub(super) fn heard(&mut self, polled: Vec<Polled>) -> Duration {
        let mut soon = false;
        for (name, polled) in polled {
            let followed = self.streams.iter_mut().find(|one| one.stream.name == name);
            // It may have left with a reload.
            if let Some(followed) = followed {
                soon |= followed.hear(polled, &mut self.reporter);
            }
        }
        let interval = self.live.config().poll_interval.get();
        if soon {
            let pause = self.retry.min(interval);
            self.retry = (self.retry * 2).min(LAST_RETRY);
            return pause;
        }
        self.retry = FIRST_RETRY;
        interval
    }

    /// Reads the configuration again. What does not look at it each time is told here.
    pub(super) async fn reload(&mut self) -> Result<Reloaded, Mistakes> {
        let reloaded = self.live.reload_and_log();
        let config = self.live.config();
        logging::set_level(config.log.level);
        let mut before = std::mem::take(&mut self.streams);
        for (name, stream) in config.stream.iter() {
            let old = before
                .iter()
                .position(|one| one.stream.name.as_str() == name)
                .map(|index| before.swap_remove(index));
            match old {
                Some(old) if old.stream.config == *stream => self.streams.push(old),
                old => match self.begin(name, stream) {
                    Ok(mut new) => {
                        new.active = old.and_then(|old| old.active);
                        self.streams.push(new);
                    }
                    Err(error) => {
                        error!(
                            stream = name,
                            "not followed as it is configured now: {error:#}"
                        );
                        self.streams.extend(old);
                    }
                },
            }
        }
        for left in before {
            info!(stream = left.stream.name.as_str(), "no longer followed");
            self.reporter.forget(&left.stream.name);
            if let Some(active) = left.active {
                self.let_go(active).await;
            }
        }
        self.tell_left_behind();
        reloaded
    }

    /// Says which links in `current/` belong to no stream: what they name is kept for ever. A producer
    /// that shares the store may have made them, so they are not taken away.
    pub(super) fn tell_left_behind(&self) {
        let linked = match self.data.streams_with_current() {
            Ok(linked) => linked,
            Err(error) => {
                return warn!(
                    "cannot list the links of former streams: {}",
                    Causes(&error)
                );
            }
        };
        for place in self.data.foreign_in_current().unwrap_or_default() {
            warn!(
                "{} names no snapshot and is left alone: move it elsewhere, current/ is for links \
                 to snapshots",
                place.display()
            );
        }
        for (name, snapshot) in linked {
            if self.streams.iter().all(|one| one.stream.name != name) {
                let link = self.data.current_link(&name);
                let name = name.as_str();
                info!(
                    stream = name, %snapshot,
                    "no stream of the configuration is called {name}, and its snapshot is kept; \
                     unless a producer publishes it here, release it with: rm {}",
                    link.display()
                );
            }
        }
    }

    /// Begins to follow a stream that came with a reload.
    pub(super) fn begin(&mut self, name: &str, stream: &config::Stream) -> Result<Followed> {
        let mut followed = Followed::open(name, stream, self.data)?;
        followed.recall(&mut self.reporter);
        info!(stream = name, "followed from now on");
        Ok(followed)
    }
}

/// Says what became of items that were put again; whether all were.
fn log_republished(result: Result<Vec<Republished>, RecordError>) -> bool {
    let mut all = true;
    match result {
        Ok(items) => {
            for item in items {
                match item.result {
                    Ok(stored) => {
                        debug!(
                            seq = item.item.seq().get(),
                            nodes = stored.nodes,
                            "pointer put again"
                        );
                    }
                    Err(error) => {
                        all = false;
                        info!(
                            seq = item.item.seq().get(),
                            "pointer not put again: {:#}",
                            Error::from(error)
                        );
                    }
                }
            }
        }
        Err(error) => {
            all = false;
            error!("pointers are not kept alive: {:#}", Error::from(error));
        }
    }
    all
}

/// A time up to a sixth shorter or longer, so that mirrors do not come to the same nodes all at once.
fn jittered(time: Duration) -> Duration {
    let mut random = [0; 4];
    // Without randomness they do.
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
        // What a round puts is not due again before the next.
        assert!(most < Round::Due.every());
    }
}
