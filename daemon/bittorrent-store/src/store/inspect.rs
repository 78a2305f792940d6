//! Reads what a directory claims without changing it, and checks that its files are unchanged.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use bittorrent_protocol::metainfo::Metainfo;
use bittorrent_protocol::{FileIndex, InfoHashV2};
use rustix::io::Errno;

use super::TorrentStore;
use super::open::{read_claims, read_torrent};
use crate::disk::io::{Identity, Io, OpenMode};
use crate::disk::paths::Paths;
use crate::error::{Operation, StoreError};
use crate::record::claims::ClaimsRecord;

/// What the directory of a generation claims to contain.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// The torrent.
    pub metainfo: Metainfo,
    /// Which part of it is there.
    pub condition: Condition,
}

/// Which part of a generation is there, according to its claims and the identities of its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// All blocks are claimed, and no file was changed since.
    Sealed,
    /// The content was not complete when the claims were written.
    Partial {
        /// The number of claimed blocks in unchanged files.
        claimed: u64,
    },
    /// The content was complete, and a file is missing or was changed since.
    Changed {
        /// The first such file.
        path: PathBuf,
    },
    /// The claims are missing or damaged.
    NoRecord,
}

/// Does the work of [`TorrentStore::inspect`].
pub(super) fn inspect(
    dir: &Path,
    expected: Option<InfoHashV2>,
    io: &dyn Io,
) -> Result<Inspection, StoreError> {
    let paths = Paths::new(dir);
    let metainfo = read_torrent(&paths, expected, io)?;
    let Some(record) = read_claims(&paths, &metainfo, io)? else {
        return Ok(Inspection {
            metainfo,
            condition: Condition::NoRecord,
        });
    };
    let info = metainfo.info().clone();
    let layout = info.layout();
    let mut claimed = 0;
    for (number, span) in (0..).zip(layout.files()) {
        let Some(file) = layout.file_index(number).filter(|_| span.length() > 0) else {
            continue;
        };
        let path = paths.file(&info, file);
        let was = record.identities.get(file.as_usize());
        let is = identity_of(io, &path)?;
        let same = is
            .zip(was)
            .is_some_and(|(is, was)| is_same(is, *was, span.length(), record.sealed));
        if record.sealed && !same {
            return Ok(Inspection {
                metainfo,
                condition: Condition::Changed { path },
            });
        }
        let per_piece = u64::from(layout.piece_length().blocks());
        if let Some(piece) = span.piece_indices().next().filter(|_| same) {
            let first = u64::from(piece.get()) * per_piece;
            let blocks = first..first + span.blocks();
            claimed += blocks.filter(|block| record.claims(*block)).count() as u64;
        }
    }
    let condition = if record.sealed {
        Condition::Sealed
    } else {
        Condition::Partial { claimed }
    };
    Ok(Inspection {
        metainfo,
        condition,
    })
}

/// Does the work of [`TorrentStore::check_files`].
pub(super) fn check_files(store: &TorrentStore, first: u32, most: u32) -> Result<u32, StoreError> {
    let layout = store.layout();
    let sealed = store.is_sealed();
    if first == 0 && sealed {
        check_record(store)?;
    }
    let last = first.saturating_add(most);
    for number in first..last {
        let Some(file) = layout.file_index(number) else {
            return Ok(0);
        };
        check_file(store, file, sealed)?;
    }
    Ok(last)
}

/// Checks that the claims on disk still say that the content is complete: another process that verified the same
/// directory may have revoked blocks.
fn check_record(store: &TorrentStore) -> Result<(), StoreError> {
    let record = ClaimsRecord::read(store.files.paths(), store.files.io())?;
    let agrees = record.is_some_and(|record| record.sealed);
    // This process may have revoked blocks meanwhile.
    if agrees || !store.is_sealed() {
        return Ok(());
    }
    Err(StoreError::Changed {
        path: store.files.paths().progress(),
    })
}

fn check_file(store: &TorrentStore, file: FileIndex, sealed: bool) -> Result<(), StoreError> {
    let length = store.layout().file(file).length();
    // Empty files, and files that were never opened, have no identity.
    let Some(was) = store.files.contents().identity(file) else {
        return Ok(());
    };
    let path = store.file_path(file);
    let is = identity_of(store.files.io(), &path)?;
    // Sealing a file meanwhile changed its time.
    let unchanged =
        store.is_sealed() != sealed || is.is_some_and(|is| is_same(is, was, length, sealed));
    if unchanged {
        Ok(())
    } else {
        Err(StoreError::Changed { path })
    }
}

/// Returns whether a file is unchanged. The time of a partial file changes with each block; the time of a
/// sealed file never does.
pub(super) fn is_same(is: Identity, was: Identity, length: u64, sealed: bool) -> bool {
    is.length == length && is.inode == was.inode && (!sealed || is.modified == was.modified)
}

/// Returns the identity of the file at a path; `None` if there is none, or something else than a file.
fn identity_of(io: &dyn Io, path: &Path) -> Result<Option<Identity>, StoreError> {
    match io
        .open(path, OpenMode::Read)
        .and_then(|file| file.identity())
    {
        Ok(identity) => Ok(Some(identity)),
        Err(error)
            if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
                || Errno::from_io_error(&error) == Some(Errno::LOOP) =>
        {
            Ok(None)
        }
        Err(error) => Err(StoreError::io(Operation::Inspect, path)(error)),
    }
}
