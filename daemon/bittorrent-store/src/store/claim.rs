//! Claiming what is verified once it is durable, and taking claims back.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bittorrent_protocol::BlockIndex;

use super::{Claims, TorrentStore, Window};
use crate::bitmap::AtomicBitmap;
use crate::error::StoreError;
use crate::journal::{self, Journal};

/// What a checkpoint made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checkpoint {
    /// Blocks that were verified before and are claimed now.
    pub blocks: u64,
}

impl TorrentStore {
    /// Makes what is verified durable and claims it. Blocks verified meanwhile wait for the next one.
    ///
    /// # Errors
    ///
    /// [`StoreError::SyncFailed`] when the disk could not keep what was written since the last
    /// checkpoint: the kernel may have dropped it, so those blocks are no longer verified. They, and
    /// others that were written and not yet proven, have to be written again before they can be
    /// verified. After any other error the blocks stay verified and the next checkpoint tries again.
    pub fn checkpoint(&self) -> Result<Checkpoint, StoreError> {
        let mut claims = self.claims();
        let (window, epoch) = {
            let mut pending = self.pending();
            if pending.window.blocks.is_empty() && !claims.stale {
                return Ok(Checkpoint::default());
            }
            let current = pending.journal.as_ref().map(Journal::epoch);
            let epoch = match current {
                // The checkpoint before came as far as this and no further: the other journal still
                // tells of its window.
                Some(current) if current > claims.epoch => current,
                // From here on the other journal is written, so that this one still tells of the
                // window should the process end before the claims are written.
                _ => {
                    pending.journal = Some(self.new_journal(claims.epoch + 1)?);
                    claims.epoch + 1
                }
            };
            pending.since = None;
            let window = std::mem::take(&mut pending.window);
            self.count_dirty(&pending);
            (window, epoch)
        };
        self.claim(&mut claims, window, epoch)
    }

    /// Makes a window durable, then its claims.
    pub(super) fn claim(
        &self,
        claims: &mut Claims,
        window: Window,
        epoch: u64,
    ) -> Result<Checkpoint, StoreError> {
        let synced = self.contents.sync(&window.files);
        if let Err(source) = synced.and_then(|()| self.leaves.sync(&window.files)) {
            return Err(self.forget(claims, window, source));
        }
        for block in &window.blocks {
            claims.set(self.layout().block_number(*block));
        }
        let fresh = window.blocks.len() as u64;
        // They are durable from here on, whatever becomes of the claims. Should these fail, the disk may
        // claim the blocks or not; so they must not be taken back, lest they be overwritten while they
        // are claimed.
        claims.stale |= fresh > 0;
        let written = self.write_progress(claims, epoch, false);
        let mut pending = self.pending();
        let blocks = pending.synced + fresh;
        pending.synced = if written.is_ok() { 0 } else { blocks };
        if written.is_err() {
            pending.since.get_or_insert_with(Instant::now);
        }
        self.count_dirty(&pending);
        written.map(|()| Checkpoint { blocks })
    }

    /// After a failed sync nothing since the last good one can be trusted, also what was verified
    /// while it ran, and what was written and is to be verified later: the kernel reports a lost page
    /// once, then calls it clean and still shows what was written to it.
    fn forget(&self, claims: &Claims, mut window: Window, source: StoreError) -> StoreError {
        let mut pending = self.pending();
        window.blocks.append(&mut pending.window.blocks);
        pending.window = Window::default();
        pending.since = None;
        self.count_dirty(&pending);
        let numbers = self.layout().block_numbers();
        let lost = self.lost.get_or_init(|| AtomicBitmap::new(numbers));
        for block in &window.blocks {
            self.verified.clear(self.layout().block_number(*block));
        }
        for number in 0..numbers {
            if self.touched.get(number) && !claims.get(number) {
                lost.set(number);
            }
        }
        // What the journals tell of is not there any more, unless they tell of blocks that the disk does
        // not claim yet. Where they stay, what they tell of is read from the disk before it is believed.
        let epoch = pending
            .journal
            .as_ref()
            .map_or(claims.epoch, Journal::epoch);
        if !claims.stale
            && journal::discard(&self.paths, &*self.io).is_ok()
            && let Ok(journal) = self.new_journal(epoch)
        {
            pending.journal = Some(journal);
        }
        StoreError::SyncFailed {
            lost: window.blocks,
            source: Box::new(source),
        }
    }

    /// Starts the journal of an epoch, over that of the epoch before the last.
    pub(super) fn new_journal(&self, epoch: u64) -> Result<Journal, StoreError> {
        Journal::start(&self.paths, &*self.io, self.torrent_id(), epoch)
    }

    /// Ends the writing of a complete generation: makes everything durable, forbids writing to the
    /// files and notes by what they are known again.
    ///
    /// # Errors
    ///
    /// [`StoreError::Incomplete`] when blocks are missing; else when the disk fails, see
    /// [`Self::checkpoint`]. It may be tried again.
    pub fn finish(&self) -> Result<(), StoreError> {
        if self.is_sealed() {
            return Ok(());
        }
        self.check_complete()?;
        self.checkpoint()?;
        let mut claims = self.claims();
        // Blocks may have been taken back meanwhile.
        self.check_complete()?;
        let mut leaves = BTreeSet::new();
        for file in self.contents.all() {
            self.contents.seal(file)?;
            leaves.insert(file.get());
        }
        self.leaves.sync(&leaves)?;
        // Journals so far belong to no claims from here on.
        let epoch = claims.epoch + 2;
        self.write_progress(&mut claims, epoch, true)?;
        let mut pending = self.pending();
        pending.journal = None;
        self.sealed.store(true, Ordering::Release);
        self.cloned.store(false, Ordering::Relaxed);
        drop(pending);
        // Opened again to be read, they stay sealed.
        self.contents.set_writable(false);
        // It is sealed with or without them; they take a megabyte at most.
        let _ = journal::remove(&self.paths, &*self.io);
        let _ = self.io.remove_file(&self.paths.cloned());
        Ok(())
    }

    fn check_complete(&self) -> Result<(), StoreError> {
        if self.is_complete() {
            return Ok(());
        }
        Err(StoreError::Incomplete {
            missing: self.total - self.verified_blocks(),
        })
    }

    /// Takes blocks back that were found bad on disk or are in doubt, durably: from then on they are
    /// missing and may be written, also where the files were sealed. The generation is no longer sealed;
    /// once they are there again, [`Self::finish`] seals it.
    ///
    /// # Errors
    ///
    /// When the disk fails; the blocks then count as missing all the same until the next start.
    pub fn unverify(&self, blocks: &[BlockIndex]) -> Result<(), StoreError> {
        let mut claims = self.claims();
        let mut pending = self.pending();
        for block in blocks {
            let number = self.layout().block_number(*block);
            self.verified.clear(number);
            claims.clear(number);
        }
        let window = &mut pending.window.blocks;
        window.retain(|block| self.is_block_verified(*block));
        self.sealed.store(false, Ordering::Release);
        drop(pending);
        claims.stale = true;
        let epoch = claims.epoch;
        let written = self.write_progress(&mut claims, epoch, false);
        self.contents.set_writable(true);
        let mut pending = self.pending();
        if written.is_ok() {
            pending.synced = 0;
            // Of a generation that was sealed.
            if pending.journal.is_none() {
                pending.journal = Some(self.new_journal(epoch)?);
            }
        }
        self.count_dirty(&pending);
        written
    }
}
