//! Transfer rates of the last hour, for the chart on the status page.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The time that one point covers.
pub(crate) const SPAN: Duration = Duration::from_secs(20);

/// Points in an hour.
pub(crate) const POINTS: usize = 180;

/// Mean rates in bytes a second, oldest first.
#[derive(Debug, Clone)]
pub(crate) struct RateHistory {
    points: VecDeque<RatePoint>,
    /// The start of the present point, and the counters at that time.
    began: Option<(Instant, u64, u64)>,
}

/// Mean rates over one [`SPAN`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct RatePoint {
    pub(crate) down: u64,
    pub(crate) up: u64,
}

impl RateHistory {
    /// Creates an empty history.
    pub(crate) fn new() -> Self {
        Self {
            points: VecDeque::with_capacity(POINTS),
            began: None,
        }
    }

    /// Records the counters at `now`. Counters never decrease.
    pub(crate) fn measure(&mut self, downloaded: u64, uploaded: u64, now: Instant) {
        let Some((began, down, up)) = self.began else {
            self.began = Some((now, downloaded, uploaded));
            return;
        };
        let passed = now.saturating_duration_since(began);
        if passed < SPAN {
            return;
        }
        let mean = |before: u64, after: u64| {
            (after.saturating_sub(before) as f64 / passed.as_secs_f64()) as u64
        };
        let point = RatePoint {
            down: mean(down, downloaded),
            up: mean(up, uploaded),
        };
        // After a longer gap, as when the process was stopped, all its points get the mean over the gap.
        let spans = (passed.as_secs() / SPAN.as_secs()).clamp(1, POINTS as u64);
        for _ in 0..spans {
            if self.points.len() == POINTS {
                self.points.pop_front();
            }
            self.points.push_back(point);
        }
        self.began = Some((now, downloaded, uploaded));
    }

    /// Returns the points, oldest first.
    pub(crate) fn points(&self) -> impl ExactSizeIterator<Item = RatePoint> + Clone {
        self.points.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_of_an_hour_and_no_more() {
        let start = Instant::now();
        let mut rates = RateHistory::new();
        for second in 0..=4000 {
            rates.measure(second * 10, second, start + Duration::from_secs(second));
        }
        assert_eq!(rates.points().len(), POINTS);
        assert!(
            rates
                .points()
                .all(|point| point == RatePoint { down: 10, up: 1 })
        );
    }

    #[test]
    fn a_gap_is_filled_with_its_mean() {
        let start = Instant::now();
        let mut rates = RateHistory::new();
        rates.measure(0, 0, start);
        rates.measure(6000, 0, start + SPAN * 3);
        let down: Vec<u64> = rates.points().map(|point| point.down).collect();
        assert_eq!(down, [100, 100, 100]);
        rates.measure(6000, 0, start + Duration::from_secs(1_000_000));
        assert_eq!(rates.points().len(), POINTS);
    }
}
