//! The directory in which a snapshot is built.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use bittorrent_protocol::InfoHashV2;
use snapshot_store::{DataDir, DirLock, SnapshotDir};

/// A directory in `incoming/`, removed on drop unless it is adopted or kept for the next run.
pub(super) struct Build {
    dir: PathBuf,
    /// The lock that keeps other processes from cleaning it up.
    _lock: DirLock,
    keep: bool,
}

impl Build {
    /// Makes a directory and locks it.
    pub(super) fn begin(data: &DataDir) -> Result<Self> {
        let (dir, lock) = data.new_build()?;
        Ok(Self::resume(dir, lock))
    }

    /// Takes over the directory of an interrupted run.
    pub(super) fn resume(dir: PathBuf, lock: DirLock) -> Self {
        Self {
            dir,
            _lock: lock,
            keep: false,
        }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Sets whether the directory stays for the next run.
    pub(super) fn keep(&mut self, keep: bool) {
        self.keep = keep;
    }

    /// Moves the directory into the store as the snapshot `id`.
    pub(super) fn adopt(self, data: &DataDir, id: InfoHashV2) -> Result<SnapshotDir> {
        Ok(data.adopt(&self.dir, id, &data.lock()?)?)
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        if !self.keep {
            // An adopted directory no longer exists. The next command cleans up a directory that cannot be removed
            // now.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}
