//! `set-aside/`: damaged parts of snapshots that were moved away, for a person to look at. The program never reads
//! them again. Their number is bounded.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use file_kit::fs::{parent, remove_tree, rename, sync_dir};
use tracing::warn;

use crate::data_dir::DataDir;
use crate::error::{Result, SnapshotStoreError, with_causes};

/// How many files are kept; the oldest are removed.
const MOST_FILES: usize = 8;

/// How many directories are kept. Each may be a whole snapshot.
const MOST_DIRECTORIES: usize = 1;

impl DataDir {
    /// Moves a file or a directory to `set-aside/` under this name, and removes the oldest there.
    ///
    /// # Errors
    ///
    /// When it cannot be moved.
    pub fn set_aside(&self, path: &Path, name: &str) -> Result<PathBuf> {
        let dir = self.set_aside_dir();
        if let Err(source) = fs::create_dir_all(&dir) {
            return Err(SnapshotStoreError::CreateDir { path: dir, source });
        }
        let to = dir.join(name);
        remove_tree(&to)?;
        rename(path, &to)?;
        sync_dir(parent(path))?;
        prune(&dir, &to);
        Ok(to)
    }

    /// Removes everything in `set-aside/`, to free space.
    ///
    /// # Errors
    ///
    /// When it cannot be removed.
    pub fn empty_set_aside(&self) -> Result<()> {
        let dir = self.set_aside_dir();
        if dir.symlink_metadata().is_err() {
            return Ok(());
        }
        warn!("removing {} to free space", dir.display());
        remove_tree(&dir)?;
        Ok(())
    }
}

/// Removes the oldest in `set-aside/`; `newest` stays in any case.
fn prune(dir: &Path, newest: &Path) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    let mut found: Vec<(SystemTime, PathBuf, bool)> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path != newest)
        .filter_map(|path| {
            let metadata = path.symlink_metadata().ok()?;
            // The time of the last change of the inode, which moving it is, cannot be set by hand.
            Some((changed(&metadata), path, metadata.is_dir()))
        })
        .collect();
    found.sort();
    let newest_is_dir = newest.is_dir();
    for is_dir in [false, true] {
        let most = if is_dir { MOST_DIRECTORIES } else { MOST_FILES };
        let room = most - usize::from(is_dir == newest_is_dir);
        let of_kind: Vec<_> = found.iter().filter(|one| one.2 == is_dir).collect();
        for (_, path, _) in of_kind.iter().rev().skip(room) {
            if let Err(error) = remove_tree(path) {
                warn!("{}", with_causes(&error));
            }
        }
    }
}

fn changed(metadata: &Metadata) -> SystemTime {
    let seconds = u64::try_from(metadata.ctime()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data_dir::tests::data_dir;

    #[test]
    fn what_is_moved_away_does_not_accumulate() {
        let (temp, data) = data_dir();
        for number in 0..20 {
            let file = temp.path().join("file");
            fs::write(&file, "x").unwrap();
            let moved = data.set_aside(&file, &format!("file{number}")).unwrap();
            assert!(moved.exists() && !file.exists());
            let dir = temp.path().join("dir");
            fs::create_dir_all(dir.join("below")).unwrap();
            let moved = data.set_aside(&dir, &format!("dir{number}")).unwrap();
            assert!(moved.join("below").exists() && !dir.exists());
        }
        let count = fs::read_dir(data.set_aside_dir()).unwrap().count();
        assert_eq!(count, MOST_FILES + MOST_DIRECTORIES);
        // The same name replaces what was there.
        let file = temp.path().join("file");
        fs::write(&file, "y").unwrap();
        let moved = data.set_aside(&file, "dir19").unwrap();
        assert_eq!(fs::read(moved).unwrap(), b"y");
        data.empty_set_aside().unwrap();
        assert!(!data.set_aside_dir().exists());
        data.empty_set_aside().unwrap();
    }
}
