//! The data directory: its parts, and who may change them now.
//!
//! A mirror, a producer and a fetch may share one. They take the [`StoreLock`] for the moments in which they change
//! what is in `snapshots/`, `incoming/` and `current/`. A directory under construction or in use is locked itself,
//! with `flock` on the directory, so that a lock ends with its process.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use bittorrent_protocol::InfoHashV2;
use rustix::fs::FlockOperation;

use crate::current::StreamName;
use crate::error::{Result, SnapshotStoreError};
use crate::layout;
use crate::snapshot_dir::SnapshotDir;

/// A data directory that exists.
#[derive(Debug, Clone)]
pub struct DataDir {
    root: PathBuf,
    reserve: Option<u64>,
}

/// The lock of a data directory; released when dropped.
#[derive(Debug)]
pub struct StoreLock(
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "closing the file is the release")
    )]
    File,
);

/// The lock of a directory in `snapshots/` or `incoming/`: shared by its readers, exclusive for a process that writes
/// or removes it. Released when dropped.
#[derive(Debug)]
pub struct DirLock(File);

impl DataDir {
    /// Opens the data directory, and creates what is missing of it.
    ///
    /// # Errors
    ///
    /// When no directory is named, or a part of it cannot be created.
    pub fn create(named: Option<&Path>) -> Result<Self> {
        let root = Self::absolute(named)?;
        for part in [
            layout::SNAPSHOTS,
            layout::INCOMING,
            layout::STREAMS,
            layout::CURRENT,
        ] {
            let path = root.join(part);
            if let Err(source) = fs::create_dir_all(&path) {
                return Err(SnapshotStoreError::CreateDataDir { path, source });
            }
        }
        Ok(Self {
            root,
            reserve: None,
        })
    }

    /// Opens a data directory that exists.
    ///
    /// # Errors
    ///
    /// When no directory is named, or it has no `snapshots/`.
    pub fn existing(named: Option<&Path>) -> Result<Self> {
        let root = Self::absolute(named)?;
        if !root.join(layout::SNAPSHOTS).is_dir() {
            return Err(SnapshotStoreError::NotADataDir { path: root });
        }
        Ok(Self {
            root,
            reserve: None,
        })
    }

    /// Sets how many bytes to keep free on the file system; `None` means the default.
    pub fn with_reserve(self, reserve: Option<u64>) -> Self {
        Self { reserve, ..self }
    }

    /// Returns how many bytes to keep free on the file system; `None` means the default.
    pub fn reserve(&self) -> Option<u64> {
        self.reserve
    }

    /// Makes a path absolute, so that it means the same in every message and to every child process.
    fn absolute(named: Option<&Path>) -> Result<PathBuf> {
        let path = named.ok_or(SnapshotStoreError::NoDataDir)?;
        std::path::absolute(path).map_err(|source| SnapshotStoreError::NotAPath {
            path: path.to_owned(),
            source,
        })
    }

    /// Returns its absolute path.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the path of `snapshots/`.
    pub fn snapshots(&self) -> PathBuf {
        self.root.join(layout::SNAPSHOTS)
    }

    /// Returns the directory of a snapshot, whether it exists or not.
    pub fn snapshot(&self, id: InfoHashV2) -> SnapshotDir {
        SnapshotDir::at(self.snapshots().join(id.to_string()))
    }

    /// Returns the path of `incoming/`.
    pub fn incoming(&self) -> PathBuf {
        self.root.join(layout::INCOMING)
    }

    /// Returns the path of `streams/`, the records of pointers.
    pub fn streams(&self) -> PathBuf {
        self.root.join(layout::STREAMS)
    }

    /// Returns the path of `current/`.
    pub fn current(&self) -> PathBuf {
        self.root.join(layout::CURRENT)
    }

    /// Returns the path of `set-aside/`.
    pub fn set_aside_dir(&self) -> PathBuf {
        self.root.join(layout::SET_ASIDE)
    }

    /// Returns the path of `downloads/`, the downloads of a producer.
    pub fn downloads(&self) -> PathBuf {
        self.root.join(layout::DOWNLOADS)
    }

    pub(crate) fn produced(&self) -> PathBuf {
        self.root.join(layout::PRODUCED)
    }

    /// Returns the path of the record of the last snapshot that was made for a stream.
    pub fn last_produced(&self, stream: &StreamName) -> PathBuf {
        self.produced().join(format!("{}.json", stream.as_str()))
    }

