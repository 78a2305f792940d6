//! `ledger.json`: what verification found in the ledger of a snapshot.

use std::time::SystemTime;

use file_kit::json_file;
use file_kit::recorded_time::unix_seconds;
use nano_ledger::{LedgerPosition, LedgerSummary, Level};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::layout;
use crate::snapshot_dir::SnapshotDir;

/// The version of this program.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The revision of what verification checks and records. A sound record of an earlier revision is ignored: the first
/// did not record that level L3 of a pruned ledger is L2, and checked less.
const REVISION: u32 = 1;

/// How the fault of an archive that cannot be extracted begins.
pub const ARCHIVE_FAULT: &str = "archive: ";

/// What verification found. It records facts about the file only: the policy, which may change, decides what follows
/// from them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerRecord {
    /// When the ledger was verified, in seconds since 1970.
    pub checked_at: u64,
    /// The level that was reached: `L0` to `L3`.
    pub level: String,
    /// The version of the program that verified it; empty in records of earlier versions.
    #[serde(default)]
    pub by: String,
    /// The revision of the checks; 0 in records of earlier versions.
    #[serde(default)]
    pub revision: u32,
    /// Why the wanted level was not reached, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<String>,
    /// The faults, one line each; empty for a sound ledger.
    pub faults: Vec<String>,
    /// Version of the tables, where it was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_version: Option<u32>,
    /// The oldest node release that opens such a ledger, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_node_version: Option<String>,
    /// The counts, where they were read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counts: Option<Counts>,
}

/// The counts of a ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Version of the tables.
    pub store_version: u32,
    /// `live`, `dev` or `unknown`.
    pub network: String,
    /// Blocks.
    pub blocks: u64,
    /// Blocks confirmed for good.
    pub cemented: u64,
    /// Opened accounts.
    pub accounts: u64,
    /// Receivable sends.
    pub pending: u64,
}

impl From<&LedgerSummary> for Counts {
    fn from(summary: &LedgerSummary) -> Self {
        Self {
            store_version: summary.store_version,
            network: summary.network.to_string(),
            blocks: summary.blocks,
            cemented: summary.cemented,
            accounts: summary.accounts,
            pending: summary.pending,
        }
    }
}

impl Counts {
    /// Returns what the ledger is compared by with others; `None` for a record of a program that knew other networks.
    pub fn position(&self) -> Option<LedgerPosition> {
        Some(LedgerPosition {
            network: self.network.parse().ok()?,
            blocks: self.blocks,
            cemented: self.cemented,
        })
    }
}

impl LedgerRecord {
    /// Creates a record of nothing but the fault for which a ledger is refused, found now.
    pub fn refusal(fault: String) -> Self {
        Self {
            faults: vec![fault],
            ..Self::begin(Level::L0)
        }
    }

    /// Returns whether this is the refusal of an archive by another version, which may know fewer kinds of archives, or
    /// calls a ledger sound by an earlier revision of the checks.
    fn is_outdated(&self) -> bool {
        let of_archive = |fault: &String| fault.starts_with(ARCHIVE_FAULT);
        (self.by != VERSION && self.faults.iter().any(of_archive))
            || (self.is_sound() && self.revision < REVISION)
    }

    /// Creates a record without findings, made now.
    pub fn begin(level: Level) -> Self {
        Self {
            checked_at: unix_seconds(SystemTime::now()),
            level: format!("{level:?}"),
            by: VERSION.to_owned(),
            revision: REVISION,
            limit: None,
            faults: Vec::new(),
            store_version: None,
            minimum_node_version: None,
            counts: None,
        }
    }

    /// Sets the level that was reached, and why no deeper one was.
    pub fn reached(&mut self, level: Level, limit: Option<&str>) {
        self.level = format!("{level:?}");
        self.limit = limit.map(str::to_owned);
    }

    /// Returns whether there are no faults.
    pub fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }

    /// Returns the level that was reached; `None` for a record of a program that knew other levels.
    pub fn level(&self) -> Option<Level> {
        [Level::L0, Level::L1, Level::L2, Level::L3]
            .into_iter()
            .find(|level| format!("{level:?}") == self.level)
    }

    /// Loads the record of a snapshot. If it is missing or damaged, or is a refusal that this version may not repeat,
    /// the ledger is verified again.
    pub fn load(dir: &SnapshotDir) -> Option<Self> {
        Self::read(dir).filter(|record| !record.is_outdated())
    }

    /// Returns what the ledger of a snapshot is compared by with others, if any revision of the checks recorded it.
    pub fn position_of(dir: &SnapshotDir) -> Option<LedgerPosition> {
        Self::read(dir)?.counts?.position()
    }

    fn read(dir: &SnapshotDir) -> Option<Self> {
        json_file::read_or_default(&dir.path().join(layout::LEDGER_RECORD))
    }

    /// Saves the record of a snapshot.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn save(&self, dir: &SnapshotDir) -> Result<()> {
        Ok(json_file::write(
            &dir.path().join(layout::LEDGER_RECORD),
            self,
        )?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_verified_again_by_another_version() {
        let temp = tempfile::tempdir().unwrap();
        let dir = SnapshotDir::at(temp.path());
        let refusal = LedgerRecord::refusal(format!("{ARCHIVE_FAULT}encrypted"));
        refusal.save(&dir).unwrap();
        assert_eq!(LedgerRecord::load(&dir), Some(refusal.clone()));
        let by = |by: &str, fault: &str| LedgerRecord {
            by: by.to_owned(),
            faults: vec![fault.to_owned()],
            ..refusal.clone()
        };
        by("", "archive: device").save(&dir).unwrap();
        assert_eq!(LedgerRecord::load(&dir), None);
        let unsound = by("", "supply: less");
        unsound.save(&dir).unwrap();
        assert_eq!(LedgerRecord::load(&dir), Some(unsound));
    }
    #[test]
    fn a_sound_record_of_an_earlier_revision_is_ignored() {
        let temp = tempfile::tempdir().unwrap();
        let dir = SnapshotDir::at(temp.path());
        let sound = LedgerRecord::begin(Level::L3);
        sound.save(&dir).unwrap();
        assert_eq!(LedgerRecord::load(&dir), Some(sound));
        // As a record was before there were revisions: it may claim L3 of a pruned ledger.
        let old = r#"{"checked_at": 1700000000, "level": "L3", "by": "0.1.0", "faults": []}"#;
        let path = temp.path().join(layout::LEDGER_RECORD);
        std::fs::write(&path, old).unwrap();
        assert_eq!(LedgerRecord::load(&dir), None);
        let unsound = old.replace("[]", "[\"supply: less\"]");
        std::fs::write(&path, unsound).unwrap();
        assert!(LedgerRecord::load(&dir).is_some());
    }
}
