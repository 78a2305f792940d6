//! Signs of life, for whoever restarts what hangs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of a [`Session`](crate::Session) that rise about once a second as long as the loop behind
/// each of them comes round, whether or not there is work. One that stands still says which loop
/// hangs. What the counters count means nothing.
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

    /// Of the task that owns the engine.
    pub fn driver(&self) -> u64 {
        self.0.driver.load(Ordering::Relaxed)
    }

    /// Of each thread that writes what was downloaded. One that waits for a disk stands still.
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
