//! Addresses that sent false data.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How many ports of one host must be banned at a time before the host is.
const PORTS_PER_HOST: usize = 4;
/// How many bans are remembered, about 100 bytes each.
const MOST: usize = 4_096;
/// A ban is doubled at most this often.
const MOST_DOUBLINGS: u32 = 6;

#[derive(Debug, Clone, Copy)]
struct Ban {
    until: Instant,
    times: u32,
}

/// Bans by address and port: behind one address there may be many peers. A host that keeps coming
/// back from new ports is banned as a whole, except for this machine.
#[derive(Debug, Default)]
pub(crate) struct Bans {
    by_addr: BTreeMap<SocketAddr, Ban>,
}

impl Bans {
    /// Bans an address; each time for twice as long.
    pub(crate) fn add(&mut self, addr: SocketAddr, time: Duration, now: Instant) {
        if self.by_addr.len() >= MOST
            && !self.by_addr.contains_key(&addr)
            && let Some(oldest) = self
                .by_addr
                .iter()
                .min_by_key(|(_, ban)| ban.until)
                .map(|(addr, _)| *addr)
        {
            self.by_addr.remove(&oldest);
        }
        let ban = self.by_addr.entry(addr).or_insert(Ban {
            until: now,
            times: 0,
        });
        ban.until = now + time.saturating_mul(1 << ban.times.min(MOST_DOUBLINGS));
        ban.times += 1;
    }

    /// Whether an address, or its whole host, is banned.
    pub(crate) fn contains(&self, addr: SocketAddr, now: Instant) -> bool {
        self.until(addr, now).is_some()
    }

    /// Until when an address, or its whole host, is banned, if it is.
    pub(crate) fn until(&self, addr: SocketAddr, now: Instant) -> Option<Instant> {
        let active = |until: &Instant| *until > now;
        let own = self.by_addr.get(&addr).map(|ban| ban.until).filter(active);
        if own.is_some() || addr.ip().is_loopback() {
            return own;
        }
        let host = SocketAddr::new(addr.ip(), 0)..=SocketAddr::new(addr.ip(), u16::MAX);
        let mut ports: Vec<Instant> = self
            .by_addr
            .range(host)
            .map(|(_, ban)| ban.until)
            .filter(active)
            .collect();
        ports.sort_unstable();
        // It ends when fewer ports than it takes are banned.
        ports.len().checked_sub(PORTS_PER_HOST).map(|n| ports[n])
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
    fn a_host_that_comes_back_from_new_ports_is_banned_unless_it_is_this_one() {
        let now = Instant::now();
        for (host, all) in [
            ("192.0.2.1", true),
            ("[2001:db8::1]", true),
            ("127.0.0.1", false),
        ] {
            let mut bans = Bans::default();
            for port in 1..=PORTS_PER_HOST {
                assert!(!bans.contains(addr(&format!("{host}:99")), now));
                bans.add(addr(&format!("{host}:{port}")), HOUR, now);
            }
            assert_eq!(
                bans.contains(addr(&format!("{host}:99")), now),
                all,
                "{host}"
            );
        }
    }

    #[test]
    fn the_memory_of_bans_is_bounded() {
        let now = Instant::now();
        let mut bans = Bans::default();
        for n in 0..MOST as u32 + 10 {
            let ip = std::net::Ipv4Addr::from(n + 0x0b00_0000);
            bans.add(
                SocketAddr::new(ip.into(), 1),
                HOUR,
                now + Duration::from_secs(n.into()),
            );
        }
        assert_eq!(bans.by_addr.len(), MOST);
        assert!(!bans.by_addr.contains_key(&addr("11.0.0.0:1")));
    }
}
