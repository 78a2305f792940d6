//! When a question that is not answered is asked of someone else as well.
//!
//! A peer that is silent says nothing about it, and its time-out is long enough for the slowest honest
//! ones. So what stays unanswered for longer than answers take is asked once more, of another host; the
//! first answer counts, and the other one does no harm.

use std::time::{Duration, Instant};

/// Questions of one torrent that are asked a second time, under way at once.
pub(crate) const MOST_HEDGES: usize = 8;
/// A question is overdue after this many times what answers take.
const TIMES: u32 = 3;
/// How much of the smoothed time one answer makes up: one part in so many.
const SMOOTHING: u32 = 8;

/// How a question stands to another one for the same thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hedge {
    /// Nobody else was asked.
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
    /// An answer came after so long.
    pub(crate) fn add(&mut self, took: Duration) {
        self.smoothed = Some(match self.smoothed {
            None => took,
            Some(before) => before - before / SMOOTHING + took / SMOOTHING,
        });
    }

    /// How long it takes until a question is overdue, at least this long.
    pub(crate) fn overdue_after(&self, least: Duration) -> Duration {
        let usual = self.smoothed.unwrap_or_default().saturating_mul(TIMES);
        usual.max(least)
    }

    /// Whether a question asked then is overdue, which it never is sooner than this.
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
