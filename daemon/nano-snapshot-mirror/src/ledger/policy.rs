//! The requirements for a ledger before it becomes current, is installed or published. It must be verified at the
//! policy's level, be sound, and have an accepted store version.

use std::ops::RangeInclusive;
use std::path::Path;

use anyhow::{Result, bail};
use bittorrent_protocol::InfoHashV2;
use bittorrent_protocol::metainfo::Info;
use nano_ledger::{
    CheckOutcome, LedgerError, LedgerPosition, Level, Network, Policy, Regression, VerifyError,
    VerifyOptions, minimum_node_version,
};
use snapshot_store::{Counts, LedgerRecord, SnapshotDir, SnapshotInfo};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config;
use crate::ledger::verify_progress::VerifyProgress;
use crate::progress::ProgressDisplay;
use crate::text::Count;

/// The level of verification, and the accepted ledgers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LedgerPolicy {
    /// The required level.
    pub(crate) level: Level,
    /// The accepted store versions; `None` accepts all.
    pub(crate) store_versions: Option<RangeInclusive<u32>>,
}

/// The result of applying a policy to a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The ledger is sound, or the content is not a plain ledger and therefore not verified.
    Sound,
    /// The snapshot must not be used, for these reasons.
    Refused(Vec<String>),
    /// The ledger is not yet verified at the required level.
    Unverified,
}

impl From<&config::Verify> for LedgerPolicy {
    fn from(config: &config::Verify) -> Self {
        Self {
            level: config.level,
            store_versions: config.store_versions.clone(),
        }
    }
}

impl LedgerPolicy {
    /// Returns the verdict on the complete snapshot in `dir` from the saved results. Reads one small file.
    pub(crate) fn judge(&self, dir: &SnapshotDir, info: &Info) -> Verdict {
        let record = LedgerRecord::load(dir);
        if dir.plain_ledger(info).is_some() {
            return self.judge_record(record.as_ref());
        }
        // Archives are verified when they are extracted.
        match record {
            Some(record) if !record.is_sound() => Verdict::Refused(record.faults),
            _ => Verdict::Sound,
        }
    }

    /// Returns the verdict on a ledger from its saved results.
    pub(crate) fn judge_record(&self, record: Option<&LedgerRecord>) -> Verdict {
        let Some(record) = record else {
            return Verdict::Unverified;
        };
        if !record.is_sound() {
            return Verdict::Refused(record.faults.clone());
        }
        if record.level() < Some(self.level) {
            return match &record.limit {
                None => Verdict::Unverified,
                Some(limit) => Verdict::Refused(vec![format!(
                    "level: it must be verified at {:?} (--verify-level, --level), and can be only at {}: \
                     {limit}",
                    self.level, record.level
                )]),
            };
        }
        match (&self.store_versions, record.store_version) {
            (None, _) => Verdict::Sound,
            (Some(_), None) => Verdict::Unverified,
            (Some(_), Some(version)) => match self.refuses(version) {
                Some(reason) => Verdict::Refused(vec![reason]),
                None => Verdict::Sound,
            },
        }
    }

    /// Returns the reason why the policy refuses this store version, if it does.
    fn refuses(&self, version: u32) -> Option<String> {
        let wanted = self.store_versions.as_ref()?;
        (!wanted.contains(&version)).then(|| {
            format!(
                "store-version: it has store version {version}{}, wanted are {} to {} \
                 (--store-version)",
                minimum_node_version(version)
                    .map_or(String::new(), |node| format!(" (nodes from V{node})")),
                wanted.start(),
                wanted.end(),
            )
        })
    }

    /// Returns the reason not to fetch a snapshot, from what its torrent states about the ledger.
    pub(crate) fn refuses_claim(&self, info: &Info) -> Option<String> {
        if let Some(reason) = refuses_files(info) {
            return Some(reason);
        }
        let claimed = SnapshotInfo::parse(info.snapshot()?)?;
        self.refuses(claimed.store_version?)
    }

