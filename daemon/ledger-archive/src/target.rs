//! The files of an extraction: the target, the partial file beside it, and the journal.
//!
//! All three are opened by name within one directory that is opened once; none may be a link. Names in an archive
//! have no influence on them.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::error::ExtractError;

/// Suffix of the partial file.
const PARTIAL: &str = ".partial";
/// Suffix of the journal.
const JOURNAL: &str = ".journal";
/// Bytes `st_blocks` counts in.
const STAT_BLOCK: u64 = 512;
/// Attempts to open the partial file while other processes rename it.
const ROUNDS: u32 = 8;

/// The files of one extraction. While it exists, no other process extracts to the same target.
#[derive(Debug)]
pub(crate) struct Target {
    dir: OwnedFd,
    parent: PathBuf,
    name: OsString,
    partial_name: OsString,
    journal_name: OsString,
    partial: File,
    inode: u64,
}

impl Target {
    /// Opens or creates the partial file of `target` and locks it.
    pub(crate) fn open(target: &Path) -> Result<Self, ExtractError> {
        let not_a_file = || ExtractError::NotAFile {
            path: target.to_owned(),
        };
        let name = target.file_name().ok_or_else(not_a_file)?.to_owned();
        let parent = match target.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        let dir = rustix::fs::open(
            &parent,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| ExtractError::OpenTarget {
            path: parent.clone(),
            source: errno.into(),
        })?;
        match rustix::fs::statat(&dir, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode).is_file() => {}
            Err(Errno::NOENT) => {}
            Ok(_) => return Err(not_a_file()),
            Err(errno) => {
                return Err(ExtractError::OpenTarget {
                    path: target.to_owned(),
                    source: errno.into(),
                });
            }
        }
        let partial_name = with_suffix(&name, PARTIAL);
        let (partial, inode) = open_locked(&dir, &parent, &partial_name, target)?;
        Ok(Self {
            journal_name: with_suffix(&name, JOURNAL),
            dir,
            parent,
            name,
            partial_name,
            partial,
            inode,
        })
    }

    /// Whether there is a partial file or a journal of `target`.
    pub(crate) fn is_begun(target: &Path) -> bool {
        [PARTIAL, JOURNAL].iter().any(|suffix| {
            Path::new(&with_suffix(target.as_os_str(), suffix))
                .symlink_metadata()
                .is_ok()
        })
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.parent.join(&self.name)
    }

    pub(crate) fn partial_path(&self) -> PathBuf {
        self.parent.join(&self.partial_name)
    }

    fn journal_path(&self) -> PathBuf {
        self.parent.join(&self.journal_name)
    }

    /// Returns the inode of the partial file, which it keeps when it is renamed.
    pub(crate) fn inode(&self) -> u64 {
        self.inode
    }

    /// Bytes of the partial file, and those it takes on disk.
    pub(crate) fn partial_size(&self) -> Result<(u64, u64), ExtractError> {
        let metadata = self
            .partial
            .metadata()
            .map_err(|source| ExtractError::Measure { source })?;
        Ok((metadata.len(), metadata.blocks() * STAT_BLOCK))
    }

    /// Inode and length of the target, if there is one.
    pub(crate) fn installed(&self) -> Option<(u64, u64)> {
        let stat = rustix::fs::statat(&self.dir, &self.name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some((stat.st_ino, u64::try_from(stat.st_size).ok()?))
    }

    pub(crate) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), ExtractError> {
        self.partial
            .write_all_at(bytes, offset)
            .map_err(|source| ExtractError::Write {
                path: self.partial_path(),
                offset,
                source,
            })
    }

    pub(crate) fn truncate(&self, len: u64) -> Result<(), ExtractError> {
        self.partial
            .set_len(len)
            .map_err(|source| ExtractError::Write {
                path: self.partial_path(),
                offset: len,
                source,
            })
    }

    /// Syncs the partial file.
    pub(crate) fn sync(&self) -> Result<(), ExtractError> {
        self.partial
            .sync_data()
            .map_err(|source| ExtractError::Sync {
                path: self.partial_path(),
                source,
            })
    }

    /// Empties the partial file. The journal is removed first, durably: it must not outlive the data that it refers to.
    pub(crate) fn start_over(&self) -> Result<(), ExtractError> {
        self.end_journal()?;
        self.truncate(0)
    }

    /// Opens the existing journal.
    pub(crate) fn journal(&self) -> Result<Option<File>, ExtractError> {
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.dir, &self.journal_name, flags, Mode::empty()) {
            Ok(fd) => {
                let file = File::from(fd);
                let regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
                if regular {
                    Ok(Some(file))
                } else {
                    Err(ExtractError::NotAFile {
                        path: self.journal_path(),
                    })
                }
            }
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::LOOP | Errno::ISDIR) => Err(ExtractError::NotAFile {
                path: self.journal_path(),
            }),
            Err(errno) => Err(self.failed_journal(errno.into())),
        }
    }

    /// Creates a new journal and syncs the directory.
    pub(crate) fn create_journal(&self) -> Result<File, ExtractError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.dir, &self.journal_name, flags, PUBLIC)
            .map_err(|errno| self.failed_journal(errno.into()))?;
        self.sync_dir()?;
        Ok(fd.into())
    }

    pub(crate) fn failed_journal(&self, source: io::Error) -> ExtractError {
        ExtractError::Journal {
            path: self.journal_path(),
            source,
        }
    }

    /// Renames the partial file to the target, which replaces an earlier one, and removes the journal.
    pub(crate) fn install(&self) -> Result<(), ExtractError> {
        rustix::fs::renameat(&self.dir, &self.partial_name, &self.dir, &self.name).map_err(
            |errno| ExtractError::Rename {
                from: self.partial_path(),
                to: self.path(),
                source: errno.into(),
            },
        )?;
        self.sync_dir()?;
        self.end_journal()
    }

    /// Removes the partial file and the journal.
    pub(crate) fn abandon(&self) -> Result<(), ExtractError> {
        self.end_journal()?;
        self.remove(&self.partial_name).map(drop)
    }

    /// Removes the journal, if there is one, durably.
    fn end_journal(&self) -> Result<(), ExtractError> {
        if self.remove(&self.journal_name)? {
            self.sync_dir()?;
        }
        Ok(())
    }

    /// Removes a file. True if there was one.
    fn remove(&self, name: &OsStr) -> Result<bool, ExtractError> {
        match rustix::fs::unlinkat(&self.dir, name, AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(errno) => Err(ExtractError::Remove {
                path: self.parent.join(name),
                source: errno.into(),
            }),
        }
    }

    fn sync_dir(&self) -> Result<(), ExtractError> {
        rustix::fs::fsync(&self.dir).map_err(|errno| ExtractError::Sync {
            path: self.parent.clone(),
            source: errno.into(),
        })
    }
}

