//! Copies blocks of a piece from older generations, where they are found.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use bittorrent_protocol::{BLOCK_LEN, BlockIndex, FileIndex, MerkleHash, PieceIndex, merkle};
use bytes::{Bytes, BytesMut};

use super::{Origin, ReuseSources};
use crate::disk::io::read_full;
use crate::error::{Operation, StoreError};
use crate::store::TorrentStore;

/// Blocks that are read at once: 256 KiB, so that they are in a cache while they are hashed and
/// written.
const RUN: usize = 16;

static ZEROS: [u8; BLOCK_LEN as usize] = [0; BLOCK_LEN as usize];

static ZERO_LEAF: LazyLock<MerkleHash> = LazyLock::new(|| merkle::leaf(&ZEROS));

/// A block that is looked for.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    block: BlockIndex,
    leaf: MerkleHash,
    size: usize,
}

impl Wanted {
    /// Returns the number of the block in its piece.
    fn in_piece(&self) -> u64 {
        self.block.in_piece().into()
    }

    fn is_zero(&self) -> bool {
        match ZEROS.split_at(self.size) {
            (_, []) => self.leaf == *ZERO_LEAF,
            (short, _) => self.leaf == merkle::leaf(short),
        }
    }
}

/// Returns the leaf hash of a block. That of zeros, as read from holes, needs no hashing.
fn leaf_of(block: &[u8]) -> MerkleHash {
    let is_zero = |some: &[u8]| some.iter().fold(0, |all, byte| all | byte) == 0;
    if block.len() == ZEROS.len() && block.chunks(1024).all(is_zero) {
        return *ZERO_LEAF;
    }
    merkle::leaf(block)
}

/// The search of one torrent's blocks in older generations.
pub(super) struct BlockReuse<'a> {
    store: &'a TorrentStore,
    sources: &'a ReuseSources,
}

impl<'a> BlockReuse<'a> {
    pub(super) fn new(store: &'a TorrentStore, sources: &'a ReuseSources) -> Self {
        Self { store, sources }
    }

    /// Does the work of [`ReuseSources::reuse_blocks`].
    pub(super) fn reuse_blocks(
        &self,
        piece: PieceIndex,
        leaves: Option<&[MerkleHash]>,
    ) -> Result<Vec<(BlockIndex, MerkleHash)>, StoreError> {
        let layout = self.store.layout();
        let count = layout.block_count(piece) as usize;
        if let Some(leaves) = leaves.filter(|leaves| leaves.len() != count) {
            return Err(StoreError::NoSuchBlocks {
                piece,
                first_block: 0,
                count: leaves.len(),
            });
        }
        let (file, first) = self.store.files().position_of_piece(piece);
        let counterparts = self.sources.counterparts(self.store.files().info(), file);
        let mut origins: Vec<Origin> = counterparts
            .into_iter()
            .map(|(generation, file)| Origin {
                generation,
                file,
                first,
            })
            .collect();
        let leaves = match leaves {
            Some(leaves) => Cow::Borrowed(leaves),
            None => match self.find_piece(piece, &mut origins) {
                Some(leaves) => Cow::Owned(leaves),
                None => return Ok(Vec::new()),
            },
        };
        let mut wanted: Vec<Wanted> = layout
            .blocks(piece)
            .zip(leaves.iter())
            .filter(|(block, _)| !self.store.is_block_verified(*block))
            .map(|(block, leaf)| Wanted {
                block,
                leaf: *leaf,
                size: layout.block_size(block) as usize,
            })
            .collect();
        let mut found = Vec::new();
        self.find_in_place(piece, &mut wanted, &mut found)?;
        self.write_zeros(&mut wanted, &mut found)?;
        for origin in &origins {
            self.find_at(*origin, &mut wanted, &mut found)?;
        }
        self.find_anywhere(&mut wanted, &mut found)?;
        found.sort_unstable_by_key(|(block, _)| *block);
        Ok(found)
    }

