//! What the steps of a transfer work on.

use std::net::SocketAddr;
use std::time::Instant;

use super::blocks::Blocks;
use super::descent::Descending;
use super::false_data::FalseData;
use super::hashes::Hashes;
use super::hedging::Hedging;
use super::interest::Interest;
use super::requests::Requests;
use super::reuse::ReuseSearch;
use super::swarm::Swarm;
use crate::api::input::{PeerEvent, PeerFault};
use crate::api::keys::PeerKey;
use crate::api::output::{Blame, DisconnectReason, Output, StopReason};
use crate::pieces::piece_set::PieceSet;
use crate::pieces::transfer::Transfer;
use crate::shared::Shared;

/// A torrent whose content is known, for the length of one input. Each subject has a view of its own on it.
pub(super) struct Context<'a> {
    pub(super) transfer: &'a mut Transfer,
    pub(super) swarm: &'a mut Swarm,
    pub(super) shared: &'a mut Shared,
    pub(super) now: Instant,
}

impl<'a> Context<'a> {
    pub(super) fn interest(&mut self) -> Interest<'_, 'a> {
        Interest::new(self)
    }

    pub(super) fn requests(&mut self) -> Requests<'_, 'a> {
        Requests::new(self)
    }

    pub(super) fn blocks(&mut self) -> Blocks<'_, 'a> {
        Blocks::new(self)
    }

    pub(super) fn false_data(&mut self) -> FalseData<'_, 'a> {
        FalseData::new(self)
    }

    pub(super) fn hashes(&mut self) -> Hashes<'_, 'a> {
        Hashes::new(self)
    }

    pub(super) fn hedging(&mut self) -> Hedging<'_, 'a> {
        Hedging::new(self)
    }

    pub(super) fn reuse(&mut self) -> ReuseSearch<'_, 'a> {
        ReuseSearch::new(self)
    }

    pub(super) fn descent(&mut self) -> Descending<'_, 'a> {
        Descending::new(self)
    }

    /// Handles a message about pieces or hashes.
    pub(super) fn handle_event(&mut self, key: PeerKey, event: PeerEvent) -> Result<(), PeerFault> {
        match event {
            PeerEvent::Have(number) => self.interest().handle_have(key, number),
            PeerEvent::Bitfield(bits) => self.interest().handle_bitfield(key, &bits),
            PeerEvent::HaveAll => {
                let set = PieceSet::full(self.transfer.layout.piece_count());
                self.interest().set_pieces(key, set);
                Ok(())
            }
            PeerEvent::HaveNone => {
                let set = PieceSet::new(self.transfer.layout.piece_count());
                self.interest().set_pieces(key, set);
                Ok(())
            }
            PeerEvent::Reject(request) => {
                self.requests().handle_reject(key, request);
                Ok(())
            }
            // A hint about what the peer has in memory: not worth leaving rarest first for.
            PeerEvent::Suggest(number) => self.transfer.checked_piece(number).map(drop),
            PeerEvent::AllowedFast(number) => {
                let piece = self.transfer.checked_piece(number)?;
                if let Some(peer) = self.swarm.peers.get_mut(&key)
                    && peer.fast
                {
                    peer.allow_fast(piece);
                    self.swarm.wake(key);
                }
                Ok(())
            }
            PeerEvent::Hashes { request, hashes } => {
                self.hashes().handle_hashes(key, &request, &hashes)
            }
            PeerEvent::HashReject(request) => {
                self.hashes().handle_hash_reject(key, &request);
                Ok(())
            }
            PeerEvent::Choke
            | PeerEvent::Unchoke
            | PeerEvent::Interested
            | PeerEvent::NotInterested
            | PeerEvent::Extensions(_)
            | PeerEvent::Metadata(_)
            | PeerEvent::Exchange(_) => Ok(()),
        }
    }

    /// Returns whether nothing more is wanted of peers.
    pub(super) fn wants_nothing(&self) -> bool {
        self.swarm.serves_only || self.transfer.is_complete()
    }

    /// Returns whether nothing may be requested.
    pub(super) fn is_at_rest(&self) -> bool {
        self.swarm.serves_only || self.transfer.stopped.is_some()
    }

    /// Forgets a peer and asks the caller to close its connection.
    pub(super) fn disconnect(&mut self, key: PeerKey, reason: DisconnectReason) {
        let at_fault = reason == DisconnectReason::InvalidPieces;
        if self.remove_peer(key, at_fault) {
            self.shared.emit(Output::Disconnect { peer: key, reason });
        }
    }

    /// Forgets a peer. Its requests are free for other peers. `false` when it was unknown.
    pub(super) fn remove_peer(&mut self, key: PeerKey, at_fault: bool) -> bool {
        self.requests().release_all(key);
        self.interest().uncount_pieces(key);
        self.hashes().drop_hash_waits(key);
        self.swarm.remove(key, at_fault, self.shared, self.now)
    }

    /// Bans an address and closes the connections with every banned address.
    pub(super) fn ban(&mut self, addr: SocketAddr, blame: Blame) {
        self.swarm.ban(addr, blame, self.shared, self.now);
        for key in self.swarm.banned_peers(self.shared, self.now) {
            self.disconnect(key, DisconnectReason::Banned);
        }
    }

    /// Cancels every request and makes no more. What is verified is still served.
    pub(super) fn stop(&mut self, reason: StopReason) {
        if self.transfer.stopped.is_some() {
            return;
        }
        self.transfer.stopped = Some(reason);
        self.shared.emit(Output::Stopped {
            torrent: self.swarm.key,
            reason,
        });
        for key in self.swarm.peer_keys() {
            self.requests().cancel_all(key);
            self.interest().update_interest(key);
        }
    }
}
