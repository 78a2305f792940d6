//! `incoming/`: snapshots under construction, and those that are being removed.

use std::fs::{self, File};
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bittorrent_protocol::InfoHashV2;
use bittorrent_store::Condition;
use file_kit::fs::{remove_tree, rename, rename_durably, sync_dir};
use file_kit::recorded_time::is_past;
use rustix::fs::FlockOperation;
use tracing::warn;

use crate::build_record::BuildRecord;
use crate::data_dir::{DataDir, DirLock, StoreLock, list, try_lock_dir};
use crate::error::{Result, SnapshotStoreError, is_temporary, with_causes};
use crate::layout;
use crate::marks::Mark;
use crate::repair::allow_owner;
use crate::snapshot_dir::SnapshotDir;

/// How long an interrupted snapshot is kept for the producer to resume it.
const KEEP_INTERRUPTED: Duration = Duration::from_secs(24 * 3600);

impl DataDir {
    /// Creates a directory in `incoming/`, locked for this process until it ends or drops the lock.
    ///
    /// # Errors
    ///
    /// When the directory cannot be created or locked.
    pub fn new_build(&self) -> Result<(PathBuf, DirLock)> {
        let _lock = self.lock()?;
        // Each state has its own random keys.
        let random = RandomState::new().hash_one(());
        let path = self.incoming().join(format!("{random:016x}"));
        if let Err(source) = fs::create_dir(&path) {
            return Err(SnapshotStoreError::CreateDir { path, source });
        }
        match try_lock_dir(&path, FlockOperation::NonBlockingLockExclusive)? {
            Some(lock) => Ok((path, lock)),
            None => Err(SnapshotStoreError::BuildLocked { path }),
        }
    }

    /// Locks a directory of `incoming/` that a process left behind. Returns `None` if it is missing, or another process
    /// uses it.
    ///
    /// # Errors
    ///
    /// When the directory cannot be opened or locked.
    pub fn take_build(&self, name: &str) -> Result<Option<(PathBuf, DirLock)>> {
        let _lock = self.lock()?;
        let path = self.incoming().join(name);
        let plain = Path::new(name).file_name() == Some(name.as_ref());
        if !(plain && path.is_dir()) {
            return Ok(None);
        }
        let lock = try_lock_dir(&path, FlockOperation::NonBlockingLockExclusive)?;
        Ok(lock.map(|lock| (path, lock)))
    }

    /// Returns the directories of `incoming/` that a producer can resume.
    fn interrupted(&self) -> Vec<String> {
        let build_of = |name: &String| {
            let path = self.produced().join(name);
            let is_old = is_older(&path, KEEP_INTERRUPTED).ok()?;
            if is_old || !name.ends_with(layout::MAKING) {
                return None;
            }
            BuildRecord::build_in(&path)
        };
        let names = list(&self.produced()).unwrap_or_default();
        names.iter().filter_map(build_of).collect()
    }

