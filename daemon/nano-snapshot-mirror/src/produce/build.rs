//! From a ledger to a whole snapshot in the store.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::thread;

use anyhow::{Context as _, Result, bail};
use bittorrent_protocol::InfoHashV2;
use bittorrent_store::StoreError;
use bittorrent_store::create::{Cut, Draft, Shape};
use nano_ledger::{CopyError, Level, LiveLedger};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::catalogue;
use crate::cli::{ProduceArgs, Publish};
use crate::data_dir::{DataDir, DirLock};
use crate::ledger_record::{Counts, LedgerRecord};
use crate::progress::Display;
use crate::snapshot_info::SnapshotInfo;
use crate::space;
use crate::text::Count;

/// The name of every plain snapshot: what a node calls its ledger.
const NAME: &str = "data.ldb";

/// Bytes on the way from the copy to the hashing; the most an ordinary user may ask for.
const PIPE: usize = 1 << 20;

/// A snapshot in the store.
pub(super) struct Built {
    pub(super) id: InfoHashV2,
    /// Of the content, bytes.
    pub(super) length: u64,
    pub(super) magnet: String,
}

/// Makes a snapshot of the ledger as it is now; `None` when asked to stop.
pub(super) fn snapshot(
    args: &ProduceArgs,
    data: &DataDir,
    display: &Display,
    stop: &CancellationToken,
) -> Result<Option<Built>> {
    let ledger = LiveLedger::open(&args.ledger)?;
    let size = ledger.size_hint()?;
    space::ensure(data.root(), space::of_file(size), "the copy of the ledger")?;
    let build = Build::begin(data)?;
    let cut = Cut {
        piece_length: args.piece_length,
        hybrid: true,
    };
    let mut draft = Draft::begin(&build.dir, NAME, Shape::SingleFile, cut, catalogue::io())?;
    let made = match args.publish {
        Publish::Exact => exact(&ledger, size, &mut draft, display, stop)?,
        Publish::Scrubbed => scrubbed(&ledger, size, &mut draft, display, stop)?,
    };
    // The node's reader slot was free as soon as the copy was whole.
    drop(ledger);
    let Some(length) = made else {
        return Ok(None);
    };

    let copied = draft.content_path(&[]);
    let mut record = LedgerRecord::of(&copied, Level::L0)?;
    if !record.is_sound() {
        bail!("the copy is no sound ledger: {}", record.faults.join("; "));
    }
    let summary = nano_ledger::summarize(&copied)?;
    info!(
        blocks = %Count(summary.blocks), cemented = %Count(summary.cemented),
        accounts = %Count(summary.accounts), store_version = summary.store_version,
        network = %summary.network, "copied"
    );
    record.counts = Some(Counts::from(&summary));
    let original = args
        .ledger
        .file_name()
        .map_or(NAME.into(), |name| name.to_string_lossy());
    let snapshot = SnapshotInfo::of(&original, &summary)
        .to_json()
        .context("cannot write JSON")?;
    let store = draft.finish(|torrent| torrent.snapshot(snapshot))?;
    record.save(&build.dir)?;
    let metainfo = store.metainfo();
    drop(store);
    let id = metainfo.info().hashes().v2;
    build.adopt(data, id)?;
    Ok(Some(Built {
        id,
        length,
        magnet: metainfo.magnet().to_string(),
    }))
}

/// Copies and hashes in one pass. Gives the length, or `None` when asked to stop.
fn exact(
    ledger: &LiveLedger,
    size: u64,
    draft: &mut Draft,
    display: &Display,
    stop: &CancellationToken,
) -> Result<Option<u64>> {
    let mut meter = display.phase("Copying and hashing the ledger", size);
    let mut progress = |done| {
        meter.set(done, None);
        !stop.is_cancelled()
    };
    piped(ledger, |from| draft.add_file(&[], from, &mut progress))
}

