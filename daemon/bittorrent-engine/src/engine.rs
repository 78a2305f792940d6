//! All torrents of one process.

mod slots;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bittorrent_protocol::{BlockIndex, InfoHashes, MerkleHash, PieceIndex};

use crate::api::addresses::{Host, Scope};
use crate::api::config::{Config, ConnectionLimits};
use crate::api::input::{
    Connected, Content, ContentError, DialFailure, PeerEvent, PeerFault, PieceLeaves, Refusal,
    Source, WriteFailed,
};
use crate::api::keys::{PeerKey, TorrentKey};
use crate::api::output::{BlockVerdict, Discard, Output};
use crate::api::status::{PeerStatus, TorrentStatus};
use crate::choker::Choker;
use crate::shared::Shared;
use crate::torrent::Torrent;

/// How often rates are measured and time-outs are checked.
const TICK: Duration = Duration::from_millis(500);

/// Decides for any number of torrents. See the [crate's page](crate) for how to drive it.
///
/// Methods that take `now`, such as `handle_*`, report an event. [`Self::poll_output`] returns what to do,
/// [`Self::poll_timeout`] when to call again. [`Self::status`] and [`Self::peers`] only read. `now` must not
/// run backwards; if it does, the latest time seen counts.
#[derive(Debug)]
pub struct Engine {
    torrents: BTreeMap<TorrentKey, Torrent>,
    choker: Choker,
    shared: Shared,
    last_tick: Option<Instant>,
}

impl Engine {
    /// Creates an engine without torrents. Equal seeds and equal inputs produce equal outputs.
    pub fn new(config: Config, rng_seed: [u8; 32]) -> Self {
        Self {
            torrents: BTreeMap::new(),
            choker: Choker::default(),
            shared: Shared::new(config, rng_seed),
            last_tick: None,
        }
    }

    /// Adds a torrent whose content is not known yet. It asks peers for the metadata until
    /// [`Self::set_content`] is called.
    pub fn add_torrent(&mut self, hashes: InfoHashes, now: Instant) -> TorrentKey {
        let now = self.shared.advance(now);
        let key = self.shared.keys.torrent();
        let torrent = Torrent::new(key, hashes, &self.shared, now);
        self.torrents.insert(key, torrent);
        key
    }

    /// Sets the content of a torrent, once. A torrent that is complete from the start emits no
    /// [`Output::Complete`].
    pub fn set_content(
        &mut self,
        torrent: TorrentKey,
        content: Content,
        now: Instant,
    ) -> Result<(), ContentError> {
        let now = self.shared.advance(now);
        self.torrents
            .get_mut(&torrent)
            .ok_or(ContentError::NotWaiting)?
            .set_content(content, &mut self.shared, now)
    }

    /// Removes a torrent and closes its connections.
    pub fn remove_torrent(&mut self, torrent: TorrentKey, now: Instant) {
        let now = self.shared.advance(now);
        if let Some(mut torrent) = self.torrents.remove(&torrent) {
            torrent.close(&mut self.shared, now);
        }
    }

    /// Requests nothing for a torrent from now on and serves what is verified: for a disk that cannot be
    /// written. Call it before the content is known.
    pub fn stop_downloading(&mut self, torrent: TorrentKey) {
        if let Some(torrent) = self.torrents.get_mut(&torrent) {
            torrent.stop_downloading();
        }
    }

    /// Switches a torrent to sequential download, for a reader that follows the download. This costs the
    /// swarm: all peers that do so want the same pieces. Does nothing before the content is known.
    pub fn download_in_order(&mut self, torrent: TorrentKey) {
        if let Some(torrent) = self.torrents.get_mut(&torrent) {
            torrent.download_in_order();
        }
    }

    /// Changes the limits on connections. Connections above the limits are closed, the least useful first.
    pub fn limit_connections(&mut self, limits: ConnectionLimits, now: Instant) {
        let now = self.shared.advance(now);
        let config = &mut self.shared.config;
        config.max_peers = limits.max_peers;
        config.max_peers_per_torrent = limits.max_peers_per_torrent;
        config.max_peers_per_host = limits.max_peers_per_host;
        config.max_half_open = limits.max_half_open;
        for torrent in self.torrents.values_mut() {
            torrent.shed_surplus(&mut self.shared, now);
            torrent.look_for_dials();
        }
        while self.shared.connected > limits.max_peers {
            let Some(least) = self
                .torrents
                .values()
                .flat_map(Torrent::peers)
                .min_by_key(|peer| peer.worth())
                .map(|peer| peer.key)
            else {
                return;
            };
            if let Some(torrent) = self.torrents.get_mut(&least.torrent()) {
                torrent.shed(least, &mut self.shared, now);
            }
        }
    }

