//! Writing blocks, and claiming them once they are durable.

use std::collections::BTreeSet;
use std::io::IoSlice;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use bittorrent_protocol::{BLOCK_LEN, BlockIndex, FileIndex, MerkleHash, PieceIndex, PieceLayer};
use bytes::Bytes;

use super::TorrentStore;
use crate::error::StoreError;
use crate::journal::{self, Journal};
use crate::progress::replace;

/// What a checkpoint made durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checkpoint {
    /// Blocks that were verified before and are claimed now.
    pub blocks: u64,
}

impl TorrentStore {
    /// Writes blocks at their places, neighbours with one call. A block that is verified already is
    /// passed over: its bytes are good and stay.
    ///
    /// # Errors
    ///
    /// When the disk fails, after which any of the blocks may be written in part; and when a block
    /// has the wrong length, before any is written.
    pub fn write_blocks(&self, blocks: &[(BlockIndex, Bytes)]) -> Result<(), StoreError> {
        let layout = self.layout();
        let mut wanted = Vec::with_capacity(blocks.len());
        for (block, bytes) in blocks {
            let expected = layout.block_size(*block);
            if bytes.len() != expected as usize {
                return Err(StoreError::BlockLength {
                    block: *block,
                    expected,
                    found: bytes.len(),
                });
            }
            if !self.is_block_verified(*block) {
                wanted.push((*block, bytes));
            }
        }
        wanted.sort_by_key(|(block, _)| *block);
        let mut slices = Vec::with_capacity(wanted.len());
        for run in wanted.chunk_by(|(a, _), (b, _)| self.follows(*a, *b)) {
            let Some((first, _)) = run.first() else {
                continue;
            };
            let Some((file, content)) = self.content_of(first.piece()) else {
                continue;
            };
            let offset = layout.offset_in_file(first.piece()) + u64::from(first.begin());
            slices.clear();
            slices.extend(run.iter().map(|(_, bytes)| IoSlice::new(bytes)));
            content
                .write_all_at(&mut slices, offset)
                .map_err(StoreError::io("write", &self.file_path(file)))?;
        }
        Ok(())
    }

    /// Whether `b` begins where `a` ends, in the same file. Only a full block has one behind it.
    fn follows(&self, a: BlockIndex, b: BlockIndex) -> bool {
        let layout = self.layout();
        layout.block_number(a) + 1 == layout.block_number(b)
            && (a.piece() == b.piece() || layout.file_of(a.piece()) == layout.file_of(b.piece()))
    }

    /// Keeps the leaf hashes of written and proven blocks of a piece, from one on, and counts the
    /// blocks as verified: they may be served, and the next checkpoint claims them.
    ///
    /// # Errors
    ///
    /// When the disk fails; none of the blocks is then verified.
    pub fn mark_verified(
        &self,
        piece: PieceIndex,
        first_block: u16,
        leaves: &[MerkleHash],
    ) -> Result<(), StoreError> {
        let layout = self.layout();
        let end = usize::from(first_block) + leaves.len();
        let first = layout
            .block(piece, first_block.into())
            .filter(|_| end <= layout.block_count(piece) as usize)
            .ok_or(StoreError::NoSuchBlocks {
                piece,
                first_block,
                count: leaves.len(),
            })?;
        self.keep_leaves(first, leaves)?;
        let number = layout.block_number(first);
        let file = layout.file_of(piece);
        let mut pending = self.pending();
        if let Some(journal) = &mut pending.journal {
            journal.append(&self.paths, number, leaves)?;
        }
        pending.since.get_or_insert_with(Instant::now);
        pending.written.insert(file.get());
        for block in (u32::from(first_block)..end as u32).filter_map(|n| layout.block(piece, n)) {
            if self.verified.set(layout.block_number(block)) {
                pending.blocks.push(block);
            }
        }
        Ok(())
    }

