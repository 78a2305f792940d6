//! Addresses where peers may be, and when to dial them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::api::addresses::{Host, is_dialable};
use crate::api::config::Config;
use crate::api::input::{DialFailure, Source};
use crate::rng::Rng;

/// How soon a peer that closed before its handshake is dialled again, the first time.
const EARLY_RETRY: Duration = Duration::from_secs(1);
/// How often in a row such a close is met with a quick retry.
const EARLY_RETRIES: u32 = 5;
/// The same at addresses where no peer was ever met and that the operator did not name. They may be
/// those of a third party that a peer wants us to disturb.
const EARLY_RETRIES_UNPROVEN: u32 = 1;
/// When an address where no peer was ever met is thought of again while another address of its host
/// is being dialled.
const ONE_AT_A_TIME: Duration = Duration::from_secs(5);
/// The shortest wait, as a multiple of [`Config::redial_min`], after a failure at an address that only
/// another peer named.
const HEARSAY_FACTOR: u32 = 4;
/// How long a peer that left after a good connection is left alone.
const AFTER_CONNECTION: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DialState {
    /// May be dialled from this time on.
    Idle(Instant),
    Dialling,
    Connected,
    /// Leads to ourselves.
    Own,
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    source: Source,
    state: DialState,
    /// Failures since the last good connection.
    fails: u32,
    /// Closes before the handshake in a row.
    early: u32,
    /// It had everything when we last saw it.
    seed: bool,
    /// A peer was met there, or the operator named it.
    proven: bool,
}

impl Candidate {
    fn new(source: Source, now: Instant) -> Self {
        Self {
            source,
            state: DialState::Idle(now),
            fails: 0,
            early: 0,
            seed: false,
            proven: source == Source::Static,
        }
    }

    /// The shortest wait after a failure.
    fn least_wait(&self, config: &Config) -> Duration {
        match self.source {
            Source::Exchange if !self.proven => config.redial_min * HEARSAY_FACTOR,
            _ => config.redial_min,
        }
    }
}

/// The addresses of one torrent.
#[derive(Debug, Default)]
pub(crate) struct Candidates {
    by_addr: BTreeMap<SocketAddr, Candidate>,
    dialling: usize,
}

impl Candidates {
    pub(crate) fn len(&self) -> usize {
        self.by_addr.len()
    }

    pub(crate) fn dialling(&self) -> usize {
        self.dialling
    }

    /// The addresses that are being dialled.
    pub(crate) fn being_dialled(&self) -> impl Iterator<Item = &SocketAddr> {
        let dialled = |(_, known): &(&SocketAddr, &Candidate)| known.state == DialState::Dialling;
        let most = self.dialling;
        self.by_addr
            .iter()
            .filter(dialled)
            .map(|(addr, _)| addr)
            .take(most)
    }

    /// Learns an address in its canonical form. One that is known already keeps its history; `Static`
    /// sticks. A host has at most as many addresses as it may have connections: more are no use, and
    /// a peer that names a third party's ports one after the other could make us disturb it.
    pub(crate) fn add(&mut self, addr: SocketAddr, source: Source, config: &Config, now: Instant) {
        if !is_dialable(addr) {
            return;
        }
        if let Some(known) = self.by_addr.get_mut(&addr) {
            known.source = known.source.min(source);
            known.proven |= source == Source::Static;
            return;
        }
        let mut added = Candidate::new(source, now);
        if source != Source::Static && is_bounded(addr, config) {
            let others = || self.of_host(addr.ip());
            if others().count() >= config.max_peers_per_host {
                // A better source replaces a worse one.
                let worst = others()
                    .filter(|(_, known)| matches!(known.state, DialState::Idle(_)) && !known.proven)
                    .max_by_key(|(_, known)| known.source)
                    .filter(|(_, known)| known.source > source)
                    .map(|(addr, _)| *addr);
                let Some(worst) = worst else { return };
                self.by_addr.remove(&worst);
            }
            // It shares the history of the host's other addresses.
            let unproven = self.of_host(addr.ip()).filter(|(_, known)| !known.proven);
            for (_, other) in unproven {
                added.fails = added.fails.max(other.fails);
                added.early = added.early.max(other.early);
                if let (DialState::Idle(from), DialState::Idle(others)) =
                    (&mut added.state, other.state)
                {
                    *from = others.max(*from);
                }
            }
        }
        if self.by_addr.len() >= config.max_candidates && !self.evict(source) {
            return;
        }
        self.by_addr.insert(addr, added);
    }

