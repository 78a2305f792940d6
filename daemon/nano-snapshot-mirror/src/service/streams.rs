//! The followed streams: results of look-ups, and changes of the configuration.

use std::time::Duration;

use anyhow::{Error, Result};
use snapshot_pointer::{RecordError, Republished, SuccessionError};
use tracing::{debug, error, info, warn};

use super::Service;
use super::followed::FollowedStream;
use super::lookups::{KeptAlive, Polled};
use crate::config::{self, Mistakes, Reloaded};
use crate::kit::logging;
use crate::observe::report::ProblemCode;
use crate::text::Causes;

impl Service<'_> {
    /// Takes the results of a poll and schedules the next one. Returns the time until then.
    pub(super) fn take_polled(&mut self, polled: Vec<Polled>) -> Duration {
        let mut soon = false;
        for (name, polled) in polled {
            let followed = self.streams.iter_mut().find(|one| one.stream.name == name);
            // A reload may have removed it.
            if let Some(followed) = followed {
                soon |= followed.take_poll(polled, self.problems.reporter());
            }
        }
        let interval = self.live.config().poll_interval.get();
        self.lookups.schedule_poll(soon, interval)
    }

    /// Takes the results of putting items again.
    pub(super) fn take_kept_alive(&mut self, kept: Vec<KeptAlive>) {
        let mut failed = false;
        for one in kept {
            failed |= !log_republished(one.republished);
            let mut streams = self.streams.iter();
            let Some(followed) = streams.find(|followed| followed.stream.name == one.name) else {
                // A reload removed it.
                continue;
            };
            match one.successions {
                Some(Ok(successions)) => {
                    let text = followed.stream.handed_over(&successions);
                    self.problems
                        .set(ProblemCode::KeyRotation, one.name.as_str(), text);
                }
                // A salt that is too long for a succession has none.
                Some(Err(SuccessionError::Salt(_))) | None => {}
                Some(Err(error)) => {
                    error!("cannot look up successors: {:#}", Error::from(error));
                }
            }
        }
        self.lookups.schedule_round(failed);
    }

    /// Reads the configuration again and applies what is not looked up on each use.
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
                old => match self.follow(name, stream) {
                    Ok(mut new) => {
                        new.active = old.and_then(|old| old.active);
                        self.streams.push(new);
                    }
                    Err(error) => {
                        error!(
                            stream = name,
                            "cannot follow the stream as it is configured now: {error:#}"
                        );
                        self.streams.extend(old);
                    }
                },
            }
        }
        for removed in before {
            info!(stream = removed.stream.name.as_str(), "stopped following");
            self.problems.reporter().forget(&removed.stream.name);
            if let Some(active) = removed.active {
                self.stop_unless_awaited(active).await;
            }
        }
        self.log_foreign_links();
        reloaded
    }

    /// Logs which links in `current/` belong to no stream: their snapshots are kept for ever. A producer
    /// that shares the store may have made them, so they are not removed.
    pub(super) fn log_foreign_links(&self) {
        let linked = match self.data.streams_with_current() {
            Ok(linked) => linked,
            Err(error) => {
                return warn!(
                    "cannot list the links of former streams: {}",
                    Causes(&error)
                );
            }
        };
        for path in self.data.foreign_in_current().unwrap_or_default() {
            warn!(
                "{} names no snapshot and is left alone: move it elsewhere, current/ is for links \
                 to snapshots",
                path.display()
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

    /// Starts to follow a stream that a reload added.
    fn follow(&mut self, name: &str, stream: &config::Stream) -> Result<FollowedStream> {
        let mut followed = FollowedStream::open(name, stream, self.data)?;
        followed.recall(self.problems.reporter());
        info!(stream = name, "started following");
        Ok(followed)
    }
}

/// Logs the results of putting items again. Returns whether all were put.
fn log_republished(result: Result<Vec<Republished>, RecordError>) -> bool {
    let mut all = true;
    match result {
        Ok(items) => {
            for item in items {
                let seq = item.item.seq().get();
                match item.result {
                    Ok(stored) => debug!(seq, nodes = stored.nodes, "put the pointer again"),
                    Err(error) => {
                        all = false;
                        info!(
                            seq,
                            "cannot put the pointer again: {:#}",
                            Error::from(error)
                        );
                    }
                }
            }
        }
        Err(error) => {
            all = false;
            error!("cannot keep pointers alive: {:#}", Error::from(error));
        }
    }
    all
}
