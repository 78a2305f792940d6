//! `--extract`: the ledger of a snapshot as a file of its own, for a node to open and write.
//!
//! A reflink costs neither time nor room and the snapshot stays whole. Where the file system has
//! none, the content is moved out of a snapshot that nobody will seed any longer, and copied
//! otherwise. A hard link is never made: the node would write into what others download.

use std::fs::{self, File, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::fs::{FlockOperation, OFlags};

use crate::data_dir::sync_dir;

/// How the ledger came to its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    /// It shares its blocks with the snapshot until one of both changes.
    Reflink,
    /// It was the snapshot's; the snapshot is gone.
    Move,
    /// It is a second file.
    Copy,
    /// It came out of an archive.
    Unpacked,
}

/// Makes `target` by reflink from `content`. `false` when the file system cannot.
pub(crate) fn by_reflink(content: &Path, target: &Path) -> Result<bool> {
    let fresh = Fresh::beside(target);
    let source = open(content)?;
    let file = fresh.create()?;
    match rustix::fs::ioctl_ficlone(&file, &source) {
        Ok(()) => fresh.publish(file).map(|()| true),
        Err(error) => {
            tracing::debug!(%error, "no reflink here");
            Ok(false)
        }
    }
}

/// Makes `target` by copying `content`; tells `progress` the bytes done so far and stops where it
/// answers `false`. Returns whether it came to the end.
pub(crate) fn by_copy(
    content: &Path,
    target: &Path,
    progress: &mut dyn FnMut(u64) -> bool,
) -> Result<bool> {
    let fresh = Fresh::beside(target);
    let mut source = open(content)?;
    let mut file = fresh.create()?;
    let mut buffer = vec![0; 1 << 20];
    let mut done = 0;
    loop {
        let read = match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", content.display()));
            }
        };
        file.write_all(&buffer[..read])
            .with_context(|| format!("cannot write {}", fresh.path.display()))?;
        done += read as u64;
        if !progress(done) {
            return Ok(false);
        }
    }
    fresh.publish(file).map(|()| true)
}

/// Makes `target` by moving `content` there. The caller owns the snapshot and removes the rest.
pub(crate) fn by_move(content: &Path, target: &Path) -> Result<()> {
    let file = open(content)?;
    make_writable(&file, content)?;
    fs::rename(content, target)
        .with_context(|| format!("cannot move {} to {}", content.display(), target.display()))?;
    file.sync_all()
        .with_context(|| format!("cannot sync {}", target.display()))?;
    sync_parent(target)
}

fn open(path: &Path) -> Result<File> {
    File::open(path).with_context(|| format!("cannot open {}", path.display()))
}

/// Content is sealed against writing; a node has to write its ledger.
fn make_writable(file: &File, path: &Path) -> Result<()> {
    file.set_permissions(Permissions::from_mode(0o644))
        .with_context(|| format!("cannot make {} writable", path.display()))
}

fn sync_parent(path: &Path) -> Result<()> {
    sync_dir(path.parent().unwrap_or(Path::new("/")))
}

/// A file under a temporary name, removed again unless it is published. It is locked while it is made, so
/// that what a killed process left can be told from what another one is making.
struct Fresh<'a> {
    path: PathBuf,
    target: &'a Path,
}

impl<'a> Fresh<'a> {
    fn beside(target: &'a Path) -> Self {
        Self {
            path: target.with_extension(format!("new.{}", std::process::id())),
            target,
        }
    }

    /// Never follows a link to it.
    fn create(&self) -> Result<File> {
        let made = || format!("cannot make {}", self.path.display());
        self.clear_leftovers();
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(made);
            }
            _ => {}
        }
        let file = File::create_new(&self.path).with_context(made)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).with_context(made)?;
        Ok(file)
    }

    /// Removes what processes left that were killed while they made the same file: each is as large as a
    /// ledger. What cannot be removed is in nobody's way but the disk's.
    fn clear_leftovers(&self) {
        let names = |path: &Path| {
            let name = path.file_name()?.to_str()?;
            let (stem, process) = name.rsplit_once('.')?;
            process.parse::<u32>().ok().map(|_| stem.to_owned())
        };
        let (Some(own), Some(dir)) = (names(&self.path), self.path.parent()) else {
            return;
        };
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if names(&path).as_ref() != Some(&own) {
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
                tracing::info!("removed {}, which an interrupted run left", path.display());
            }
        }
    }

    fn publish(&self, file: File) -> Result<()> {
        make_writable(&file, &self.path)?;
        file.sync_all()
            .with_context(|| format!("cannot sync {}", self.path.display()))?;
        drop(file);
        fs::rename(&self.path, self.target)
            .with_context(|| format!("cannot rename to {}", self.target.display()))?;
        sync_parent(self.target)
    }
}

