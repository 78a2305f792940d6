//! One open generation: the content of one torrent in a directory of its own.
//!
//! A block is *verified* when it is written and proven; it may be served then. It is *claimed* when it is also durable
//! and recorded; it counts at the next start then. A [checkpoint](TorrentStore::checkpoint) claims what is verified, in
//! this order: content, leaf hashes, claims.
//!
//! Locks are taken in this order: `gate`, then those of [`Durability`].

mod block_states;
mod create;
mod durability;
mod free_space;
mod inspect;
mod open;
mod read;
mod recheck;
mod stored_files;
mod write;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use bittorrent_protocol::metainfo::{Info, Metainfo};
use bittorrent_protocol::{
    BLOCK_LEN, BlockIndex, BlockSet, FileIndex, InfoHashV2, Layout, PieceIndex,
};

use crate::disk::io::Io;
use crate::error::StoreError;
use crate::sync::read;
use durability::Durability;
use recheck::Recheck;

pub(crate) use block_states::BlockStates;
pub(crate) use create::create_with;
pub(crate) use stored_files::StoredFiles;

pub use durability::Checkpoint;
pub use inspect::{Condition, Inspection};
pub use open::Recovery;
pub use read::{Extent, SharedFile};
pub use recheck::{DamagedBlock, Scrub, ScrubCursor, Verification};

/// The content of one torrent on disk, complete or partial. Shared by several threads; positioned
/// I/O only. At most 64 content files stay open, and 32 files of leaf hashes.
#[derive(Debug)]
pub struct TorrentStore {
    files: StoredFiles,
    blocks: BlockStates,
    durability: Durability,
    metainfo: RwLock<Arc<Metainfo>>,
    /// Content files started as clones of older ones: overwriting takes space although they have their
    /// full length.
    cloned: AtomicBool,
    /// Shared while blocks are written, exclusive while blocks become verified. So a write that started
    /// before a block was verified has ended.
    gate: RwLock<()>,
    /// Locked while `snapshot.torrent` is replaced.
    torrent_file: Mutex<()>,
    /// Pieces that could not be read since the last [`TorrentStore::recheck_unreadable`].
    unreadable: Mutex<BTreeSet<PieceIndex>>,
}

impl TorrentStore {
    /// Returns the torrent, with the piece layers known so far.
    pub fn metainfo(&self) -> Arc<Metainfo> {
        read(&self.metainfo).clone()
    }

    /// Returns the info dictionary.
    pub fn info(&self) -> Arc<Info> {
        self.files.info().clone()
    }

    /// Returns the layout of pieces and files.
    pub fn layout(&self) -> &Arc<Layout> {
        self.files.layout()
    }

    /// Returns the directory of the generation, as passed to the constructor.
    pub fn directory(&self) -> &Path {
        self.files.paths().root()
    }

    /// Returns the path of a content file.
    pub fn file_path(&self, file: FileIndex) -> PathBuf {
        self.files.file_path(file)
    }

    /// Returns a copy of the set of verified blocks.
    pub fn verified(&self) -> BlockSet {
        BlockSet::from_words(self.layout(), self.blocks.verified_words())
    }

    /// Returns the number of verified blocks.
    pub fn verified_blocks(&self) -> u64 {
        self.blocks.verified_count()
    }

    /// Returns the number of blocks.
    pub const fn total_blocks(&self) -> u64 {
        self.blocks.total()
    }

    /// Returns whether all blocks are verified.
    pub fn is_complete(&self) -> bool {
        self.blocks.verified_count() == self.blocks.total()
    }

    /// Returns whether the content is complete and read-only.
    pub fn is_sealed(&self) -> bool {
        self.durability.is_sealed()
    }

    /// Returns whether a block is verified.
    pub fn is_block_verified(&self, block: BlockIndex) -> bool {
        self.blocks.is_verified(self.layout().block_number(block))
    }

    /// Returns whether all blocks are verified that contain any of `length` bytes from `begin` in a piece.
    /// Bytes past the content are padding and count as verified; bytes past the piece do not.
    pub fn is_range_verified(&self, piece: PieceIndex, begin: u32, length: u32) -> bool {
        let layout = self.layout();
        let end = u64::from(begin) + u64::from(length);
        if end > u64::from(layout.piece_length().bytes()) {
            return false;
        }
        let block = u64::from(BLOCK_LEN);
        let start = u64::from(piece.get()) * u64::from(layout.piece_length().blocks());
        let last = end.div_ceil(block).min(layout.block_count(piece).into());
        self.blocks
            .are_verified(start + u64::from(begin) / block..start + last)
    }

