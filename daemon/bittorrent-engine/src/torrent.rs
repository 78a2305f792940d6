//! One torrent: its connections and what they do for it.

mod admission;
mod blame;
mod blocks;
mod descent;
mod dialling;
mod events;
mod exchange;
mod hashes;
mod hedging;
mod metadata;
mod pieces;
mod requests;
mod reuse;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bittorrent_protocol::{InfoHashes, PieceIndex};

use crate::api::addresses::Host;
use crate::api::input::{Connected, Content, ContentError, Direction, PeerFault, Refusal};
use crate::api::keys::{PeerKey, TorrentKey};
use crate::api::output::{DisconnectReason, Output, StopReason};
use crate::api::status::{PeerStatus, TorrentPhase, TorrentStatus};
use crate::hedge::AnswerTime;
use crate::hosts::candidates::Candidates;
use crate::metadata::Metadata;
use crate::peer::{Peer, PeerPieces};
use crate::pieces::piece_set::PieceSet;
use crate::pieces::transfer::Transfer;
use crate::rate::Rate;
use crate::shared::Shared;

/// A connection that lasted this long was worth having.
const LONG_ENOUGH: Duration = Duration::from_secs(60);

/// One torrent.
#[derive(Debug)]
pub(crate) struct Torrent {
    key: TorrentKey,
    hashes: InfoHashes,
    peers: BTreeMap<PeerKey, Peer>,
    candidates: Candidates,
    /// When the next address may be dialled; `None` when none may, or nothing is known about it.
    dial_due: Option<Instant>,
    dial_changed: bool,
    /// Dials under way that are counted in [`Shared::dialling`].
    dials_counted: usize,
    metadata: Option<Metadata>,
    /// The greatest length that was offered and is more than is fetched.
    refused_metadata: Option<u32>,
    transfer: Option<Transfer>,
    stopped: Option<StopReason>,
    /// Nothing is asked for: what is there is served.
    serves_only: bool,
    /// Pieces verified since peers were told.
    unannounced: Vec<PieceIndex>,
    /// Peers that may have room for requests.
    awake: Vec<PeerKey>,
    /// Something became available that starved peers may want.
    wake_starved: bool,
    /// Hashes may be asked for.
    ask_hashes: bool,
    /// Of hash requests.
    answer_time: AnswerTime,
    down: Rate,
    up: Rate,
    wasted: u64,
    hash_bytes: u64,
    banned: u64,
}

impl Torrent {
    pub(crate) fn new(key: TorrentKey, hashes: InfoHashes, shared: &Shared, now: Instant) -> Self {
        Self {
            key,
            hashes,
            peers: BTreeMap::new(),
            candidates: Candidates::default(),
            dial_due: None,
            dial_changed: false,
            dials_counted: 0,
            refused_metadata: None,
            metadata: Some(Metadata::new(
                hashes.v2,
                shared.config.max_metadata_len,
                shared.config.metadata_timeout,
                shared.config.hedge_after,
            )),
            transfer: None,
            stopped: None,
            serves_only: false,
            unannounced: Vec::new(),
            awake: Vec::new(),
            wake_starved: false,
            ask_hashes: false,
            answer_time: AnswerTime::default(),
            down: Rate::new(now),
            up: Rate::new(now),
            wasted: 0,
            hash_bytes: 0,
            banned: 0,
        }
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.transfer.as_ref().is_some_and(Transfer::is_complete)
    }

    /// Whether nothing more is wanted of peers.
    pub(crate) fn wants_nothing(&self) -> bool {
        self.serves_only || self.is_complete()
    }

    /// Whether nothing may be asked for.
    fn is_at_rest(&self) -> bool {
        self.serves_only || self.stopped.is_some()
    }

    pub(crate) fn stop_downloading(&mut self) {
        self.serves_only = true;
    }

    pub(crate) fn download_in_order(&mut self) {
        if let Some(transfer) = &mut self.transfer {
            transfer.picker.download_in_order();
        }
    }

