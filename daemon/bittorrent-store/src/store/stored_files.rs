//! The open files of one generation, and where its blocks are in them.

use std::io::IoSlice;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bittorrent_protocol::metainfo::Info;
use bittorrent_protocol::{
    BLOCK_LEN, BlockIndex, FileIndex, InfoHashV2, Layout, MerkleHash, PieceIndex,
};

use crate::disk::files::{FileTable, Kind};
use crate::disk::io::{Identity, Io, IoFile, read_full};
use crate::disk::paths::Paths;
use crate::error::{Operation, StoreError};

/// Content files and leaf files of a generation, with the arithmetic from blocks to positions in them.
#[derive(Debug)]
pub(crate) struct StoredFiles {
    paths: Paths,
    io: Arc<dyn Io>,
    info: Arc<Info>,
    contents: FileTable,
    leaves: FileTable,
}

impl StoredFiles {
    /// Opens each file once, so that a replaced file is noticed later. Sealed content is opened
    /// read-only.
    pub(super) fn open(
        paths: Paths,
        io: Arc<dyn Io>,
        info: Arc<Info>,
        sealed: bool,
    ) -> Result<Self, StoreError> {
        let table = |kind| FileTable::new(io.clone(), paths.clone(), info.clone(), kind, !sealed);
        let (contents, leaves) = (table(Kind::Content), table(Kind::Leaves));
        contents
            .all()
            .try_for_each(|file| contents.get(file).map(drop))?;
        leaves
            .all()
            .try_for_each(|file| leaves.get(file).map(drop))?;
        if !sealed {
            let directory = paths.leaves_dir();
            io.sync_dir(&directory)
                .map_err(StoreError::io(Operation::Sync, &directory))?;
        }
        Ok(Self {
            paths,
            io,
            info,
            contents,
            leaves,
        })
    }

    /// Opens the files again, for writing.
    pub(super) fn reopen_for_writing(self) -> Result<Self, StoreError> {
        Self::open(self.paths, self.io, self.info, false)
    }

    pub(super) fn paths(&self) -> &Paths {
        &self.paths
    }

    pub(super) fn io(&self) -> &dyn Io {
        &*self.io
    }

    pub(crate) fn info(&self) -> &Arc<Info> {
        &self.info
    }

    pub(crate) fn layout(&self) -> &Arc<Layout> {
        self.info.layout()
    }

    pub(crate) fn contents(&self) -> &FileTable {
        &self.contents
    }

    pub(super) fn leaves(&self) -> &FileTable {
        &self.leaves
    }

    pub(super) fn torrent_id(&self) -> InfoHashV2 {
        self.info.hashes().v2
    }

    pub(super) fn file_path(&self, file: FileIndex) -> PathBuf {
        self.paths.file(&self.info, file)
    }

    /// Returns the content file of a piece.
    pub(crate) fn content_of(
        &self,
        piece: PieceIndex,
    ) -> Result<(FileIndex, Arc<dyn IoFile>), StoreError> {
        let file = self.layout().file_of(piece);
        Ok((file, self.contents.get(file)?))
    }

    /// Returns the numbers of a file's blocks in the torrent.
    pub(crate) fn numbers(&self, file: FileIndex) -> Range<u64> {
        let span = self.layout().file(file);
        let first = span.piece_indices().next().map_or(0, |piece| {
            u64::from(piece.get()) * u64::from(self.layout().piece_length().blocks())
        });
        first..first + span.blocks()
    }

    /// Returns the number of a block in its file.
    pub(super) fn number_in_file(&self, block: BlockIndex) -> u64 {
        let file = self.layout().file_of(block.piece());
        self.layout().block_number(block) - self.numbers(file).start
    }

    pub(super) fn block_of(&self, number: u64) -> Option<BlockIndex> {
        let per_piece = u64::from(self.layout().piece_length().blocks());
        let piece = u32::try_from(number / per_piece).ok()?;
        self.layout()
            .block(self.layout().piece(piece)?, (number % per_piece) as u32)
    }

    /// Returns the file of a piece, and the number of its first block in that file.
    pub(crate) fn position_of_piece(&self, piece: PieceIndex) -> (FileIndex, u64) {
        let layout = self.layout();
        let first = layout.offset_in_file(piece) / u64::from(BLOCK_LEN);
        (layout.file_of(piece), first)
    }

    /// Returns the file of a block, given by number, and its number in that file.
    pub(crate) fn position_of_number(&self, number: u64) -> Option<(FileIndex, u64)> {
        let block = self.block_of(number)?;
        let (file, first) = self.position_of_piece(block.piece());
        Some((file, first + u64::from(block.in_piece())))
    }

    /// Returns the identities of all content files; empty files have the default one.
    pub(super) fn identities(&self) -> Vec<Identity> {
        let numbered = (0..).zip(self.layout().files());
        numbered
            .map(|(number, _)| {
                let file = self.layout().file_index(number)?;
                self.contents.identity(file)
            })
            .map(Option::unwrap_or_default)
            .collect()
    }

    /// Reads the leaf hashes of `count` blocks of a file, from one on. Returns fewer when some are
    /// missing.
    pub(crate) fn stored_leaves(
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
        let read = read_full(&*leaves, &mut bytes, offset)
            .map_err(self.leaves.failed(Operation::Read, file))?;
        bytes.truncate(read);
        Ok(bytes
            .chunks_exact(MerkleHash::LEN)
            .filter_map(MerkleHash::from_slice)
            .collect())
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
}
