//! The column `representatives`: the distinct ones, then which of them each block names.

use crate::coder::{Below, CoderError, Decoder, Encoder, Num};
use crate::columns::kinds::Kind;
use crate::error::SegmentError;
use crate::head::{Column, Head};
use crate::runs::{Block, Number, Runs};

/// Returns how many distinct ones there are, and the column.
pub(crate) fn write(runs: &Runs<Number>) -> (u32, Vec<u8>) {
    let named = || runs.blocks().iter().filter_map(Block::representative);
    let mut distinct: Vec<Number> = named().collect();
    distinct.sort_unstable();
    distinct.dedup();
    let mut to = Encoder::default();
    let mut gaps = Num::default();
    let mut next = 0;
    for &number in &distinct {
        gaps.put(&mut to, u128::from(number - next));
        next = number + 1;
    }
    let mut ranks = Below::new(distinct.len() as u64);
    for number in named() {
        ranks.put(
            &mut to,
            distinct.partition_point(|&other| other < number) as u64,
        );
    }
    (distinct.len() as u32, to.finish())
}

/// Reads the representative of each block that names one, in order.
pub(crate) fn read(
    column: &[u8],
    head: &Head,
    kinds: &[Kind],
) -> Result<Vec<Number>, SegmentError> {
    let error = |error, place| SegmentError::coder(error, Column::Representatives, place);
    let mut from = Decoder::new(column).map_err(|e| error(e, 0))?;
    let total = u128::from(head.known) + u128::from(head.keys);
    let mut gaps = Num::default();
    let mut distinct: Vec<Number> = Vec::new();
    for place in 0..head.representatives as usize {
        let gap = gaps.get(&mut from).map_err(|e| error(e, place))?;
        let next = distinct.last().map_or(0, |&last| u128::from(last) + 1);
        let number = gap.checked_add(next).filter(|&number| number < total);
        // `total` is at most 2^64.
        distinct.push(number.ok_or_else(|| error(CoderError::Range, place))? as Number);
    }
    let mut ranks = Below::new(distinct.len() as u64);
    let mut used = vec![false; distinct.len()];
    let mut named = Vec::new();
    for (place, _) in kinds
        .iter()
        .enumerate()
        .filter(|(_, kind)| kind.names_representative())
    {
        let rank = ranks.get(&mut from).map_err(|e| error(e, place))? as usize;
        // With no representatives the bound is that of one.
        let number = distinct
            .get(rank)
            .ok_or_else(|| error(CoderError::Range, place))?;
        used[rank] = true;
        named.push(*number);
    }
    from.finish().map_err(|e| error(e, kinds.len()))?;
    match used.iter().position(|used| !used) {
        None => Ok(named),
        Some(rank) => Err(error(CoderError::Range, rank)),
    }
}
