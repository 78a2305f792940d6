//! Downloads one snapshot until it is complete. Starts from its hash alone, or resumes an earlier download.
//!
//! [`directory`] claims its directory among processes, [`content`] creates, verifies and measures its files.

mod content;
mod directory;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use bittorrent_protocol::metainfo::Info;
use bittorrent_protocol::{InfoHashV2, InfoHashes, MAX_INFO_LEN};
use bittorrent_session::{TorrentHandle, TorrentStatus};
use bittorrent_store::TorrentStore;
use directory::{DirectoryClaim, DirectoryError, Repair};
use service_kit::sync::lock;
use snapshot_store::{
    DataDir, Generation, Mark, SnapshotDir, is_out_of_space, is_temporary, repair,
};
use tokio::sync::watch;
use tokio::task::{block_in_place, spawn_blocking};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, info, warn};

use crate::ledger::policy::{LedgerPolicy, refuses_files};
use crate::progress::{ProgressDisplay, WorkKind};
use crate::text::{Bytes, Count};
use crate::transfer::disk_pause::{DiskPauses, PausedDownloads};
use crate::transfer::network::Network;
use crate::transfer::reuse::{OpenStore, Reuse};
use crate::transfer::snapshot_torrent::{SnapshotTorrent, swarms};

/// Time between two checks of free space during a download.
const FLOOR_EVERY: Duration = Duration::from_millis(100);

/// The end of a download.
pub(crate) enum DownloadOutcome {
    /// The snapshot is complete and is seeded.
    Whole(Box<SnapshotTorrent>),
    /// A stop was requested. What was received is on disk.
    Stopped,
}

/// Reads the content of a snapshot while it is downloaded.
pub(crate) trait ContentReader: Sync {
    /// Called once the files exist. Returns `true` to switch to sequential download.
    fn files_created(&self, store: &Arc<TorrentStore>) -> bool;
}

/// The snapshot to download, with options.
pub(crate) struct DownloadRequest<'a> {
    pub(crate) id: InfoHashV2,
    /// Snapshots that this process has open. They are not opened again when blocks are reused.
    pub(crate) open: Vec<OpenStore>,
    pub(crate) policy: &'a LedgerPolicy,
    pub(crate) reader: Option<&'a dyn ContentReader>,
    /// Whether to fail if there is not enough free space at the start, instead of waiting for it.
    pub(crate) fail_if_no_space: bool,
    /// Receives the pauses for lack of disk space.
    pub(crate) paused: &'a watch::Sender<PausedDownloads>,
}

/// Downloads a snapshot, from nothing or from what is on disk, until it is complete. While the disk is
/// full it waits, unless a [`ContentReader`] reads the content.
///
/// Cancelling `stop` ends it soon with [`DownloadOutcome::Stopped`]. Errors leave what was received on
/// disk.
pub(crate) async fn download(
    network: &Network,
    data: &DataDir,
    mut wanted: DownloadRequest<'_>,
    display: &ProgressDisplay,
    stop: &CancellationToken,
) -> Result<DownloadOutcome> {
    let fetch = Download {
        network,
        data,
        id: wanted.id,
        policy: wanted.policy,
        reader: wanted.reader,
        // For the first attempt only: an open store would keep the disk space of a snapshot that is
        // removed during a pause.
        open: Mutex::new(std::mem::take(&mut wanted.open)),
        display,
        stop,
        begun: AtomicBool::new(false),
        read: AtomicBool::new(false),
    };
    let mut pauses = DiskPauses::new(data, wanted.id, display, wanted.paused);
    loop {
        let error = match fetch.run().await {
            Err(error) if stop.is_cancelled() => {
                info!(snapshot = %fetch.id, "stopped; the last attempt had failed: {error:#}");
                return Ok(DownloadOutcome::Stopped);
            }
            Err(error) if is_out_of_space(error.as_ref()) && fetch.may_wait(&wanted) => error,
            other => return other,
        };
        let over = CancellationToken::new();
        let pause = async {
            let _over = over.clone().drop_guard();
            pauses.wait(&error, stop).await
        };
        let (goes_on, ()) = tokio::join!(pause, fetch.serve_part(&over));
        if !goes_on? {
            return Ok(DownloadOutcome::Stopped);
        }
    }
}

struct Download<'a> {
    network: &'a Network,
    data: &'a DataDir,
    id: InfoHashV2,
    policy: &'a LedgerPolicy,
    reader: Option<&'a dyn ContentReader>,
    open: Mutex<Vec<OpenStore>>,
    display: &'a ProgressDisplay,
    stop: &'a CancellationToken,
    /// Whether the download has started at least once.
    begun: AtomicBool,
    /// Whether a [`ContentReader`] reads the content.
    read: AtomicBool,
}

