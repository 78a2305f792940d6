//! The ledger `data.ldb` in the data directory: which snapshot it is, and how it is replaced.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use bittorrent_protocol::InfoHashV2;
use file_kit::Temporary;
use file_kit::json_file;
use ledger_archive::Extracted as Archived;
use serde::{Deserialize, Serialize};
use snapshot_store::{DataDir, Mark};
use tracing::info;

use crate::commands::install::place::{LedgerPlace, Old, open_alone};
use crate::ledger::extract::{self, Method};
use crate::ledger::policy::refuse_replacement;
use crate::ledger::unpack;

/// `extracted.json`: the snapshot that was extracted to `data.ldb`. It serves two purposes: the same snapshot is not
/// fetched again, and a ledger that a node wrote to is not deleted as if it could be fetched again. It is written
/// before the rename to `data.ldb`, which keeps the inode number.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Extracted {
    #[serde(flatten)]
    newest: Record,
    /// The record of the replaced ledger. After an interruption that ledger may still be in place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replaces: Option<Record>,
}

/// The record of one extracted ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    snapshot: String,
    length: u64,
    inode: u64,
    /// The modification time in nanoseconds since 1970, as text. A node that opens the file changes it.
    modified: String,
}

impl Record {
    fn of(snapshot: String, metadata: &Metadata) -> Self {
        Self {
            snapshot,
            length: metadata.len(),
            inode: metadata.ino(),
            modified: format!("{}.{:09}", metadata.mtime(), metadata.mtime_nsec()),
        }
    }

    /// Returns whether this record describes the file with this metadata.
    fn is_of(&self, metadata: &Metadata) -> bool {
        Self::of(self.snapshot.clone(), metadata) == *self
    }
}

/// The new ledger before it is renamed to `data.ldb`.
pub(super) enum New {
    /// A copy or a reflink.
    Copy(Temporary, Method),
    /// A ledger extracted from an archive.
    Archived(Box<Archived>),
    /// The content of a snapshot that is about to be moved out of the store.
    Content(PathBuf),
}

impl Extracted {
    fn load(data: &DataDir) -> Option<Self> {
        json_file::read_or_default(&data.extracted())
    }

    /// Returns whether `data.ldb` is this snapshot and unmodified.
    pub(super) fn is_current(data: &DataDir, id: InfoHashV2) -> bool {
        let there = data.ledger().metadata();
        Self::load(data)
            .zip(there.ok())
            .is_some_and(|(noted, there)| {
                noted.newest.snapshot == id.to_string() && noted.newest.is_of(&there)
            })
    }

    /// Installs the new ledger of snapshot `id` at `place`. The old ledger becomes the backup, unless it is an
    /// unmodified snapshot.
    ///
    /// # Errors
    ///
    /// When the installed ledger is of another network, or is newer without `allow_older`. When files cannot be
    /// written or renamed.
    pub(super) fn put(
        data: &DataDir,
        place: &LedgerPlace,
        id: InfoHashV2,
        new: New,
        allow_older: bool,
    ) -> Result<()> {
        let (path, method) = match &new {
            New::Copy(temporary, method) => (temporary.path().to_owned(), *method),
            New::Archived(archived) => (archived.path(), Method::Unpacked),
            New::Content(path) => (path.clone(), Method::Move),
        };
        if let Err(error) = refuse_replacement(place.ledger(), &path, allow_older) {
            match new {
                // The archive is gone, so the extracted ledger is kept for a run with --allow-older.
                New::Archived(archived) if !Mark::Discarded.is_set(&data.snapshot(id)) => {
                    archived.remove()?;
                }
                _ => {}
            }
            return Err(error);
        }
        let file = open_alone(&path)?;
        match &new {
            // Writable content counts as incomplete in the store, so its mode is changed after the move.
            New::Content(_) => place.hand_over_owner(&file, &path)?,
            _ => place.hand_over(&file, &path)?,
        }
        let metadata = file
            .metadata()
            .with_context(|| format!("cannot access {}", path.display()))?;
        let replaced = Self::load(data).zip(place.ledger().metadata().ok());
        let replaces = replaced.and_then(|(noted, there)| {
            [Some(noted.newest), noted.replaces]
                .into_iter()
                .flatten()
                .find(|record| record.is_of(&there))
        });
        let old = if replaces.is_some() {
            Old::Discard
        } else {
            Old::Backup
        };
        let is_backed_up = old == Old::Backup && place.ledger().exists();
        let noted = Self {
            newest: Record::of(id.to_string(), &metadata),
            replaces,
        };
        json_file::write(&data.extracted(), &noted)?;
        place.replace(old, |ledger| match new {
            New::Copy(temporary, _) => Ok(temporary.put(ledger)?),
            New::Archived(archived) => {
                unpack::tell(id, &archived.install()?);
                Ok(())
            }
            New::Content(path) => fs::rename(&path, ledger)
                .with_context(|| format!("cannot move {} to {}", path.display(), ledger.display())),
        })?;
        info!(snapshot = %id, ?method, "extracted the ledger to {}", place.ledger().display());
        if is_backed_up {
            info!(
                "the old ledger is now {}: go back with `nano-snapshot-mirror install --to {} \
                 --rollback`",
                place.backup().display(),
                data.root().display()
            );
        }
        Self::complete(place)
    }

    /// Does the rest of the work after the ledger was renamed, also after an interruption.
    pub(super) fn complete(place: &LedgerPlace) -> Result<()> {
        let ledger = place.ledger();
        if ledger
            .metadata()
            .is_ok_and(|there| there.mode() & 0o200 == 0)
        {
            place.hand_over_mode(&extract::open(ledger)?, ledger)?;
        }
        place.clear_extraction();
        Ok(())
    }
}
