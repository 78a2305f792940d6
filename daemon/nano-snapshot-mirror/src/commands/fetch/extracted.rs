//! The ledger at `data.ldb` in the data directory: which snapshot it is, and how it gets there.

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

/// `extracted.json`: which snapshot `data.ldb` was when it was put there, so that the same is not
/// fetched again, and a ledger that a node wrote to is not taken for one that can be fetched again. It is
/// written before the ledger gets its name, by which its inode does not change.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Extracted {
    #[serde(flatten)]
    newest: Record,
    /// The one that it replaces: it may still be there, if the run was interrupted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replaces: Option<Record>,
}

/// One ledger that was extracted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    snapshot: String,
    length: u64,
    inode: u64,
    /// Nanoseconds since 1970, as text: a node that opens the file changes it.
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

    /// Whether this is about a file.
    fn is_of(&self, metadata: &Metadata) -> bool {
        Self::of(self.snapshot.clone(), metadata) == *self
    }
}

/// Where a new ledger is before it gets its name.
pub(super) enum New {
    /// A copy or a reflink.
    Copy(Temporary, Method),
    /// What came out of an archive.
    Archived(Box<Archived>),
    /// The content of a snapshot that is leaving the store.
    Content(PathBuf),
}

impl Extracted {
    fn load(data: &DataDir) -> Option<Self> {
        json_file::read_or_default(&data.extracted())
    }

    /// Whether `data.ldb` is this snapshot, untouched since it was put there.
    pub(super) fn is_current(data: &DataDir, id: InfoHashV2) -> bool {
        let there = data.ledger().metadata();
        Self::load(data)
            .zip(there.ok())
            .is_some_and(|(noted, there)| {
                noted.newest.snapshot == id.to_string() && noted.newest.is_of(&there)
            })
    }

    /// Gives a new ledger, which is snapshot `id`, its name in `place`, and what that of the ledger there
    /// was to the backup, unless that is an untouched snapshot.
    ///
    /// # Errors
    ///
    /// When the ledger there is of another network, or newer without `allow_older`; and when files cannot be
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
                // The archive cannot be extracted again: the ledger waits for a run with --allow-older.
                New::Archived(archived) if !Mark::Discarded.is_set(&data.snapshot(id)) => {
                    archived.remove()?;
                }
                _ => {}
            }
            return Err(error);
        }
        let file = open_alone(&path)?;
        match &new {
            // Content that may be written counts as unfinished: the mode changes when it has left.
            New::Content(_) => place.hand_over_owner(&file, &path)?,
            _ => place.hand_over(&file, &path)?,
        }
        let metadata = file
            .metadata()
            .with_context(|| format!("cannot look at {}", path.display()))?;
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
        info!(snapshot = %id, ?method, "ledger at {}", place.ledger().display());
        if is_backed_up {
            info!(
                "the ledger that was there is {}: go back with `nano-snapshot-mirror install --to {} \
                 --rollback`",
                place.backup().display(),
                data.root().display()
            );
        }
        Self::complete(place)
    }

    /// What is left to do once the ledger has its name, after an interruption too.
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
