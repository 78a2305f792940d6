//! A stream that the mirror follows: which snapshot it wants, and which download it waits for.

use std::time::{Instant, SystemTime};

use anyhow::{Error, Result};
use bittorrent_protocol::InfoHashV2;
use snapshot_pointer::{Authority, Decision, Poll, RecordError};
use snapshot_store::{DataDir, is_out_of_space};
use tracing::{debug, error, info, warn};

use crate::config;
use crate::observe::report::{ProblemCode, Reporter};
use crate::pointers::stream::{self, Stream};
use crate::text::Time;

/// A stream, the snapshot that it wants, and the download that it waits for.
pub(crate) struct FollowedStream {
    pub(crate) stream: Stream,
    /// The snapshot that the pointer names, or the pinned one.
    pub(crate) desired: Option<InfoHashV2>,
    /// The download it waits for. Other streams may wait for the same.
    pub(crate) active: Option<InfoHashV2>,
    /// Whether the desired snapshot was verified and refused.
    pub(crate) refused: bool,
    /// When following started.
    since: Instant,
    /// Whether a pointer was ever accepted.
    accepted: bool,
    /// Authorities without a pointer that the log has named.
    logged_silent: Vec<Authority>,
}

impl FollowedStream {
    /// Opens the stream of this name in the configuration.
    pub(crate) fn open(name: &str, config: &config::Stream, data: &DataDir) -> Result<Self> {
        Ok(Self {
            stream: Stream::open(name, config, data)?,
            desired: None,
            active: None,
            refused: false,
            since: Instant::now(),
            accepted: false,
            logged_silent: Vec::new(),
        })
    }

    /// Loads what was known when the last run ended. If a record cannot be read, the stream is not followed,
    /// since a mirror without its records could be rolled back; each look-up tries again. Stored snapshots
    /// are seeded all the same.
    pub(crate) fn recall(&mut self, reporter: &mut Reporter) {
        if let Err(error) = self.try_recall(reporter) {
            let name = self.stream.name.as_str();
            // Logged as a problem.
            let text = format!("stream {name}: not followed: {error:#}");
            reporter.problem(ProblemCode::PointerMemory, name, Some(text));
        }
    }

    fn try_recall(&mut self, reporter: &mut Reporter) -> Result<()> {
        let (decision, records) = self.stream.follower.decide_from_records()?;
        self.desired = stream::choice(&decision);
        self.accepted = self.desired.is_some();
        reporter.recalled(&self.stream, &decision, records);
        let successions = self.stream.follower.stored_successions()?;
        let handed_over = self.stream.handed_over(&successions);
        reporter.problem(
            ProblemCode::KeyRotation,
            self.stream.name.as_str(),
            handed_over,
        );
        Ok(())
    }

    /// Takes over a newer pointer that another process recorded in the same store, as a producer does before
    /// it adds its snapshot. Without it, the older snapshot would become current again until the next
    /// look-up.
    pub(crate) fn catch_up(&mut self) {
        match self.stream.follower.decide_from_records() {
            Ok((decision, _)) => {
                if let Some(snapshot) = stream::choice(&decision) {
                    self.desired = Some(snapshot);
                    self.accepted = true;
                }
            }
            Err(error) => error!(
                "cannot take over a newer pointer from the store: {:#}",
                Error::from(error)
            ),
        }
    }

    /// Takes the result of a look-up. Returns whether to look up again soon.
    pub(crate) fn take_poll(
        &mut self,
        polled: Result<Poll, RecordError>,
        reporter: &mut Reporter,
    ) -> bool {
        let name = self.stream.name.as_str();
        let poll = match polled {
            Ok(poll) => poll,
            Err(error) => {
                // Without its records a mirror could be rolled back: it only seeds meanwhile.
                let error = Error::from(error);
                let lacks_room = is_out_of_space(error.as_ref());
                let pause = match lacks_room {
                    true => "paused until there is free disk space; no data is lost: ",
                    false => "",
                };
                // Logged as a problem.
                let text = format!("stream {name}: {pause}the pointer is not followed: {error:#}");
                reporter.problem(ProblemCode::PointerMemory, name, Some(text));
                return lacks_room;
            }
        };
        stream::log(&poll);
        reporter.problem(ProblemCode::PointerMemory, name, None);
        reporter.heard(&self.stream, &poll, SystemTime::now());
        let failed = poll
            .authorities
            .iter()
            .filter(|one| one.lookup.is_err())
            .count();
        match &poll.decision {
            Decision::Follow(choice) => {
                self.desired = Some(choice.snapshot);
                self.accepted = true;
            }
            // If every look-up failed, the log says so already.
            Decision::Undecided(tally) if failed < poll.authorities.len() => {
                let why = stream::why_not(&poll, tally);
                // Logged as a problem.
                debug!(stream = name, "nothing to follow: {why}");
            }
            Decision::Undecided(_) => {}
        }
        self.log_silent(&poll);
        self.fall_back(Instant::now());
        failed > 0 || !self.accepted
    }

    /// Logs once which authorities among several have no known pointer.
    fn log_silent(&mut self, poll: &Poll) {
        for one in &poll.authorities {
            let silent = one.lookup.is_ok() && one.record.state().high_water().is_none();
            let logged = self.logged_silent.contains(&one.authority);
            if silent && !logged && poll.authorities.len() > 1 {
                info!(
                    stream = self.stream.name.as_str(), authority = %one.authority,
                    "no pointer of this authority was found yet: it has no vote"
                );
                self.logged_silent.push(one.authority);
            }
        }
    }

    /// Takes the pinned snapshot if no pointer was accepted for `pinned-after`.
    fn fall_back(&mut self, now: Instant) {
        let waited = now.saturating_duration_since(self.since);
        let config = &self.stream.config;
        if let Some(pinned) = config.pinned
            && self.desired.is_none()
            && waited >= config.pinned_after.get()
        {
            warn!(
                stream = self.stream.name.as_str(), snapshot = %pinned,
                "no pointer was found in {}: taking the pinned snapshot until one is",
                Time(waited)
            );
            self.desired = Some(pinned);
        }
    }
}
