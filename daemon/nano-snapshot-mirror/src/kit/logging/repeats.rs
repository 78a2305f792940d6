//! Warnings that repeat: a look-up that fails at every poll, an item that is refused again and again.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::fmt::Debug;
use std::hash::{Hash as _, Hasher as _};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use service_kit::sync::lock;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::MESSAGE_ID;

/// The same warning or error is logged once in this time.
const ONCE_IN: Duration = Duration::from_secs(3_600);

/// Most warnings that are remembered; when there are more, all are forgotten.
const REMEMBERED: usize = 512;

/// Drops warnings and errors that are equal in every field to one of the last hour. Events with a `message_id`
/// pass always: each reports a change.
#[derive(Debug, Default)]
pub(super) struct Repeats {
    logged: Mutex<HashMap<u64, Instant>>,
}

impl Repeats {
    /// Returns whether an event with this hash is to be logged at `now`.
    fn is_due(&self, event: u64, now: Instant) -> bool {
        let mut logged = lock(&self.logged);
        if let Some(last) = logged.get(&event)
            && now.duration_since(*last) < ONCE_IN
        {
            return false;
        }
        if logged.len() >= REMEMBERED {
            logged.clear();
        }
        logged.insert(event, now);
        true
    }
}

impl<S: Subscriber> Layer<S> for Repeats {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::WARN || metadata.fields().field(MESSAGE_ID).is_some() {
            return true;
        }
        let mut hash = DefaultHasher::new();
        metadata.callsite().hash(&mut hash);
        event.record(&mut Hashed(&mut hash));
        self.is_due(hash.finish(), Instant::now())
    }
}

struct Hashed<'a>(&'a mut DefaultHasher);

impl Visit for Hashed<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        field.name().hash(self.0);
        format!("{value:?}").hash(self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_is_due_once_an_hour() {
        let repeats = Repeats::default();
        let start = Instant::now();
        assert!(repeats.is_due(1, start));
        assert!(repeats.is_due(2, start));
        assert!(!repeats.is_due(1, start + ONCE_IN / 2));
        assert!(repeats.is_due(1, start + ONCE_IN));
        assert!(!repeats.is_due(1, start + ONCE_IN));
        // Memory is bounded.
        for event in 0..10 * REMEMBERED as u64 {
            repeats.is_due(event, start);
        }
        assert!(repeats.logged.lock().unwrap().len() <= REMEMBERED);
    }
}
