//! Hosts that have upload slots and request nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::api::addresses::Host;

/// How long a peer may have an upload slot and request nothing, while others wait for one. Honest peers
/// request within a round trip.
pub(crate) const SLOT_IDLE: Duration = Duration::from_secs(3);
/// How long a host is remembered.
const MEMORY: Duration = Duration::from_secs(600);
/// How many hosts are remembered, about 50 bytes each.
const MOST_HOSTS: usize = 1_024;

/// Hosts whose peers requested nothing while they had a slot, on any connection.
#[derive(Debug, Default)]
pub(crate) struct IdleHosts {
    until: BTreeMap<Host, Instant>,
}

impl IdleHosts {
    /// Records that a peer of the host has a slot and requests nothing.
    pub(crate) fn add(&mut self, host: Host, now: Instant) {
        if !host.is_bounded() {
            return;
        }
        if self.until.len() >= MOST_HOSTS && !self.until.contains_key(&host) {
            self.until.retain(|_, until| *until > now);
            if self.until.len() >= MOST_HOSTS
                && let Some((first, _)) = self.until.iter().min_by_key(|(_, until)| **until)
            {
                let first = *first;
                self.until.remove(&first);
            }
        }
        self.until.insert(host, now + MEMORY);
    }

    /// Forgets a host whose peer requests something.
    pub(crate) fn remove(&mut self, host: Host) {
        // Nearly always there are none, and this is said once a second of each peer.
        if !self.until.is_empty() {
            self.until.remove(&host);
        }
    }

    pub(crate) fn contains(&self, host: Host, now: Instant) -> bool {
        self.until.get(&host).is_some_and(|until| *until > now)
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to start from"
)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_forgotten_when_they_ask_and_with_time() {
        let now = Instant::now();
        let host = |n: u32| Host::of(n.to_be_bytes().into());
        let mut idle = IdleHosts::default();
        idle.add(host(0x0a00_0001), now);
        assert!(idle.contains(host(0x0a00_0001), now));
        assert!(!idle.contains(host(0x0a00_0001), now + MEMORY));
        idle.remove(host(0x0a00_0001));
        assert!(!idle.contains(host(0x0a00_0001), now));
        idle.add(host(0x7f00_0001), now);
        assert!(!idle.contains(host(0x7f00_0001), now), "this machine");
        for n in 0..2 * MOST_HOSTS as u32 {
            idle.add(host(0x0a00_0000 + n), now + Duration::from_millis(n.into()));
        }
        assert_eq!(idle.until.len(), MOST_HOSTS);
        assert!(!idle.contains(host(0x0a00_0000), now));
    }
}
