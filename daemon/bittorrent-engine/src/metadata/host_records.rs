//! How hosts have answered requests for metadata, over all their connections.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::api::addresses::Host;

/// How long a host that rejects a request is left alone.
const AFTER_REJECT: Duration = Duration::from_secs(60);
/// How long a host that lets a request time out is left alone, times its failures.
const AFTER_TIMEOUT: Duration = Duration::from_secs(4);
/// More failures make no difference.
const MOST_FAILURES: u32 = 15;
/// How many hosts that failed are remembered, about 60 bytes each.
const MOST_HOSTS: usize = 512;

#[derive(Debug, Clone, Copy)]
struct HostRecord {
    failures: u32,
    not_before: Instant,
}

/// The hosts that failed to answer.
#[derive(Debug, Default)]
pub(super) struct HostRecords {
    by_host: BTreeMap<Host, HostRecord>,
}

impl HostRecords {
    /// How often it failed lately.
    pub(super) fn failures(&self, host: Host) -> u32 {
        self.by_host.get(&host).map_or(0, |record| record.failures)
    }

    pub(super) fn may_be_asked(&self, host: Host, now: Instant) -> bool {
        let record = self.by_host.get(&host);
        record.is_none_or(|record| record.not_before <= now)
    }

    /// It answered in time.
    pub(super) fn answered(&mut self, host: Host) {
        if let Some(record) = self.by_host.get_mut(&host) {
            record.failures -= 1;
            if record.failures == 0 {
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
                .min_by_key(|(_, record)| record.failures);
            if let Some(best) = best.map(|(host, _)| *host) {
                self.by_host.remove(&best);
            }
        }
        let record = self.by_host.entry(host).or_insert(HostRecord {
            failures: 0,
            not_before: now,
        });
        record.failures = (record.failures + 1).min(MOST_FAILURES);
        record.not_before = record.not_before.max(now + pause(record.failures));
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
        let mut host_records = HostRecords::default();
        host_records.timed_out(bad, now);
        assert!(!host_records.may_be_asked(bad, now + AFTER_TIMEOUT / 2));
        assert!(host_records.may_be_asked(bad, now + AFTER_TIMEOUT));
        assert!(host_records.may_be_asked(good, now));
        host_records.timed_out(bad, now + AFTER_TIMEOUT);
        assert!(!host_records.may_be_asked(bad, now + AFTER_TIMEOUT * 2));
        host_records.late(bad, now);
        assert_eq!(host_records.failures(bad), 3);
        for left in [2, 1, 0, 0] {
            host_records.answered(bad);
            assert_eq!(host_records.failures(bad), left);
        }
        assert!(host_records.by_host.is_empty());
        host_records.rejected(good, now);
        assert!(!host_records.may_be_asked(good, now + AFTER_REJECT / 2));
    }

    #[test]
    fn the_memory_of_hosts_is_bounded_and_keeps_the_worst() {
        let now = Instant::now();
        let mut host_records = HostRecords::default();
        let worst = Host::of([192, 0, 2, 1].into());
        for _ in 0..100 {
            host_records.late(worst, now);
        }
        for n in 0..2 * MOST_HOSTS as u32 {
            host_records.late(Host::of(n.to_be_bytes().into()), now);
        }
        assert_eq!(host_records.by_host.len(), MOST_HOSTS);
        assert_eq!(host_records.failures(worst), MOST_FAILURES);
    }
}
