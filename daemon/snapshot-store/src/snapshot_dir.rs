//! The directory of one snapshot.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Display, Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bittorrent_protocol::bencode::Limits;
use bittorrent_protocol::metainfo::{Info, Metainfo};
use bittorrent_protocol::{BLOCK_LEN, InfoHashV2};
use bittorrent_store::{Condition, Inspection, Io, RealIo, StoreError, TorrentStore};
use file_kit::recorded_time::is_past;
use ledger_archive::LedgerFormat;
use tracing::{info, warn};

use crate::error::{Result, SnapshotStoreError};
use crate::layout;
use crate::ledger_file::ledger_file;
use crate::marks::Mark;
use crate::repair;
use crate::scrub_progress::ScrubProgress;

/// The path of a snapshot's directory, whether it exists or not, and the info-hash that it is named for.
///
/// What is read in the directory must be that snapshot: a `snapshot.torrent` with one wrong bit may still be a
/// torrent. Directories under construction, and copies that a person named, have another name and accept any torrent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotDir {
    id: Option<InfoHashV2>,
    path: PathBuf,
}

impl AsRef<Path> for SnapshotDir {
    fn as_ref(&self) -> &Path {
        &self.path
    }
}

impl SnapshotDir {
    /// The directory at a path.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        let name = path.file_name().and_then(|name| name.to_str());
        Self {
            id: name.and_then(|name| name.parse().ok()),
            path,
        }
    }

    /// Returns its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Displays its path.
    pub fn display(&self) -> Display<'_> {
        self.path.display()
    }

    /// Returns whether something is at its path.
    pub fn exists(&self) -> bool {
        self.path.symlink_metadata().is_ok()
    }

    /// Returns whether the directory has metadata, though it may be damaged. Before that there is nothing in it to
    /// lose.
    pub fn is_created(&self) -> bool {
        self.metadata_path().symlink_metadata().is_ok()
    }

    /// Returns the path of the .torrent file: info dictionary and piece layers.
    pub fn metadata_path(&self) -> PathBuf {
        self.path.join(layout::METADATA)
    }

    /// Returns the path of the only content file of a torrent of one file, or of the directory with all files.
    fn content_root(&self, info: &Info) -> PathBuf {
        let mut root = self.path.join(layout::CONTENT);
        if !info.is_single_file() {
            root.push(info.name());
        }
        root
    }

    /// Returns the file that is the ledger or its archive, and its format by its first bytes. A name that ends in
    /// `.ldb` decides without them: such a file has to be a ledger.
    ///
    /// Returns `None` for content that is mirrored without being understood.
    pub fn content(&self, info: &Info) -> Option<(LedgerFormat, PathBuf)> {
        let path = self.ledger_path(info)?;
        let name = ledger_file(info)?.last();
        let format = if name.is_some_and(|name| name.ends_with(".ldb")) {
            LedgerFormat::Plain
        } else {
            ledger_archive::detect(&path).ok()?
        };
        Some((format, path))
    }

    /// Returns the path of the ledger or its archive, whether the file exists or not.
    pub fn ledger_path(&self, info: &Info) -> Option<PathBuf> {
        let mut path = self.content_root(info);
        path.extend(ledger_file(info)?);
        Some(path)
    }

    /// Returns the path of the ledger, if the content is a plain ledger.
    pub fn plain_ledger(&self, info: &Info) -> Option<PathBuf> {
        match self.content(info)? {
            (LedgerFormat::Plain, path) => Some(path),
            _ => None,
        }
    }

    /// Returns the path of the content file, if the torrent has only one.
    pub fn only_file(&self, info: &Info) -> Option<PathBuf> {
        if !info.is_single_file() {
            return None;
        }
        // The components of a file's path are safe names by construction.
        let file = info.files().first()?.path().first()?;
        Some(self.content_root(info).join(file))
    }

    /// Returns the bytes that were verified at the last checkpoint, at most `length`. Returns `None` if there is no
    /// record of them, or the snapshot is whole.
    pub fn claimed_bytes(&self, length: u64) -> Option<u64> {
        let blocks = bittorrent_store::claimed_blocks(&self.path, &RealIo).ok()??;
        Some(blocks.saturating_mul(u64::from(BLOCK_LEN)).min(length))
    }

    /// Returns when the snapshot was added: its metadata is written once, at the beginning. A time in the future, from
    /// a clock that was wrong, counts as the oldest.
    pub fn added_at(&self) -> SystemTime {
        let metadata = self.metadata_path().metadata();
        metadata
            .and_then(|metadata| metadata.modified())
            .ok()
            .filter(|added| is_past(*added, SystemTime::now()))
            .unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// Reads the .torrent file: its bytes, and what they parse to.
    ///
    /// # Errors
    ///
    /// When the file cannot be read or parsed, or has another info-hash than the directory is named for.
    pub fn read_torrent(&self) -> Result<(Vec<u8>, Metainfo)> {
        let path = self.metadata_path();
        // However long the file is, no more than a torrent may have is read into memory.
        let most = Limits::TORRENT.max_len as u64 + 1;
        let mut raw = Vec::new();
        let read = File::open(&path).and_then(|file| file.take(most).read_to_end(&mut raw));
        if let Err(source) = read {
            return Err(SnapshotStoreError::ReadTorrent { path, source });
        }
        let metainfo = match Metainfo::parse(&raw, &Limits::TORRENT) {
            Ok(metainfo) => metainfo,
            Err(source) => {
                let source = Box::new(source);
                return Err(SnapshotStoreError::ParseTorrent { path, source });
            }
        };
        let found = metainfo.info().hashes().v2;
        if let Some(expected) = self.id.filter(|expected| *expected != found) {
            return Err(SnapshotStoreError::OtherTorrent {
                path,
                expected,
                found,
            });
        }
        Ok((raw, metainfo))
    }

    /// Reads the torrent.
    ///
    /// # Errors
    ///
    /// As [`Self::read_torrent`].
    pub fn read_metainfo(&self) -> Result<Metainfo> {
        Ok(self.read_torrent()?.1)
    }

    /// Reads the info dictionary of the torrent.
    ///
    /// # Errors
    ///
    /// As [`Self::read_torrent`].
    pub fn read_info(&self) -> Result<Info> {
        Ok(self.read_metainfo()?.info().as_ref().clone())
    }

    /// Reads what the directory claims to have. Nothing is written, and no content is read.
    ///
    /// # Errors
    ///
    /// When metadata or records are damaged or cannot be opened.
    pub fn inspect(&self) -> Result<Inspection> {
        repair::check_kinds(self)?;
        TorrentStore::inspect(&self.path, self.id, &RealIo).map_err(self.cannot_open())
    }

    /// Returns whether the snapshot is whole, or was whole before blocks of it were found damaged, a file was changed,
    /// or the record of progress was lost.
    ///
    /// # Errors
    ///
    /// As [`Self::inspect`].
    pub fn was_whole(&self) -> Result<bool> {
        let Inspection {
            metainfo,
            condition,
        } = self.inspect()?;
        let has_damage = || ScrubProgress::has_damage(self);
        Ok(match condition {
            Condition::Sealed | Condition::Changed { .. } => true,
            Condition::Partial { .. } => has_damage(),
            Condition::NoRecord => has_damage() || self.is_write_protected(metainfo.info()),
        })
    }

    /// Returns whether the content is write-protected, which is the last thing done to whole content. Only a hint:
    /// some file systems have no permissions.
    fn is_write_protected(&self, info: &Info) -> bool {
        let root = self.content_root(info);
        info.files()
            .iter()
            .filter(|file| file.length() > 0)
            .all(|file| {
                // The components of a file's path are safe names by construction.
                let mut path = root.clone();
                path.extend(file.path());
                path.metadata()
                    .is_ok_and(|metadata| metadata.permissions().mode() & 0o222 == 0)
            })
    }

    /// Opens the content if it is whole and sealed. Nothing is written.
    ///
    /// # Errors
    ///
    /// When metadata or records are damaged or cannot be opened.
    pub fn open_sealed(&self) -> Result<Option<TorrentStore>> {
        repair::check_kinds(self)?;
        TorrentStore::open_sealed_expecting(&self.path, self.id, Self::io())
            .map_err(self.cannot_open())
    }

    /// Opens the content, whole or in part. If the record of verified blocks was lost, sets [`Mark::Unread`].
    ///
    /// # Errors
    ///
    /// When metadata or records are damaged or cannot be opened, or the archive is being discarded.
    pub fn open(&self) -> Result<TorrentStore> {
        self.refuse_discarded()?;
        repair::check_kinds(self)?;
        let (store, recovery) = TorrentStore::open_expecting(&self.path, self.id, Self::io())
            .map_err(self.cannot_open())?;
        if recovery.claims_lost {
            warn!(
                dir = %self.display(),
                "the record of verified blocks is lost, or a file was changed: all content has to be read again"
            );
            Mark::Unread.set(self)?;
        } else if recovery.blocks_rehashed > 0 || recovery.blocks_dropped > 0 {
            info!(
                dir = %self.display(), rehashed = recovery.blocks_rehashed,
                dropped = recovery.blocks_dropped, "recovered blocks that were not yet durable"
            );
        }
        Ok(store)
    }

    /// Fails if the archive is being discarded.
    pub(crate) fn refuse_discarded(&self) -> Result<()> {
        if Mark::Discarded.is_set(self) {
            return Err(SnapshotStoreError::PartlyDiscarded {
                path: self.path.clone(),
            });
        }
        Ok(())
    }

    /// Returns the disk, as torrent stores use it.
    pub fn io() -> Arc<dyn Io> {
        Arc::new(RealIo)
    }

    fn cannot_open(&self) -> impl FnOnce(StoreError) -> SnapshotStoreError {
        let path = self.path.clone();
        |source| SnapshotStoreError::OpenContent {
            path,
            source: Box::new(source),
        }
    }
}
