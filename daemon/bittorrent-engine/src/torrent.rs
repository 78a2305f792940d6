//! One torrent: its connections and what they do for it.

mod admission;
mod blocks;
mod context;
mod descent;
mod dialling;
mod events;
mod exchange;
mod false_data;
mod hashes;
mod hedging;
mod interest;
mod requests;
mod reuse;
mod swarm;

use std::net::SocketAddr;
use std::time::Instant;

use bittorrent_protocol::{BlockIndex, InfoHashes, MerkleHash, PieceIndex};

use self::context::Context;
use self::swarm::Swarm;
use crate::api::addresses::Scope;
use crate::api::input::{Content, ContentError, DialFailure, PieceLeaves, Source, WriteFailed};
use crate::api::keys::{PeerKey, TorrentKey};
use crate::api::output::{
    Blame, BlockVerdict, Command, Discard, DisconnectReason, Output, StopReason,
};
use crate::api::status::{PeerStatus, TorrentPhase, TorrentStatus};
use crate::metadata::Metadata;
use crate::peer::{Peer, PeerPieces};
use crate::pieces::piece_set::PieceSet;
use crate::pieces::reuse::Reuse;
use crate::pieces::transfer::Transfer;
use crate::shared::Shared;

/// What a torrent is doing.
#[derive(Debug)]
enum Phase {
    /// Peers are asked for the info dictionary.
    FindingMetadata(Metadata),
    /// The info dictionary is complete; the caller has not called `set_content` yet.
    AwaitingContent,
    /// The content is known. A transfer that has stopped still serves what is verified.
    Transferring(Box<Transfer>),
    /// The info dictionary does not fit the v1 info-hash, so there will be no content.
    Contradicted,
}

/// One torrent.
#[derive(Debug)]
pub(crate) struct Torrent {
    hashes: InfoHashes,
    phase: Phase,
    swarm: Swarm,
    /// The greatest length of an info dictionary that a peer offered and that is above the limit.
    refused_metadata: Option<u32>,
}

impl Torrent {
    pub(crate) fn new(key: TorrentKey, hashes: InfoHashes, shared: &Shared, now: Instant) -> Self {
        Self {
            hashes,
            phase: Phase::FindingMetadata(Metadata::new(
                hashes.v2,
                shared.config.max_metadata_len,
                shared.config.metadata_timeout,
                shared.config.hedge_after,
            )),
            swarm: Swarm::new(key, now),
            refused_metadata: None,
        }
    }

    fn transfer(&self) -> Option<&Transfer> {
        match &self.phase {
            Phase::Transferring(transfer) => Some(transfer),
            Phase::FindingMetadata(_) | Phase::AwaitingContent | Phase::Contradicted => None,
        }
    }

    /// Returns what the steps of a transfer work on, once the content is known.
    fn context<'a>(&'a mut self, shared: &'a mut Shared, now: Instant) -> Option<Context<'a>> {
        match &mut self.phase {
            Phase::Transferring(transfer) => Some(Context {
                transfer,
                swarm: &mut self.swarm,
                shared,
                now,
            }),
            Phase::FindingMetadata(_) | Phase::AwaitingContent | Phase::Contradicted => None,
        }
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.transfer().is_some_and(Transfer::is_complete)
    }

    /// Returns whether nothing more is wanted of peers.
    pub(crate) fn wants_nothing(&self) -> bool {
        self.swarm.serves_only || self.is_complete()
    }

    fn stopped(&self) -> Option<StopReason> {
        match &self.phase {
            Phase::Transferring(transfer) => transfer.stopped,
            Phase::Contradicted => Some(StopReason::HashesContradict),
            Phase::FindingMetadata(_) | Phase::AwaitingContent => None,
        }
    }

    pub(crate) fn stop_downloading(&mut self) {
        self.swarm.serves_only = true;
    }

    pub(crate) fn download_in_order(&mut self) {
        if let Phase::Transferring(transfer) = &mut self.phase {
            transfer.picker.download_in_order();
        }
    }

    pub(crate) fn peer_mut(&mut self, key: PeerKey) -> Option<&mut Peer> {
        self.swarm.peers.get_mut(&key)
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.swarm.peers.values()
    }

    pub(crate) fn has_peers(&self) -> bool {
        !self.swarm.peers.is_empty()
    }

    /// Returns whether some content is verified and can be served.
    pub(crate) fn can_serve(&self) -> bool {
        self.transfer()
            .is_some_and(|transfer| transfer.bytes_verified > 0)
    }

    /// Returns whether look-ups are under way.
    pub(crate) fn is_looking(&self) -> bool {
        let reuse = self.transfer().and_then(|transfer| transfer.reuse.as_ref());
        reuse.is_some_and(Reuse::is_looking)
    }

