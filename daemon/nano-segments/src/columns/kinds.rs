//! The column `kinds`: the kind of each block, and whether it names a representative.

use crate::coder::{CoderError, Decoder, Encoder, Flag, Tree};
use crate::columns::cut::CutRun;
use crate::error::SegmentError;
use crate::head::Column;
use crate::runs::{Block, Number, Runs};

/// How many kinds there are.
const KINDS: u32 = 9;
/// The context of the first block of a run.
const FIRST: usize = 9;

/// Returns the column.
pub(crate) fn write(runs: &Runs<Number>) -> Vec<u8> {
    let mut to = Encoder::default();
    let mut model = Kinds::new();
    for run in runs.iter() {
        let mut before = FIRST;
        for block in run.blocks {
            before = model.put(&mut to, before, block);
        }
    }
    to.finish()
}

/// Kinds, in the context of the kind before, and whether a representative is named, in the context of the kind.
struct Kinds {
    kinds: Vec<Tree>,
    named: [Flag; KINDS as usize],
}

impl Kinds {
    fn new() -> Self {
        Self {
            kinds: vec![Tree::new(4); FIRST + 1],
            named: [Flag::default(); KINDS as usize],
        }
    }

    /// Writes the kind of a block, and returns its code, the context of the next.
    fn put<K: Copy>(&mut self, to: &mut Encoder, before: usize, block: &Block<K>) -> usize {
        let kind = match block {
            Block::Send { .. } => 0,
            Block::Receive { .. } => 1,
            Block::Open { .. } => 2,
            Block::Change { .. } => 3,
            Block::StateSend { .. } => 4,
            Block::StateReceive { .. } => 5,
            Block::StateChange { .. } => 6,
            Block::Epoch1 => 7,
            Block::Epoch2 => 8,
        };
        self.kinds[before].put(to, kind as u32);
        self.named[kind].put(to, block.representative().is_some());
        kind
    }
}

/// The kind of a block whose fields are in later columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Send,
    Receive,
    Open,
    Change,
    StateSend { named: bool },
    StateReceive { named: bool },
    StateChange { named: bool },
    Epoch1,
    Epoch2,
}

impl Kind {
    fn of(code: u32, named: bool) -> Option<Self> {
        Some(match (code, named) {
            (0, false) => Self::Send,
            (1, false) => Self::Receive,
            (2, true) => Self::Open,
            (3, true) => Self::Change,
            (4, named) => Self::StateSend { named },
            (5, named) => Self::StateReceive { named },
            (6, named) => Self::StateChange { named },
            (7, false) => Self::Epoch1,
            (8, false) => Self::Epoch2,
            _ => return None,
        })
    }

    pub(crate) fn names_representative(self) -> bool {
        match self {
            Self::Open | Self::Change => true,
            Self::StateSend { named }
            | Self::StateReceive { named }
            | Self::StateChange { named } => named,
            Self::Send | Self::Receive | Self::Epoch1 | Self::Epoch2 => false,
        }
    }

    pub(crate) fn is_send(self) -> bool {
        matches!(self, Self::Send | Self::StateSend { .. })
    }
}

/// Reads the kind of each block of these runs.
pub(crate) fn read(column: &[u8], cut: &[CutRun]) -> Result<Vec<Kind>, SegmentError> {
    let error = |error, place| SegmentError::coder(error, Column::Kinds, place);
    let mut from = Decoder::new(column).map_err(|e| error(e, 0))?;
    let mut model = Kinds::new();
    let mut kinds = Vec::new();
    for run in cut {
        let mut before = FIRST;
        for _ in 0..run.blocks {
            let place = kinds.len();
            let code = model.kinds[before]
                .get(&mut from)
                .map_err(|e| error(e, place))?;
            if code >= KINDS {
                return Err(error(CoderError::Range, place));
            }
            before = code as usize;
            let named = model.named[before]
                .get(&mut from)
                .map_err(|e| error(e, place))?;
            kinds.push(Kind::of(code, named).ok_or(SegmentError::NotCanonical {
                place,
                what: "the mark of the representative",
            })?);
        }
    }
    from.finish().map_err(|e| error(e, kinds.len()))?;
    Ok(kinds)
}