    /// The addresses of the host that `ip` belongs to.
    fn of_host(&self, ip: IpAddr) -> impl Iterator<Item = (&SocketAddr, &Candidate)> {
        let host = Host::of(ip);
        self.by_addr
            .range(SocketAddr::new(host.first(), 0)..)
            .take_while(move |(addr, _)| Host::of(addr.ip()) == host)
    }

    /// Makes room: forgets the address that failed most often. Static ones stay, and one that
    /// never failed goes only for a static one, or when only a peer named it and something better
    /// than a peer names the newcomer.
    fn evict(&mut self, newcomer: Source) -> bool {
        let worst = self
            .by_addr
            .iter()
            .filter(|(_, known)| {
                known.source != Source::Static
                    && matches!(known.state, DialState::Idle(_))
                    && (known.fails > 0
                        || newcomer == Source::Static
                        || (known.source == Source::Exchange && newcomer != Source::Exchange))
            })
            .max_by_key(|(_, known)| (known.fails, known.source))
            .map(|(addr, _)| *addr);
        worst.is_some_and(|addr| self.by_addr.remove(&addr).is_some())
    }

    /// The best address to dial now, which then counts as being dialled. `complete` leaves seeds
    /// out: neither side would have anything for the other.
    pub(crate) fn dial(
        &mut self,
        complete: bool,
        config: &Config,
        now: Instant,
        banned_until: impl Fn(SocketAddr) -> Option<Instant>,
    ) -> Option<SocketAddr> {
        let dialled: BTreeSet<Host> = self
            .being_dialled()
            .map(|addr| Host::of(addr.ip()))
            .collect();
        for (addr, known) in &mut self.by_addr {
            if matches!(known.state, DialState::Idle(from) if from <= now)
                && let Some(until) = banned_until(*addr).or_else(|| {
                    let waits = !known.proven && is_bounded(*addr, config);
                    (waits && dialled.contains(&Host::of(addr.ip()))).then(|| now + ONE_AT_A_TIME)
                })
            {
                known.state = DialState::Idle(until);
            }
        }
        let (addr, best) = self
            .by_addr
            .iter_mut()
            .filter(|(_, known)| {
                matches!(known.state, DialState::Idle(from) if from <= now)
                    && !(complete && known.seed)
            })
            .min_by_key(|(_, known)| {
                let DialState::Idle(from) = known.state else {
                    return (true, u32::MAX, now);
                };
                (known.source != Source::Static, known.fails, from)
            })?;
        best.state = DialState::Dialling;
        self.dialling += 1;
        Some(*addr)
    }

    /// When the next address may be dialled.
    pub(crate) fn next_dial(&self, complete: bool) -> Option<Instant> {
        self.by_addr
            .values()
            .filter(|known| !(complete && known.seed))
            .filter_map(|known| match known.state {
                DialState::Idle(from) => Some(from),
                DialState::Dialling | DialState::Connected | DialState::Own => None,
            })
            .min()
    }

