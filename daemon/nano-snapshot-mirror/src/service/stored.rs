//! The snapshots in the store, and those of them that are seeded.

mod health;
mod retention;

use std::collections::HashMap;

use anyhow::Result;
use bittorrent_protocol::InfoHashV2;
use service_kit::watchdog::Pulse;
use snapshot_store::{DataDir, Entry, is_out_of_space};
use tokio::task::block_in_place;
use tracing::{error, info};

use super::events::Event;
use super::problems::Problems;
use super::reconcile::StoredState;
use super::scrub::{self, ScrubEvent, Scrubs};
use crate::api::control::{Added, Denied};
use crate::ledger::policy::{LedgerPolicy, Verdict};
use crate::text::Causes;
use crate::transfer::network::Network;
use crate::transfer::reuse::OpenStore;
use crate::transfer::snapshot_torrent::SnapshotTorrent;
use health::Health;

pub(super) use health::FileCheck;

/// Listing the snapshots, as an operation on the data directory that may fail.
const SNAPSHOTS: &str = "snapshots";

/// The store, with the seeded snapshots and their checks and scrubs.
pub(super) struct StoredSnapshots<'a> {
    network: &'a Network,
    data: &'a DataDir,
    policy: LedgerPolicy,
    /// The pulse of the main loop, which long work must beat.
    pulse: Pulse,
    seeding: HashMap<InfoHashV2, SnapshotTorrent>,
    health: Health<'a>,
    scrubs: Scrubs,
}

impl<'a> StoredSnapshots<'a> {
    /// Creates the collection. Nothing is seeded at first.
    pub(super) fn new(
        network: &'a Network,
        data: &'a DataDir,
        policy: LedgerPolicy,
        scrub: scrub::Settings,
        pulse: Pulse,
    ) -> Self {
        Self {
            network,
            data,
            policy,
            pulse,
            seeding: HashMap::new(),
            health: Health::new(),
            scrubs: Scrubs::new(scrub),
        }
    }

    /// Returns the next event: a check of the files or a scrub.
    pub(super) async fn next_event(&mut self) -> Event {
        tokio::select! {
            event = self.health.next_event() => event,
            event = self.scrubs.next() => Event::Scrub(event),
        }
    }

    /// Returns the torrent of a seeded snapshot.
    pub(super) fn get(&self, id: InfoHashV2) -> Option<&SnapshotTorrent> {
        self.seeding.get(&id)
    }

    /// Returns whether a snapshot is seeded.
    pub(super) fn contains(&self, id: InfoHashV2) -> bool {
        self.seeding.contains_key(&id)
    }

    /// Takes over the torrent of a snapshot that was downloaded.
    pub(super) fn insert(&mut self, torrent: SnapshotTorrent) {
        self.seeding.insert(torrent.id, torrent);
    }

    /// Returns the open stores, for a download to reuse blocks from.
    pub(super) fn open_stores(&self) -> Vec<OpenStore> {
        let open = self.seeding.values();
        open.map(|torrent| (torrent.id, torrent.store.clone()))
            .collect()
    }

    /// Returns the state of a snapshot in the store. Repairs and seeds nothing.
    pub(super) fn state_of(&self, id: InfoHashV2) -> StoredState {
        if let Some(torrent) = self.seeding.get(&id) {
            let verdict = self.policy.judge(&torrent.dir, &torrent.store.info());
            return state_by(&verdict);
        }
        match block_in_place(|| snapshot_store::open(self.data, id)) {
            Some(Entry::Whole(generation) | Entry::Degraded(generation)) => {
                let verdict = self.policy.judge(&generation.dir, &generation.store.info());
                state_by(&verdict)
            }
            Some(Entry::Refused(_)) => StoredState::Refused,
            Some(Entry::Partial) => StoredState::Partial,
            Some(Entry::Busy) => StoredState::Busy,
            Some(Entry::Damaged(_)) => StoredState::Damaged,
            Some(Entry::Unavailable(_)) => StoredState::Unavailable,
            None => StoredState::Absent,
        }
    }

    /// Returns why a snapshot is refused; empty if it is not.
    pub(super) fn refusal(&self, id: InfoHashV2) -> Vec<String> {
        let verdict = match block_in_place(|| snapshot_store::open(self.data, id)) {
            Some(Entry::Whole(generation) | Entry::Degraded(generation)) => {
                self.policy.judge(&generation.dir, &generation.store.info())
            }
            Some(Entry::Refused(faults)) => Verdict::Refused(faults),
            _ => return Vec::new(),
        };
        match verdict {
            Verdict::Refused(reasons) => reasons,
            Verdict::Sound | Verdict::Unverified => Vec::new(),
        }
    }

