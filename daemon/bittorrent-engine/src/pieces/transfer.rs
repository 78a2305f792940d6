//! The pieces of one torrent: verified, open, and ready to pick.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use bittorrent_protocol::{BLOCK_LEN, BlockIndex, FileIndex, Layout, MerkleHash, PieceIndex};

use crate::api::input::{Content, PeerFault};
use crate::api::keys::{PeerKey, TorrentKey};
use crate::api::output::{Output, StopReason};
use crate::pieces::layers::Layers;
use crate::pieces::open_piece::{OpenPiece, PieceStage};
use crate::pieces::picker::PiecePicker;
use crate::pieces::piece_set::PieceSet;
use crate::pieces::reuse::Reuse;
use crate::pieces::senders::Senders;
use crate::shared::Shared;

/// The pieces of a torrent.
///
/// A piece is in exactly one of these states: verified (`have`), open (`open_pieces`), ready
/// (`picker`), looked up in older content (`reuse`), or waiting for its hash (none of them).
#[derive(Debug)]
pub(crate) struct Transfer {
    pub(crate) layout: Arc<Layout>,
    /// Verified as a whole.
    pub(crate) have: PieceSet,
    pub(crate) bytes_verified: u64,
    /// Bytes proven in this run.
    pub(crate) bytes_proven: u64,
    /// Those of them that were found in older content.
    pub(crate) bytes_reused: u64,
    /// Ready to pick, rarest first.
    pub(crate) picker: PiecePicker,
    /// To be looked up in older content; `None` when there is none.
    pub(crate) reuse: Option<Reuse>,
    /// Being downloaded or looked up.
    pub(crate) open_pieces: BTreeMap<PieceIndex, OpenPiece>,
    /// The open ones with blocks to request.
    pub(crate) requestable: BTreeSet<PieceIndex>,
    /// Blocks in `open_pieces`.
    pub(crate) begun_blocks: u64,
    pub(crate) layers: Layers,
    pub(crate) senders: Senders,
    /// Proven leaves of former runs, in pieces that are not open.
    held: BTreeMap<PieceIndex, Vec<(u16, MerkleHash)>>,
    /// Pieces with an unknown hash may be picked, because no peer sends piece layers.
    pub(crate) unproven_mode: bool,
    /// Since when no peer can send piece layers.
    pub(crate) no_layers_since: Option<Instant>,
    /// Pieces in [`PieceStage::Unproven`], by file.
    pub(crate) unproven: BTreeMap<FileIndex, u32>,
    pub(crate) unproven_blocks: u64,
    /// Pieces that are not verified, by file.
    lacking: Vec<u32>,
    /// How often a file's pieces did not fold to its root.
    pub(crate) false_files: u32,
    /// Why nothing is requested any more, if so.
    pub(crate) stopped: Option<StopReason>,
}

impl Transfer {
    pub(crate) fn new(content: Content) -> Self {
        let layout = content.layout;
        let layers = Layers::new(&layout, content.layers);
        let mut held: BTreeMap<PieceIndex, Vec<(u16, MerkleHash)>> = BTreeMap::new();
        for piece in content.leaves {
            held.insert(piece.piece, piece.leaves);
        }
        let mut have = PieceSet::new(layout.piece_count());
        let mut picker = PiecePicker::new(&layout);
        let mut reuse = content.reuse.then(|| Reuse::new(layout.piece_count()));
        let mut lacking: Vec<u32> = layout.files().iter().map(|file| file.pieces()).collect();
        let mut bytes_verified = 0;
        for piece in layout.piece_indices() {
            if content.verified.piece_is_full(piece) {
                have.insert(piece);
                held.remove(&piece);
                bytes_verified += u64::from(layout.piece_size(piece));
                lacking[layout.file_of(piece).as_usize()] -= 1;
                continue;
            }
            if let Some(leaves) = held.get_mut(&piece) {
                leaves.retain(|(in_piece, _)| {
                    layout
                        .block(piece, u32::from(*in_piece))
                        .is_some_and(|block| content.verified.contains(block))
                });
                leaves.sort_by_key(|(in_piece, _)| *in_piece);
                leaves.dedup_by_key(|(in_piece, _)| *in_piece);
                for (in_piece, _) in leaves {
                    if let Some(block) = layout.block(piece, u32::from(*in_piece)) {
                        bytes_verified += u64::from(layout.block_size(block));
                    }
                }
            }
            if layers.piece_hash(&layout, piece).is_some() {
                match &mut reuse {
                    Some(reuse) => reuse.insert(piece, held.contains_key(&piece)),
                    None => picker.insert(piece),
                }
            }
        }
        Self {
            layout,
            have,
            bytes_verified,
            bytes_proven: 0,
            bytes_reused: 0,
            picker,
            reuse,
            open_pieces: BTreeMap::new(),
            requestable: BTreeSet::new(),
            begun_blocks: 0,
            layers,
            senders: Senders::default(),
            held,
            unproven_mode: false,
            no_layers_since: None,
            unproven: BTreeMap::new(),
            unproven_blocks: 0,
            lacking,
            false_files: 0,
            stopped: None,
        }
    }

