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
/// those of a third party, whom a peer wants us to disturb.
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
                // A better source takes the place of a worse one.
                let worst = others()
                    .filter(|(_, known)| matches!(known.state, DialState::Idle(_)) && !known.proven)
                    .max_by_key(|(_, known)| known.source)
                    .filter(|(_, known)| known.source > source)
                    .map(|(addr, _)| *addr);
                let Some(worst) = worst else { return };
                self.by_addr.remove(&worst);
            }
            // It shares what the host's other addresses came to.
            let unproven = self.of_host(addr.ip()).filter(|(_, known)| !known.proven);
            for (_, other) in unproven {
                added.fails = added.fails.max(other.fails);
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
            return;
        }
        known.fails = known.fails.saturating_add(1);
        let least = known.least_wait(config);
        let from = now + backoff(known.fails, least, config, rng);
        known.state = DialState::Idle(from);
        let (fails, proven) = (known.fails, known.proven);
        if bounded && !proven {
            self.hold_back(addr, fails, from);
        }
    }

    /// Makes the other addresses of the same host wait as well where no peer was met yet.
    fn hold_back(&mut self, addr: SocketAddr, fails: u32, from: Instant) {
        let others: Vec<SocketAddr> = self.of_host(addr.ip()).map(|(addr, _)| *addr).collect();
        for other in others {
            if let Some(known) = self.by_addr.get_mut(&other)
                && let DialState::Idle(since) = &mut known.state
                && !known.proven
            {
                *since = from.max(*since);
                known.fails = fails.max(known.fails);
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

    /// Whether the address is known to be one of ours.
    pub(crate) fn is_own(&self, addr: SocketAddr) -> bool {
        self.by_addr
            .get(&addr)
            .is_some_and(|known| known.state == DialState::Own)
    }
}

/// Whether the number of connections with the host of an address is bounded.
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
mod tests {
    use super::*;

    fn addr(n: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], n))
    }

    struct Fixture {
        candidates: Candidates,
        config: Config,
        rng: Rng,
        now: Instant,
    }

    impl Fixture {
        fn new() -> Self {
            Self {
                candidates: Candidates::default(),
                config: Config {
                    max_candidates: 4,
                    ..Config::default()
                },
                rng: Rng::new([3; 32]),
                now: Instant::now(),
            }
        }

        fn add(&mut self, n: u16, source: Source) {
            self.candidates.add(addr(n), source, &self.config, self.now);
        }

        fn dial(&mut self) -> Option<u16> {
            self.candidates
                .dial(false, &self.config, self.now, |_| None)
                .map(|addr| addr.port())
        }

        fn fail(&mut self, n: u16, failure: DialFailure) -> Duration {
            self.candidates
                .failed(addr(n), failure, &self.config, &mut self.rng, self.now);
            self.candidates
                .next_dial(false)
                .map_or(Duration::MAX, |at| at - self.now)
        }
    }

    #[test]
    fn failures_wait_longer_each_time_up_to_a_limit() {
        let mut f = Fixture::new();
        f.add(1, Source::Dht);
        let mut waits = Vec::new();
        for _ in 0..12 {
            assert_eq!(f.dial(), Some(1));
            assert_eq!(f.dial(), None);
            let wait = f.fail(1, DialFailure::Unreachable);
            waits.push(wait.as_secs());
            f.now += wait;
        }
        assert!((15..20).contains(&waits[0]), "{waits:?}");
        assert!((30..39).contains(&waits[1]), "{waits:?}");
        assert!(waits[11] <= 3600 * 5 / 4 && waits[11] >= 3600, "{waits:?}");
        assert_eq!(f.candidates.dialling(), 0);
    }

    #[test]
    fn a_close_before_the_handshake_is_retried_soon_but_not_for_ever() {
        let mut f = Fixture::new();
        f.add(1, Source::Static);
        let mut waits = Vec::new();
        for _ in 0..6 {
            assert_eq!(f.dial(), Some(1));
            let wait = f.fail(1, DialFailure::ClosedEarly);
            waits.push(wait.as_secs());
            f.now += wait;
        }
        assert_eq!(waits[..5], [1, 2, 4, 8, 16]);
        assert!(waits[5] >= 15);
    }

    #[test]
    fn seeds_are_not_dialled_by_a_seed() {
        let mut f = Fixture::new();
        f.add(1, Source::Static);
        assert_eq!(f.dial(), Some(1));
        f.candidates.connected(addr(1));
        assert_eq!(f.candidates.next_dial(false), None);
        f.candidates
            .disconnected(addr(1), true, true, &f.config, &mut f.rng, f.now);
        f.now += Duration::from_secs(3600);
        assert_eq!(f.candidates.dial(true, &f.config, f.now, |_| None), None);
        assert_eq!(f.candidates.next_dial(true), None);
        let until = f.now + Duration::from_secs(60);
        assert_eq!(
            f.candidates.dial(false, &f.config, f.now, |_| Some(until)),
            None
        );
        assert_eq!(f.candidates.next_dial(false), Some(until));
        assert_eq!(f.dial(), None);
        f.now = until;
        assert_eq!(f.dial(), Some(1));
    }

    #[test]
    fn static_addresses_come_first_and_our_own_never_again() {
        let mut f = Fixture::new();
        f.add(1, Source::Tracker);
        f.add(2, Source::Static);
        f.add(1, Source::Dht);
        assert_eq!(f.candidates.len(), 2);
        assert_eq!(f.dial(), Some(2));
        assert_eq!(f.fail(2, DialFailure::Ourselves), Duration::ZERO);
        assert!(f.candidates.is_own(addr(2)));
        assert_eq!(f.dial(), Some(1));
        // A dial that was under way when the address turned out to be ours ends later.
        f.candidates.mark_own(addr(1));
        f.fail(1, DialFailure::Unreachable);
        assert!(f.candidates.is_own(addr(1)));
        assert_eq!(f.candidates.dialling(), 0);
        f.now += Duration::from_secs(86_400);
        assert_eq!(f.dial(), None);
    }

    #[test]
    fn a_full_table_forgets_failed_addresses_only() {
        let mut f = Fixture::new();
        for n in 1..=4 {
            f.add(n, Source::Dht);
        }
        f.add(5, Source::Dht);
        assert!(!f.candidates.by_addr.contains_key(&addr(5)));
        f.dial();
        f.fail(1, DialFailure::Refused);
        f.add(5, Source::Dht);
        assert!(f.candidates.by_addr.contains_key(&addr(5)));
        assert!(!f.candidates.by_addr.contains_key(&addr(1)));
        f.add(6, Source::Static);
        assert_eq!(f.candidates.len(), 4);
        assert!(f.candidates.by_addr.contains_key(&addr(6)));
    }

    #[test]
    fn what_peers_name_gives_way_to_what_others_name() {
        let mut f = Fixture::new();
        for n in 1..=4 {
            f.add(n, Source::Exchange);
        }
        f.add(5, Source::Exchange);
        assert!(!f.candidates.by_addr.contains_key(&addr(5)));
        f.add(1, Source::Dht);
        for n in 5..=8 {
            f.add(n, Source::Dht);
        }
        let kept: Vec<u16> = f.candidates.by_addr.keys().map(SocketAddr::port).collect();
        assert_eq!(kept.len(), 4);
        assert!(kept.iter().all(|n| [1, 5, 6, 7].contains(n)), "{kept:?}");
    }

    #[test]
    fn addresses_nobody_can_listen_at_are_not_kept() {
        let mut candidates = Candidates::default();
        let config = Config::default();
        for bad in [
            "0.0.0.0:1",
            "192.0.2.1:0",
            "224.0.0.1:1",
            "[::]:1",
            "[ff02::1]:1",
        ] {
            candidates.add(
                bad.parse().unwrap(),
                Source::Static,
                &config,
                Instant::now(),
            );
        }
        assert_eq!(candidates.len(), 0);
    }

    /// A swarm in which a host may have two connections.
    fn bounded() -> Fixture {
        let mut f = Fixture::new();
        f.config.max_peers_per_host = 2;
        f.config.max_candidates = 100;
        f
    }

    /// Dials whatever may be dialled for so long, and has each dial fail at once.
    fn knocks(f: &mut Fixture, seconds: u64, failure: DialFailure) -> Vec<u16> {
        let mut knocked = Vec::new();
        let end = f.now + Duration::from_secs(seconds);
        while f.now < end {
            while let Some(port) = f.dial() {
                knocked.push(port);
                f.fail(port, failure);
            }
            f.now += Duration::from_secs(1);
        }
        knocked
    }

    #[test]
    fn a_third_party_that_a_peer_names_is_hardly_bothered() {
        for failure in [
            DialFailure::Refused,
            DialFailure::Unreachable,
            DialFailure::ClosedEarly,
        ] {
            let mut f = bounded();
            // One message with many ports, and another one later.
            for n in 1..50 {
                f.add(n, Source::Exchange);
            }
            assert_eq!(f.candidates.len(), 2);
            let first = knocks(&mut f, 30, failure);
            for n in 50..100 {
                f.add(n, Source::Exchange);
            }
            let rest = knocks(&mut f, 25, failure);
            let count = first.len() + rest.len();
            assert!((1..=3).contains(&count), "{failure:?}: {first:?} {rest:?}");
        }
    }

    #[test]
    fn a_host_is_known_by_as_many_addresses_as_it_may_have_connections() {
        let mut f = bounded();
        for n in 1..=5 {
            f.add(n, Source::Exchange);
        }
        f.add(6, Source::Static);
        f.add(7, Source::Dht);
        let kept: Vec<u16> = f.candidates.by_addr.keys().map(SocketAddr::port).collect();
        assert!(kept.contains(&6), "what the operator names stays: {kept:?}");
        assert_eq!(kept.len(), 3);
        let of = |ip: &str| ip.parse::<SocketAddr>().unwrap();
        let count = |f: &Fixture| f.candidates.len();
        // A network of IPv6 is one host; this machine is not bounded.
        for (addrs, more) in [
            (
                ["[2001:db8::1]:1", "[2001:db8::ffff:1]:1", "[2001:db8::2]:2"],
                2,
            ),
            (
                [
                    "[2001:db8:0:1::1]:1",
                    "[2001:db8:0:2::1]:1",
                    "[2001:db8:0:3::1]:1",
                ],
                3,
            ),
            (["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"], 3),
        ] {
            let before = count(&f);
            for addr in addrs {
                f.candidates.add(of(addr), Source::Dht, &f.config, f.now);
            }
            assert_eq!(count(&f) - before, more, "{addrs:?}");
        }
    }

    #[test]
    fn a_failure_holds_back_the_other_addresses_of_a_host_where_no_peer_was_met() {
        let mut f = bounded();
        f.config.max_peers_per_host = 3;
        for n in 1..=3 {
            f.add(n, Source::Dht);
        }
        assert_eq!(f.dial(), Some(1));
        f.candidates.connected(addr(1));
        f.candidates
            .disconnected(addr(1), true, false, &f.config, &mut f.rng, f.now);
        assert_eq!(f.dial(), Some(2));
        assert_eq!(f.dial(), None, "one at a time");
        let wait = f.fail(2, DialFailure::Unreachable);
        // The one where a peer was met is dialled again first, and the other one later.
        assert_eq!(wait, AFTER_CONNECTION);
        assert_eq!(
            f.dial(),
            None,
            "another address of the host has just failed"
        );
        f.now += AFTER_CONNECTION;
        assert_eq!(f.dial(), Some(1));
        assert_eq!(f.dial(), None);
        f.candidates.connected(addr(1));
        f.now += Duration::from_secs(10);
        assert!(matches!(f.dial(), Some(2 | 3)));
    }
}
