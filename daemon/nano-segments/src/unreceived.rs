//! The sends of a segment that its receives have not taken yet, by destination.

use crate::runs::{Number, Runs};

/// A Fenwick tree for each destination: rank and removal take logarithmic time, however many sends go to one account.
#[derive(Debug)]
pub(crate) struct Unreceived {
    /// Destination and index of each send, ascending.
    sends: Vec<(Number, u32)>,
    /// For each destination's range of `sends`, a tree that counts what is left, from 1 inside of the range.
    counts: Vec<u32>,
}

/// The sends to one account.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group {
    start: usize,
    len: usize,
}

impl Unreceived {
    pub(crate) fn new(runs: &Runs<Number>) -> Self {
        let mut sends: Vec<(Number, u32)> = runs
            .blocks()
            .iter()
            .enumerate()
            .filter_map(|(index, block)| Some((block.send()?.0, index as u32)))
            .collect();
        sends.sort_unstable();
        // In a tree over ones, each node counts its span: the lowest set bit of its position.
        let mut counts = Vec::with_capacity(sends.len());
        for group in sends.chunk_by(|one, next| one.0 == next.0) {
            counts.extend((1..=group.len() as u32).map(|at| at & at.wrapping_neg()));
        }
        Self { sends, counts }
    }

    pub(crate) fn group(&self, account: Number) -> Group {
        let start = self.sends.partition_point(|send| send.0 < account);
        let len = self.sends[start..].partition_point(|send| send.0 == account);
        Group { start, len }
    }

    /// Takes the send with this rank among those that are left, and returns its index.
    pub(crate) fn take_ranked(&mut self, group: Group, rank: u128) -> Option<usize> {
        let mut left = u32::try_from(rank).ok()?;
        let mut at = 0;
        let mut step = group.len.checked_ilog2().map_or(0, |log| 1 << log);
        while step > 0 {
            if at + step <= group.len && self.counts[group.start + at + step - 1] <= left {
                at += step;
                left -= self.counts[group.start + at - 1];
            }
            step >>= 1;
        }
        if at >= group.len {
            return None;
        }
        self.remove(group, at);
        Some(self.sends[group.start + at].1 as usize)
    }

    /// Takes the send with this index, and returns its rank among those that were left. `None` if it is no send to this account or was taken.
    pub(crate) fn take(&mut self, group: Group, index: usize) -> Option<u32> {
        let sends = &self.sends[group.start..group.start + group.len];
        let at = sends
            .binary_search_by(|send| (send.1 as usize).cmp(&index))
            .ok()?;
        let rank = self.before(group, at);
        if self.before(group, at + 1) == rank {
            return None;
        }
        self.remove(group, at);
        Some(rank)
    }

    /// How many of the first `count` sends of a group are left.
    fn before(&self, group: Group, mut count: usize) -> u32 {
        let mut sum = 0;
        while count > 0 {
            sum += self.counts[group.start + count - 1];
            count &= count - 1;
        }
        sum
    }

    fn remove(&mut self, group: Group, at: usize) {
        let mut node = at + 1;
        while node <= group.len {
            self.counts[group.start + node - 1] -= 1;
            node += node & node.wrapping_neg();
        }
    }
}
