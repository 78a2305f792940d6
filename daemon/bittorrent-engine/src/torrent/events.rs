//! Messages from peers.

use std::net::SocketAddr;
use std::time::Instant;

use bittorrent_protocol::InfoHashV1;
use bittorrent_protocol::wire::{ExtendedHandshake, OwnedMetadataMessage};

use super::{Phase, Torrent};
use crate::api::input::{PeerEvent, PeerFault};
use crate::api::keys::PeerKey;
use crate::api::output::{Blame, DisconnectReason, Output, StopReason};
use crate::metadata::MetadataProgress;
use crate::peer::PeerPieces;
use crate::shared::Shared;

impl Torrent {
    pub(crate) fn handle_event(
        &mut self,
        key: PeerKey,
        event: PeerEvent,
        shared: &mut Shared,
        now: Instant,
    ) -> Result<(), PeerFault> {
        if !self.swarm.peers.contains_key(&key) {
            return Ok(());
        }
        let result = match event {
            PeerEvent::Choke => {
                self.handle_choke(key, shared, now);
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
            PeerEvent::Have(_)
            | PeerEvent::Bitfield(_)
            | PeerEvent::HaveAll
            | PeerEvent::HaveNone
            | PeerEvent::Reject(_)
            | PeerEvent::Suggest(_)
            | PeerEvent::AllowedFast(_)
            | PeerEvent::Hashes { .. }
            | PeerEvent::HashReject(_) => match self.context(shared, now) {
                Some(mut cx) => cx.handle_event(key, event),
                None => self.handle_unchecked(key, event),
            },
        };
        result.inspect_err(|fault| {
            if let (PeerFault::FalseHashes(_), Some(peer)) = (fault, self.swarm.peers.get(&key)) {
                // Otherwise it would reconnect and be asked again.
                self.ban(peer.addr, Blame::Hashes, shared, now);
            }
            self.remove_peer(key, true, shared, now);
        })
    }

    /// Keeps what a peer sends about its pieces until the torrent's size is known.
    fn handle_unchecked(&mut self, key: PeerKey, event: PeerEvent) -> Result<(), PeerFault> {
        let Some(peer) = self.swarm.peers.get_mut(&key) else {
            return Ok(());
        };
        let PeerPieces::Unchecked(early) = &mut peer.has else {
            return Ok(());
        };
        match event {
            PeerEvent::Have(number) => early.add(number),
            PeerEvent::Bitfield(bits) => early.set_bitfield(bits),
            PeerEvent::HaveAll => {
                early.set_all(true);
                Ok(())
            }
            PeerEvent::HaveNone => {
                early.set_all(false);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn handle_choke(&mut self, key: PeerKey, shared: &mut Shared, now: Instant) {
        if let Some(peer) = self.swarm.peers.get_mut(&key) {
            peer.choking_us = true;
        }
        if let Some(mut cx) = self.context(shared, now) {
            cx.requests().choked(key);
        }
    }

    fn handle_unchoke(&mut self, key: PeerKey) {
        if let Some(peer) = self.swarm.peers.get_mut(&key) {
            peer.choking_us = false;
            self.swarm.wake(key);
        }
    }

    fn handle_interested(&mut self, key: PeerKey, interested: bool, shared: &mut Shared) {
        if let Some(peer) = self.swarm.peers.get_mut(&key) {
            let changed = peer.interested != interested;
            peer.interested = interested;
            // One more wants a slot, or one is free.
            shared.slots_changed |= changed && interested == peer.choked;
        }
    }

    fn handle_metadata(
        &mut self,
        key: PeerKey,
        message: OwnedMetadataMessage,
        shared: &mut Shared,
        now: Instant,
    ) {
        let Phase::FindingMetadata(metadata) = &mut self.phase else {
            return;
        };
        match message {
            OwnedMetadataMessage::Reject { piece } => metadata.reject(key, piece, now),
            OwnedMetadataMessage::Data {
                piece,
                total_size,
                payload,
            } => match metadata.data(key, piece, total_size, payload.into_owned(), now) {
                MetadataProgress::Going => {}
                MetadataProgress::Complete(info) => self.metadata_complete(info, shared, now),
                MetadataProgress::Liar(liar) => {
                    if let Some(addr) = self.swarm.peers.get(&liar).map(|peer| peer.addr) {
                        self.ban(addr, Blame::Metadata, shared, now);
                    }
                }
            },
            OwnedMetadataMessage::Request { .. } | OwnedMetadataMessage::Unknown { .. } => {}
        }
    }

    /// Hands out the info dictionary, unless it contradicts the v1 info-hash.
    fn metadata_complete(&mut self, info: Vec<u8>, shared: &mut Shared, now: Instant) {
        let torrent = self.swarm.key;
        if let Some(v1) = self.hashes.v1
            && InfoHashV1::of_info(&info) != v1
        {
            self.phase = Phase::Contradicted;
            let reason = StopReason::HashesContradict;
            shared.emit(Output::Stopped { torrent, reason });
            return;
        }
        let before = std::mem::replace(&mut self.phase, Phase::AwaitingContent);
        if let Phase::FindingMetadata(metadata) = before {
            // A peer that left metadata requests unanswered is asked for hashes last.
            for key in metadata.silent(now) {
                if let Some(peer) = self.swarm.peers.get_mut(&key) {
                    peer.hash_failures += 1;
                }
            }
        }
        shared.emit(Output::Metadata { torrent, info });
    }

    fn handle_extensions(
        &mut self,
        key: PeerKey,
        handshake: ExtendedHandshake,
        shared: &mut Shared,
        now: Instant,
    ) {
        let swarm = &mut self.swarm;
        let Some(peer) = swarm.peers.get_mut(&key) else {
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
        if let (true, Some(size), Phase::FindingMetadata(metadata)) = (
            peer.offers_metadata,
            handshake.metadata_size,
            &mut self.phase,
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
            swarm.dialler.add_incoming(listens, shared, now);
            if shared.bans.contains(listens, now) {
                // It reconnected from another port.
                self.disconnect(key, DisconnectReason::Banned, shared, now);
                return;
            }
        }
        self.swarm.wake(key);
        self.drop_if_redundant(key, shared, now);
    }
}
