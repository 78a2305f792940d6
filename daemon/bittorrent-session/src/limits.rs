//! How many bytes a second may go, each way: shared by all connections a limit is for.
//!
//! A [`Bucket`] is a point in time: everything it let through takes it as far into the future as
//! its rate says. A connection reserves some bytes, is told from when on they may go, and gives
//! back what it did not use. So connections take turns in the order they asked, and what goes is
//! as exact as the clock, however many they are. Where nothing is limited there is no bucket, and
//! a connection that has none touches nothing that is shared.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long a bucket may have been idle and still let through what it could have. Covers the
/// lateness of timers on a busy machine.
const CREDIT: Duration = Duration::from_millis(200);

/// Turns in a second under a limit, so that many connections have their turn often.
const TURNS_PER_SECOND: u64 = 100;

/// The same for a connection under two limits: under the lower one it has fewer and longer turns, so
/// that it gets its share where it stands in line with others under the higher one.
const LONG_TURNS_PER_SECOND: u64 = 20;

/// The fewest bytes of a turn: a system call for less is not worth it.
const SHORTEST_TURN: u64 = 256;

/// The most bytes of a turn: as much as one system call moves.
const LONGEST_TURN: u64 = 512 * 1_024;

/// How far away a turn is when nothing may go.
const NEVER: Duration = Duration::from_secs(365 * 86_400);

/// Bytes a second that may go each way, the peer protocol's own messages included. `None` sets no
/// limit. With `Some(0)` no content goes, while connections stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RateLimits {
    /// What we send.
    pub upload: Option<u64>,
    /// What we receive.
    pub download: Option<u64>,
}

/// A limit in one direction.
#[derive(Debug)]
pub(crate) struct Bucket {
    rate: u64,
    /// When everything let through so far will have had its time.
    free_at: Mutex<Instant>,
}

impl Bucket {
    fn new(rate: u64) -> Self {
        Self {
            rate,
            free_at: Mutex::new(Instant::now()),
        }
    }

    fn free_at(&self) -> std::sync::MutexGuard<'_, Instant> {
        // Nothing can panic while it is held.
        self.free_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn time_of(&self, bytes: u64) -> Duration {
        if self.rate == 0 {
            return Duration::ZERO;
        }
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).min(NEVER)
    }

    /// From when on these bytes may go.
    fn reserve(&self, bytes: u64, now: Instant) -> Instant {
        if self.rate == 0 {
            return now + NEVER;
        }
        let mut free_at = self.free_at();
        let at = now
            .checked_sub(CREDIT)
            .map_or(*free_at, |earliest| earliest.max(*free_at));
        *free_at = at + self.time_of(bytes);
        at
    }

    /// These bytes were reserved and did not go.
    fn give_back(&self, bytes: u64) {
        let time = self.time_of(bytes);
        let mut free_at = self.free_at();
        if let Some(earlier) = free_at.checked_sub(time) {
            *free_at = earlier;
        }
    }
}

/// The limits of a torrent, or of all torrents together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Buckets {
    upload: Option<Arc<Bucket>>,
    download: Option<Arc<Bucket>>,
}

impl Buckets {
    pub(crate) fn new(limits: RateLimits) -> Self {
        let bucket = |rate: Option<u64>| rate.map(|rate| Arc::new(Bucket::new(rate)));
        Self {
            upload: bucket(limits.upload),
            download: bucket(limits.download),
        }
    }
}

/// Both directions of one connection.
#[derive(Debug, Default)]
pub(crate) struct Throttles {
    pub(crate) upload: Throttle,
    pub(crate) download: Throttle,
}

impl Throttles {
    /// Under all of these limits.
    pub(crate) fn under(limits: [&Buckets; 2]) -> Self {
        let pick = |which: fn(&Buckets) -> &Option<Arc<Bucket>>| {
            Throttle::new(
                limits
                    .iter()
                    .filter_map(|limit| which(limit).clone())
                    .collect(),
            )
        };
        Self {
            upload: pick(|limit| &limit.upload),
            download: pick(|limit| &limit.download),
        }
    }

    /// When the next turn comes that is waited for.
    pub(crate) fn next_turn(&self) -> Option<Instant> {
        let turns = [self.upload.waits_until, self.download.waits_until];
        turns.into_iter().flatten().min()
    }

