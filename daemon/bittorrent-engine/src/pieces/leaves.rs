//! Requests for the leaves of one piece, to find which of its blocks are false.

use bittorrent_protocol::merkle::{self, CheckedRequest, HashRequest};
use bittorrent_protocol::{Layout, MerkleHash, PieceIndex};

use crate::api::keys::PeerKey;

/// How many peers are asked before the piece is given up.
const MOST_PEERS: usize = 4;

/// The peers that were asked for a piece's leaves.
#[derive(Debug, Clone, Default)]
pub(crate) struct LeafQuery {
    asked: Vec<PeerKey>,
    /// The peer that has not answered yet.
    waiting: Option<PeerKey>,
}

impl LeafQuery {
    /// Returns whether no further peer may be asked.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.asked.len() >= MOST_PEERS
    }

    pub(crate) fn was_asked(&self, peer: PeerKey) -> bool {
        self.asked.contains(&peer)
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    pub(crate) fn is_waiting_for(&self, peer: PeerKey) -> bool {
        self.waiting == Some(peer)
    }

    pub(crate) fn ask(&mut self, peer: PeerKey) {
        self.asked.push(peer);
        self.waiting = Some(peer);
    }

    /// Waits for another peer that was asked.
    pub(crate) fn count_on(&mut self, peer: PeerKey) {
        self.waiting = Some(peer);
    }

    /// Records that the peer will not answer.
    pub(crate) fn give_up(&mut self) {
        self.waiting = None;
    }
}

/// Returns the request for all leaves of a piece. It needs no uncles: the leaves fold to the piece's own
/// hash. `None` when there is nothing to ask: one leaf only, or more than peers answer.
pub(crate) fn leaf_request(layout: &Layout, piece: PieceIndex) -> Option<CheckedRequest> {
    let file = layout.file(layout.file_of(piece));
    let height = merkle::piece_height(layout, piece);
    let count = 1_u32.checked_shl(height.into())?;
    let first = file.piece_indices().next()?;
    let index = (piece.get() - first.get()).checked_mul(count)?;
    HashRequest::anchored(file, 0, index, count, height).ok()
}

/// Cuts an answer down to the leaves that stand for content.
pub(crate) fn content_leaves<'a>(
    layout: &Layout,
    piece: PieceIndex,
    hashes: &'a [MerkleHash],
) -> &'a [MerkleHash] {
    let count = layout.block_count(piece) as usize;
    hashes.get(..count).unwrap_or(hashes)
}

#[cfg(test)]
mod tests {
    use bittorrent_protocol::PieceLength;

    use super::*;

    #[test]
    fn requests_cover_the_piece_or_the_whole_short_file() {
        let root = Some(MerkleHash::from_bytes([1; 32]));
        let layout = Layout::new(
            PieceLength::new(8 * 16_384).unwrap(),
            [
                (5 * 16_384, root),
                (1, root),
                (8 * 16_384, root),
                (17 * 16_384, root),
            ],
        )
        .unwrap();
        let ask = |piece: u32| {
            leaf_request(&layout, layout.piece(piece).unwrap()).map(|asked| {
                let request = asked.request();
                assert_eq!((request.base, asked.uncle_count()), (0, 0));
                (request.index, request.count, asked.anchor_layer())
            })
        };
        assert_eq!(ask(0), Some((0, 8, 3)));
        assert_eq!(ask(1), None);
        assert_eq!(ask(2), Some((0, 8, 3)));
        assert_eq!(ask(3), Some((0, 8, 3)));
        assert_eq!(ask(5), Some((16, 8, 3)));
    }

    #[test]
    fn nothing_longer_than_peers_answer_is_asked_for() {
        let root = Some(MerkleHash::from_bytes([1; 32]));
        let layout =
            |length| Layout::new(PieceLength::new(length).unwrap(), [(1 << 30, root)]).unwrap();
        let long = layout(1 << 28);
        assert_eq!(leaf_request(&long, long.piece(0).unwrap()), None);
        let half = layout(1 << 27);
        assert!(leaf_request(&half, half.piece(1).unwrap()).is_some());
        let short = layout(1 << 14);
        assert_eq!(leaf_request(&short, short.piece(1).unwrap()), None);
    }
}