    /// Does the work of [`ReuseSources::find_leaves`].
    pub(super) fn find_leaves(
        &self,
        piece: PieceIndex,
        nodes: &[MerkleHash],
    ) -> Vec<(BlockIndex, MerkleHash)> {
        const LAYER: u8 = 2;
        let layout = self.store.layout();
        let (file, first) = self.store.files().position_of_piece(piece);
        let blocks: Vec<BlockIndex> = layout.blocks(piece).collect();
        let mut below: Vec<_> = nodes.iter().zip(blocks.chunks(1 << LAYER)).collect();
        let mut found = Vec::new();
        let mut take = |leaves: &dyn Fn(&[BlockIndex]) -> Option<Vec<MerkleHash>>| {
            below.retain(|(node, blocks)| {
                let stored =
                    leaves(blocks).filter(|stored| merkle::fold(stored, 0, LAYER) == **node);
                let Some(stored) = stored else { return true };
                found.extend(blocks.iter().copied().zip(stored));
                false
            });
        };
        for (generation, file) in self.sources.counterparts(self.store.files().info(), file) {
            let Some(source) = self.sources.generation(generation) else {
                continue;
            };
            let origin = Origin {
                generation,
                file,
                first,
            };
            let stored = verified_leaves(source, origin, blocks.len());
            take(&|blocks| {
                let first = usize::from(blocks.first()?.in_piece());
                stored.get(first..first + blocks.len()).map(<[_]>::to_vec)
            });
        }
        take(&|blocks| {
            let sizes = blocks.iter().map(|block| layout.block_size(*block));
            let zeros = sizes.map(|size| leaf_of(ZEROS.split_at(size as usize).0));
            Some(zeros.collect())
        });
        found
    }

    /// Returns the leaf hashes of a piece of which only the hash is known. Puts the origin where it
    /// was found before the others.
    fn find_piece(&self, piece: PieceIndex, origins: &mut Vec<Origin>) -> Option<Vec<MerkleHash>> {
        let layout = self.store.layout();
        let hash = self.store.metainfo().piece_hash(piece)?;
        let count = layout.block_count(piece) as usize;
        let height = merkle::piece_height(layout, piece);
        let is_piece = |leaves: &[MerkleHash]| {
            leaves.len() == count && merkle::fold(leaves, 0, height) == hash
        };
        for origin in origins.iter().copied().chain(self.sources.pieces(&hash)) {
            let source = self.sources.generation(origin.generation)?;
            let leaves = verified_leaves(source, origin, count);
            if is_piece(&leaves) {
                origins.insert(0, origin);
                return Some(leaves);
            }
        }
        let mut zeros = vec![*ZERO_LEAF; count];
        if let Some((last, block)) = zeros.last_mut().zip(layout.blocks(piece).last()) {
            *last = leaf_of(ZEROS.split_at(layout.block_size(block) as usize).0);
        }
        is_piece(&zeros).then_some(zeros)
    }

