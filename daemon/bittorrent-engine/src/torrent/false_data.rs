//! Finding out who sent false data.
//!
//! A piece that does not fold to its hash was sent by one peer, which is banned, or by several.
//! Then its leaves are requested from peers on v2 links: they show the false blocks, the rest is kept.
//! Where no peer sends leaves, what arrived is remembered by its hash and the piece is downloaded
//! again from one single peer; if it is right now, the difference names the liars, and if it is
//! not, that one peer is one.

use bittorrent_protocol::{FileIndex, MerkleHash, PieceIndex, merkle};

use super::context::Context;
use crate::api::keys::PeerKey;
use crate::api::output::{Blame, Output, StopReason};
use crate::pieces::layers::piece_range;
use crate::pieces::leaves::LeafQuery;
use crate::pieces::open_piece::{BlockState, PieceStage, Suspect};
use crate::pieces::senders::Sender;

/// How often the pieces of files may fold to the wrong root before the torrent stops.
const MOST_FALSE_FILES: u32 = 3;

/// Finds and bans the senders of false blocks.
pub(super) struct FalseData<'c, 'a> {
    cx: &'c mut Context<'a>,
}

impl<'c, 'a> FalseData<'c, 'a> {
    pub(super) fn new(cx: &'c mut Context<'a>) -> Self {
        Self { cx }
    }

    fn ban_sender(&mut self, sender: Sender, blame: Blame) {
        let addr = self.cx.transfer.senders.addr(sender);
        if let Some(addr) = addr {
            self.cx.ban(addr, blame);
        }
    }

    /// Starts to find the sender of a false piece, once no write to it is under way.
    pub(super) fn judge_piece(&mut self, piece: PieceIndex) {
        let transfer = &mut *self.cx.transfer;
        let Some(open_piece) = transfer.open_pieces.get_mut(&piece) else {
            return;
        };
        let held = open_piece
            .slots()
            .any(|(_, slot)| slot.state == BlockState::Verified);
        if let (false, Some(sender)) = (held, open_piece.only_sender()) {
            open_piece.revoke_all();
            open_piece.stage = PieceStage::Collecting;
            open_piece.exclusive = None;
            open_piece.worker = None;
            transfer.reopen(piece);
            self.ban_sender(sender, Blame::Piece(piece));
            self.cx.swarm.wake_starved = true;
            return;
        }
        open_piece.stage = PieceStage::FindingFalseBlocks(LeafQuery::default());
        self.cx.swarm.ask_hashes = true;
    }

    /// Compares a piece with its proven leaves: revokes false blocks and bans their senders.
    pub(super) fn apply_leaves(&mut self, piece: PieceIndex, leaves: &[MerkleHash]) {
        let transfer = &mut *self.cx.transfer;
        let Some(open_piece) = transfer.open_pieces.get_mut(&piece) else {
            return;
        };
        let wrong = open_piece.set_leaves(leaves);
        let held: Vec<_> = wrong
            .iter()
            .map(|suspect| suspect.in_piece)
            .filter(|in_piece| open_piece.slot(*in_piece).state == BlockState::Verified)
            .collect();
        for suspect in &wrong {
            open_piece.revoke(suspect.in_piece);
        }
        open_piece.stage = PieceStage::Collecting;
        transfer.revoke_blocks(self.cx.swarm.key, piece, &held, self.cx.shared);
        transfer.reopen(piece);
        self.cx.swarm.wake_starved = true;
        self.convict(piece, &wrong);
        self.convict_suspects(piece);
        self.cx.blocks().prove(piece);
    }

    /// Downloads a false piece again from one peer, because no peer sends its leaves.
    pub(super) fn retry_solo(&mut self, piece: PieceIndex) {
        let transfer = &mut *self.cx.transfer;
        let Some(open_piece) = transfer.open_pieces.get_mut(&piece) else {
            return;
        };
        let arrived: Vec<_> = open_piece
            .slots()
            .filter(|(_, slot)| slot.state == BlockState::Written)
            .map(|(in_piece, slot)| Suspect {
                in_piece,
                leaf: slot.leaf,
                sender: slot.sender,
            })
            .collect();
        // What the last attempt brought is enough to find one liar, and bounded.
        open_piece.suspects = arrived;
        let held: Vec<_> = open_piece
            .slots()
            .filter(|(_, slot)| slot.state == BlockState::Verified)
            .map(|(in_piece, _)| in_piece)
            .collect();
        for in_piece in &held {
            open_piece.revoke(*in_piece);
        }
        open_piece.revoke_all();
        open_piece.stage = PieceStage::Collecting;
        open_piece.solo = true;
        open_piece.exclusive = None;
        open_piece.worker = None;
        transfer.revoke_blocks(self.cx.swarm.key, piece, &held, self.cx.shared);
        transfer.reopen(piece);
        self.cx.swarm.wake_starved = true;
    }

