//! How hosts have answered requests for metadata, whatever connection they came by.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::addresses::Host;

/// How long a host that rejects a request is left alone.
const AFTER_REJECT: Duration = Duration::from_secs(60);
/// How long a host that lets a request time out is left alone, times its failures.
const AFTER_TIMEOUT: Duration = Duration::from_secs(4);
/// More failures make no difference.
const MOST_FAILURES: u32 = 15;
/// How many hosts that failed are remembered, about 60 bytes each.
const MOST_HOSTS: usize = 512;

#[derive(Debug, Clone, Copy)]
struct Standing {
    failures: u32,
    not_before: Instant,
}

/// The hosts that failed to answer.
#[derive(Debug, Default)]
pub(super) struct Standings {
    by_host: BTreeMap<Host, Standing>,
}

impl Standings {
    /// How often it failed lately.
    pub(super) fn failures(&self, host: Host) -> u32 {
        self.by_host
            .get(&host)
            .map_or(0, |standing| standing.failures)
    }

    pub(super) fn may_be_asked(&self, host: Host, now: Instant) -> bool {
        let standing = self.by_host.get(&host);
        standing.is_none_or(|standing| standing.not_before <= now)
    }

    /// It answered in time.
    pub(super) fn answered(&mut self, host: Host) {
        if let Some(standing) = self.by_host.get_mut(&host) {
            standing.failures -= 1;
            if standing.failures == 0 {
                self.by_host.remove(&host);
            }
        }
    }

    /// It is late, and others are asked first from now on.
    pub(super) fn late(&mut self, host: Host, now: Instant) {
        self.failed(host, now, |_| Duration::ZERO);
    }

    /// It let a request time out, or sent what is no answer.
    pub(super) fn timed_out(&mut self, host: Host, now: Instant) {
        self.failed(host, now, |failures| AFTER_TIMEOUT * failures);
    }

    /// It rejected a request.
    pub(super) fn rejected(&mut self, host: Host, now: Instant) {
        self.failed(host, now, |_| AFTER_REJECT);
    }

    fn failed(&mut self, host: Host, now: Instant, pause: impl Fn(u32) -> Duration) {
        if self.by_host.len() >= MOST_HOSTS && !self.by_host.contains_key(&host) {
            let best = self
                .by_host
                .iter()
                .min_by_key(|(_, standing)| standing.failures);
            if let Some(best) = best.map(|(host, _)| *host) {
                self.by_host.remove(&best);
            }
        }
        let standing = self.by_host.entry(host).or_insert(Standing {
            failures: 0,
            not_before: now,
        });
        standing.failures = (standing.failures + 1).min(MOST_FAILURES);
        standing.not_before = standing.not_before.max(now + pause(standing.failures));
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
    fn failures_count_for_the_host_and_answers_make_up_for_them() {
        let now = Instant::now();
        let (bad, good) = (
            Host::of([192, 0, 2, 1].into()),
            Host::of([192, 0, 2, 2].into()),
        );
        let mut standings = Standings::default();
        standings.timed_out(bad, now);
        assert!(!standings.may_be_asked(bad, now + AFTER_TIMEOUT / 2));
        assert!(standings.may_be_asked(bad, now + AFTER_TIMEOUT));
        assert!(standings.may_be_asked(good, now));
        standings.timed_out(bad, now + AFTER_TIMEOUT);
        assert!(!standings.may_be_asked(bad, now + AFTER_TIMEOUT * 2));
        standings.late(bad, now);
        assert_eq!(standings.failures(bad), 3);
        for left in [2, 1, 0, 0] {
            standings.answered(bad);
            assert_eq!(standings.failures(bad), left);
        }
        assert!(standings.by_host.is_empty());
        standings.rejected(good, now);
        assert!(!standings.may_be_asked(good, now + AFTER_REJECT / 2));
    }

    #[test]
    fn the_memory_of_hosts_is_bounded_and_keeps_the_worst() {
        let now = Instant::now();
        let mut standings = Standings::default();
        let worst = Host::of([192, 0, 2, 1].into());
        for _ in 0..100 {
            standings.late(worst, now);
        }
        for n in 0..2 * MOST_HOSTS as u32 {
            standings.late(Host::of(n.to_be_bytes().into()), now);
        }
        assert_eq!(standings.by_host.len(), MOST_HOSTS);
        assert_eq!(standings.failures(worst), MOST_FAILURES);
    }
}
