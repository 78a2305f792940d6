//! Files that are made under a temporary name and then renamed.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use rustix::fs::{FlockOperation, OFlags};

/// A file under a temporary name, removed when dropped unless it was [put](Self::put) in its place. It
/// is locked while it exists, so that another process can tell it from what a killed process left.
#[derive(Debug)]
pub(crate) struct Temporary {
    path: PathBuf,
    file: File,
}

impl Temporary {
    /// Makes an empty one with a mode for what is to become `target`, after removing those of processes
    /// that were killed.
    pub(crate) fn beside(target: &Path, mode: u32) -> Result<Self> {
        Self::remove_leftovers(target);
        loop {
            let mut number = [0; 4];
            getrandom::fill(&mut number).map_err(|error| anyhow!("no randomness: {error}"))?;
            let path = target.with_extension(format!("new.{}", u32::from_le_bytes(number)));
            let failed = || format!("cannot make {}", path.display());
            // Never follows a link: a new file or none.
            let made = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(&path);
            let file = match made {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                made => made.with_context(failed)?,
            };
            rustix::fs::flock(&file, FlockOperation::LockExclusive).with_context(failed)?;
            // Another process may have taken it for a leftover before it was locked.
            if file.metadata().with_context(failed)?.nlink() > 0 {
                return Ok(Self { path, file });
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Renames it to `target`. The caller has synced it, and syncs the directory.
    pub(crate) fn put(self, target: &Path) -> Result<()> {
        fs::rename(&self.path, target).with_context(|| {
            format!(
                "cannot rename {} to {}",
                self.path.display(),
                target.display()
            )
        })
    }

    /// Removes temporary files for `target` that killed processes left: each may be as large as a ledger.
    /// One that cannot be removed only takes room.
    pub(crate) fn remove_leftovers(target: &Path) {
        let names = |path: &Path| {
            let name = path.file_name()?.to_str()?;
            let (stem, number) = name.rsplit_once('.')?;
            number.parse::<u32>().ok().map(|_| stem.to_owned())
        };
        let (Some(wanted), Some(dir)) = (names(&target.with_extension("new.0")), target.parent())
        else {
            return;
        };
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if names(&path).as_ref() != Some(&wanted) {
                continue;
            }
            let left = File::options()
                .read(true)
                .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
                .open(&path)
                .ok()
                .filter(|file| {
                    rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive).is_ok()
                });
            if left.is_some() && fs::remove_file(&path).is_ok() {
                tracing::info!("removed {}, left by an interrupted run", path.display());
            }
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After `put` there is no file of this name. Another failure leaves it to the next run.
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!("cannot remove {}: {error}", self.path.display());
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn leftovers_of_killed_processes_go_and_those_in_use_stay() {
        let temp = tempfile::tempdir().unwrap();
        let target = temp.path().join("data.ldb");
        let beside = |name: &str| {
            let path = temp.path().join(name);
            fs::write(&path, "part of a ledger").unwrap();
            path
        };
        beside("data.new.4000000001");
        let used = File::open(beside("data.new.4000000002")).unwrap();
        rustix::fs::flock(&used, FlockOperation::LockExclusive).unwrap();
        beside("data.new.backup");
        beside("other.new.4000000001");
        Temporary::beside(&target, 0o600)
            .unwrap()
            .put(&target)
            .unwrap();
        let all = [
            "data.ldb",
            "data.new.4000000002",
            "data.new.backup",
            "other.new.4000000001",
        ];
        assert_eq!(names(temp.path()), all);
    }

    #[test]
    fn one_that_is_not_put_in_its_place_leaves_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let target = temp.path().join("data.ldb");
        drop(Temporary::beside(&target, 0o600).unwrap());
        assert!(names(temp.path()).is_empty());
    }

    #[test]
    fn threads_that_write_one_file_follow_each_other() {
        let temp = tempfile::tempdir().unwrap();
        let target = temp.path().join("record.json");
        std::thread::scope(|scope| {
            for number in 0..8 {
                let target = &target;
                scope.spawn(move || {
                    for _ in 0..20 {
                        let made = Temporary::beside(target, 0o644).unwrap();
                        made.file().write_all(&[number; 100]).unwrap();
                        made.put(target).unwrap();
                    }
                });
            }
        });
        let last = fs::read(&target).unwrap();
        assert_eq!(last, [last[0]; 100]);
        assert_eq!(names(temp.path()), ["record.json"]);
    }
}
