//! The torrent of one snapshot in the session, with the lock on its directory.

use std::sync::Arc;

use anyhow::Result;
use bittorrent_protocol::{BlockIndex, InfoHashV2, InfoHashes, SwarmHash};
use bittorrent_session::{AddError, TorrentHandle, TorrentStatus};
use bittorrent_store::TorrentStore;
use snapshot_store::{DirLock, Generation, SnapshotDir};
use tokio_util::sync::DropGuard;
use tracing::info;

use crate::text::Bytes;
use crate::transfer::network::Network;

/// A snapshot in the session. Dropping it leaves the torrent in the session; see [`Self::leave`].
pub(crate) struct SnapshotTorrent {
    pub(crate) id: InfoHashV2,
    pub(crate) store: Arc<TorrentStore>,
    pub(crate) dir: SnapshotDir,
    handle: TorrentHandle,
    lock: DirLock,
    _announcements: Vec<DropGuard>,
}

impl SnapshotTorrent {
    /// Seeds a whole snapshot.
    pub(crate) async fn seed(network: &Network, generation: Generation) -> Result<Self> {
        let store = generation.store.clone();
        let handle = network.session().add_store(store).await?;
        Ok(Self::announce(network, handle, generation))
    }

    /// Wraps a torrent of the session, and announces it.
    pub(super) fn announce(
        network: &Network,
        handle: TorrentHandle,
        generation: Generation,
    ) -> Self {
        let swarms = swarms(&generation.store.info().hashes(), Some(&generation.store));
        let announcements = vec![network.announce(&handle, swarms)];
        Self::new(handle, generation, announcements)
    }

    /// Wraps a torrent of the session that is announced already.
    pub(super) fn new(
        handle: TorrentHandle,
        generation: Generation,
        announcements: Vec<DropGuard>,
    ) -> Self {
        let Generation {
            id,
            store,
            dir,
            lock,
        } = generation;
        Self {
            id,
            store,
            dir,
            handle,
            lock,
            _announcements: announcements,
        }
    }

    /// Downloads damaged blocks again. The store must no longer count them as verified.
    pub(crate) async fn repair(&self, damaged: Vec<BlockIndex>) -> Result<(), AddError> {
        self.handle.repair(self.store.clone(), damaged).await
    }

    /// Returns the torrent in the session.
    pub(super) fn handle(&self) -> &TorrentHandle {
        &self.handle
    }

    /// Lets other processes read the directory, once its content is complete.
    pub(super) fn share_directory(&self) -> Result<()> {
        Ok(self.lock.share()?)
    }

    pub(crate) fn status(&self) -> TorrentStatus {
        self.handle.status()
    }

    /// Removes the torrent from the session and writes everything to disk. Returns the lock on its
    /// directory and its last status.
    pub(crate) async fn leave(self) -> (DirLock, TorrentStatus) {
        self.handle.remove().await;
        let status = self.handle.status();
        let uploaded = status.uploaded_payload;
        info!(
            snapshot = %self.id, uploaded,
            "removed the torrent from the session, uploaded {}", Bytes(uploaded)
        );
        (self.lock, status)
    }
}

/// Returns all info-hashes under which peers announce a snapshot: truncated v2, v1, and the one that aria2 computes for the same torrent.
pub(super) fn swarms(hashes: &InfoHashes, store: Option<&TorrentStore>) -> Vec<SwarmHash> {
    let mut swarms = vec![hashes.v2.truncated()];
    swarms.extend(hashes.v1.map(SwarmHash::from));
    let alias = store.and_then(|store| store.info().aria2_alias().map(SwarmHash::from));
    swarms.extend(alias.filter(|alias| !swarms.contains(alias)));
    swarms
}
