//! All torrents of one process.

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
use crate::api::output::{BlockVerdict, Command, Discard, Output};
use crate::api::status::{PeerStatus, TorrentStatus};
use crate::choker::{Applicant, Choker};
use crate::peer::Peer;
use crate::shared::Shared;
use crate::torrent::Torrent;

/// How often rates are measured and deadlines looked at.
const TICK: Duration = Duration::from_millis(500);

/// Decides for any number of torrents. See the [crate's page](crate) for how to drive it.
///
/// Its methods are of three kinds: `handle_*` and the other ones that take `now` tell it what
/// happened; [`Self::poll_output`] and [`Self::poll_timeout`] say what to do and when to come back;
/// [`Self::status`] and [`Self::peers`] look. Time given as `now` must not run backwards; if it
/// does, the latest time seen counts.
#[derive(Debug)]
pub struct Engine {
    torrents: BTreeMap<TorrentKey, Torrent>,
    choker: Choker,
    shared: Shared,
    last_tick: Option<Instant>,
}

impl Engine {
    /// An engine without torrents. Equal seeds and equal inputs give equal outputs.
    pub fn new(config: Config, rng_seed: [u8; 32]) -> Self {
        Self {
            torrents: BTreeMap::new(),
            choker: Choker::default(),
            shared: Shared::new(config, rng_seed),
            last_tick: None,
        }
    }

    /// Adds a torrent whose content is not known yet: it looks for its metadata until
    /// [`Self::set_content`].
    pub fn add_torrent(&mut self, hashes: InfoHashes, now: Instant) -> TorrentKey {
        let now = self.shared.advance(now);
        let key = self.shared.keys.torrent();
        let torrent = Torrent::new(key, hashes, &self.shared, now);
        self.torrents.insert(key, torrent);
        key
    }

    /// Tells a torrent what it consists of, once. A torrent that is complete from the start gives no
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

    /// Forgets a torrent and closes its connections.
    pub fn remove_torrent(&mut self, torrent: TorrentKey, now: Instant) {
        let now = self.shared.advance(now);
        if let Some(mut torrent) = self.torrents.remove(&torrent) {
            torrent.close(&mut self.shared, now);
        }
    }

    /// Asks for nothing of a torrent from now on, and serves what is there: for a disk that takes nothing
    /// more. To be said before its content is known.
    pub fn stop_downloading(&mut self, torrent: TorrentKey) {
        if let Some(torrent) = self.torrents.get_mut(&torrent) {
            torrent.stop_downloading();
        }
    }

    /// Begins the pieces of a torrent in the order of its content from now on, for whoever reads along
    /// while it comes. It costs the swarm: everybody who does so wants the same pieces. Does nothing
    /// before the content is known.
    pub fn download_in_order(&mut self, torrent: TorrentKey) {
        if let Some(torrent) = self.torrents.get_mut(&torrent) {
            torrent.download_in_order();
        }
    }

    /// Changes how many connections there may be. What is above the limits is closed, the
    /// connections that carry least first.
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

    /// Names an address where we listen ourselves, so that it is never dialled.
    pub fn add_own_address(&mut self, addr: SocketAddr) {
        self.shared.own_addresses.push(addr);
        for torrent in self.torrents.values_mut() {
            torrent.mark_own(addr, &mut self.shared);
        }
    }

    /// Names addresses where peers of a torrent may be. Those known already keep their history. The
    /// source may name what [`Scope::may_name`] lets a source at `scope` name; an operator may name
    /// everything ([`Scope::Machine`]).
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

    /// An [`Output::Dial`] ended without a connection whose handshakes are done.
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

    /// Whether an incoming connection from this address is welcome; its handshake decides in the
    /// end.
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

