//! What held generations offer to a new one.
//!
//! A snapshot differs from the one before in few blocks. [`TorrentStore::adopt`] looks for what a piece
//! wants in this order: what stands in its place already (a clone of the old file), the same place of
//! the old file, and anywhere in any generation through an [index](ReuseSources::with_index).
//!
//! [`TorrentStore::adopt`]: crate::TorrentStore::adopt

mod build;
mod index;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use bittorrent_protocol::metainfo::{Info, PieceLayer};
use bittorrent_protocol::{FileIndex, MerkleHash, PieceIndex};

use crate::error::StoreError;
use crate::io::Io;
use crate::store::TorrentStore;

use index::LeafIndex;

/// The most generations: their numbers are a byte in the index.
const MAX_GENERATIONS: usize = 256;

/// The most pieces that can be found anywhere by their hash: 16 MiB of table.
const MAX_PIECES: usize = 1 << 20;

/// Where a stretch of a held file begins, in blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) generation: usize,
    pub(crate) file: FileIndex,
    /// The number of the first block in the file.
    pub(crate) first: u64,
}

/// Held generations in which blocks of a new one are looked for, the most alike first.
///
/// Only verified blocks of them are taken, so that a partial generation serves, too; only sealed ones
/// are in the index. Takes 16 bytes of memory for each piece of the first million, and half a megabyte
/// for the index.
#[derive(Debug)]
pub struct ReuseSources {
    generations: Vec<Arc<TorrentStore>>,
    by_root: HashMap<MerkleHash, (usize, FileIndex)>,
    by_path: HashMap<Vec<String>, Vec<(usize, FileIndex)>>,
    /// The beginnings of the hashes of pieces, in order, with generation and piece.
    pieces: Vec<(u64, u32, u32)>,
    index: Option<LeafIndex>,
}

impl ReuseSources {
    /// Finds files by content and name, pieces by their hash, and blocks where they stood before.
    /// Reads nothing. Generations beyond the 256th are left out.
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

    /// Finds blocks anywhere, too, through an index of the leaf hashes of all sealed generations: 12
    /// bytes a block in a file of `scratch`. One that was built of the same generations is used again;
    /// else building it reads all leaf hashes, some times over, and takes 64 MiB of memory meanwhile.
    /// `go_on` is asked now and then. A scratch directory serves one process.
    ///
    /// # Errors
    ///
    /// When the disk fails, and [`StoreError::Cancelled`]. [`Self::new`] does without.
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

    /// The generations, the most alike first.
    pub fn generations(&self) -> &[Arc<TorrentStore>] {
        &self.generations
    }

    pub(crate) fn generation(&self, number: usize) -> Option<&Arc<TorrentStore>> {
        self.generations.get(number)
    }

    /// The held files that are most like a file: the same content, the same name, and where both
    /// torrents are one file, that.
    pub(crate) fn counterparts(&self, info: &Info, file: FileIndex) -> Vec<(usize, FileIndex)> {
        let root = info.file(file).root();
        let same = root.and_then(|root| self.by_root.get(&root));
        let named = self.by_path.get(&name_of(info, file)).into_iter().flatten();
        let mut found: Vec<(usize, FileIndex)> = Vec::new();
        for place in same.into_iter().chain(named) {
            if !found.contains(place) {
                found.push(*place);
            }
        }
        found
    }

    /// Where pieces with a hash stand; some of them may have another one after all.
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
                let (file, first) = store.place_of_piece(store.layout().piece(*piece)?);
                Some(Origin {
                    generation,
                    file,
                    first,
                })
            })
    }

    /// Where blocks with certain leaf hashes stand, as far as the index knows: some may have another one
    /// after all.
    pub(crate) fn blocks(&self, leaves: &[MerkleHash]) -> Result<Vec<Option<Origin>>, StoreError> {
        let Some(index) = &self.index else {
            return Ok(vec![None; leaves.len()]);
        };
        let found = index.find(leaves)?;
        Ok(found
            .into_iter()
            .map(|position| {
                let (generation, number) = position?;
                let (file, first) = self.generations.get(generation)?.place_of_number(number)?;
                Some(Origin {
                    generation,
                    file,
                    first,
                })
            })
            .collect())
    }

    /// A piece layer of a file with this root.
    pub(crate) fn layer(&self, root: &MerkleHash) -> Option<Arc<PieceLayer>> {
        let (generation, file) = self.by_root.get(root)?;
        let meta = self.generations.get(*generation)?.metainfo();
        meta.layer(*file).cloned()
    }
}

/// By what files of two torrents are the same one: the only file of a torrent may be called anything.
fn name_of(info: &Info, file: FileIndex) -> Vec<String> {
    if info.is_single_file() {
        return Vec::new();
    }
    info.file(file).path().to_vec()
}

/// The first 8 bytes of a hash, as a number that sorts like them.
fn beginning(hash: &MerkleHash) -> u64 {
    let bytes = hash.as_bytes();
    u64::from_be_bytes(std::array::from_fn(|n| bytes[n]))
}

/// What an index is made of: its content follows from that.
fn sealed(
    generations: &[Arc<TorrentStore>],
) -> impl Iterator<Item = (usize, &Arc<TorrentStore>)> + Clone {
    let numbered = generations.iter().enumerate();
    numbered.filter(|(_, store)| store.is_sealed())
}

/// The place of a piece and those of the blocks of a torrent.
impl TorrentStore {
    pub(crate) fn place_of_piece(&self, piece: PieceIndex) -> (FileIndex, u64) {
        let layout = self.layout();
        let block = u64::from(bittorrent_protocol::BLOCK_LEN);
        (layout.file_of(piece), layout.offset_in_file(piece) / block)
    }

    pub(crate) fn place_of_number(&self, number: u64) -> Option<(FileIndex, u64)> {
        let block = self.block_of(number)?;
        let (file, first) = self.place_of_piece(block.piece());
        Some((file, first + u64::from(block.in_piece())))
    }
}
