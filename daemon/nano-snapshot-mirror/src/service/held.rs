//! What is held, seeded and taken up.

use std::time::Duration;

use anyhow::Result;
use bittorrent_protocol::InfoHashV2;
use snapshot_store::{DirLock, Entry, is_out_of_space};
use tokio::task::block_in_place;
use tokio::time::Instant;
use tracing::{error, info};

use super::Service;
use crate::api::control::{Added, Denied};
use crate::ledger::policy::Verdict;
use crate::service::reconcile::Holding;
use crate::text::Causes;
use crate::transfer::snapshot_torrent::SnapshotTorrent;

/// The problem of a data directory that cannot be read or changed, for programs.
const STORE: &str = "store";

/// Listing the snapshots, as an operation that may fail.
pub(super) const SNAPSHOTS: &str = "snapshots";

/// How soon to try again what the data directory did not allow.
const STORE_RETRY: Duration = Duration::from_secs(5);

impl Service<'_> {
    /// Takes up a snapshot that another process has put into the store.
    pub(super) async fn add(&mut self, id: InfoHashV2) -> Result<Added, Denied> {
        let before = self.seeding.contains_key(&id);
        match self.holding(id).await {
            // Looking into its ledger comes next, while it is seeded.
            Holding::Whole | Holding::Unverified => Ok(Added { before }),
            Holding::None => Err(Denied::Unknown(format!("there is no snapshot {id} here"))),
            Holding::Refused => Err(Denied::Unfit(format!("snapshot {id} is no sound ledger"))),
            Holding::Partial => Err(Denied::Unfit(format!(
                "snapshot {id} is not whole, or another process works on it"
            ))),
        }
    }

    /// Seeds everything whole that is not seeded yet: at the start, and when a producer or a
    /// fetch has added to the same store.
    pub(super) async fn rescan(&mut self) {
        self.take_out_stopped().await;
        let ids = self.data.snapshot_ids();
        let Some(ids) = self.unless_store_fails(SNAPSHOTS, ids) else {
            return;
        };
        for id in ids {
            self.life.mirror.beat();
            if self.seeding.contains_key(&id) || self.is_fetching(id) {
                continue;
            }
            self.holding(id).await;
        }
        let removed = self.remove_unfinished().await;
        self.unless_store_fails("unfinished", removed);
    }

    /// The result of an operation on the data directory. A failure is a problem that is reported until
    /// the operation, named by `what`, succeeds; it is tried again soon, and seeding goes on.
    pub(super) fn unless_store_fails<T, E: Into<anyhow::Error>>(
        &mut self,
        what: &str,
        result: Result<T, E>,
    ) -> Option<T> {
        match result {
            Ok(value) => {
                self.reporter.problem(STORE, what, None);
                Some(value)
            }
            Err(error) => {
                let text = format!("{:#}; trying again", error.into());
                self.reporter.problem(STORE, what, Some(text));
                self.store_retry = Some(Instant::now() + STORE_RETRY);
                None
            }
        }
    }

    /// Takes out of the session what stopped there, mostly for a failing disk, so that it is looked
    /// at anew.
    pub(super) async fn take_out_stopped(&mut self) {
        let stopped: Vec<InfoHashV2> = self
            .seeding
            .iter()
            .filter(|(_, torrent)| torrent.status().phase.error().is_some())
            .map(|(id, _)| *id)
            .collect();
        for id in stopped {
            let Some(torrent) = self.leave(id).await else {
                continue;
            };
            if let Some(error) = torrent.status().phase.error() {
                error!(snapshot = %id, "seeding stopped: {}", Causes(&**error));
            }
            self.take_out(torrent).await;
        }
    }

    /// Takes a torrent out of the session; what it gave last counts too.
    pub(super) async fn take_out(&mut self, torrent: SnapshotTorrent) -> DirLock {
        let id = torrent.id;
        let (lock, status) = torrent.leave().await;
        self.reporter.count(id, &status);
        lock
    }

    /// Takes a seeded snapshot out of what is seeded and scrubbed; it is still in the session.
    pub(super) async fn leave(&mut self, id: InfoHashV2) -> Option<SnapshotTorrent> {
        self.scrubs.stop(id).await;
        self.seeding.remove(&id)
    }

    /// What is held of `id`; a whole snapshot is seeded from here on, unless its ledger is refused.
    pub(super) async fn holding(&mut self, id: InfoHashV2) -> Holding {
        if let Some(torrent) = self.seeding.get(&id) {
            let verdict = self.policy.judge(&torrent.dir, &torrent.store.info());
            return self.holding_by(id, verdict);
        }
        match block_in_place(|| snapshot_store::open_and_repair(self.data, id)) {
            Some(Entry::Whole(generation) | Entry::Degraded(generation)) => {
                let verdict = self.policy.judge(&generation.dir, &generation.store.info());
                let holding = self.holding_by(id, verdict);
                if holding != Holding::Refused {
                    match SnapshotTorrent::seed(self.network, generation).await {
                        Ok(torrent) => {
                            info!(snapshot = %id, "seeding");
                            self.seeding.insert(id, torrent);
                        }
                        Err(error) => error!(snapshot = %id, "cannot be seeded: {error:#}"),
                    }
                }
                holding
            }
            Some(Entry::Refused(faults)) => self.holding_by(id, Verdict::Refused(faults)),
            // A fetch waits for another process, and repairs what is damaged.
            Some(Entry::Partial | Entry::Busy) => Holding::Partial,
            Some(Entry::Damaged(error) | Entry::Unavailable(error)) => {
                if is_out_of_space(&error) {
                    self.lacks_room(&error.into(), "a stored snapshot is not opened");
                } else {
                    error!(snapshot = %id, "cannot seed the snapshot: {}", Causes(&error));
                }
                Holding::Partial
            }
            None => Holding::None,
        }
    }

    pub(super) fn holding_by(&mut self, id: InfoHashV2, verdict: Verdict) -> Holding {
        match verdict {
            Verdict::Sound => Holding::Whole,
            Verdict::Unverified => Holding::Unverified,
            Verdict::Refused(reasons) => {
                if self.wants(id) && self.told_refused.insert(id) {
                    error!(
                        snapshot = %id,
                        "refused, staying with what is current: {}", reasons.join("; ")
                    );
                }
                Holding::Refused
            }
        }
    }
}
