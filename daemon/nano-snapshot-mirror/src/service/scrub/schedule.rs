//! Schedules scrubs, one at a time. Requested scrubs come before those that are due.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, SystemTime};

use bittorrent_protocol::InfoHashV2;
use tokio::time::{Instant, sleep_until};
use tracing::error;

use super::{Scrub, ScrubMessage, Settings, due, log_end};
use crate::transfer::snapshot_torrent::SnapshotTorrent;

/// An event for [`Scrubs::take`].
#[derive(Debug)]
pub(crate) enum ScrubEvent {
    /// A check whether a scrub is due must be made.
    Look,
    /// The running scrub sent a message.
    Message(ScrubMessage),
}

/// The scrubs of one process.
pub(crate) struct Scrubs {
    settings: Settings,
    running: Option<(Scrub, Instant)>,
    asked: VecDeque<InfoHashV2>,
    look_at: Instant,
}

impl Scrubs {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            running: None,
            asked: VecDeque::new(),
            look_at: Instant::now(),
        }
    }

    /// Queues a scrub before those that are due. A snapshot that is already queued is not queued again.
    pub(crate) fn ask(&mut self, id: InfoHashV2) {
        if !self.asked.contains(&id) {
            self.asked.push_back(id);
        }
        self.look_at = Instant::now();
    }

    /// Waits for the next event.
    pub(crate) async fn next(&mut self) -> ScrubEvent {
        if let Some((scrub, _)) = &mut self.running {
            return ScrubEvent::Message(scrub.next().await);
        }
        sleep_until(self.look_at).await;
        ScrubEvent::Look
    }

    /// Handles an event. `seeding` has all seeded snapshots.
    pub(crate) async fn take(
        &mut self,
        event: ScrubEvent,
        settings: Settings,
        seeding: &HashMap<InfoHashV2, SnapshotTorrent>,
    ) {
        self.settings = settings;
        match event {
            ScrubEvent::Look => self.look(seeding),
            ScrubEvent::Message(ScrubMessage::Damaged(blocks)) => {
                let id = self.running.as_ref().map(|(scrub, _)| scrub.id);
                if let Some(torrent) = id.and_then(|id| seeding.get(&id))
                    && let Err(error) = torrent.repair(blocks).await
                {
                    error!(snapshot = %torrent.id, "cannot repair the snapshot before the next start: {error}");
                }
            }
            ScrubEvent::Message(ScrubMessage::Ended(ended)) => {
                // After an error with a pause, because the error may recur.
                let pause = match &ended {
                    Ok(_) => Duration::ZERO,
                    Err(_) => self.settings.look_every(),
                };
                self.look_at = Instant::now() + pause;
                if let Some((scrub, begun)) = self.running.take() {
                    log_end(scrub.id, &ended, begun.elapsed());
                    scrub.stop().await;
                }
            }
        }
    }

    fn look(&mut self, seeding: &HashMap<InfoHashV2, SnapshotTorrent>) {
        self.look_at = Instant::now() + self.settings.look_every();
        // Blocks that are downloaded again are verified on arrival, so a snapshot under repair is skipped.
        let whole = |torrent: &&SnapshotTorrent| torrent.status().phase.is_seeding();
        let mut asked = None;
        while let Some(id) = self.asked.pop_front() {
            if seeding.get(&id).as_ref().is_some_and(whole) {
                asked = Some(id);
                break;
            }
        }
        let dirs = seeding
            .values()
            .filter(whole)
            .map(|torrent| (torrent.id, &torrent.dir));
        let chosen = asked.or_else(|| due(dirs, self.settings, SystemTime::now()));
        let Some(torrent) = chosen.and_then(|id| seeding.get(&id)) else {
            return;
        };
        let (store, dir) = (torrent.store.clone(), torrent.dir.clone());
        match Scrub::start(torrent.id, store, dir, self.settings.rate, asked.is_some()) {
            Ok(scrub) => self.running = Some((scrub, Instant::now())),
            Err(error) => error!(snapshot = %torrent.id, "cannot scrub the snapshot: {error:#}"),
        }
    }

    /// Cancels the queued or running scrub of a snapshot that leaves the session.
    pub(crate) async fn stop(&mut self, id: InfoHashV2) {
        self.asked.retain(|asked| *asked != id);
        if let Some((scrub, _)) = self.running.take_if(|(scrub, _)| scrub.id == id) {
            scrub.stop().await;
        }
    }

    /// Stops the running scrub. The next start of the program continues it.
    pub(crate) async fn stop_all(&mut self) {
        if let Some((scrub, _)) = self.running.take() {
            scrub.stop().await;
        }
    }
}