    /// Adds an address where this process listens, so that it is never dialled.
    pub fn add_own_address(&mut self, addr: SocketAddr) {
        self.shared.own_addresses.push(addr);
        for torrent in self.torrents.values_mut() {
            torrent.mark_own(addr, &mut self.shared);
        }
    }

    /// Adds addresses where peers of a torrent may be. Known addresses keep their history. Addresses that
    /// [`Scope::may_name`] does not allow for `scope` are ignored; an operator may name every address
    /// ([`Scope::Machine`]).
    pub fn add_candidates(
        &mut self,
        torrent: TorrentKey,
        addrs: &[SocketAddr],
        source: Source,
        scope: Scope,
        now: Instant,
    ) {
        let now = self.shared.advance(now);
        if let Some(torrent) = self.torrents.get_mut(&torrent) {
            torrent.add_candidates(addrs, source, scope, &mut self.shared, now);
        }
    }

    /// Reports that an [`Output::Dial`] ended without a connection whose handshakes are done.
    pub fn handle_dial_failed(
        &mut self,
        torrent: TorrentKey,
        addr: SocketAddr,
        failure: DialFailure,
        now: Instant,
    ) {
        let now = self.shared.advance(now);
        if let Some(torrent) = self.torrents.get_mut(&torrent) {
            torrent.handle_dial_failed(addr, failure, &mut self.shared, now);
        }
    }

    /// Checks whether an incoming connection from this address is allowed. Its handshake may still be
    /// refused.
    pub fn may_accept(
        &self,
        torrent: TorrentKey,
        addr: SocketAddr,
        now: Instant,
    ) -> Result<(), Refusal> {
        self.torrents
            .get(&torrent)
            .ok_or(Refusal::NoTorrent)?
            .may_accept(addr, &self.shared, now)?;
        self.place_for(torrent, Host::of(addr.ip()), now).map(drop)
    }

    /// Reports a connection whose handshakes are done. If it is refused, the caller closes it; a dial that
    /// led to it needs no `handle_dial_failed`.
    pub fn handle_connected(
        &mut self,
        torrent: TorrentKey,
        connected: Connected,
        now: Instant,
    ) -> Result<PeerKey, Refusal> {
        let now = self.shared.advance(now);
        let known = self.torrents.get(&torrent).ok_or(Refusal::NoTorrent)?;
        let mut accepted = known.accept(&connected, &self.shared, now);
        if let Ok(None) = accepted {
            match self.place_for(torrent, Host::of(connected.addr.ip()), now) {
                Ok(Some(displaced)) => self.displace(displaced, now),
                Ok(None) => {}
                Err(refusal) => accepted = Err(refusal),
            }
        }
        let key = self
            .torrents
            .get_mut(&torrent)
            .ok_or(Refusal::NoTorrent)?
            .handle_connected(&connected, accepted, &mut self.shared, now)?;
        // Peers that need no slot save a round trip.
        if connected.local
            && let Some(torrent) = self.torrents.get_mut(&torrent)
            && torrent.can_serve()
        {
            slots::unchoke(torrent, key, &mut self.shared, now);
        }
        Ok(key)
    }

    /// Reports that a connection is closed, by either side.
    pub fn handle_disconnected(&mut self, peer: PeerKey, now: Instant) {
        let now = self.shared.advance(now);
        if let Some(torrent) = self.torrents.get_mut(&peer.torrent()) {
            torrent.handle_disconnected(peer, &mut self.shared, now);
        }
    }

    /// Handles a message. After a fault the caller closes the connection; the engine has forgotten
    /// the peer already. Events of forgotten peers do nothing.
    pub fn handle_event(
        &mut self,
        peer: PeerKey,
        event: PeerEvent,
        now: Instant,
    ) -> Result<(), PeerFault> {
        let now = self.shared.advance(now);
        match self.torrents.get_mut(&peer.torrent()) {
            Some(torrent) => torrent.handle_event(peer, event, &mut self.shared, now),
            None => Ok(()),
        }
    }

