//! The failed operations on a data directory, and the two questions that callers ask about any failure.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::path::PathBuf;

use bittorrent_protocol::InfoHashV2;
use bittorrent_protocol::metainfo::MetainfoError;
use bittorrent_store::StoreError;
use file_kit::FileError;
use file_kit::json_file::JsonFileError;
use rustix::io::Errno;

use crate::space::Shortage;

pub(crate) type Result<T> = std::result::Result<T, SnapshotStoreError>;

/// An operation on a data directory that failed.
#[derive(Debug, thiserror::Error)]
#[allow(
    missing_docs,
    reason = "each field is the path or the snapshot of the variant, or its cause"
)]
pub enum SnapshotStoreError {
    /// No data directory was named, and there is no default.
    #[error("there is no data directory: HOME is not set; name one with --data-dir")]
    NoDataDir,
    /// The path of the data directory cannot be made absolute.
    #[error("--data-dir {} is not a path", path.display())]
    NotAPath { path: PathBuf, source: io::Error },
    /// The data directory, or one of its parts, could not be created.
    #[error("cannot create {}; name another data directory with --data-dir", path.display())]
    CreateDataDir { path: PathBuf, source: io::Error },
    /// A directory without `snapshots/` was named.
    #[error("{} is not a data directory: it has no snapshots/; name the right one with --data-dir", path.display())]
    NotADataDir { path: PathBuf },
    /// Another mirror has the data directory.
    #[error("a mirror is already running in {}: stop it, or name another directory with --data-dir", path.display())]
    MirrorRuns { path: PathBuf },
    /// A directory could not be created.
    #[error("cannot create {}", path.display())]
    CreateDir { path: PathBuf, source: io::Error },
    /// A content file that was missing could not be created.
    #[error("cannot create {}", path.display())]
    CreateFile { path: PathBuf, source: io::Error },
    /// A directory could not be listed.
    #[error("cannot list {}", path.display())]
    List { path: PathBuf, source: io::Error },
    /// A lock file, or a directory to be locked, could not be opened.
    #[error("cannot open {}", path.display())]
    OpenLock { path: PathBuf, source: io::Error },
    /// A lock could not be taken.
    #[error("cannot lock {}", path.display())]
    Lock { path: PathBuf, source: io::Error },
    /// The lock of a directory could not be changed from exclusive to shared.
    #[error("cannot share the lock of a directory")]
    ShareLock { source: io::Error },
    /// A new directory in `incoming/` is locked by another process.
    #[error("{} is locked by another process", path.display())]
    BuildLocked { path: PathBuf },
    /// A link in `current/` could not be read.
    #[error("cannot read {}", path.display())]
    ReadCurrent { path: PathBuf, source: io::Error },
    /// A link in `current/` could not be created.
    #[error("cannot create the link {}", path.display())]
    CreateLink { path: PathBuf, source: io::Error },
    /// The torrent of a snapshot could not be read.
    #[error("cannot read {}", path.display())]
    ReadTorrent { path: PathBuf, source: io::Error },
    /// The torrent of a snapshot cannot be parsed.
    #[error("{} is damaged", path.display())]
    ParseTorrent {
        path: PathBuf,
        source: Box<MetainfoError>,
    },
    /// The torrent of a snapshot has another info-hash than its directory is named for.
    #[error("{} is damaged: its info-hash is {found}, not {expected}", path.display())]
    OtherTorrent {
        path: PathBuf,
        expected: InfoHashV2,
        found: InfoHashV2,
    },
    /// A part of a snapshot's directory is, for example, a link instead of a file.
    #[error("{} is damaged: it is neither missing nor the kind of file it must be", path.display())]
    WrongKind { path: PathBuf },
    /// The content of a snapshot could not be opened.
    #[error("cannot open the snapshot in {}", path.display())]
    OpenContent {
        path: PathBuf,
        source: Box<StoreError>,
    },
    /// The archive of a snapshot is being discarded.
    #[error(
        "the archive in {0} is partly discarded: finish with --once --extract --discard-archive, or remove {0} to \
         fetch it again",
        path.display()
    )]
    PartlyDiscarded { path: PathBuf },
    /// The repair of a damaged snapshot failed.
    #[error("cannot repair the snapshot ({why})")]
    Repair {
        /// Why the snapshot had to be repaired.
        why: String,
        source: Box<SnapshotStoreError>,
    },
    /// A snapshot that was named is not in the store.
    #[error("snapshot {id} is not in {}", path.display())]
    NotStored { id: InfoHashV2, path: PathBuf },
    /// No snapshot begins with the digits that were given.
    #[error("no snapshot in {} begins with {prefix:?}; status lists them", path.display())]
    NoMatch { prefix: String, path: PathBuf },
    /// Several snapshots begin with the digits that were given.
    #[error("{prefix:?} may mean {one} or {other}: give more of the hash")]
    Ambiguous {
        prefix: String,
        one: InfoHashV2,
        other: InfoHashV2,
    },
    /// There is not enough free space.
    #[error(transparent)]
    Shortage(#[from] Shortage),
    /// A file could not be written, renamed, removed or synced.
    #[error(transparent)]
    File(#[from] FileError),
    /// A record could not be written.
    #[error(transparent)]
    Record(#[from] JsonFileError),
}

/// Iterates over an error and its causes.
fn causes<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> + 'a {
    fn source<'a>(cause: &&'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
        (*cause).source()
    }
    std::iter::successors(Some(error), source)
}

