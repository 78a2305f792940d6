//! Marks on a snapshot: empty files in its directory.

use bittorrent_protocol::InfoHashV2;
use file_kit::fs::{remove_if_exists, sync_dir, write_atomically};

use crate::data_dir::DataDir;
use crate::error::{Result, SnapshotStoreError};
use crate::layout;
use crate::snapshot_dir::SnapshotDir;

/// A fact about a snapshot that its directory records by an empty file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// All content must be read and compared with its hashes before anything of it is fetched.
    Unread,
    /// The content is being discarded while it is extracted, so that it is no longer what was published.
    Discarded,
    /// A person wants the snapshot kept.
    Pinned,
}

impl Mark {
    fn file(self) -> &'static str {
        match self {
            Self::Unread => layout::UNREAD,
            Self::Discarded => layout::DISCARDED,
            Self::Pinned => layout::PINNED,
        }
    }

    /// Returns whether a snapshot has this mark.
    pub fn is_set(self, dir: &SnapshotDir) -> bool {
        dir.path().join(self.file()).exists()
    }

    /// Sets the mark. Durable when it returns.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub fn set(self, dir: &SnapshotDir) -> Result<()> {
        Ok(write_atomically(&dir.path().join(self.file()), b"")?)
    }

    /// Removes the mark, if it is set. Durable when it returns.
    ///
    /// # Errors
    ///
    /// When the file cannot be removed, or the directory cannot be synced.
    pub fn clear(self, dir: &SnapshotDir) -> Result<()> {
        if remove_if_exists(&dir.path().join(self.file()))? {
            sync_dir(dir.path())?;
        }
        Ok(())
    }
}

impl DataDir {
    /// Pins or unpins a snapshot. Returns whether that changed anything. Durable when it returns.
    ///
    /// # Errors
    ///
    /// When the store does not have the snapshot, or the mark cannot be changed.
    pub fn pin(&self, id: InfoHashV2, pinned: bool) -> Result<bool> {
        let _lock = self.lock()?;
        let dir = self.snapshot(id);
        if !dir.is_created() {
            return Err(SnapshotStoreError::NotStored {
                id,
                path: self.root().to_owned(),
            });
        }
        if Mark::Pinned.is_set(&dir) == pinned {
            return Ok(false);
        }
        if pinned {
            Mark::Pinned.set(&dir)?;
        } else {
            Mark::Pinned.clear(&dir)?;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data_dir::tests::{data_dir, id};

    #[test]
    fn marks_are_set_and_cleared_one_by_one() {
        let (_temp, data) = data_dir();
        let dir = data.snapshot(id(1));
        std::fs::create_dir(dir.path()).unwrap();
        let all = [Mark::Unread, Mark::Discarded, Mark::Pinned];
        for mark in all {
            mark.clear(&dir).unwrap();
            mark.set(&dir).unwrap();
            let set: Vec<Mark> = all.into_iter().filter(|mark| mark.is_set(&dir)).collect();
            assert_eq!(set, [mark]);
            mark.clear(&dir).unwrap();
            assert!(!mark.is_set(&dir));
        }
    }

    #[test]
    fn a_snapshot_is_pinned_and_unpinned() {
        let (_temp, data) = data_dir();
        let dir = data.snapshot(id(1));
        std::fs::create_dir(dir.path()).unwrap();
        std::fs::write(dir.metadata_path(), b"x").unwrap();
        let pinned = || Mark::Pinned.is_set(&dir);
        assert!(!pinned() && !data.pin(id(1), false).unwrap());
        assert!(data.pin(id(1), true).unwrap() && pinned());
        assert!(!data.pin(id(1), true).unwrap() && pinned());
        assert!(data.pin(id(1), false).unwrap() && !pinned());
        let error = data.pin(id(2), true).unwrap_err();
        assert!(matches!(error, SnapshotStoreError::NotStored { .. }));
    }
}
