//! Finding out who sent false data.
//!
//! A piece that does not fold to its hash came from one peer, which is banned, or from several.
//! Then its leaves are asked of peers on v2 links: they name the false blocks, the rest is kept.
//! Where nobody gives leaves, what arrived is remembered by its hash and the piece is downloaded
//! again from one single peer; if it is right now, the difference names the liars, and if it is
//! not, that one peer is one.

use std::net::SocketAddr;
use std::time::Instant;

use bittorrent_protocol::{FileIndex, MerkleHash, PieceIndex, merkle};

use super::Torrent;
use crate::api::keys::PeerKey;
use crate::api::output::{Blame, DisconnectReason, Output, StopReason};
use crate::pieces::layers::piece_range;
use crate::pieces::leaves::LeafQuery;
use crate::pieces::open_piece::{BlockState, PieceStage, Suspect};
use crate::pieces::senders::Sender;
use crate::shared::Shared;

/// How often the pieces of files may fold to the wrong root before the torrent stops.
const MOST_FALSE_FILES: u32 = 3;

impl Torrent {
    /// Bans an address, and its host when others of it are banned as well. Closes their connections.
    pub(super) fn ban(
        &mut self,
        addr: SocketAddr,
        blame: Blame,
        shared: &mut Shared,
        now: Instant,
    ) {
        let listens = self
            .peers
            .values()
            .find(|peer| peer.addr == addr)
            .and_then(|peer| peer.listens);
        if !shared.bans.contains(addr, now) {
            let time = shared.config.ban_time;
            shared.bans.add(addr, time, now);
            if let Some(listens) = listens.filter(|listens| *listens != addr) {
                shared.bans.add(listens, time, now);
            }
            self.banned += 1;
            shared.emit(Output::Banned {
                torrent: self.key,
                addr,
                blame,
            });
        }
        let keys: Vec<_> = self
            .peers
            .values()
            .filter(|peer| shared.bans.contains(peer.addr, now))
            .map(|peer| peer.key)
            .collect();
        for key in keys {
            self.disconnect(key, DisconnectReason::Banned, shared, now);
        }
    }

    pub(super) fn ban_for_metadata(&mut self, key: PeerKey, shared: &mut Shared, now: Instant) {
        if let Some(addr) = self.peers.get(&key).map(|peer| peer.addr) {
            self.ban(addr, Blame::Metadata, shared, now);
        }
    }

    fn ban_sender(&mut self, sender: Sender, blame: Blame, shared: &mut Shared, now: Instant) {
        let addr = self
            .transfer
            .as_ref()
            .and_then(|transfer| transfer.senders.addr(sender));
        if let Some(addr) = addr {
            self.ban(addr, blame, shared, now);
        }
    }

    /// A piece is false, and no write to it is under way.
    pub(super) fn judge_piece(&mut self, piece: PieceIndex, shared: &mut Shared, now: Instant) {
        let Some(transfer) = &mut self.transfer else {
            return;
        };
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
            self.ban_sender(sender, Blame::Piece(piece), shared, now);
            self.wake_starved = true;
            return;
        }
        open_piece.stage = PieceStage::FindingFalseBlocks(LeafQuery::default());
        self.ask_hashes = true;
    }

    /// The true leaves of a false piece are known.
    pub(super) fn apply_leaves(
        &mut self,
        piece: PieceIndex,
        leaves: &[MerkleHash],
        shared: &mut Shared,
        now: Instant,
    ) {
        let Some(transfer) = &mut self.transfer else {
            return;
        };
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
        transfer.revoke_blocks(self.key, piece, &held, shared);
        transfer.reopen(piece);
        self.wake_starved = true;
        self.convict(piece, &wrong, shared, now);
        self.convict_suspects(piece, shared, now);
        self.prove(piece, shared, now);
    }

    /// Nobody gives the leaves of a false piece: downloads it again from one peer.
    pub(super) fn retry_solo(&mut self, piece: PieceIndex, shared: &mut Shared) {
        let Some(transfer) = &mut self.transfer else {
            return;
        };
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
        transfer.revoke_blocks(self.key, piece, &held, shared);
        transfer.reopen(piece);
        self.wake_starved = true;
    }

    /// The one peer that a piece is taken from fails to deliver: another one starts over. With
    /// `only`, just for that piece.
    pub(super) fn lose_exclusive(&mut self, key: PeerKey, only: Option<PieceIndex>) {
        let Some(transfer) = &mut self.transfer else {
            return;
        };
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
            self.wake_starved = true;
        }
    }

    /// A piece that was false before is proven now: whoever sent something else lied.
    pub(super) fn convict_suspects(
        &mut self,
        piece: PieceIndex,
        shared: &mut Shared,
        now: Instant,
    ) {
        let Some(open_piece) = self
            .transfer
            .as_mut()
            .and_then(|transfer| transfer.open_pieces.get_mut(&piece))
        else {
            return;
        };
        if !open_piece.is_proven() {
            return;
        }
        let mut wrong = std::mem::take(&mut open_piece.suspects);
        wrong.retain(|suspect| open_piece.slot(suspect.in_piece).leaf != suspect.leaf);
        self.convict(piece, &wrong, shared, now);
    }

    fn convict(&mut self, piece: PieceIndex, wrong: &[Suspect], shared: &mut Shared, now: Instant) {
        let mut convicted: Vec<Sender> = Vec::new();
        for suspect in wrong {
            if convicted.contains(&suspect.sender) {
                continue;
            }
            convicted.push(suspect.sender);
            let block = self
                .transfer
                .as_ref()
                .and_then(|transfer| transfer.layout.block(piece, u32::from(suspect.in_piece)));
            if let Some(block) = block {
                self.ban_sender(suspect.sender, Blame::Block(block), shared, now);
            }
        }
    }

    /// When everything that lacks of a file waits for hashes that nobody gives, the file's root
    /// decides about all of it.
    pub(super) fn fold_file(&mut self, piece: PieceIndex, shared: &mut Shared, now: Instant) {
        let Some(transfer) = &mut self.transfer else {
            return;
        };
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
                // Verified in a former run, when its hash was known: only peers have it now.
                return;
            }
        }
        let layout = std::sync::Arc::clone(&transfer.layout);
        match transfer.layers.complete_by(&layout, file, hashes) {
            Some(layer) => {
                shared.emit(Output::Layer {
                    torrent: self.key,
                    file,
                    layer,
                });
                for piece in waiting {
                    self.collected(piece, shared, now);
                }
            }
            None => self.drop_false_file(file, &waiting, shared, now),
        }
    }

    /// The pieces of a file, none of them proven, do not fold to its root.
    fn drop_false_file(
        &mut self,
        file: FileIndex,
        waiting: &[PieceIndex],
        shared: &mut Shared,
        now: Instant,
    ) {
        let Some(transfer) = &mut self.transfer else {
            return;
        };
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
        self.wake_starved = true;
        if let (1, Some(sender), Some(first)) = (senders.len(), senders.first(), first) {
            self.ban_sender(*sender, Blame::Piece(first), shared, now);
        } else if hopeless {
            self.stop(StopReason::FilesFalse, shared);
        }
    }
}
