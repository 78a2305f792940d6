//! Room on the disk: what is removed for it, and what is tried again when there is some.

use std::time::Duration;

use anyhow::{Error, Result};
use bittorrent_protocol::InfoHashV2;
use snapshot_store::retention;
use snapshot_store::retention::{Candidate, Retention, Worth};
use tokio::task::block_in_place;
use tokio::time::Instant;
use tracing::warn;

use super::Service;
use crate::text::Causes;
use crate::transfer::disk_pause::PausedDownloads;

/// How soon to try again what a full disk kept from being done.
const ROOM_RETRY: Duration = Duration::from_secs(5);

/// How long the same about a full disk is not said again.
const SAY_AGAIN: Duration = Duration::from_secs(3600);

/// What is wrong when the disk has no room, for programs.
pub(super) const DISK_FULL: &str = "disk-full";

impl Service<'_> {
    /// Something could not be written: it is tried again soon.
    pub(super) fn lacks_room(&mut self, error: &Error, what: &str) {
        let text = format!("{what}: {error:#}");
        self.reporter.problem(DISK_FULL, "", Some(text.clone()));
        let now = Instant::now();
        let known = |(told, at): &(String, Instant)| *told == text && now < *at + SAY_AGAIN;
        if !self.told_room.as_ref().is_some_and(known) {
            warn!("paused until there is room on the disk, nothing is lost: {text}");
            self.told_room = Some((text, now));
        }
        self.room = Some(now + ROOM_RETRY);
    }

    /// Removes what is superseded, whoever switched: a producer in the same store cannot remove
    /// what this process seeds.
    pub(super) async fn retire(&mut self) {
        let keep = Retention::from(&self.live.config().retention);
        let retired = self.retire_to(keep).await;
        self.unless_store_fails("retention", retired);
    }

    /// Makes room for the downloads that lack it: only what has to be kept is.
    pub(super) async fn make_room(&mut self, paused: &PausedDownloads) {
        for followed in &self.streams {
            let pause = followed.active.and_then(|id| paused.get(&id));
            let name = followed.stream.name.as_str();
            let text = pause.map(ToString::to_string);
            self.reporter.problem(DISK_FULL, name, text);
        }
        if !paused.is_empty() {
            let emptied = block_in_place(|| self.data.empty_set_aside());
            self.unless_store_fails("set-aside", emptied);
            let retired = self.retire_to(Retention::LEAST).await;
            self.unless_store_fails("retention", retired);
        }
    }

    pub(super) async fn retire_to(&mut self, keep: Retention) -> Result<()> {
        let current = self.data.current_ids()?;
        let ids = self.data.snapshot_ids()?;
        // Opening partial ones takes time, so only when something may be there to remove.
        let kept = current.len().saturating_add(keep.generations as usize - 1);
        if ids.len() <= kept && keep.size.is_none() {
            return Ok(());
        }
        let held: Vec<Candidate> = ids
            .into_iter()
            .map(|id| {
                let worth = if self.seeding.contains_key(&id) {
                    Worth::Whole
                } else {
                    block_in_place(|| snapshot_store::open(self.data, id))
                        .map_or(Worth::Untouchable, |entry| Worth::from(&entry))
                };
                Candidate::new(self.data, id, worth)
            })
            .collect();
        let desired = self.streams.iter().filter_map(|one| one.desired);
        let fetched = self.fetching.iter().map(|fetching| fetching.id);
        let wanted: Vec<InfoHashV2> = desired.chain(fetched).collect();
        for old in retention::superseded(&held, &current, &wanted, keep) {
            if let Some(torrent) = self.leave(old).await {
                drop(self.take_out(torrent).await);
            }
            let removed = block_in_place(|| retention::remove(self.data, old, &self.data.lock()?));
            if let Err(error) = removed {
                warn!(snapshot = %old, "not removed: {}", Causes(&error));
            }
        }
        Ok(())
    }
}
