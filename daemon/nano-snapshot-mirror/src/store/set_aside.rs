//! `set-aside/` in the data directory: damaged files that were moved out of the way, for a person to
//! look at. Nothing reads them again. What is there is bounded: see [`MOST_FILES`].

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use tracing::warn;

use crate::store::data_dir::{DataDir, remove_tree, sync_dir};

/// The most files that are kept; the oldest are removed.
const MOST_FILES: usize = 8;

/// The most directories that are kept. One may hold a whole snapshot.
const MOST_DIRECTORIES: usize = 1;

/// Moves something to `set-aside/` under this name, and removes what has been there longest.
///
/// # Errors
///
/// When it cannot be moved.
pub(crate) fn set_aside(data: &DataDir, path: &Path, name: &str) -> Result<PathBuf> {
    let place = data.set_aside();
    fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
    let to = place.join(name);
    if to.symlink_metadata().is_ok() {
        remove_tree(&to)?;
    }
    fs::rename(path, &to)
        .with_context(|| format!("cannot move {} to {}", path.display(), to.display()))?;
    if let Some(above) = path.parent() {
        sync_dir(above)?;
    }
    prune(&place, &to);
    Ok(to)
}

/// Keeps in `set-aside/` what was moved there last. `newest` stays in any case.
fn prune(place: &Path, newest: &Path) {
    let Ok(entries) = fs::read_dir(place) else {
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
                warn!("{error:#}");
            }
        }
    }
}

fn changed(metadata: &Metadata) -> SystemTime {
    let seconds = u64::try_from(metadata.ctime()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// Removes everything in `set-aside/`, when room is needed.
///
/// # Errors
///
/// When it cannot be removed.
pub(crate) fn empty(data: &DataDir) -> Result<()> {
    let place = data.set_aside();
    if place.symlink_metadata().is_err() {
        return Ok(());
    }
    warn!(
        "removing {}, as there is no room on the disk",
        place.display()
    );
    remove_tree(&place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_moved_away_does_not_pile_up() {
        let temp = tempfile::tempdir().unwrap();
        let data = DataDir::create(Some(temp.path())).unwrap();
        let place = data.set_aside();
        for number in 0..20 {
            let file = temp.path().join("file");
            fs::write(&file, "x").unwrap();
            let moved = set_aside(&data, &file, &format!("file{number}")).unwrap();
            assert!(moved.exists() && !file.exists());
            let dir = temp.path().join("dir");
            fs::create_dir_all(dir.join("below")).unwrap();
            let moved = set_aside(&data, &dir, &format!("dir{number}")).unwrap();
            assert!(moved.join("below").exists() && !dir.exists());
        }
        let count = fs::read_dir(&place).unwrap().count();
        assert_eq!(count, MOST_FILES + MOST_DIRECTORIES);
        // The same name again replaces what was there.
        let file = temp.path().join("file");
        fs::write(&file, "y").unwrap();
        let moved = set_aside(&data, &file, "dir19").unwrap();
        assert_eq!(fs::read(moved).unwrap(), b"y");
        empty(&data).unwrap();
        assert!(!place.exists());
        empty(&data).unwrap();
    }
}
