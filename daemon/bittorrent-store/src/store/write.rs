//! Writing blocks, and keeping what proves them.

use std::io::IoSlice;
use std::sync::{Arc, PoisonError};
use std::time::Instant;

use bittorrent_protocol::{BLOCK_LEN, BlockIndex, FileIndex, MerkleHash, PieceIndex, PieceLayer};
use bytes::Bytes;

use super::TorrentStore;
use crate::error::StoreError;
use crate::progress::replace;

impl TorrentStore {
    /// Writes blocks at their places, neighbours with one call. A block that is verified already is
    /// passed over: its bytes are good and stay.
    ///
    /// # Errors
    ///
    /// When the disk fails, after which any of the blocks may be written in part; and, before any is
    /// written, when a block has the wrong length.
    pub fn write_blocks(&self, blocks: &[(BlockIndex, Bytes)]) -> Result<(), StoreError> {
        let layout = self.layout();
        let _shared = self.gate.read().unwrap_or_else(PoisonError::into_inner);
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
            let number = layout.block_number(*block);
            // Before it is written: a sync that fails in between may lose it.
            self.touched.set(number);
            if let Some(lost) = self.lost.get() {
                lost.clear(number);
            }
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
            self.contents.write(file, &mut slices, offset)?;
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
        let _alone = self.gate.write().unwrap_or_else(PoisonError::into_inner);
        self.mark(first, leaves)
    }

    /// [`Self::mark_verified`], called while nothing is written.
    pub(super) fn mark(&self, first: BlockIndex, leaves: &[MerkleHash]) -> Result<(), StoreError> {
        let layout = self.layout();
        let number = layout.block_number(first);
        // What is verified already keeps its hash.
        let fresh: Vec<(u64, MerkleHash)> = (number..)
            .zip(leaves.iter().copied())
            .filter(|(number, _)| !self.verified.get(*number))
            .collect();
        let file = layout.file_of(first.piece());
        self.write_leaves(file, &fresh)?;
        let mut pending = self.pending();
        if let Some((number, _)) = fresh.iter().find(|(number, _)| self.is_lost(*number)) {
            return Err(StoreError::Lost {
                block: self.block_of(*number).unwrap_or(first),
            });
        }
        if let Some(journal) = &mut pending.journal {
            journal.append(&self.paths, &fresh)?;
        }
        for (number, _) in &fresh {
            if let Some(block) = self.block_of(*number)
                && self.verified.set(*number)
            {
                pending.window.blocks.push(block);
            }
        }
        if !fresh.is_empty() {
            pending.since.get_or_insert_with(Instant::now);
            pending.window.files.insert(file.get());
        }
        self.count_dirty(&pending);
        Ok(())
    }

    /// Keeps the leaf hashes of blocks of one file without saying that they are proven: where the
    /// piece hash is not known yet, so that the file's root can decide later. Verified blocks keep
    /// theirs.
    ///
    /// # Errors
    ///
    /// When the disk fails, and when there are more hashes than blocks, before any is kept.
    pub fn keep_leaves(&self, first: BlockIndex, leaves: &[MerkleHash]) -> Result<(), StoreError> {
        let file = self.layout().file_of(first.piece());
        let number = self.layout().block_number(first);
        if self.numbers(file).end - number < leaves.len() as u64 {
            return Err(StoreError::NoSuchBlocks {
                piece: first.piece(),
                first_block: first.in_piece(),
                count: leaves.len(),
            });
        }
        let unproven: Vec<_> = (number..)
            .zip(leaves.iter().copied())
            .filter(|(number, _)| !self.verified.get(*number))
            .collect();
        self.write_leaves(file, &unproven)
    }

    /// Writes leaf hashes of a file, each with the number of its block in the torrent, in order.
    pub(super) fn write_leaves(
        &self,
        file: FileIndex,
        leaves: &[(u64, MerkleHash)],
    ) -> Result<(), StoreError> {
        if !self.leaves.has(file) {
            return Ok(());
        }
        let start = self.numbers(file).start;
        for run in leaves.chunk_by(|(a, _), (b, _)| a + 1 == *b) {
            let Some((first, _)) = run.first() else {
                continue;
            };
            let bytes: Vec<u8> = run.iter().flat_map(|(_, leaf)| *leaf.as_bytes()).collect();
            let offset = (first - start) * MerkleHash::LEN as u64;
            self.leaves
                .write(file, &mut [IoSlice::new(&bytes)], offset)?;
        }
        Ok(())
    }

    /// Keeps the proven piece layer of a file. `snapshot.torrent` is replaced once all layers are
    /// known.
    ///
    /// # Errors
    ///
    /// When the layer is another file's, or the disk fails.
    pub fn set_layer(&self, file: FileIndex, layer: Arc<PieceLayer>) -> Result<(), StoreError> {
        let _alone = self
            .torrent_file
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let whole = {
            let mut metainfo = self
                .metainfo
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            Arc::make_mut(&mut metainfo)
                .set_layer(file, layer)
                .map_err(|source| StoreError::Layer(Box::new(source)))?;
            let all_known = metainfo.missing_layers().next().is_none();
            all_known.then(|| metainfo.clone())
        };
        whole.map_or(Ok(()), |metainfo| {
            let path = self.paths.torrent();
            replace(&*self.io, &self.paths, &path, &metainfo.encode())
        })
    }

    /// Bytes a file system needs for what is not verified yet, at most.
    pub fn missing_bytes(&self) -> u64 {
        ((self.total - self.verified_blocks()) * u64::from(BLOCK_LEN))
            .min(self.layout().content_length())
    }
}
