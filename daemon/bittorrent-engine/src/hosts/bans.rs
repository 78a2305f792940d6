//! Addresses that sent false data, and the hosts behind them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::api::addresses::Host;

/// How many addresses of one host must be banned at a time before the whole host is: behind one there
/// may be several peers.
const ADDRESSES_PER_HOST: usize = 4;
/// How many addresses of one host are remembered, about 50 bytes each.
const MOST_ADDRESSES: usize = 16;
/// How many hosts are remembered.
const MOST_HOSTS: usize = 4_096;
/// A ban is doubled at most this often.
const MOST_DOUBLINGS: u32 = 6;

#[derive(Debug, Clone, Copy)]
struct Ban {
    addr: SocketAddr,
    until: Instant,
    times: u32,
}

/// Bans by address and port. A host that keeps coming back from new addresses or ports is banned as a
/// whole, except for this machine.
#[derive(Debug, Default)]
pub(crate) struct Bans {
    by_host: BTreeMap<Host, Vec<Ban>>,
}

impl Bans {
    /// Bans an address; each time for twice as long.
    pub(crate) fn add(&mut self, addr: SocketAddr, time: Duration, now: Instant) {
        let host = Host::of(addr.ip());
        if self.by_host.len() >= MOST_HOSTS && !self.by_host.contains_key(&host) {
            self.forget_soonest();
        }
        let bans = self.by_host.entry(host).or_default();
        let times = match bans.iter().position(|ban| ban.addr == addr) {
            Some(place) => bans.swap_remove(place).times,
            None => 0,
        };
        if bans.len() >= MOST_ADDRESSES
            && let Some(place) = (0..bans.len()).min_by_key(|place| bans[*place].until)
        {
            bans.swap_remove(place);
        }
        bans.push(Ban {
            addr,
            until: now + time.saturating_mul(1 << times.min(MOST_DOUBLINGS)),
            times: times + 1,
        });
    }

    /// Forgets the host whose last ban ends first.
    fn forget_soonest(&mut self) {
        let last = |bans: &[Ban]| bans.iter().map(|ban| ban.until).max();
        let soonest = self
            .by_host
            .iter()
            .min_by_key(|(_, bans)| last(bans))
            .map(|(host, _)| *host);
        if let Some(host) = soonest {
            self.by_host.remove(&host);
        }
    }

    /// Returns whether an address, or its whole host, is banned.
    pub(crate) fn contains(&self, addr: SocketAddr, now: Instant) -> bool {
        self.until(addr, now).is_some()
    }

    /// Until when an address, or its whole host, is banned, if it is.
    pub(crate) fn until(&self, addr: SocketAddr, now: Instant) -> Option<Instant> {
        let host = Host::of(addr.ip());
        let bans = self.by_host.get(&host)?;
        let active = bans.iter().filter(|ban| ban.until > now);
        let own = active.clone().find(|ban| ban.addr == addr);
        if own.is_some() || !host.is_bounded() {
            return own.map(|ban| ban.until);
        }
        let mut ends: Vec<Instant> = active.map(|ban| ban.until).collect();
        ends.sort_unstable();
        // The ban of the host ends when fewer addresses than that are banned.
        let last = ends.len().checked_sub(ADDRESSES_PER_HOST)?;
        ends.get(last).copied()
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to start from"
)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn addr(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_ban_ends_and_the_next_one_is_longer() {
        let start = Instant::now();
        let mut bans = Bans::default();
        let bad = addr("192.0.2.1:1000");
        bans.add(bad, HOUR, start);
        assert!(bans.contains(bad, start + HOUR / 2));
        assert!(!bans.contains(addr("192.0.2.1:1001"), start));
        assert!(!bans.contains(bad, start + HOUR));
        bans.add(bad, HOUR, start + HOUR);
        assert!(bans.contains(bad, start + HOUR * 5 / 2));
        assert!(!bans.contains(bad, start + HOUR * 3));
    }

    #[test]
    fn a_host_that_comes_back_from_new_addresses_is_banned_unless_it_is_this_one() {
        let now = Instant::now();
        // Addresses that are banned one after the other; one that was not; whether it is banned too.
        for (banned, other, all) in [
            (
                ["192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3", "192.0.2.1:4"],
                "192.0.2.1:9",
                true,
            ),
            (
                [
                    "192.0.2.1:1",
                    "192.0.2.1:2",
                    "[::ffff:192.0.2.1]:3",
                    "[::ffff:192.0.2.1]:4",
                ],
                "192.0.2.1:9",
                true,
            ),
            (
                ["192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1", "192.0.2.4:1"],
                "192.0.2.5:1",
                false,
            ),
            (
                [
                    "[2001:db8::1]:1",
                    "[2001:db8::2]:1",
                    "[2001:db8::3]:1",
                    "[2001:db8::4]:1",
                ],
                "[2001:db8::5:6:7]:1",
                true,
            ),
            (
                [
                    "[2001:db8::1]:1",
                    "[2001:db8::2]:1",
                    "[2001:db8::3]:1",
                    "[2001:db8::4]:1",
                ],
                "[2001:db8:0:1::1]:1",
                false,
            ),
            (
                ["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4"],
                "127.0.0.1:9",
                false,
            ),
            (
                ["[::1]:1", "[::1]:2", "[::1]:3", "[::1]:4"],
                "[::1]:9",
                false,
            ),
        ] {
            let mut bans = Bans::default();
            for bad in banned {
                assert!(!bans.contains(addr(other), now), "{banned:?}");
                bans.add(addr(bad), HOUR, now);
                // Once more is no other address.
                bans.add(addr(bad), HOUR, now);
                assert!(bans.contains(addr(bad), now));
            }
            assert_eq!(bans.contains(addr(other), now), all, "{banned:?} {other}");
            assert!(!bans.contains(addr(other), now + HOUR * 2), "it ends");
        }
    }

    #[test]
    fn the_memory_of_bans_is_bounded() {
        let now = Instant::now();
        let mut bans = Bans::default();
        for n in 0..MOST_HOSTS as u32 + 10 {
            let ip = std::net::Ipv4Addr::from(n + 0x0b00_0000);
            let at = now + Duration::from_secs(n.into());
            bans.add(SocketAddr::new(ip.into(), 1), HOUR, at);
        }
        assert_eq!(bans.by_host.len(), MOST_HOSTS);
        assert!(!bans.by_host.contains_key(&Host::of([11, 0, 0, 0].into())));
        for port in 1..=1_000 {
            bans.add(SocketAddr::from(([12, 0, 0, 1], port)), HOUR, now);
        }
        let host = bans.by_host.get(&Host::of([12, 0, 0, 1].into()));
        assert_eq!(host.map(Vec::len), Some(MOST_ADDRESSES));
    }
}
