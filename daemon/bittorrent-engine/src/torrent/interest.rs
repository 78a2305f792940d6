//! What peers have, what we have, and in which peers we are interested.

use super::context::Context;
use crate::api::input::PeerFault;
use crate::api::keys::PeerKey;
use crate::api::output::{Command, DisconnectReason};
use crate::peer::PeerPieces;
use crate::pieces::piece_set::PieceSet;

/// Tracks which pieces peers have, and sends interest and `have`s.
pub(super) struct Interest<'c, 'a> {
    cx: &'c mut Context<'a>,
}

impl<'c, 'a> Interest<'c, 'a> {
    pub(super) fn new(cx: &'c mut Context<'a>) -> Self {
        Self { cx }
    }

    /// Sends a peer what we have.
    pub(super) fn send_bitfield(&mut self, key: PeerKey) {
        let transfer = &*self.cx.transfer;
        let Some(peer) = self.cx.swarm.peers.get(&key) else {
            return;
        };
        if transfer.have.is_empty() {
            if peer.fast {
                self.cx.shared.send(key, Command::HaveNone);
            }
        } else if transfer.have.is_full() && peer.fast {
            self.cx.shared.send(key, Command::HaveAll);
        } else {
            self.cx
                .shared
                .send(key, Command::Bitfield(transfer.have.to_wire()));
        }
    }

    /// Closes the connection of a peer that requests nothing when nothing is wanted of it either.
    pub(super) fn drop_if_redundant(&mut self, key: PeerKey) {
        let redundant = self.cx.wants_nothing()
            && self
                .cx
                .swarm
                .peers
                .get(&key)
                .is_some_and(|peer| peer.is_seed() || peer.upload_only);
        if redundant {
            self.cx.disconnect(key, DisconnectReason::Redundant);
        }
    }

    /// Sends a peer `interested` or `not interested` when that changes.
    pub(super) fn update_interest(&mut self, key: PeerKey) {
        let at_rest = self.cx.is_at_rest();
        let Some(peer) = self.cx.swarm.peers.get_mut(&key) else {
            return;
        };
        let wanted = !at_rest && peer.offers > 0 && !peer.parked;
        if wanted == peer.wanted {
            return;
        }
        peer.wanted = wanted;
        self.cx.shared.send(
            key,
            if wanted {
                Command::Interested
            } else {
                Command::NotInterested
            },
        );
        if wanted {
            self.cx.swarm.wake(key);
        }
    }

    /// Handles one more piece of a peer.
    pub(super) fn handle_have(&mut self, key: PeerKey, number: u32) -> Result<(), PeerFault> {
        let transfer = &mut *self.cx.transfer;
        let piece = transfer.checked_piece(number)?;
        let Some(peer) = self.cx.swarm.peers.get_mut(&key) else {
            return Ok(());
        };
        let PeerPieces::Known(set) = &mut peer.has else {
            return Ok(());
        };
        if !set.insert(piece) {
            return Ok(());
        }
        let seed = set.is_full();
        if seed {
            for other in set.iter(&transfer.layout) {
                if other != piece {
                    transfer.picker.remove_copy(other);
                }
            }
            transfer.picker.add_seed();
        } else {
            transfer.picker.add_copy(piece);
        }
        if !transfer.have.contains(piece) {
            peer.offers += 1;
            self.cx.swarm.ask_hashes |= !transfer.layers.is_complete();
            self.cx.swarm.wake(key);
            self.update_interest(key);
        }
        if seed {
            self.drop_if_redundant(key);
        }
        Ok(())
    }

    /// Handles a peer's bitfield.
    pub(super) fn handle_bitfield(&mut self, key: PeerKey, bits: &[u8]) -> Result<(), PeerFault> {
        let set = PieceSet::from_wire(bits, self.cx.transfer.layout.piece_count())?;
        self.set_pieces(key, set);
        Ok(())
    }

    /// Adds a peer's pieces to the availability.
    pub(super) fn count_pieces(&mut self, key: PeerKey) {
        let transfer = &mut *self.cx.transfer;
        let Some(peer) = self.cx.swarm.peers.get_mut(&key) else {
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
        self.cx.swarm.ask_hashes = true;
    }

    /// Removes a peer's pieces from the availability.
    pub(super) fn uncount_pieces(&mut self, key: PeerKey) {
        let transfer = &mut *self.cx.transfer;
        let Some(peer) = self.cx.swarm.peers.get_mut(&key) else {
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
    pub(super) fn set_pieces(&mut self, key: PeerKey, pieces: PieceSet) {
        self.uncount_pieces(key);
        if let Some(peer) = self.cx.swarm.peers.get_mut(&key) {
            peer.has = PeerPieces::Known(pieces);
        }
        self.count_pieces(key);
        self.update_interest(key);
        self.cx.swarm.wake(key);
        self.drop_if_redundant(key);
    }

    /// Sends `have` to peers that lack new pieces.
    pub(super) fn announce_pieces(&mut self) {
        if self.cx.swarm.unannounced.is_empty() {
            return;
        }
        let news = std::mem::take(&mut self.cx.swarm.unannounced);
        for peer in self.cx.swarm.peers.values() {
            let Some(theirs) = peer.pieces() else {
                continue;
            };
            let new: Vec<_> = news
                .iter()
                .copied()
                .filter(|piece| !theirs.contains(*piece))
                .collect();
            if !new.is_empty() {
                self.cx.shared.send(peer.key, Command::Have(new));
            }
        }
    }
}
