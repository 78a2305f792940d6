//! `verify`: reads held snapshots again, compares every block with its hash, and looks into the
//! ledgers.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Result, bail};
use bittorrent_protocol::InfoHashV2;
use nano_ledger::{Level, Outcome};

use crate::catalogue;
use crate::cli::VerifyArgs;
use crate::data_dir::DataDir;
use crate::progress::Display;
use crate::text::Bytes;

/// Verifies what the arguments name; fails if anything is wrong.
pub(crate) fn run(args: &VerifyArgs, display: &Display) -> Result<()> {
    let sound = match args.path.as_deref() {
        Some(path) if path.is_file() => ledger(path)?,
        Some(path) if catalogue::is_created(path) => snapshot(path, display)?,
        Some(path) => bail!(
            "{} is neither a ledger file nor the directory of a snapshot; name a data directory \
             with --data-dir",
            path.display()
        ),
        None => all(&DataDir::existing(args.data.data_dir.as_deref())?, display)?,
    };
    if !sound {
        bail!("something is wrong, see above");
    }
    Ok(())
}

fn all(data: &DataDir, display: &Display) -> Result<bool> {
    let mut sound = true;
    let mut ids = data.snapshot_ids()?;
    ids.sort();
    for id in ids {
        sound &= held(data, id, display)?;
    }
    Ok(sound)
}

fn held(data: &DataDir, id: InfoHashV2, display: &Display) -> Result<bool> {
    // Held while it is read, so that nobody removes it; alone when nobody else reads, as what is
    // found bad is written down.
    let owned = data.own_snapshot(id)?;
    let Some(_lock) = owned.map_or_else(|| data.share_snapshot(id), |lock| Ok(Some(lock)))? else {
        println!("{id}: left out, it is being fetched");
        return Ok(true);
    };
    let dir = data.snapshot(id);
    if !catalogue::is_created(&dir) {
        println!("{id}: nothing there yet");
        return Ok(true);
    }
    snapshot(&dir, display)
}

fn snapshot(dir: &Path, display: &Display) -> Result<bool> {
    let store = catalogue::take_up(dir)?;
    let id = store.info().hashes().v2;
    let total = store.layout().content_length();
    let verification = {
        let meter = Mutex::new(display.phase("Verifying", total));
        store.verify_all(&|done| {
            meter
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .set(done, None);
            true
        })?
    };
    catalogue::was_read(dir)?;
    let mut sound = verification.damaged.is_empty();
    if sound && store.is_complete() {
        println!("{id}: all {} are as published", Bytes(total));
    } else if sound {
        println!("{id}: what is there of {} is as published", Bytes(total));
    } else {
        println!(
            "{id}: {} blocks are not as published and will be fetched again; restart a mirror \
             that runs here",
            verification.damaged.len()
        );
    }
    if sound
        && store.is_complete()
        && let Some(path) = catalogue::plain_ledger(dir, &store.info())
    {
        sound &= ledger(&path)?;
    }
    Ok(sound)
}

/// Verifies a ledger as deep as this program can.
fn ledger(path: &Path) -> Result<bool> {
    let report = nano_ledger::verify(path, Level::L2)?;
    for check in &report.checks {
        match &check.outcome {
            Outcome::Passed { found } => println!("  ok      {}: {found}", check.name),
            Outcome::Failed { expected, found } => {
                println!(
                    "  FAILED  {}: expected {expected}, found {found}",
                    check.name
                );
            }
            Outcome::Skipped { reason } => println!("  skipped {}: {reason}", check.name),
        }
    }
    Ok(report.passed())
}
