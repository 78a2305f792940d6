//! The directory of a snapshot that is downloaded: its claim among processes, and repairs when it is damaged.

use std::time::Duration;

use anyhow::{Context as _, Result};
use bittorrent_protocol::InfoHashV2;
use snapshot_store::{
    DataDir, DirLock, Entry, Generation, SnapshotDir, SnapshotStoreError, repair,
};
use tokio::task::block_in_place;
use tokio::time::sleep;
use tracing::info;

use super::Download;

/// Time between two attempts to claim a directory that another process uses.
const BUSY_RETRY: Duration = Duration::from_secs(1);

/// The result of claiming the directory of a snapshot.
pub(super) enum DirectoryClaim {
    /// This process has the lock.
    Ours(DirLock),
    /// Another process completed it.
    Whole(Box<Generation>),
    /// A stop was requested.
    Stopped,
}

/// A way to repair the directory of a snapshot.
pub(super) type Repair = fn(&DataDir, InfoHashV2, &str, &DirLock) -> Result<(), SnapshotStoreError>;

/// The context of an error.
#[derive(Debug)]
pub(super) enum DirectoryError {
    /// The content of the directory caused it.
    Unusable,
    /// The cause was repaired; try again.
    Repaired,
}

impl std::fmt::Display for DirectoryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unusable => "cannot use the directory of the snapshot",
            Self::Repaired => "repaired the directory of the snapshot",
        })
    }
}

impl Download<'_> {
    /// Creates the directory and locks it. Waits while another process works there.
    pub(super) async fn claim_directory(&self, dir: &SnapshotDir) -> Result<DirectoryClaim> {
        let mut logged = false;
        loop {
            {
                let _lock = self.data.lock()?;
                repair::clear_path(self.data, self.id)?;
                // Not the directories above it: if they are missing, a disk was unmounted.
                match std::fs::create_dir(dir) {
                    Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                        return Err(error)
                            .with_context(|| format!("cannot create {}", dir.display()));
                    }
                    _ => repair::allow_owner(dir),
                }
                if let Some(lock) = self.data.own_snapshot(self.id)? {
                    return Ok(DirectoryClaim::Ours(lock));
                }
            }
            // If others may read it, it is complete.
            let entry = block_in_place(|| snapshot_store::open(self.data, self.id));
            if let Some(Entry::Whole(generation)) = entry {
                return Ok(DirectoryClaim::Whole(Box::new(generation)));
            }
            if !logged {
                info!(snapshot = %self.id, "another process downloads this snapshot: waiting for it to end");
                logged = true;
            }
            tokio::select! {
                () = self.stop.cancelled() => return Ok(DirectoryClaim::Stopped),
                () = sleep(BUSY_RETRY) => {}
            }
        }
    }
}