    /// Returns the piece of a number that a peer sent.
    pub(crate) fn checked_piece(&self, number: u32) -> Result<PieceIndex, PeerFault> {
        self.layout
            .piece(number)
            .ok_or_else(|| PeerFault::PieceOutOfRange {
                index: number,
                pieces: self.layout.piece_count(),
            })
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.have.is_full()
    }

    /// Returns whether every missing block has been requested from some peer.
    pub(crate) fn is_end_game(&self) -> bool {
        self.requestable.is_empty()
            && self.picker.is_empty()
            && (self.unproven_mode || self.layers.is_complete())
            && self.reuse.as_ref().is_none_or(Reuse::is_empty)
            && !self.open_pieces.values().any(OpenPiece::is_looked_for)
    }

    /// Opens a piece that is ready.
    pub(crate) fn begin(&mut self, piece: PieceIndex) {
        self.picker.remove(piece);
        if self.begin_at(piece, PieceStage::Collecting).missing() > 0 {
            self.requestable.insert(piece);
        }
    }

    /// Opens a piece that is looked up, so that its leaves can be requested.
    pub(crate) fn begin_reuse(&mut self, piece: PieceIndex, stage: PieceStage) -> &mut OpenPiece {
        if let Some(reuse) = &mut self.reuse {
            reuse.take_unlike(piece);
        }
        self.begin_at(piece, stage)
    }

    fn begin_at(&mut self, piece: PieceIndex, stage: PieceStage) -> &mut OpenPiece {
        let mut open_piece = OpenPiece::new(piece, &self.layout);
        for (in_piece, leaf) in self.held.remove(&piece).unwrap_or_default() {
            open_piece.hold(in_piece, leaf);
        }
        open_piece.stage = stage;
        self.begun_blocks += u64::from(open_piece.blocks());
        self.open_pieces.entry(piece).or_insert(open_piece)
    }

    /// Opens a piece with the request of one block to this peer, which may send its leaves after that.
    pub(crate) fn probe(&mut self, piece: PieceIndex, peer: PeerKey) -> Option<BlockIndex> {
        let layout = Arc::clone(&self.layout);
        self.reuse.as_mut()?.probing.insert(piece);
        self.begin_reuse(piece, PieceStage::Probing(peer))
            .request_next(&layout)
    }

    /// Returns whether a block of this piece is requested so that the peer can send its leaves.
    pub(crate) fn is_probed(&self, piece: PieceIndex) -> bool {
        self.open_pieces
            .get(&piece)
            .is_some_and(|open_piece| matches!(open_piece.stage, PieceStage::Probing(_)))
    }

    /// Closes an open piece whose leaves no peer sends now; it is looked up again later. Its blocks that are
    /// not verified are dropped.
    pub(crate) fn return_to_search(&mut self, piece: PieceIndex) {
        let Some(open_piece) = self.open_pieces.remove(&piece) else {
            return;
        };
        debug_assert!(open_piece.is_settled(), "a write is under way");
        self.begun_blocks -= u64::from(open_piece.blocks());
        self.requestable.remove(&piece);
        let verified = open_piece.verified();
        if !verified.is_empty() {
            self.held.insert(piece, verified);
        }
        match &mut self.reuse {
            Some(reuse) => reuse.insert(piece, true),
            None => self.offer(piece),
        }
    }

    /// Ends all look-ups: every piece is requested from peers.
    pub(crate) fn end_reuse(&mut self) {
        let Some(reuse) = self.reuse.take() else {
            return;
        };
        let layout = Arc::clone(&self.layout);
        for piece in reuse.into_pieces(&layout) {
            self.offer(piece);
        }
        let looking: Vec<_> = self
            .open_pieces
            .values_mut()
            .filter(|open_piece| {
                matches!(
                    open_piece.stage,
                    PieceStage::LookingUpBlocks
                        | PieceStage::Probing(_)
                        | PieceStage::LookingUpLeaves(_)
                        | PieceStage::Descending(_)
                )
            })
            .map(|open_piece| {
                open_piece.stage = PieceStage::Collecting;
                open_piece.piece()
            })
            .collect();
        for piece in looking {
            self.reopen(piece);
        }
    }

