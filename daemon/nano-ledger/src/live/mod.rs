//! Copies of a node's live ledger.
//!
//! A running node keeps writing, so its file cannot just be read: pages change under the reader.
//! LMDB's own copy runs inside a read transaction, which keeps the writer from re-using any page
//! of the state being copied. The writer waits only while the two meta pages are written out,
//! and continues during the rest. It cannot re-use the pages that it frees meanwhile, so its file grows a little
//! for as long as the copy takes. Copy at disk speed, not at network speed.
//!
//! What the uncompacted copy is, by `mdb_env_copyfd0` of LMDB 0.9.70 and measured on the ledgers in
//! `tests/data`: both meta pages and all pages up to the last one given out, byte for byte, at the
//! offsets they have in the source, free pages with their last content. The copy of a ledger that is not written to is
//! therefore identical to the file, except for bytes after the last page given out (in a file that was longer or has
//! reserved space). [`copy_exact`] copies those too.
//!
//! # Locking
//!
//! The reader's protection is an entry in the node's lock file (`data.ldb-lock`), so that file must
//! be writable for the copying user; the ledger itself need only be readable. The format of that
//! file is that of LMDB 0.9.70 and contains mutexes of the C library: the node and this program must
//! be built on the same one (glibc). LMDB holds the lock with POSIX record locks, which a process
//! loses when it closes *any* descriptor of the file: nothing else in the process may open the
//! lock file while a [`LiveLedger`] exists.
//!
//! LMDB identifies a reader by its process number. Its entry has to be cleared when the process dies in
//! mid-copy: a node never looks for such entries, and while one is there it re-uses no page that was freed
//! since ([`LiveLedger::clear_dead_readers`]). Two processes with one number, which only two PID namespaces
//! can have, cannot both read ([`CopyError::ProcessNumberTaken`]).

pub(crate) mod error;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use heed::{CompactionOption, Env, MdbError, RoTxn, WithoutTls};
use rustix::fs::{Access, AtFlags, CWD};
use rustix::io::Errno;

use crate::live::error::{CopyError, OpenError};
use crate::lmdb::env;
use crate::lmdb::error::LedgerError;
use crate::lmdb::file::LedgerFile;

/// A node's ledger, opened for reading beside the running node under its lock file.
///
/// Dropping it gives the lock back. Between copies it holds no read transaction, so it may live as
/// long as its owner likes without making the node's file grow.
#[derive(Debug)]
pub struct LiveLedger {
    env: Env<WithoutTls>,
    path: PathBuf,
}

