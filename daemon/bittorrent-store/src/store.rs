//! One torrent's content in a directory of its own.
//!
//! What is *verified* is written and proven, and may be served; what is *claimed* is verified and
//! durable, and is believed at the next start. A [checkpoint](TorrentStore::checkpoint) turns one
//! into the other, in this order: content, leaf hashes, claims.
//!
//! Locks are taken in this order: `gate`, `checkpoint`, `progress`.

mod adopt;
mod begin;
mod claim;
mod inspect;
mod open;
mod read;
mod room;
mod scrub;
mod verify;
mod write;

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Instant;

use bittorrent_protocol::metainfo::{Info, Metainfo};
use bittorrent_protocol::{
    BlockIndex, BlockSet, FileIndex, InfoHashV2, Layout, MerkleHash, PieceIndex,
};

use crate::bitmap::AtomicBitmap;
use crate::error::StoreError;
use crate::files::FileTable;
use crate::io::{Io, IoFile};
use crate::journal::Journal;
use crate::paths::Paths;
use crate::progress::Progress;

pub use begin::Clones;
pub use claim::Checkpoint;
pub use inspect::{Condition, Inspection};
pub use open::Recovery;
pub use read::{Extent, SharedFile};
pub use room::Room;
pub use scrub::{Damage, Scrub, ScrubCursor};
pub use verify::Verification;

/// The content of one torrent on disk, whole or in part. Shared by several threads; positioned
/// I/O only. At most 64 content files stay open, and 32 files of leaf hashes.
#[derive(Debug)]
pub struct TorrentStore {
    paths: Paths,
    io: Arc<dyn Io>,
    info: Arc<Info>,
    metainfo: RwLock<Arc<Metainfo>>,
    contents: FileTable,
    leaves: FileTable,
    verified: AtomicBitmap,
    /// Blocks that were written since the files were opened, proven or not.
    touched: AtomicBitmap,
    /// Content files of which nothing is in memory that an earlier process left there.
    forgotten: AtomicBitmap,
    /// Blocks that a failed sync may have lost, until they are written again. Made by the first one.
    lost: OnceLock<AtomicBitmap>,
    /// How many blocks there are.
    total: u64,
    /// How many blocks are in `progress`, for those who may not wait for a disk thread.
    dirty: AtomicU64,
    sealed: AtomicBool,
    /// Content files began as clones of old ones: what is written takes space though the file is full.
    cloned: AtomicBool,
    /// Shared while blocks are written, alone while blocks become verified: so no write that began
    /// before that can go on after it.
    gate: RwLock<()>,
    /// Held while `snapshot.torrent` is replaced.
    torrent_file: Mutex<()>,
    progress: Mutex<Pending>,
    /// Pieces that could not be read since [`TorrentStore::recheck_unreadable`] looked last.
    unreadable: Mutex<BTreeSet<PieceIndex>>,
    /// Held during a checkpoint, so that they follow each other.
    checkpoint: Mutex<Claims>,
}

/// What was verified since the last checkpoint.
#[derive(Debug, Default)]
struct Pending {
    window: Window,
    /// How many blocks are durable, and claimed here, whose claims could not be written.
    synced: u64,
    since: Option<Instant>,
    /// `None` when sealed.
    journal: Option<Journal>,
}

/// Verified blocks that are not claimed yet.
#[derive(Debug, Default)]
struct Window {
    blocks: Vec<BlockIndex>,
    /// The files they are in, by number.
    files: BTreeSet<u32>,
}

/// What is claimed on disk.
#[derive(Debug)]
struct Claims {
    words: Vec<u64>,
    /// Of the claims on disk. The journal's is the same, or one more after a checkpoint that failed
    /// half-way.
    epoch: u64,
    /// The disk claims, or may claim, something else.
    stale: bool,
}

impl Claims {
    fn none(layout: &Layout) -> Self {
        Self {
            words: vec![0; layout.block_numbers().div_ceil(64) as usize],
            epoch: 0,
            stale: false,
        }
    }

    fn get(&self, number: u64) -> bool {
        self.words[(number / 64) as usize] >> (number % 64) & 1 == 1
    }

    fn set(&mut self, number: u64) {
        self.words[(number / 64) as usize] |= 1 << (number % 64);
    }

    fn clear(&mut self, number: u64) {
        self.words[(number / 64) as usize] &= !(1 << (number % 64));
    }
}