    /// Releases the pieces that are downloaded from this peer alone, so that another peer starts over. With
    /// `only`, just that piece.
    pub(super) fn lose_exclusive(&mut self, key: PeerKey, only: Option<PieceIndex>) {
        let transfer = &mut *self.cx.transfer;
        let solo: Vec<_> = transfer
            .open_pieces
            .values_mut()
            .filter(|open_piece| {
                open_piece.exclusive == Some(key)
                    && !open_piece.is_proven()
                    && matches!(open_piece.stage, PieceStage::Collecting)
                    && only.is_none_or(|only| only == open_piece.piece())
            })
            .map(|open_piece| {
                open_piece.exclusive = None;
                open_piece.worker = None;
                open_piece.revoke_all();
                open_piece.piece()
            })
            .collect();
        for piece in solo {
            transfer.reopen(piece);
            self.cx.swarm.wake_starved = true;
        }
    }

    /// Bans the peers that sent other bytes for a piece that was false before and is proven now.
    pub(super) fn convict_suspects(&mut self, piece: PieceIndex) {
        let Some(open_piece) = self.cx.transfer.open_pieces.get_mut(&piece) else {
            return;
        };
        if !open_piece.is_proven() {
            return;
        }
        let mut wrong = std::mem::take(&mut open_piece.suspects);
        wrong.retain(|suspect| open_piece.slot(suspect.in_piece).leaf != suspect.leaf);
        self.convict(piece, &wrong);
    }

    fn convict(&mut self, piece: PieceIndex, wrong: &[Suspect]) {
        let mut convicted: Vec<Sender> = Vec::new();
        for suspect in wrong {
            if convicted.contains(&suspect.sender) {
                continue;
            }
            convicted.push(suspect.sender);
            let block = self
                .cx
                .transfer
                .layout
                .block(piece, u32::from(suspect.in_piece));
            if let Some(block) = block {
                self.ban_sender(suspect.sender, Blame::Block(block));
            }
        }
    }

    /// Checks a file by its root, once all that is missing of it waits for hashes that no peer sends.
    pub(super) fn fold_file(&mut self, piece: PieceIndex) {
        let transfer = &mut *self.cx.transfer;
        let file = transfer.layout.file_of(piece);
        if !transfer.awaits_only_hashes(file) {
            return;
        }
        let span = transfer.layout.file(file).clone();
        let mut hashes = Vec::with_capacity(span.pieces() as usize);
        let mut waiting = Vec::new();
        for piece in span.piece_indices() {
            if let Some(open_piece) = transfer.open_pieces.get(&piece) {
                if !open_piece.is_settled() {
                    return;
                }
                waiting.push(piece);
                hashes.push(merkle::piece_hash(
                    &open_piece.leaves(),
                    &transfer.layout,
                    piece,
                ));
            } else if let Some(hash) = transfer.layers.piece_hash(&transfer.layout, piece) {
                hashes.push(hash);
            } else {
                // The piece was verified in a former run, when its hash was known: only peers have that now.
                return;
            }
        }
        let layout = std::sync::Arc::clone(&transfer.layout);
        match transfer.layers.complete_by(&layout, file, hashes) {
            Some(layer) => {
                self.cx.shared.emit(Output::Layer {
                    torrent: self.cx.swarm.key,
                    file,
                    layer,
                });
                for piece in waiting {
                    self.cx.blocks().collected(piece);
                }
            }
            None => self.drop_false_file(file, &waiting),
        }
    }

    /// Drops the unproven pieces of a file that do not fold to its root.
    fn drop_false_file(&mut self, file: FileIndex, waiting: &[PieceIndex]) {
        let transfer = &mut *self.cx.transfer;
        let mut senders = std::collections::BTreeSet::new();
        for piece in waiting {
            if let Some(open_piece) = transfer.open_pieces.get(piece) {
                senders.extend(open_piece.slots().map(|(_, slot)| slot.sender));
            }
            transfer.count_unproven(*piece, false);
            transfer.return_to_picker(*piece);
        }
        transfer.false_files += 1;
        let hopeless = transfer.false_files >= MOST_FALSE_FILES;
        let first = piece_range(transfer.layout.file(file)).start;
        let first = transfer.layout.piece(first);
        self.cx.swarm.wake_starved = true;
        if let (1, Some(sender), Some(first)) = (senders.len(), senders.first(), first) {
            self.ban_sender(*sender, Blame::Piece(first));
        } else if hopeless {
            self.cx.stop(StopReason::FilesFalse);
        }
    }
}