impl LiveLedger {
    /// Opens the ledger at `path`, whether a node is running on it or not.
    ///
    /// A missing lock file (no node ever ran on this file) is created with the owner and mode of
    /// the ledger, so that a node can use it afterwards.
    ///
    /// # Errors
    ///
    /// Every way this fails has its own variant of [`OpenError`] with what to do about it.
    pub fn open(path: &Path) -> Result<Self, OpenError> {
        let ledger = fs::symlink_metadata(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => OpenError::NotFound {
                path: path.to_owned(),
            },
            _ => OpenError::NotReadable {
                path: path.to_owned(),
                source,
            },
        })?;
        // LMDB's lock file lies beside the name the node opens. heed resolves names first and would
        // use a lock file beside the target, which no node looks at.
        if ledger.is_symlink() {
            return Err(OpenError::Symlink {
                path: path.to_owned(),
            });
        }
        LedgerFile::open(path).map_err(|error| match error {
            LedgerError::Open { path, source } | LedgerError::Read { path, source, .. } => {
                OpenError::NotReadable { path, source }
            }
            source => OpenError::NotALedger {
                source: Box::new(source),
            },
        })?;
        let lock = lock_path(path);
        prepare_lock(&lock, &ledger)?;
        let env = env::open_for_reading(path).map_err(|source| match source {
            heed::Error::Mdb(MdbError::VersionMismatch) => OpenError::LockVersion { lock, source },
            heed::Error::EnvAlreadyOpened => OpenError::AlreadyOpen {
                path: path.to_owned(),
            },
            source => OpenError::Lmdb {
                path: path.to_owned(),
                source,
            },
        })?;
        Ok(Self {
            env,
            path: path.to_owned(),
        })
    }

    /// The ledger's path, as given to [`open`](Self::open).
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes the entries of dead processes from the table of readers in the lock file, and returns how
    /// many there were. Entries with this process's own number are left alone.
    ///
    /// # Errors
    ///
    /// [`OpenError::Lmdb`] when the table cannot be locked.
    pub fn clear_dead_readers(&self) -> Result<usize, OpenError> {
        self.env
            .clear_stale_readers()
            .map_err(|source| OpenError::Lmdb {
                path: self.path.clone(),
                source,
            })
    }

    /// Begins a read transaction, which takes a slot in the table of readers.
    pub(crate) fn reader(&self) -> Result<RoTxn<'_, WithoutTls>, CopyError> {
        self.env.read_txn().map_err(|error| match error {
            heed::Error::Mdb(MdbError::MapResized) => CopyError::Grown,
            heed::Error::Mdb(MdbError::ReadersFull) => CopyError::ReadersFull,
            // LMDB locks the byte of the lock file whose offset is the process number.
            heed::Error::Io(source)
                if [Errno::AGAIN, Errno::ACCESS]
                    .map(|errno| Some(errno.raw_os_error()))
                    .contains(&source.raw_os_error()) =>
            {
                CopyError::ProcessNumberTaken {
                    lock: lock_path(&self.path),
                    number: std::process::id(),
                    source,
                }
            }
            source => CopyError::Lmdb { source },
        })
    }

    /// Registers this process as a reader in the lock file. Copies do so too; call this to find out beforehand whether
    /// that works.
    ///
    /// # Errors
    ///
    /// [`CopyError::ProcessNumberTaken`] beside a process with the same number in another PID namespace,
    /// [`CopyError::ReadersFull`], [`CopyError::Grown`] and [`CopyError::Lmdb`].
    pub fn register(&self) -> Result<(), CopyError> {
        self.reader().map(drop)
    }

    /// Returns the length in bytes of a copy made now. A later copy may be longer.
    ///
    /// # Errors
    ///
    /// [`LedgerError`] when the meta pages cannot be read.
    pub fn size_hint(&self) -> Result<u64, LedgerError> {
        let file = LedgerFile::open(&self.path)?;
        Ok(file.meta().used_len().min(file.file_len()))
    }

    /// Writes a consistent, uncompacted copy to `out`, from its current position on.
    ///
    /// `out` may be the writing end of a pipe, so that another thread hashes or stores the bytes
    /// while they are copied. The pipe must be empty: the node cannot commit until the first two
    /// pages are written. The call blocks until all is written, and returns early with [`CopyError::ReaderGone`] once
    /// the reading end is closed, which is how to cancel a copy. `out` must not be non-blocking.
    /// (`SIGPIPE` must be ignored, which is the default of Rust programs.)
    ///
    /// # Errors
    ///
    /// [`CopyError`]; the data written by then is not a valid ledger.
    pub fn copy_to(&self, out: &mut File) -> Result<(), CopyError> {
        // Its errors must not be mistaken for write errors.
        self.register()?;
        self.env
            .copy_to_file(out, CompactionOption::Disabled)
            .map_err(|error| match error {
                heed::Error::Io(source) => CopyError::from_write(source),
                heed::Error::Mdb(MdbError::MapResized) => CopyError::Grown,
                heed::Error::Mdb(MdbError::ReadersFull) => CopyError::ReadersFull,
                source => CopyError::Lmdb { source },
            })
    }
}

/// Removes the entries of dead processes from the lock file of the ledger at `path`, and returns how many
/// there were. A ledger without a lock file has none, and none is created.
///
/// # Errors
///
/// [`OpenError`], as [`LiveLedger::open`] and [`LiveLedger::clear_dead_readers`].
pub fn clear_dead_readers(path: &Path) -> Result<usize, OpenError> {
    if path.exists() && !lock_path(path).exists() {
        return Ok(0);
    }
    LiveLedger::open(path)?.clear_dead_readers()
}

