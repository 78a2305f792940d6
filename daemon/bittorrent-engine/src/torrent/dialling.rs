//! Which addresses are dialled.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Torrent;
use crate::api::addresses::{Host, Scope, canonical};
use crate::api::input::{DialFailure, Refusal, Source};
use crate::api::output::Output;
use crate::shared::Shared;

/// When an address is thought of again whose host has as many connections as it may.
const CROWDED_RETRY: Duration = Duration::from_secs(60);

impl Torrent {
    pub(crate) fn add_candidates(
        &mut self,
        addrs: &[SocketAddr],
        source: Source,
        scope: Scope,
        shared: &mut Shared,
        now: Instant,
    ) {
        let connected: BTreeSet<SocketAddr> = self.peers.values().map(|peer| peer.addr).collect();
        for addr in addrs.iter().filter(|addr| scope.may_name(**addr)) {
            let addr = canonical(*addr);
            self.candidates.add(addr, source, &shared.config, now);
            if connected.contains(&addr) {
                self.candidates.connected(addr);
            }
            if shared.own_addresses.contains(&addr) {
                self.candidates.mark_own(addr);
            }
        }
        self.count_dials(shared);
        self.dial_changed = true;
    }

    pub(crate) fn mark_own(&mut self, addr: SocketAddr, shared: &mut Shared) {
        self.candidates.mark_own(addr);
        self.count_dials(shared);
    }

    /// Brings the count of dials over all torrents up to date.
    pub(super) fn count_dials(&mut self, shared: &mut Shared) {
        let dialling = self.candidates.dialling();
        shared.dialling = shared.dialling + dialling - self.dials_counted;
        shared.room_made |= dialling < self.dials_counted;
        self.dials_counted = dialling;
    }

    pub(crate) fn handle_dial_failed(
        &mut self,
        addr: SocketAddr,
        failure: DialFailure,
        shared: &mut Shared,
        now: Instant,
    ) {
        self.candidates
            .failed(addr, failure, &shared.config, &mut shared.rng, now);
        self.count_dials(shared);
        self.dial_changed = true;
    }

    /// There is a connection to where a peer listens.
    pub(super) fn dialled(&mut self, addr: SocketAddr, shared: &mut Shared) {
        self.candidates.connected(addr);
        self.count_dials(shared);
    }

    /// A dial led to a connection that is not wanted.
    pub(super) fn refused_dial(
        &mut self,
        addr: SocketAddr,
        refusal: Refusal,
        shared: &mut Shared,
        now: Instant,
    ) {
        let failure = match refusal {
            Refusal::Ourselves => DialFailure::Ourselves,
            Refusal::NoTorrent
            | Refusal::Banned
            | Refusal::Full
            | Refusal::Crowded
            | Refusal::Duplicate => DialFailure::Refused,
        };
        self.handle_dial_failed(addr, failure, shared, now);
    }

    /// Dials what is due and allowed.
    pub(super) fn dial(&mut self, shared: &mut Shared, now: Instant) {
        let due = self.dial_due.is_some_and(|due| due <= now);
        if !due && !std::mem::take(&mut self.dial_changed) {
            return;
        }
        self.dial_changed = false;
        let complete = self.wants_nothing();
        let most = shared.config.max_peers_per_host;
        // Only counted where it is bounded.
        let mut crowds = (most < usize::MAX).then(|| {
            let mut crowds = self.crowds();
            for addr in self.candidates.being_dialled() {
                *crowds.entry(Host::of(addr.ip())).or_insert(0) += 1;
            }
            crowds
        });
        while self.may_dial(shared) {
            let bans = &shared.bans;
            let wait = |addr: SocketAddr| {
                let crowded = crowds.as_ref().is_some_and(|crowds| {
                    let host = Host::of(addr.ip());
                    host.is_bounded() && crowds.get(&host).is_some_and(|n| *n >= most)
                });
                let until = crowded.then(|| now + CROWDED_RETRY);
                bans.until(addr, now).or(until)
            };
            let Some(addr) = self.candidates.dial(complete, &shared.config, now, wait) else {
                break;
            };
            if let Some(crowds) = &mut crowds {
                *crowds.entry(Host::of(addr.ip())).or_insert(0) += 1;
            }
            self.count_dials(shared);
            shared.emit(Output::Dial {
                torrent: self.key,
                addr,
            });
        }
        // At a limit the next change wakes this up, else time does.
        self.dial_due = self
            .may_dial(shared)
            .then(|| self.candidates.next_dial(complete))
            .flatten();
    }

    fn may_dial(&self, shared: &Shared) -> bool {
        let config = &shared.config;
        let dialling = self.candidates.dialling();
        self.stopped.is_none()
            && shared.dialling < config.max_half_open
            && self.peers.len() + dialling < config.max_peers_per_torrent
            && shared.connected + shared.dialling < config.max_peers
    }

    /// There may be room for dials.
    pub(crate) fn look_for_dials(&mut self) {
        self.dial_changed = true;
    }

    /// When the next address may be dialled.
    pub(crate) fn dial_due(&self) -> Option<Instant> {
        self.dial_due
    }
}