    /// Finds blocks that are in place already: in a clone of an older file, in a hole, or written
    /// before a crash.
    fn find_in_place(
        &self,
        piece: PieceIndex,
        wanted: &mut Vec<Wanted>,
        found: &mut Vec<(BlockIndex, MerkleHash)>,
    ) -> Result<(), StoreError> {
        let layout = self.store.layout();
        let (file, content) = self.store.files().content_of(piece)?;
        let start = layout.offset_in_file(piece);
        let number = |want: &Wanted| layout.block_number(want.block);
        let mut buffer = vec![0; RUN * BLOCK_LEN as usize];
        let mut left = Vec::with_capacity(wanted.len());
        let content_from = |offset| {
            let found = content.next_content(offset);
            found.map_err(self.store.files().contents().failed(Operation::Read, file))
        };
        let mut next_content = content_from(start)?;
        let _shared = self.store.lock_writes();
        for run in runs(wanted) {
            let (Some(first), Some(last)) = (run.first(), run.last()) else {
                continue;
            };
            let begin = start + u64::from(first.block.begin());
            let end = start + u64::from(last.block.begin()) + last.size as u64;
            if next_content.is_some_and(|at| at < begin) {
                next_content = content_from(begin)?;
            }
            // A new file is one hole unless it is a clone, and reading a hole takes as long as
            // reading content.
            let is_hole = next_content.is_none_or(|at| at >= end);
            if is_hole && !run.iter().any(Wanted::is_zero) {
                left.extend_from_slice(run);
                continue;
            }
            // Blocks that an earlier process failed to make durable may still be in memory.
            let untouched = run
                .iter()
                .any(|want| !self.store.blocks().is_touched(number(want)));
            if untouched && self.store.blocks().forget_file(file.get()) {
                content
                    .forget_cached(0, layout.file(file).length())
                    .map_err(self.store.files().contents().failed(Operation::Read, file))?;
            }
            for want in run {
                // Before the read: a sync that fails in between may lose the block.
                self.store.blocks().touch(number(want));
            }
            let bytes = buffer.split_at_mut((end - begin) as usize).0;
            let read = read_full(&*content, bytes, begin)
                .map_err(self.store.files().contents().failed(Operation::Read, file))?;
            let bytes = bytes.split_at(read).0;
            for (want, is) in run.iter().zip(bytes.chunks(BLOCK_LEN as usize)) {
                let good = is.len() == want.size
                    && !self.store.blocks().is_lost(number(want))
                    && leaf_of(is) == want.leaf;
                if good {
                    found.push((want.block, want.leaf));
                } else {
                    left.push(*want);
                }
            }
            left.extend(run.iter().skip(read.div_ceil(BLOCK_LEN as usize)));
        }
        *wanted = left;
        Ok(())
    }

    /// Writes blocks of zeros that are not in place; they need no source.
    fn write_zeros(
        &self,
        wanted: &mut Vec<Wanted>,
        found: &mut Vec<(BlockIndex, MerkleHash)>,
    ) -> Result<(), StoreError> {
        let zeros: Vec<Wanted> = wanted.extract_if(.., |want| want.is_zero()).collect();
        let blocks: Vec<_> = zeros
            .iter()
            .map(|want| (want.block, Bytes::from_static(ZEROS.split_at(want.size).0)))
            .collect();
        self.store.write_blocks(&blocks)?;
        found.extend(zeros.iter().map(|want| (want.block, want.leaf)));
        Ok(())
    }

    /// Copies blocks that are at the same position of an older file.
    fn find_at(
        &self,
        origin: Origin,
        wanted: &mut Vec<Wanted>,
        found: &mut Vec<(BlockIndex, MerkleHash)>,
    ) -> Result<(), StoreError> {
        let (Some(source), Some(last)) =
            (self.sources.generation(origin.generation), wanted.last())
        else {
            return Ok(());
        };
        let leaves = verified_leaves(source, origin, last.in_piece() as usize + 1);
        let same: Vec<Wanted> = wanted
            .iter()
            .filter(|want| leaves.get(usize::from(want.block.in_piece())) == Some(&want.leaf))
            .copied()
            .collect();
        let mut taken = Vec::new();
        for run in runs(&same) {
            let at = origin.first + run.first().map_or(0, Wanted::in_piece);
            self.copy(source, origin.file, at, run, &mut taken)?;
        }
        settle(wanted, taken, found);
        Ok(())
    }