    /// Starts the transfer of a torrent whose metadata is known.
    pub(crate) fn set_content(
        &mut self,
        content: Content,
        shared: &mut Shared,
        now: Instant,
    ) -> Result<(), ContentError> {
        match self.phase {
            Phase::FindingMetadata(_) | Phase::AwaitingContent => {}
            Phase::Transferring(_) | Phase::Contradicted => return Err(ContentError::NotWaiting),
        }
        let (expected, found) = (content.layout.files().len(), content.layers.len());
        if expected != found {
            return Err(ContentError::LayerCount { expected, found });
        }
        let mut transfer = Transfer::new(content);
        if let Some(reuse) = &mut transfer.reuse {
            let pieces = transfer.layout.piece_count() as usize;
            reuse.start_at(shared.rng.below(pieces) as u32);
        }
        let mut invalid = Vec::new();
        for peer in self.swarm.peers.values_mut() {
            let PeerPieces::Unchecked(early) = &peer.has else {
                continue;
            };
            match early.settle(&transfer.layout) {
                Ok(set) => peer.has = PeerPieces::Known(set),
                Err(_) => invalid.push(peer.key),
            }
        }
        let swarm = &mut self.swarm;
        self.phase = Phase::Transferring(Box::new(transfer));
        swarm.dialler.look_again();
        swarm.ask_hashes = true;
        shared.slots_changed = true;
        for key in invalid {
            self.disconnect(key, DisconnectReason::InvalidPieces, shared, now);
        }
        let keys = self.swarm.peer_keys();
        if let Some(mut cx) = self.context(shared, now) {
            for key in keys {
                let mut interest = cx.interest();
                interest.send_bitfield(key);
                interest.count_pieces(key);
                interest.update_interest(key);
                interest.drop_if_redundant(key);
            }
        }
        Ok(())
    }

    /// Forgets a peer and asks the caller to close its connection.
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

    /// Handles the end of a connection.
    pub(crate) fn handle_disconnected(&mut self, key: PeerKey, shared: &mut Shared, now: Instant) {
        self.remove_peer(key, false, shared, now);
    }

    /// Forgets a peer. Its requests are free for other peers. `false` when it was unknown.
    fn remove_peer(
        &mut self,
        key: PeerKey,
        at_fault: bool,
        shared: &mut Shared,
        now: Instant,
    ) -> bool {
        if let Some(mut cx) = self.context(shared, now) {
            return cx.remove_peer(key, at_fault);
        }
        if let Phase::FindingMetadata(metadata) = &mut self.phase {
            metadata.forget(key);
        }
        self.swarm.remove(key, at_fault, shared, now)
    }

    /// Bans an address and closes the connections with every banned address.
    fn ban(&mut self, addr: SocketAddr, blame: Blame, shared: &mut Shared, now: Instant) {
        self.swarm.ban(addr, blame, shared, now);
        for key in self.swarm.banned_peers(shared, now) {
            self.disconnect(key, DisconnectReason::Banned, shared, now);
        }
    }

    /// Closes the connection of a peer that requests nothing when nothing is wanted of it either.
    fn drop_if_redundant(&mut self, key: PeerKey, shared: &mut Shared, now: Instant) {
        let requests_nothing = |peer: &Peer| peer.is_seed() || peer.upload_only;
        if self.wants_nothing() && self.swarm.peers.get(&key).is_some_and(requests_nothing) {
            self.disconnect(key, DisconnectReason::Redundant, shared, now);
        }
    }

    /// Closes every connection and forgets every address.
    pub(crate) fn close(&mut self, shared: &mut Shared, now: Instant) {
        for key in self.swarm.peer_keys() {
            self.disconnect(key, DisconnectReason::Removed, shared, now);
        }
        self.swarm.dialler.clear(shared);
    }

    /// Sends everything that was put off until the end of a batch of inputs.
    pub(crate) fn settle(&mut self, shared: &mut Shared, now: Instant) {
        if let Some(mut cx) = self.context(shared, now) {
            cx.reuse().look_up();
            if std::mem::take(&mut cx.swarm.ask_hashes) {
                cx.hashes().ask_for_hashes();
            }
            cx.requests().refill_awake();
            cx.interest().announce_pieces();
        } else {
            self.swarm.drop_work();
            if let Phase::FindingMetadata(metadata) = &mut self.phase {
                while let Some((peer, piece)) = metadata.ask(now) {
                    let request =
                        bittorrent_protocol::wire::OwnedMetadataMessage::Request { piece };
                    shared.send(peer, Command::Metadata(request));
                }
            }
        }
        let (complete, stopped) = (self.wants_nothing(), self.stopped().is_some());
        self.swarm.dial(complete, stopped, shared, now);
    }

    /// Measures rates and handles what timed out.
    pub(crate) fn tick(&mut self, shared: &mut Shared, now: Instant) {
        self.swarm.measure(now);
        if let Phase::FindingMetadata(metadata) = &mut self.phase {
            metadata.tick(now);
        }
        if let Some(mut cx) = self.context(shared, now) {
            cx.hashes().tick_hashes();
            cx.reuse().tick_reuse();
            cx.requests().tick_requests();
        }
        self.exchange_peers(shared, now);
    }

