//! Tests of the addresses to dial.

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

#[test]
fn the_addresses_of_a_host_share_one_quick_retry() {
    let mut f = bounded();
    f.add(1, Source::Exchange);
    f.add(2, Source::Exchange);
    let first = f.dial().unwrap();
    f.fail(first, DialFailure::ClosedEarly);
    // A better source replaces one of the two.
    f.add(3, Source::Dht);
    let rest = knocks(&mut f, 10, DialFailure::ClosedEarly);
    assert_eq!(rest.len(), 1, "{first} {rest:?}");
}
