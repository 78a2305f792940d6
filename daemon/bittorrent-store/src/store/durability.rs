//! Makes verified blocks durable, claims them on disk, and revokes claims.
//!
//! Locks are taken in this order: `claims`, `pending`.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};

use bittorrent_protocol::{BlockIndex, FileIndex, Layout, MerkleHash};

use super::block_states::BlockStates;
use super::stored_files::StoredFiles;
use crate::error::StoreError;
use crate::record::claims::ClaimsRecord;
use crate::record::journal::{self, Journal};
use crate::sync::lock;

/// What a checkpoint made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checkpoint {
    /// Blocks that were verified before and are claimed now.
    pub blocks: u64,
}

/// The verified blocks that are not claimed yet, the claims on disk, and the journal between them.
#[derive(Debug)]
pub(super) struct Durability {
    pending: Mutex<Pending>,
    /// Locked during a checkpoint, so that checkpoints follow each other.
    claims: Mutex<Claims>,
    /// The number of blocks in `pending`, for threads that must not wait for a disk thread.
    dirty: AtomicU64,
    sealed: AtomicBool,
}

/// What was verified since the last checkpoint.
#[derive(Debug, Default)]
struct Pending {
    window: Window,
    /// The number of durable blocks, set in [`Claims`], whose claims could not be written.
    synced: u64,
    /// `None` when sealed.
    journal: Option<Journal>,
}

/// Verified blocks that are not claimed yet.
#[derive(Debug, Default)]
struct Window {
    blocks: Vec<BlockIndex>,
    /// The numbers of their files.
    files: BTreeSet<u32>,
}

/// The claims as they are on disk, or as the next write makes them.
#[derive(Debug)]
struct Claims {
    words: Vec<u64>,
    /// The epoch of the claims on disk. The journal has the same epoch, or the next one after a
    /// checkpoint that failed half-way.
    epoch: u64,
    /// The claims on disk differ from these, or may differ.
    stale: bool,
}

impl Claims {
    fn get(&self, number: u64) -> bool {
        self.words[(number / 64) as usize] >> (number % 64) & 1 == 1
    }

    fn set(&mut self, number: u64) {
        self.words[(number / 64) as usize] |= 1 << (number % 64);
    }

    fn clear(&mut self, number: u64) {
        self.words[(number / 64) as usize] &= !(1 << (number % 64));
    }

    /// Writes the claims to disk, with an epoch.
    fn write(&mut self, files: &StoredFiles, epoch: u64, sealed: bool) -> Result<(), StoreError> {
        ClaimsRecord {
            torrent: files.torrent_id(),
            epoch,
            sealed,
            identities: files.identities(),
            words: if sealed {
                Vec::new()
            } else {
                self.words.clone()
            },
        }
        .write(files.paths(), files.io())?;
        self.epoch = epoch;
        self.stale = false;
        Ok(())
    }
}

impl Durability {
    /// Makes the state of a generation that claims nothing, as of an epoch.
    pub(super) fn new(layout: &Layout, epoch: u64, sealed: bool) -> Self {
        Self {
            pending: Mutex::default(),
            claims: Mutex::new(Claims {
                words: vec![0; layout.block_numbers().div_ceil(64) as usize],
                epoch,
                stale: false,
            }),
            dirty: AtomicU64::new(0),
            sealed: AtomicBool::new(sealed),
        }
    }

    /// Returns whether the content is complete and read-only.
    pub(super) fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    /// Turns a sealed state that was found damaged at the start into an unsealed one.
    pub(super) fn unsealed(self) -> Self {
        Self {
            sealed: AtomicBool::new(false),
            ..self
        }
    }

    /// Returns the epoch of the claims on disk.
    pub(super) fn epoch(&self) -> u64 {
        self.claims().epoch
    }

    /// Returns the number of blocks that are verified and not claimed yet.
    pub(super) fn dirty_blocks(&self) -> u64 {
        self.dirty.load(Ordering::Relaxed)
    }

    /// Takes over a claim that was found on disk, or that is true of content that was just written.
    pub(super) fn restore_claims(&self, numbers: impl Iterator<Item = u64>) {
        let mut claims = self.claims();
        for number in numbers {
            claims.set(number);
        }
    }

    /// Adds a block that the journal of an earlier process names and that was found good.
    pub(super) fn restore_pending(&self, file: FileIndex, block: BlockIndex) {
        let mut pending = self.pending();
        pending.window.blocks.push(block);
        pending.window.files.insert(file.get());
    }