    pub(crate) fn peer_mut(&mut self, key: PeerKey) -> Option<&mut Peer> {
        self.peers.get_mut(&key)
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values()
    }

    pub(crate) fn has_peers(&self) -> bool {
        !self.peers.is_empty()
    }

    /// It has something to serve.
    pub(crate) fn can_serve(&self) -> bool {
        self.transfer
            .as_ref()
            .is_some_and(|transfer| transfer.bytes_verified > 0)
    }

    /// The metadata is known: from here on content can be asked for.
    pub(crate) fn set_content(
        &mut self,
        content: Content,
        shared: &mut Shared,
        now: Instant,
    ) -> Result<(), ContentError> {
        if self.transfer.is_some() {
            return Err(ContentError::NotWaiting);
        }
        let (expected, found) = (content.layout.files().len(), content.layers.len());
        if expected != found {
            return Err(ContentError::LayerCount { expected, found });
        }
        self.metadata = None;
        let transfer = self.transfer.insert(Transfer::new(content));
        if let Some(reuse) = &mut transfer.reuse {
            let pieces = transfer.layout.piece_count() as usize;
            reuse.start_at(shared.rng.below(pieces) as u32);
        }
        let mut invalid = Vec::new();
        for peer in self.peers.values_mut() {
            let PeerPieces::Unchecked(early) = &peer.has else {
                continue;
            };
            match early.settle(&transfer.layout) {
                Ok(set) => peer.has = PeerPieces::Known(set),
                Err(_) => invalid.push(peer.key),
            }
        }
        for key in invalid {
            self.disconnect(key, DisconnectReason::InvalidPieces, shared, now);
        }
        let keys: Vec<_> = self.peers.keys().copied().collect();
        for key in keys {
            self.send_bitfield(key, shared);
            self.count_pieces(key);
            self.update_interest(key, shared);
            self.drop_if_redundant(key, shared, now);
        }
        shared.slots_changed = true;
        self.dial_changed = true;
        self.ask_hashes = true;
        Ok(())
    }

    /// Whether an incoming connection is welcome, if there is a place for it.
    pub(crate) fn may_accept(
        &self,
        addr: SocketAddr,
        shared: &Shared,
        now: Instant,
    ) -> Result<(), Refusal> {
        if shared.bans.contains(addr, now) {
            return Err(Refusal::Banned);
        }
        if self.candidates.is_own(addr) {
            return Err(Refusal::Ourselves);
        }
        if self.peers.values().any(|peer| peer.addr == addr) {
            return Err(Refusal::Duplicate);
        }
        if self.is_crowded(addr, shared) {
            return Err(Refusal::Crowded);
        }
        Ok(())
    }

    /// Takes a connection that is `accepted`; it takes the place of another one, if one is named.
    pub(crate) fn handle_connected(
        &mut self,
        connected: &Connected,
        accepted: Result<Option<PeerKey>, Refusal>,
        shared: &mut Shared,
        now: Instant,
    ) -> Result<PeerKey, Refusal> {
        self.dial_changed = true;
        match accepted {
            Ok(None) => {}
            Ok(Some(twin)) => self.disconnect(twin, DisconnectReason::Duplicate, shared, now),
            Err(refusal) => {
                if connected.direction == Direction::Outgoing {
                    self.refused_dial(connected.addr, refusal, shared, now);
                }
                return Err(refusal);
            }
        }
        let key = shared.keys.peer(self.key);
        let layout = self.transfer.as_ref().map(|transfer| &*transfer.layout);
        let peer = Peer::new(key, connected, layout, &shared.config, now);
        if connected.direction == Direction::Outgoing {
            self.dialled(connected.addr, shared);
        }
        self.peers.insert(key, peer);
        shared.connected += 1;
        self.send_bitfield(key, shared);
        shared.slots_changed = true;
        Ok(key)
    }

