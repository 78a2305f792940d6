//! Running downloads, at most one for each stream.

use std::future::poll_fn;
use std::task::Poll;

use anyhow::Result;
use bittorrent_protocol::InfoHashV2;
use snapshot_store::DataDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::Running;
use super::events::Event;
use crate::ledger::policy::LedgerPolicy;
use crate::progress::ProgressDisplay;
use crate::transfer::disk_pause::PausedDownloads;
use crate::transfer::download::{self, DownloadOutcome, DownloadRequest};
use crate::transfer::network::Network;
use crate::transfer::reuse::OpenStore;

/// A download that runs.
struct RunningDownload<'a> {
    id: InfoHashV2,
    stop: CancellationToken,
    task: Running<'a, Result<DownloadOutcome>>,
}

/// The downloads that run. One without peers does not delay those of other streams.
pub(super) struct Downloads<'a> {
    network: &'a Network,
    data: &'a DataDir,
    policy: LedgerPolicy,
    display: &'a ProgressDisplay,
    running: Vec<RunningDownload<'a>>,
    /// Downloads that wait for disk space.
    paused: watch::Sender<PausedDownloads>,
    pauses: watch::Receiver<PausedDownloads>,
}

impl<'a> Downloads<'a> {
    pub(super) fn new(
        network: &'a Network,
        data: &'a DataDir,
        policy: LedgerPolicy,
        display: &'a ProgressDisplay,
    ) -> Self {
        let (paused, pauses) = watch::channel(PausedDownloads::default());
        Self {
            network,
            data,
            policy,
            display,
            running: Vec::new(),
            paused,
            pauses,
        }
    }

    /// Starts to download a snapshot. Blocks are reused from the `open` ones and from all others on disk.
    pub(super) fn start(&mut self, id: InfoHashV2, open: Vec<OpenStore>) {
        let stop = CancellationToken::new();
        let (network, data, display, until) = (self.network, self.data, self.display, stop.clone());
        let (policy, paused) = (self.policy.clone(), self.paused.clone());
        let task = Box::pin(async move {
            let request = DownloadRequest {
                id,
                open,
                policy: &policy,
                reader: None,
                fail_if_no_space: false,
                paused: &paused,
            };
            download::download(network, data, request, display, &until).await
        });
        self.running.push(RunningDownload { id, stop, task });
    }

    /// Returns whether a snapshot is being downloaded.
    pub(super) fn contains(&self, id: InfoHashV2) -> bool {
        self.running.iter().any(|one| one.id == id)
    }

    /// Returns the snapshots that are being downloaded.
    pub(super) fn ids(&self) -> impl Iterator<Item = InfoHashV2> {
        self.running.iter().map(|one| one.id)
    }

    /// Returns the next event: a download ended, or its pauses changed.
    pub(super) async fn next_event(&mut self) -> Event {
        tokio::select! {
            (id, result) = first_ended(&mut self.running) => {
                self.running.retain(|one| one.id != id);
                Event::DownloadEnded(id, result)
            }
            // The sender is a field of this struct.
            Ok(()) = self.pauses.changed() => {
                Event::DownloadsPaused(self.pauses.borrow_and_update().clone())
            }
        }
    }

    /// Stops a download and waits for its end. What it has stays on disk. `None` if it does not run.
    pub(super) async fn stop(&mut self, id: InfoHashV2) -> Option<Result<DownloadOutcome>> {
        let index = self.running.iter().position(|one| one.id == id)?;
        let download = self.running.swap_remove(index);
        download.stop.cancel();
        Some(download.task.await)
    }
}

/// Waits for the first of the downloads to end; for ever if there is none.
async fn first_ended(running: &mut [RunningDownload<'_>]) -> (InfoHashV2, Result<DownloadOutcome>) {
    poll_fn(|context| {
        let ended = running
            .iter_mut()
            .find_map(|one| match one.task.as_mut().poll(context) {
                Poll::Ready(result) => Some((one.id, result)),
                Poll::Pending => None,
            });
        ended.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}
