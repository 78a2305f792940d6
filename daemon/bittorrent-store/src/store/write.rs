//! Writes blocks and their leaf hashes, and counts them as verified.

use std::io::IoSlice;
use std::sync::{Arc, RwLockReadGuard};

use bittorrent_protocol::{BlockIndex, FileIndex, MerkleHash, PieceIndex, PieceLayer};
use bytes::Bytes;

use super::{Checkpoint, TorrentStore};
use crate::disk::whole_file::replace;
use crate::error::StoreError;
use crate::sync;

impl TorrentStore {
    /// Writes blocks, adjacent ones with one call. Skips verified blocks: their bytes are good and stay.
    ///
    /// # Errors
    ///
    /// When the disk fails; any of the blocks may then be written in part. When a block has the wrong
    /// length; then none is written.
    pub fn write_blocks(&self, blocks: &[(BlockIndex, Bytes)]) -> Result<(), StoreError> {
        let layout = self.layout();
        let _shared = self.lock_writes();
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
        // Of two versions of a block the later one is written last.
        wanted.sort_by_key(|(block, _)| *block);
        for (block, _) in &wanted {
            self.blocks.begin_write(layout.block_number(*block));
        }
        let mut slices = Vec::with_capacity(wanted.len());
        for run in wanted.chunk_by(|(a, _), (b, _)| self.follows(*a, *b)) {
            let Some((first, _)) = run.first() else {
                continue;
            };
            let file = layout.file_of(first.piece());
            let offset = layout.offset_in_file(first.piece()) + u64::from(first.begin());
            slices.clear();
            slices.extend(run.iter().map(|(_, bytes)| IoSlice::new(bytes)));
            self.files.contents().write(file, &mut slices, offset)?;
        }
        Ok(())
    }

    /// Lets no block become verified while the guard lives; writes may go on.
    pub(crate) fn lock_writes(&self) -> RwLockReadGuard<'_, ()> {
        sync::read(&self.gate)
    }

    /// Returns whether `b` starts where `a` ends, in the same file. Only a full block has one after it.
    fn follows(&self, a: BlockIndex, b: BlockIndex) -> bool {
        let layout = self.layout();
        layout.block_number(a) + 1 == layout.block_number(b)
            && (a.piece() == b.piece() || layout.file_of(a.piece()) == layout.file_of(b.piece()))
    }

    /// Stores the leaf hashes of written and proven blocks of a piece, from one on, and counts the blocks
    /// as verified: they may be served, and the next checkpoint claims them.
    ///
    /// # Errors
    ///
    /// When the disk fails; none of the blocks is then verified. [`StoreError::Lost`] when one was lost
    /// since it was written.
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
        let _alone = sync::write(&self.gate);
        self.mark(first, leaves)
    }

    /// Does the work of [`Self::mark_verified`]. The caller has locked the gate for itself.
    pub(super) fn mark(&self, first: BlockIndex, leaves: &[MerkleHash]) -> Result<(), StoreError> {
        let layout = self.layout();
        let number = layout.block_number(first);
        // A verified block keeps its hash.
        let fresh: Vec<(u64, MerkleHash)> = (number..)
            .zip(leaves.iter().copied())
            .filter(|(number, _)| !self.blocks.is_verified(*number))
            .collect();
        let file = layout.file_of(first.piece());
        self.files.write_leaves(file, &fresh)?;
        self.durability
            .mark_verified(&self.files, &self.blocks, file, &fresh)
    }

    /// Stores the unproven leaf hashes of blocks of one file, for pieces whose hash is not known yet: the
    /// file's root can prove them later. Verified blocks keep theirs.
    ///
    /// # Errors
    ///
    /// When the disk fails. When there are more hashes than blocks; then none is stored.
    pub fn keep_leaves(&self, first: BlockIndex, leaves: &[MerkleHash]) -> Result<(), StoreError> {
        let file = self.layout().file_of(first.piece());
        let number = self.layout().block_number(first);
        if self.files.numbers(file).end - number < leaves.len() as u64 {
            return Err(StoreError::NoSuchBlocks {
                piece: first.piece(),
                first_block: first.in_piece(),
                count: leaves.len(),
            });
        }
        let unproven: Vec<_> = (number..)
            .zip(leaves.iter().copied())
            .filter(|(number, _)| !self.blocks.is_verified(*number))
            .collect();
        self.files.write_leaves(file, &unproven)
    }

    /// Keeps the proven piece layer of a file. Writes `snapshot.torrent` once all layers are known.
    ///
    /// # Errors
    ///
    /// When the layer belongs to another file, or the disk fails.
    pub fn set_layer(&self, file: FileIndex, layer: Arc<PieceLayer>) -> Result<(), StoreError> {
        let _alone = sync::lock(&self.torrent_file);
        let whole = {
            let mut metainfo = sync::write(&self.metainfo);
            Arc::make_mut(&mut metainfo)
                .set_layer(file, layer)
                .map_err(|source| StoreError::Layer(Box::new(source)))?;
            let all_known = metainfo.missing_layers().next().is_none();
            all_known.then(|| metainfo.clone())
        };
        whole.map_or(Ok(()), |metainfo| {
            let path = self.files.paths().torrent();
            replace(
                self.files.io(),
                self.files.paths(),
                &path,
                &metainfo.encode(),
            )
        })
    }

    /// Makes the verified blocks durable and claims them. Blocks verified meanwhile wait for the next
    /// checkpoint.
    ///
    /// # Errors
    ///
    /// [`StoreError::SyncFailed`] when the disk lost what was written since the last checkpoint. Those
    /// blocks are no longer verified. They, and blocks that were written and not verified yet, have to be
    /// written again. After any other error the blocks stay verified, and the next checkpoint tries again.
    pub fn checkpoint(&self) -> Result<Checkpoint, StoreError> {
        self.durability.checkpoint(&self.files, &self.blocks)
    }

    /// Seals a complete generation: makes everything durable, makes the files read-only and records their
    /// identities.
    ///
    /// # Errors
    ///
    /// [`StoreError::Incomplete`] when blocks are missing; otherwise when the disk fails, see
    /// [`Self::checkpoint`]. The call may be repeated.
    pub fn finish(&self) -> Result<(), StoreError> {
        if self.is_sealed() {
            return Ok(());
        }
        self.blocks.check_complete()?;
        self.checkpoint()?;
        self.durability.seal(&self.files, &self.blocks)?;
        self.set_cloned(false);
        let _ = self.files.io().remove_file(&self.files.paths().cloned());
        Ok(())
    }

    /// Revokes blocks that are bad on disk or in doubt, durably: they count as missing and may be written,
    /// also if the files were sealed. A sealed generation is unsealed; [`Self::finish`] seals it again once
    /// the blocks are there.
    ///
    /// # Errors
    ///
    /// When the disk fails. The blocks then count as missing until the next start only.
    pub fn revoke(&self, blocks: &[BlockIndex]) -> Result<(), StoreError> {
        self.durability.revoke(&self.files, &self.blocks, blocks)
    }
}
