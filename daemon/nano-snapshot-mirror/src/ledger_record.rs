//! `ledger.json`: what verification found in the ledger of a held snapshot.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use bittorrent_protocol::metainfo::Info;
use nano_ledger::{LedgerError, LedgerSummary, Level, Outcome, VerifyError, VerifyOptions};
use serde::{Deserialize, Serialize};

use crate::data_dir::write_atomically;

/// What verification found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LedgerRecord {
    /// When, in seconds since 1970.
    pub(crate) checked_at: u64,
    /// How deep: `L0` to `L2`.
    pub(crate) level: String,
    /// What is wrong, one line each; empty for a sound ledger.
    pub(crate) faults: Vec<String>,
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

impl LedgerRecord {
    /// Whether nothing is wrong.
    pub(crate) fn is_sound(&self) -> bool {
        self.faults.is_empty()
    }

    /// Verifies the ledger at `ledger`. That it is no ledger at all is a finding too; an error is
    /// only what kept us from looking.
    pub(crate) fn of(ledger: &Path, level: Level) -> Result<Self> {
        let (faults, counts) = match nano_ledger::verify(ledger, level, &VerifyOptions::default()) {
            Ok(report) => {
                let faults = report.failures().map(|check| match &check.outcome {
                    Outcome::Failed { expected, found } => {
                        format!("{}: expected {expected}, found {found}", check.name)
                    }
                    other => format!("{}: {other:?}", check.name),
                });
                (faults.collect(), report.summary.as_ref().map(Counts::from))
            }
            Err(VerifyError::Ledger(
                error @ (LedgerError::NotALedger { .. }
                | LedgerError::Damaged { .. }
                | LedgerError::Record { .. }),
            )) => (vec![format!("{:#}", anyhow::Error::from(error))], None),
            Err(error) => return Err(error.into()),
        };
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Ok(Self {
            checked_at: since_epoch.as_secs(),
            level: format!("{level:?}"),
            faults,
            counts,
        })
    }

    /// The record of the snapshot in `dir`, if there is one that can be read: a damaged one only
    /// means that the ledger is looked at again.
    pub(crate) fn load(dir: &Path) -> Option<Self> {
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

/// Whether a snapshot is the plain layout: one file that is a ledger as the node opens it.
/// Archives are mirrored as well, only nothing looks into them.
pub(crate) fn is_plain(info: &Info) -> bool {
    info.is_single_file() && info.name().ends_with(".ldb")
}
