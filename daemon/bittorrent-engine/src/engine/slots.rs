//! Which peers have an upload slot, over all torrents.

use std::time::Instant;

use super::Engine;
use crate::api::addresses::Host;
use crate::api::keys::PeerKey;
use crate::api::output::Command;
use crate::choker::Applicant;
use crate::peer::Peer;
use crate::shared::Shared;
use crate::torrent::Torrent;

impl Engine {
    /// Takes upload slots from peers that request nothing, as many as other peers wait for.
    pub(super) fn take_idle_slots(&mut self, now: Instant) {
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

    /// Returns the peers that want an upload slot or have one.
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

    pub(super) fn rechoke(&mut self, now: Instant) {
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

    /// Gives free slots to waiting peers, without waiting for the next round.
    pub(super) fn fill_slots(&mut self, now: Instant) {
        let slots = self.shared.config.unchoke_slots;
        // Most often all slots are taken, and this runs whenever a peer becomes interested.
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

    /// Unchokes peers in the local network, which need no slot.
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

pub(super) fn unchoke(torrent: &mut Torrent, key: PeerKey, shared: &mut Shared, now: Instant) {
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