impl Drop for Fresh<'_> {
    fn drop(&mut self) {
        // Gone already when it was published.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    fn sealed(dir: &Path) -> PathBuf {
        let content = dir.join("content.ldb");
        let bytes: Vec<u8> = (0..3_000_001u32).map(|i| (i * 7 % 251) as u8).collect();
        fs::write(&content, bytes).unwrap();
        fs::set_permissions(&content, Permissions::from_mode(0o444)).unwrap();
        content
    }

    fn only_these(dir: &Path, names: &[&str]) {
        let mut found: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        found.sort();
        assert_eq!(found, names);
    }

    #[test]
    fn a_copy_is_equal_writable_and_another_file() {
        let temp = tempfile::tempdir().unwrap();
        let content = sealed(temp.path());
        let target = temp.path().join("data.ldb");
        fs::write(&target, "an old one").unwrap();
        let mut last = 0;
        let done = by_copy(&content, &target, &mut |bytes| {
            last = bytes;
            true
        });
        assert!(done.unwrap());
        assert_eq!(last, 3_000_001);
        assert_eq!(fs::read(&target).unwrap(), fs::read(&content).unwrap());
        let metadata = target.metadata().unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o644);
        assert_ne!(metadata.ino(), content.metadata().unwrap().ino());
        only_these(temp.path(), &["content.ldb", "data.ldb"]);
    }

    #[test]
    fn a_stopped_copy_leaves_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let content = sealed(temp.path());
        assert!(!by_copy(&content, &temp.path().join("data.ldb"), &mut |_| false).unwrap());
        only_these(temp.path(), &["content.ldb"]);
    }

    #[test]
    fn what_a_killed_copy_left_goes_and_what_is_being_made_stays() {
        let temp = tempfile::tempdir().unwrap();
        let content = sealed(temp.path());
        let target = temp.path().join("data.ldb");
        let beside = |name: &str| {
            let path = temp.path().join(name);
            fs::write(&path, "part of a ledger").unwrap();
            path
        };
        beside("data.new.4000000001");
        let made = File::open(beside("data.new.4000000002")).unwrap();
        rustix::fs::flock(&made, FlockOperation::LockExclusive).unwrap();
        beside("data.new.backup");
        beside("other.new.4000000001");
        assert!(by_copy(&content, &target, &mut |_| true).unwrap());
        let all = [
            "content.ldb",
            "data.ldb",
            "data.new.4000000002",
            "data.new.backup",
            "other.new.4000000001",
        ];
        only_these(temp.path(), &all);
    }

    #[test]
    fn a_reflink_is_equal_or_leaves_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let content = sealed(temp.path());
        let target = temp.path().join("data.ldb");
        if by_reflink(&content, &target).unwrap() {
            assert_eq!(fs::read(&target).unwrap(), fs::read(&content).unwrap());
            only_these(temp.path(), &["content.ldb", "data.ldb"]);
        } else {
            only_these(temp.path(), &["content.ldb"]);
        }
    }

    #[test]
    fn a_move_leaves_one_writable_file() {
        let temp = tempfile::tempdir().unwrap();
        let content = sealed(temp.path());
        let inode = content.metadata().unwrap().ino();
        let target = temp.path().join("data.ldb");
        by_move(&content, &target).unwrap();
        let metadata = target.metadata().unwrap();
        assert_eq!((metadata.ino(), metadata.mode() & 0o777), (inode, 0o644));
        only_these(temp.path(), &["data.ldb"]);
    }
}
