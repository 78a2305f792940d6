//! The column `cut`: the accounts of a segment and their heights. It follows the head and the keys, so the beginning of a body is its cut.

use crate::coder::{CoderError, Decoder, Encoder, Num};
use crate::error::SegmentError;
use crate::head::{Column, Head};
use crate::runs::{MAX_HEIGHT, Number, Runs};

/// One account of a cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CutRun {
    pub account: Number,
    pub first_height: u64,
    pub blocks: u32,
}

/// The numbers of a run: distance from the account before, first height less 1, blocks less 1.
#[derive(Default)]
struct Models {
    gap: Num,
    height: Num,
    blocks: Num,
}

pub(crate) fn write(runs: &Runs<Number>) -> Vec<u8> {
    let mut to = Encoder::default();
    let mut models = Models::default();
    let mut next = 0;
    for run in runs.iter() {
        models.gap.put(&mut to, u128::from(run.account - next));
        models.height.put(&mut to, u128::from(run.first_height - 1));
        models.blocks.put(&mut to, run.blocks.len() as u128 - 1);
        next = run.account + 1;
    }
    to.finish()
}

/// Reads the runs of a segment with this head: as many accounts and blocks as it says.
pub(crate) fn read(column: &[u8], head: &Head) -> Result<Vec<CutRun>, SegmentError> {
    let error = |error, place| SegmentError::coder(error, Column::Cut, place);
    let mut from = Decoder::new(column).map_err(|e| error(e, 0))?;
    let mut models = Models::default();
    let total = u128::from(head.known) + u128::from(head.keys);
    let (mut next, mut left) = (0_u128, u128::from(head.blocks));
    let mut runs = Vec::new();
    for place in 0..head.runs as usize {
        let mut number = |model: &mut Num| model.get(&mut from).map_err(|e| error(e, place));
        let account = next.checked_add(number(&mut models.gap)?);
        let height = number(&mut models.height)?.checked_add(1);
        let blocks = number(&mut models.blocks)?.checked_add(1);
        let (Some(account), Some(height), Some(blocks)) = (account, height, blocks) else {
            return Err(error(CoderError::Range, place));
        };
        if account >= total
            || blocks > left
            || height.saturating_add(blocks) > u128::from(MAX_HEIGHT)
        {
            return Err(error(CoderError::Range, place));
        }
        left -= blocks;
        next = account + 1;
        // All three were just bounded below 2^64, the blocks below 2^32.
        runs.push(CutRun {
            account: account as Number,
            first_height: height as u64,
            blocks: blocks as u32,
        });
    }
    from.finish().map_err(|e| error(e, runs.len()))?;
    if left == 0 {
        Ok(runs)
    } else {
        Err(SegmentError::Counts)
    }
}