/// Copies, takes out of the copy what is private, and hashes what is left. Gives the length, or `None`
/// when asked to stop.
///
/// Only the copy holds a reader slot of the node, so it is not slowed down by anything else.
fn scrubbed(
    ledger: &LiveLedger,
    size: u64,
    draft: &mut Draft,
    display: &Display,
    stop: &CancellationToken,
) -> Result<Option<u64>> {
    let place = draft.content_path(&[]);
    let mut file = File::create(&place)
        .with_context(|| format!("cannot create the copy {}", place.display()))?;
    let copied = {
        let mut meter = display.phase("Copying the ledger", size);
        piped(ledger, |from| {
            let mut done = 0;
            let mut buffer = vec![0; PIPE];
            loop {
                let failed = |action| {
                    let path = place.clone();
                    move |source| StoreError::Io {
                        action,
                        path,
                        source,
                    }
                };
                let read = from
                    .read(&mut buffer)
                    .map_err(failed("read the ledger into"))?;
                if read == 0 {
                    return Ok(done);
                }
                let bytes = buffer.get(..read).unwrap_or_default();
                file.write_all(bytes).map_err(failed("write"))?;
                done += read as u64;
                meter.set(done, None);
                if stop.is_cancelled() {
                    return Err(StoreError::Cancelled);
                }
            }
        })?
    };
    drop(file);
    if copied.is_none() {
        return Ok(None);
    }
    let report = {
        let _meter = display.phase("Taking peers and votes out of the copy", 0);
        nano_ledger::scrub_copy(&place)?
    };
    for (table, rows) in &report.cleared {
        info!(table, rows = %Count(*rows), "not published");
    }
    info!(
        pages = %Count(report.pages_in_use + report.pages_stale),
        trimmed = %Count(report.pages_trimmed),
        "overwrote what was left of them"
    );
    let mut meter = display.phase("Hashing the copy", size);
    let added = draft.add_present(&[], &mut |done| {
        meter.set(done, None);
        !stop.is_cancelled()
    });
    match added {
        Err(StoreError::Cancelled) => Ok(None),
        added => Ok(Some(added?)),
    }
}

/// Copies through a pipe to whoever reads it. Gives what that gives, or `None` when asked to stop.
fn piped(
    ledger: &LiveLedger,
    read: impl FnOnce(&mut File) -> Result<u64, StoreError>,
) -> Result<Option<u64>> {
    let (from, into) = pipe_with(PipeFlags::CLOEXEC).context("cannot make a pipe")?;
    // A smaller pipe only costs more changes between threads.
    let _ = fcntl_setpipe_size(&into, PIPE);
    let (mut from, mut into) = (File::from(from), File::from(into));
    let (copied, added) = thread::scope(|scope| {
        let copying = scope.spawn(move || ledger.copy_to(&mut into));
        let added = read(&mut from);
        // Ends a copy that nobody reads any longer.
        drop(from);
        let copied = copying
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (copied, added)
    });
    match (copied, added) {
        (_, Err(StoreError::Cancelled)) => Ok(None),
        // The reader's failure made the copy fail.
        (Err(CopyError::ReaderGone) | Ok(()), Err(error)) => Err(error.into()),
        (Err(error), _) => Err(error.into()),
        (Ok(()), Ok(length)) => Ok(Some(length)),
    }
}

/// A directory in `incoming/`, removed again unless it is adopted.
struct Build {
    dir: PathBuf,
    /// Keeps others from cleaning it up.
    _lock: DirLock,
}

impl Build {
    fn begin(data: &DataDir) -> Result<Self> {
        let (dir, lock) = data.new_build()?;
        Ok(Self { dir, _lock: lock })
    }

    fn adopt(self, data: &DataDir, id: InfoHashV2) -> Result<PathBuf> {
        data.adopt(&self.dir, id, &data.lock()?)
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        // Gone already when it was adopted; what cannot be removed now, the next command cleans.
        let _ = fs::remove_dir_all(&self.dir);
    }
}
