//! Pauses a download on a full disk until there is enough free space.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Result;
use bittorrent_protocol::InfoHashV2;
use bittorrent_protocol::metainfo::Metainfo;
use bittorrent_store::required_space;
use snapshot_store::{DataDir, space};
use snapshot_store::{SnapshotDir, shortage_of};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::progress::{ProgressDisplay, WorkKind};
use crate::text::Bytes;

/// Time between two checks of free space.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The shortest and the longest pause. Pauses grow while the file system reports free space and writes
/// still fail, as with a quota.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);

/// Space for the directory and metadata of a snapshot whose size is still unknown, bytes.
const TO_BEGIN: u64 = 1 << 20;

/// Why a download is paused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiskPause {
    /// Bytes that are still to be written.
    pub(crate) needed: u64,
    /// Bytes that must stay free besides.
    pub(crate) reserve: u64,
}

impl fmt::Display for DiskPause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the download is paused: it needs {} more, and {} must stay free on the disk",
            Bytes(self.needed),
            Bytes(self.reserve)
        )
    }
}

/// Downloads that wait for disk space.
pub(crate) type PausedDownloads = HashMap<InfoHashV2, DiskPause>;

/// The pauses of one download.
pub(crate) struct DiskPauses<'a> {
    data: &'a DataDir,
    id: InfoHashV2,
    display: &'a ProgressDisplay,
    /// The channel on which pauses are published.
    watchers: &'a watch::Sender<PausedDownloads>,
    next: Duration,
}

impl<'a> DiskPauses<'a> {
    pub(crate) fn new(
        data: &'a DataDir,
        id: InfoHashV2,
        display: &'a ProgressDisplay,
        watchers: &'a watch::Sender<PausedDownloads>,
    ) -> Self {
        Self {
            data,
            id,
            display,
            watchers,
            next: FIRST_PAUSE,
        }
    }

    /// Waits until there is the space that `error` lacked; `false` after a stop request.
    pub(crate) async fn wait(
        &mut self,
        error: &anyhow::Error,
        stop: &CancellationToken,
    ) -> Result<bool> {
        let pause = DiskPause {
            needed: shortage_of(error.as_ref()).map_or_else(
                || still_needed(&self.data.snapshot(self.id)),
                |shortage| shortage.needed,
            ),
            reserve: space::reserve(self.data)?,
        };
        warn!(
            snapshot = %self.id, needed_bytes = pause.needed, reserve_bytes = pause.reserve,
            "paused until there is free disk space; no data is lost: {error:#}"
        );
        let target = pause.needed.saturating_add(pause.reserve);
        self.watchers.send_modify(|paused| {
            paused.insert(self.id, pause);
        });
        let space_found = self.wait_for(target, stop).await;
        self.watchers.send_modify(|paused| {
            paused.remove(&self.id);
        });
        self.next = (self.next * 2).min(LAST_PAUSE);
        if let Ok(true) = space_found {
            info!(snapshot = %self.id, "there is free disk space again: continuing");
        }
        space_found
    }

    async fn wait_for(&self, target: u64, stop: &CancellationToken) -> Result<bool> {
        let begun = Instant::now();
        let mut meter = self.display.start(WorkKind::WaitForSpace, 0);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(false),
                () = sleep(LOOK_EVERY) => {}
            }
            let free = file_kit::space::FileSystem::of(self.data.root())?.free();
            if free >= target && begun.elapsed() >= self.next {
                return Ok(true);
            }
            meter.message(&format!(
                "{} more must be free",
                Bytes(target.saturating_sub(free))
            ));
        }
    }
}

/// Estimates how much is still to be written of the snapshot in `dir`, bytes.
fn still_needed(dir: &SnapshotDir) -> u64 {
    dir.read_info().map_or(TO_BEGIN, |info| {
        let total = required_space(&Metainfo::from_info(info.into()));
        space::remaining(total, dir.path())
    })
}
