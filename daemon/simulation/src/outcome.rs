//! The outcome of a simulated world.

use std::time::Duration;

/// What happened, counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events: messages, bursts, writes, deadlines.
    pub events: u64,
    /// Blocks that arrived at an engine.
    pub blocks: u64,
    /// Those of them that were not written.
    pub discarded: u64,
    /// Connections made.
    pub connections: u64,
    /// Addresses that nodes banned.
    pub bans: u64,
    /// Bursts that were sent again.
    pub losses: u64,
    /// Connections that broke.
    pub breaks: u64,
    /// Mirrors that went away.
    pub departures: u64,
    /// Messages that broke the protocol.
    pub faults: u64,
}

/// The outcome of a simulated world.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    /// How long the producer needs to send everything once.
    pub once: Duration,
    /// From start to completion, for each mirror that completed, the quickest first.
    pub times: Vec<Duration>,
    /// Mirrors that are not complete.
    pub unfinished: usize,
    /// Virtual time from the start to the end.
    pub lasted: Duration,
    /// What happened.
    pub counts: Counts,
}

impl Outcome {
    /// When such a share of the mirrors that finished had done so; zero when none has.
    pub fn after(&self, share: f64) -> Duration {
        let number = (self.times.len() as f64 * share).ceil() as usize;
        let time = self.times.get(number.saturating_sub(1));
        time.copied().unwrap_or_default()
    }

    /// A time as a multiple of that in which the producer sends everything once.
    pub fn in_onces(&self, time: Duration) -> f64 {
        time.as_secs_f64() / self.once.as_secs_f64()
    }

    /// Blocks that were wasted, as a share of all.
    pub fn waste(&self) -> f64 {
        self.counts.discarded as f64 / (self.counts.blocks.max(1)) as f64
    }
}
