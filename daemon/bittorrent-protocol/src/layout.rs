//! The piece space: the order of a torrent's files in pieces and blocks.
//!
//! Every non-empty file starts at a piece boundary, in file-tree order; empty files take no space
//! (BEP 52, "file tree"). The same numbering serves v1 and v2 links of a hybrid swarm.

use crate::hash::MerkleHash;
use crate::units::{BLOCK_LEN, BlockIndex, FileIndex, MAX_PIECES, PieceIndex, PieceLength};

/// A file's length and merkle root do not fit a torrent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// No file has any content.
    #[error("the torrent has no content: every file is empty or there is none")]
    Empty,
    /// More pieces than [`MAX_PIECES`].
    #[error("more than {MAX_PIECES} pieces of {piece_length} bytes; use longer pieces")]
    TooManyPieces {
        /// The piece length in use.
        piece_length: PieceLength,
    },
}

/// The range of one file in the piece space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSpan {
    first_piece: u32,
    pieces: u32,
    length: u64,
    root: Option<MerkleHash>,
}

impl FileSpan {
    /// Returns the length in bytes.
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Returns the root of the file's merkle tree; `None` exactly for empty files.
    pub const fn root(&self) -> Option<MerkleHash> {
        self.root
    }

    /// Returns the number of pieces: 0 for empty files.
    pub const fn pieces(&self) -> u32 {
        self.pieces
    }

    /// Returns the number of blocks, a short last one included.
    pub const fn blocks(&self) -> u64 {
        self.length.div_ceil(BLOCK_LEN as u64)
    }

    /// Returns its pieces, in order.
    pub fn piece_indices(&self) -> impl DoubleEndedIterator<Item = PieceIndex> + Clone + use<> {
        (self.first_piece..self.first_piece + self.pieces).map(PieceIndex)
    }
}

/// The piece space of a torrent. Indices are only made here, so a [`PieceIndex`] or [`BlockIndex`]
/// is always in range of the layout it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    piece_length: PieceLength,
    files: Vec<FileSpan>,
    /// Indices into `files` of the non-empty ones, in order, for look-ups by piece.
    occupied: Vec<u32>,
    pieces: u32,
    content_length: u64,
}

impl Layout {
    /// Makes the layout of files in file-tree order, each as its length and merkle root. An empty
    /// file's root is ignored, a missing root of a non-empty file counts as all zero.
    pub fn new(
        piece_length: PieceLength,
        files: impl IntoIterator<Item = (u64, Option<MerkleHash>)>,
    ) -> Result<Self, LayoutError> {
        let too_many = LayoutError::TooManyPieces { piece_length };
        let mut layout = Self {
            piece_length,
            files: Vec::new(),
            occupied: Vec::new(),
            pieces: 0,
            content_length: 0,
        };
        for (length, root) in files {
            let pieces = u32::try_from(length.div_ceil(u64::from(piece_length.bytes())))
                .map_err(|_| too_many.clone())?;
            let total = layout
                .pieces
                .checked_add(pieces)
                .filter(|total| *total <= MAX_PIECES)
                .ok_or_else(|| too_many.clone())?;
            if length > 0 {
                layout.occupied.push(layout.files.len() as u32);
            }
            layout.files.push(FileSpan {
                first_piece: layout.pieces,
                pieces,
                length,
                root: (length > 0).then(|| root.unwrap_or(MerkleHash::ZERO)),
            });
            layout.pieces = total;
            // Cannot overflow: at most 2^21 pieces of 2^28 bytes each.
            layout.content_length += length;
        }
        if layout.pieces == 0 {
            return Err(LayoutError::Empty);
        }
        Ok(layout)
    }

    /// Returns the bytes in a full piece.
    pub const fn piece_length(&self) -> PieceLength {
        self.piece_length
    }

    /// Returns the number of pieces, at least 1.
    pub const fn piece_count(&self) -> u32 {
        self.pieces
    }

    /// Returns the bytes of content in all files, without padding.
    pub const fn content_length(&self) -> u64 {
        self.content_length
    }

    /// Returns all files in file-tree order, empty ones included.
    pub fn files(&self) -> &[FileSpan] {
        &self.files
    }

    /// Returns the file with this number, if there is one.
    pub fn file_index(&self, number: u32) -> Option<FileIndex> {
        ((number as usize) < self.files.len()).then_some(FileIndex(number))
    }

    /// Returns the span of a file.
    pub fn file(&self, file: FileIndex) -> &FileSpan {
        &self.files[file.as_usize()]
    }

    /// Returns the piece with this number, if there is one.
    pub fn piece(&self, number: u32) -> Option<PieceIndex> {
        (number < self.pieces).then_some(PieceIndex(number))
    }

    /// Returns all pieces in order.
    pub fn piece_indices(&self) -> impl DoubleEndedIterator<Item = PieceIndex> + Clone + use<> {
        (0..self.pieces).map(PieceIndex)
    }

    /// Returns the file of a piece: each piece belongs to exactly one.
    pub fn file_of(&self, piece: PieceIndex) -> FileIndex {
        let after = self
            .occupied
            .partition_point(|file| self.files[*file as usize].first_piece <= piece.0);
        FileIndex(self.occupied[after - 1])
    }