    /// Handles a block of the block's real length, with this SHA-256. After [`BlockVerdict::Write`] the
    /// caller writes it and reports [`Self::handle_written`]; until then no other copy of the
    /// block gets that verdict.
    pub fn handle_block(
        &mut self,
        peer: PeerKey,
        block: BlockIndex,
        leaf: MerkleHash,
        now: Instant,
    ) -> BlockVerdict {
        let now = self.shared.advance(now);
        match self.torrents.get_mut(&peer.torrent()) {
            Some(torrent) => torrent.handle_block(peer, block, leaf, &mut self.shared, now),
            None => BlockVerdict::Discard(Discard::UnknownPeer),
        }
    }

    /// Reports the end of a block's write. A failed write stops the torrent for good.
    pub fn handle_written(
        &mut self,
        torrent: TorrentKey,
        block: BlockIndex,
        result: Result<(), WriteFailed>,
        now: Instant,
    ) {
        let now = self.shared.advance(now);
        if let Some(torrent) = self.torrents.get_mut(&torrent) {
            torrent.handle_written(block, result, &mut self.shared, now);
        }
    }

    /// Handles the answer to an [`Output::Lookup`](crate::Output::Lookup): these blocks of the piece are
    /// in the file now, each at its own offset, with the leaf hashes of the bytes there. The list is empty
    /// when nothing was found. Blocks that are false or were not asked for are ignored and requested of
    /// peers.
    ///
    /// Every look-up must be answered. After [`Config::lookup_timeout`] without any answer the torrent stops
    /// looking up, and later answers do nothing.
    pub fn handle_looked_up(
        &mut self,
        torrent: TorrentKey,
        piece: PieceIndex,
        adopted: &[(BlockIndex, MerkleHash)],
        now: Instant,
    ) {
        let now = self.shared.advance(now);
        if let Some(torrent) = self.torrents.get_mut(&torrent) {
            torrent.handle_looked_up(piece, adopted, &mut self.shared, now);
        }
    }

    /// Handles the answer to an [`Output::LookupLeaves`](crate::Output::LookupLeaves): leaf hashes that
    /// blocks of the piece may have. False ones are ignored. Otherwise like [`Self::handle_looked_up`].
    pub fn handle_leaves_looked_up(
        &mut self,
        torrent: TorrentKey,
        piece: PieceIndex,
        held: &[(BlockIndex, MerkleHash)],
        now: Instant,
    ) {
        let now = self.shared.advance(now);
        if let Some(torrent) = self.torrents.get_mut(&torrent) {
            torrent.handle_leaves_looked_up(piece, held, &mut self.shared, now);
        }
    }

    /// Reports that verified blocks are not on disk: they are downloaded again. A piece that was
    /// verified as a whole starts again from nothing.
    pub fn handle_lost(&mut self, torrent: TorrentKey, blocks: &[BlockIndex], now: Instant) {
        let now = self.shared.advance(now);
        if let Some(torrent) = self.torrents.get_mut(&torrent) {
            torrent.handle_lost(blocks, &mut self.shared, now);
        }
    }

    /// Reports that verified blocks are damaged on disk: they are downloaded again. `held` names the blocks
    /// of their pieces that are still good, with their leaf hashes; these are kept.
    pub fn handle_damaged(
        &mut self,
        torrent: TorrentKey,
        blocks: &[BlockIndex],
        held: Vec<PieceLeaves>,
        now: Instant,
    ) {
        let now = self.shared.advance(now);
        if let Some(torrent) = self.torrents.get_mut(&torrent) {
            torrent.handle_damaged(blocks, held, &mut self.shared, now);
        }
    }

    /// Reports payload bytes that were sent to a peer.
    pub fn handle_uploaded(&mut self, peer: PeerKey, bytes: u64, now: Instant) {
        let now = self.shared.advance(now);
        if let Some(torrent) = self.torrents.get_mut(&peer.torrent()) {
            torrent.handle_uploaded(peer, bytes, &mut self.shared, now);
        }
    }

    /// Reports that a peer's requests are being served. Call it at the first request and about once a second
    /// while there are any: a peer that requests nothing loses its upload slot to others.
    pub fn handle_upload_requested(&mut self, peer: PeerKey, now: Instant) {
        let now = self.shared.advance(now);
        if let Some(torrent) = self.torrents.get_mut(&peer.torrent()) {
            torrent.handle_upload_requested(peer, &mut self.shared, now);
        }
    }

