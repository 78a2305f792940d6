//! How many bytes a second flow, smoothed.

use std::time::{Duration, Instant};

/// Bytes per second as an exponentially weighted average, updated once a tick.
#[derive(Debug, Clone)]
pub(crate) struct Rate {
    total: u64,
    since_tick: u64,
    last_tick: Instant,
    per_second: f64,
    primed: bool,
}

/// The time after which old bytes count 1/e.
const MEMORY: Duration = Duration::from_secs(4);

impl Rate {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            total: 0,
            since_tick: 0,
            last_tick: now,
            per_second: 0.0,
            primed: false,
        }
    }

    pub(crate) fn add(&mut self, bytes: u64) {
        self.total = self.total.saturating_add(bytes);
        self.since_tick = self.since_tick.saturating_add(bytes);
    }

    /// Closes a measuring interval. Shorter ones than 100 ms are merged with the next.
    pub(crate) fn tick(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.last_tick);
        if elapsed < Duration::from_millis(100) {
            return;
        }
        let seconds = elapsed.as_secs_f64();
        let sample = self.since_tick as f64 / seconds;
        if self.primed {
            let weight = 1.0 - (-seconds / MEMORY.as_secs_f64()).exp();
            self.per_second += (sample - self.per_second) * weight;
        } else {
            // The first bytes set the average: a fast link must not look slow for seconds.
            self.per_second = sample;
            self.primed = self.since_tick > 0;
        }
        self.since_tick = 0;
        self.last_tick = now;
    }

    /// All bytes ever counted.
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// Bytes per second.
    pub(crate) fn per_second(&self) -> u64 {
        self.per_second as u64
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
    fn a_steady_flow_is_measured_from_the_first_tick_and_forgotten_when_it_stops() {
        let mut now = Instant::now();
        let mut rate = Rate::new(now);
        for _ in 0..10 {
            rate.add(500_000);
            now += Duration::from_millis(500);
            rate.tick(now);
            assert!((990_000..1_010_000).contains(&rate.per_second()));
        }
        for _ in 0..60 {
            now += Duration::from_millis(500);
            rate.tick(now);
        }
        assert!(rate.per_second() < 1_000);
        assert_eq!(rate.total(), 5_000_000);
    }

    #[test]
    fn two_ticks_at_one_instant_do_not_divide_by_nothing() {
        let now = Instant::now();
        let mut rate = Rate::new(now);
        rate.add(1);
        rate.tick(now);
        rate.tick(now);
        assert_eq!(rate.per_second(), 0);
    }
}