    /// A dial ended without a connection.
    pub(crate) fn failed(
        &mut self,
        addr: SocketAddr,
        failure: DialFailure,
        config: &Config,
        rng: &mut Rng,
        now: Instant,
    ) {
        let bounded = is_bounded(addr, config);
        let Some(known) = self.by_addr.get_mut(&addr) else {
            return;
        };
        if known.state == DialState::Dialling {
            self.dialling -= 1;
        } else if matches!(known.state, DialState::Connected | DialState::Own) {
            return;
        }
        if failure == DialFailure::Ourselves {
            known.state = DialState::Own;
            return;
        }
        let early_retries = match known.proven || !bounded {
            true => EARLY_RETRIES,
            false => EARLY_RETRIES_UNPROVEN,
        };
        if failure == DialFailure::ClosedEarly && known.early < early_retries {
            let wait = EARLY_RETRY.saturating_mul(1 << known.early);
            known.early += 1;
            known.state = DialState::Idle(now + wait);
            let (fails, early, proven) = (known.fails, known.early, known.proven);
            if bounded && !proven {
                // The host has one quick retry: its other addresses wait for how it ends.
                self.hold_back(addr, fails, early, now + wait + ONE_AT_A_TIME);
            }
            return;
        }
        known.fails = known.fails.saturating_add(1);
        let least = known.least_wait(config);
        let from = now + backoff(known.fails, least, config, rng);
        known.state = DialState::Idle(from);
        let (fails, early, proven) = (known.fails, known.early, known.proven);
        if bounded && !proven {
            self.hold_back(addr, fails, early, from);
        }
    }

    /// Makes the other addresses of the same host wait as well where no peer was met yet.
    fn hold_back(&mut self, addr: SocketAddr, fails: u32, early: u32, from: Instant) {
        let others: Vec<SocketAddr> = self
            .of_host(addr.ip())
            .map(|(other, _)| *other)
            .filter(|other| *other != addr)
            .collect();
        for other in others {
            if let Some(known) = self.by_addr.get_mut(&other)
                && let DialState::Idle(since) = &mut known.state
                && !known.proven
            {
                *since = from.max(*since);
                known.fails = fails.max(known.fails);
                known.early = early.max(known.early);
            }
        }
    }

    /// A connection was made, by us or by the peer.
    pub(crate) fn connected(&mut self, addr: SocketAddr) {
        if let Some(known) = self.by_addr.get_mut(&addr) {
            if known.state == DialState::Dialling {
                self.dialling -= 1;
            }
            known.state = DialState::Connected;
            known.proven = true;
        }
    }

    /// A connection ended. One that was of use is remembered as success.
    pub(crate) fn disconnected(
        &mut self,
        addr: SocketAddr,
        useful: bool,
        seed: bool,
        config: &Config,
        rng: &mut Rng,
        now: Instant,
    ) {
        let Some(known) = self.by_addr.get_mut(&addr) else {
            return;
        };
        if known.state != DialState::Connected {
            return;
        }
        known.seed = seed;
        known.early = 0;
        let wait = if useful {
            known.fails = 0;
            AFTER_CONNECTION
        } else {
            known.fails = known.fails.saturating_add(1);
            backoff(known.fails, config.redial_min, config, rng)
        };
        known.state = DialState::Idle(now + wait);
    }

    /// The address is one of ours.
    pub(crate) fn mark_own(&mut self, addr: SocketAddr) {
        if let Some(known) = self.by_addr.get_mut(&addr) {
            if known.state == DialState::Dialling {
                self.dialling -= 1;
            }
            known.state = DialState::Own;
        }
    }

    /// Returns whether the address is known to be one of ours.
    pub(crate) fn is_own(&self, addr: SocketAddr) -> bool {
        self.by_addr
            .get(&addr)
            .is_some_and(|known| known.state == DialState::Own)
    }
}

/// Returns whether the number of connections with the host of an address is bounded.
fn is_bounded(addr: SocketAddr, config: &Config) -> bool {
    config.max_peers_per_host < usize::MAX && Host::of(addr.ip()).is_bounded()
}

/// Doubles with each failure, from `least`; up to a quarter more, so that peers that failed together
/// are not dialled together.
fn backoff(fails: u32, least: Duration, config: &Config, rng: &mut Rng) -> Duration {
    let doublings = fails.saturating_sub(1).min(16);
    let wait = least.saturating_mul(1 << doublings).min(config.redial_max);
    wait + (wait / 4).mul_f64(rng.below(1_000) as f64 / 1_000.0)
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to start from"
)]
mod tests;
