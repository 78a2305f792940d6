//! The column `references`: the sources of receives and opens.

use crate::coder::{CoderError, Decoder, Encoder, Num, Tree};
use crate::columns::key::KeyModel;
use crate::error::SegmentError;
use crate::head::{Column, Head};
use crate::runs::{Block, Number, Runs, Source};
use crate::unreceived::Unreceived;

/// How a receive names its source.
const INSIDE: u32 = 0;
const OUTSIDE: u32 = 1;
const GENESIS: u32 = 2;

/// Returns the column.
pub(crate) fn write(runs: &Runs<Number>, known: u64, keys: usize) -> Vec<u8> {
    let mut to = Encoder::default();
    let mut model = References::new(known, keys);
    let mut unreceived = Unreceived::new(runs);
    for run in runs.iter() {
        let group = unreceived.group(run.account);
        for source in run.blocks.iter().filter_map(Block::source) {
            match source {
                Source::Genesis => model.form.put(&mut to, GENESIS),
                Source::Send { account, height } => {
                    let inside = runs.index(account, height);
                    // Sources inside were checked to be takeable when the segment was made.
                    match inside.and_then(|index| unreceived.take(group, index)) {
                        Some(rank) => {
                            model.form.put(&mut to, INSIDE);
                            model.ranks.put(&mut to, u128::from(rank));
                        }
                        None => {
                            model.form.put(&mut to, OUTSIDE);
                            model.accounts.put(&mut to, account);
                            model.heights.put(&mut to, u128::from(height - 1));
                        }
                    }
                }
            }
        }
    }
    to.finish()
}

/// Reads the source of each receive, in order.
pub(crate) fn read(
    column: &[u8],
    head: &Head,
    runs: &Runs<Number>,
) -> Result<Vec<Source<Number>>, SegmentError> {
    let error = |error, place| SegmentError::coder(error, Column::References, place);
    let mut from = Decoder::new(column).map_err(|e| error(e, 0))?;
    let mut model = References::new(head.known, head.keys as usize);
    let mut unreceived = Unreceived::new(runs);
    let mut sources = Vec::new();
    for run in runs.iter() {
        let group = unreceived.group(run.account);
        for (offset, _) in run
            .blocks
            .iter()
            .enumerate()
            .filter(|(_, block)| block.source().is_some())
        {
            let place = run.start + offset;
            let out_of_range = || error(CoderError::Range, place);
            let source = match model.form.get(&mut from).map_err(|e| error(e, place))? {
                INSIDE => {
                    let rank = model.ranks.get(&mut from).map_err(|e| error(e, place))?;
                    let index = unreceived
                        .take_ranked(group, rank)
                        .ok_or(SegmentError::Source { place })?;
                    source_at(runs, index)
                }
                OUTSIDE => {
                    let account = model.accounts.get(&mut from).map_err(|e| error(e, place))?;
                    let height = model.heights.get(&mut from).map_err(|e| error(e, place))?;
                    let height = u64::try_from(height)
                        .ok()
                        .and_then(|height| height.checked_add(1));
                    let height = height.ok_or_else(out_of_range)?;
                    if runs.index(account, height).is_some() {
                        return Err(SegmentError::NotCanonical {
                            place,
                            what: "the reference to a block of this segment",
                        });
                    }
                    Source::Send { account, height }
                }
                GENESIS => Source::Genesis,
                _ => return Err(out_of_range()),
            };
            sources.push(source);
        }
    }
    from.finish().map_err(|e| error(e, runs.blocks().len()))?;
    Ok(sources)
}

/// Names the block at an index as a source.
fn source_at(runs: &Runs<Number>, index: usize) -> Source<Number> {
    let run = runs.run(runs.run_of(index));
    Source::Send {
        account: run.account,
        height: run.first_height + (index - run.start) as u64,
    }
}

/// The models of the column of references.
struct References {
    form: Tree,
    ranks: Num,
    accounts: KeyModel,
    heights: Num,
}

impl References {
    fn new(known: u64, keys: usize) -> Self {
        Self {
            form: Tree::new(2),
            ranks: Num::default(),
            accounts: KeyModel::new(known, keys),
            heights: Num::default(),
        }
    }
}
