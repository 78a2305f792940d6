//! What peers have, what we have, and who is interested in whom.

use std::time::Instant;

use super::Torrent;
use crate::api::keys::PeerKey;
use crate::api::output::{Command, DisconnectReason};
use crate::peer::PeerPieces;
use crate::pieces::piece_set::PieceSet;
use crate::shared::Shared;

impl Torrent {
    /// Tells a peer what we have.
    pub(super) fn send_bitfield(&self, key: PeerKey, shared: &mut Shared) {
        let (Some(transfer), Some(peer)) = (&self.transfer, self.peers.get(&key)) else {
            return;
        };
        if transfer.have.is_empty() {
            if peer.fast {
                shared.send(key, Command::HaveNone);
            }
        } else if transfer.have.is_full() && peer.fast {
            shared.send(key, Command::HaveAll);
        } else {
            shared.send(key, Command::Bitfield(transfer.have.to_wire()));
        }
    }

    /// Neither side has anything for the other: make room.
    pub(super) fn drop_if_redundant(&mut self, key: PeerKey, shared: &mut Shared, now: Instant) {
        let redundant = self.wants_nothing()
            && self
                .peers
                .get(&key)
                .is_some_and(|peer| peer.is_seed() || peer.upload_only);
        if redundant {
            self.disconnect(key, DisconnectReason::Redundant, shared, now);
        }
    }

    /// Tells a peer when our interest in it changes.
    pub(super) fn update_interest(&mut self, key: PeerKey, shared: &mut Shared) {
        let at_rest = self.is_at_rest();
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        let wanted = !at_rest && peer.offers > 0 && !peer.parked;
        if wanted == peer.wanted {
            return;
        }
        peer.wanted = wanted;
        shared.send(
            key,
            if wanted {
                Command::Interested
            } else {
                Command::NotInterested
            },
        );
        if wanted {
            self.wake(key);
        }
    }

    /// Counts a peer's pieces into the availability.
    pub(super) fn count_pieces(&mut self, key: PeerKey) {
        let (Some(transfer), Some(peer)) = (&mut self.transfer, self.peers.get_mut(&key)) else {
            return;
        };
        let PeerPieces::Known(set) = &peer.has else {
            return;
        };
        if set.is_full() {
            transfer.picker.add_seed();
        } else {
            transfer.picker.add_copies(set, &transfer.layout);
        }
        peer.offers = set.count_without(&transfer.have);
        self.ask_hashes = true;
    }

    /// Takes a peer's pieces out of the availability.
    pub(super) fn uncount_pieces(&mut self, key: PeerKey) {
        let (Some(transfer), Some(peer)) = (&mut self.transfer, self.peers.get_mut(&key)) else {
            return;
        };
        let PeerPieces::Known(set) = &peer.has else {
            return;
        };
        if set.is_full() {
            transfer.picker.remove_seed();
        } else {
            transfer.picker.remove_copies(set, &transfer.layout);
        }
        peer.offers = 0;
    }

    /// Replaces what a peer has.
    pub(super) fn set_pieces(
        &mut self,
        key: PeerKey,
        pieces: PieceSet,
        shared: &mut Shared,
        now: Instant,
    ) {
        self.uncount_pieces(key);
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.has = PeerPieces::Known(pieces);
        }
        self.count_pieces(key);
        self.update_interest(key, shared);
        self.wake(key);
        self.drop_if_redundant(key, shared, now);
    }

    /// Tells peers about new pieces that they lack.
    pub(super) fn announce_pieces(&mut self, shared: &mut Shared) {
        if self.unannounced.is_empty() {
            return;
        }
        let news = std::mem::take(&mut self.unannounced);
        for peer in self.peers.values() {
            let Some(theirs) = peer.pieces() else {
                continue;
            };
            let new: Vec<_> = news
                .iter()
                .copied()
                .filter(|piece| !theirs.contains(*piece))
                .collect();
            if !new.is_empty() {
                shared.send(peer.key, Command::Have(new));
            }
        }
    }
}