    /// Ends the waits that are over.
    pub(crate) fn wake(&mut self, now: Instant) {
        for throttle in [&mut self.upload, &mut self.download] {
            throttle.waits_until = throttle.waits_until.filter(|until| *until > now);
        }
    }
}

/// One direction of one connection.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    buckets: Vec<Arc<Bucket>>,
    /// Bytes reserved, and from when on they may go.
    reserved: u64,
    from: Option<Instant>,
    waits_until: Option<Instant>,
}

impl Throttle {
    fn new(buckets: Vec<Arc<Bucket>>) -> Self {
        Self {
            buckets,
            ..Self::default()
        }
    }

    /// Whether there is any limit at all. While there is none, nothing else here need be called.
    pub(crate) const fn is_limited(&self) -> bool {
        !self.buckets.is_empty()
    }

    /// Whether the next turn is still to come.
    pub(crate) const fn is_waiting(&self) -> bool {
        self.waits_until.is_some()
    }

    /// How many bytes may go now; 0 starts a wait. What comes of it is told with [`Self::settle`].
    pub(crate) fn allowance(&mut self, now: Instant) -> usize {
        if !self.is_limited() {
            return usize::MAX;
        }
        if self.reserved == 0 {
            let reserved = self.turn();
            self.reserved = reserved;
            self.from = self
                .buckets
                .iter()
                .map(|bucket| bucket.reserve(reserved, now))
                .max();
        }
        match self.from.filter(|from| *from > now) {
            Some(from) => {
                self.waits_until = Some(from);
                0
            }
            None => {
                self.waits_until = None;
                usize::try_from(self.reserved).unwrap_or(usize::MAX)
            }
        }
    }

    /// Bytes of a turn.
    fn turn(&self) -> u64 {
        let rates = || self.buckets.iter().map(|bucket| bucket.rate);
        let (lowest, highest) = (rates().min().unwrap_or(0), rates().max().unwrap_or(0));
        (highest / TURNS_PER_SECOND)
            .min(lowest / LONG_TURNS_PER_SECOND)
            .clamp(SHORTEST_TURN, LONGEST_TURN)
    }

    /// So many bytes went of those that might; the rest is left to others, what is above is paid
    /// for afterwards.
    pub(crate) fn settle(&mut self, bytes: usize) {
        let above = (bytes as u64).saturating_sub(self.reserved);
        if let Some(from) = self.from.filter(|_| above > 0) {
            for bucket in &self.buckets {
                bucket.reserve(above, from);
            }
        }
        let left = self.reserved.saturating_sub(bytes as u64);
        if left > 0 {
            for bucket in &self.buckets {
                bucket.give_back(left);
            }
        }
        self.reserved = 0;
        self.from = None;
        self.waits_until = None;
    }