    /// Makes a piece whose hash became known ready, or queues its look-up.
    pub(crate) fn announce(&mut self, piece: PieceIndex) {
        match &mut self.reuse {
            Some(reuse) if !self.have.contains(piece) && !self.picker.is_ready(piece) => {
                reuse.insert(piece, self.held.contains_key(&piece));
            }
            _ => self.offer(piece),
        }
    }

    /// Returns the bytes that may still be found in older content.
    pub(crate) fn bytes_looked_for(&self) -> u64 {
        let Some(reuse) = &self.reuse else {
            return 0;
        };
        let piece_length = u64::from(self.layout.piece_length().bytes());
        let begun: u64 = self
            .open_pieces
            .values()
            .filter(|open_piece| open_piece.is_looked_for())
            .map(|open_piece| u64::from(open_piece.missing()) * u64::from(BLOCK_LEN))
            .sum();
        let left = self.layout.content_length() - self.bytes_verified;
        (u64::from(reuse.pieces()) * piece_length + begun).min(left)
    }

    /// Revokes verified blocks of a piece: the caller must clear them in its store.
    pub(crate) fn revoke_blocks(
        &mut self,
        torrent: TorrentKey,
        piece: PieceIndex,
        revoked: &[u16],
        shared: &mut Shared,
    ) {
        let blocks: Vec<_> = revoked
            .iter()
            .filter_map(|in_piece| self.layout.block(piece, u32::from(*in_piece)))
            .collect();
        for block in &blocks {
            let size = u64::from(self.layout.block_size(*block));
            self.bytes_verified = self.bytes_verified.saturating_sub(size);
        }
        if !blocks.is_empty() {
            shared.emit(Output::Revoke { torrent, blocks });
        }
    }

    /// Updates `requestable` for an open piece.
    pub(crate) fn reopen(&mut self, piece: PieceIndex) {
        let wants = self.open_pieces.get(&piece).is_some_and(|open_piece| {
            open_piece.missing() > 0 && matches!(open_piece.stage, PieceStage::Collecting)
        });
        if wants {
            self.requestable.insert(piece);
        } else {
            self.requestable.remove(&piece);
        }
    }

    /// Ends a request for a block that did not arrive. A piece without any request or block returns to the
    /// picker.
    pub(crate) fn release(&mut self, block: BlockIndex) {
        let piece = block.piece();
        let Some(open_piece) = self.open_pieces.get_mut(&piece) else {
            return;
        };
        if !open_piece.release(block.in_piece()) {
            return;
        }
        if matches!(open_piece.stage, PieceStage::Probing(_)) {
            self.return_to_search(piece);
        } else if open_piece.is_untouched()
            && open_piece.suspects.is_empty()
            && !open_piece.is_proven()
        {
            self.return_to_picker(piece);
        } else {
            self.reopen(piece);
        }
    }

    /// Closes an open piece of which nothing was received. Blocks that former runs verified stay.
    pub(crate) fn return_to_picker(&mut self, piece: PieceIndex) {
        if let Some(open_piece) = self.open_pieces.remove(&piece) {
            self.begun_blocks -= u64::from(open_piece.blocks());
            let verified = open_piece.verified();
            if !verified.is_empty() {
                self.held.insert(piece, verified);
            }
        }
        self.requestable.remove(&piece);
        self.offer(piece);
    }

    /// Makes a piece that is neither verified nor open ready, if its hash is known or need not be.
    pub(crate) fn offer(&mut self, piece: PieceIndex) {
        let known = self.layers.piece_hash(&self.layout, piece).is_some();
        if (known || self.unproven_mode)
            && !self.have.contains(piece)
            && !self.open_pieces.contains_key(&piece)
            && !self
                .reuse
                .as_ref()
                .is_some_and(|reuse| reuse.contains(piece))
        {
            self.picker.insert(piece);
        }
    }