    /// Verifies the ledger at `ledger` at the policy's level, and against the properties that its torrent `claimed`.
    /// Blocks until it is done; returns `None` when cancelled. A file that is no ledger is a result with faults. An
    /// error means that the verification could not run.
    pub(crate) fn verify(
        &self,
        ledger: &Path,
        claimed: Option<&SnapshotInfo>,
        display: &ProgressDisplay,
        stop: &CancellationToken,
    ) -> Result<Option<LedgerRecord>> {
        let looking = VerifyProgress::new(display, stop);
        let tell = |progress| looking.tell(progress);
        let claims = claimed.map_or_else(Policy::default, |claimed| Policy {
            claimed_version: claimed.store_version,
            claimed_blocks: claimed.block_count,
            claimed_cemented: claimed.cemented_count,
            ..Policy::default()
        });
        let options = VerifyOptions {
            progress: Some(&tell),
            cancel: Some(&looking.cancel),
            policy: &claims,
            ..VerifyOptions::default()
        };
        let mut record = LedgerRecord::begin(self.level);
        match nano_ledger::verify(ledger, self.level, &options) {
            Ok(report) => {
                let (reached, limit) = report.reached();
                record.reached(reached, limit);
                let faults = report.failures().map(|check| match &check.outcome {
                    CheckOutcome::Failed { expected, found } => {
                        format!("{}: expected {expected}, found {found}", check.name)
                    }
                    other => format!("{}: {other:?}", check.name),
                });
                record.faults = faults.collect();
                record.store_version = report.store_version;
                record.minimum_node_version = report
                    .store_version
                    .and_then(minimum_node_version)
                    .map(str::to_owned);
                record.counts = report.summary.as_ref().map(Counts::from);
            }
            Err(VerifyError::Cancelled) => return Ok(None),
            Err(VerifyError::Ledger(
                error @ (LedgerError::NotALedger { .. }
                | LedgerError::Damaged { .. }
                | LedgerError::Record { .. }),
            )) => record.faults = vec![format!("{:#}", anyhow::Error::from(error))],
            Err(error) => return Err(error.into()),
        }
        Ok(Some(record))
    }

    /// Verifies the ledger of the complete snapshot in `dir` and saves the result with it. Returns `None` when
    /// cancelled.
    pub(crate) fn verify_held(
        &self,
        dir: &SnapshotDir,
        info: &Info,
        display: &ProgressDisplay,
        stop: &CancellationToken,
    ) -> Result<Option<Verdict>> {
        let Some(ledger) = dir.plain_ledger(info) else {
            return Ok(Some(Verdict::Sound));
        };
        let claimed = info.snapshot().and_then(SnapshotInfo::parse);
        let Some(record) = self.verify(&ledger, claimed.as_ref(), display, stop)? else {
            return Ok(None);
        };
        record.save(dir)?;
        Ok(Some(self.judge_record(Some(&record))))
    }
}

/// The maximum number of files in a snapshot. A ledger is one file, perhaps with a few others. Each file costs a
/// descriptor and several synchronous writes.
const MAX_FILES: usize = 1_000;

/// Returns a reason if a snapshot has too many files to be fetched or added.
pub(crate) fn refuses_files(info: &Info) -> Option<String> {
    let files = info.files().len();
    (files > MAX_FILES).then(|| {
        format!("it has {files} files, and no snapshot of a ledger has more than {MAX_FILES}")
    })
}

/// Refuses to replace the `installed` ledger by the one at `new` if that is of another network, or older without
/// `allow_older`. If no ledger is installed, only warns unless the new one is of the live network.
pub(crate) fn refuse_replacement(installed: &Path, new: &Path, allow_older: bool) -> Result<()> {
    if !installed.exists() {
        let network = nano_ledger::outline(new)?.network;
        if network != Network::Live {
            warn!(%network, "{} is not a ledger of the live network", new.display());
        }
        return Ok(());
    }
    let found = match nano_ledger::regression(installed, new) {
        Ok(found) => found,
        Err(error) => {
            warn!(
                "cannot compare the new ledger with {}: {:#}",
                installed.display(),
                anyhow::Error::from(error)
            );
            return Ok(());
        }
    };
    let place = installed.display();
    match unless_allowed(found, allow_older) {
        None => Ok(()),
        Some(Regression::OtherNetwork { before, after }) => bail!(
            "the new ledger is of the {} and {place} is of the {}; move {place} away to install it anyway",
            named(after),
            named(before)
        ),
        Some(Regression::Older { before, after }) => bail!(
            "{} of {place}: it is older; use --allow-older to install it anyway",
            compared(&before, &after)
        ),
    }
}

/// Refuses to publish an older ledger or one of another network. `before` describes the ledger of the snapshot
/// published `last`.
pub(crate) fn refuse_publication(
    last: InfoHashV2,
    before: &LedgerPosition,
    after: &LedgerPosition,
    allow_older: bool,
) -> Result<()> {
    match unless_allowed(after.regression_from(before), allow_older) {
        None => Ok(()),
        Some(Regression::OtherNetwork { before, after }) => bail!(
            "the copy is not published: it is of the {} and the snapshot published last, {last}, is of the {}; \
             publish it under another --salt",
            named(after),
            named(before)
        ),
        Some(Regression::Older { before, after }) => bail!(
            "the copy is not published: {} of the snapshot published last, {last}: this ledger is older; check \
             --ledger, or use --allow-older to publish it anyway",
            compared(&before, &after)
        ),
    }
}

