//! `verify`: reads stored snapshots, compares every block with its hash, and verifies the ledgers.

use std::path::Path;
use std::sync::Mutex;

use anyhow::{Result, bail};
use bittorrent_protocol::{InfoHashV2, Printable};
use nano_ledger::{CheckOutcome, Level, Policy, Sample, VerifyOptions, minimum_node_version};
use service_kit::output::outln;
use service_kit::sync::lock;
use snapshot_store::{DataDir, Mark, ScrubProgress, SnapshotDir};
use tokio_util::sync::CancellationToken;

use crate::cli::VerifyArgs;
use crate::commands::install::node_lock::who_has_open;
use crate::commands::outcome::Outcome;
use crate::config::Config;
use crate::ledger::verify_progress::VerifyProgress;
use crate::progress::{ProgressDisplay, WorkKind};
use crate::text::Bytes;

/// Verifies the snapshots or the file that the arguments name. Fails if anything is damaged, and ends early when
/// cancelled.
pub(crate) fn run(
    args: &VerifyArgs,
    config: &Config,
    display: &ProgressDisplay,
    stop: &CancellationToken,
) -> Result<Outcome> {
    let look = Look {
        args,
        display,
        stop,
    };
    let sound = match args.path.as_deref() {
        Some(path) if path.is_file() => ledger(path, &look),
        Some(path) if SnapshotDir::at(path).is_created() => {
            snapshot(&SnapshotDir::at(path), Access::Alone, &look)
        }
        Some(path) => bail!(
            "{} is neither a ledger file nor the directory of a snapshot; name a data directory \
             with --data-dir",
            path.display()
        ),
        None => all(&DataDir::existing(config.data_dir.as_deref())?, &look),
    };
    match sound {
        Ok(true) => Ok(Outcome::Done),
        Ok(false) => bail!("the verification found faults, see above"),
        // The verification failed only because it was cancelled.
        Err(_) if stop.is_cancelled() => Ok(Outcome::Interrupted),
        Err(error) => Err(error),
    }
}

/// The settings for every verification. Cancelling is an error.
struct Look<'a> {
    args: &'a VerifyArgs,
    display: &'a ProgressDisplay,
    stop: &'a CancellationToken,
}

fn all(data: &DataDir, look: &Look<'_>) -> Result<bool> {
    let mut sound = true;
    let mut ids = data.snapshot_ids()?;
    ids.sort();
    for id in ids {
        sound &= held(data, id, look)?;
    }
    Ok(sound)
}

/// Verifies a stored snapshot. If it cannot be opened, the others are still verified.
fn held(data: &DataDir, id: InfoHashV2, look: &Look<'_>) -> Result<bool> {
    let dir = data.snapshot(id);
    match locked(data, id, &dir, look) {
        Err(error) if !look.stop.is_cancelled() => {
            outln!(
                "{id}: damaged: {error:#}; a mirror or --once repairs it and fetches what is missing"
            );
            Ok(false)
        }
        other => other,
    }
}

fn locked(data: &DataDir, id: InfoHashV2, dir: &SnapshotDir, look: &Look<'_>) -> Result<bool> {
    // The lock keeps other processes from removing the snapshot. It is exclusive if no other process reads the
    // snapshot, as the results are then saved.
    let owned = data.own_snapshot(id)?;
    let access = match owned {
        Some(_) => Access::Alone,
        None => Access::Shared,
    };
    let Some(_lock) = owned.map_or_else(|| data.share_snapshot(id), |lock| Ok(Some(lock)))? else {
        outln!("{id}: skipped, it is being fetched");
        return Ok(true);
    };
    if !dir.is_created() {
        outln!("{id}: no content yet");
        return Ok(true);
    }
    snapshot(dir, access, look)
}

/// Whether other processes may use the snapshot at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Alone,
    Shared,
}

fn snapshot(dir: &SnapshotDir, access: Access, look: &Look<'_>) -> Result<bool> {
    let was_whole = dir.was_whole()?;
    let store = match access {
        Access::Alone => dir.open()?,
        // Opening an incomplete snapshot writes to it.
        Access::Shared => match dir.open_sealed()? {
            Some(store) => store,
            None if was_whole => bail!("blocks are missing, and another process is fetching them"),
            None => {
                outln!("{}: skipped, another process uses it", dir.display());
                return Ok(true);
            }
        },
    };
    let id = store.info().hashes().v2;
    let total = store.layout().content_length();
    let verification = {
        let meter = Mutex::new(look.display.start(WorkKind::VerifySnapshot, total));
        store.verify_all(&|done| {
            lock(&meter).set(done, None);
            !look.stop.is_cancelled()
        })?
    };
    Mark::Unread.clear(dir)?;
    let missing = store.total_blocks() - store.verified_blocks();
    let sound = missing == 0 || !was_whole && verification.damaged.is_empty();
    let newly_damaged = verification.damaged.len() as u64;
    if was_whole && missing > 0 && (newly_damaged > 0 || !ScrubProgress::has_damage(dir)) {
        // Records that these blocks were once stored.
        ScrubProgress::add_damage(dir, newly_damaged.max(1))?;
    }
    if store.is_complete() {
        if access == Access::Alone {
            // A copied or touched file still has the published content.
            store.finish()?;
        }
        outln!("{id}: all {} are as published", Bytes(total));
    } else if sound {
        outln!(
            "{id}: incomplete, but all stored blocks of {} are as published",
            Bytes(total)
        );
    } else {
        outln!(
            "{id}: {missing} of {} blocks are not as published; a mirror or --once fetches them \
             again",
            store.total_blocks()
        );
    }
    if store.is_complete()
        && let Some(path) = dir.plain_ledger(&store.info())
    {
        return ledger(&path, look);
    }
    Ok(sound)
}

/// Verifies a ledger at the level that the arguments give.
fn ledger(path: &Path, look: &Look<'_>) -> Result<bool> {
    let args = look.args;
    if let Some(writer) = who_has_open(path) {
        bail!(
            "{writer} has {} open, and its writes would look like damage: stop it \
             first, or verify a copy",
            path.display()
        );
    }
    let level = Level::from(args.level);
    let policy = Policy {
        store_versions: args.store_version.clone(),
        ..Policy::default()
    };
    let looking = VerifyProgress::new(look.display, look.stop);
    let tell = |progress| looking.tell(progress);
    let options = VerifyOptions {
        progress: Some(&tell),
        cancel: Some(&looking.cancel),
        sample: Sample {
            seed: args.seed,
            ..Sample::default()
        },
        policy: &policy,
        ..VerifyOptions::default()
    };
    let report = nano_ledger::verify(path, level, &options)?;
    drop(looking);
    for check in &report.checks {
        match &check.outcome {
            CheckOutcome::Passed { found } => {
                outln!("  ok      {}: {}", check.name, Printable(found));
            }
            CheckOutcome::Failed { expected, found } => {
                outln!(
                    "  FAILED  {}: expected {}, found {}",
                    check.name,
                    Printable(expected),
                    Printable(found)
                );
            }
            CheckOutcome::Skipped { reason } => {
                outln!("  skipped {}: {}", check.name, Printable(reason));
            }
        }
    }
    if let (reached, Some(limit)) = report.reached() {
        outln!("  verified at {reached:?} only, not at {level:?}: {limit}");
    }
    if let Some(version) = report.store_version {
        let node = minimum_node_version(version).map_or("no known release".into(), |node| {
            format!("nodes from V{node}")
        });
        outln!("  store version {version}, opened by {node}");
    }
    Ok(report.passed())
}
