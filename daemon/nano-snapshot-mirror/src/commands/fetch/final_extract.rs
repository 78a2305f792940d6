//! Extraction that takes the snapshot out of the store.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use bittorrent_protocol::InfoHashV2;
use bittorrent_store::TorrentStore;
use snapshot_store::{
    DataDir, Entry, LedgerRecord, Mark, ScrubProgress, SnapshotDir, StoreLock, space,
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::extracted::{Extracted, New};
use crate::commands::install::place::LedgerPlace;
use crate::commands::outcome::Outcome;
use crate::ledger::extract::{self, Method};
use crate::ledger::policy::{LedgerPolicy, Verdict};
use crate::ledger::published::{Damaged, Published};
use crate::ledger::unpack::{Unpack, Unpacked};
use crate::pointers::stream::Stream;
use crate::progress::{ProgressDisplay, WorkKind};

/// The extraction that runs after seeding, when the network is closed.
pub(super) struct FinalExtract<'a> {
    pub(super) data: &'a DataDir,
    pub(super) stream: &'a Stream,
    pub(super) id: InfoHashV2,
    pub(super) policy: &'a LedgerPolicy,
    pub(super) allow_older: bool,
    pub(super) display: &'a ProgressDisplay,
    pub(super) stop: &'a CancellationToken,
}

impl FinalExtract<'_> {
    /// Extracts an archive that no other process uses, and deletes its parts on the way.
    pub(super) fn extract_discarding(&self) -> Result<Outcome> {
        let (data, id) = (self.data, self.id);
        let place = LedgerPlace::of_data_dir(data.root())?;
        let Some(owned) = data.own_snapshot(id)? else {
            bail!(
                "another process uses snapshot {id}: its archive cannot be discarded; run without \
                 --discard-archive, or stop that process"
            );
        };
        let dir = data.snapshot(id);
        let info = dir.read_info()?;
        Mark::Discarded.set(&dir)?;
        let unpack = Unpack::new(data, id, self.policy, self.display, self.stop.clone());
        let unpacked = unpack.whole(&info, true);
        let archived = match unpacked {
            Ok(Unpacked::Ready(archived)) => archived,
            Ok(Unpacked::Stopped | Unpacked::NeedsWhole) => return Ok(Outcome::Interrupted),
            Err(error) => {
                let found = LedgerRecord::load(&dir);
                let verdict = self.policy.judge_record(found.as_ref());
                let is_lost = Damaged::of(&error).is_some();
                if is_lost || matches!(verdict, Verdict::Refused(_)) {
                    // The archive is partly deleted: there is nothing to resume from or to inspect.
                    drop(owned);
                    self.remove(&data.lock()?)?;
                }
                return Err(if is_lost {
                    error.context(
                        "the snapshot was removed; run the same command again to fetch it again",
                    )
                } else {
                    error
                });
            }
        };
        Extracted::put(data, &place, id, New::Archived(archived), self.allow_older)?;
        drop(owned);
        self.remove(&data.lock()?)?;
        info!(snapshot = %id, "discarded: it is not seeded any longer");
        Ok(Outcome::Done)
    }

    /// Removes the snapshot and the `current` links to it.
    fn remove(&self, lock: &StoreLock) -> Result<()> {
        for (name, current) in self.data.streams_with_current()? {
            if current == self.id {
                self.data.clear_current(&name, lock)?;
            }
        }
        self.data.remove_snapshot(self.id, lock)?;
        Ok(())
    }

    /// Completes the work of an interrupted run after the ledger was put in place: in the data directory and in the
    /// store.
    pub(super) fn complete(&self) -> Result<Outcome> {
        let place = LedgerPlace::of_data_dir(self.data.root())?;
        Extracted::complete(&place)?;
        let lock = self.data.lock()?;
        let dir = self.data.snapshot(self.id);
        let has_left = Mark::Discarded.is_set(&dir)
            || dir.read_info().is_ok_and(|info| {
                dir.ledger_path(&info)
                    .is_some_and(|content| content.symlink_metadata().is_err())
            });
        if has_left {
            self.remove(&lock)?;
            info!(snapshot = %self.id, "removed the rest of the snapshot: its ledger was moved out of the store");
        }
        Ok(Outcome::Done)
    }

    /// Extracts a plain ledger on file systems without reflinks. Moves it out of the store, or copies it if it has to
    /// stay there.
    pub(super) fn extract(&self) -> Result<Outcome> {
        let (data, id) = (self.data, self.id);
        let place = LedgerPlace::of_data_dir(data.root())?;
        let lock = data.lock()?;
        let Some(Entry::Whole(generation)) = snapshot_store::open(data, id) else {
            bail!("snapshot {id} was removed before it could be extracted");
        };
        let content = generation
            .dir
            .plain_ledger(&generation.store.info())
            .context("the snapshot is not a plain ledger")?;
        let size = generation.store.layout().content_length();
        let dir = generation.dir;
        let dir_lock = generation.lock;
        drop(generation.store);
        drop(dir_lock);
        let pinned = Mark::Pinned.is_set(&dir);
        let owned = data
            .own_snapshot(id)?
            .filter(|_| !pinned && may_move(&content, place.parent()));
        if let Some(owned) = owned {
            drop(lock);
            let published = Published::read(&dir, id)?;
            let mut meter = self.display.start(WorkKind::CompareLedger, size);
            let compared = published.compare(&extract::open(&content)?, &content, &mut |done| {
                meter.set(done, None);
                !self.stop.is_cancelled()
            });
            drop(meter);
            let store = || Ok(Arc::new(dir.open()?));
            if !compared.map_err(|error| note_damage(error, store, &dir, self.stop))? {
                return Ok(Outcome::Interrupted);
            }
            Extracted::put(data, &place, id, New::Content(content), self.allow_older)?;
            drop(owned);
            self.remove(&data.lock()?)?;
            info!(
                stream = self.stream.name.as_str(),
                "moved out of the store: it is not seeded any longer"
            );
            return Ok(Outcome::Done);
        }
        // A shared lock keeps the content in place during the copy.
        let _in_use = data
            .share_snapshot(id)?
            .context("another process is writing the snapshot")?;
        drop(lock);
        space::ensure(data, size, "the copy of the ledger")?;
        let published = Published::read(&dir, id)?;
        let mut meter = self.display.start(WorkKind::CopyLedger, size);
        let copy = extract::by_copy(&content, place.ledger(), Some(&published), &mut |done| {
            meter.set(done, None);
            !self.stop.is_cancelled()
        });
        drop(meter);
        // Another process may have the snapshot open. Then that process, or `verify`, has to find all damage.
        let copy = copy.map_err(|error| match Damaged::of(&error) {
            Some(_) => error.context(
                "the ledger is not extracted; run `nano-snapshot-mirror verify` to find all damage, \
                 restart a mirror that runs here, and run the same command again",
            ),
            None => error,
        });
        let Some(copy) = copy? else {
            return Ok(Outcome::Interrupted);
        };
        Extracted::put(
            data,
            &place,
            id,
            New::Copy(copy, Method::Copy),
            self.allow_older,
        )?;
        Ok(Outcome::Done)
    }
}

