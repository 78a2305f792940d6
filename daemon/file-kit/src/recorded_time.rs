//! Times that files record, which may come from a clock that was wrong when they were written.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How far ahead of the clock a recorded time may be and still be accepted: clocks are set back by small amounts all
/// the time.
pub const TOLERANCE: Duration = Duration::from_secs(3600);

/// Returns whole seconds since 1970; 0 for a time before.
pub fn unix_seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}

/// Returns whether a recorded time is plausible at `now`. A time more than [`TOLERANCE`] in the future was recorded
/// by a clock that was wrong.
pub fn is_past(recorded: SystemTime, now: SystemTime) -> bool {
    recorded <= now + TOLERANCE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_times_well_in_the_future_are_wrong() {
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        for (recorded, is_right) in [
            (UNIX_EPOCH, true),
            (now, true),
            (now + TOLERANCE, true),
            (now + TOLERANCE + Duration::from_secs(1), false),
            (now + Duration::from_secs(10 * 365 * 86_400), false),
        ] {
            assert_eq!(is_past(recorded, now), is_right, "{recorded:?}");
        }
    }
}
