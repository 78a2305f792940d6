//! `ledger.json`: what verification found in the ledger of a held snapshot.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use nano_ledger::{LedgerPosition, LedgerSummary, Level};
use serde::{Deserialize, Serialize};

use crate::kit::clock::unix_seconds;
use crate::store::data_dir::write_atomically;

/// What looks.
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The revision of what verification checks and records. A record of an earlier one is not believed to be sound:
/// the first did not record that level L3 of a pruned ledger is L2, and checked less.
const REVISION: u32 = 1;

/// How the fault of an archive that cannot be extracted begins.
pub(crate) const ARCHIVE: &str = "archive: ";

/// What verification found. Facts of the file only: what is made of them is up to the policy, which
/// may change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LedgerRecord {
    /// When, in seconds since 1970.
    pub(crate) checked_at: u64,
    /// How deep: `L0` to `L3`.
    pub(crate) level: String,
    /// The version of the program that looked; empty in records of earlier versions.
    #[serde(default)]
    pub(crate) by: String,
    /// The revision of the checks; 0 in records of earlier versions.
    #[serde(default)]
    pub(crate) revision: u32,
    /// Why it was not looked into as deep as it should have been, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<String>,
    /// What is wrong, one line each; empty for a sound ledger.
    pub(crate) faults: Vec<String>,
    /// Version of the tables, where it was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) store_version: Option<u32>,
    /// The oldest node release that opens such a ledger, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) minimum_node_version: Option<String>,
    /// The counts, where they were read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) counts: Option<Counts>,
}

/// What a ledger holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    /// Version of the tables.
    pub(crate) store_version: u32,
    /// `live`, `dev` or `unknown`.
    pub(crate) network: String,
    /// Blocks.
    pub(crate) blocks: u64,
    /// Blocks confirmed for good.
    pub(crate) cemented: u64,
    /// Opened accounts.
    pub(crate) accounts: u64,
    /// Receivable sends.
    pub(crate) pending: u64,
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
    /// What the ledger is compared by with others; `None` for a record of a program that knew other networks.
    pub(crate) fn position(&self) -> Option<LedgerPosition> {
        Some(LedgerPosition {
            network: self.network.parse().ok()?,
            blocks: self.blocks,
            cemented: self.cemented,
        })
    }
}

impl LedgerRecord {
    /// A record of nothing but the reason why something is refused, found just now.
    pub(crate) fn refusal(fault: String) -> Self {
        Self {
            faults: vec![fault],
            ..Self::begin(Level::L0)
        }
    }

    /// Whether this is the refusal of an archive by another version, which may know fewer kinds of archives, or
    /// calls a ledger sound by an earlier revision of the checks.
    fn is_outdated(&self) -> bool {
        let of_archive = |fault: &String| fault.starts_with(ARCHIVE);
        (self.by != VERSION && self.faults.iter().any(of_archive))
            || (self.is_sound() && self.revision < REVISION)
    }

    /// A record without findings, made now.
    pub(crate) fn begin(level: Level) -> Self {
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

    /// Notes how deep it was looked into, and why not deeper.
    pub(crate) fn reached(&mut self, level: Level, limit: Option<&str>) {
        self.level = format!("{level:?}");
        self.limit = limit.map(str::to_owned);
    }

    /// Whether nothing is wrong.
    pub(crate) fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }

    /// How deep was looked; `None` for a record of a program that knew other levels.
    pub(crate) fn level(&self) -> Option<Level> {
        [Level::L0, Level::L1, Level::L2, Level::L3]
            .into_iter()
            .find(|level| format!("{level:?}") == self.level)
    }

    /// The record of the snapshot in `dir`, if there is one that can be read: a damaged one, or a refusal
    /// that this version may not repeat, only means that the ledger is looked at again.
    pub(crate) fn load(dir: &Path) -> Option<Self> {
        Self::read(dir).filter(|record| !record.is_outdated())
    }

    /// What the ledger of the snapshot in `dir` is compared by with others, if that was recorded, by whatever
    /// revision of the checks.
    pub(crate) fn position_of(dir: &Path) -> Option<LedgerPosition> {
        Self::read(dir)?.counts?.position()
    }

    fn read(dir: &Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(place(dir)).ok()?).ok()
    }

    /// Keeps the record with the snapshot in `dir`.
    pub(crate) fn save(&self, dir: &Path) -> Result<()> {
        let json = serde_json::to_vec_pretty(self).context("cannot write a record as JSON")?;
        write_atomically(&place(dir), &json)
    }
}

fn place(dir: &Path) -> PathBuf {
    dir.join("ledger.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_looked_at_again_by_another_version() {
        let temp = tempfile::tempdir().unwrap();
        let refusal = LedgerRecord::refusal(format!("{ARCHIVE}encrypted"));
        refusal.save(temp.path()).unwrap();
        assert_eq!(LedgerRecord::load(temp.path()), Some(refusal.clone()));
        let by = |by: &str, fault: &str| LedgerRecord {
            by: by.to_owned(),
            faults: vec![fault.to_owned()],
            ..refusal.clone()
        };
        by("", "archive: device").save(temp.path()).unwrap();
        assert_eq!(LedgerRecord::load(temp.path()), None);
        let unsound = by("", "supply: less");
        unsound.save(temp.path()).unwrap();
        assert_eq!(LedgerRecord::load(temp.path()), Some(unsound));
    }

    #[test]
    fn a_sound_record_of_an_earlier_revision_is_not_believed() {
        let temp = tempfile::tempdir().unwrap();
        let sound = LedgerRecord::begin(Level::L3);
        sound.save(temp.path()).unwrap();
        assert_eq!(LedgerRecord::load(temp.path()), Some(sound));
        // As a record was before there were revisions: it may claim L3 of a pruned ledger.
        let old = r#"{"checked_at": 1700000000, "level": "L3", "by": "0.1.0", "faults": []}"#;
        std::fs::write(temp.path().join("ledger.json"), old).unwrap();
        assert_eq!(LedgerRecord::load(temp.path()), None);
        let unsound = old.replace("[]", "[\"supply: less\"]");
        std::fs::write(temp.path().join("ledger.json"), unsound).unwrap();
        assert!(LedgerRecord::load(temp.path()).is_some());
    }
}
