//! The lock that LMDB uses to detect processes that have a ledger open.
//!
//! Every process that has a ledger open holds a shared POSIX record lock on the first byte of `data.ldb-lock` next to
//! it. A process that opens the ledger waits until no exclusive lock is held (`mdb_env_excl_lock` of LMDB 0.9.70). A
//! node takes that lock before it opens the ledger itself. Therefore a process with an exclusive lock on the whole
//! file can replace the ledger.

use std::fs::{File, Metadata};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rustix::fs::FlockOperation;
use rustix::process::{Flock, FlockType};

/// An exclusive lock of a ledger, released when dropped.
#[derive(Debug)]
pub(super) struct NodeLock {
    file: File,
    path: PathBuf,
}

impl NodeLock {
    /// Takes the lock of the ledger at `ledger`. `dir` is the metadata of the node's directory; its owner gets the
    /// lock file.
    pub(super) fn take(ledger: &Path, dir: &Metadata) -> Result<Self> {
        let mut path = ledger.to_owned().into_os_string();
        path.push("-lock");
        let path = PathBuf::from(path);
        let failed = || format!("cannot take the lock {}", path.display());
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            // Without this flag the owner of the directory could make root truncate a file of another user below.
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(&path)
            .with_context(failed)?;
        let found = file.metadata().with_context(failed)?;
        if found.nlink() > 1 {
            bail!("{}: it has another hard link", failed());
        }
        if found.uid() == 0 && dir.uid() != 0 {
            // Root created the lock file, now or earlier. The node could not open it with this owner.
            fchown(&file, Some(dir.uid()), Some(dir.gid())).with_context(failed)?;
        }
        match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { file, path }),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => {
                bail!(
                    "{} has {} open: stop the node first",
                    holder(&file),
                    ledger.display()
                )
            }
            Err(error) => Err(error).with_context(failed),
        }
    }
}

/// Returns a description of the process that has the ledger at `path` open and may write to it; `None` if none is
/// found. Must not be called for a ledger that this process has open, as that would release its own lock.
pub(crate) fn who_has_open(path: &Path) -> Option<String> {
    let mut lock = path.to_owned().into_os_string();
    lock.push("-lock");
    let file = File::open(PathBuf::from(lock)).ok()?;
    let wanted = Flock::from(FlockType::WriteLock);
    rustix::process::fcntl_getlk(&file, &wanted).ok()??;
    Some(holder(&file))
}

/// Returns a description of the process that holds the lock.
fn holder(file: &File) -> String {
    let wanted = Flock::from(FlockType::WriteLock);
    let found = rustix::process::fcntl_getlk(file, &wanted).ok().flatten();
    let Some(pid) = found.and_then(|lock| lock.pid) else {
        return "another process".to_owned();
    };
    let pid = pid.as_raw_nonzero();
    match std::fs::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(name) => format!("process {pid} ({})", name.trim()),
        Err(_) => format!("process {pid}"),
    }
}

impl Drop for NodeLock {
    fn drop(&mut self) {
        // The lock file has transaction numbers of the old ledger. A node that opens the ledger later writes the file
        // again. A node that already waits for this lock would use the old numbers; with an empty file it fails, and
        // works when it is started again.
        if let Err(error) = self.file.set_len(0) {
            tracing::warn!("cannot empty {}: {error}", self.path.display());
        }
    }
}
