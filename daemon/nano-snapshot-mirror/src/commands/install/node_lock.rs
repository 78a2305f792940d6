//! The lock by which LMDB knows who has a ledger open.
//!
//! Every process that has a ledger open holds a POSIX record lock on the first byte of the file
//! `data.ldb-lock` beside it, and one that opens it waits for an exclusive lock to go
//! (`mdb_env_excl_lock` of LMDB 0.9.70). A node takes that lock before it opens the ledger itself, so
//! a process that holds an exclusive lock on the whole file can replace the ledger.

use std::fs::{File, Metadata};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use rustix::fs::FlockOperation;
use rustix::process::{Flock, FlockType};

/// The ledger's lock, held alone; given back when dropped.
#[derive(Debug)]
pub(super) struct NodeLock {
    file: File,
    path: PathBuf,
}

impl NodeLock {
    /// Takes the lock of the ledger at `ledger`, in a node's directory of which `dir` tells the owner.
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
            // The owner of the directory could have a file of another user emptied below.
            .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
            .open(&path)
            .with_context(failed)?;
        let found = file.metadata().with_context(failed)?;
        if found.nlink() > 1 {
            bail!("{}: it has another name", failed());
        }
        if found.uid() == 0 && dir.uid() != 0 {
            // Made by root, here or before: it would lock the node out of its own ledger.
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

/// Who has the ledger at `path` open and may write to it, for a person; `None` where no process is known.
/// Not to be asked of a ledger that this process has open: its own lock would be lost.
pub(crate) fn who_has_open(path: &Path) -> Option<String> {
    let mut lock = path.to_owned().into_os_string();
    lock.push("-lock");
    let file = File::open(PathBuf::from(lock)).ok()?;
    let wanted = Flock::from(FlockType::WriteLock);
    rustix::process::fcntl_getlk(&file, &wanted).ok()??;
    Some(holder(&file))
}

/// Who holds the lock, for a person.
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
        // The file tells transaction numbers of the ledger that was. A node that opens the ledger
        // alone makes it again; one that waited for this lock would believe it, so it finds nothing in
        // it, fails, and opens the ledger alone when it is started again.
        if let Err(error) = self.file.set_len(0) {
            tracing::warn!("cannot empty {}: {error}", self.path.display());
        }
    }
}
