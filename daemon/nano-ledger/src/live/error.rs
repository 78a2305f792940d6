//! Why a live ledger cannot be opened or copied.

use std::io;
use std::path::PathBuf;

use crate::lmdb::error::LedgerError;

/// Why a node's live ledger could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no such file.
    #[error("no ledger at {}; give the path of the node's data.ldb", path.display())]
    NotFound {
        /// The path given.
        path: PathBuf,
    },
    /// The ledger cannot be read: permission to read it or to enter a directory above is missing.
    #[error("cannot read the ledger {}; give this user read permission on it", path.display())]
    NotReadable {
        /// The ledger.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The path is a symbolic link, so that the node's lock file is not beside the ledger.
    #[error(
        "{} is a symbolic link: a node using that name and one using the file itself would \
         not see each other's locks; give the node and this program the file's own path",
        path.display()
    )]
    Symlink {
        /// The path given.
        path: PathBuf,
    },
    /// The file is no ledger.
    #[error("there is no ledger to copy")]
    NotALedger {
        /// What it is instead.
        #[source]
        source: Box<LedgerError>,
    },
    /// There is no lock file, and none can be created that the node could use afterwards.
    #[error(
        "there is no lock file {} and it cannot be created for the ledger's owner; \
         start the node once, or run this as the ledger's owner",
        lock.display()
    )]
    LockMissing {
        /// The lock file.
        lock: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The lock file cannot be opened for writing, without which the node would not know of the copy.
    #[error("cannot write to the lock file {}; give this user write permission on it \
             (the ledger itself need only be readable)", lock.display())]
    LockNotWritable {
        /// The lock file.
        lock: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The lock file lies on a file system that is mounted or bound read-only.
    #[error("the lock file {} is on a read-only file system; make it writable for this process \
             (systemd: ReadWritePaths=)", lock.display())]
    LockReadOnly {
        /// The lock file.
        lock: PathBuf,
    },
    /// The process that uses the ledger has another lock format than LMDB 0.9.70.
    #[error("the running node's LMDB locks {} in another format than this program's (0.9.70); \
             stop the node for the copy, or use a version of this program made for that node",
             lock.display())]
    LockVersion {
        /// The lock file.
        lock: PathBuf,
        /// LMDB's answer.
        #[source]
        source: heed::Error,
    },
    /// This process has it open already; twice would break the lock.
    #[error("{} is already open in this process", path.display())]
    AlreadyOpen {
        /// The ledger.
        path: PathBuf,
    },
    /// LMDB failed otherwise.
    #[error("LMDB cannot open {}", path.display())]
    Lmdb {
        /// The ledger.
        path: PathBuf,
        /// Its answer.
        #[source]
        source: heed::Error,
    },
}

/// Why copying a ledger failed.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The reading end of the pipe was closed.
    #[error("the reader of the copy went away")]
    ReaderGone,
    /// The copy could not be written, such as for lack of space.
    #[error("cannot write the copy")]
    Write {
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The ledger could not be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The ledger.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The source is no ledger.
    #[error("there is no ledger to copy")]
    Source {
        /// What it is instead.
        #[source]
        source: LedgerError,
    },
    /// The ledger was written to during an exact copy.
    #[error("{} changed while it was copied; stop the node for an exact copy", path.display())]
    Changed {
        /// The ledger.
        path: PathBuf,
    },
    /// The ledger is not in the state any more that a copy was begun of.
    #[error("{} changed since the copy of it was begun", path.display())]
    MovedOn {
        /// The ledger.
        path: PathBuf,
    },
    /// The node enlarged its memory map after the ledger was opened: open it again.
    #[error("the ledger outgrew the memory map it was opened with; open it again")]
    Grown,
    /// All reader slots of the lock file are taken.
    #[error("all reader slots of the ledger are taken")]
    ReadersFull,
    /// Another process reads the ledger under the number this process has. Only processes of different PID
    /// namespaces have the same number.
    #[error(
        "cannot read the ledger beside the node: {} has a reader with process number {number} already, \
         which is this process's number too; they are in different PID namespaces (containers): run this \
         program in the PID namespace of the node (Podman, Docker: --pid container:NODE; Kubernetes: \
         shareProcessNamespace)",
        lock.display()
    )]
    ProcessNumberTaken {
        /// The lock file.
        lock: PathBuf,
        /// The number both processes have, each in its PID namespace.
        number: u32,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// LMDB failed otherwise.
    #[error("LMDB cannot copy the ledger")]
    Lmdb {
        /// Its answer.
        #[source]
        source: heed::Error,
    },
}

impl CopyError {
    pub(crate) fn from_write(source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::BrokenPipe => Self::ReaderGone,
            _ => Self::Write { source },
        }
    }
}