    /// Allows picking pieces with an unknown hash, or no longer.
    pub(crate) fn set_unproven_mode(&mut self, on: bool) {
        if self.unproven_mode == on {
            return;
        }
        self.unproven_mode = on;
        let layout = Arc::clone(&self.layout);
        for (number, span) in (0..).zip(layout.files()) {
            let wanted = layout
                .file_index(number)
                .is_some_and(|file| self.layers.is_wanted(file));
            if !wanted {
                continue;
            }
            for piece in span.piece_indices() {
                if on {
                    self.offer(piece);
                } else if self.layers.piece_hash(&layout, piece).is_none() {
                    self.picker.remove(piece);
                }
            }
        }
    }

    /// Marks a piece verified as a whole.
    pub(crate) fn finish(&mut self, piece: PieceIndex) {
        if let Some(open_piece) = self.open_pieces.remove(&piece) {
            self.begun_blocks -= u64::from(open_piece.blocks());
        }
        self.requestable.remove(&piece);
        if self.have.insert(piece) {
            self.lacking[self.layout.file_of(piece).as_usize()] -= 1;
        }
    }

    /// Marks a verified piece damaged, except for these blocks, given by their numbers with their leaf
    /// hashes.
    pub(crate) fn lose_all_but(&mut self, piece: PieceIndex, mut leaves: Vec<(u16, MerkleHash)>) {
        if !self.have.remove(piece) {
            return;
        }
        leaves.sort_by_key(|(in_piece, _)| *in_piece);
        leaves.dedup_by_key(|(in_piece, _)| *in_piece);
        let sizes = leaves
            .iter()
            .filter_map(|(in_piece, _)| self.layout.block(piece, u32::from(*in_piece)))
            .map(|block| u64::from(self.layout.block_size(block)));
        let kept: u64 = sizes.sum();
        let whole = u64::from(self.layout.piece_size(piece));
        self.lacking[self.layout.file_of(piece).as_usize()] += 1;
        self.bytes_verified = self
            .bytes_verified
            .saturating_sub(whole.saturating_sub(kept));
        if !leaves.is_empty() {
            self.held.insert(piece, leaves);
        }
        self.offer(piece);
    }

    /// Marks a verified block missing.
    pub(crate) fn lose(&mut self, block: BlockIndex) {
        let piece = block.piece();
        let size = u64::from(self.layout.block_size(block));
        if let Some(open_piece) = self.open_pieces.get_mut(&piece) {
            if open_piece.slot(block.in_piece()).state
                == crate::pieces::open_piece::BlockState::Verified
            {
                self.bytes_verified = self.bytes_verified.saturating_sub(size);
            }
            open_piece.revoke(block.in_piece());
            // A piece that waited only for a hash waits for this block as well.
            let waits = matches!(open_piece.stage, PieceStage::Unproven | PieceStage::False);
            if waits && open_piece.missing() > 0 {
                let was_unproven = matches!(open_piece.stage, PieceStage::Unproven);
                open_piece.stage = PieceStage::Collecting;
                if was_unproven {
                    self.count_unproven(piece, false);
                }
            }
            self.reopen(piece);
        } else if self.have.remove(piece) {
            // The leaves of the rest are on disk only: the piece starts again from nothing.
            self.lacking[self.layout.file_of(piece).as_usize()] += 1;
            let whole = u64::from(self.layout.piece_size(piece));
            self.bytes_verified = self.bytes_verified.saturating_sub(whole);
            self.offer(piece);
        } else if let Some(leaves) = self.held.get_mut(&piece) {
            let before = leaves.len();
            leaves.retain(|(in_piece, _)| *in_piece != block.in_piece());
            if leaves.len() < before {
                self.bytes_verified = self.bytes_verified.saturating_sub(size);
            }
        }
    }

    /// Counts a piece that enters or leaves [`PieceStage::Unproven`].
    pub(crate) fn count_unproven(&mut self, piece: PieceIndex, entered: bool) {
        let blocks = u64::from(self.layout.block_count(piece));
        let count = self.unproven.entry(self.layout.file_of(piece)).or_default();
        if entered {
            *count += 1;
            self.unproven_blocks += blocks;
        } else {
            *count = count.saturating_sub(1);
            self.unproven_blocks = self.unproven_blocks.saturating_sub(blocks);
        }
    }

    /// Returns whether every unverified piece of the file is stored and waits for its hash.
    pub(crate) fn awaits_only_hashes(&self, file: FileIndex) -> bool {
        let lacking = self.lacking.get(file.as_usize()).copied().unwrap_or(0);
        lacking > 0 && self.unproven.get(&file).copied() == Some(lacking)
    }
}