    /// Whether a connection is welcome, if there is a place for it; or one to the same peer that has to go
    /// for it.
    pub(crate) fn accept(
        &self,
        connected: &Connected,
        shared: &Shared,
        now: Instant,
    ) -> Result<Option<PeerKey>, Refusal> {
        if shared.config.peer_id == Some(connected.peer_id) {
            return Err(Refusal::Ourselves);
        }
        self.may_accept(connected.addr, shared, now)?;
        // Anyone can read a peer's id and connect under it, so an id counts for one host only.
        let host = Host::of(connected.addr.ip());
        let Some(twin) = self
            .peers
            .values()
            .find(|peer| peer.peer_id == connected.peer_id && peer.host() == host)
        else {
            return Ok(None);
        };
        // Two peers that dial each other at once must both keep the same connection: the one
        // that the greater id opened.
        let Some(own) = shared.config.peer_id else {
            return Err(Refusal::Duplicate);
        };
        let ours_wins = own > connected.peer_id;
        let new_is_ours = connected.direction == Direction::Outgoing;
        if twin.direction == connected.direction || new_is_ours != ours_wins {
            return Err(Refusal::Duplicate);
        }
        Ok(Some(twin.key))
    }

    /// Forgets a peer and tells the caller to close its connection.
    fn disconnect(
        &mut self,
        key: PeerKey,
        reason: DisconnectReason,
        shared: &mut Shared,
        now: Instant,
    ) {
        let at_fault = reason == DisconnectReason::InvalidPieces;
        if self.remove_peer(key, at_fault, shared, now) {
            shared.emit(Output::Disconnect { peer: key, reason });
        }
    }

    /// A connection is closed.
    pub(crate) fn handle_disconnected(&mut self, key: PeerKey, shared: &mut Shared, now: Instant) {
        self.remove_peer(key, false, shared, now);
    }

    /// Forgets a peer. What it was asked for is free again.
    fn remove_peer(
        &mut self,
        key: PeerKey,
        at_fault: bool,
        shared: &mut Shared,
        now: Instant,
    ) -> bool {
        self.release_all(key);
        self.uncount_pieces(key);
        self.drop_hash_waits(key);
        let Some(peer) = self.peers.remove(&key) else {
            return false;
        };
        if let Some(metadata) = &mut self.metadata {
            metadata.forget(key);
        }
        shared.connected -= 1;
        shared.room_made = true;
        shared.slots_changed |= !peer.choked;
        if let Some(listens) = peer.listens {
            let useful = !at_fault
                && (peer.down.total() > 0
                    || peer.up.total() > 0
                    || peer.since + LONG_ENOUGH <= now);
            let seed = peer.is_seed() || peer.upload_only;
            self.candidates.disconnected(
                listens,
                useful,
                seed,
                &shared.config,
                &mut shared.rng,
                now,
            );
        }
        self.dial_changed = true;
        true
    }

    /// Closes every connection.
    pub(crate) fn close(&mut self, shared: &mut Shared, now: Instant) {
        let keys: Vec<_> = self.peers.keys().copied().collect();
        for key in keys {
            self.disconnect(key, DisconnectReason::Removed, shared, now);
        }
        self.candidates = Candidates::default();
        self.count_dials(shared);
    }

    /// A peer broke the protocol.
    fn fault(
        &mut self,
        key: PeerKey,
        fault: PeerFault,
        shared: &mut Shared,
        now: Instant,
    ) -> PeerFault {
        self.remove_peer(key, true, shared, now);
        fault
    }

    /// Requests nothing any more.
    fn stop(&mut self, reason: StopReason, shared: &mut Shared) {
        if self.stopped.is_some() {
            return;
        }
        self.stopped = Some(reason);
        shared.emit(Output::Stopped {
            torrent: self.key,
            reason,
        });
        let keys: Vec<_> = self.peers.keys().copied().collect();
        for key in keys {
            self.cancel_all(key, shared);
            self.update_interest(key, shared);
        }
    }