    /// Copies blocks that the index finds at any position.
    fn find_anywhere(
        &self,
        wanted: &mut Vec<Wanted>,
        found: &mut Vec<(BlockIndex, MerkleHash)>,
    ) -> Result<(), StoreError> {
        let leaves: Vec<MerkleHash> = wanted.iter().map(|want| want.leaf).collect();
        // An unreadable index finds nothing.
        let positions = self.sources.blocks(&leaves).unwrap_or_default();
        let mut placed: Vec<(Wanted, Origin)> = wanted
            .iter()
            .zip(positions)
            .filter_map(|(want, position)| Some((*want, position?)))
            .filter(|(want, position)| {
                let source = self.sources.generation(position.generation);
                source.is_some_and(|source| verified_leaves(source, *position, 1) == [want.leaf])
            })
            .collect();
        // In the order of the piece, which is probably that of the source too.
        placed.sort_unstable_by_key(|(want, _)| want.block);
        let mut taken = Vec::new();
        let follow = |(a, from): &(Wanted, Origin), (b, to): &(Wanted, Origin)| {
            a.in_piece() + 1 == b.in_piece()
                && (from.generation, from.file, from.first + 1)
                    == (to.generation, to.file, to.first)
        };
        for run in placed.chunk_by(follow).flat_map(|run| run.chunks(RUN)) {
            let Some((_, origin)) = run.first() else {
                continue;
            };
            let Some(source) = self.sources.generation(origin.generation) else {
                continue;
            };
            let run: Vec<Wanted> = run.iter().map(|(want, _)| *want).collect();
            self.copy(source, origin.file, origin.first, &run, &mut taken)?;
        }
        settle(wanted, taken, found);
        Ok(())
    }

    /// Reads adjacent blocks of an older file from block `at` on, and writes those with the right
    /// hash.
    fn copy(
        &self,
        source: &TorrentStore,
        file: FileIndex,
        at: u64,
        run: &[Wanted],
        taken: &mut Vec<(BlockIndex, MerkleHash)>,
    ) -> Result<(), StoreError> {
        let length = run.iter().map(|want| want.size).sum();
        let mut bytes = BytesMut::zeroed(length);
        // Blocks that cannot be read are fetched from peers instead.
        let content = source.files().contents().get(file).ok();
        let read = content
            .and_then(|open| read_full(&*open, &mut bytes, at * u64::from(BLOCK_LEN)).ok())
            .unwrap_or(0);
        bytes.truncate(read);
        let mut bytes = bytes.freeze();
        let mut good = Vec::with_capacity(run.len());
        for want in run {
            if bytes.len() < want.size {
                break;
            }
            let block = bytes.split_to(want.size);
            if leaf_of(&block) == want.leaf {
                good.push((want.block, block));
                taken.push((want.block, want.leaf));
            }
        }
        self.store.write_blocks(&good)
    }
}

/// Returns the leaf hashes of verified blocks of an older file, from one on. Fewer if the file
/// ends, or a block is not verified or cannot be read.
fn verified_leaves(source: &Arc<TorrentStore>, origin: Origin, count: usize) -> Vec<MerkleHash> {
    let blocks = source.layout().file(origin.file).blocks();
    let count = (blocks.saturating_sub(origin.first)).min(count as u64);
    let start = source.files().numbers(origin.file).start + origin.first;
    let stored = (start..start + count).take_while(|number| source.blocks().is_verified(*number));
    let stored = stored.count();
    source
        .files()
        .stored_leaves(origin.file, origin.first, stored)
        .unwrap_or_default()
}

/// Returns runs of adjacent blocks of a piece, each short enough to be read at once.
fn runs(wanted: &[Wanted]) -> impl Iterator<Item = &[Wanted]> {
    wanted
        .chunk_by(|a, b| a.in_piece() + 1 == b.in_piece())
        .flat_map(|run| run.chunks(RUN))
}

/// Removes the copied blocks from `wanted` and adds them to `found`.
fn settle(
    wanted: &mut Vec<Wanted>,
    mut taken: Vec<(BlockIndex, MerkleHash)>,
    found: &mut Vec<(BlockIndex, MerkleHash)>,
) {
    taken.sort_unstable_by_key(|(block, _)| *block);
    wanted.retain(|want| {
        taken
            .binary_search_by_key(&want.block, |(block, _)| *block)
            .is_err()
    });
    found.append(&mut taken);
}
