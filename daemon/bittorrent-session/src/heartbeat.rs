//! Liveness counters for a watchdog.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of a [`Session`](crate::Session). Each rises about once a second while its loop runs,
/// with or without work. A counter that does not rise names the loop that hangs. The values have no
/// meaning. Clones share the counters.
#[derive(Debug, Clone)]
pub struct Heartbeat(Arc<Counters>);

#[derive(Debug)]
struct Counters {
    driver: AtomicU64,
    writers: Box<[AtomicU64]>,
}

impl Heartbeat {
    pub(crate) fn new(writers: usize) -> Self {
        Self(Arc::new(Counters {
            driver: AtomicU64::new(0),
            writers: (0..writers).map(|_| AtomicU64::new(0)).collect(),
        }))
    }

    /// Returns the counter of the task that owns the engine.
    pub fn driver(&self) -> u64 {
        self.0.driver.load(Ordering::Relaxed)
    }

    /// Returns the counters of the threads that write downloaded content. A thread that waits for a
    /// disk does not count.
    pub fn writers(&self) -> impl Iterator<Item = u64> {
        let writers = self.0.writers.iter();
        writers.map(|writer| writer.load(Ordering::Relaxed))
    }

    pub(crate) fn beat_driver(&self) {
        self.0.driver.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn beat_writer(&self, number: usize) {
        if let Some(writer) = self.0.writers.get(number) {
            writer.fetch_add(1, Ordering::Relaxed);
        }
    }
}
