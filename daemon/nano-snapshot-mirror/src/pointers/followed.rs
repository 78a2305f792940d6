//! A stream that the mirror follows: what it wants, and how far it is.

use std::time::{Instant, SystemTime};

use anyhow::{Error, Result};
use bittorrent_protocol::InfoHashV2;
use snapshot_pointer::{Authority, Decision, Poll, RecordError};
use snapshot_store::{DataDir, is_out_of_space};
use tracing::{debug, error, info, warn};

use crate::config;
use crate::observe::report::Reporter;
use crate::pointers::stream::{self, Stream};
use crate::text::Time;

/// The problem of records that cannot be read or written, for programs.
const POINTER_MEMORY: &str = "pointer-memory";

/// A stream with what is known of it.
pub(crate) struct Followed {
    pub(crate) stream: Stream,
    /// The snapshot to have: what the pointer names, or what is pinned.
    pub(crate) desired: Option<InfoHashV2>,
    /// The download it waits for. Other streams may wait for the same.
    pub(crate) active: Option<InfoHashV2>,
    /// Whether the desired snapshot was looked into and refused.
    pub(crate) refused: bool,
    /// Since when it is followed.
    since: Instant,
    /// Whether a pointer was ever believed.
    believed: bool,
    /// Authorities of whom it was told that nothing is known.
    told_silent: Vec<Authority>,
}

impl Followed {
    /// Opens the stream of this name in the configuration.
    pub(crate) fn open(name: &str, config: &config::Stream, data: &DataDir) -> Result<Self> {
        Ok(Self {
            stream: Stream::open(name, config, data)?,
            desired: None,
            active: None,
            refused: false,
            since: Instant::now(),
            believed: false,
            told_silent: Vec::new(),
        })
    }

    /// Begins with what was known when the last run ended. A record that cannot be read keeps this
    /// stream from being followed, since a mirror without its memory could be rolled back; each look-up
    /// tries again. What is held is seeded all the same.
    pub(crate) fn recall(&mut self, reporter: &mut Reporter) {
        if let Err(error) = self.try_recall(reporter) {
            let name = self.stream.name.as_str();
            // Logged as a problem.
            let text = format!("stream {name}: not followed: {error:#}");
            reporter.problem(POINTER_MEMORY, name, Some(text));
        }
    }

    fn try_recall(&mut self, reporter: &mut Reporter) -> Result<()> {
        let (decision, records) = self.stream.follower.decide_from_records()?;
        self.desired = stream::choice(&decision);
        self.believed = self.desired.is_some();
        reporter.recalled(&self.stream, &decision, records);
        let successions = self.stream.follower.stored_successions()?;
        let handed_over = self.stream.handed_over(&successions);
        reporter.problem(stream::KEY_ROTATION, self.stream.name.as_str(), handed_over);
        Ok(())
    }

    /// Takes over a newer pointer that another process has noted in the same store, as a producer does
    /// before it tells of its snapshot: without it, the older one would become current again until
    /// the next look-up.
    pub(crate) fn catch_up(&mut self) {
        match self.stream.follower.decide_from_records() {
            Ok((decision, _)) => {
                if let Some(snapshot) = stream::choice(&decision) {
                    self.desired = Some(snapshot);
                    self.believed = true;
                }
            }
            Err(error) => error!("no newer pointer is taken over: {:#}", Error::from(error)),
        }
    }

    /// Takes the result of a look-up. Returns whether to look again soon.
    pub(crate) fn hear(
        &mut self,
        polled: Result<Poll, RecordError>,
        reporter: &mut Reporter,
    ) -> bool {
        let name = self.stream.name.as_str();
        let poll = match polled {
            Ok(poll) => poll,
            Err(error) => {
                // Without its memory a mirror could be rolled back: it only seeds meanwhile.
                let error = Error::from(error);
                let lacks_room = is_out_of_space(error.as_ref());
                let pause = match lacks_room {
                    true => "paused until there is room on the disk, nothing is lost: ",
                    false => "",
                };
                // Logged as a problem.
                let text = format!("stream {name}: {pause}the pointer is not followed: {error:#}");
                reporter.problem(POINTER_MEMORY, name, Some(text));
                return lacks_room;
            }
        };
        stream::log(&poll);
        reporter.problem(POINTER_MEMORY, name, None);
        reporter.heard(&self.stream, &poll, SystemTime::now());
        let failed = poll
            .authorities
            .iter()
            .filter(|one| one.lookup.is_err())
            .count();
        match &poll.decision {
            Decision::Follow(choice) => {
                self.desired = Some(choice.snapshot);
                self.believed = true;
            }
            // That every look-up failed was just logged.
            Decision::Undecided(tally) if failed < poll.authorities.len() => {
                let why = stream::why_not(&poll, tally);
                // Logged as a problem.
                debug!(stream = name, "nothing to follow: {why}");
            }
            Decision::Undecided(_) => {}
        }
        self.tell_silent(&poll);
        self.fall_back(Instant::now());
        failed > 0 || !self.believed
    }

    /// Says once of which authorities among several nothing was ever found.
    fn tell_silent(&mut self, poll: &Poll) {
        for one in &poll.authorities {
            let silent = one.lookup.is_ok() && one.record.state().high_water().is_none();
            let told = self.told_silent.contains(&one.authority);
            if silent && !told && poll.authorities.len() > 1 {
                info!(
                    stream = self.stream.name.as_str(), authority = %one.authority,
                    "nothing was found of this authority: it has no vote yet"
                );
                self.told_silent.push(one.authority);
            }
        }
    }

    /// Takes the pinned snapshot when no pointer was believed for long enough.
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
