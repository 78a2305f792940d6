//! `attest`: an operator who has verified a stored snapshot signs it with a key of their own.
//!
//! The signed item names the same snapshot as the producer's pointer. Its sequence number is one more than the last
//! under *this* key, since the sequence numbers of different authorities are unrelated. Mirrors that are configured
//! with both keys can require both to agree.

use anyhow::{Context as _, Result, bail};
use bittorrent_protocol::InfoHashV2;
use bittorrent_store::Condition;
use nano_ledger::Level;
use service_kit::output::outln;
use service_kit::signals::Signals;
use snapshot_pointer::{ItemKind, RecordStore};
use snapshot_store::{DataDir, LedgerRecord};
use tokio::task::block_in_place;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::cli::AttestArgs;
use crate::commands::outcome::Outcome;
use crate::commands::publishing::{Publishing, Signer};
use crate::config::Config;
use crate::ledger::policy::{LedgerPolicy, Verdict, refuse_attestation};
use crate::pointers::stream::Stream;
use crate::progress::ProgressDisplay;

/// Verifies the ledger, unless it was verified at the required level before. Signs and publishes the pointer.
pub(crate) async fn run(
    args: &AttestArgs,
    config: &Config,
    display: &ProgressDisplay,
    signals: &Signals,
) -> Result<Outcome> {
    let signer = args.key.as_deref().map(Signer::new).transpose()?;
    let data = DataDir::existing(config.data_dir.as_deref())?;
    let stream = Stream::one(config, args.stream.as_deref(), &data)?;
    let id = match &args.snapshot {
        Some(prefix) => data.find(prefix)?,
        None => data.current_of(&stream.name)?.with_context(|| {
            format!(
                "stream {} has no current snapshot: name a stored one",
                stream.name.as_str()
            )
        })?,
    };
    let policy = LedgerPolicy {
        level: Level::from(args.level),
        store_versions: config.verify.store_versions.clone(),
    };
    // The shared lock keeps the snapshot from being removed until it is published.
    let _in_use = data
        .share_snapshot(id)?
        .with_context(|| format!("another process is writing snapshot {id}"))?;
    let look = Look {
        data: &data,
        id,
        policy: &policy,
        display,
        stop: &signals.stop,
    };
    let Some(checked) = block_in_place(|| look.at_ledger(args.dry_run))? else {
        return Ok(Outcome::Interrupted);
    };
    let records = RecordStore::open(&data.streams())?;
    if let Some(signer) = &signer {
        let record = records.load(&signer.authority, &stream.config.salt, ItemKind::Pointer)?;
        if let Some(last) = record.state().pointer() {
            compare_with_last(&data, id, last.snapshot, args.allow_older)?;
        }
    }
    outln!("snapshot:  {id}");
    outln!("ledger:    {checked}");
    let Some(signer) = signer.filter(|_| !args.dry_run) else {
        outln!("would:     sign and publish a pointer to it");
        return Ok(Outcome::Done);
    };
    let publishing = Publishing {
        config,
        data: &data,
        records: &records,
        authority: signer.authority,
        salt: &stream.config.salt,
        kind: ItemKind::Pointer,
        first: args.first,
    };
    let published = tokio::select! {
        () = signals.stop.cancelled() => return Ok(Outcome::Interrupted),
        published = publishing.publish_pointer(&signer, id) => published.context(
            "the snapshot is sound and not attested: run attest again to retry"
        )?,
    };
    outln!("seq:       {}", published.seq);
    outln!("authority: {}", signer.authority);
    outln!("nodes:     {}", published.nodes());
    Ok(Outcome::Done)
}

/// Compares the ledger of `id` with that of the snapshot that this authority attested `last`.
///
/// # Errors
///
/// When the ledger is of another network, or older without `allow_older`.
fn compare_with_last(
    data: &DataDir,
    id: InfoHashV2,
    last: InfoHashV2,
    allow_older: bool,
) -> Result<()> {
    let position = |id| LedgerRecord::position_of(&data.snapshot(id));
    if id == last {
        return Ok(());
    }
    // A dry run may not have verified the ledger.
    let Some(after) = position(id) else {
        return Ok(());
    };
    match position(last) {
        Some(before) => refuse_attestation(id, last, &before, &after, allow_older),
        None => {
            warn!(
                "cannot compare the ledger with that of the snapshot attested last, {last}: its counts are not in \
                 this data directory"
            );
            Ok(())
        }
    }
}

/// The snapshot to verify, and the policy for it.
struct Look<'a> {
    data: &'a DataDir,
    id: InfoHashV2,
    policy: &'a LedgerPolicy,
    display: &'a ProgressDisplay,
    stop: &'a CancellationToken,
}

impl Look<'_> {
    /// Returns a description of the ledger for a person once it is verified at the required level; `None` when
    /// cancelled before.
    ///
    /// # Errors
    ///
    /// When the snapshot is incomplete or damaged, or its ledger is not sound.
    fn at_ledger(&self, dry_run: bool) -> Result<Option<String>> {
        let id = self.id;
        let dir = self.data.snapshot(id);
        let info = dir.read_info()?;
        match dir.inspect()?.condition {
            Condition::Sealed => {}
            Condition::Changed { path } => bail!(
                "{} was changed or copied since it was verified: run verify, then attest the snapshot",
                path.display()
            ),
            Condition::Partial { .. } | Condition::NoRecord => {
                bail!(
                    "snapshot {id} is not whole, or is being repaired: attest it when it is whole"
                )
            }
        }
        let level = self.policy.level;
        match self.judge(LedgerRecord::load(&dir).as_ref())? {
            Some(said) => return Ok(Some(said)),
            None if dir.plain_ledger(&info).is_none() => bail!(
                "snapshot {id} is not a plain ledger, and its ledger was not verified at {level:?}: \
                 extract it with --once --extract --verify-level {level:?}, then attest it"
            ),
            None if dry_run => return Ok(Some(format!("to be verified at {level:?}"))),
            None => info!(snapshot = %id, ?level, "verifying the ledger"),
        }
        let verdict = self
            .policy
            .verify_held(&dir, &info, self.display, self.stop)?;
        if verdict.is_none() {
            return Ok(None);
        }
        let said = self.judge(LedgerRecord::load(&dir).as_ref())?;
        said.context("the result of the verification was not saved: check the disk")
            .map(Some)
    }

    /// Returns the description of a verified ledger if the record satisfies the policy.
    fn judge(&self, record: Option<&LedgerRecord>) -> Result<Option<String>> {
        match self.policy.judge_record(record) {
            Verdict::Sound => {
                Ok(record.map(|record| format!("sound, verified at {}", record.level)))
            }
            Verdict::Refused(reasons) => {
                bail!(
                    "snapshot {} is not attested: {}",
                    self.id,
                    reasons.join("; ")
                )
            }
            Verdict::Unverified => Ok(None),
        }
    }
}