    /// Claims the restored blocks, as of the next epoch, and starts its journal. Until the claims are
    /// written the old journals stay as they are.
    pub(super) fn settle(
        &self,
        files: &StoredFiles,
        blocks: &BlockStates,
        epoch: u64,
    ) -> Result<(), StoreError> {
        let mut claims = self.claims();
        let window = std::mem::take(&mut self.pending().window);
        self.claim(files, blocks, &mut claims, window, epoch)?;
        let mut pending = self.pending();
        pending.journal = Some(new_journal(files, epoch)?);
        self.count_dirty(&pending);
        Ok(())
    }

    /// Counts blocks of one file as verified, given by number with their leaves, and journals them.
    ///
    /// # Errors
    ///
    /// [`StoreError::Lost`] when one was lost since it was written, and when the journal cannot be
    /// written. None of the blocks is then verified.
    pub(super) fn mark_verified(
        &self,
        files: &StoredFiles,
        blocks: &BlockStates,
        file: FileIndex,
        leaves: &[(u64, MerkleHash)],
    ) -> Result<(), StoreError> {
        let mut pending = self.pending();
        let lost = leaves
            .iter()
            .filter(|(number, _)| blocks.is_lost(*number))
            .find_map(|(number, _)| files.block_of(*number));
        if let Some(block) = lost {
            return Err(StoreError::Lost { block });
        }
        if let Some(journal) = &mut pending.journal {
            journal.append(files.paths(), leaves)?;
        }
        for (number, _) in leaves {
            if let Some(block) = files.block_of(*number)
                && blocks.set_verified(*number)
            {
                pending.window.blocks.push(block);
            }
        }
        if !leaves.is_empty() {
            pending.window.files.insert(file.get());
        }
        self.count_dirty(&pending);
        Ok(())
    }

    /// Makes verified blocks durable and claims them; see [`TorrentStore::checkpoint`].
    ///
    /// [`TorrentStore::checkpoint`]: crate::TorrentStore::checkpoint
    pub(super) fn checkpoint(
        &self,
        files: &StoredFiles,
        blocks: &BlockStates,
    ) -> Result<Checkpoint, StoreError> {
        let mut claims = self.claims();
        let (window, epoch) = {
            let mut pending = self.pending();
            if pending.window.blocks.is_empty() && !claims.stale {
                return Ok(Checkpoint::default());
            }
            let current = pending.journal.as_ref().map(Journal::epoch);
            let epoch = match current {
                // The checkpoint before started this journal and failed: the other journal still has
                // the blocks of its window.
                Some(current) if current > claims.epoch => current,
                // From here on the other journal is written. So this one keeps the blocks of the
                // window in case the process ends before the claims are written.
                _ => {
                    pending.journal = Some(new_journal(files, claims.epoch + 1)?);
                    claims.epoch + 1
                }
            };
            let window = std::mem::take(&mut pending.window);
            self.count_dirty(&pending);
            (window, epoch)
        };
        self.claim(files, blocks, &mut claims, window, epoch)
    }

    /// Makes a window durable, then its claims.
    fn claim(
        &self,
        files: &StoredFiles,
        blocks: &BlockStates,
        claims: &mut Claims,
        window: Window,
        epoch: u64,
    ) -> Result<Checkpoint, StoreError> {
        let synced = files.contents().sync(&window.files);
        match synced.and_then(|()| files.leaves().sync(&window.files)) {
            Ok(()) => {}
            // A closed file could not be opened to be synced. Nothing is lost, so the next checkpoint syncs this window too.
            Err(source) if source.is_busy() => {
                let mut pending = self.pending();
                pending.window.blocks.extend(window.blocks);
                pending.window.files.extend(window.files);
                self.count_dirty(&pending);
                return Err(source);
            }
            Err(source) => return Err(self.forget(files, blocks, claims, window, source)),
        }
        for block in &window.blocks {
            claims.set(files.layout().block_number(*block));
        }
        let fresh = window.blocks.len() as u64;
        // They are durable from here on, even if writing the claims fails. The disk may then claim
        // them or not, so they must stay verified: otherwise they could be overwritten while they are
        // claimed.
        claims.stale |= fresh > 0;
        let written = claims.write(files, epoch, false);
        let mut pending = self.pending();
        let count = pending.synced + fresh;
        pending.synced = if written.is_ok() { 0 } else { count };
        self.count_dirty(&pending);
        written.map(|()| Checkpoint { blocks: count })
    }

