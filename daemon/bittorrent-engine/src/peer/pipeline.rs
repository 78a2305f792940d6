//! Requests under way to one peer, and how many there may be.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bittorrent_protocol::{BLOCK_LEN, BlockIndex};

/// How many seconds of data are kept requested: enough for any round trip, little enough that a
/// peer that slows down does not hold much back.
const QUEUE_TIME: f64 = 1.5;
/// The fewest requests a peer that answers is given.
const FEWEST: usize = 8;

/// The requests one peer has not answered.
#[derive(Debug)]
pub(crate) struct Pipeline {
    waiting: VecDeque<BlockIndex>,
    /// Requests given up that may still be answered.
    late: VecDeque<BlockIndex>,
    window: usize,
    /// The peer's and our own limit.
    limit: usize,
    slow_start: bool,
    last_rate: u64,
    /// When the peer answered last, or was first asked after a pause.
    last_answer: Instant,
    /// It has answered since then.
    answering: bool,
    pace: Pace,
    snubbed: bool,
}

/// How fast a peer has answered lately: answers that arrived one after the other, and the time between
/// them. Both are halved every tick, so that what was a second ago hardly counts.
#[derive(Debug, Default)]
struct Pace {
    answers: f64,
    seconds: f64,
}

impl Pipeline {
    pub(crate) fn new(initial: usize, limit: usize, now: Instant) -> Self {
        let limit = limit.max(1);
        Self {
            waiting: VecDeque::new(),
            late: VecDeque::new(),
            window: initial.clamp(1, limit),
            limit,
            slow_start: true,
            last_rate: 0,
            last_answer: now,
            answering: false,
            pace: Pace::default(),
            snubbed: false,
        }
    }

    /// The peer or we allow this many.
    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit.max(1);
        self.window = self.window.min(self.limit);
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn window(&self) -> usize {
        if self.snubbed { 1 } else { self.window }
    }

    /// How many more requests to send now: none until a good part of the window is free, so that
    /// requests travel in batches.
    pub(crate) fn room(&self) -> usize {
        let free = self.window().saturating_sub(self.waiting.len());
        if free >= (self.window() / 4).clamp(1, 64) {
            free
        } else {
            0
        }
    }

    /// Records a request that is sent.
    pub(crate) fn push(&mut self, block: BlockIndex, now: Instant) {
        if self.waiting.is_empty() {
            self.last_answer = now;
            self.answering = false;
        }
        self.waiting.push_back(block);
    }

    pub(crate) fn is_waiting_for(&self, block: BlockIndex) -> bool {
        self.waiting.contains(&block)
    }

    /// Records a block that arrived. `None` when it was never requested, `Some(true)` when it is waited for,
    /// and `Some(false)` when its request was given up before.
    pub(crate) fn arrive(&mut self, block: BlockIndex, now: Instant) -> Option<bool> {
        if self.take(block) {
            // Only the first answer takes a round trip.
            if std::mem::replace(&mut self.answering, true) {
                self.pace.answers += 1.0;
                self.pace.seconds += self.silence(now).as_secs_f64();
            }
            self.last_answer = now;
            self.snubbed = false;
            if self.slow_start {
                self.window = (self.window + 1).min(self.limit);
            }
            return Some(true);
        }
        let place = self.late.iter().position(|late| *late == block)?;
        self.late.remove(place);
        self.snubbed = false;
        Some(false)
    }

    /// Records that a request will not be answered. `false` when there is none.
    pub(crate) fn reject(&mut self, block: BlockIndex) -> bool {
        self.take(block)
    }

    /// Gives up a request whose answer may still arrive. `false` when there is none.
    pub(crate) fn abandon(&mut self, block: BlockIndex) -> bool {
        let waited = self.take(block);
        if waited {
            self.remember(block);
        }
        waited
    }

    /// Gives up all requests and returns them.
    pub(crate) fn abandon_all(&mut self) -> Vec<BlockIndex> {
        let all: Vec<_> = self.waiting.drain(..).collect();
        for block in &all {
            self.remember(*block);
        }
        all
    }

    fn remember(&mut self, block: BlockIndex) {
        if self.late.len() >= 2 * self.limit {
            self.late.pop_front();
        }
        self.late.push_back(block);
    }

    fn take(&mut self, block: BlockIndex) -> bool {
        // Peers answer in order, nearly always.
        if self.waiting.front() == Some(&block) {
            self.waiting.pop_front();
            return true;
        }
        match self.waiting.iter().position(|waiting| *waiting == block) {
            Some(place) => {
                self.waiting.remove(place);
                true
            }
            None => false,
        }
    }

    /// The requests, the one sent last first.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = BlockIndex> {
        self.waiting.iter().rev().copied()
    }

    fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last_answer)
    }

    /// How long until a request is answered that so many others are before, in seconds: as fast as the
    /// peer has answered lately, and as long again as it has been silent at least.
    pub(crate) fn expected_wait(&self, before: usize, now: Instant) -> f64 {
        if self.waiting.is_empty() && self.pace.answers == 0.0 {
            return 0.0;
        }
        let silence = if self.waiting.is_empty() {
            0.0
        } else {
            self.silence(now).as_secs_f64()
        };
        if self.pace.answers == 0.0 {
            return silence;
        }
        let late = if self.answering { silence } else { 0.0 };
        let each = (self.pace.seconds + late) / self.pace.answers;
        silence.max((before + 1) as f64 * each)
    }

    /// Returns when the peer counts as not answering, while it has requests.
    pub(crate) fn deadline(&self, timeout: Duration) -> Option<Instant> {
        (!self.waiting.is_empty()).then(|| self.last_answer + timeout)
    }

    /// Limits a peer that does not answer to single requests until it does.
    pub(crate) fn snub(&mut self) {
        self.snubbed = true;
        self.slow_start = true;
        self.window = self.window.clamp(1, FEWEST);
    }

    /// Adjusts the window to how fast the peer delivers, in bytes per second.
    pub(crate) fn tick(&mut self, rate: u64) {
        self.pace.answers /= 2.0;
        self.pace.seconds /= 2.0;
        let blocks = rate as f64 * QUEUE_TIME / f64::from(BLOCK_LEN);
        let wanted = (blocks as usize).clamp(FEWEST.min(self.limit), self.limit);
        if self.slow_start {
            // It ends when more requests no longer bring more data.
            let grown = rate > self.last_rate + self.last_rate / 10;
            if rate > 0 && !grown && self.last_rate > 0 {
                self.slow_start = false;
            }
            self.window = self.window.max(wanted);
        } else {
            self.window = wanted;
        }
        self.last_rate = rate;
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to start from"
)]
mod tests {
    use bittorrent_protocol::{Layout, PieceLength};