/// Bytes of content in a run of blocks of a piece.
pub(crate) fn run_size(layout: &Layout, piece: PieceIndex, first_block: u16, blocks: usize) -> u64 {
    let begin = u64::from(first_block) * u64::from(BLOCK_LEN);
    let end = begin + blocks as u64 * u64::from(BLOCK_LEN);
    end.min(layout.piece_size(piece).into())
        .saturating_sub(begin)
}

#[cfg(test)]
mod tests {
    use bittorrent_protocol::{BlockSet, PieceLength, merkle};

    use super::*;
    use crate::api::input::PieceLeaves;

    fn transfer(verified: impl Fn(u32, u16) -> bool, held: &[(u32, u16)]) -> Transfer {
        let piece_length = PieceLength::new(4 * 16_384).unwrap();
        // One file of 4 pieces, the last one of a single block, with unknown hashes; and one of
        // one piece.
        let root = Some(merkle::leaf(b"root"));
        let layout = Layout::new(piece_length, [(13 * 16_384, root), (4 * 16_384, root)]).unwrap();
        let layout = Arc::new(layout);
        let mut set = BlockSet::new(&layout);
        for piece in layout.piece_indices() {
            for block in layout.blocks(piece) {
                if verified(piece.get(), block.in_piece()) {
                    set.insert(block);
                }
            }
        }
        let leaves = held
            .iter()
            .map(|(piece, in_piece)| PieceLeaves {
                piece: layout.piece(*piece).unwrap(),
                leaves: vec![(*in_piece, merkle::leaf(b"leaf")), (99, MerkleHash::ZERO)],
            })
            .collect();
        Transfer::new(Content {
            layers: vec![None, None],
            verified: set,
            leaves,
            layout,
            reuse: false,
        })
    }

    fn block(transfer: &Transfer, piece: u32, in_piece: u32) -> BlockIndex {
        let piece = transfer.layout.piece(piece).unwrap();
        transfer.layout.block(piece, in_piece).unwrap()
    }

    #[test]
    fn pieces_with_unknown_hashes_are_ready_only_when_they_must_be() {
        let mut transfer = transfer(|_, _| false, &[]);
        let ready = |transfer: &Transfer| {
            let ready = |piece: &PieceIndex| transfer.picker.is_ready(*piece);
            let pieces = transfer.layout.piece_indices().filter(ready);
            pieces.map(PieceIndex::get).collect::<Vec<_>>()
        };
        assert_eq!(ready(&transfer), [4]);
        transfer.set_unproven_mode(true);
        assert_eq!(ready(&transfer), [0, 1, 2, 3, 4]);
        transfer.set_unproven_mode(false);
        assert_eq!(ready(&transfer), [4]);
        assert!(!transfer.is_end_game());
    }

    #[test]
    fn a_piece_whose_last_request_ends_goes_back() {
        let mut transfer = transfer(|_, _| false, &[]);
        let piece = transfer.layout.piece(4).unwrap();
        transfer.begin(piece);
        assert!(!transfer.picker.is_ready(piece) && transfer.requestable.contains(&piece));
        assert_eq!(transfer.begun_blocks, 4);
        let layout = Arc::clone(&transfer.layout);
        let open_piece = transfer.open_pieces.get_mut(&piece).unwrap();
        let first = open_piece.request_next(&layout).unwrap();
        let second = open_piece.request_next(&layout).unwrap();
        transfer.release(first);
        assert!(!transfer.picker.is_ready(piece));
        transfer.release(second);
        assert!(transfer.picker.is_ready(piece) && transfer.open_pieces.is_empty());
        assert_eq!(transfer.begun_blocks, 0);
    }

    #[test]
    fn blocks_of_former_runs_count_only_with_their_leaves() {
        let mut transfer = transfer(|piece, n| piece == 3 || n == 1, &[(4, 1), (0, 2)]);
        assert_eq!(transfer.have.len(), 1);
        // Piece 3 is one block; of the others only 4:1 has both its bit and its leaf.
        assert_eq!(transfer.bytes_verified, 2 * 16_384);
        let piece = transfer.layout.piece(4).unwrap();
        transfer.begin(piece);
        assert_eq!(transfer.open_pieces[&piece].missing(), 3);
        let lost = block(&transfer, 4, 1);
        transfer.lose(lost);
        assert_eq!(transfer.open_pieces[&piece].missing(), 4);
        let lost = block(&transfer, 3, 0);
        transfer.lose(lost);
        transfer.lose(lost);
        assert_eq!(transfer.bytes_verified, 0);
        assert!(transfer.have.is_empty());
    }
}
