//! A followed stream: its policy, its records, and the results of look-ups.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};
use bittorrent_protocol::InfoHashV2;
use snapshot_pointer::{
    Choice, Decision, Dht, Follower, LookupError, Poll, RecordError, RecordStore, SignedItem,
    Succession, Tally, carried_item,
};
use snapshot_store::{DataDir, StreamName};
use tracing::{debug, info, warn};

use crate::config::{self, Config};
use crate::text::Causes;

/// A stream with its records in the data directory.
#[derive(Clone)]
pub(crate) struct Stream {
    pub(crate) name: StreamName,
    /// The configuration of the stream.
    pub(crate) config: config::Stream,
    pub(crate) follower: Follower,
}

impl Stream {
    /// Opens the stream with the name `meant`, or without a name the only one in the configuration.
    pub(crate) fn one(config: &Config, meant: Option<&str>, data: &DataDir) -> Result<Self> {
        let names: Vec<&str> = config.stream.iter().map(|(name, _)| name).collect();
        let mut streams = config.stream.iter();
        let found = match meant {
            Some(meant) => streams.find(|(name, _)| *name == meant),
            None if names.len() == 1 => streams.next(),
            None => None,
        };
        let names = names.join(", ");
        match (found, meant) {
            (Some((name, stream)), _) => Self::open(name, stream, data),
            (None, Some(meant)) => bail!("no stream {meant}; configured streams: {names}"),
            (None, None) => bail!("name one of the streams with --stream: {names}"),
        }
    }

    /// Opens the stream of this name.
    pub(crate) fn open(name: &str, config: &config::Stream, data: &DataDir) -> Result<Self> {
        let policy = config.policy()?;
        if !policy.is_majority() {
            warn!(
                stream = name,
                "fewer than half of the authorities may decide: two snapshots can both qualify"
            );
        }
        let records = RecordStore::open(&data.streams())?;
        Ok(Self {
            name: StreamName::of_section(name),
            config: config.clone(),
            follower: Follower::new(policy, records),
        })
    }

    /// Reads the configured pointer files, then looks up all authorities.
    pub(crate) async fn poll(&self, dht: &dyn Dht) -> Result<Poll, RecordError> {
        let now = SystemTime::now();
        let mut items = Vec::new();
        for path in &self.config.items {
            // A local file of a few KiB.
            match carried_item(path) {
                Ok(item) => items.push(item),
                Err(error) => warn!(
                    stream = self.name.as_str(),
                    "no pointer from a file: {}",
                    Causes(&error)
                ),
            }
        }
        self.follower.take(&items, now).await?;
        self.follower.poll(dht, now, &note_early).await
    }

    /// Returns for how long the chosen snapshot has been named, if that is longer than `max-age`.
    pub(crate) fn stale_for(&self, choice: &Choice) -> Option<Duration> {
        let policy = self.follower.policy();
        let freshness = policy.freshness(choice, SystemTime::now());
        freshness.stale.then_some(freshness.age)
    }

    /// Describes what to do about authorities whose successors are not configured. Returns `None` when there is nothing to do.
    pub(crate) fn handed_over(&self, successions: &[Succession]) -> Option<String> {
        let known = self.follower.policy().authorities();
        let name = self.name.as_str();
        let texts: Vec<String> = successions
            .iter()
            .filter(|one| !known.contains(&one.new))
            .map(|Succession { old, new }| {
                format!(
                    "stream {name}: authority {old} hands over to {new}: add it to authorities, and \
                     take the old one out once the new one publishes"
                )
            })
            .collect();
        (!texts.is_empty()).then(|| texts.join("; "))
    }
}

/// The meaning of a stale stream, for messages.
pub(crate) const STALE: &str = "its authorities may have stopped, or DHT nodes withhold items";

/// Called with items before a look-up settles.
fn note_early(item: &SignedItem) {
    debug!(seq = item.seq().get(), value = ?item.pointer(), "found so far");
}

/// Returns the snapshot to follow, if there is one.
pub(crate) fn choice(decision: &Decision) -> Option<InfoHashV2> {
    match decision {
        Decision::Follow(choice) => Some(choice.snapshot),
        Decision::Undecided(_) => None,
    }
}

/// Logs the refused items of a look-up. A mirror reports them as events instead.
pub(crate) fn log_refused(poll: &Poll) {
    for authority in &poll.authorities {
        let refused = authority.lookup.iter().flat_map(|summary| &summary.refused);
        for (item, refusal) in refused {
            warn!(
                authority = %authority.authority, seq = item.seq().get(),
                "a pointer is refused: {refusal}"
            );
        }
    }
}

/// Logs the result of a poll, except refused items.
pub(crate) fn log(poll: &Poll) {
    for authority in &poll.authorities {
        let key = &authority.authority;
        let pointer = authority.record.state().pointer();
        match &authority.lookup {
            Err(error) => warn!(authority = %key, "look-up failed: {}", Causes(error)),
            Ok(summary) if summary.newer => {
                if let Some(pointer) = pointer {
                    info!(
                        authority = %key, seq = pointer.seq.get(), snapshot = %pointer.snapshot,
                        "the pointer moved"
                    );
                }
            }
            Ok(summary) => debug!(
                authority = %key, counts = ?summary.counts, settled = summary.settled,
                "nothing new"
            ),
        }
    }
}

/// Returns whether any DHT node answered, even with an invalid item. Then another look-up soon is unlikely to help.
pub(crate) fn was_answered(poll: &Poll) -> bool {
    poll.authorities
        .iter()
        .any(|authority| match &authority.lookup {
            Ok(_) => true,
            Err(LookupError::NoAnswer { counts }) => counts.invalid > 0,
            Err(_) => false,
        })
}

/// Describes why a poll found no snapshot to follow.
pub(crate) fn why_not(poll: &Poll, tally: &Tally) -> String {
    let mut text = match tally {
        Tally { contested, .. } if *contested > 0 => format!(
            "{contested} of the authorities signed two different snapshots with one sequence \
             number; neither is followed, and the proof is kept in streams/"
        ),
        Tally {
            leading: Some((snapshot, votes)),
            threshold,
            ..
        } => {
            format!("{votes} of {threshold} needed authorities name {snapshot}")
        }
        Tally { leading: None, .. } => "no pointer was found".to_owned(),
    };
    for authority in &poll.authorities {
        // Writing to a String cannot fail.
        let _ = write!(text, "; authority {}", authority.authority);
        let _ = match &authority.lookup {
            Err(LookupError::NoAnswer { counts }) if counts.invalid > 0 => write!(
                text,
                ": {} DHT nodes returned an item that is malformed or has a wrong signature, and \
                 none returned a valid one",
                counts.invalid,
            ),
            Err(error) => write!(text, ": {}", Causes(error)),
            Ok(found) => {
                let counts = found.counts;
                let mut written = write!(
                    text,
                    ": {} DHT nodes answered, {} with a valid item, {} with an invalid one",
                    counts.answered(),
                    counts.valid,
                    counts.invalid,
                );
                for (item, refusal) in &found.refused {
                    written = write!(text, ", refused seq {}: {refusal}", item.seq());
                }
                written
            }
        };
    }
    text
}