    use super::*;

    fn blocks() -> Vec<BlockIndex> {
        let layout = Layout::new(PieceLength::DEFAULT, [(4 << 20, None)]).unwrap();
        layout.blocks(layout.piece(0).unwrap()).collect()
    }

    #[test]
    fn the_window_doubles_every_round_trip_up_to_the_limit() {
        let blocks = blocks();
        let now = Instant::now();
        let mut pipeline = Pipeline::new(16, 100, now);
        let mut windows = Vec::new();
        for _ in 0..4 {
            windows.push(pipeline.window());
            let batch = pipeline.room().min(blocks.len());
            for block in &blocks[..batch] {
                pipeline.push(*block, now);
            }
            for block in &blocks[..batch] {
                assert_eq!(pipeline.arrive(*block, now), Some(true));
            }
        }
        assert_eq!(windows, [16, 32, 64, 100]);
    }

    #[test]
    fn after_slow_start_the_window_follows_the_rate() {
        let mut pipeline = Pipeline::new(16, 1_000, Instant::now());
        pipeline.tick(1_000_000);
        pipeline.tick(1_000_000);
        pipeline.tick(16_384 * 100);
        assert_eq!(pipeline.window(), 150);
        pipeline.tick(0);
        assert_eq!(pipeline.window(), FEWEST);
        pipeline.tick(u64::MAX);
        assert_eq!(pipeline.window(), 1_000);
        pipeline.set_limit(3);
        pipeline.tick(0);
        assert_eq!(pipeline.window(), 3);
    }

    #[test]
    fn requests_given_up_are_known_when_they_are_answered_late() {
        let blocks = blocks();
        let now = Instant::now();
        let mut pipeline = Pipeline::new(4, 4, now);
        for block in &blocks[..4] {
            pipeline.push(*block, now);
        }
        assert_eq!(pipeline.room(), 0);
        assert!(pipeline.abandon(blocks[1]));
        assert!(!pipeline.abandon(blocks[1]));
        assert!(pipeline.reject(blocks[2]));
        assert_eq!(pipeline.arrive(blocks[1], now), Some(false));
        assert_eq!(pipeline.arrive(blocks[1], now), None);
        assert_eq!(pipeline.arrive(blocks[2], now), None);
        pipeline.snub();
        assert_eq!((pipeline.window(), pipeline.room()), (1, 0));
        assert_eq!(pipeline.abandon_all(), [blocks[0], blocks[3]]);
        assert_eq!(pipeline.room(), 1);
        assert_eq!(pipeline.deadline(Duration::ZERO), None);
        // A pause is no silence: time counts from the first request after it.
        let later = now + Duration::from_secs(100);
        pipeline.push(blocks[9], later);
        assert_eq!(pipeline.deadline(Duration::ZERO), Some(later));
        pipeline.abandon_all();
        assert_eq!(pipeline.arrive(blocks[3], now), Some(false));
        assert!(!pipeline.snubbed);
    }

    #[test]
    fn the_wait_follows_the_pace_of_the_last_answers_and_grows_with_silence() {
        let blocks = blocks();
        let start = Instant::now();
        let at = |millis: u64| start + Duration::from_millis(millis);
        let mut pipeline = Pipeline::new(64, 64, start);
        assert_eq!(pipeline.expected_wait(0, at(5_000)), 0.0);
        for block in &blocks[..60] {
            pipeline.push(*block, start);
        }
        // Nothing is known but that there is no answer yet.
        assert_eq!(pipeline.expected_wait(59, at(250)), 0.25);
        // The first answer took the way there and back; then there is one every 10 ms.
        for (n, block) in (0..).zip(&blocks[..21]) {
            pipeline.arrive(*block, at(300 + 10 * n));
        }
        let close = |is: f64, wanted: f64| assert!((is - wanted).abs() < 1e-6, "{is}");
        close(pipeline.expected_wait(38, at(500)), 0.39);
        pipeline.tick(1 << 20);
        close(pipeline.expected_wait(0, at(500)), 0.01);
        // Two seconds without an answer count for each request that waits.
        close(pipeline.expected_wait(0, at(2_500)), 2.0);
        assert!(pipeline.expected_wait(38, at(2_500)) > 7.0);
        // A pause without requests is no silence.
        pipeline.abandon_all();
        close(pipeline.expected_wait(0, at(9_000)), 0.01);
    }

    #[test]
    fn the_memory_of_late_requests_is_bounded() {
        let blocks = blocks();
        let now = Instant::now();
        let mut pipeline = Pipeline::new(4, 4, now);
        for block in &blocks[..100] {
            pipeline.push(*block, now);
            pipeline.abandon(*block);
        }
        assert_eq!(pipeline.late.len(), 8);
    }
}
