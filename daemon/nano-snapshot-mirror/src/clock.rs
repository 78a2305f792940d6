//! Times as files, reports and programs elsewhere take them.

use std::time::{SystemTime, UNIX_EPOCH};

/// Whole seconds since 1970; 0 for a clock that stands before.
pub(crate) fn unix_seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs()
}
