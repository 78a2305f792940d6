//! The content of a snapshot that is downloaded: creates its files, verifies what is there, and measures free space.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, bail};
use bittorrent_protocol::metainfo::{Info, Metainfo};
use bittorrent_store::{StoreError, TorrentStore, required_space};
use service_kit::sync::lock;
use snapshot_store::space::Shortage;
use snapshot_store::{Mark, SnapshotDir, space};
use tokio::task::spawn_blocking;
use tracing::debug;

use super::Download;
use super::directory::DirectoryError;
use crate::progress::WorkKind;
use crate::transfer::reuse::Reuse;
use crate::transfer::swarm_leftover;

/// Free space that a download into a clone of a stored file needs to continue, bytes.
const CLONE_STEP: u64 = 256 << 20;

/// The purpose of the space, for the error of a download that has started.
const REST: &str = "the rest of the snapshot";

impl Download<'_> {
    /// Hashes all content, because the record of verified blocks was lost, as after a directory was
    /// copied to another disk. Returns `false` after a stop request.
    pub(super) async fn verify_content(
        &self,
        store: &Arc<TorrentStore>,
        dir: &SnapshotDir,
    ) -> Result<bool> {
        let meter = self
            .display
            .start(WorkKind::VerifyContent, store.layout().content_length());
        let (store, stop) = (store.clone(), self.stop.clone());
        let verified = spawn_blocking(move || {
            let meter = Mutex::new(meter);
            store.verify_all(&|done| {
                lock(&meter).set(done, None);
                !stop.is_cancelled()
            })
        });
        match verified.await? {
            Ok(_) => {
                Mark::Unread.clear(dir)?;
                Ok(true)
            }
            Err(StoreError::Cancelled) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Creates the files of the content. Copies it from a file that another program left, if there is
    /// one. Returns `None` after a stop request.
    pub(super) async fn create_content(
        &self,
        info: Arc<Info>,
        dir: &SnapshotDir,
        reuse: &Reuse,
    ) -> Result<Option<Arc<TorrentStore>>> {
        if let Some(reason) = self.policy.refuses_claim(&info) {
            bail!(
                "snapshot {} is refused before its download: {reason}",
                self.id
            );
        }
        let left = match swarm_leftover::find(self.data, &info) {
            Some(path) => self.recognise(path, &info).await?,
            None => None,
        };
        let (meta, left) = match left {
            Some((meta, path)) => (meta, Some(path)),
            None => (Metainfo::from_info(info), None),
        };
        let nothing_held = reuse.sources().generations().is_empty();
        if nothing_held {
            space::ensure(self.data, required_space(&meta), "the snapshot")?;
        }
        let place = dir.clone();
        let sources = reuse.sources().clone();
        let store = spawn_blocking(move || sources.create(place.path(), &meta, SnapshotDir::io()));
        let (store, clones) = store.await?.context(DirectoryError::Unusable)?;
        debug!(snapshot = %self.id, ?clones, "created the files");
        if !nothing_held {
            // Known only now: a clone of a stored file takes no space of its own.
            space::ensure(
                self.data,
                needed(&store, store.space_needed()?),
                "the snapshot",
            )?;
        }
        let store = Arc::new(store);
        if let Some(path) = left {
            let (into, stop) = (store.clone(), self.stop.clone());
            let copied =
                spawn_blocking(move || swarm_leftover::copy(&path, &into, &stop)).await??;
            if !copied || !self.verify_content(&store, dir).await? {
                return Ok(None);
            }
        }
        Ok(Some(store))
    }

    /// Returns the complete metadata if the file at `path` is the content of the torrent.
    async fn recognise(
        &self,
        path: PathBuf,
        info: &Arc<Info>,
    ) -> Result<Option<(Metainfo, PathBuf)>> {
        let (info, display, stop) = (info.clone(), self.display.clone(), self.stop.clone());
        Ok(spawn_blocking(move || {
            let meta = swarm_leftover::recognise(&path, &info, &display, &stop)?;
            Some((meta, path))
        })
        .await?)
    }

    pub(super) fn ensure_space(&self, store: &TorrentStore) -> Result<()> {
        space::ensure(self.data, needed(store, store.space_needed()?), REST)?;
        Ok(())
    }

    /// Fails before free space falls below the reserve, judging by what was used since the last check.
    pub(super) fn check_free_space(
        &self,
        store: &TorrentStore,
        before: &mut Option<u64>,
    ) -> Result<()> {
        let missing = store.missing_bytes();
        let free = file_kit::space::FileSystem::of(self.data.root())?.free();
        let taken = before
            .replace(free)
            .map_or(0, |before| before.saturating_sub(free));
        let Some(short) = space::shortage(self.data, taken.min(missing), REST)? else {
            return Ok(());
        };
        let needed = needed(store, store.space_needed()?);
        Err(Shortage { needed, ..short }.into())
    }
}

/// Returns the free space that a download needs to continue. How much of a clone will change is
/// unknown, so a clone needs less, and the download may pause again later.
fn needed(store: &TorrentStore, most: u64) -> u64 {
    if store.is_cloned() {
        most.min(CLONE_STEP)
    } else {
        most
    }
}
