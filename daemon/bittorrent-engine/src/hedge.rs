//! Sends an overdue hash or metadata request to a second peer as well.
//!
//! A time-out must be long enough for the slowest honest peer. So a request that takes longer than answers
//! usually take is sent once more, to another host. The first answer counts; the second does no harm.

use std::time::{Duration, Instant};

/// Requests of one torrent that are sent a second time, under way at once.
pub(crate) const MOST_HEDGES: usize = 8;
/// A question is overdue after this many times what answers take.
const TIMES: u32 = 3;
/// How much of the smoothed time one answer makes up: one part in so many.
const SMOOTHING: u32 = 8;

/// Whether a request has a duplicate, or is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hedge {
    /// No other host was asked.
    None,
    /// Another host was asked as well.
    Sent,
    /// It is that second question.
    Duplicate,
}

/// How long answers take.
#[derive(Debug, Default)]
pub(crate) struct AnswerTime {
    smoothed: Option<Duration>,
}

impl AnswerTime {
    /// Records how long an answer took.
    pub(crate) fn add(&mut self, took: Duration) {
        self.smoothed = Some(match self.smoothed {
            None => took,
            Some(before) => before - before / SMOOTHING + took / SMOOTHING,
        });
    }

    /// Returns how long it takes until a request is overdue, at least `least`.
    pub(crate) fn overdue_after(&self, least: Duration) -> Duration {
        let usual = self.smoothed.unwrap_or_default().saturating_mul(TIMES);
        usual.max(least)
    }

    /// Returns whether a question asked then is overdue, which it never is sooner than this.
    pub(crate) fn is_overdue(&self, asked: Instant, least: Duration, now: Instant) -> bool {
        now.saturating_duration_since(asked) >= self.overdue_after(least)
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
    fn slow_answers_make_questions_overdue_later() {
        let (second, asked) = (Duration::from_secs(1), Instant::now());
        let overdue = |time: &AnswerTime, tenths: u32| {
            time.is_overdue(asked, second, asked + second / 10 * tenths)
        };
        let mut time = AnswerTime::default();
        assert!(!overdue(&time, 9) && overdue(&time, 10));
        // Quick answers do not make it sooner.
        time.add(second / 100);
        assert!(!overdue(&time, 9) && overdue(&time, 10));
        for _ in 0..40 {
            time.add(second);
        }
        assert!(!overdue(&time, 28) && overdue(&time, 31));
        for _ in 0..40 {
            time.add(second / 100);
        }
        assert!(overdue(&time, 10));
    }
}
