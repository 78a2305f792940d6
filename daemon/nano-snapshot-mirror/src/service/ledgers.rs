//! Looking into the ledgers of whole snapshots, one at a time.

use std::future::pending;

use anyhow::Result;
use bittorrent_protocol::InfoHashV2;
use snapshot_store::is_out_of_space;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{Running, Service};
use crate::ledger::policy::Verdict;

/// A ledger that is being looked into.
pub(super) struct Verifying<'a> {
    pub(super) id: InfoHashV2,
    pub(super) stop: CancellationToken,
    pub(super) task: Running<'a, Result<Option<Verdict>>>,
}

impl Service<'_> {
    /// Begins to look into the ledger of a snapshot that is seeded, on a thread of its own: seeding
    /// and following go on meanwhile.
    pub(super) async fn verify(&mut self, id: InfoHashV2) {
        // One at a time: another stream's turn comes when this one ends.
        if self
            .verifying
            .as_ref()
            .is_some_and(|one| self.wants(one.id))
        {
            return;
        }
        self.stop_verifying().await;
        let Some(torrent) = self.seeding.get(&id) else {
            // It could not be seeded, which was said.
            self.failed.insert(id);
            return;
        };
        info!(snapshot = %id, level = ?self.policy.level, "looking into the ledger");
        let stop = CancellationToken::new();
        let (policy, display, until) = (self.policy.clone(), self.display.clone(), stop.clone());
        let (dir, content) = (torrent.dir.clone(), torrent.store.info());
        let task = spawn_blocking(move || policy.verify_held(&dir, &content, &display, &until));
        let task = Box::pin(async move { task.await? });
        self.verifying = Some(Verifying { id, stop, task });
    }

    pub(super) async fn verified(&mut self, id: InfoHashV2, result: Result<Option<Verdict>>) {
        match result {
            Ok(Some(Verdict::Sound)) => info!(snapshot = %id, "the ledger is sound"),
            Ok(Some(Verdict::Refused(reasons))) => {
                error!(snapshot = %id, faults = ?reasons, "the ledger is refused");
                if let Some(torrent) = self.leave(id).await {
                    self.take_out(torrent).await;
                }
            }
            Ok(Some(Verdict::Unverified) | None) => {
                self.failed.insert(id);
            }
            Err(error) => {
                if is_out_of_space(error.as_ref()) {
                    self.lacks_room(&error, "what verification found is not kept");
                } else {
                    error!(snapshot = %id, "the ledger cannot be looked into: {error:#}");
                }
                let text = format!("snapshot {id}: the ledger cannot be looked into: {error:#}");
                for followed in self.streams.iter().filter(|one| one.desired == Some(id)) {
                    let name = followed.stream.name.as_str();
                    self.reporter
                        .problem("fetch-failed", name, Some(text.clone()));
                }
                self.failed.insert(id);
            }
        }
    }

    /// Ends the running look into a ledger; what it found so far is lost.
    pub(super) async fn stop_verifying(&mut self) {
        if let Some(verifying) = self.verifying.take() {
            verifying.stop.cancel();
            if let Err(error) = verifying.task.await {
                warn!(snapshot = %verifying.id, "looking into the ledger ended with: {error:#}");
            }
        }
    }
}

pub(super) async fn verified(
    slot: &mut Option<Verifying<'_>>,
) -> (InfoHashV2, Result<Option<Verdict>>) {
    match slot {
        Some(verifying) => (verifying.id, (&mut verifying.task).await),
        None => pending().await,
    }
}
