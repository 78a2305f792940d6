//! How many connections there may be.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::Torrent;
use crate::addresses::{Scope, host};
use crate::keys::PeerKey;
use crate::output::DisconnectReason;
use crate::shared::Shared;

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
        let there = |peer: &&crate::peer::Peer| host(peer.addr.ip()) == host_of_addr;
        self.peers.values().filter(there).count() >= most
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