    /// Handles the time that [`Self::poll_timeout`] returned. Calls at other times do no harm.
    pub fn handle_timeout(&mut self, now: Instant) {
        let now = self.shared.advance(now);
        if self.last_tick.is_none_or(|last| last + TICK <= now) {
            self.last_tick = Some(now);
            for torrent in self.torrents.values_mut() {
                torrent.tick(&mut self.shared, now);
            }
            self.make_room_for_untried(now);
            self.take_idle_slots(now);
        }
        if self.choker.due().is_none_or(|due| due <= now) {
            self.rechoke(now);
        }
    }

    /// Returns when to call [`Self::handle_timeout`], if nothing else happens before. `None` when time
    /// changes nothing.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let now = self.shared.now?;
        let tick = self
            .torrents
            .values()
            .any(|torrent| torrent.has_peers() || torrent.is_looking())
            .then(|| self.last_tick.map_or(now, |last| last + TICK));
        self.torrents
            .values()
            .filter_map(Torrent::dial_due)
            .chain(tick)
            .min()
    }

    /// Returns what to do next. Call it until it returns `None` after each input, or after a batch of
    /// inputs: requests, `have`s and hash requests wait for this call, so that they go out together.
    pub fn poll_output(&mut self) -> Option<Output> {
        if let Some(output) = self.shared.next_output() {
            return Some(output);
        }
        let now = self.shared.now?;
        if std::mem::take(&mut self.shared.slots_changed) {
            self.fill_slots(now);
        }
        if std::mem::take(&mut self.shared.room_made) {
            self.torrents.values_mut().for_each(Torrent::look_for_dials);
        }
        for torrent in self.torrents.values_mut() {
            torrent.settle(&mut self.shared, now);
        }
        self.shared.next_output()
    }

    /// Returns numbers about a torrent.
    pub fn status(&self, torrent: TorrentKey) -> Option<TorrentStatus> {
        self.torrents.get(&torrent).map(Torrent::status)
    }

    /// Returns numbers about a torrent's connections.
    pub fn peers(&self, torrent: TorrentKey) -> Vec<PeerStatus> {
        self.torrents
            .get(&torrent)
            .map(Torrent::peer_statuses)
            .unwrap_or_default()
    }

    /// Checks whether a connection with this host is within the limits. Returns the peer to close for it, if
    /// one must be.
    fn place_for(
        &self,
        torrent: TorrentKey,
        newcomer: Host,
        now: Instant,
    ) -> Result<Option<PeerKey>, Refusal> {
        let known = self.torrents.get(&torrent).ok_or(Refusal::NoTorrent)?;
        if !known.is_full(&self.shared) {
            return Ok(None);
        }
        // A host that requests nothing replaces no other peer.
        if self.shared.idle_hosts.contains(newcomer, now) {
            return Err(Refusal::Full);
        }
        let displaced = self.displaceable(known, Some(newcomer), now);
        displaced.map(Some).ok_or(Refusal::Full)
    }

    /// Returns the peer to close in a torrent that is full: one of its own, or one of any torrent if the limit
    /// over all torrents is reached.
    fn displaceable(
        &self,
        torrent: &Torrent,
        newcomer: Option<Host>,
        now: Instant,
    ) -> Option<PeerKey> {
        let shared = &self.shared;
        if torrent.has_its_share(shared) {
            return Some(torrent.displaceable(newcomer, shared, now)?.1);
        }
        let all = self.torrents.values();
        let displaceable = all.filter_map(|other| other.displaceable(newcomer, shared, now));
        Some(displaceable.max()?.1)
    }

    fn displace(&mut self, peer: PeerKey, now: Instant) {
        if let Some(torrent) = self.torrents.get_mut(&peer.torrent()) {
            torrent.displace(peer, &mut self.shared, now);
        }
    }

    /// Closes a connection for an untried address, in torrents where no peer sends anything.
    fn make_room_for_untried(&mut self, now: Instant) {
        let looking = |torrent: &&Torrent| torrent.wants_untried_addresses(&self.shared, now);
        let displaced: Vec<PeerKey> = self
            .torrents
            .values()
            .filter(looking)
            .filter_map(|torrent| self.displaceable(torrent, None, now))
            .collect();
        for peer in displaced {
            self.displace(peer, now);
        }
    }
}
