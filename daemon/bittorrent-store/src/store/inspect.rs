//! Finding out what a directory holds without changing it, and whether its files are still the same.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use bittorrent_protocol::metainfo::Metainfo;
use bittorrent_protocol::{FileIndex, InfoHashV2};
use rustix::io::Errno;

use super::TorrentStore;
use super::open::{read_progress, read_torrent};
use crate::error::StoreError;
use crate::io::{Identity, Io, OpenMode};
use crate::paths::Paths;
use crate::progress::Progress;

/// What a generation's directory claims to hold.
#[derive(Debug, Clone)]
pub struct Inspection {
    /// The torrent.
    pub metainfo: Metainfo,
    /// How much of it is there.
    pub condition: Condition,
}

/// How much of a generation is there, by its own record and by what its files look like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Every block is claimed, and no file was changed since.
    Sealed,
    /// The content was not complete when the record was written.
    Partial {
        /// Blocks that are claimed, in files that are still those they were claimed for.
        claimed: u64,
    },
    /// The content was complete, and a file is missing or is not the one that was complete.
    Changed {
        /// The first such file.
        path: PathBuf,
    },
    /// The record of progress is missing or damaged.
    NoRecord,
}

impl TorrentStore {
    /// Reads what a directory claims. Nothing is written and no content is read.
    ///
    /// # Errors
    ///
    /// When `snapshot.torrent` is missing, unreadable, damaged or not that of `expected`; when the
    /// record of progress or a content file cannot be opened although it exists.
    pub fn inspect(
        dir: &Path,
        expected: Option<InfoHashV2>,
        io: &dyn Io,
    ) -> Result<Inspection, StoreError> {
        let paths = Paths::new(dir);
        let metainfo = read_torrent(&paths, expected, io)?;
        let Some(progress) = read_progress(&paths, &metainfo, io)? else {
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
            let was = progress.identities.get(file.as_usize());
            let is = identity_of(io, &path)?;
            let same = is
                .zip(was)
                .is_some_and(|(is, was)| is_same(is, *was, span.length(), progress.sealed));
            if progress.sealed && !same {
                return Ok(Inspection {
                    metainfo,
                    condition: Condition::Changed { path },
                });
            }
            let per_piece = u64::from(layout.piece_length().blocks());
            if let Some(piece) = span.piece_indices().next().filter(|_| same) {
                let first = u64::from(piece.get()) * per_piece;
                let blocks = first..first + span.blocks();
                claimed += blocks.filter(|block| progress.claims(*block)).count() as u64;
            }
        }
        let condition = if progress.sealed {
            Condition::Sealed
        } else {
            Condition::Partial { claimed }
        };
        Ok(Inspection {
            metainfo,
            condition,
        })
    }

    /// Compares the content files as they lie in their directory with those that were taken up: at
    /// most `most` files from number `first` on. Returns the number to go on with; 0 after the last.
    /// No content is read. Changed bytes alone are noticed by the file's time, if it was not set back.
    ///
    /// # Errors
    ///
    /// [`StoreError::Changed`] when a file is missing, has another length, was replaced, or was
    /// written to by another program since the content was sealed, and when the record of progress no
    /// longer says that the content is complete.
    pub fn check_files(&self, first: u32, most: u32) -> Result<u32, StoreError> {
        let layout = self.layout();
        let sealed = self.is_sealed();
        if first == 0 && sealed {
            self.check_record()?;
        }
        let last = first.saturating_add(most);
        for number in first..last {
            let Some(file) = layout.file_index(number) else {
                return Ok(0);
            };
            self.check_file(file, sealed)?;
        }
        Ok(last)
    }

    /// Another process that verified the same directory may have taken blocks back.
    fn check_record(&self) -> Result<(), StoreError> {
        let record = Progress::read(&self.paths, &*self.io)?;
        let agrees = record.is_some_and(|record| record.sealed);
        // Blocks may have been taken back here meanwhile.
        if agrees || !self.is_sealed() {
            return Ok(());
        }
        Err(StoreError::Changed {
            path: self.paths.progress(),
        })
    }

    fn check_file(&self, file: FileIndex, sealed: bool) -> Result<(), StoreError> {
        let length = self.layout().file(file).length();
        // Empty files, and those that were never opened, have no identity.
        let Some(was) = self.contents.identity(file) else {
            return Ok(());
        };
        let path = self.file_path(file);
        let is = identity_of(&*self.io, &path)?;
        // Sealed meanwhile: the time is another one then.
        let unchanged =
            self.is_sealed() != sealed || is.is_some_and(|is| is_same(is, was, length, sealed));
        if unchanged {
            Ok(())
        } else {
            Err(StoreError::Changed { path })
        }
    }
}

/// Whether a file is the one it was. The time of a partial file changes with every block; that of a
/// sealed one never.
pub(super) fn is_same(is: Identity, was: Identity, length: u64, sealed: bool) -> bool {
    is.length == length && is.inode == was.inode && (!sealed || is.modified == was.modified)
}

/// The identity of what is at a path; `None` when there is no file, but nothing or something else.
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
        Err(error) => Err(StoreError::io("open", path)(error)),
    }
}
