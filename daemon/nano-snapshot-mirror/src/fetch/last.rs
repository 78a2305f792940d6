//! Extracting what is given up by that.

use anyhow::{Context as _, Result, bail};
use bittorrent_protocol::InfoHashV2;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::extracted::Extracted;
use super::{Ended, install};
use crate::catalogue::{self, Entry};
use crate::data_dir::{DataDir, StoreLock};
use crate::extract::{self, Method};
use crate::ledger_policy::{LedgerPolicy, Verdict};
use crate::ledger_record::LedgerRecord;
use crate::pins;
use crate::progress::Display;
use crate::space;
use crate::stream::Stream;
use crate::unpack::{Unpack, Unpacked};

/// What is done after seeding ended, with the network closed.
pub(super) struct Last<'a> {
    pub(super) data: &'a DataDir,
    pub(super) stream: &'a Stream,
    pub(super) id: InfoHashV2,
    pub(super) policy: &'a LedgerPolicy,
    pub(super) display: &'a Display,
    pub(super) stop: &'a CancellationToken,
}

impl Last<'_> {
    /// Extracts an archive that nobody else uses and gives it up on the way.
    pub(super) fn extract_discarding(&self) -> Result<Ended> {
        let (data, id) = (self.data, self.id);
        let Some(owned) = data.own_snapshot(id)? else {
            bail!(
                "another process uses snapshot {id}: its archive cannot be discarded; run without \
                 --discard-archive, or stop that process"
            );
        };
        let dir = data.snapshot(id);
        let info = catalogue::read_info(&dir)?;
        catalogue::note_discarded(&dir)?;
        let unpack = Unpack::new(data, id, self.policy, self.display, self.stop.clone());
        let unpacked = unpack.whole(&info, true);
        let archived = match unpacked {
            Ok(Unpacked::Ready(archived)) => archived,
            Ok(Unpacked::Stopped | Unpacked::NeedsWhole) => return Ok(Ended::Interrupted),
            Err(error) => {
                let found = LedgerRecord::load(&dir);
                let verdict = self.policy.judge_record(found.as_ref());
                if matches!(verdict, Verdict::Refused(_)) {
                    // Nothing of it is left that could be used or looked at again.
                    drop(owned);
                    self.remove(&data.lock()?)?;
                }
                return Err(error);
            }
        };
        install(data, id, *archived)?;
        drop(owned);
        self.remove(&data.lock()?)?;
        info!(snapshot = %id, "discarded: it is not seeded any longer");
        Ok(Ended::Done)
    }

    /// Removes the snapshot, and the links to it.
    fn remove(&self, lock: &StoreLock) -> Result<()> {
        for (name, current) in self.data.streams_with_current()? {
            if current == self.id {
                self.data.clear_current(&name, lock)?;
            }
        }
        self.data.remove_snapshot(self.id, lock)?;
        Ok(())
    }

    /// Puts a plain ledger into its place on file systems without reflinks: by moving it out of the
    /// store, or by copying when another process uses the snapshot.
    pub(super) fn extract(&self) -> Result<Ended> {
        let (data, id) = (self.data, self.id);
        let target = data.root().join("data.ldb");
        let lock = data.lock()?;
        let Some(Entry::Whole(generation)) = catalogue::look(data, id) else {
            bail!("snapshot {id} went away before it could be extracted");
        };
        let content = catalogue::plain_ledger(&generation.dir, &generation.store.info())
            .context("the snapshot is no plain ledger")?;
        let size = generation.store.layout().content_length();
        let dir_lock = generation.lock;
        drop(generation.store);
        drop(dir_lock);
        let pinned = pins::is_pinned(&data.snapshot(id));
        if let Some(owned) = data.own_snapshot(id)?.filter(|_| !pinned) {
            extract::by_move(&content, &target)?;
            drop(owned);
            self.remove(&lock)?;
            Extracted::note(data, id, Method::Move)?;
            info!(
                stream = self.stream.name.as_str(),
                "moved out of the store: it is not seeded any longer"
            );
            return Ok(Ended::Done);
        }
        // A shared lock keeps the content where it is while it is copied.
        let _in_use = data
            .share_snapshot(id)?
            .context("another process is writing the snapshot")?;
        drop(lock);
        space::ensure(data, size, "the copy of the ledger")?;
        let mut meter = self.display.phase("Copying the ledger", size);
        let done = extract::by_copy(&content, &target, &mut |done| {
            meter.set(done, None);
            !self.stop.is_cancelled()
        })?;
        if !done {
            // The snapshot itself is whole.
            return Ok(Ended::Interrupted);
        }
        Extracted::note(data, id, Method::Copy)?;
        Ok(Ended::Done)
    }
}
