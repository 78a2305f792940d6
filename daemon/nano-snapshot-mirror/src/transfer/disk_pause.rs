//! A fetch on a full disk: it waits until there is room and goes on by itself.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use bittorrent_protocol::InfoHashV2;
use bittorrent_protocol::metainfo::Metainfo;
use bittorrent_store::required_space;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::progress::{ProgressDisplay, WorkKind};
use crate::store::catalogue;
use crate::store::data_dir::DataDir;
use crate::store::space::{self, Shortage};
use crate::text::Bytes;

/// How often to look whether there is room.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The shortest and the longest pause. They grow where free space says that there is room and
/// writing says that there is none, as with a quota.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LAST_PAUSE: Duration = Duration::from_secs(60);

/// What a snapshot of which nothing is known yet needs to begin: its directory and metadata.
const TO_BEGIN: u64 = 1 << 20;

/// Why a fetch does nothing at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pause {
    /// Bytes that are still to be written.
    pub(crate) needed: u64,
    /// Bytes that stay free besides.
    pub(crate) reserve: u64,
}

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the download is paused: it needs {} more and {} stay free on the disk",
            Bytes(self.needed),
            Bytes(self.reserve)
        )
    }
}

/// Downloads that wait for room.
pub(crate) type Paused = HashMap<InfoHashV2, Pause>;

/// The pauses of one fetch.
pub(crate) struct Pauses<'a> {
    data: &'a DataDir,
    id: InfoHashV2,
    display: &'a ProgressDisplay,
    /// Who is told of them.
    told: &'a watch::Sender<Paused>,
    next: Duration,
}

impl<'a> Pauses<'a> {
    pub(crate) fn new(
        data: &'a DataDir,
        id: InfoHashV2,
        display: &'a ProgressDisplay,
        told: &'a watch::Sender<Paused>,
    ) -> Self {
        Self {
            data,
            id,
            display,
            told,
            next: FIRST_PAUSE,
        }
    }

    /// Waits until what `error` lacked is there; `false` when asked to stop before.
    pub(crate) async fn wait(
        &mut self,
        error: &anyhow::Error,
        stop: &CancellationToken,
    ) -> Result<bool> {
        let pause = Pause {
            needed: error.downcast_ref::<Shortage>().map_or_else(
                || still_needed(&self.data.snapshot(self.id)),
                |shortage| shortage.needed,
            ),
            reserve: space::reserve(self.data)?,
        };
        warn!(
            snapshot = %self.id, needed_bytes = pause.needed, reserve_bytes = pause.reserve,
            "paused until there is room on the disk, nothing is lost: {error:#}"
        );
        let target = pause.needed.saturating_add(pause.reserve);
        self.told.send_modify(|paused| {
            paused.insert(self.id, pause);
        });
        let goes_on = self.wait_for(target, stop).await;
        self.told.send_modify(|paused| {
            paused.remove(&self.id);
        });
        self.next = (self.next * 2).min(LAST_PAUSE);
        if let Ok(true) = goes_on {
            info!(snapshot = %self.id, "there is room on the disk: going on");
        }
        goes_on
    }

    async fn wait_for(&self, target: u64, stop: &CancellationToken) -> Result<bool> {
        let begun = Instant::now();
        let mut meter = self.display.start(WorkKind::WaitForSpace, 0);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(false),
                () = sleep(LOOK_EVERY) => {}
            }
            let free = bittorrent_store::free_space(self.data.root())?;
            if free >= target && begun.elapsed() >= self.next {
                return Ok(true);
            }
            meter.message(&format!(
                "{} more have to be free",
                Bytes(target.saturating_sub(free))
            ));
        }
    }
}

/// About what is still to be written of the snapshot in `dir`.
fn still_needed(dir: &Path) -> u64 {
    catalogue::read_info(dir).map_or(TO_BEGIN, |info| {
        let total = required_space(&Metainfo::from_info(info.into()));
        space::remaining(total, dir)
    })
}