    /// Bytes went that could not wait; what comes after them waits for it.
    pub(crate) fn charge(&mut self, bytes: usize, now: Instant) {
        for bucket in &self.buckets {
            bucket.reserve(bytes as u64, now);
        }
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.settle(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Connections that want to send all the time, woken up to `late` after their turn came: the
    /// bytes that went in each tenth of the time.
    fn run(
        limits: &[RateLimits],
        connections: usize,
        late: Duration,
        time: Duration,
    ) -> Vec<Vec<u64>> {
        let shared: Vec<Buckets> = limits.iter().map(|limits| Buckets::new(*limits)).collect();
        let none = Buckets::default();
        let all = &shared[0];
        let mut throttles: Vec<Throttle> = (0..connections)
            .map(|n| {
                let own = shared[1..].get(n).unwrap_or(&none);
                Throttles::under([all, own]).upload
            })
            .collect();
        let start = Instant::now();
        let mut sent = vec![vec![0; 10]; connections];
        let mut wakes: Vec<Instant> = vec![start; connections];
        let mut steps = 0_u32;
        loop {
            let (n, now) = wakes
                .iter()
                .copied()
                .enumerate()
                .min_by_key(|w| w.1)
                .unwrap();
            if now >= start + time {
                return sent;
            }
            steps += 1;
            let most = throttles[n].allowance(now);
            if most == 0 {
                let lateness = late * (steps % 8) / 8;
                wakes[n] = throttles[n].waits_until.unwrap() + lateness;
            } else {
                // Sockets do not always take everything.
                let went = if steps.is_multiple_of(3) {
                    most / 2
                } else {
                    most
                };
                throttles[n].settle(went);
                let tenth = (now - start).as_nanos() * 10 / time.as_nanos();
                sent[n][tenth as usize] += went as u64;
            }
        }
    }

    fn upload(rate: u64) -> RateLimits {
        RateLimits {
            upload: Some(rate),
            download: None,
        }
    }

    fn total(sent: &[u64]) -> u64 {
        sent.iter().sum()
    }

    #[test]
    fn a_rate_holds_within_five_percent_over_ten_seconds_for_one_and_for_many() {
        for rate in [10_000, 100_000, 1 << 20, 100 << 20, 2 << 30] {
            for connections in [1, 2, 50] {
                for late in [0, 5, 50] {
                    let late = Duration::from_millis(late);
                    let sent = run(&[upload(rate)], connections, late, 10 * SECOND);
                    let all: u64 = sent.iter().map(|sent| total(sent)).sum();
                    let ratio = all as f64 / (10 * rate) as f64;
                    assert!(
                        (0.95..1.05).contains(&ratio),
                        "{ratio} of {rate} with {connections} connections, {late:?} late"
                    );
                }
            }
        }
    }

    #[test]
    fn connections_get_equal_shares() {
        let sent = run(&[upload(1 << 20)], 8, Duration::from_millis(3), 10 * SECOND);
        for sent in &sent {
            let share = total(sent) as f64 / (10 << 20) as f64;
            assert!((0.11..0.14).contains(&share), "{share}");
        }
    }

    #[test]
    fn the_lower_of_two_limits_counts_and_leaves_the_rest_to_others() {
        let limits = [upload(1_000_000), upload(100_000)];
        let sent = run(&limits, 3, Duration::from_millis(3), 10 * SECOND);
        let totals: Vec<u64> = sent.iter().map(|sent| total(sent)).collect();
        assert!((950_000..1_050_000).contains(&totals[0]), "{totals:?}");
        let all: u64 = totals.iter().sum();
        assert!((9_500_000..10_500_000).contains(&all), "{totals:?}");
    }

    #[test]
    fn idle_time_is_not_saved_up() {
        let buckets = Buckets::new(upload(1_000_000));
        let mut throttle = Throttles::under([&buckets, &Buckets::default()]).upload;
        let mut now = Instant::now() + 3600 * SECOND;
        let mut sent = 0;
        let end = now + SECOND;
        while now < end {
            match throttle.allowance(now) {
                0 => now = throttle.waits_until.unwrap(),
                most => {
                    throttle.settle(most);
                    sent += most;
                }
            }
        }
        assert!((1_000_000..1_220_000).contains(&sent), "{sent}");
    }

    #[test]
    fn what_cannot_wait_is_waited_for_afterwards() {
        let buckets = Buckets::new(upload(1_000_000));
        let mut throttle = Throttles::under([&buckets, &Buckets::default()]).upload;
        let now = Instant::now();
        throttle.charge(1_000_000, now);
        assert_eq!(throttle.allowance(now), 0);
        let wait = throttle.waits_until.unwrap() - now;
        assert!(wait >= 700 * SECOND / 1_000 && wait <= SECOND, "{wait:?}");
    }

    #[test]
    fn nothing_goes_at_rate_zero_and_anything_without_a_limit() {
        let now = Instant::now();
        let buckets = Buckets::new(upload(0));
        let mut throttles = Throttles::under([&buckets, &Buckets::default()]);
        assert_eq!(throttles.upload.allowance(now), 0);
        assert!(throttles.next_turn().unwrap() > now + 86_400 * SECOND);
        throttles.wake(now + SECOND);
        assert!(throttles.upload.is_waiting());
        assert!(!throttles.download.is_limited());
        assert_eq!(throttles.download.allowance(now), usize::MAX);
    }

    #[test]
    fn who_leaves_gives_back_its_turn() {
        let buckets = Buckets::new(upload(1_000));
        let now = Instant::now();
        let mut leaves = Throttles::under([&buckets, &Buckets::default()]).upload;
        while leaves.allowance(now) > 0 {
            leaves.settle(1_024);
        }
        let turn = leaves.waits_until.unwrap();
        drop(leaves);
        let mut stays = Throttles::under([&buckets, &Buckets::default()]).upload;
        assert_eq!(stays.allowance(now), 0);
        let difference =
            stays.waits_until.unwrap().max(turn) - stays.waits_until.unwrap().min(turn);
        assert!(difference < Duration::from_millis(1), "{difference:?}");
    }
}