    /// Returns the path of the [`BuildRecord`](crate::BuildRecord) of a stream.
    pub fn build_record(&self, stream: &StreamName) -> PathBuf {
        let name = format!("{}{}", stream.as_str(), layout::MAKING);
        self.produced().join(name)
    }

    /// Returns the path of the file that a running producer locks.
    pub fn produce_lock(&self) -> PathBuf {
        self.root.join(layout::PRODUCE_LOCK)
    }

    /// Returns the path of the list of DHT nodes.
    pub fn dht_nodes(&self) -> PathBuf {
        self.root.join(layout::DHT_NODES)
    }

    /// Returns the default path of the control socket.
    pub fn control_socket(&self) -> PathBuf {
        self.root.join(layout::CONTROL_SOCKET)
    }

    /// Returns the path of the ledger that a fetch extracts for a node.
    pub fn ledger(&self) -> PathBuf {
        self.root.join(layout::LEDGER)
    }

    /// Returns the path of the record of what was extracted to [`Self::ledger`].
    pub fn extracted(&self) -> PathBuf {
        self.root.join(layout::EXTRACTED)
    }

    /// Waits for the lock and takes it. Hold it for moments, never during a transfer.
    ///
    /// # Errors
    ///
    /// When the lock file cannot be opened or locked.
    pub fn lock(&self) -> Result<StoreLock> {
        let path = self.root.join(layout::LOCK);
        loop {
            let opened = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path);
            let file = match opened {
                Ok(file) => file,
                Err(source) => return Err(SnapshotStoreError::OpenLock { path, source }),
            };
            if let Err(errno) = rustix::fs::flock(&file, FlockOperation::LockExclusive) {
                let source = errno.into();
                return Err(SnapshotStoreError::Lock { path, source });
            }
            // If the file was removed meanwhile, its lock excludes no process that opens the path later.
            if is_at(&file, &path)? {
                return Ok(StoreLock(file));
            }
        }
    }

    /// Makes this process the only mirror of the data directory, until it ends. The lock is on the directory itself,
    /// so that removing files in it does not let a second mirror in. Fetches and producers do not take it.
    ///
    /// # Errors
    ///
    /// When another mirror runs, or the directory cannot be locked.
    pub fn lock_for_mirror(&self) -> Result<DirLock> {
        try_lock_dir(&self.root, FlockOperation::NonBlockingLockExclusive)?.ok_or_else(|| {
            SnapshotStoreError::MirrorRuns {
                path: self.root.clone(),
            }
        })
    }

    /// Returns the snapshots that have a directory, in no order.
    ///
    /// # Errors
    ///
    /// When `snapshots/` cannot be listed.
    pub fn snapshot_ids(&self) -> Result<Vec<InfoHashV2>> {
        let names = list(&self.snapshots())?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// Returns the only snapshot whose hash begins with `prefix`.
    ///
    /// # Errors
    ///
    /// When there is none, or more than one.
    pub fn find(&self, prefix: &str) -> Result<InfoHashV2> {
        let prefix = prefix.to_ascii_lowercase();
        let mut found = self.snapshot_ids()?;
        found.retain(|id| id.to_string().starts_with(&prefix));
        found.sort();
        match found[..] {
            [] => Err(SnapshotStoreError::NoMatch {
                prefix,
                path: self.root.clone(),
            }),
            [one] => Ok(one),
            [one, other, ..] => Err(SnapshotStoreError::Ambiguous { prefix, one, other }),
        }
    }

    /// Locks a snapshot for reading: no other process removes it or writes to it. Returns `None` while another process
    /// writes to it.
    ///
    /// # Errors
    ///
    /// When the directory cannot be opened or locked.
    pub fn share_snapshot(&self, id: InfoHashV2) -> Result<Option<DirLock>> {
        let dir = self.snapshot(id);
        try_lock_dir(dir.path(), FlockOperation::NonBlockingLockShared)
    }

    /// Locks a snapshot for writing. Returns `None` while another process uses it.
    ///
    /// # Errors
    ///
    /// When the directory cannot be opened or locked.
    pub fn own_snapshot(&self, id: InfoHashV2) -> Result<Option<DirLock>> {
        let dir = self.snapshot(id);
        try_lock_dir(dir.path(), FlockOperation::NonBlockingLockExclusive)
    }
}