impl TorrentStore {
    /// The torrent, with the piece layers known so far.
    pub fn metainfo(&self) -> Arc<Metainfo> {
        self.metainfo
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The info dictionary.
    pub fn info(&self) -> Arc<Info> {
        self.info.clone()
    }

    /// The piece space.
    pub fn layout(&self) -> &Arc<Layout> {
        self.info.layout()
    }

    /// The directory of the generation, as it was given.
    pub fn directory(&self) -> &Path {
        self.paths.root()
    }

    /// Where a content file lies.
    pub fn file_path(&self, file: FileIndex) -> PathBuf {
        self.paths.file(&self.info, file)
    }

    /// A copy of the set of verified blocks.
    pub fn verified(&self) -> BlockSet {
        BlockSet::from_words(self.layout(), self.verified.words())
    }

    /// How many blocks are verified.
    pub fn verified_blocks(&self) -> u64 {
        self.verified.count()
    }

    /// How many blocks there are.
    pub const fn total_blocks(&self) -> u64 {
        self.total
    }

    /// Whether every block is verified.
    pub fn is_complete(&self) -> bool {
        self.verified.count() == self.total
    }

    /// Whether the content is complete and can no longer be written.
    pub fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::Acquire)
    }

    /// Whether a block is verified.
    pub fn is_block_verified(&self, block: BlockIndex) -> bool {
        self.verified.get(self.layout().block_number(block))
    }

    /// Whether every block that `length` bytes from `begin` in a piece touch is verified. What lies
    /// past the content is padding, which is always there; past the piece, nothing is.
    pub fn is_range_verified(&self, piece: PieceIndex, begin: u32, length: u32) -> bool {
        let layout = self.layout();
        let end = u64::from(begin) + u64::from(length);
        if end > u64::from(layout.piece_length().bytes()) {
            return false;
        }
        let block = u64::from(bittorrent_protocol::BLOCK_LEN);
        let start = u64::from(piece.get()) * u64::from(layout.piece_length().blocks());
        let last = end.div_ceil(block).min(layout.block_count(piece).into());
        self.verified
            .all(start + u64::from(begin) / block..start + last)
    }

    /// Bytes verified and not yet claimed: what a power failure would cost.
    pub fn dirty_bytes(&self) -> u64 {
        self.dirty.load(Ordering::Relaxed) * u64::from(bittorrent_protocol::BLOCK_LEN)
    }

    /// Since when there has been something to claim.
    pub fn dirty_since(&self) -> Option<Instant> {
        self.pending().since
    }

    fn unreadable(&self) -> MutexGuard<'_, BTreeSet<PieceIndex>> {
        // Every state of a set is a good one.
        self.unreadable
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be called after every change of the window.
    fn count_dirty(&self, pending: &Pending) {
        let blocks = pending.window.blocks.len() as u64 + pending.synced;
        self.dirty.store(blocks, Ordering::Relaxed);
    }

    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.checkpoint
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn torrent_id(&self) -> InfoHashV2 {
        self.info.hashes().v2
    }

    /// The content file of a piece.
    fn content_of(&self, piece: PieceIndex) -> Result<(FileIndex, Arc<dyn IoFile>), StoreError> {
        let file = self.layout().file_of(piece);
        Ok((file, self.contents.get(file)?))
    }

    /// The numbers of a file's blocks in the torrent.
    pub(crate) fn numbers(&self, file: FileIndex) -> Range<u64> {
        let span = self.layout().file(file);
        let first = span.piece_indices().next().map_or(0, |piece| {
            u64::from(piece.get()) * u64::from(self.layout().piece_length().blocks())
        });
        first..first + span.blocks()
    }

    /// The number of a block in its file.
    fn number_in_file(&self, block: BlockIndex) -> u64 {
        let file = self.layout().file_of(block.piece());
        self.layout().block_number(block) - self.numbers(file).start
    }

    pub(crate) fn block_of(&self, number: u64) -> Option<BlockIndex> {
        let per_piece = u64::from(self.layout().piece_length().blocks());
        let piece = u32::try_from(number / per_piece).ok()?;
        self.layout()
            .block(self.layout().piece(piece)?, (number % per_piece) as u32)
    }

    /// Whether the disk may have lost what was written of a block.
    fn is_lost(&self, number: u64) -> bool {
        self.lost.get().is_some_and(|lost| lost.get(number))
    }

    /// The leaf hash kept for each of `count` blocks of a file, from one on: fewer when they are
    /// missing.
    pub(crate) fn kept_leaves(
        &self,
        file: FileIndex,
        first: u64,
        count: usize,
    ) -> Result<Vec<MerkleHash>, StoreError> {
        if !self.leaves.has(file) {
            return Ok(self.layout().file(file).root().into_iter().collect());
        }
        let leaves = self.leaves.get(file)?;
        let mut bytes = vec![0; count * MerkleHash::LEN];
        let offset = first * MerkleHash::LEN as u64;
        let read = crate::io::read_full(&*leaves, &mut bytes, offset)
            .map_err(self.leaves.failed("read", file))?;
        bytes.truncate(read);
        Ok(bytes
            .chunks_exact(MerkleHash::LEN)
            .filter_map(MerkleHash::from_slice)
            .collect())
    }

    /// Claims on disk what is claimed here, as of an epoch.
    fn write_progress(
        &self,
        claims: &mut Claims,
        epoch: u64,
        sealed: bool,
    ) -> Result<(), StoreError> {
        let numbered = (0..).zip(self.layout().files());
        let identities = numbered
            .map(|(number, _)| {
                let file = self.layout().file_index(number)?;
                self.contents.identity(file)
            })
            // Empty files are not looked at.
            .map(Option::unwrap_or_default)
            .collect();
        Progress {
            torrent: self.torrent_id(),
            epoch,
            sealed,
            identities,
            words: if sealed {
                Vec::new()
            } else {
                claims.words.clone()
            },
        }
        .write(&self.paths, &*self.io)?;
        claims.epoch = epoch;
        claims.stale = false;
        Ok(())
    }
}
