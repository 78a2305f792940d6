//! Files that are written under a temporary name and then renamed.

use std::fs::{self, File};
use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags};

use crate::error::FileError;
use crate::fs::{parent, rename};

/// A file under a temporary name, removed when dropped unless it was [put](Self::put) in its place.
///
/// It is locked while it exists. So another process can tell it from the leftover of a killed process.
#[derive(Debug)]
pub struct Temporary {
    path: PathBuf,
    file: File,
}

impl Temporary {
    /// Creates an empty file that is to become `target`, in the same directory and with the given mode (the umask
    /// applies). First removes leftovers of killed processes, as [`Self::remove_leftovers`] does.
    ///
    /// # Errors
    ///
    /// [`FileError::Create`] and [`FileError::Lock`].
    pub fn beside(target: &Path, mode: u32) -> Result<Self, FileError> {
        Self::remove_leftovers(target);
        loop {
            // Each state has its own random keys. The name has 32 bits of what they yield.
            let number = RandomState::new().hash_one(()) as u32;
            let path = target.with_extension(format!("new.{number}"));
            // Never follows a link: a new file or none.
            let created = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(&path);
            let file = match created {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(source) => return Err(FileError::Create { path, source }),
            };
            let locked = rustix::fs::flock(&file, FlockOperation::LockExclusive);
            // Another process may have taken it for a leftover before it was locked.
            match locked
                .map_err(io::Error::from)
                .and_then(|()| file.metadata())
            {
                Ok(metadata) if metadata.nlink() > 0 => return Ok(Self { path, file }),
                Ok(_) => {}
                Err(source) => return Err(FileError::Lock { path, source }),
            }
        }
    }

    /// Returns the temporary name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the open file, to write to.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Renames the file to `target`. The caller has synced the file, and syncs the directory.
    ///
    /// # Errors
    ///
    /// [`FileError::Rename`]; the temporary file is removed.
    pub fn put(self, target: &Path) -> Result<(), FileError> {
        rename(&self.path, target)
    }

    /// Removes the temporary files for `target` that killed processes left, and returns their paths: each may be as
    /// large as the target. One that cannot be removed stays and takes space.
    pub fn remove_leftovers(target: &Path) -> Vec<PathBuf> {
        let mut removed = Vec::new();
        let Some(stem) = stem(&target.with_extension("new.0")) else {
            return removed;
        };
        for entry in fs::read_dir(parent(target)).into_iter().flatten().flatten() {
            let path = entry.path();
            if self::stem(&path).as_ref() != Some(&stem) {
                continue;
            }
            let unused = File::options()
                .read(true)
                .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
                .open(&path)
                .ok()
                .filter(|file| {
                    rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive).is_ok()
                });
            if unused.is_some() && fs::remove_file(&path).is_ok() {
                removed.push(path);
            }
        }
        removed
    }
}

/// The name of a temporary file without its number.
fn stem(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let (stem, number) = name.rsplit_once('.')?;
    number.parse::<u32>().ok().map(|_| stem.to_owned())
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After `put` there is no file of this name. A failure leaves it to the next `beside`.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::fs::tests::names;

    #[test]
    fn leftovers_of_killed_processes_go_and_those_in_use_stay() {
        let temp = tempfile::tempdir().unwrap();
        let target = temp.path().join("data.ldb");
        let beside = |name: &str| {
            let path = temp.path().join(name);
            fs::write(&path, "part of a ledger").unwrap();
            path
        };
        let left = beside("data.new.4000000001");
        let used = File::open(beside("data.new.4000000002")).unwrap();
        rustix::fs::flock(&used, FlockOperation::LockExclusive).unwrap();
        beside("data.new.backup");
        beside("other.new.4000000001");
        assert_eq!(
            Temporary::remove_leftovers(&target),
            std::slice::from_ref(&left)
        );
        fs::write(&left, "again").unwrap();
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