    /// After a failed sync nothing since the last good one can be trusted: neither what was verified
    /// while it ran, nor what was written and is to be verified later. The kernel reports a lost page
    /// once, then calls it clean and still returns what was written to it.
    fn forget(
        &self,
        files: &StoredFiles,
        blocks: &BlockStates,
        claims: &Claims,
        mut window: Window,
        source: StoreError,
    ) -> StoreError {
        let mut pending = self.pending();
        window.blocks.append(&mut pending.window.blocks);
        pending.window = Window::default();
        self.count_dirty(&pending);
        for block in &window.blocks {
            blocks.revoke(files.layout().block_number(*block));
        }
        blocks.lose_touched(|number| claims.get(number));
        // The blocks in the journals are gone, unless the journals have blocks that the disk does not
        // claim yet. Where the journals stay, their blocks are read from the disk before they count.
        let epoch = pending
            .journal
            .as_ref()
            .map_or(claims.epoch, Journal::epoch);
        if !claims.stale
            && journal::discard(files.paths(), files.io()).is_ok()
            && let Ok(journal) = new_journal(files, epoch)
        {
            pending.journal = Some(journal);
        }
        StoreError::SyncFailed {
            lost: window.blocks,
            source: Box::new(source),
        }
    }

    /// Seals a generation whose checkpoint has just been made.
    ///
    /// # Errors
    ///
    /// [`StoreError::Incomplete`] when blocks were revoked after that, and when the disk fails.
    pub(super) fn seal(&self, files: &StoredFiles, blocks: &BlockStates) -> Result<(), StoreError> {
        let mut claims = self.claims();
        blocks.check_complete()?;
        let mut leaves = BTreeSet::new();
        for file in files.contents().all() {
            files.contents().seal(file)?;
            leaves.insert(file.get());
        }
        files.leaves().sync(&leaves)?;
        // The journals so far belong to no claims from here on.
        let epoch = claims.epoch + 2;
        claims.write(files, epoch, true)?;
        let mut pending = self.pending();
        pending.journal = None;
        self.sealed.store(true, Ordering::Release);
        drop(pending);
        // Opened again to be read, they stay sealed.
        files.contents().set_writable(false);
        // The generation is sealed with or without the journals; they take a megabyte at most.
        let _ = journal::remove(files.paths(), files.io());
        Ok(())
    }

    /// Revokes blocks; see [`TorrentStore::revoke`].
    ///
    /// [`TorrentStore::revoke`]: crate::TorrentStore::revoke
    pub(super) fn revoke(
        &self,
        files: &StoredFiles,
        blocks: &BlockStates,
        revoked: &[BlockIndex],
    ) -> Result<(), StoreError> {
        let mut claims = self.claims();
        let mut pending = self.pending();
        let layout = files.layout();
        for block in revoked {
            let number = layout.block_number(*block);
            blocks.revoke(number);
            claims.clear(number);
        }
        let window = &mut pending.window.blocks;
        window.retain(|block| blocks.is_verified(layout.block_number(*block)));
        self.sealed.store(false, Ordering::Release);
        drop(pending);
        claims.stale = true;
        let epoch = claims.epoch;
        let written = claims.write(files, epoch, false);
        files.contents().set_writable(true);
        let mut pending = self.pending();
        if written.is_ok() {
            pending.synced = 0;
            // A generation that was sealed has none.
            if pending.journal.is_none() {
                pending.journal = Some(new_journal(files, epoch)?);
            }
        }
        self.count_dirty(&pending);
        written
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        lock(&self.pending)
    }

    fn claims(&self) -> MutexGuard<'_, Claims> {
        lock(&self.claims)
    }

    /// Publishes the number of pending blocks. To be called after every change of the window.
    fn count_dirty(&self, pending: &Pending) {
        let blocks = pending.window.blocks.len() as u64 + pending.synced;
        self.dirty.store(blocks, Ordering::Relaxed);
    }
}

/// Starts the journal of an epoch, over that of the epoch before the last.
fn new_journal(files: &StoredFiles, epoch: u64) -> Result<Journal, StoreError> {
    Journal::start(files.paths(), files.io(), files.torrent_id(), epoch)
}
