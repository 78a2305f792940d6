//! What peers say.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bittorrent_protocol::PieceIndex;
use bittorrent_protocol::wire::{ExtendedHandshake, Request};

use super::Torrent;
use crate::api::input::{PeerEvent, PeerFault, Source};
use crate::api::keys::PeerKey;
use crate::api::output::{Blame, DisconnectReason};
use crate::peer::PeerPieces;
use crate::pieces::piece_set::PieceSet;
use crate::shared::Shared;

/// How long a peer that rejects a block of a piece is not asked for that piece.
const REFUSAL_TIME: Duration = Duration::from_secs(10);

impl Torrent {
    pub(crate) fn handle_event(
        &mut self,
        key: PeerKey,
        event: PeerEvent,
        shared: &mut Shared,
        now: Instant,
    ) -> Result<(), PeerFault> {
        if !self.peers.contains_key(&key) {
            return Ok(());
        }
        let result = match event {
            PeerEvent::Choke => {
                self.handle_choke(key);
                Ok(())
            }
            PeerEvent::Unchoke => {
                self.handle_unchoke(key);
                Ok(())
            }
            PeerEvent::Interested => {
                self.handle_interested(key, true, shared);
                Ok(())
            }
            PeerEvent::NotInterested => {
                self.handle_interested(key, false, shared);
                Ok(())
            }
            PeerEvent::Have(number) => self.handle_have(key, number, shared, now),
            PeerEvent::Bitfield(bits) => self.handle_bitfield(key, bits, shared, now),
            PeerEvent::HaveAll => self.handle_have_all_or_none(key, true, shared, now),
            PeerEvent::HaveNone => self.handle_have_all_or_none(key, false, shared, now),
            PeerEvent::Reject(request) => {
                self.handle_reject(key, request, now);
                Ok(())
            }
            // A hint about what the peer has in memory: not worth leaving rarest first for.
            PeerEvent::Suggest(number) => self.checked(number).map(drop),
            PeerEvent::AllowedFast(number) => self.handle_allowed_fast(key, number),
            PeerEvent::Extensions(handshake) => {
                self.handle_extensions(key, handshake, shared, now);
                Ok(())
            }
            PeerEvent::Metadata(message) => {
                self.handle_metadata(key, message, shared, now);
                Ok(())
            }
            PeerEvent::Exchange(message) => {
                self.handle_exchange(key, &message, shared, now);
                Ok(())
            }
            PeerEvent::Hashes { request, hashes } => {
                self.handle_hashes(key, &request, &hashes, shared, now)
            }
            PeerEvent::HashReject(request) => {
                self.handle_hash_reject(key, &request, now);
                Ok(())
            }
        };
        result.map_err(|fault| {
            if let (PeerFault::FalseHashes(_), Some(peer)) = (&fault, self.peers.get(&key)) {
                // Else it would come back and be asked again.
                self.ban(peer.addr, Blame::Hashes, shared, now);
            }
            self.fault(key, fault, shared, now)
        })
    }

    /// A piece that a peer named. `None` while the torrent's size is unknown.
    fn checked(&self, number: u32) -> Result<Option<PieceIndex>, PeerFault> {
        let Some(transfer) = &self.transfer else {
            return Ok(None);
        };
        match transfer.layout.piece(number) {
            Some(piece) => Ok(Some(piece)),
            None => Err(PeerFault::PieceOutOfRange {
                index: number,
                pieces: transfer.layout.piece_count(),
            }),
        }
    }

    fn handle_choke(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        peer.choking_us = true;
        if peer.fast {
            // Each request is answered still, by its block or by a reject (BEP 6).
            self.leave_piece(key);
            self.lose_exclusive(key, None);
        } else {
            self.release_all(key);
        }
    }