    /// Keeps the leaf hashes of blocks of one file without saying that they are proven: where the
    /// piece hash is not known yet, so that the file's root can decide later.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub fn keep_leaves(&self, first: BlockIndex, leaves: &[MerkleHash]) -> Result<(), StoreError> {
        let file = self.layout().file_of(first.piece());
        let Some(kept) = self.open_file(file).and_then(|open| open.leaves.as_ref()) else {
            return Ok(());
        };
        let bytes: Vec<u8> = leaves.iter().flat_map(|leaf| *leaf.as_bytes()).collect();
        let offset = self.number_in_file(first) * MerkleHash::LEN as u64;
        kept.write_all_at(&mut [IoSlice::new(&bytes)], offset)
            .map_err(StoreError::io("write", &self.paths.leaves(file)))
    }

    /// Keeps the proven piece layer of a file. `snapshot.torrent` is replaced once all layers are
    /// known.
    ///
    /// # Errors
    ///
    /// When the layer is another file's, or the disk fails.
    pub fn set_layer(&self, file: FileIndex, layer: Arc<PieceLayer>) -> Result<(), StoreError> {
        let whole = {
            let mut metainfo = self
                .metainfo
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            Arc::make_mut(&mut metainfo)
                .set_layer(file, layer)
                .map_err(|source| StoreError::Layer(Box::new(source)))?;
            metainfo
                .missing_layers()
                .next()
                .is_none()
                .then(|| metainfo.encode())
        };
        whole.map_or(Ok(()), |bytes| {
            replace(&*self.io, &self.paths, &self.paths.torrent(), &bytes)
        })
    }

    /// Makes what is verified durable and claims it. Blocks verified meanwhile wait for the next one.
    ///
    /// # Errors
    ///
    /// [`StoreError::SyncFailed`] when the disk could not keep what was written since the last
    /// checkpoint: the kernel may have dropped it, so those blocks are no longer verified.
    pub fn checkpoint(&self) -> Result<Checkpoint, StoreError> {
        let mut claims = self.claims();
        let (window, written) = {
            let mut pending = self.pending();
            if pending.blocks.is_empty() {
                return Ok(Checkpoint::default());
            }
            // From here on the other journal is written, so that this one still tells of the window
            // should the process end before the claims are written.
            let epoch = pending
                .journal
                .as_ref()
                .map_or(claims.epoch, Journal::epoch)
                + 1;
            pending.journal = Some(Journal::start(&self.paths, &*self.io, epoch)?);
            pending.since = None;
            (
                std::mem::take(&mut pending.blocks),
                std::mem::take(&mut pending.written),
            )
        };
        if let Err(source) = self.sync_files(&written) {
            return Err(self.forget_window(window, source));
        }
        for block in &window {
            claims.set(self.layout().block_number(*block));
        }
        claims.epoch = self
            .pending()
            .journal
            .as_ref()
            .map_or(claims.epoch, Journal::epoch);
        if let Err(source) = self.write_progress(&claims, false) {
            // The content is durable, the claims are not: say so again at the next checkpoint.
            let mut pending = self.pending();
            for block in &window {
                claims.clear(self.layout().block_number(*block));
            }
            pending.blocks.extend(&window);
            pending.written.extend(&written);
            pending.since.get_or_insert_with(Instant::now);
            return Err(source);
        }
        Ok(Checkpoint {
            blocks: window.len() as u64,
        })
    }

    fn sync_files(&self, written: &BTreeSet<u32>) -> Result<(), StoreError> {
        let layout = self.layout();
        let opened = |number: &u32| {
            let file = layout.file_index(*number)?;
            Some((file, self.open_file(file)?))
        };
        for (file, open) in written.iter().filter_map(opened) {
            open.content
                .sync_data()
                .map_err(StoreError::io("sync", &self.file_path(file)))?;
        }
        for (file, open) in written.iter().filter_map(opened) {
            if let Some(leaves) = &open.leaves {
                leaves
                    .sync_data()
                    .map_err(StoreError::io("sync", &self.paths.leaves(file)))?;
            }
        }
        Ok(())
    }

    /// After a failed sync nothing since the last good one can be trusted, also what was verified
    /// while it ran: the kernel reports a lost page once and then calls it clean.
    fn forget_window(&self, mut window: Vec<BlockIndex>, source: StoreError) -> StoreError {
        let mut pending = self.pending();
        window.append(&mut pending.blocks);
        pending.since = None;
        pending.written.clear();
        for block in &window {
            self.verified.clear(self.layout().block_number(*block));
        }
        // What the journals tell of is in doubt too.
        let epoch = pending.journal.as_ref().map_or(0, Journal::epoch);
        for turn in [epoch + 1, epoch] {
            if let Ok(journal) = Journal::start(&self.paths, &*self.io, turn) {
                pending.journal = Some(journal);
            }
        }
        StoreError::SyncFailed {
            lost: window,
            source: Box::new(source),
        }
    }

    /// Ends the writing of a complete generation: makes everything durable, forbids writing to the
    /// files and notes by what they are known again.
    ///
    /// # Errors
    ///
    /// [`StoreError::Incomplete`] when blocks are missing; else when the disk fails.
    pub fn finish(&self) -> Result<(), StoreError> {
        if self.is_sealed() {
            return Ok(());
        }
        if !self.is_complete() {
            return Err(StoreError::Incomplete {
                missing: self.total - self.verified_blocks(),
            });
        }
        self.checkpoint()?;
        let mut claims = self.claims();
        for (number, open) in (0..).zip(&self.files) {
            let (Some(open), Some(file)) = (open, self.layout().file_index(number)) else {
                continue;
            };
            let path = self.file_path(file);
            open.content.seal().map_err(StoreError::io("seal", &path))?;
            if let Some(leaves) = &open.leaves {
                leaves
                    .sync_data()
                    .map_err(StoreError::io("sync", &self.paths.leaves(file)))?;
            }
        }
        // Journals from here on belong to no claims.
        claims.epoch += 2;
        self.write_progress(&claims, true)?;
        let mut pending = self.pending();
        pending.sealed = true;
        pending.journal = None;
        journal::remove(&self.paths, &*self.io)
    }

    /// Takes blocks back: they were found bad on disk, or the engine no longer believes in them.
    pub(crate) fn unverify(&self, blocks: &[BlockIndex]) -> Result<(), StoreError> {
        let mut claims = self.claims();
        let mut pending = self.pending();
        pending.blocks.retain(|block| !blocks.contains(block));
        for block in blocks {
            let number = self.layout().block_number(*block);
            self.verified.clear(number);
            claims.clear(number);
        }
        drop(pending);
        self.write_progress(&claims, false)
    }

    /// Bytes a file system needs for what is not verified yet, at most.
    pub fn missing_bytes(&self) -> u64 {
        ((self.total - self.verified_blocks()) * u64::from(BLOCK_LEN))
            .min(self.layout().content_length())
    }
}
