//! Takes blocks of a new generation from older ones.
//!
//! A snapshot differs from the one before in few blocks. [`ReuseSources::reuse_blocks`] looks for the blocks of a piece
//! in this order: in the new file itself (which may be a clone of the old one), at the same position of the old file,
//! and at any position of any generation through an [index](ReuseSources::with_index).

mod build;
mod create;
mod index;
mod reuse_blocks;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use bittorrent_protocol::metainfo::{Info, Metainfo, PieceLayer};
use bittorrent_protocol::{BlockIndex, FileIndex, MerkleHash, PieceIndex};

use crate::disk::io::Io;
use crate::error::StoreError;
use crate::store::TorrentStore;

use index::LeafIndex;
use reuse_blocks::BlockReuse;

pub use create::Clones;

/// The most generations: their numbers are one byte in the index.
const MAX_GENERATIONS: usize = 256;

/// The most pieces that can be found anywhere by their hash: 16 MiB of table.
const MAX_PIECES: usize = 1 << 20;

/// The start of a run of blocks in an older file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) generation: usize,
    pub(crate) file: FileIndex,
    /// The number of the first block in the file.
    pub(crate) first: u64,
}

/// Older generations in which blocks of a new one are looked for, the most similar first.
///
/// Only their verified blocks are taken, so a partial generation serves too. Only sealed ones are in the
/// index. Takes 16 bytes of memory for each piece of the first million, and half a megabyte
/// for the index.
#[derive(Debug)]
pub struct ReuseSources {
    generations: Vec<Arc<TorrentStore>>,
    by_root: HashMap<MerkleHash, (usize, FileIndex)>,
    by_path: HashMap<Vec<String>, Vec<(usize, FileIndex)>>,
    /// The first bytes of the hashes of pieces, in order, with generation and piece.
    pieces: Vec<(u64, u32, u32)>,
    index: Option<LeafIndex>,
}

impl ReuseSources {
    /// Finds files by content and name, pieces by their hash, and blocks at their old position. Reads
    /// nothing. Ignores generations beyond the 256th.
    pub fn new(mut generations: Vec<Arc<TorrentStore>>) -> Self {
        generations.truncate(MAX_GENERATIONS);
        let mut by_root = HashMap::new();
        let mut by_path: HashMap<_, Vec<_>> = HashMap::new();
        let mut pieces = Vec::new();
        for (generation, store) in generations.iter().enumerate() {
            let info = store.info();
            for (number, file) in (0..).zip(info.files()) {
                let Some((root, index)) = file.root().zip(info.layout().file_index(number)) else {
                    continue;
                };
                by_root.entry(root).or_insert((generation, index));
                let path = by_path.entry(name_of(&info, index)).or_default();
                path.push((generation, index));
            }
            let meta = store.metainfo();
            let room = MAX_PIECES - pieces.len();
            let known = info.layout().piece_indices().filter_map(|piece| {
                let hash = meta.piece_hash(piece)?;
                Some((beginning(&hash), generation as u32, piece.get()))
            });
            pieces.extend(known.take(room));
        }
        pieces.sort_unstable();
        Self {
            generations,
            by_root,
            by_path,
            pieces,
            index: None,
        }
    }

    /// Finds blocks at any position too, through an index of the leaf hashes of all sealed generations: 12
    /// bytes per block in a file of `scratch`. An index of the same generations is used again. Otherwise
    /// building it reads all leaf hashes several times and takes 64 MiB of memory. Calls `go_on` now and then,
    /// and stops when it returns `false`. A scratch directory must be used by one process only.
    ///
    /// # Errors
    ///
    /// When the disk fails, and [`StoreError::Cancelled`]. [`Self::new`] needs no index.
    pub fn with_index(
        mut self,
        scratch: &Path,
        io: &dyn Io,
        go_on: &dyn Fn() -> bool,
    ) -> Result<Self, StoreError> {
        let index = match LeafIndex::open(scratch, io, &self.generations)? {
            Some(index) => Some(index),
            None => {
                build::build(scratch, io, &self.generations, build::MEMORY, go_on)?;
                LeafIndex::open(scratch, io, &self.generations)?
            }
        };
        self.index = index;
        Ok(self)
    }

    /// Creates a generation as [`TorrentStore::create`] does. Where the file system can, content files start as
    /// clones (reflinks) of the older files with the same content or the same name: they take no space, and
    /// unchanged blocks are in place already. None of their blocks is verified before
    /// [`Self::reuse_blocks`] has read it. Elsewhere the files are empty. Takes over the piece layers of files
    /// with the same content.
    ///
    /// # Errors
    ///
    /// As [`TorrentStore::create`].
    pub fn create(
        &self,
        dir: &Path,
        metainfo: &Metainfo,
        io: Arc<dyn Io>,
    ) -> Result<(TorrentStore, Clones), StoreError> {
        create::create(self, dir, metainfo, io)
    }