    /// Opens a snapshot, repairs it if necessary, and seeds it if it is complete and not refused.
    pub(super) async fn take_up(&mut self, id: InfoHashV2, problems: &mut Problems) {
        if self.contains(id) {
            return;
        }
        match block_in_place(|| snapshot_store::open_and_repair(self.data, id)) {
            Some(Entry::Whole(generation) | Entry::Degraded(generation)) => {
                let verdict = self.policy.judge(&generation.dir, &generation.store.info());
                if matches!(verdict, Verdict::Refused(_)) {
                    return;
                }
                match SnapshotTorrent::seed(self.network, generation).await {
                    Ok(torrent) => {
                        info!(snapshot = %id, "seeding");
                        self.insert(torrent);
                    }
                    Err(error) => error!(snapshot = %id, "cannot seed the snapshot: {error:#}"),
                }
            }
            Some(Entry::Damaged(error) | Entry::Unavailable(error)) => {
                if is_out_of_space(&error) {
                    problems.out_of_space(&error.into(), "cannot open a stored snapshot");
                } else {
                    error!(snapshot = %id, "cannot seed the snapshot: {}", Causes(&error));
                }
            }
            Some(Entry::Refused(_) | Entry::Partial | Entry::Busy) | None => {}
        }
    }

    /// Takes up a snapshot that another process added to the store.
    ///
    /// # Errors
    ///
    /// When there is no such snapshot, or it cannot be seeded.
    pub(super) async fn add(
        &mut self,
        id: InfoHashV2,
        problems: &mut Problems,
    ) -> Result<Added, Denied> {
        let before = self.contains(id);
        self.take_up(id, problems).await;
        match self.state_of(id) {
            // Its ledger is verified next, while it is seeded.
            StoredState::Sound | StoredState::Unverified => Ok(Added { before }),
            StoredState::Absent => Err(Denied::Unknown(format!("there is no snapshot {id} here"))),
            StoredState::Refused => Err(Denied::Unfit(format!("snapshot {id} is no sound ledger"))),
            StoredState::Partial => Err(Denied::Unfit(format!("snapshot {id} is not complete"))),
            StoredState::Busy => Err(Denied::Unfit(format!(
                "another process works on snapshot {id}"
            ))),
            StoredState::Damaged | StoredState::Unavailable => Err(Denied::Unfit(format!(
                "snapshot {id} cannot be opened, see the log"
            ))),
        }
    }

    /// Takes up all stored snapshots except those for which `is_busy` returns `true`. Removes surplus unfinished snapshots that are not `wanted`.
    pub(super) async fn rescan(
        &mut self,
        wanted: &[InfoHashV2],
        is_busy: impl Fn(InfoHashV2) -> bool,
        problems: &mut Problems,
    ) {
        self.remove_stopped(problems).await;
        let Some(ids) = problems.check_store(SNAPSHOTS, self.data.snapshot_ids()) else {
            return;
        };
        for id in ids {
            self.pulse.beat();
            if !is_busy(id) {
                self.take_up(id, problems).await;
            }
        }
        problems.check_store("unfinished", self.remove_unfinished(wanted));
    }

    /// Removes stopped torrents from the session, so that their snapshots are opened again. A failing disk is the usual cause.
    async fn remove_stopped(&mut self, problems: &mut Problems) {
        let stopped: Vec<InfoHashV2> = self
            .seeding
            .iter()
            .filter(|(_, torrent)| torrent.status().phase.error().is_some())
            .map(|(id, _)| *id)
            .collect();
        for id in stopped {
            if let Some(error) = self.get(id).map(SnapshotTorrent::status)
                && let Some(error) = error.phase.error()
            {
                error!(snapshot = %id, "seeding stopped: {}", Causes(&**error));
            }
            self.remove(id, problems).await;
        }
    }

    /// Stops scrubbing and seeding a snapshot. Returns whether it was seeded.
    pub(super) async fn remove(&mut self, id: InfoHashV2, problems: &mut Problems) -> bool {
        self.scrubs.stop(id).await;
        let Some(torrent) = self.seeding.remove(&id) else {
            return false;
        };
        let (_lock, status) = torrent.leave().await;
        problems.reporter().count(id, &status);
        true
    }

    /// Stops scrubbing and seeding all snapshots.
    pub(super) async fn remove_all(&mut self, problems: &mut Problems) {
        self.scrubs.stop_all().await;
        for (id, torrent) in std::mem::take(&mut self.seeding) {
            let (_lock, status) = torrent.leave().await;
            problems.reporter().count(id, &status);
        }
    }

    /// Schedules a scrub of a snapshot before those that are due. Returns `false` if it is not seeded.
    pub(super) fn request_scrub(&mut self, id: InfoHashV2) -> bool {
        let seeded = self.contains(id);
        if seeded {
            self.scrubs.ask(id);
        }
        seeded
    }

    /// Handles an event of the scrubs.
    pub(super) async fn take_scrubbed(&mut self, event: ScrubEvent, settings: scrub::Settings) {
        self.scrubs.take(event, settings, &self.seeding).await;
    }
}

/// The state of a complete snapshot.
const fn state_by(verdict: &Verdict) -> StoredState {
    match verdict {
        Verdict::Sound => StoredState::Sound,
        Verdict::Unverified => StoredState::Unverified,
        Verdict::Refused(_) => StoredState::Refused,
    }
}
