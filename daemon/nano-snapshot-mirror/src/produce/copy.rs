//! Copying a ledger that a node may be writing to, or out of an archive.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::ControlFlow;
use std::path::Path;
use std::thread;

use anyhow::{Context as _, Result};
use bittorrent_store::StoreError;
use bittorrent_store::create::Draft;
use nano_ledger::archive::{self, ExtractError, ExtractOptions};
use nano_ledger::{CopyError, LiveLedger};
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};
use tokio_util::sync::CancellationToken;

use super::making::{Checkpoints, Making, Stage};
use crate::progress::Display;
use crate::space;

/// Bytes on the way from the copy to whoever takes it; the most an ordinary user may ask for.
const PIPE: usize = 1 << 20;

/// Copies and hashes in one pass. Gives the length, or `None` when asked to stop.
pub(super) fn into_draft(
    ledger: &LiveLedger,
    size: u64,
    draft: &mut Draft,
    making: &mut Making,
    display: &Display,
    stop: &CancellationToken,
) -> Result<Option<u64>> {
    let mut meter = display.phase("Copying and hashing the ledger", size);
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
        piped(
            |into| ledger.copy_to(into),
            |from| draft.add_file(&[], from, &mut progress),
        )
    })
}

/// Copies to `place`, from where an interrupted copy is on disk. Gives the length, or `None` when asked
/// to stop.
pub(super) fn into_file(
    ledger: &LiveLedger,
    size: u64,
    place: &Path,
    making: &mut Making,
    display: &Display,
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
        // Nothing behind what was synced is believed.
        file.set_len(from)?;
        file.seek(SeekFrom::Start(from))?;
        Ok::<_, std::io::Error>(file)
    };
    let mut file =
        create().with_context(|| format!("cannot create the copy {}", place.display()))?;
    let mut meter = display.phase("Copying the ledger", size);
    let checkpoints = Checkpoints {
        making,
        ledger,
        copy: place,
        from,
    };
    let copy = |into: &mut File| match &state {
        Some(state) => ledger.copy_rest_to(state, from, into),
        None => ledger.copy_to(into),
    };
    checkpoints.beside(|written| {
        piped(copy, |source| {
            let mut done = from;
            let mut buffer = vec![0; PIPE];
            loop {
                let failed = |action| {
                    let path = place.to_owned();
                    move |source| StoreError::Io {
                        action,
                        path,
                        source,
                    }
                };
                let read = source
                    .read(&mut buffer)
                    .map_err(failed("read the ledger into"))?;
                if read == 0 {
                    return Ok(done);
                }
                let bytes = buffer.get(..read).unwrap_or_default();
                file.write_all(bytes).map_err(failed("write"))?;
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

/// Extracts the ledger from the archive at `from` to `place`. `false` when asked to stop.
pub(super) fn out_of_archive(
    from: &Path,
    place: &Path,
    display: &Display,
    stop: &CancellationToken,
) -> Result<bool> {
    let dir = place.parent().unwrap_or(Path::new("/"));
    let mut meter = None;
    let mut short = None;
    let options = ExtractOptions::new(space::of_disk(dir)?);
    let extracted = archive::extract_file(from, place, options, |progress| {
        if let Some(len) = progress.ledger_len {
            if meter.is_none() {
                let needed = len.saturating_sub(progress.ledger_bytes);
                short = space::ensure(dir, needed, "the ledger in the archive").err();
            }
            meter
                .get_or_insert_with(|| display.phase("Extracting the ledger", len))
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

/// Copies through a pipe to whoever reads it. Gives what that gives, or `None` when asked to stop.
fn piped(
    copy: impl FnOnce(&mut File) -> Result<(), CopyError> + Send,
    read: impl FnOnce(&mut File) -> Result<u64, StoreError>,
) -> Result<Option<u64>> {
    let (from, into) = pipe_with(PipeFlags::CLOEXEC).context("cannot make a pipe")?;
    // A smaller pipe only costs more changes between threads.
    let _ = fcntl_setpipe_size(&into, PIPE);
    let (mut from, mut into) = (File::from(from), File::from(into));
    let (copied, added) = thread::scope(|scope| {
        let copying = scope.spawn(move || copy(&mut into));
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
