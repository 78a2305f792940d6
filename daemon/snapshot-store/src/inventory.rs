//! The list of snapshots, as `status` and the control socket's `/snapshots` show it.

use bittorrent_protocol::InfoHashV2;
use bittorrent_store::Condition;
use file_kit::space::occupied;
use serde::Serialize;

use crate::data_dir::DataDir;
use crate::error::{Result, with_causes};
use crate::ledger_record::LedgerRecord;
use crate::marks::Mark;
use crate::snapshot_info::SnapshotInfo;

/// One snapshot of the store.
#[derive(Debug, Clone, Serialize)]
pub struct StoredSnapshot {
    /// Its info-hash.
    pub snapshot: String,
    /// How much of it can be used.
    pub state: StoredState,
    /// Why it is damaged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// A process uses it: seeds it, or downloads it.
    pub in_use: bool,
    /// It is kept until it is unpinned.
    pub pinned: bool,
    /// The name that its torrent has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Bytes of the content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// Bytes of a partial snapshot that were verified at the last checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verified: Option<u64>,
    /// Bytes that it occupies on disk. A partial snapshot may occupy bytes that are still to be written.
    pub on_disk: u64,
    /// What its producer claims about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<SnapshotInfo>,
    /// What verification found in its ledger.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ledger: Option<LedgerRecord>,
}

/// How much of a snapshot can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StoredState {
    /// All content is there and sealed.
    Whole,
    /// It is being downloaded, or an interrupted download left it.
    Partial,
    /// Its content failed verification.
    Refused,
    /// It cannot be opened, or it was whole and part of its content is damaged or missing. That part is downloaded
    /// again.
    Damaged,
}

/// Lists the snapshots of a data directory, sorted by info-hash.
///
/// # Errors
///
/// When `snapshots/` cannot be listed.
pub fn snapshots(data: &DataDir) -> Result<Vec<StoredSnapshot>> {
    let mut ids = data.snapshot_ids()?;
    ids.sort();
    Ok(ids
        .into_iter()
        .map(|id| StoredSnapshot::read(data, id))
        .collect())
}

impl StoredSnapshot {
    fn read(data: &DataDir, id: InfoHashV2) -> Self {
        let dir = data.snapshot(id);
        let info = dir.read_info().ok();
        let ledger = LedgerRecord::load(&dir);
        let is_refused = ledger.as_ref().is_some_and(|record| !record.is_sound());
        let (state, fault) = match dir.inspect().map(|found| found.condition) {
            // A download that has not received the metadata yet.
            Err(_) if dir.path().is_dir() && !dir.is_created() => (StoredState::Partial, None),
            Err(error) => (StoredState::Damaged, Some(with_causes(&error))),
            Ok(_) if is_refused => (StoredState::Refused, None),
            Ok(_) if Mark::Discarded.is_set(&dir) => (StoredState::Partial, None),
            Ok(Condition::Sealed) => (StoredState::Whole, None),
            Ok(Condition::Changed { path }) => {
                let fault = format!("{} is missing or was changed", path.display());
                (StoredState::Damaged, Some(fault))
            }
            Ok(Condition::Partial { .. } | Condition::NoRecord) => match dir.was_whole() {
                Ok(true) => {
                    let fault = "blocks are damaged or missing".to_owned();
                    (StoredState::Damaged, Some(fault))
                }
                _ => (StoredState::Partial, None),
            },
        };
        Self {
            snapshot: id.to_string(),
            state,
            fault,
            in_use: matches!(data.own_snapshot(id), Ok(None)),
            pinned: Mark::Pinned.is_set(&dir),
            name: info.as_ref().map(|info| info.name().to_owned()),
            length: info.as_ref().map(|info| info.layout().content_length()),
            verified: match (&info, state) {
                (Some(info), StoredState::Partial) => {
                    dir.claimed_bytes(info.layout().content_length())
                }
                _ => None,
            },
            on_disk: occupied(dir.path()),
            info: info.and_then(|info| SnapshotInfo::parse(info.snapshot()?)),
            ledger,
        }
    }

    /// Returns whether a process downloads it now.
    pub fn is_being_downloaded(&self) -> bool {
        self.state == StoredState::Partial && self.in_use
    }
}
