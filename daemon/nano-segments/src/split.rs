//! The first segments of a ledger: a large difference in pieces of which each needs only those before it.

use std::collections::HashMap;

use thiserror::Error;

use crate::runs::{Block, Key, Runs, RunsError, Source};

/// Blocks depend on each other in a circle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("blocks depend on each other in a circle")]
pub struct Circle;

/// Returns the depth of each block, by index: 1 + the greatest depth of those of its dependencies that are in the difference, 1 without.
/// A block depends on its account's block before and on the send that it receives. Takes linear time.
pub fn depths<K: Copy + Ord>(runs: &Runs<K>) -> Result<Vec<u32>, Circle> {
    let mut depths = vec![0_u32; runs.blocks().len()];
    let mut next: Vec<usize> = runs.iter().map(|run| run.start).collect();
    // By index of a send, the run that waits for it.
    let mut waiting: HashMap<usize, usize> = HashMap::new();
    let mut work: Vec<usize> = (0..runs.run_count()).rev().collect();
    let mut done = 0;
    while let Some(at) = work.pop() {
        let run = runs.run(at);
        while next[at] < run.start + run.blocks.len() {
            let index = next[at];
            let before = if index > run.start {
                depths[index - 1]
            } else {
                0
            };
            let source = match runs.blocks()[index].source() {
                Some(Source::Send { account, height }) => runs.index(account, height),
                _ => None,
            };
            let sent = match source {
                Some(source) if depths[source] == 0 => {
                    waiting.insert(source, at);
                    break;
                }
                Some(source) => depths[source],
                None => 0,
            };
            depths[index] = before.max(sent) + 1;
            next[at] += 1;
            done += 1;
            work.extend(waiting.remove(&index));
        }
    }
    if done == depths.len() {
        Ok(depths)
    } else {
        Err(Circle)
    }
}

/// One part of a difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Its blocks.
    pub runs: Runs<Key>,
    /// For each of them, its index in the whole difference.
    pub indices: Vec<u32>,
}

/// Splits a difference into `count` pieces of equal size but the last, in the order (depth, account). No block depends on a later piece. `count` is at least 1.
pub fn pieces(runs: &Runs<Key>, count: usize) -> Result<Vec<Piece>, Circle> {
    let depths = depths(runs)?;
    let mut order: Vec<(u32, u32, u32)> = Vec::with_capacity(depths.len());
    for (at, run) in runs.iter().enumerate() {
        order.extend(
            (run.start..run.start + run.blocks.len())
                .map(|index| (depths[index], at as u32, index as u32)),
        );
    }
    order.sort_unstable();
    let size = order.len().div_ceil(count.max(1)).max(1);
    Ok(order.chunks(size).map(|chunk| piece(runs, chunk)).collect())
}

/// The blocks of a chunk of (depth, run, index) as runs.
fn piece(runs: &Runs<Key>, chunk: &[(u32, u32, u32)]) -> Piece {
    let mut indices: Vec<(u32, u32)> = chunk.iter().map(|&(_, at, index)| (at, index)).collect();
    indices.sort_unstable();
    let mut piece = Runs::default();
    for blocks in indices.chunk_by(|one, other| one.0 == other.0) {
        let run = runs.run(blocks[0].0 as usize);
        let first_height = run.first_height + (blocks[0].1 as usize - run.start) as u64;
        let blocks = blocks
            .iter()
            .map(|&(_, index)| -> Block<Key> { runs.blocks()[index as usize] });
        // Depths grow along an account, so these are consecutive blocks of a run that was valid.
        let added: Result<(), RunsError> = piece.push(run.account, first_height, blocks);
        debug_assert_eq!(added, Ok(()));
    }
    Piece {
        runs: piece,
        indices: indices.into_iter().map(|(_, index)| index).collect(),
    }
}