    /// Does everything that was put off: sends what is due.
    pub(crate) fn settle(&mut self, shared: &mut Shared, now: Instant) {
        self.ask_metadata(shared, now);
        self.look_up(shared, now);
        if std::mem::take(&mut self.ask_hashes) {
            self.ask_for_hashes(shared, now);
        }
        self.refill_awake(shared, now);
        self.announce_pieces(shared);
        self.dial(shared, now);
    }

    /// Time passes.
    pub(crate) fn tick(&mut self, shared: &mut Shared, now: Instant) {
        self.down.tick(now);
        self.up.tick(now);
        if let Some(metadata) = &mut self.metadata {
            metadata.tick(now);
        }
        for peer in self.peers.values_mut() {
            peer.down.tick(now);
            peer.up.tick(now);
            peer.pipeline.tick(peer.down.per_second());
        }
        self.tick_hashes(shared, now);
        self.tick_reuse(shared, now);
        self.tick_requests(shared, now);
        self.exchange_peers(shared, now);
    }

    /// A peer asks for blocks.
    pub(crate) fn handle_upload_requested(
        &mut self,
        key: PeerKey,
        shared: &mut Shared,
        now: Instant,
    ) {
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.last_asked = now;
            peer.last_use = now;
            shared.idle_hosts.remove(peer.host());
        }
    }

    pub(crate) fn handle_uploaded(
        &mut self,
        key: PeerKey,
        bytes: u64,
        shared: &mut Shared,
        now: Instant,
    ) {
        // What a peer got that has left meanwhile was uploaded all the same.
        self.up.add(bytes);
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.up.add(bytes);
        }
        self.handle_upload_requested(key, shared, now);
    }

    pub(crate) fn status(&self) -> TorrentStatus {
        let transfer = self.transfer.as_ref();
        let phase = match (self.stopped, transfer) {
            (Some(reason), _) => TorrentPhase::Stopped(reason),
            (None, None) => TorrentPhase::Metadata,
            (None, Some(transfer)) if transfer.is_complete() => TorrentPhase::Seeding,
            (None, Some(_)) => TorrentPhase::Downloading,
        };
        TorrentStatus {
            phase,
            refused_metadata: self.refused_metadata,
            bytes_total: transfer.map_or(0, |transfer| transfer.layout.content_length()),
            bytes_verified: transfer.map_or(0, |transfer| transfer.bytes_verified),
            bytes_reused: transfer.map_or(0, |transfer| transfer.bytes_reused),
            bytes_fetched: transfer
                .map_or(0, |transfer| transfer.bytes_proven - transfer.bytes_reused),
            bytes_to_fetch: transfer.map_or(0, |transfer| {
                transfer.layout.content_length()
                    - transfer.bytes_verified
                    - transfer.bytes_looked_for()
            }),
            pieces_total: transfer.map_or(0, |transfer| transfer.layout.piece_count()),
            pieces_verified: transfer.map_or(0, |transfer| transfer.have.len()),
            downloaded: self.down.total(),
            uploaded: self.up.total(),
            wasted: self.wasted,
            hash_bytes: self.hash_bytes,
            down_rate: self.down.per_second(),
            up_rate: self.up.per_second(),
            peers: self.peers.len(),
            seeds: self.peers.values().filter(|peer| peer.is_seed()).count(),
            candidates: self.candidates.len(),
            dialling: self.candidates.dialling(),
            banned: self.banned,
        }
    }

    pub(crate) fn peer_statuses(&self) -> Vec<PeerStatus> {
        self.peers
            .values()
            .map(|peer| PeerStatus {
                key: peer.key,
                addr: peer.addr,
                direction: peer.direction,
                link: peer.link,
                local: peer.local,
                client: peer.client.clone(),
                pieces: peer.pieces().map_or(0, PieceSet::len),
                seed: peer.is_seed(),
                interested: peer.interested,
                choking_us: peer.choking_us,
                choked: peer.choked,
                downloaded: peer.down.total(),
                uploaded: peer.up.total(),
                down_rate: peer.down.per_second(),
                up_rate: peer.up.per_second(),
            })
            .collect()
    }
}
