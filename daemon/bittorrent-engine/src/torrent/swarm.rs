//! The peers of one torrent, and what every phase of it needs.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bittorrent_protocol::PieceIndex;

use super::dialling::Dialler;
use crate::api::addresses::Host;
use crate::api::keys::{PeerKey, TorrentKey};
use crate::api::output::{Blame, Output};
use crate::hedge::AnswerTime;
use crate::peer::Peer;
use crate::rate::Rate;
use crate::shared::Shared;

/// A connection that lasted this long was worth having.
const LONG_ENOUGH: Duration = Duration::from_secs(60);

/// The connections of a torrent, the addresses to dial, the work that waits, and the counters.
#[derive(Debug)]
pub(super) struct Swarm {
    pub(super) key: TorrentKey,
    pub(super) peers: BTreeMap<PeerKey, Peer>,
    pub(super) dialler: Dialler,
    /// Nothing is requested: what is verified is served.
    pub(super) serves_only: bool,
    /// Verified pieces that peers have not been sent a `have` for.
    pub(super) unannounced: Vec<PieceIndex>,
    /// Peers that may have room for requests.
    pub(super) awake: Vec<PeerKey>,
    /// Something became available that starved peers may want.
    pub(super) wake_starved: bool,
    /// Hash requests may be possible.
    pub(super) ask_hashes: bool,
    /// Of hash requests.
    pub(super) answer_time: AnswerTime,
    pub(super) down: Rate,
    pub(super) up: Rate,
    pub(super) wasted: u64,
    pub(super) hash_bytes: u64,
    pub(super) banned: u64,
}

impl Swarm {
    pub(super) fn new(key: TorrentKey, now: Instant) -> Self {
        Self {
            key,
            peers: BTreeMap::new(),
            dialler: Dialler::default(),
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

    /// Returns the keys of all peers, so that peers can be removed while going through them.
    pub(super) fn peer_keys(&self) -> Vec<PeerKey> {
        self.peers.keys().copied().collect()
    }

    /// Counts the connections with each host.
    pub(super) fn crowds(&self) -> BTreeMap<Host, usize> {
        let mut crowds = BTreeMap::new();
        for peer in self.peers.values() {
            *crowds.entry(peer.host()).or_insert(0) += 1;
        }
        crowds
    }

    /// Closes a measuring interval of all rates.
    pub(super) fn measure(&mut self, now: Instant) {
        self.down.tick(now);
        self.up.tick(now);
        for peer in self.peers.values_mut() {
            peer.down.tick(now);
            peer.up.tick(now);
            peer.pipeline.tick(peer.down.per_second());
        }
    }

    /// Drops work that waits: without content, none of it can be done.
    pub(super) fn drop_work(&mut self) {
        self.ask_hashes = false;
        self.wake_starved = false;
        for key in std::mem::take(&mut self.awake) {
            if let Some(peer) = self.peers.get_mut(&key) {
                peer.wake = false;
            }
        }
    }

    /// Marks a peer that may have room for requests.
    pub(super) fn wake(&mut self, key: PeerKey) {
        if let Some(peer) = self.peers.get_mut(&key)
            && !peer.wake
        {
            peer.wake = true;
            self.awake.push(key);
        }
    }

    /// Forgets a peer and returns its address to the dialler. `false` when it was unknown.
    pub(super) fn remove(
        &mut self,
        key: PeerKey,
        at_fault: bool,
        shared: &mut Shared,
        now: Instant,
    ) -> bool {
        let Some(peer) = self.peers.remove(&key) else {
            return false;
        };
        shared.connected -= 1;
        shared.room_made = true;
        shared.slots_changed |= !peer.choked;
        if let Some(listens) = peer.listens {
            let useful = !at_fault
                && (peer.down.total() > 0
                    || peer.up.total() > 0
                    || peer.since + LONG_ENOUGH <= now);
            let seed = peer.is_seed() || peer.upload_only;
            self.dialler
                .disconnected(listens, useful, seed, shared, now);
        }
        self.dialler.look_again();
        true
    }

    /// Bans an address, and the one where its peer listens. The connections stay: see
    /// [`Self::banned_peers`].
    pub(super) fn ban(
        &mut self,
        addr: SocketAddr,
        blame: Blame,
        shared: &mut Shared,
        now: Instant,
    ) {
        if shared.bans.contains(addr, now) {
            return;
        }
        let listens = self
            .peers
            .values()
            .find(|peer| peer.addr == addr)
            .and_then(|peer| peer.listens);
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

    /// Returns the connections with banned addresses, or with hosts that are banned as a whole.
    pub(super) fn banned_peers(&self, shared: &Shared, now: Instant) -> Vec<PeerKey> {
        self.peers
            .values()
            .filter(|peer| shared.bans.contains(peer.addr, now))
            .map(|peer| peer.key)
            .collect()
    }
}