/// If damaged content of the snapshot in `dir` caused `error`, finds all damage and adds that to the error. The next
/// run fetches the damaged blocks again.
pub(super) fn note_damage(
    error: anyhow::Error,
    store: impl FnOnce() -> Result<Arc<TorrentStore>>,
    dir: &SnapshotDir,
    stop: &CancellationToken,
) -> anyhow::Error {
    if Damaged::of(&error).is_none() {
        return error;
    }
    let find = || -> Result<usize> {
        let verification = store()?.verify_all(&|_| !stop.is_cancelled())?;
        let found = verification.damaged.len();
        ScrubProgress::add_damage(dir, found as u64)?;
        Ok(found)
    };
    match find() {
        Ok(found) => error.context(format!(
            "the ledger is not extracted, as {found} blocks of its snapshot are damaged on this disk; \
             run the same command again to fetch them again"
        )),
        Err(failed) => error.context(format!(
            "the ledger is not extracted, and not all damage of its snapshot was found ({failed:#}); \
             run `nano-snapshot-mirror verify` and then the same command again"
        )),
    }
}

/// Returns whether a rename can move the content: same file system, and no other hard links.
fn may_move(content: &Path, to: &Path) -> bool {
    let alone_on = |path: &Path| path.metadata().map(|found| (found.dev(), found.nlink()));
    match (alone_on(content), alone_on(to)) {
        (Ok((device, links)), Ok((other, _))) => links == 1 && device == other,
        _ => false,
    }
}