    /// A connection's handshakes are done. When it is refused, the caller closes it; a dial that
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
            unchoke(torrent, key, &mut self.shared, now);
        }
        Ok(key)
    }

    /// A connection is closed, whoever closed it.
    pub fn handle_disconnected(&mut self, peer: PeerKey, now: Instant) {
        let now = self.shared.advance(now);
        if let Some(torrent) = self.torrents.get_mut(&peer.torrent()) {
            torrent.handle_disconnected(peer, &mut self.shared, now);
        }
    }

    /// A message came. After a fault the caller closes the connection; the engine has forgotten
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

    /// A block came, of the block's real length, with this SHA-256. After [`BlockVerdict::Write`] the
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

    /// The answer to an [`Output::Lookup`](crate::Output::Lookup): these blocks of the piece stand
    /// in the file now, each at its place, with the leaf hashes of what stands there. None of them
    /// when nothing was found. What is false among them, or was not asked for, does not count; it
    /// is asked of peers.
    ///
    /// Every look-up is to be answered; if none is for [`Config::lookup_timeout`], the torrent
    /// goes on without, and answers that come later do nothing.
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

    /// The answer to an [`Output::LookupLeaves`](crate::Output::LookupLeaves): leaf hashes that blocks of the piece
    /// may have. What is false among them does not count. Else as [`Self::handle_looked_up`].
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

    /// Verified blocks turned out not to be on disk: they are downloaded again. A piece that was
    /// verified as a whole starts again from nothing.
    pub fn handle_lost(&mut self, torrent: TorrentKey, blocks: &[BlockIndex], now: Instant) {
        let now = self.shared.advance(now);
        if let Some(torrent) = self.torrents.get_mut(&torrent) {
            torrent.handle_lost(blocks, &mut self.shared, now);
        }
    }

    /// Verified blocks turned out to be damaged on disk: they are downloaded again. Of the pieces they
    /// are in, `held` names the blocks that are still good, with their leaf hashes; these are kept.
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

    /// So many payload bytes were sent to a peer.
    pub fn handle_uploaded(&mut self, peer: PeerKey, bytes: u64, now: Instant) {
        let now = self.shared.advance(now);
        if let Some(torrent) = self.torrents.get_mut(&peer.torrent()) {
            torrent.handle_uploaded(peer, bytes, &mut self.shared, now);
        }
    }

    /// A peer has requests that are being served. To be reported when the first comes, and about once a
    /// second while there are any: a peer that asks for nothing gives way to others.
    pub fn handle_upload_requested(&mut self, peer: PeerKey, now: Instant) {
        let now = self.shared.advance(now);
        if let Some(torrent) = self.torrents.get_mut(&peer.torrent()) {
            torrent.handle_upload_requested(peer, &mut self.shared, now);
        }
    }

    /// The time [`Self::poll_timeout`] named has come. Being called at other times does no harm.
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

    /// When to call [`Self::handle_timeout`], if nothing else happens before. `None` when time
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

    /// What to do next. Call it until it says `None` after each input, or after a batch of them:
    /// requests, `have`s and hash requests are put off until then, so that they go out together.
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

    /// Numbers about a torrent.
    pub fn status(&self, torrent: TorrentKey) -> Option<TorrentStatus> {
        self.torrents.get(&torrent).map(Torrent::status)
    }

    /// Numbers about a torrent's connections.
    pub fn peers(&self, torrent: TorrentKey) -> Vec<PeerStatus> {
        self.torrents
            .get(&torrent)
            .map(Torrent::peer_statuses)
            .unwrap_or_default()
    }

    /// Whether there is a place for a newcomer from this host, or the peer that makes room for it.
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
        // What would ask for nothing again takes no other peer's place.
        if self.shared.idle_hosts.contains(newcomer, now) {
            return Err(Refusal::Full);
        }
        let displaced = self.displaceable(known, Some(newcomer), now);
        displaced.map(Some).ok_or(Refusal::Full)
    }

    /// The peer that makes room in a torrent that is full: one of its own, or of any where there are as
    /// many connections as allowed over all torrents.
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

    /// Makes room for addresses that were not tried, in torrents where no peer gives anything.
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

    /// Takes upload slots from peers that ask for nothing, as many as others wait for that may.
    fn take_idle_slots(&mut self, now: Instant) {
        let shared = &mut self.shared;
        let mut idle = Vec::new();
        for torrent in self.torrents.values() {
            for peer in torrent.peers() {
                if !peer.local && peer.wastes_slot(now) {
                    shared.idle_hosts.add(peer.host(), now);
                    idle.push((peer.last_asked.max(peer.choked_since), peer.key));
                }
            }
        }
        if idle.is_empty() {
            return;
        }
        let serving = self.torrents.values().filter(|torrent| torrent.can_serve());
        let waits = |peer: &&Peer| {
            let may_ask = !shared.idle_hosts.contains(peer.host(), now);
            peer.interested && peer.choked && !peer.local && may_ask
        };
        let waiting = serving.flat_map(Torrent::peers).filter(waits).count();
        idle.sort_unstable();
        for (_, key) in idle.into_iter().take(waiting) {
            if let Some(torrent) = self.torrents.get_mut(&key.torrent()) {
                choke(torrent, key, &mut self.shared, now);
                self.shared.slots_changed = true;
            }
        }
    }

    /// Those who want an upload slot or hold one.
    fn applicants(&self, now: Instant) -> Vec<Applicant> {
        let mut applicants: Vec<(Host, Applicant)> = self
            .torrents
            .values()
            .filter(|torrent| torrent.can_serve())
            .flat_map(|torrent| {
                let complete = torrent.wants_nothing();
                let applies = |peer: &&Peer| peer.interested && !peer.local;
                torrent.peers().filter(applies).map(move |peer| {
                    let applicant = Applicant {
                        key: peer.key,
                        choked: peer.choked,
                        since: peer.choked_since,
                        gives: if complete { 0 } else { peer.down.per_second() },
                        takes: peer.up.per_second(),
                        turn: 0,
                        idle: peer.wastes_slot(now)
                            || self.shared.idle_hosts.contains(peer.host(), now),
                    };
                    (peer.host(), applicant)
                })
            })
            .collect();
        applicants.sort_by_key(|(host, one)| (*host, one.choked, one.since, one.key));
        let mut last = None;
        let mut turn = 0;
        for (host, applicant) in &mut applicants {
            turn = if last == Some(*host) { turn + 1 } else { 0 };
            last = Some(*host);
            applicant.turn = turn;
        }
        applicants.into_iter().map(|(_, one)| one).collect()
    }

    fn rechoke(&mut self, now: Instant) {
        let config = &self.shared.config;
        let times = (config.rechoke_interval, config.optimistic_interval);
        let (slots, optimistic) = (config.unchoke_slots, config.optimistic_slots);
        let applicants = self.applicants(now);
        let rng = &mut self.shared.rng;
        let winners = self
            .choker
            .round(applicants, slots, optimistic, times, rng, now);
        for torrent in self.torrents.values_mut() {
            let serves = torrent.can_serve();
            let keys: Vec<_> = torrent.peers().map(|peer| peer.key).collect();
            for key in keys {
                let local = torrent.peer_mut(key).is_some_and(|peer| peer.local);
                if (local && serves) || winners.contains(&key) {
                    unchoke(torrent, key, &mut self.shared, now);
                } else {
                    choke(torrent, key, &mut self.shared, now);
                }
            }
        }
    }

    /// Gives free slots to those who wait, without waiting for the next round.
    fn fill_slots(&mut self, now: Instant) {
        let slots = self.shared.config.unchoke_slots;
        // Most often they are all taken: this is asked whenever a peer wants something.
        let (mut used, mut waits, mut local) = (0, false, false);
        for torrent in self.torrents.values().filter(|torrent| torrent.can_serve()) {
            for peer in torrent.peers() {
                let applies = peer.interested && !peer.local;
                used += usize::from(applies && !peer.choked);
                waits |= applies && peer.choked;
                local |= peer.local && peer.choked;
            }
        }
        if local {
            self.serve_local(now);
        }
        if !waits || used >= slots {
            return;
        }
        for key in self.choker.fill(self.applicants(now), slots, now) {
            if let Some(torrent) = self.torrents.get_mut(&key.torrent()) {
                unchoke(torrent, key, &mut self.shared, now);
            }
        }
    }

    /// Peers in the own network need no slot.
    fn serve_local(&mut self, now: Instant) {
        for torrent in self.torrents.values_mut() {
            if !torrent.can_serve() {
                continue;
            }
            let local: Vec<_> = torrent
                .peers()
                .filter(|peer| peer.local && peer.choked)
                .map(|peer| peer.key)
                .collect();
            for key in local {
                unchoke(torrent, key, &mut self.shared, now);
            }
        }
    }
}

fn unchoke(torrent: &mut Torrent, key: PeerKey, shared: &mut Shared, now: Instant) {
    if let Some(peer) = torrent.peer_mut(key)
        && peer.choked
    {
        peer.choked = false;
        peer.choked_since = now;
        shared.send(key, Command::Unchoke);
    }
}

fn choke(torrent: &mut Torrent, key: PeerKey, shared: &mut Shared, now: Instant) {
    if let Some(peer) = torrent.peer_mut(key)
        && !peer.choked
    {
        peer.choked = true;
        peer.choked_since = now;
        shared.send(key, Command::Choke);
    }
}