/// Copies a ledger that is not written to, byte for byte, including everything after the last page in use.
/// Returns the number of bytes.
///
/// It takes no lock and needs only to read the file, so it also serves ledgers on read-only media
/// and atomic file system snapshots. A writer is not blocked but detected: the file's length,
/// modification time and both meta pages must be the same before and after. The copy is a consistent ledger even if an
/// uncommitted transaction of a writer was not detected, since LMDB never writes to a page of the committed state.
///
/// # Errors
///
/// [`CopyError::Changed`] when the ledger was written to meanwhile, else the failure to read or write; what
/// was written by then is not a valid ledger.
pub fn copy_exact(path: &Path, out: &mut File) -> Result<u64, CopyError> {
    let read = |source| CopyError::Read {
        path: path.to_owned(),
        source,
    };
    let ledger = LedgerFile::open(path).map_err(|source| CopyError::Source { source })?;
    let file = File::open(path).map_err(read)?;
    // A write within the clock's granularity of the last one would not show in the time.
    let modified = file
        .metadata()
        .and_then(|metadata| metadata.modified())
        .map_err(read)?;
    if let Ok(age) = SystemTime::now().duration_since(modified) {
        std::thread::sleep(CLOCK_GRANULARITY.saturating_sub(age));
    }
    let metas = 2 * ledger.meta().page_size() as usize;
    let before = FileStamp::take(&file, metas).map_err(read)?;
    // Advice only.
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
    let mut buffer = vec![0; BUFFER];
    let mut at = 0;
    while at < before.len {
        let len = BUFFER.min(usize::try_from(before.len - at).unwrap_or(BUFFER));
        let Some(chunk) = buffer.get_mut(..len) else {
            break;
        };
        file.read_exact_at(chunk, at).map_err(read)?;
        out.write_all(chunk).map_err(CopyError::from_write)?;
        at += len as u64;
    }
    if FileStamp::take(&file, metas).map_err(read)? == before {
        Ok(before.len)
    } else {
        Err(CopyError::Changed {
            path: path.to_owned(),
        })
    }
}

/// Coarser than the clock that file times are taken from, on every kernel configuration.
const CLOCK_GRANULARITY: Duration = Duration::from_millis(50);
/// Bytes read and written at a time.
const BUFFER: usize = 1 << 20;

/// Identifies a state of a ledger file: it changes with every write.
#[derive(PartialEq, Eq)]
struct FileStamp {
    len: u64,
    modified: (i64, i64),
    inode: u64,
    metas: Vec<u8>,
}

impl FileStamp {
    fn take(file: &File, metas: usize) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let mut pages = vec![0; metas];
        file.read_exact_at(&mut pages, 0)?;
        Ok(Self {
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            inode: metadata.ino(),
            metas: pages,
        })
    }
}

/// The lock file LMDB keeps beside a ledger.
fn lock_path(path: &Path) -> PathBuf {
    let mut lock = path.as_os_str().to_owned();
    lock.push("-lock");
    lock.into()
}

/// Checks that LMDB can use its lock file and creates it if it is missing. Its errors are more precise than LMDB's.
fn prepare_lock(lock: &Path, ledger: &fs::Metadata) -> Result<(), OpenError> {
    // Before the environment is opened: closing this descriptor later would drop its locks.
    let created = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(ledger.mode() & 0o666)
        .open(lock)
        .and_then(|file| {
            let made = file.metadata()?;
            if (made.uid(), made.gid()) != (ledger.uid(), ledger.gid()) {
                std::os::unix::fs::fchown(&file, Some(ledger.uid()), Some(ledger.gid()))
                    .inspect_err(|_| {
                        // Left behind, it would lock the node out of its own ledger.
                        let _ = fs::remove_file(lock);
                    })?;
            }
            Ok(())
        });
    match created {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(source) if !lock.exists() => {
            return Err(OpenError::LockMissing {
                lock: lock.to_owned(),
                source,
            });
        }
        // On a read-only file system creating fails so even for a file that exists.
        Err(_) => {}
    }
    // Asked by name, without opening it. LMDB would go without a lock on a read-only file system,
    // which may be a read-only view of one a node writes to.
    rustix::fs::accessat(
        CWD,
        lock,
        Access::READ_OK | Access::WRITE_OK,
        AtFlags::EACCESS,
    )
    .map_err(|errno| match errno {
        Errno::ROFS => OpenError::LockReadOnly {
            lock: lock.to_owned(),
        },
        errno => OpenError::LockNotWritable {
            lock: lock.to_owned(),
            source: errno.into(),
        },
    })
}