    /// Returns the position of a piece in its file, in bytes.
    pub fn offset_in_file(&self, piece: PieceIndex) -> u64 {
        let first = self.file(self.file_of(piece)).first_piece;
        u64::from(piece.0 - first) * u64::from(self.piece_length.bytes())
    }

    /// Returns the bytes of content in a piece: the piece length, or less in the last piece of a
    /// file.
    pub fn piece_size(&self, piece: PieceIndex) -> u32 {
        let left = self.file(self.file_of(piece)).length - self.offset_in_file(piece);
        left.min(u64::from(self.piece_length.bytes())) as u32
    }

    /// Returns the number of blocks with content in a piece, at least 1.
    pub fn block_count(&self, piece: PieceIndex) -> u32 {
        self.piece_size(piece).div_ceil(BLOCK_LEN)
    }

    /// Returns the block with this number in a piece, if it has content.
    pub fn block(&self, piece: PieceIndex, in_piece: u32) -> Option<BlockIndex> {
        (in_piece < self.block_count(piece)).then(|| BlockIndex::new(piece, in_piece as u16))
    }

    /// Returns the blocks of a piece that have content, in order.
    pub fn blocks(&self, piece: PieceIndex) -> impl Iterator<Item = BlockIndex> + Clone + use<> {
        // A piece has at most 16384 blocks.
        (0..self.block_count(piece)).map(move |n| BlockIndex::new(piece, n as u16))
    }

    /// Returns the bytes of content in a block: 16 KiB, or less in the last block of a file.
    pub fn block_size(&self, block: BlockIndex) -> u32 {
        (self.piece_size(block.piece()) - block.begin()).min(BLOCK_LEN)
    }

    /// Returns the number of block numbers, see [`Self::block_number`]: one for each block of each
    /// full piece.
    pub fn block_numbers(&self) -> u64 {
        u64::from(self.pieces) * u64::from(self.piece_length.blocks())
    }

    /// Returns the number of a block in the torrent, as an index of a bitmap. Numbers of blocks of
    /// padding stay unused.
    pub fn block_number(&self, block: BlockIndex) -> u64 {
        u64::from(block.piece().0) * u64::from(self.piece_length.blocks())
            + u64::from(block.in_piece())
    }

    /// Returns the block that starts at `begin` in the piece with this number, if there is one.
    pub fn block_at(&self, piece: u32, begin: u32) -> Option<BlockIndex> {
        if !begin.is_multiple_of(BLOCK_LEN) {
            return None;
        }
        self.block(self.piece(piece)?, begin / BLOCK_LEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1024;

    fn layout(piece_length: u64, files: &[u64]) -> Layout {
        Layout::new(
            PieceLength::new(piece_length).unwrap(),
            files.iter().map(|length| (*length, None)),
        )
        .unwrap()
    }

    #[test]
    fn files_start_at_piece_boundaries_and_empty_ones_take_no_space() {
        let layout = layout(32 * KIB, &[0, 1, 32 * KIB, 0, 32 * KIB + 1, 100_000, 0]);
        assert_eq!(layout.piece_count(), 1 + 1 + 2 + 4);
        let files: Vec<u32> = layout
            .piece_indices()
            .map(|p| layout.file_of(p).get())
            .collect();
        assert_eq!(files, [1, 2, 4, 4, 5, 5, 5, 5]);
        let sizes: Vec<u32> = layout
            .piece_indices()
            .map(|p| layout.piece_size(p))
            .collect();
        assert_eq!(sizes, [1, 32_768, 32_768, 1, 32_768, 32_768, 32_768, 1_696]);
        let last = layout.piece(7).unwrap();
        assert_eq!(layout.block_count(last), 1);
        assert_eq!(layout.block_size(layout.block(last, 0).unwrap()), 1_696);
        assert_eq!(layout.block(last, 1), None);
        assert_eq!(layout.offset_in_file(last), 3 * 32_768);
        assert_eq!(layout.file(layout.file_of(last)).blocks(), 7);
    }

    #[test]
    fn block_at_takes_only_block_starts_with_content() {
        let layout = layout(32 * KIB, &[16 * KIB + 1]);
        assert_eq!(
            layout.block_at(0, 16_384).map(|b| layout.block_size(b)),
            Some(1)
        );
        for (piece, begin) in [(0, 1), (0, 32_768), (1, 0), (u32::MAX, 0), (0, u32::MAX)] {
            assert_eq!(layout.block_at(piece, begin), None, "{piece} {begin}");
        }
    }

    #[test]
    fn too_much_or_nothing_is_refused() {
        let short = PieceLength::MIN;
        assert_eq!(Layout::new(short, [(0, None)]), Err(LayoutError::Empty));
        assert_eq!(Layout::new(short, []), Err(LayoutError::Empty));
        let limit = u64::from(MAX_PIECES) * u64::from(short.bytes());
        assert!(Layout::new(short, [(limit, None)]).is_ok());
        assert!(Layout::new(short, [(limit + 1, None)]).is_err());
        assert!(Layout::new(short, [(limit, None), (1, None)]).is_err());
        assert!(Layout::new(short, [(u64::MAX, None), (u64::MAX, None)]).is_err());
    }
}
