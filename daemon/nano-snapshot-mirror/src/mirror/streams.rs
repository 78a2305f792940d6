//! What the streams say, and which of them are followed.

use std::time::{Duration, SystemTime};

use anyhow::{Error, Result};
use futures_util::future::join_all;
use snapshot_pointer::{Poll, RecordError, Republished};
use tracing::{debug, error, info};

use super::{Running, Service};
use crate::config::{self, Mistakes, Reloaded};
use crate::data_dir::StreamName;
use crate::followed::Followed;
use crate::logging;

/// Time to the next look-up while no pointer is known or none could be looked up; doubled each
/// time, and never above the poll interval.
pub(super) const FIRST_RETRY: Duration = Duration::from_secs(5);

/// And at most so long: networks come up some time after machines do.
const LAST_RETRY: Duration = Duration::from_secs(60);

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

    pub(super) fn republish(&self) -> Running<'a, Vec<Result<Vec<Republished>, RecordError>>> {
        let dht = self.network.dht();
        let puts: Vec<_> = self
            .streams
            .iter()
            .map(|followed| {
                let follower = followed.stream.follower.clone();
                async move { follower.republish(&**dht, SystemTime::now()).await }
            })
            .collect();
        Box::pin(join_all(puts))
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
        reloaded
    }

    /// Begins to follow a stream that came with a reload.
    pub(super) fn begin(&mut self, name: &str, stream: &config::Stream) -> Result<Followed> {
        let mut followed = Followed::open(name, stream, self.data)?;
        followed.recall(&mut self.reporter)?;
        info!(stream = name, "followed from now on");
        Ok(followed)
    }
}

pub(super) fn log_republished(result: Result<Vec<Republished>, RecordError>) {
    match result {
        Ok(items) => {
            for item in items {
                match item.result {
                    Ok(stored) => {
                        debug!(seq = %item.item.seq(), nodes = stored.nodes, "pointer put again");
                    }
                    Err(error) => info!(
                        seq = %item.item.seq(), "pointer not put again: {:#}", Error::from(error)
                    ),
                }
            }
        }
        Err(error) => error!("pointers are not kept alive: {:#}", Error::from(error)),
    }
}
