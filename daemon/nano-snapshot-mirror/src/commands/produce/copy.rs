//! Copies a ledger that a node may be writing to, or extracts one from an archive.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::ControlFlow;
use std::path::Path;

use anyhow::{Context as _, Result};
use bittorrent_store::StoreError;
use bittorrent_store::create::Draft;
use ledger_archive::{ExtractError, ExtractOptions};
use nano_ledger::LiveLedger;
use snapshot_store::{Stage, space};
use tokio_util::sync::CancellationToken;

use super::copying::{Copying, PIPE, Rest};
use super::making::{Checkpoints, Making};
use crate::progress::{ProgressDisplay, WorkKind};

/// Copies and hashes in one pass. Returns the length, or `None` when cancelled.
pub(super) fn into_draft(
    ledger: &LiveLedger,
    size: u64,
    draft: &mut Draft,
    making: &mut Making,
    display: &ProgressDisplay,
    stop: &CancellationToken,
) -> Result<Option<u64>> {
    let mut meter = display.start(WorkKind::CopyAndHash, size);
    let copy = draft.content_path(&[]);
    let checkpoints = Checkpoints {
        making,
        ledger,
        copy: &copy,
        from: 0,
    };
    checkpoints.beside(|written| {
        let mut progress = |done| {
            meter.set(done, None);
            written(done);
            !stop.is_cancelled()
        };
        copied(ledger, None, |from| {
            draft.add_file(&[], from, &mut progress)
        })
    })
}

/// Copies to `place`, and resumes from the durable bytes of an interrupted copy. Returns the length, or `None` when
/// cancelled.
pub(super) fn into_file(
    ledger: &LiveLedger,
    size: u64,
    place: &Path,
    making: &mut Making,
    display: &ProgressDisplay,
    stop: &CancellationToken,
) -> Result<Option<u64>> {
    let (from, state) = match making.stage() {
        Stage::Copying { durable, state } => (*durable, Some(state.clone())),
        _ => (0, None),
    };
    let create = || {
        let mut options = File::options();
        let mut file = options
            .create(true)
            .truncate(false)
            .write(true)
            .open(place)?;
        // Discards all bytes after those that were synced.
        file.set_len(from)?;
        file.seek(SeekFrom::Start(from))?;
        Ok::<_, std::io::Error>(file)
    };
    let mut file =
        create().with_context(|| format!("cannot create the copy {}", place.display()))?;
    let mut meter = display.start(WorkKind::CopyLedger, size);
    let checkpoints = Checkpoints {
        making,
        ledger,
        copy: place,
        from,
    };
    let rest = state.as_deref().map(|state| Rest { state, from });
    checkpoints.beside(|written| {
        copied(ledger, rest, |source| {
            let mut done = from;
            let mut buffer = vec![0; PIPE];
            loop {
                let read = source
                    .read(&mut buffer)
                    .map_err(|source| StoreError::Source { source })?;
                if read == 0 {
                    return Ok(done);
                }
                let bytes = buffer.get(..read).unwrap_or_default();
                file.write_all(bytes).map_err(|source| StoreError::Write {
                    path: place.to_owned(),
                    source,
                })?;
                done += read as u64;
                meter.set(done, None);
                written(done);
                if stop.is_cancelled() {
                    return Err(StoreError::Cancelled);
                }
            }
        })
    })
}

/// Extracts the ledger from the archive at `from` to `place`. Returns `false` when cancelled.
pub(super) fn out_of_archive(
    from: &Path,
    place: &Path,
    display: &ProgressDisplay,
    stop: &CancellationToken,
) -> Result<bool> {
    let dir = place.parent().unwrap_or(Path::new("/"));
    let mut meter = None;
    let mut short = None;
    let options = ExtractOptions::new(space::of_disk(dir)?);
    let extracted = ledger_archive::extract_file(from, place, options, |progress| {
        if let Some(len) = progress.ledger_len {
            if meter.is_none() {
                let needed = len.saturating_sub(progress.ledger_bytes);
                short = space::ensure(dir, needed, "the ledger in the archive")
                    .map_err(anyhow::Error::from)
                    .err();
            }
            meter
                .get_or_insert_with(|| display.start(WorkKind::ExtractLedger, len))
                .set(progress.ledger_bytes, None);
        }
        if short.is_some() || stop.is_cancelled() {
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    });
    match (extracted, short) {
        (_, Some(error)) => Err(error),
        (Err(ExtractError::Stopped), None) => Ok(false),
        (extracted, None) => {
            extracted?.install()?;
            Ok(true)
        }
    }
}

/// Copies in a child process and passes its output to `read`. Returns the result of `read`, or `None` when cancelled.
fn copied(
    ledger: &LiveLedger,
    rest: Option<Rest<'_>>,
    read: impl FnOnce(&mut File) -> Result<u64, StoreError>,
) -> Result<Option<u64>> {
    let mut copying = Copying::start(ledger, rest)?;
    match read(copying.bytes()?) {
        Err(StoreError::Cancelled) => Ok(None),
        Err(error) => Err(error.into()),
        Ok(length) => copying.finish().map(|()| Some(length)),
    }
}
