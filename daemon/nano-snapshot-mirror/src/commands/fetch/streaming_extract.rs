//! Extraction of an archive while it is downloaded.

use std::sync::{Arc, Mutex};

use anyhow::Result;
use bittorrent_protocol::InfoHashV2;
use bittorrent_store::TorrentStore;
use service_kit::sync::lock;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::Fetch;
use crate::ledger::unpack::{self, Unpack, Unpacked};
use crate::transfer::download::ContentReader;

/// A running extraction of an archive that is being downloaded.
pub(super) struct StreamingExtract {
    unpack: Unpack,
    /// Stops the download: on a signal, or when the extraction has failed.
    pub(super) stop_fetch: CancellationToken,
    task: Mutex<Option<JoinHandle<Result<Unpacked>>>>,
}

impl StreamingExtract {
    pub(super) fn new(fetch: &Fetch<'_>, id: InfoHashV2) -> Self {
        Self {
            unpack: fetch.unpack(id, fetch.signals.stop.child_token()),
            stop_fetch: fetch.signals.stop.child_token(),
            task: Mutex::new(None),
        }
    }

    /// Waits for the extraction if the download is complete, and stops it otherwise. Returns `None` if no extraction
    /// was started.
    pub(super) async fn end(self, is_whole: bool) -> Result<Option<Unpacked>> {
        let task = lock(&self.task).take();
        let Some(task) = task else {
            return Ok(None);
        };
        if !is_whole {
            self.unpack.stop.cancel();
        }
        task.await?.map(Some)
    }
}

impl ContentReader for StreamingExtract {
    fn files_created(&self, store: &Arc<TorrentStore>) -> bool {
        let info = store.info();
        if info.is_single_file() && info.name().ends_with(".7z") {
            info!(
                "a 7z archive can only be extracted when it is complete, and an interrupted extraction \
                 starts over"
            );
        }
        if !unpack::may_stream(&info) {
            return false;
        }
        let (unpack, store, stop) = (self.unpack.clone(), store.clone(), self.stop_fetch.clone());
        let task = spawn_blocking(move || {
            // The download is of no use after the extraction failed.
            let unpacked = unpack.follow(store);
            if unpacked.is_err() {
                stop.cancel();
            }
            unpacked
        });
        *lock(&self.task) = Some(task);
        true
    }
}
