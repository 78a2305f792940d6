//! Reading content and hashes.

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use bittorrent_protocol::merkle::{self, CheckedRequest, HashRequest, ProofFault};
use bittorrent_protocol::{FileIndex, MerkleHash, PieceIndex};

use super::TorrentStore;
use crate::disk::io::{IoFile, read_full};
use crate::disk::pages::{PAGE, page_aligned};
use crate::error::{Operation, StoreError};
use crate::sync;

/// The most leaves read to answer one request: 2 MiB of them. Enough for every layer that clients
/// request: leaves, and layers from the piece layer up, which need none.
const MAX_LEAVES: u64 = 65_536;

/// An open content file, for kinds of reads that this crate does not offer.
#[derive(Debug, Clone)]
pub struct SharedFile(Arc<dyn IoFile>);

impl AsFd for SharedFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The location of a range of a piece: bytes in a file, then padding zeros.
#[derive(Debug, Clone)]
pub struct Extent {
    /// The file.
    pub file: SharedFile,
    /// The position of the first byte in the file.
    pub offset: u64,
    /// The number of bytes in the file.
    pub content: u32,
    /// The number of zeros that follow: padding past the end of the file.
    pub zeros: u32,
}

impl TorrentStore {
    /// Reads from a position of a piece, verified or not. Bytes past the content are zeros. A failure is
    /// noted for [`Self::recheck_unreadable`].
    ///
    /// # Errors
    ///
    /// When the disk fails, when the file is too short, and when no file descriptor is free
    /// ([`StoreError::is_busy`]), which is not noted.
    pub fn read(&self, piece: PieceIndex, begin: u32, buffer: &mut [u8]) -> Result<(), StoreError> {
        self.read_content(piece, begin, buffer)
            .inspect_err(|error| {
                // Without a free descriptor nothing is known of the piece.
                if !error.is_busy() {
                    sync::lock(&self.unreadable).insert(piece);
                }
            })
    }

    fn read_content(
        &self,
        piece: PieceIndex,
        begin: u32,
        buffer: &mut [u8],
    ) -> Result<(), StoreError> {
        let there = self.layout().piece_size(piece).saturating_sub(begin) as usize;
        let (content, zeros) = buffer.split_at_mut(there.min(buffer.len()));
        zeros.fill(0);
        let (file, open) = self.files.content_of(piece)?;
        let offset = self.layout().offset_in_file(piece) + u64::from(begin);
        let read = read_full(&*open, content, offset)
            .map_err(self.files.contents().failed(Operation::Read, file))?;
        if read < content.len() {
            return Err(StoreError::Truncated {
                path: self.file_path(file),
                length: offset + read as u64,
                piece,
            });
        }
        Ok(())
    }

    /// Returns the location of `length` bytes from a position of a piece, if their file is open right now.
    /// Never waits for a disk. [`Self::read`] opens the file.
    pub fn extent(&self, piece: PieceIndex, begin: u32, length: u32) -> Option<Extent> {
        let file = self
            .files
            .contents()
            .open_file(self.layout().file_of(piece))?;
        let content = self
            .layout()
            .piece_size(piece)
            .saturating_sub(begin)
            .min(length);
        Some(Extent {
            file: SharedFile(file),
            offset: self.layout().offset_in_file(piece) + u64::from(begin),
            content,
            zeros: length - content,
        })
    }

    /// Answers a hash request (BEP 52): the requested hashes, then the uncles. `None` means a hash reject:
    /// the request is invalid, or its blocks are not verified here.
    ///
    /// Layers from the piece layer up come from the torrent, those below from the stored leaves.
    ///
    /// # Errors
    ///
    /// When the disk fails.
    pub fn hashes(&self, request: &HashRequest) -> Result<Option<Vec<MerkleHash>>, StoreError> {
        let spans = self.layout().files();
        for (number, span) in (0..).zip(spans) {
            if span.root() != Some(request.root) {
                continue;
            }
            let Some(file) = self.layout().file_index(number) else {
                continue;
            };
            let Ok(checked) = request.validate(span) else {
                return Ok(None);
            };
            let reply = checked.respond(|layer, range| self.nodes(file, layer, range))?;
            if reply.is_some() && self.is_sound(file, &checked, reply.as_deref()) {
                return Ok(reply);
            }
            // Files with the same content have the same root; a later one may have the hashes.
        }
        Ok(None)
    }

    /// Returns whether an answer agrees with the known part of the tree, so that a damaged leaf file never
    /// makes this client send false hashes.
    fn is_sound(
        &self,
        file: FileIndex,
        request: &CheckedRequest,
        reply: Option<&[MerkleHash]>,
    ) -> bool {
        let span = self.layout().file(file);
        let metainfo = self.metainfo();
        let known = metainfo.layer(file);
        if known.is_some() && request.base() >= self.layout().piece_length().layer() {
            return true;
        }
        let height = merkle::tree_height(span.blocks());
        let trusted = |layer, index| {
            let root = span.root().filter(|_| layer == height && index == 0);
            root.or_else(|| known?.node(layer, index))
        };
        let verdict = request.verify(reply.unwrap_or_default(), trusted);
        matches!(verdict, Ok(_) | Err(ProofFault::Unanchored))
    }

    /// Returns nodes of a file's tree that cover content; `None` if they do not follow from verified
    /// blocks.
    fn nodes(
        &self,
        file: FileIndex,
        layer: u8,
        range: Range<u64>,
    ) -> Result<Option<Vec<MerkleHash>>, StoreError> {
        let piece_layer = self.layout().piece_length().layer();
        if layer >= piece_layer
            && let Some(known) = self.metainfo().layer(file)
        {
            return Ok(range.map(|index| known.node(layer, index)).collect());
        }
        let blocks = self.layout().file(file).blocks();
        let leaves = range.start << layer..(range.end << layer).min(blocks);
        if leaves.end - leaves.start > MAX_LEAVES || !self.are_leaves_verified(file, &leaves) {
            return Ok(None);
        }
        let count = (leaves.end - leaves.start) as usize;
        let kept = self.files.stored_leaves(file, leaves.start, count)?;
        if kept.len() != count {
            return Ok(None);
        }
        Ok(Some(
            kept.chunks(1 << layer)
                .map(|below| merkle::fold(below, 0, layer))
                .collect(),
        ))
    }

    fn are_leaves_verified(&self, file: FileIndex, leaves: &Range<u64>) -> bool {
        let first = self.files.numbers(file).start;
        self.blocks
            .are_verified(first + leaves.start..first + leaves.end)
    }

    /// Reads a piece from disk and returns its leaves. Passes the bytes to `each`, in order.
    pub(super) fn hash_piece(
        &self,
        piece: PieceIndex,
        buffer: &mut Vec<u8>,
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<Vec<MerkleHash>, StoreError> {
        /// Bytes read at once, a multiple of the block length.
        const CHUNK: u32 = 64 << 10;
        buffer.resize(CHUNK as usize + PAGE, 0);
        let buffer = page_aligned(buffer);
        let size = self.layout().piece_size(piece);
        let mut leaves = Vec::with_capacity(self.layout().block_count(piece) as usize);
        let mut begin = 0;
        while begin < size {
            let length = CHUNK.min(size - begin);
            let (bytes, _) = buffer.split_at_mut(length as usize);
            self.read(piece, begin, bytes)?;
            each(bytes);
            merkle::extend_leaves(&mut leaves, bytes);
            begin += length;
        }
        Ok(leaves)
    }
}
