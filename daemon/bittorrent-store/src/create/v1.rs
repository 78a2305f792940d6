//! SHA-1 of v1 pieces.

use bittorrent_protocol::metainfo::v1_pads_tail;
use bittorrent_protocol::{PieceLength, PieceSha1};
use sha1::{Digest as _, Sha1};

use super::{Cut, Shape};

/// Which SHA-1 piece hashes of a hybrid are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum V1Pieces {
    /// None: a v2 torrent.
    None,
    /// The last piece at its true length.
    Plain,
    /// The last piece filled up with zeros, as a pad file behind the file makes it.
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

/// Hashes the pieces of a run of bytes that begins with a piece.
pub(super) struct PieceHasher {
    full: usize,
    v1: V1Pieces,
    piece: Sha1,
    filled: usize,
    pieces: Vec<PieceSha1>,
}

impl PieceHasher {
    /// `None` when no v1 pieces are wanted.
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

    /// The pieces, the last of which may have been short.
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

/// Feeds zeros to a SHA-1.
pub(crate) fn hash_zeros(sha1: &mut Sha1, mut count: usize) {
    const ZEROS: [u8; 16 << 10] = [0; 16 << 10];
    while count > 0 {
        let some = ZEROS.split_at(count.min(ZEROS.len())).0;
        sha1.update(some);
        count -= some.len();
    }
}