impl DirLock {
    /// Lets others read: from exclusive to shared.
    ///
    /// # Errors
    ///
    /// When the lock cannot be changed.
    pub fn share(&self) -> Result<()> {
        rustix::fs::flock(&self.0, FlockOperation::NonBlockingLockShared).map_err(|errno| {
            SnapshotStoreError::ShareLock {
                source: errno.into(),
            }
        })
    }
}

/// Locks a directory. Returns `None` while another process has a lock that excludes this one.
pub(crate) fn try_lock_dir(path: &Path, operation: FlockOperation) -> Result<Option<DirLock>> {
    let dir = File::open(path).map_err(|source| SnapshotStoreError::OpenLock {
        path: path.to_owned(),
        source,
    })?;
    match rustix::fs::flock(&dir, operation) {
        Ok(()) => Ok(Some(DirLock(dir))),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(errno) => Err(SnapshotStoreError::Lock {
            path: path.to_owned(),
            source: errno.into(),
        }),
    }
}

/// Returns whether an open file is what its path names.
fn is_at(file: &File, path: &Path) -> Result<bool> {
    let open = file.metadata().map_err(|source| SnapshotStoreError::Lock {
        path: path.to_owned(),
        source,
    })?;
    Ok(
        fs::metadata(path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (open.dev(), open.ino())),
    )
}

/// Returns the names in a directory that are UTF-8; all that the program creates are.
pub(crate) fn list(dir: &Path) -> Result<Vec<String>> {
    let failed = |source| SnapshotStoreError::List {
        path: dir.to_owned(),
        source,
    };
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(failed)? {
        if let Ok(name) = entry.map_err(failed)?.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn id(byte: u8) -> InfoHashV2 {
        InfoHashV2::from_bytes([byte; 32])
    }

    pub(crate) fn data_dir() -> (tempfile::TempDir, DataDir) {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::create(Some(&temp.path().join("data"))).unwrap();
        (temp, dir)
    }

    #[test]
    fn one_mirror_works_with_a_directory_whatever_is_removed_from_it() {
        let (_temp, dir) = data_dir();
        let first = dir.lock_for_mirror().unwrap();
        for name in [layout::LOCK, layout::DHT_NODES] {
            let _ = fs::remove_file(dir.root().join(name));
        }
        let refused = dir.lock_for_mirror().unwrap_err();
        assert!(
            matches!(refused, SnapshotStoreError::MirrorRuns { .. }),
            "{refused}"
        );
        // A fetch and a producer may run beside it.
        drop(dir.lock().unwrap());
        drop(dir.new_build().unwrap());
        drop(first);
        dir.lock_for_mirror().unwrap();
    }

    #[test]
    fn a_lock_file_that_was_removed_during_the_wait_is_not_accepted() {
        let (_temp, dir) = data_dir();
        let path = dir.root().join(layout::LOCK);
        let held = dir.lock().unwrap();
        let waiting = std::thread::spawn({
            let dir = dir.clone();
            move || {
                let lock = dir.lock().unwrap();
                assert!(is_at(&lock.0, &dir.root().join(layout::LOCK)).unwrap());
            }
        });
        fs::remove_file(&path).unwrap();
        drop(held);
        waiting.join().unwrap();
    }

    #[test]
    fn an_owner_can_let_readers_in() {
        let (_temp, dir) = data_dir();
        fs::create_dir(dir.snapshot(id(1))).unwrap();
        let owner = dir.own_snapshot(id(1)).unwrap().unwrap();
        assert!(dir.share_snapshot(id(1)).unwrap().is_none());
        owner.share().unwrap();
        assert!(dir.share_snapshot(id(1)).unwrap().is_some());
    }

    #[test]
    fn a_snapshot_is_named_by_as_many_digits_as_tell_it_apart() {
        let (_temp, dir) = data_dir();
        for byte in [0x11, 0x12, 0x20] {
            fs::create_dir(dir.snapshot(id(byte))).unwrap();
        }
        assert_eq!(dir.find("2").unwrap(), id(0x20));
        assert_eq!(dir.find("121").unwrap(), id(0x12));
        assert_eq!(dir.find(&id(0x11).to_string()).unwrap(), id(0x11));
        let error = dir.find("1").unwrap_err();
        assert!(matches!(error, SnapshotStoreError::Ambiguous { .. }));
        let error = dir.find("zz").unwrap_err();
        assert!(matches!(error, SnapshotStoreError::NoMatch { .. }));
    }
}
