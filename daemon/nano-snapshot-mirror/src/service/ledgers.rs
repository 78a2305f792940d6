//! Verification of the ledgers of complete snapshots, one at a time.

use std::future::pending;

use anyhow::Result;
use bittorrent_protocol::InfoHashV2;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::Running;
use super::events::Event;
use crate::ledger::policy::{LedgerPolicy, Verdict};
use crate::progress::ProgressDisplay;
use crate::transfer::snapshot_torrent::SnapshotTorrent;

/// A ledger that is being verified.
struct RunningVerification<'a> {
    id: InfoHashV2,
    stop: CancellationToken,
    task: Running<'a, Result<Option<Verdict>>>,
}

/// The verification that runs, if one does.
pub(super) struct LedgerChecks<'a> {
    policy: LedgerPolicy,
    display: &'a ProgressDisplay,
    running: Option<RunningVerification<'a>>,
}

impl<'a> LedgerChecks<'a> {
    pub(super) fn new(policy: LedgerPolicy, display: &'a ProgressDisplay) -> Self {
        Self {
            policy,
            display,
            running: None,
        }
    }

    /// Returns the snapshot whose ledger is being verified.
    pub(super) fn running(&self) -> Option<InfoHashV2> {
        self.running.as_ref().map(|running| running.id)
    }

    /// Starts to verify the ledger of a seeded snapshot, on a thread of its own. The caller must have
    /// stopped the one that runs.
    pub(super) fn start(&mut self, torrent: &SnapshotTorrent) {
        let id = torrent.id;
        info!(snapshot = %id, level = ?self.policy.level, "verifying the ledger");
        let stop = CancellationToken::new();
        let (policy, display, until) = (self.policy.clone(), self.display.clone(), stop.clone());
        let (dir, content) = (torrent.dir.clone(), torrent.store.info());
        let task = spawn_blocking(move || policy.verify_held(&dir, &content, &display, &until));
        let task = Box::pin(async move { task.await? });
        self.running = Some(RunningVerification { id, stop, task });
    }

    /// Returns the next event: the verification ended.
    pub(super) async fn next_event(&mut self) -> Event {
        let Some(running) = &mut self.running else {
            return pending().await;
        };
        let result = (&mut running.task).await;
        let id = running.id;
        self.running = None;
        Event::LedgerVerified(id, result)
    }

    /// Stops the running verification; its findings so far are lost.
    pub(super) async fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.stop.cancel();
            if let Err(error) = running.task.await {
                warn!(snapshot = %running.id, "the verification failed while it was stopped: {error:#}");
            }
        }
    }
}
