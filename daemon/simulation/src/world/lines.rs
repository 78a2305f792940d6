//! What hosts send and receive, as fast as their lines allow.

use std::time::Duration;

use bittorrent_protocol::BlockIndex;

use super::World;
use crate::queue::SimEvent;

/// How long a sender waits before it sends again what was lost, besides the way there and back.
const RESEND: Duration = Duration::from_millis(200);

impl World {
    /// The far end of a connection asks for blocks.
    pub(super) fn asked(&mut self, end: usize, blocks: Vec<BlockIndex>) {
        let this = &mut self.ends[end];
        let node = &self.nodes[this.node];
        let (queued, rejected): (Vec<_>, Vec<_>) = blocks
            .into_iter()
            .partition(|block| this.serves && node.proven.contains(*block));
        this.queue.extend(queued);
        if !rejected.is_empty() {
            let blocks = rejected;
            self.send(end, |end| SimEvent::Rejected { end, blocks });
        }
        self.queue_up(end);
    }

    /// A connection that has something to send waits for its turn.
    fn queue_up(&mut self, end: usize) {
        let this = &mut self.ends[end];
        if this.waits || this.queue.is_empty() {
            return;
        }
        this.waits = true;
        let number = this.node;
        let node = &mut self.nodes[number];
        node.turns.push_back(end);
        if !node.sends {
            self.send_next(number);
        }
    }

    /// The line takes the next connection's blocks.
    fn send_next(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        node.sends = false;
        let layout = &self.torrent.layout;
        while let Some(end) = node.turns.pop_front() {
            let this = &mut self.ends[end];
            this.waits = false;
            let Some(first) = this.queue.front().filter(|_| this.open) else {
                continue;
            };
            let burst = node.burst(layout.block_size(*first).into());
            let blocks: Vec<_> = this.queue.drain(..burst.min(this.queue.len())).collect();
            let wait = time_for(self.torrent_bytes(&blocks), self.nodes[number].up);
            let node = &mut self.nodes[number];
            node.sends = true;
            let of = node.life();
            self.after(wait, SimEvent::Sent { of, end, blocks });
            return;
        }
    }

    /// The line has taken blocks and is free again.
    pub(super) fn sent(&mut self, number: usize, end: usize, blocks: Vec<BlockIndex>) {
        let now = self.instant();
        if self.ends[end].open {
            let bytes = self.torrent_bytes(&blocks);
            let key = self.ends[end].key;
            self.nodes[number].engine.handle_uploaded(key, bytes, now);
            if self.random.happens(self.plan.breaks) {
                self.counts.breaks += 1;
                self.nodes[number].engine.handle_disconnected(key, now);
                self.close(end);
                self.settle(number);
            } else {
                if self.random.happens(self.plan.losses) {
                    self.counts.losses += 1;
                    let this = &mut self.ends[end];
                    let again = self.now + RESEND + 3 * this.latency;
                    this.no_sooner = this.no_sooner.max(again);
                }
                self.send(end, |end| SimEvent::Arrived { end, blocks });
                self.queue_up(end);
            }
        }
        self.send_next(number);
    }

    /// Blocks wait for the receiver's line.
    pub(super) fn arrived(&mut self, end: usize, blocks: Vec<BlockIndex>) {
        let wait = time_for(self.torrent_bytes(&blocks), self.plan.down);
        let node = &mut self.nodes[self.ends[end].node];
        let done = node.receives_until.max(self.now) + wait;
        node.receives_until = done;
        self.queue.put(done, SimEvent::Received { end, blocks });
    }

    fn torrent_bytes(&self, blocks: &[BlockIndex]) -> u64 {
        let size = |block: &BlockIndex| u64::from(self.torrent.layout.block_size(*block));
        blocks.iter().map(size).sum()
    }
}

fn time_for(bytes: u64, rate: u64) -> Duration {
    Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / rate.max(1))
}