    fn handle_unchoke(&mut self, key: PeerKey) {
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.choking_us = false;
            self.wake(key);
        }
    }

    fn handle_interested(&mut self, key: PeerKey, interested: bool, shared: &mut Shared) {
        if let Some(peer) = self.peers.get_mut(&key) {
            let changed = peer.interested != interested;
            peer.interested = interested;
            // One more wants a slot, or one is free.
            shared.slots_changed |= changed && interested == peer.choked;
        }
    }

    fn handle_have(
        &mut self,
        key: PeerKey,
        number: u32,
        shared: &mut Shared,
        now: Instant,
    ) -> Result<(), PeerFault> {
        let piece = self.checked(number)?;
        let Some(peer) = self.peers.get_mut(&key) else {
            return Ok(());
        };
        match &mut peer.has {
            PeerPieces::Unchecked(early) => return early.add(number),
            PeerPieces::Known(set) => {
                let (Some(piece), Some(transfer)) = (piece, &mut self.transfer) else {
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
                    self.ask_hashes |= !transfer.layers.is_complete();
                    self.wake(key);
                    self.update_interest(key, shared);
                }
                if seed {
                    self.drop_if_redundant(key, shared, now);
                }
            }
        }
        Ok(())
    }

    fn handle_bitfield(
        &mut self,
        key: PeerKey,
        bits: Vec<u8>,
        shared: &mut Shared,
        now: Instant,
    ) -> Result<(), PeerFault> {
        let Some(peer) = self.peers.get_mut(&key) else {
            return Ok(());
        };
        match (&mut peer.has, &self.transfer) {
            (PeerPieces::Unchecked(early), _) => early.set_bitfield(bits),
            (PeerPieces::Known(_), Some(transfer)) => {
                let set = PieceSet::from_wire(&bits, transfer.layout.piece_count())?;
                self.set_pieces(key, set, shared, now);
                Ok(())
            }
            (PeerPieces::Known(_), None) => Ok(()),
        }
    }

    fn handle_have_all_or_none(
        &mut self,
        key: PeerKey,
        all: bool,
        shared: &mut Shared,
        now: Instant,
    ) -> Result<(), PeerFault> {
        let Some(peer) = self.peers.get_mut(&key) else {
            return Ok(());
        };
        match (&mut peer.has, &self.transfer) {
            (PeerPieces::Unchecked(early), _) => early.set_all(all),
            (PeerPieces::Known(_), Some(transfer)) => {
                let pieces = transfer.layout.piece_count();
                let set = if all {
                    PieceSet::full(pieces)
                } else {
                    PieceSet::new(pieces)
                };
                self.set_pieces(key, set, shared, now);
            }
            (PeerPieces::Known(_), None) => {}
        }
        Ok(())
    }

    fn handle_reject(&mut self, key: PeerKey, request: Request, now: Instant) {
        let (Some(transfer), Some(peer)) = (&mut self.transfer, self.peers.get_mut(&key)) else {
            return;
        };
        let Some(block) = transfer.layout.block_at(request.index, request.begin) else {
            return;
        };
        if !peer.pipeline.reject(block) {
            return;
        }
        if !peer.choking_us {
            // It is willing to serve, just not this: asking again at once would go on for ever.
            if transfer.is_probed(block.piece()) {
                peer.leaves_failed();
            }
            peer.refuse(block.piece(), now + REFUSAL_TIME);
            peer.rejected(now);
            if peer.current == Some(block.piece()) {
                self.leave_piece(key);
            }
        }
        self.release_block(block);
        self.lose_exclusive(key, Some(block.piece()));
        self.wake(key);
    }

    fn handle_allowed_fast(&mut self, key: PeerKey, number: u32) -> Result<(), PeerFault> {
        if let Some(piece) = self.checked(number)?
            && let Some(peer) = self.peers.get_mut(&key)
            && peer.fast
        {
            peer.allow_fast(piece);
            self.wake(key);
        }
        Ok(())
    }

    fn handle_extensions(
        &mut self,
        key: PeerKey,
        handshake: ExtendedHandshake,
        shared: &mut Shared,
        now: Instant,
    ) {
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        if let Some(limit) = handshake.reqq {
            peer.pipeline
                .set_limit((limit as usize).min(shared.config.max_requests));
        }
        if handshake.client.is_some() {
            peer.client = handshake.client;
        }
        if let Some(upload_only) = handshake.upload_only {
            peer.upload_only = upload_only;
        }
        if let Some(id) = handshake.ut_metadata {
            peer.offers_metadata = id != 0;
        }
        if let Some(id) = handshake.ut_pex {
            peer.exchange.supported = id != 0;
        }
        if let (true, Some(size), Some(metadata)) = (
            peer.offers_metadata,
            handshake.metadata_size,
            &mut self.metadata,
        ) {
            if size > shared.config.max_metadata_len {
                self.refused_metadata = self.refused_metadata.max(Some(size));
            }
            metadata.offer(key, peer.host(), size);
        }
        if let Some(port) = handshake.port
            && peer.listens.is_none()
        {
            let listens = SocketAddr::new(peer.addr.ip(), port);
            peer.listens = Some(listens);
            self.candidates
                .add(listens, Source::Incoming, &shared.config, now);
            self.dialled(listens, shared);
            if shared.bans.contains(listens, now) {
                // It came back from another port.
                self.disconnect(key, DisconnectReason::Banned, shared, now);
                return;
            }
        }
        self.wake(key);
        self.drop_if_redundant(key, shared, now);
    }
}
