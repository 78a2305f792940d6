//! The failed operations on files.

use std::io;
use std::path::{Path, PathBuf};

/// An operation on a file or a directory that failed.
#[derive(Debug, thiserror::Error)]
#[allow(
    missing_docs,
    reason = "each field is the path of the variant, or its cause"
)]
pub enum FileError {
    /// A file could not be created.
    #[error("cannot create {}", path.display())]
    Create { path: PathBuf, source: io::Error },
    /// A file exists, or may exist, and could not be opened or read.
    #[error("cannot read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// A file is longer than its reader accepts.
    #[error("{} has more than {most} bytes", path.display())]
    TooLong { path: PathBuf, most: u64 },
    /// The new content of a file could not be written.
    #[error("cannot write {}", path.display())]
    Write { path: PathBuf, source: io::Error },
    /// A file or a directory could not be made durable.
    #[error("cannot sync {}", path.display())]
    Sync { path: PathBuf, source: io::Error },
    /// A file or a directory could not be renamed.
    #[error("cannot rename {} to {}", from.display(), to.display())]
    Rename {
        from: PathBuf,
        to: PathBuf,
        source: io::Error,
    },
    /// A file or a directory could not be removed.
    #[error("cannot remove {}", path.display())]
    Remove { path: PathBuf, source: io::Error },
    /// A temporary file could not be locked for this process.
    #[error("cannot lock {}", path.display())]
    Lock { path: PathBuf, source: io::Error },
    /// The file system of a directory could not be asked for its size.
    #[error("cannot inspect the file system of {}", path.display())]
    InspectFileSystem { path: PathBuf, source: io::Error },
}

impl FileError {
    /// Returns the error of the operating system, without the path.
    pub fn into_io(self) -> io::Error {
        match self {
            Self::TooLong { .. } => io::ErrorKind::FileTooLarge.into(),
            Self::Create { source, .. }
            | Self::Read { source, .. }
            | Self::Write { source, .. }
            | Self::Sync { source, .. }
            | Self::Rename { source, .. }
            | Self::Remove { source, .. }
            | Self::Lock { source, .. }
            | Self::InspectFileSystem { source, .. } => source,
        }
    }

    pub(crate) fn read(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        |source| Self::Read { path, source }
    }

    pub(crate) fn sync(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        |source| Self::Sync { path, source }
    }

    pub(crate) fn remove(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        |source| Self::Remove { path, source }
    }
}