    pub(crate) fn handle_block(
        &mut self,
        key: PeerKey,
        block: BlockIndex,
        leaf: MerkleHash,
        shared: &mut Shared,
        now: Instant,
    ) -> BlockVerdict {
        match self.context(shared, now) {
            Some(mut cx) => cx.blocks().handle_block(key, block, leaf),
            None => BlockVerdict::Discard(Discard::Unrequested),
        }
    }

    pub(crate) fn handle_written(
        &mut self,
        block: BlockIndex,
        result: Result<(), WriteFailed>,
        shared: &mut Shared,
        now: Instant,
    ) {
        if let Some(mut cx) = self.context(shared, now) {
            cx.blocks().handle_written(block, result);
        }
    }

    pub(crate) fn handle_damaged(
        &mut self,
        blocks: &[BlockIndex],
        held: Vec<PieceLeaves>,
        shared: &mut Shared,
        now: Instant,
    ) {
        if let Some(mut cx) = self.context(shared, now) {
            cx.blocks().handle_damaged(blocks, held);
        }
    }

    pub(crate) fn handle_lost(&mut self, blocks: &[BlockIndex], shared: &mut Shared, now: Instant) {
        if let Some(mut cx) = self.context(shared, now) {
            cx.blocks().handle_lost(blocks);
        }
    }

    pub(crate) fn handle_looked_up(
        &mut self,
        piece: PieceIndex,
        adopted: &[(BlockIndex, MerkleHash)],
        shared: &mut Shared,
        now: Instant,
    ) {
        if let Some(mut cx) = self.context(shared, now) {
            cx.reuse().handle_looked_up(piece, adopted);
        }
    }

    pub(crate) fn handle_leaves_looked_up(
        &mut self,
        piece: PieceIndex,
        held: &[(BlockIndex, MerkleHash)],
        shared: &mut Shared,
        now: Instant,
    ) {
        if let Some(mut cx) = self.context(shared, now) {
            cx.descent().handle_leaves_looked_up(piece, held);
        }
    }

    /// Handles a peer's request for blocks.
    pub(crate) fn handle_upload_requested(
        &mut self,
        key: PeerKey,
        shared: &mut Shared,
        now: Instant,
    ) {
        if let Some(peer) = self.swarm.peers.get_mut(&key) {
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
        // What was sent to a peer that is gone was uploaded all the same.
        self.swarm.up.add(bytes);
        if let Some(peer) = self.swarm.peers.get_mut(&key) {
            peer.up.add(bytes);
        }
        self.handle_upload_requested(key, shared, now);
    }

    pub(crate) fn add_candidates(
        &mut self,
        addrs: &[SocketAddr],
        source: Source,
        scope: Scope,
        shared: &mut Shared,
        now: Instant,
    ) {
        self.swarm.add_candidates(addrs, source, scope, shared, now);
    }

    pub(crate) fn mark_own(&mut self, addr: SocketAddr, shared: &mut Shared) {
        self.swarm.dialler.mark_own(addr, shared);
    }

    pub(crate) fn handle_dial_failed(
        &mut self,
        addr: SocketAddr,
        failure: DialFailure,
        shared: &mut Shared,
        now: Instant,
    ) {
        self.swarm.dialler.dial_failed(addr, failure, shared, now);
    }

    /// There may be room for dials.
    pub(crate) fn look_for_dials(&mut self) {
        self.swarm.dialler.look_again();
    }

    /// Returns when the next address may be dialled.
    pub(crate) fn dial_due(&self) -> Option<Instant> {
        self.swarm.dialler.due()
    }

    pub(crate) fn status(&self) -> TorrentStatus {
        let transfer = self.transfer();
        let phase = match (self.stopped(), transfer) {
            (Some(reason), _) => TorrentPhase::Stopped(reason),
            (None, None) => TorrentPhase::Metadata,
            (None, Some(transfer)) if transfer.is_complete() => TorrentPhase::Seeding,
            (None, Some(_)) => TorrentPhase::Downloading,
        };
        let swarm = &self.swarm;
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
            downloaded: swarm.down.total(),
            uploaded: swarm.up.total(),
            wasted: swarm.wasted,
            hash_bytes: swarm.hash_bytes,
            down_rate: swarm.down.per_second(),
            up_rate: swarm.up.per_second(),
            peers: swarm.peers.len(),
            seeds: swarm.peers.values().filter(|peer| peer.is_seed()).count(),
            candidates: swarm.dialler.known(),
            dialling: swarm.dialler.dialling(),
            banned: swarm.banned,
        }
    }

    pub(crate) fn peer_statuses(&self) -> Vec<PeerStatus> {
        self.swarm
            .peers
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