impl Download<'_> {
    /// Returns whether the download may pause and continue with a new store. A reader holds the old one.
    fn may_wait(&self, wanted: &DownloadRequest<'_>) -> bool {
        let refuses = wanted.fail_if_no_space && !self.begun.load(Ordering::Relaxed);
        !refuses && !self.read.load(Ordering::Relaxed)
    }

    /// Downloads once. Repairs a damaged directory first; if that does not help, moves all of it away.
    async fn run(&self) -> Result<DownloadOutcome> {
        let mut remedies = [repair::repair as Repair, repair::set_aside_all].into_iter();
        loop {
            match self.attempt(&mut remedies).await {
                Err(error) if matches!(error.downcast_ref(), Some(DirectoryError::Repaired)) => {}
                other => return other,
            }
        }
    }

    /// Fails with [`DirectoryError::Repaired`] after a repair.
    async fn attempt(
        &self,
        remedies: &mut impl Iterator<Item = Repair>,
    ) -> Result<DownloadOutcome> {
        let dir = self.data.snapshot(self.id);
        let claimed = match self.claim_directory(&dir).await? {
            DirectoryClaim::Ours(lock) => lock,
            DirectoryClaim::Whole(generation) => {
                let torrent = SnapshotTorrent::seed(self.network, *generation).await?;
                return Ok(DownloadOutcome::Whole(Box::new(torrent)));
            }
            DirectoryClaim::Stopped => return Ok(DownloadOutcome::Stopped),
        };
        let (data, id, stop) = (self.data.clone(), self.id, self.stop.clone());
        let open = std::mem::take(&mut *lock(&self.open));
        let reuse = spawn_blocking(move || Reuse::find(&data, id, &open, &stop)).await?;
        let joined = if dir.is_created() {
            self.resume(&dir, &reuse).await
        } else {
            self.start_from_hash(&dir, &reuse).await
        };
        let joined = match joined {
            Err(error)
                if matches!(error.downcast_ref(), Some(DirectoryError::Unusable))
                    && !is_temporary(error.as_ref()) =>
            {
                let Some(remedy) = remedies.next() else {
                    return Err(error);
                };
                let why = format!("{error:#}");
                block_in_place(|| remedy(self.data, self.id, &why, &claimed))?;
                return Err(error.context(DirectoryError::Repaired));
            }
            other => other?,
        };
        let Some((handle, store, announcements)) = joined else {
            return Ok(DownloadOutcome::Stopped);
        };
        if self
            .reader
            .is_some_and(|reader| reader.files_created(&store))
        {
            self.read.store(true, Ordering::Relaxed);
            handle.download_in_order().await;
        }
        let generation = Generation {
            id: self.id,
            store,
            dir,
            lock: claimed,
        };
        let torrent = SnapshotTorrent::new(handle, generation, announcements);
        match self.download(&torrent).await {
            Ok(true) => {
                torrent.share_directory()?;
                Ok(DownloadOutcome::Whole(Box::new(torrent)))
            }
            Ok(false) => {
                torrent.leave().await;
                Ok(DownloadOutcome::Stopped)
            }
            Err(error) => {
                torrent.leave().await;
                Err(error)
            }
        }
    }

    /// Serves the verified part of the snapshot and writes nothing, until `over`. Does nothing if there
    /// is no such part.
    async fn serve_part(&self, over: &CancellationToken) {
        match self.offer_part().await {
            Ok(Some(torrent)) => {
                info!(
                    snapshot = %self.id, held_bytes = held_bytes(&torrent.store),
                    "serving the verified part during the pause"
                );
                over.cancelled().await;
                torrent.leave().await;
            }
            Ok(None) => {}
            Err(error) => {
                debug!(snapshot = %self.id, "cannot serve the verified part during the pause: {error:#}");
            }
        }
    }

    async fn offer_part(&self) -> Result<Option<SnapshotTorrent>> {
        let dir = self.data.snapshot(self.id);
        if !dir.is_created() || Mark::Unread.is_set(&dir) {
            return Ok(None);
        }
        let Some(lock) = self.data.own_snapshot(self.id)? else {
            return Ok(None);
        };
        let owned = dir.clone();
        let store = Arc::new(spawn_blocking(move || owned.open()).await??);
        if store.verified_blocks() == 0 {
            return Ok(None);
        }
        let session = self.network.session();
        let handle = session.add_store_seed_only(store.clone()).await?;
        let generation = Generation {
            id: self.id,
            store,
            dir,
            lock,
        };
        Ok(Some(SnapshotTorrent::announce(
            self.network,
            handle,
            generation,
        )))
    }

    /// Resumes the download of an earlier run.
    async fn resume(&self, dir: &SnapshotDir, reuse: &Reuse) -> Result<Option<Joined>> {
        if let Some(reason) = refuses_files(&dir.read_info().context(DirectoryError::Unusable)?) {
            bail!("cannot resume snapshot {}: {reason}", self.id);
        }
        let owned = dir.clone();
        let store = spawn_blocking(move || owned.open()).await?;
        let store = Arc::new(store.context(DirectoryError::Unusable)?);
        if Mark::Unread.is_set(dir) && !self.verify_content(&store, dir).await? {
            return Ok(None);
        }
        info!(snapshot = %self.id, held_bytes = held_bytes(&store), "resuming");
        self.ensure_space(&store)?;
        let session = self.network.session();
        let sources = reuse.sources().clone();
        let handle = session.add_store_reusing(store.clone(), sources).await?;
        let announcements = self
            .network
            .announce(&handle, swarms(&store.info().hashes(), Some(&store)));
        Ok(Some((handle, store, vec![announcements])))
    }

    /// Starts a download from the hash alone.
    async fn start_from_hash(&self, dir: &SnapshotDir, reuse: &Reuse) -> Result<Option<Joined>> {
        let hashes = InfoHashes {
            v2: self.id,
            v1: None,
        };
        let handle = self.network.session().add_magnet(hashes).await?;
        let begun = async {
            let searching = self.network.announce(&handle, swarms(&hashes, None));
            let Some(info) = self.fetch_metadata(&handle).await? else {
                return Ok(None);
            };
            let Some(store) = self.create_content(info, dir, reuse).await? else {
                return Ok(None);
            };
            let sources = reuse.sources().clone();
            handle.attach_reusing(store.clone(), sources).await?;
            anyhow::Ok(Some((store, searching)))
        };
        match begun.await {
            Ok(Some((store, searching))) => {
                // The metadata may name more swarms than the v2 hash alone.
                let known = swarms(&hashes, None);
                let mut more = swarms(&store.info().hashes(), Some(&store));
                more.retain(|swarm| !known.contains(swarm));
                let announcements = vec![searching, self.network.announce(&handle, more)];
                Ok(Some((handle, store, announcements)))
            }
            other => {
                handle.remove().await;
                other.map(|_| None)
            }
        }
    }

    /// Downloads the metadata from peers; `None` after a stop request.
    async fn fetch_metadata(&self, handle: &TorrentHandle) -> Result<Option<Arc<Info>>> {
        let started = Instant::now();
        let mut meter = self.display.start(WorkKind::FetchMetadata, 0);
        let mut clock = tokio::time::interval(Duration::from_secs(1));
        let mut refused = false;
        let info = handle.info();
        tokio::pin!(info);
        let info = loop {
            tokio::select! {
                () = self.stop.cancelled() => return Ok(None),
                info = &mut info => break info,
                _ = clock.tick() => {
                    let status = handle.status();
                    meter.message(&format!("{} of {} known peers connected", status.peers, status.candidates));
                    if let (Some(length), false) = (status.refused_metadata, refused) {
                        refused = true;
                        warn!(snapshot = %self.id, length, "{}", metadata_too_long(length));
                    }
                }
            }
        };
        let Some(info) = info else {
            fail_if_stopped(&handle.status())?;
            bail!("the session ended before it had the metadata");
        };
        info!(
            snapshot = %self.id, name = info.name(), took_ms = started.elapsed().as_millis() as u64,
            size_bytes = info.layout().content_length(), "metadata received"
        );
        Ok(Some(info))
    }

    /// Waits for the last block; `false` after a stop request.
    async fn download(&self, torrent: &SnapshotTorrent) -> Result<bool> {
        let started = Instant::now();
        let mut free = None;
        let mut floor = tokio::time::interval(FLOOR_EVERY);
        floor.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.begun.store(true, Ordering::Relaxed);
        let mut status = torrent.handle().subscribe();
        let mut meter = self
            .display
            .start(WorkKind::Download, torrent.store.layout().content_length());
        loop {
            let now = status.borrow_and_update().clone();
            fail_if_stopped(&now)?;
            meter.set(now.bytes_verified, Some(now.peers));
            if now.phase.is_seeding() {
                drop(meter);
                info!(
                    snapshot = %self.id,
                    fetched = now.downloaded_payload, wasted = now.wasted,
                    reused = now.bytes_reused, hashes = now.hash_bytes,
                    took_ms = started.elapsed().as_millis() as u64,
                    "downloaded {} of {}, reused {} from stored snapshots",
                    Bytes(now.downloaded_payload), Bytes(now.bytes_total),
                    Bytes(now.bytes_reused),
                );
                return Ok(true);
            }
            self.check_free_space(&torrent.store, &mut free)?;
            tokio::select! {
                () = self.stop.cancelled() => return Ok(false),
                _ = floor.tick() => {}
                changed = status.changed() => {
                    changed.map_err(|_| anyhow!("the session ended before the download did"))?;
                }
            }
        }
    }
}

/// A torrent in the session, its store, and its announcements, which end when they are dropped.
type Joined = (TorrentHandle, Arc<TorrentStore>, Vec<DropGuard>);

/// Returns the warning about an info dictionary that is too long to be fetched.
pub(crate) fn metadata_too_long(length: u32) -> String {
    format!(
        "a peer offers an info dictionary of {} bytes, and at most {} are fetched; unless the peer lies, the producer \
         must publish with a greater --piece-length",
        Count(length.into()),
        Count(MAX_INFO_LEN.into())
    )
}

fn fail_if_stopped(status: &TorrentStatus) -> Result<()> {
    if let Some(error) = status.phase.error() {
        return Err(anyhow::Error::new(error.clone()).context("the torrent stopped"));
    }
    Ok(())
}

fn held_bytes(store: &TorrentStore) -> u64 {
    // All blocks have this size but the last of each file.
    let bytes = store.verified_blocks() * u64::from(bittorrent_protocol::BLOCK_LEN);
    bytes.min(store.layout().content_length())
}
