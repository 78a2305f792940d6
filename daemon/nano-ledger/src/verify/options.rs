//! Options of a verification, besides its level.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::verify::error::VerifyError;

/// The progress of a verification within one stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageProgress {
    /// Name of the stage, one or two words.
    pub stage: &'static str,
    /// Rows of this stage that were checked.
    pub done: u64,
    /// Rows of this stage, by the roots of the tables, which may be wrong.
    pub total: u64,
}

/// The accounts that [`Level::L2`](super::Level::L2) checks block by block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// The same seed picks the same accounts. `None` takes a random one: a forger who knows the seed could keep forged
    /// accounts out of the sample. The report contains the seed.
    pub seed: Option<u64>,
    /// Accounts picked at random, besides the 64 of greatest balance and the 64 representatives of
    /// greatest weight. Of a ledger in which a share `f` of the accounts is forged, `n` accounts
    /// miss all with a probability of `(1 - f)^n`. With 0 no account is checked, not even those.
    pub accounts: u32,
    /// Number of newest blocks to check of each account. 10,000 accounts with 16 blocks take minutes at most.
    pub depth: u32,
}

impl Default for Sample {
    fn default() -> Self {
        Self {
            seed: None,
            accounts: 10_000,
            depth: 16,
        }
    }
}

/// Requirements beyond a sound ledger. The default has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Accepted store versions, such as those that the operator's node opens.
    pub store_versions: Option<RangeInclusive<u32>>,
    /// The store version that the publisher claims.
    pub claimed_version: Option<u32>,
    /// The number of blocks that the publisher claims.
    pub claimed_blocks: Option<u64>,
    /// The number of cemented blocks that the publisher claims; compared from [`Level::L2`](super::Level::L2).
    pub claimed_cemented: Option<u64>,
    /// Blocks of the ledger accepted before.
    pub least_blocks: Option<u64>,
    /// Cemented blocks of the ledger accepted before, whose number never falls. Compared from
    /// [`Level::L2`](super::Level::L2).
    pub least_cemented: Option<u64>,
}

/// Options of a verification.
#[derive(Clone, Copy)]
pub struct VerifyOptions<'a> {
    /// Called regularly with the progress, from any thread.
    pub progress: Option<&'a (dyn Fn(StageProgress) + Sync)>,
    /// Stops the verification when it is set.
    pub cancel: Option<&'a AtomicBool>,
    /// The accounts to check block by block.
    pub sample: Sample,
    /// Requirements beyond a sound ledger.
    pub policy: &'a Policy,
    /// Bytes of memory for sorting, which [`Level::L3`](super::Level::L3) does. Everything else
    /// takes some 60 MiB at most, however many accounts and blocks there are.
    pub memory: usize,
    /// Where to sort what does not fit into `memory`: up to 220 bytes a block and 115 a send or
    /// receive. `None` takes the directory of the ledger.
    pub scratch: Option<&'a Path>,
}

impl Default for VerifyOptions<'_> {
    fn default() -> Self {
        const NOTHING: &Policy = &Policy {
            store_versions: None,
            claimed_version: None,
            claimed_blocks: None,
            claimed_cemented: None,
            least_blocks: None,
            least_cemented: None,
        };
        Self {
            progress: None,
            cancel: None,
            sample: Sample::default(),
            policy: NOTHING,
            memory: 256 << 20,
            scratch: None,
        }
    }
}

/// Rows between two checks of the flag and two progress reports.
const STRIDE: u64 = 1024;

/// Progress through one stage.
pub(crate) struct StageMeter<'a> {
    options: VerifyOptions<'a>,
    progress: StageProgress,
}

impl<'a> VerifyOptions<'a> {
    /// Starts a stage.
    pub(crate) fn pace(&self, stage: &'static str, total: u64) -> StageMeter<'a> {
        StageMeter {
            options: *self,
            progress: StageProgress {
                stage,
                done: 0,
                total,
            },
        }
    }

    pub(crate) fn go_on(&self) -> Result<(), VerifyError> {
        match self.cancel {
            Some(cancel) if cancel.load(Ordering::Relaxed) => Err(VerifyError::Cancelled),
            _ => Ok(()),
        }
    }
}

impl StageMeter<'_> {
    /// Counts one row.
    pub(crate) fn step(&mut self) -> Result<(), VerifyError> {
        self.advance(1)
    }

    /// Counts `rows` rows.
    pub(crate) fn advance(&mut self, rows: u64) -> Result<(), VerifyError> {
        let before = self.progress.done / STRIDE;
        self.progress.done += rows;
        if before == self.progress.done / STRIDE && self.progress.done != self.progress.total {
            return Ok(());
        }
        if let Some(tell) = self.options.progress {
            tell(self.progress);
        }
        self.options.go_on()
    }
}