    /// Looks for the missing blocks of a piece in older generations, and writes those it finds to `store`.
    /// Returns the blocks that are in place now, in order, with their leaf hashes. `leaves` are the proven leaf
    /// hashes of all blocks of the piece; without them the piece is found as a whole, by its hash.
    ///
    /// Each block is hashed from the bytes that were just read, so rotten blocks of an older generation are not
    /// found. Marks no block as verified. As with [`TorrentStore::write_blocks`], no other bytes may be written
    /// to these blocks until they are verified.
    ///
    /// # Errors
    ///
    /// When the disk of `store` fails; any of the blocks may then be written. [`StoreError::NoSuchBlocks`] when
    /// the number of leaves is not the number of blocks. Blocks of older generations that cannot be read are
    /// not found.
    pub fn reuse_blocks(
        &self,
        store: &TorrentStore,
        piece: PieceIndex,
        leaves: Option<&[MerkleHash]>,
    ) -> Result<Vec<(BlockIndex, MerkleHash)>, StoreError> {
        BlockReuse::new(store, self).reuse_blocks(piece, leaves)
    }

    /// Returns the stored leaf hashes of older generations at the position of a piece, and those of zeros, that
    /// lead to one of its `nodes`: the proven nodes two layers above the leaves. Reads only leaf hashes.
    pub fn find_leaves(
        &self,
        store: &TorrentStore,
        piece: PieceIndex,
        nodes: &[MerkleHash],
    ) -> Vec<(BlockIndex, MerkleHash)> {
        BlockReuse::new(store, self).find_leaves(piece, nodes)
    }

    /// Returns the generations, the most similar first.
    pub fn generations(&self) -> &[Arc<TorrentStore>] {
        &self.generations
    }

    pub(crate) fn generation(&self, number: usize) -> Option<&Arc<TorrentStore>> {
        self.generations.get(number)
    }

    /// Returns the older files that are most similar to a file: with the same content, with the same name, and
    /// the only file of each single-file torrent if this is one.
    pub(crate) fn counterparts(&self, info: &Info, file: FileIndex) -> Vec<(usize, FileIndex)> {
        let root = info.file(file).root();
        let same = root.and_then(|root| self.by_root.get(&root));
        let named = self.by_path.get(&name_of(info, file)).into_iter().flatten();
        let mut found: Vec<(usize, FileIndex)> = Vec::new();
        for position in same.into_iter().chain(named) {
            if !found.contains(position) {
                found.push(*position);
            }
        }
        found
    }

    /// Returns the positions of pieces with a hash. Only the first bytes are compared, so some may have another.
    pub(crate) fn pieces(&self, hash: &MerkleHash) -> impl Iterator<Item = Origin> + '_ {
        let wanted = beginning(hash);
        let first = self.pieces.partition_point(|(hash, ..)| *hash < wanted);
        self.pieces
            .get(first..)
            .unwrap_or_default()
            .iter()
            .take_while(move |(hash, ..)| *hash == wanted)
            .filter_map(|(_, generation, piece)| {
                let generation = *generation as usize;
                let store = self.generations.get(generation)?;
                let (file, first) = store
                    .files()
                    .position_of_piece(store.layout().piece(*piece)?);
                Some(Origin {
                    generation,
                    file,
                    first,
                })
            })
    }

    /// Returns the positions of blocks with these leaf hashes, according to the index. Only the first bytes are
    /// compared, so some may have another hash.
    pub(crate) fn blocks(&self, leaves: &[MerkleHash]) -> Result<Vec<Option<Origin>>, StoreError> {
        let Some(index) = &self.index else {
            return Ok(vec![None; leaves.len()]);
        };
        let found = index.find(leaves)?;
        Ok(found
            .into_iter()
            .map(|position| {
                let (generation, number) = position?;
                let (file, first) = self
                    .generations
                    .get(generation)?
                    .files()
                    .position_of_number(number)?;
                Some(Origin {
                    generation,
                    file,
                    first,
                })
            })
            .collect())
    }

    /// Returns the piece layer of a file with this root.
    pub(crate) fn layer(&self, root: &MerkleHash) -> Option<Arc<PieceLayer>> {
        let (generation, file) = self.by_root.get(root)?;
        let meta = self.generations.get(*generation)?.metainfo();
        meta.layer(*file).cloned()
    }
}

/// Returns the key under which files of two torrents count as the same: their path, or nothing for the only
/// file of a torrent, whose name may change.
fn name_of(info: &Info, file: FileIndex) -> Vec<String> {
    if info.is_single_file() {
        return Vec::new();
    }
    info.file(file).path().to_vec()
}

/// Returns the first 8 bytes of a hash, as a number that sorts like them.
fn beginning(hash: &MerkleHash) -> u64 {
    let bytes = hash.as_bytes();
    u64::from_be_bytes(std::array::from_fn(|n| bytes[n]))
}

/// Returns the generations that an index is built of.
fn sealed(
    generations: &[Arc<TorrentStore>],
) -> impl Iterator<Item = (usize, &Arc<TorrentStore>)> + Clone {
    let numbered = generations.iter().enumerate();
    numbered.filter(|(_, store)| store.is_sealed())
}
