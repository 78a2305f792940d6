//! SHA-1 of v1 pieces.

use bittorrent_protocol::metainfo::v1_pads_tail;
use bittorrent_protocol::{PieceLength, PieceSha1};
use sha1::{Digest as _, Sha1};

use super::{Cut, Shape};
use crate::zeros::hash_zeros;

/// Which SHA-1 piece hashes are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum V1Pieces {
    /// None: a v2 torrent.
    None,
    /// The last piece at its true length.
    Plain,
    /// The last piece padded with zeros, as with a pad file after the file.
    Padded,
}

impl V1Pieces {
    pub(super) const fn of(shape: Shape, cut: Cut) -> Self {
        match (cut.hybrid, shape) {
            (false, _) => Self::None,
            (true, Shape::Directory { files }) if v1_pads_tail(files) => Self::Padded,
            (true, _) => Self::Plain,
        }
    }
}

/// Hashes the pieces of a run of bytes that starts at a piece.
pub(super) struct PieceHasher {
    full: usize,
    v1: V1Pieces,
    piece: Sha1,
    filled: usize,
    pieces: Vec<PieceSha1>,
}

impl PieceHasher {
    /// Returns `None` if no v1 pieces are computed.
    pub(super) fn new(piece_length: PieceLength, v1: V1Pieces) -> Option<Self> {
        (v1 != V1Pieces::None).then(|| Self {
            full: piece_length.bytes() as usize,
            v1,
            piece: Sha1::new(),
            filled: 0,
            pieces: Vec::new(),
        })
    }

    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(self.full - self.filled));
            self.piece.update(now);
            self.filled += now.len();
            bytes = later;
            if self.filled == self.full {
                self.end_piece();
            }
        }
    }

    fn end_piece(&mut self) {
        let digest = self.piece.finalize_reset();
        self.pieces.push(PieceSha1::from_bytes(digest.into()));
        self.filled = 0;
    }

    /// Returns the piece hashes; the last piece may be short.
    pub(super) fn finish(mut self) -> Vec<PieceSha1> {
        if self.filled > 0 {
            if self.v1 == V1Pieces::Padded {
                hash_zeros(&mut self.piece, self.full - self.filled);
            }
            self.end_piece();
        }
        self.pieces
    }
}

/// Hashes one piece, side by side with others.
#[derive(Debug, Default)]
pub(super) struct PieceInLane {
    sha1: sha_lanes::Sha1,
    taken: usize,
    /// The last bytes that fill no SHA-1 block, at the end of a file.
    tail: Vec<u8>,
}

impl PieceInLane {
    /// Takes the next bytes of each piece: whole blocks of SHA-1, but for the last of a piece.
    pub(super) fn update_many(lanes: &mut [(&mut Self, &[u8])]) {
        let mut hashes: Vec<_> = lanes.iter().map(|(lane, _)| lane.sha1).collect();
        let parts: Vec<_> = lanes.iter().map(|(_, bytes)| bytes.as_chunks()).collect();
        let blocks: Vec<_> = parts.iter().map(|(blocks, _)| *blocks).collect();
        sha_lanes::Sha1::update_many(&mut hashes, &blocks);
        for (((lane, bytes), hash), (_, tail)) in lanes.iter_mut().zip(hashes).zip(parts) {
            debug_assert!(
                lane.tail.is_empty() || bytes.is_empty(),
                "bytes after the end"
            );
            lane.sha1 = hash;
            lane.taken += bytes.len();
            lane.tail.extend_from_slice(tail);
        }
    }

    pub(super) fn finish(mut self, piece_length: PieceLength, v1: V1Pieces) -> PieceSha1 {
        const ZEROS: [[u8; 64]; 256] = [[0; 64]; 256];
        if v1 == V1Pieces::Padded {
            let mut missing = (piece_length.bytes() as usize).saturating_sub(self.taken);
            // The length of a piece is a multiple of 64: the zeros fill up the tail's block first.
            if !self.tail.is_empty() {
                let mut block = [0; 64];
                for (slot, byte) in block.iter_mut().zip(&self.tail) {
                    *slot = *byte;
                }
                missing = missing.saturating_sub(64 - self.tail.len());
                self.tail.clear();
                self.sha1.update(&[block]);
            }
            let mut blocks = missing / 64;
            while blocks > 0 {
                let some = ZEROS.split_at(blocks.min(ZEROS.len())).0;
                self.sha1.update(some);
                blocks -= some.len();
            }
        }
        PieceSha1::from_bytes(self.sha1.finish(&self.tail))
    }
}