    /// Returns the bytes that are verified and not claimed yet: what a power failure would lose.
    pub fn dirty_bytes(&self) -> u64 {
        self.durability.dirty_blocks() * u64::from(BLOCK_LEN)
    }

    /// Returns whether content files started as clones of older ones and the generation is not complete
    /// yet.
    pub fn is_cloned(&self) -> bool {
        self.cloned.load(Ordering::Relaxed)
    }

    /// Returns the bytes of the blocks that are not verified, at most.
    pub fn missing_bytes(&self) -> u64 {
        ((self.total_blocks() - self.verified_blocks()) * u64::from(BLOCK_LEN))
            .min(self.layout().content_length())
    }

    /// Returns the bytes that the generation may still take on disk until it is complete: content without
    /// disk space, leaf hashes, and records. For content that started as a clone all missing blocks count,
    /// because overwriting them ends the sharing. Blocks that are in place already are known only after
    /// [`ReuseSources::reuse_blocks`](crate::ReuseSources::reuse_blocks), so before that the result can be
    /// far too large.
    ///
    /// # Errors
    ///
    /// When a file cannot be inspected.
    pub fn space_needed(&self) -> Result<u64, StoreError> {
        free_space::needed(self)
    }

    /// Reads what a directory claims to contain. Writes nothing and reads no content.
    ///
    /// # Errors
    ///
    /// When `snapshot.torrent` is missing, unreadable, damaged or another torrent than `expected`; when
    /// the claims or a content file exist and cannot be opened.
    pub fn inspect(
        dir: &Path,
        expected: Option<InfoHashV2>,
        io: &dyn Io,
    ) -> Result<Inspection, StoreError> {
        inspect::inspect(dir, expected, io)
    }

    /// Compares the content files in the directory with those that were opened: at most `most` files from
    /// number `first` on. Returns the number to continue with; 0 after the last. Reads no content. Changed
    /// bytes are only noticed by the file's modification time.
    ///
    /// # Errors
    ///
    /// [`StoreError::Changed`] when a file is missing, has another length, was replaced, or was written to
    /// by another program after the content was sealed, and when the claims on disk no longer say that the
    /// content is complete.
    pub fn check_files(&self, first: u32, most: u32) -> Result<u32, StoreError> {
        inspect::check_files(self, first, most)
    }

    /// Reads all content with one thread per core, compares it with its hashes, and corrects which blocks are
    /// verified and claimed. Calls `go_on` with the bytes read so far, and stops when it returns `false`. A
    /// sealed generation with damaged blocks is unsealed; [`Self::finish`] seals it once they are written
    /// again.
    ///
    /// # Errors
    ///
    /// When the disk fails, and [`StoreError::Cancelled`]. The blocks found damaged until then count as
    /// missing.
    pub fn verify_all(
        &self,
        go_on: &(dyn Fn(u64) -> bool + Sync),
    ) -> Result<Verification, StoreError> {
        Recheck::new(self).verify_all(go_on)
    }

    /// Reads verified blocks again from the position of the cursor on, at least one piece and at most
    /// `max_bytes` beyond it, and revokes damaged ones. A sealed generation with damaged blocks is unsealed
    /// until [`Self::finish`]. Writes damaged leaf hashes again.
    ///
    /// Drops the pages from memory first, so that the bytes come from the disk. Runs on the calling thread
    /// alone, which sets the pace.
    ///
    /// # Errors
    ///
    /// When the disk fails without a result on the blocks, such as [`StoreError::is_busy`], and when
    /// the findings cannot be recorded. The damaged blocks then count as missing until the next start only.
    pub fn scrub_slice(
        &self,
        cursor: &mut ScrubCursor,
        max_bytes: u64,
    ) -> Result<Scrub, StoreError> {
        Recheck::new(self).scrub_slice(cursor, max_bytes)
    }

    /// Reads the pieces again that could not be read since the last call, and revokes the verified blocks
    /// that are damaged. Returns these; none if no read failed.
    ///
    /// # Errors
    ///
    /// As [`Self::scrub_slice`].
    pub fn recheck_unreadable(&self) -> Result<Vec<BlockIndex>, StoreError> {
        Recheck::new(self).recheck_unreadable()
    }

    pub(crate) fn files(&self) -> &StoredFiles {
        &self.files
    }

    pub(crate) fn blocks(&self) -> &BlockStates {
        &self.blocks
    }
}