    /// Removes what ended processes left in `incoming/`. What is locked is in use and stays, and so does for a day what
    /// the producer can resume. Returns how many directories were removed.
    ///
    /// # Errors
    ///
    /// When `incoming/` cannot be listed, or a directory cannot be removed.
    pub fn clean_incoming(&self) -> Result<usize> {
        let _lock = self.lock()?;
        let interrupted = self.interrupted();
        let mut removed = 0;
        for name in list(&self.incoming())? {
            if interrupted.contains(&name) {
                continue;
            }
            let path = self.incoming().join(name);
            if try_lock_dir(&path, FlockOperation::NonBlockingLockExclusive)?.is_some() {
                remove_tree(&path)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Moves the directory of a whole snapshot from `incoming/` to `snapshots/`.
    ///
    /// A snapshot of the same hash has the same content. If the store has it whole, that one stays and the new directory
    /// is removed. If it is damaged or not whole, and no process uses it, the new directory replaces it; a damaged one is
    /// moved to `set-aside/`.
    ///
    /// # Errors
    ///
    /// When a directory cannot be moved or removed.
    pub fn adopt(&self, build: &Path, id: InfoHashV2, lock: &StoreLock) -> Result<SnapshotDir> {
        let dir = self.snapshot(id);
        if dir.exists() {
            let obstacle = self.obstacle(id, &dir)?;
            // First, so that neither a failure nor a crash loses the pin.
            if obstacle.is_some() && Mark::Pinned.is_set(&dir) {
                Mark::Pinned.set(&SnapshotDir::at(build))?;
            }
            match obstacle {
                None => {
                    remove_tree(build)?;
                    return Ok(dir);
                }
                Some(Obstacle::NotWhole) => {
                    // Another process may have begun to use it.
                    if !self.remove_snapshot(id, lock)? {
                        remove_tree(build)?;
                        return Ok(dir);
                    }
                }
                Some(Obstacle::Damaged(why)) => {
                    let to = self.set_aside(dir.path(), &id.to_string())?;
                    warn!(
                        snapshot = %id, moved_to = %to.display(),
                        "replaced a damaged snapshot by a new one with the same content: {why}"
                    );
                }
            }
        }
        rename_durably(build, dir.path())?;
        Ok(dir)
    }

    /// Returns what a new directory has to replace; `None` if a snapshot is whole, or in use by another process.
    fn obstacle(&self, id: InfoHashV2, dir: &SnapshotDir) -> Result<Option<Obstacle>> {
        if !dir.path().is_dir() {
            return Ok(Some(Obstacle::Damaged("it is not a directory".to_owned())));
        }
        allow_owner(dir);
        let Some(_own) = self.own_snapshot(id)? else {
            return Ok(None);
        };
        if !dir.is_created() {
            return Ok(Some(Obstacle::NotWhole));
        }
        Ok(match dir.inspect() {
            Ok(found) if found.condition == Condition::Sealed => None,
            Ok(_) => Some(Obstacle::NotWhole),
            Err(error) if is_temporary(&error) => None,
            Err(error) => Some(Obstacle::Damaged(with_causes(&error))),
        })
    }

    /// Removes a snapshot. Returns `false` if another process uses it. It leaves `snapshots/` in one step, so that no
    /// process finds half of it.
    ///
    /// # Errors
    ///
    /// When the directory cannot be locked, moved or removed.
    pub fn remove_snapshot(&self, id: InfoHashV2, _: &StoreLock) -> Result<bool> {
        let dir = self.snapshot(id);
        // No process uses anything but a directory.
        let _in_use = if dir.path().is_dir() {
            match try_lock_dir(dir.path(), FlockOperation::NonBlockingLockExclusive)? {
                Some(lock) => Some(lock),
                None => return Ok(false),
            }
        } else {
            None
        };
        let leaving = self.incoming().join(format!("removed-{id}"));
        remove_tree(&leaving)?;
        rename(dir.path(), &leaving)?;
        sync_dir(&self.snapshots())?;
        remove_tree(&leaving)?;
        Ok(true)
    }
}

/// A directory that is not the whole snapshot that it is named for.
enum Obstacle {
    NotWhole,
    /// It cannot be opened, for this reason.
    Damaged(String),
}

/// Returns whether a file was written more than `age` ago. A time in the future, from a clock that was wrong, becomes
/// the present time, so that the file ages from now on.
fn is_older(path: &Path, age: Duration) -> io::Result<bool> {
    let modified = path.metadata()?.modified()?;
    let now = SystemTime::now();
    if !is_past(modified, now) {
        File::open(path)?.set_modified(now)?;
        return Ok(false);
    }
    Ok(now.duration_since(modified).is_ok_and(|found| found > age))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data_dir::tests::{data_dir, id};

    #[test]
    fn a_file_from_the_future_ages_from_now_on() {
        let (_temp, dir) = data_dir();
        let path = dir.root().join("file");
        let day = Duration::from_secs(86_400);
        fs::write(&path, "x").unwrap();
        let set = |time| File::open(&path).unwrap().set_modified(time).unwrap();
        assert!(!is_older(&path, day).unwrap());
        set(SystemTime::now() - 2 * day);
        assert!(is_older(&path, day).unwrap());
        set(SystemTime::now() + 3_650 * day);
        assert!(!is_older(&path, day).unwrap());
        let modified = path.metadata().unwrap().modified().unwrap();
        assert!(modified <= SystemTime::now());
    }

    #[test]
    fn only_builds_of_ended_processes_are_removed() {
        let (_temp, dir) = data_dir();
        let (alive, alive_lock) = dir.new_build().unwrap();
        let (dead, dead_lock) = dir.new_build().unwrap();
        fs::write(dead.join("half"), "x").unwrap();
        drop(dead_lock);
        assert_eq!(dir.clean_incoming().unwrap(), 1);
        assert!(alive.exists() && !dead.exists());
        drop(alive_lock);
        assert_eq!(dir.clean_incoming().unwrap(), 1);
    }

    #[test]
    fn what_is_no_snapshot_does_not_keep_a_new_one_out() {
        let (_temp, dir) = data_dir();
        let adopt = || {
            let (build, _lock) = dir.new_build().unwrap();
            fs::write(build.join("new"), "x").unwrap();
            dir.adopt(&build, id(7), &dir.lock().unwrap()).unwrap();
            assert!(!build.exists());
            dir.snapshot(id(7)).path().join("new").exists()
        };
        assert!(adopt());
        let path = dir.snapshot(id(7));
        fs::remove_dir_all(&path).unwrap();
        fs::write(&path, "no directory").unwrap();
        assert!(adopt());
        // An interrupted download without metadata, and a pin.
        fs::remove_dir_all(&path).unwrap();
        fs::create_dir(&path).unwrap();
        Mark::Pinned.set(&path).unwrap();
        assert!(adopt());
        assert!(Mark::Pinned.is_set(&path));
        assert!(!dir.incoming().join(format!("removed-{}", id(7))).exists());
        assert_eq!(dir.snapshot_ids().unwrap(), [id(7)]);
    }

    #[test]
    fn a_damaged_snapshot_is_replaced_unless_a_process_uses_it() {
        let (_temp, dir) = data_dir();
        let old = dir.snapshot(id(7));
        fs::create_dir(&old).unwrap();
        fs::write(old.metadata_path(), "no torrent").unwrap();
        let adopt = || {
            let (build, _lock) = dir.new_build().unwrap();
            fs::write(build.join("new"), "x").unwrap();
            dir.adopt(&build, id(7), &dir.lock().unwrap()).unwrap();
            assert!(!build.exists());
            old.path().join("new").exists()
        };
        let reader = dir.share_snapshot(id(7)).unwrap();
        assert!(!adopt());
        drop(reader);
        assert!(adopt());
        let kept = dir.set_aside_dir().join(id(7).to_string());
        assert_eq!(
            fs::read(kept.join(layout::METADATA)).unwrap(),
            b"no torrent"
        );
    }

    #[test]
    fn a_snapshot_in_use_is_not_removed() {
        let (_temp, dir) = data_dir();
        fs::create_dir(dir.snapshot(id(1))).unwrap();
        let reader = dir.share_snapshot(id(1)).unwrap().unwrap();
        assert!(dir.share_snapshot(id(1)).unwrap().is_some());
        assert!(dir.own_snapshot(id(1)).unwrap().is_none());
        assert!(!dir.remove_snapshot(id(1), &dir.lock().unwrap()).unwrap());
        drop(reader);
        assert!(dir.remove_snapshot(id(1), &dir.lock().unwrap()).unwrap());
        assert!(!dir.snapshot(id(1)).exists());
    }
}