/// Formats an error and its causes in one line.
pub(crate) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let texts: Vec<String> = causes(error).map(ToString::to_string).collect();
    texts.join(": ")
}

fn errno_of(cause: &(dyn Error + 'static)) -> Option<Errno> {
    let of_io = cause.downcast_ref().and_then(Errno::from_io_error);
    of_io.or_else(|| cause.downcast_ref::<Errno>().copied())
}

/// Returns the shortage that an error was caused by, if free space was missing before anything was written.
pub fn shortage_of<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Shortage> {
    causes(error).find_map(|cause| match cause.downcast_ref() {
        Some(SnapshotStoreError::Shortage(shortage)) => Some(shortage),
        _ => cause.downcast_ref::<Shortage>(),
    })
}

/// Returns whether an operation failed because the file system or a quota is full, or would have become full. Free
/// space is the remedy.
pub fn is_out_of_space(error: &(dyn Error + 'static)) -> bool {
    shortage_of(error).is_some()
        || causes(error).any(|cause| {
            let of_io = cause.downcast_ref::<io::Error>();
            of_io.is_some_and(|error| {
                matches!(
                    error.kind(),
                    ErrorKind::StorageFull | ErrorKind::QuotaExceeded
                )
            }) || matches!(errno_of(cause), Some(Errno::NOSPC | Errno::DQUOT))
        })
}

/// Returns whether an error is about the machine at this moment and not about the snapshot: no free space,
/// descriptors or memory, or a file system that became read-only. Trying again later is the remedy.
pub fn is_temporary(error: &(dyn Error + 'static)) -> bool {
    is_out_of_space(error)
        || causes(error).any(|cause| {
            matches!(
                errno_of(cause),
                Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN | Errno::ROFS)
            )
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot continue")]
    struct Outer<E: Error + 'static>(#[source] E);

    fn io(errno: Errno) -> FileError {
        FileError::Write {
            path: "/data/file".into(),
            source: errno.into(),
        }
    }

    fn shortage() -> Shortage {
        Shortage {
            purpose: "the snapshot",
            needed: 1,
            reserve: 2,
            free: 0,
            dir: "/data".into(),
        }
    }

    #[test]
    fn a_full_disk_is_recognised_through_all_causes() {
        for errno in [Errno::NOSPC, Errno::DQUOT] {
            assert!(is_out_of_space(&io(errno)));
            assert!(is_out_of_space(&Outer(SnapshotStoreError::File(io(errno)))));
        }
        assert!(is_out_of_space(&Outer(Errno::NOSPC)));
        assert!(is_out_of_space(&Outer(shortage())));
        let error = Outer(SnapshotStoreError::from(shortage()));
        assert!(is_out_of_space(&error) && is_temporary(&error));
        assert_eq!(shortage_of(&error), Some(&shortage()));
        assert!(!is_out_of_space(&Outer(io(Errno::ACCESS))));
    }

    #[test]
    fn missing_descriptors_are_temporary_and_damage_is_not() {
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::ROFS] {
            let error = SnapshotStoreError::File(io(errno));
            assert!(is_temporary(&error) && !is_out_of_space(&error), "{errno}");
        }
        assert!(!is_temporary(&SnapshotStoreError::File(io(Errno::ACCESS))));
        assert!(!is_temporary(&SnapshotStoreError::WrongKind {
            path: "/data".into()
        }));
    }

    #[test]
    fn causes_are_formatted_in_one_line() {
        let error = SnapshotStoreError::ReadCurrent {
            path: "/data/current/daily".into(),
            source: Errno::ACCESS.into(),
        };
        let text = with_causes(&error);
        assert!(
            text.starts_with("cannot read /data/current/daily: "),
            "{text}"
        );
    }
}
