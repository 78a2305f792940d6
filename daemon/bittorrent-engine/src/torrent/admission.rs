//! Which connections are accepted, and which are closed for them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::{Phase, Torrent};
use crate::api::addresses::Host;
use crate::api::input::{Connected, Direction, Refusal};
use crate::api::keys::PeerKey;
use crate::api::output::DisconnectReason;
use crate::peer::Peer;
use crate::shared::Shared;

/// How long a peer of a host that has two connections more than the newcomer's may be of no use before it
/// makes room for it.
const CROWDED: Duration = Duration::from_secs(2);
/// The same for a peer that could ask for blocks and did not, or whose host is known for that.
const WASTES_SLOT: Duration = Duration::from_secs(10);
/// The same for a peer that wants nothing and has nothing.
const MAY_BE_IDLE: Duration = Duration::from_secs(30);
/// The same for a peer that waits for a slot, or has pieces we lack and does not send them.
const MAY_WAIT: Duration = Duration::from_secs(120);

/// The order in which peers are closed for others: the connections of its host, and how long it was of no use.
pub(crate) type Displaced = (usize, Duration);

impl Torrent {
    /// Checks whether an incoming connection is allowed, apart from limits on their number.
    pub(crate) fn may_accept(
        &self,
        addr: SocketAddr,
        shared: &Shared,
        now: Instant,
    ) -> Result<(), Refusal> {
        if shared.bans.contains(addr, now) {
            return Err(Refusal::Banned);
        }
        if self.swarm.dialler.is_own(addr) {
            return Err(Refusal::Ourselves);
        }
        if self.swarm.peers.values().any(|peer| peer.addr == addr) {
            return Err(Refusal::Duplicate);
        }
        if self.is_crowded(addr, shared) {
            return Err(Refusal::Crowded);
        }
        Ok(())
    }

    /// Adds a connection that is `accepted`, and closes the one that it replaces, if any.
    pub(crate) fn handle_connected(
        &mut self,
        connected: &Connected,
        accepted: Result<Option<PeerKey>, Refusal>,
        shared: &mut Shared,
        now: Instant,
    ) -> Result<PeerKey, Refusal> {
        self.swarm.dialler.look_again();
        match accepted {
            Ok(None) => {}
            Ok(Some(twin)) => self.disconnect(twin, DisconnectReason::Duplicate, shared, now),
            Err(refusal) => {
                if connected.direction == Direction::Outgoing {
                    self.swarm
                        .dialler
                        .refused(connected.addr, refusal, shared, now);
                }
                return Err(refusal);
            }
        }
        let key = shared.keys.peer(self.swarm.key);
        let layout = self.transfer().map(|transfer| &*transfer.layout);
        let peer = Peer::new(key, connected, layout, &shared.config, now);
        if connected.direction == Direction::Outgoing {
            self.swarm.dialler.connected(connected.addr, shared);
        }
        self.swarm.peers.insert(key, peer);
        shared.connected += 1;
        shared.slots_changed = true;
        if let Some(mut cx) = self.context(shared, now) {
            cx.interest().send_bitfield(key);
        }
        Ok(key)
    }

    /// Checks whether a connection is allowed, apart from limits on their number. Returns a connection to the
    /// same peer that must be closed for it, if any.
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
            .swarm
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

    /// Returns whether the limits leave no room for one more connection.
    pub(crate) fn is_full(&self, shared: &Shared) -> bool {
        self.has_its_share(shared) || shared.connected >= shared.config.max_peers
    }

    /// Returns whether there are as many connections as one torrent may have.
    pub(crate) fn has_its_share(&self, shared: &Shared) -> bool {
        self.swarm.peers.len() >= shared.config.max_peers_per_torrent
    }

    /// Returns whether there are as many connections with the host of this address as allowed.
    pub(super) fn is_crowded(&self, addr: SocketAddr, shared: &Shared) -> bool {
        let most = shared.config.max_peers_per_host;
        let host = Host::of(addr.ip());
        if most == usize::MAX || !host.is_bounded() {
            return false;
        }
        let there = |peer: &&Peer| peer.host() == host;
        self.swarm.peers.values().filter(there).count() >= most
    }

    /// Returns whether the torrent is full, no peer sends us anything, and an untried address could be dialled.
    /// Otherwise a group of peers that lack the same pieces would never meet other peers.
    pub(crate) fn wants_untried_addresses(&self, shared: &Shared, now: Instant) -> bool {
        let helps = |peer: &Peer| self.may_help(peer) && peer.last_use + MAY_WAIT > now;
        !self.is_complete()
            && self.stopped().is_none()
            && self.is_full(shared)
            && !self.swarm.peers.values().any(helps)
            && self.swarm.dialler.has_untried(now)
    }

    /// Returns the peer to close for a connection from this host (`None`: from one without connections) when
    /// the torrent is full. It is one of the host with most connections, and of those the one that was useful
    /// least recently. How long a peer may be of no use depends on why.
    pub(crate) fn displaceable(
        &self,
        newcomer: Option<Host>,
        shared: &Shared,
        now: Instant,
    ) -> Option<(Displaced, PeerKey)> {
        let crowds = self.swarm.crowds();
        let crowd = |host: Host| match host.is_bounded() {
            true => crowds.get(&host).copied().unwrap_or(0),
            false => 1,
        };
        let newcomers = newcomer.map_or(0, |host| crowds.get(&host).copied().unwrap_or(0));
        self.swarm
            .peers
            .values()
            .filter_map(|peer| {
                let host = peer.host();
                let most = if crowd(host) >= newcomers + 2 {
                    CROWDED
                } else if peer.wastes_slot(now) || shared.idle_hosts.contains(host, now) {
                    WASTES_SLOT
                } else if !peer.interested && !self.may_help(peer) {
                    MAY_BE_IDLE
                } else {
                    MAY_WAIT
                };
                let quiet = now.saturating_duration_since(peer.last_use);
                (quiet >= most).then_some(((crowd(host), quiet), peer.key))
            })
            .max()
    }

    /// Closes a connection for a newcomer.
    pub(crate) fn displace(&mut self, key: PeerKey, shared: &mut Shared, now: Instant) {
        self.disconnect(key, DisconnectReason::Idle, shared, now);
    }

    /// Returns whether a peer has pieces or metadata that we lack.
    fn may_help(&self, peer: &Peer) -> bool {
        match &self.phase {
            Phase::FindingMetadata(metadata) => metadata.is_offered_by(peer.key),
            Phase::AwaitingContent | Phase::Transferring(_) | Phase::Contradicted => {
                peer.offers > 0
            }
        }
    }

    /// Closes the connections above the limits of one torrent and one host.
    pub(crate) fn shed_surplus(&mut self, shared: &mut Shared, now: Instant) {
        let most = shared.config.max_peers_per_torrent;
        let most_of_host = shared.config.max_peers_per_host;
        let mut worst_first: Vec<_> = self.swarm.peers.values().collect();
        worst_first.sort_by_key(|peer| peer.worth());
        let mut left = worst_first.len();
        let mut crowds = self.swarm.crowds();
        let mut surplus = Vec::new();
        for peer in worst_first {
            let bounded = peer.host().is_bounded();
            let Some(crowd) = crowds.get_mut(&peer.host()) else {
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