/// Refuses to attest an older ledger or one of another network. `before` describes the ledger of the `last` snapshot
/// that the same authority attested.
pub(crate) fn refuse_attestation(
    id: InfoHashV2,
    last: InfoHashV2,
    before: &LedgerPosition,
    after: &LedgerPosition,
    allow_older: bool,
) -> Result<()> {
    match unless_allowed(after.regression_from(before), allow_older) {
        None => Ok(()),
        Some(Regression::OtherNetwork { before, after }) => bail!(
            "snapshot {id} is not attested: it is of the {} and the snapshot attested last, {last}, is of the {}; \
             attest it for another --stream",
            named(after),
            named(before)
        ),
        Some(Regression::Older { before, after }) => bail!(
            "snapshot {id} is not attested: {} of the snapshot attested last, {last}: this ledger is older; use \
             --allow-older to attest it anyway",
            compared(&before, &after)
        ),
    }
}

/// Returns the regression unless `--allow-older` allows it, which is logged.
fn unless_allowed(found: Option<Regression>, allow_older: bool) -> Option<Regression> {
    match found {
        Some(Regression::Older { before, after }) if allow_older => {
            info!("{}, as --allow-older allows", compared(&before, &after));
            None
        }
        found => found,
    }
}

fn named(network: Network) -> String {
    match network {
        Network::Unknown => "unknown network".to_owned(),
        network => format!("{network} network"),
    }
}

fn compared(before: &LedgerPosition, after: &LedgerPosition) -> String {
    format!(
        "the ledger has {} cemented of {} blocks, fewer than the {} of {}",
        Count(after.cemented),
        Count(after.blocks),
        Count(before.cemented),
        Count(before.blocks)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(level: &str, version: Option<u32>) -> LedgerRecord {
        LedgerRecord {
            checked_at: 0,
            by: String::new(),
            revision: 0,
            level: level.into(),
            limit: None,
            faults: Vec::new(),
            store_version: version,
            minimum_node_version: None,
            counts: None,
        }
    }

    fn policy(level: Level, store_versions: Option<RangeInclusive<u32>>) -> LedgerPolicy {
        LedgerPolicy {
            level,
            store_versions,
        }
    }

    #[test]
    fn what_was_not_looked_into_deep_enough_is_unverified() {
        let l1 = policy(Level::L1, None);
        assert_eq!(l1.judge_record(None), Verdict::Unverified);
        for (level, verdict) in [
            ("L0", Verdict::Unverified),
            ("L1", Verdict::Sound),
            ("L3", Verdict::Sound),
            ("L9", Verdict::Unverified),
        ] {
            assert_eq!(
                l1.judge_record(Some(&record(level, None))),
                verdict,
                "{level}"
            );
        }
    }

    #[test]
    fn what_cannot_be_looked_into_deep_enough_is_refused() {
        let mut pruned = record("L2", None);
        pruned.limit = Some("blocks were pruned from this ledger".into());
        let judge = |level| policy(level, None).judge_record(Some(&pruned));
        assert_eq!(judge(Level::L2), Verdict::Sound);
        let Verdict::Refused(reasons) = judge(Level::L3) else {
            panic!("not refused");
        };
        for part in ["L3", "L2", "pruned"] {
            assert!(reasons[0].contains(part), "{reasons:?}");
        }
    }

    #[test]
    fn faults_refuse_at_any_level() {
        let mut bad = record("L0", Some(24));
        bad.faults.push("supply: expected 1, found 2".into());
        let verdict = policy(Level::L3, None).judge_record(Some(&bad));
        assert_eq!(verdict, Verdict::Refused(bad.faults));
    }

    #[test]
    fn versions_are_judged_anew_with_every_policy() {
        let seen = record("L1", Some(24));
        let judge = |versions| policy(Level::L1, versions).judge_record(Some(&seen));
        assert_eq!(judge(None), Verdict::Sound);
        assert_eq!(judge(Some(21..=24)), Verdict::Sound);
        let Verdict::Refused(reasons) = judge(Some(21..=22)) else {
            panic!("not refused");
        };
        for part in ["store version 24", "V27", "21 to 22", "--store-version"] {
            assert!(reasons[0].contains(part), "{reasons:?}");
        }
        // Records of earlier versions have no store version.
        let old = policy(Level::L1, Some(21..=24)).judge_record(Some(&record("L1", None)));
        assert_eq!(old, Verdict::Unverified);
    }
}