/// File mode: readable by all, as ledgers are; the user's mask applies.
const PUBLIC: Mode = Mode::from_raw_mode(0o644);

fn with_suffix(name: &OsStr, suffix: &str) -> OsString {
    let mut name = name.to_owned();
    name.push(suffix);
    name
}

/// Opens or creates the partial file and takes its lock.
///
/// Between opening and locking, the previous owner of the lock may have renamed the file to the target. It must not be
/// written to then.
fn open_locked(
    dir: &OwnedFd,
    parent: &Path,
    name: &OsStr,
    target: &Path,
) -> Result<(File, u64), ExtractError> {
    let path = || parent.join(name);
    let failed = |errno: Errno| ExtractError::OpenTarget {
        path: path(),
        source: errno.into(),
    };
    let flags =
        OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    for _ in 0..ROUNDS {
        let fd = rustix::fs::openat(dir, name, flags, PUBLIC).map_err(|errno| match errno {
            Errno::LOOP | Errno::ISDIR | Errno::NXIO => ExtractError::NotAFile { path: path() },
            errno => failed(errno),
        })?;
        let opened = rustix::fs::fstat(&fd).map_err(failed)?;
        // A second hard link may be a ledger in use.
        if !FileType::from_raw_mode(opened.st_mode).is_file() || opened.st_nlink > 1 {
            return Err(ExtractError::NotAFile { path: path() });
        }
        match rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                return Err(ExtractError::Busy {
                    path: target.to_owned(),
                });
            }
            Err(errno) => return Err(failed(errno)),
        }
        match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(named) if named.st_ino == opened.st_ino => {
                return Ok((fd.into(), opened.st_ino));
            }
            Ok(_) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
    Err(ExtractError::Busy {
        path: target.to_owned(),
    })
}
