//! Peer exchange between the peers of a torrent (BEP 11).

use std::net::SocketAddr;
use std::time::Instant;

use bittorrent_protocol::wire::{PexFlags, PexMessage};

use super::Torrent;
use crate::api::addresses::Scope;
use crate::api::input::{Direction, Source};
use crate::api::keys::PeerKey;
use crate::api::output::Command;
use crate::shared::Shared;

impl Torrent {
    /// Sends the addresses of our peers to those for which a message is due.
    pub(super) fn exchange_peers(&mut self, shared: &mut Shared, now: Instant) {
        if !self
            .swarm
            .peers
            .values()
            .any(|peer| peer.exchange.is_due(now))
        {
            return;
        }
        let connected: Vec<(PeerKey, SocketAddr, PexFlags)> = self
            .swarm
            .peers
            .values()
            .filter_map(|peer| {
                let flags = PexFlags {
                    seed: peer.is_seed() || peer.upload_only,
                    reachable: peer.direction == Direction::Outgoing,
                };
                Some((peer.key, peer.listens?, flags))
            })
            .collect();
        for peer in self.swarm.peers.values_mut() {
            if !peer.exchange.is_due(now) {
                continue;
            }
            let scope = Scope::of(peer.addr.ip());
            let others = connected
                .iter()
                .filter(|(key, addr, _)| *key != peer.key && Scope::of(addr.ip()) >= scope)
                .map(|(_, addr, flags)| (*addr, *flags));
            if let Some(message) = peer.exchange.next_message(others, now) {
                shared.send(peer.key, Command::Exchange(message));
            }
        }
    }

    /// Handles the addresses that a peer sent.
    pub(super) fn handle_exchange(
        &mut self,
        key: PeerKey,
        message: &PexMessage,
        shared: &mut Shared,
        now: Instant,
    ) {
        let complete = self.wants_nothing();
        let Some(peer) = self.swarm.peers.get_mut(&key) else {
            return;
        };
        let scope = Scope::of(peer.addr.ip());
        let addrs = peer.exchange.accept(
            message,
            |named| scope.may_name(named.addr) && !(complete && named.flags.seed),
            now,
        );
        self.swarm
            .add_candidates(&addrs, Source::Exchange, scope, shared, now);
    }
}
