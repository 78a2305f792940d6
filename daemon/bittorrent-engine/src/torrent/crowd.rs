//! How many connections there may be.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::Torrent;
use crate::addresses::{Scope, host};
use crate::keys::PeerKey;
use crate::output::DisconnectReason;
use crate::peer::Peer;
use crate::shared::Shared;

/// How long a peer may want nothing and have nothing before it makes room for others.
const MAY_BE_IDLE: Duration = Duration::from_secs(120);

impl Torrent {
    pub(super) fn is_full(&self, shared: &Shared) -> bool {
        self.peers.len() >= shared.config.max_peers_per_torrent
            || shared.connected >= shared.config.max_peers
    }

    /// Whether there are as many connections with the host of this address as allowed.
    pub(super) fn is_crowded(&self, addr: SocketAddr, shared: &Shared) -> bool {
        let most = shared.config.max_peers_per_host;
        if most == usize::MAX || Scope::of(addr.ip()) == Scope::Machine {
            return false;
        }
        let host_of_addr = host(addr.ip());
        let there = |peer: &&Peer| host(peer.addr.ip()) == host_of_addr;
        self.peers.values().filter(there).count() >= most
    }

    /// When every place is taken and nobody has anything for us, one peer makes room for an address that
    /// was not tried: else a group of peers that lack the same would keep to itself for ever.
    pub(super) fn look_beyond(&mut self, shared: &mut Shared, now: Instant) {
        let lacks = !self.is_complete() && self.stopped.is_none();
        if lacks
            && self.is_full(shared)
            && !self.peers.values().any(|peer| self.may_help(peer))
            && self.candidates.next_dial(false).is_some_and(|at| at <= now)
            && let Some(idle) = self.idle_peer(now)
        {
            self.disconnect(idle, DisconnectReason::Idle, shared, now);
        }
    }

    /// A peer that could make room for another one: neither side wanted anything for long.
    pub(super) fn idle_peer(&self, now: Instant) -> Option<PeerKey> {
        self.peers
            .values()
            .filter(|peer| !peer.interested && !self.may_help(peer))
            .filter(|peer| peer.since + MAY_BE_IDLE <= now)
            .min_by_key(|peer| peer.down.total() + peer.up.total())
            .map(|peer| peer.key)
    }

    /// Whether a peer has something that we lack.
    fn may_help(&self, peer: &Peer) -> bool {
        match &self.metadata {
            Some(metadata) => metadata.is_offered_by(peer.key),
            None => peer.offers > 0,
        }
    }

    /// Connections with each host.
    pub(super) fn crowds(&self) -> BTreeMap<IpAddr, usize> {
        let mut crowds = BTreeMap::new();
        for peer in self.peers.values() {
            *crowds.entry(host(peer.addr.ip())).or_insert(0) += 1;
        }
        crowds
    }

    /// Closes what is above the limits of one torrent and one host.
    pub(crate) fn shed_surplus(&mut self, shared: &mut Shared, now: Instant) {
        let most = shared.config.max_peers_per_torrent;
        let most_of_host = shared.config.max_peers_per_host;
        let mut worst_first: Vec<_> = self.peers.values().collect();
        worst_first.sort_by_key(|peer| peer.worth());
        let mut left = worst_first.len();
        let mut crowds = self.crowds();
        let mut surplus = Vec::new();
        for peer in worst_first {
            let bounded = Scope::of(peer.addr.ip()) != Scope::Machine;
            let Some(crowd) = crowds.get_mut(&host(peer.addr.ip())) else {
                continue;
            };
            if left > most || (bounded && *crowd > most_of_host) {
                left -= 1;
                *crowd -= 1;
                surplus.push(peer.key);
            }
        }
        for key in surplus {
            self.shed(key, shared, now);
        }
    }

    /// Closes one connection to make the rest fit the limits.
    pub(crate) fn shed(&mut self, key: PeerKey, shared: &mut Shared, now: Instant) {
        self.disconnect(key, DisconnectReason::Surplus, shared, now);
    }
}
