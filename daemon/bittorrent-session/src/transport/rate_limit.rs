//! Rate limits, one bucket for each direction, shared by all connections.
//!
//! A [`Bucket`] is a point in time: every byte it lets through moves it further into the future, as far
//! as the rate requires. A connection reserves some bytes, learns from when on they may go, and gives
//! back what it did not use. So connections take turns in the order of their reservations, and the
//! rate is as exact as the clock, however many connections there are. Without a limit there is no
//! bucket, and connections touch nothing shared.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Idle time that a bucket still lets through afterwards. Covers late timers on a busy machine.
const CREDIT: Duration = Duration::from_millis(200);

/// Turns a second under a limit, so that each of many connections has its turn often.
const TURNS_PER_SECOND: u64 = 100;

/// Fewest bytes of a turn: a system call for less is not worth it.
const MIN_TURN: u64 = 256;

/// Most bytes of a turn: as much as one system call moves.
const MAX_TURN: u64 = 512 * 1_024;

/// Distance of a turn at rate 0.
const NEVER: Duration = Duration::from_secs(365 * 86_400);

/// Bytes a second in each direction, including the messages of the peer protocol. `None` sets no
/// limit. `Some(0)` transfers no content, but keeps connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RateLimits {
    /// Limit on what is sent.
    pub upload: Option<u64>,
    /// Limit on what is received.
    pub download: Option<u64>,
}

/// A limit in one direction.
#[derive(Debug)]
struct Bucket {
    rate: u64,
    /// The time at which all reserved bytes will have gone at this rate.
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
        // No code panics while it has the lock.
        self.free_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn time_of(&self, bytes: u64) -> Duration {
        if self.rate == 0 {
            return Duration::ZERO;
        }
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.rate);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).min(NEVER)
    }

    /// Reserves bytes; returns from when on they may go.
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

    /// Takes back the reservation of bytes that did not go.
    fn give_back(&self, bytes: u64) {
        let time = self.time_of(bytes);
        let mut free_at = self.free_at();
        if let Some(earlier) = free_at.checked_sub(time) {
            *free_at = earlier;
        }
    }
}

/// The limits of a session.
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

    /// Returns the throttles of a new connection.
    pub(crate) fn throttles(&self) -> Throttles {
        Throttles {
            upload: Throttle::new(self.upload.clone()),
            download: Throttle::new(self.download.clone()),
        }
    }
}

/// Both directions of one connection.
#[derive(Debug)]
pub(crate) struct Throttles {
    pub(crate) upload: Throttle,
    pub(crate) download: Throttle,
}

impl Throttles {
    /// Returns when the next turn begins that the connection waits for.
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
#[derive(Debug)]
pub(crate) struct Throttle {
    bucket: Option<Arc<Bucket>>,
    /// Bytes reserved, and from when on they may go.
    reserved: u64,
    from: Option<Instant>,
    waits_until: Option<Instant>,
}

impl Throttle {
    const fn new(bucket: Option<Arc<Bucket>>) -> Self {
        Self {
            bucket,
            reserved: 0,
            from: None,
            waits_until: None,
        }
    }

    /// Returns whether there is a limit. Without one no other method need be called.
    pub(crate) const fn is_limited(&self) -> bool {
        self.bucket.is_some()
    }

    /// Returns whether the connection waits for its next turn.
    pub(crate) const fn is_waiting(&self) -> bool {
        self.waits_until.is_some()
    }

