//! Which addresses are dialled.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::swarm::Swarm;
use crate::api::addresses::{Host, Scope, canonical};
use crate::api::input::{DialFailure, Refusal, Source};
use crate::api::output::Output;
use crate::hosts::candidates::Candidates;
use crate::shared::Shared;

/// When an address is thought of again whose host has as many connections as it may.
const CROWDED_RETRY: Duration = Duration::from_secs(60);

/// The addresses of a torrent, and when the next one is dialled.
#[derive(Debug, Default)]
pub(super) struct Dialler {
    candidates: Candidates,
    /// When the next address may be dialled; `None` when none may, or nothing is known about it.
    due: Option<Instant>,
    changed: bool,
    /// Dials under way that are counted in [`Shared::dialling`].
    counted: usize,
}

impl Dialler {
    /// Makes the next [`Swarm::dial`] look at the addresses: there may be room for dials.
    pub(super) fn look_again(&mut self) {
        self.changed = true;
    }

    /// Returns when the next address may be dialled.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Returns how many addresses are known.
    pub(super) fn known(&self) -> usize {
        self.candidates.len()
    }

    /// Returns how many dials are under way.
    pub(super) fn dialling(&self) -> usize {
        self.candidates.dialling()
    }

    /// Returns whether an address is one where this process listens.
    pub(super) fn is_own(&self, addr: SocketAddr) -> bool {
        self.candidates.is_own(addr)
    }

    /// Returns whether an address could be dialled now, if there was room.
    pub(super) fn has_untried(&self, now: Instant) -> bool {
        self.candidates.next_dial(false).is_some_and(|at| at <= now)
    }

    pub(super) fn mark_own(&mut self, addr: SocketAddr, shared: &mut Shared) {
        self.candidates.mark_own(addr);
        self.count_dials(shared);
    }

    /// Adds the address where an incoming peer listens; it is connected.
    pub(super) fn add_incoming(&mut self, addr: SocketAddr, shared: &mut Shared, now: Instant) {
        self.candidates
            .add(addr, Source::Incoming, &shared.config, now);
        self.connected(addr, shared);
    }

    /// There is a connection to where a peer listens.
    pub(super) fn connected(&mut self, addr: SocketAddr, shared: &mut Shared) {
        self.candidates.connected(addr);
        self.count_dials(shared);
    }

    /// A connection to where a peer listens has ended.
    pub(super) fn disconnected(
        &mut self,
        addr: SocketAddr,
        useful: bool,
        seed: bool,
        shared: &mut Shared,
        now: Instant,
    ) {
        self.candidates
            .disconnected(addr, useful, seed, &shared.config, &mut shared.rng, now);
    }

    /// Forgets every address.
    pub(super) fn clear(&mut self, shared: &mut Shared) {
        self.candidates = Candidates::default();
        self.count_dials(shared);
    }

    pub(super) fn dial_failed(
        &mut self,
        addr: SocketAddr,
        failure: DialFailure,
        shared: &mut Shared,
        now: Instant,
    ) {
        self.candidates
            .failed(addr, failure, &shared.config, &mut shared.rng, now);
        self.count_dials(shared);
        self.changed = true;
    }

    /// A dial led to a connection that is not wanted.
    pub(super) fn refused(
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
        self.dial_failed(addr, failure, shared, now);
    }

    /// Updates the count of dials over all torrents.
    fn count_dials(&mut self, shared: &mut Shared) {
        let dialling = self.candidates.dialling();
        shared.dialling = shared.dialling + dialling - self.counted;
        shared.room_made |= dialling < self.counted;
        self.counted = dialling;
    }
}

impl Swarm {
    pub(super) fn add_candidates(
        &mut self,
        addrs: &[SocketAddr],
        source: Source,
        scope: Scope,
        shared: &mut Shared,
        now: Instant,
    ) {
        let connected: BTreeSet<SocketAddr> = self.peers.values().map(|peer| peer.addr).collect();
        let candidates = &mut self.dialler.candidates;
        for addr in addrs.iter().filter(|addr| scope.may_name(**addr)) {
            let addr = canonical(*addr);
            candidates.add(addr, source, &shared.config, now);
            if connected.contains(&addr) {
                candidates.connected(addr);
            }
            if shared.own_addresses.contains(&addr) {
                candidates.mark_own(addr);
            }
        }
        self.dialler.count_dials(shared);
        self.dialler.changed = true;
    }

    /// Dials the addresses that are due and allowed. No seed is dialled when `complete`, and no peer at all
    /// when `stopped`.
    pub(super) fn dial(
        &mut self,
        complete: bool,
        stopped: bool,
        shared: &mut Shared,
        now: Instant,
    ) {
        let due = self.dialler.due.is_some_and(|due| due <= now);
        if !due && !std::mem::take(&mut self.dialler.changed) {
            return;
        }
        self.dialler.changed = false;
        let most = shared.config.max_peers_per_host;
        // Only counted where it is bounded.
        let mut crowds = (most < usize::MAX).then(|| {
            let mut crowds = self.crowds();
            for addr in self.dialler.candidates.being_dialled() {
                *crowds.entry(Host::of(addr.ip())).or_insert(0) += 1;
            }
            crowds
        });
        while !stopped && self.may_dial(shared) {
            let bans = &shared.bans;
            let wait = |addr: SocketAddr| {
                let crowded = crowds.as_ref().is_some_and(|crowds| {
                    let host = Host::of(addr.ip());
                    host.is_bounded() && crowds.get(&host).is_some_and(|n| *n >= most)
                });
                let until = crowded.then(|| now + CROWDED_RETRY);
                bans.until(addr, now).or(until)
            };
            let dialler = &mut self.dialler;
            let Some(addr) = dialler.candidates.dial(complete, &shared.config, now, wait) else {
                break;
            };
            if let Some(crowds) = &mut crowds {
                *crowds.entry(Host::of(addr.ip())).or_insert(0) += 1;
            }
            dialler.count_dials(shared);
            shared.emit(Output::Dial {
                torrent: self.key,
                addr,
            });
        }
        // At a limit the next change wakes this up, else time does.
        self.dialler.due = (!stopped && self.may_dial(shared))
            .then(|| self.dialler.candidates.next_dial(complete))
            .flatten();
    }

    fn may_dial(&self, shared: &Shared) -> bool {
        let config = &shared.config;
        let dialling = self.dialler.dialling();
        shared.dialling < config.max_half_open
            && self.peers.len() + dialling < config.max_peers_per_torrent
            && shared.connected + shared.dialling < config.max_peers
    }
}