    /// Returns how many bytes may go now; 0 starts a wait. The caller reports with [`Self::settle`] how
    /// many went.
    pub(crate) fn allowance(&mut self, now: Instant) -> usize {
        let Some(bucket) = &self.bucket else {
            return usize::MAX;
        };
        if self.reserved == 0 {
            self.reserved = (bucket.rate / TURNS_PER_SECOND).clamp(MIN_TURN, MAX_TURN);
            self.from = Some(bucket.reserve(self.reserved, now));
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

    /// Counts the bytes that went in this turn. Unused reservations are given back; bytes above the
    /// reservation delay what follows.
    pub(crate) fn settle(&mut self, bytes: usize) {
        if let Some(bucket) = &self.bucket {
            let above = (bytes as u64).saturating_sub(self.reserved);
            if let Some(from) = self.from.filter(|_| above > 0) {
                bucket.reserve(above, from);
            }
            let left = self.reserved.saturating_sub(bytes as u64);
            if left > 0 {
                bucket.give_back(left);
            }
        }
        self.reserved = 0;
        self.from = None;
        self.waits_until = None;
    }

    /// Counts bytes that went without a turn. They delay what follows.
    pub(crate) fn charge(&mut self, bytes: usize, now: Instant) {
        if let Some(bucket) = &self.bucket {
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

    /// Runs connections that want to send all the time and wake up to `late` after their turn. Returns
    /// the bytes that each sent.
    fn run(rate: u64, connections: usize, late: Duration, time: Duration) -> Vec<u64> {
        let buckets = Buckets::new(upload(rate));
        let mut throttles: Vec<Throttle> = (0..connections)
            .map(|_| buckets.throttles().upload)
            .collect();
        let start = Instant::now();
        let mut sent = vec![0; connections];
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
                sent[n] += went as u64;
            }
        }
    }

    fn upload(rate: u64) -> RateLimits {
        RateLimits {
            upload: Some(rate),
            download: None,
        }
    }

    #[test]
    fn a_rate_holds_within_five_percent_over_ten_seconds_for_one_and_for_many() {
        for rate in [10_000, 100_000, 1 << 20, 100 << 20, 2 << 30] {
            for connections in [1, 2, 50] {
                for late in [0, 5, 50] {
                    let late = Duration::from_millis(late);
                    let sent = run(rate, connections, late, 10 * SECOND);
                    let all: u64 = sent.iter().sum();
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
        let sent = run(1 << 20, 8, Duration::from_millis(3), 10 * SECOND);
        for sent in &sent {
            let share = *sent as f64 / (10 << 20) as f64;
            assert!((0.11..0.14).contains(&share), "{share}");
        }
    }

    #[test]
    fn idle_time_is_not_saved_up() {
        let buckets = Buckets::new(upload(1_000_000));
        let mut throttle = buckets.throttles().upload;
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
    fn bytes_without_a_turn_delay_what_follows() {
        let buckets = Buckets::new(upload(1_000_000));
        let mut throttle = buckets.throttles().upload;
        let now = Instant::now();
        throttle.charge(1_000_000, now);
        assert_eq!(throttle.allowance(now), 0);
        let wait = throttle.waits_until.unwrap() - now;
        assert!(wait >= 700 * SECOND / 1_000 && wait <= SECOND, "{wait:?}");
    }

    #[test]
    fn rate_zero_blocks_and_no_limit_lets_all_through() {
        let now = Instant::now();
        let buckets = Buckets::new(upload(0));
        let mut throttles = buckets.throttles();
        assert_eq!(throttles.upload.allowance(now), 0);
        assert!(throttles.next_turn().unwrap() > now + 86_400 * SECOND);
        throttles.wake(now + SECOND);
        assert!(throttles.upload.is_waiting());
        assert!(!throttles.download.is_limited());
        assert_eq!(throttles.download.allowance(now), usize::MAX);
    }

    #[test]
    fn a_closed_connection_gives_back_its_turn() {
        let buckets = Buckets::new(upload(1_000));
        let now = Instant::now();
        let mut leaves = buckets.throttles().upload;
        while leaves.allowance(now) > 0 {
            leaves.settle(1_024);
        }
        let turn = leaves.waits_until.unwrap();
        drop(leaves);
        let mut stays = buckets.throttles().upload;
        assert_eq!(stays.allowance(now), 0);
        let difference =
            stays.waits_until.unwrap().max(turn) - stays.waits_until.unwrap().min(turn);
        assert!(difference < Duration::from_millis(1), "{difference:?}");
    }
}
