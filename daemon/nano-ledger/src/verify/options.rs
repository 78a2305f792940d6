//! How a ledger is verified, beyond how deep.

use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::verify::error::VerifyError;

/// How far a verification has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageProgress {
    /// What it does now, a word or two; stages follow one another.
    pub stage: &'static str,
    /// Rows of this stage that are done.
    pub done: u64,
    /// Rows the stage has by the roots of the tables, which may lie.
    pub total: u64,
}

/// Which accounts [`Level::L2`](super::Level::L2) looks into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// The same seed picks the same accounts. `None` takes one that nobody knows before, as whoever
    /// knows it can keep forgeries out of the sample. The report names it.
    pub seed: Option<u64>,
    /// Accounts picked at random, besides the 64 of greatest balance and the 64 representatives of
    /// greatest weight. Of a ledger in which a share `f` of the accounts is forged, `n` accounts
    /// miss all with a probability of `(1 - f)^n`. With 0 nothing is looked into, not even those.
    pub accounts: u32,
    /// Blocks looked at of each, the newest. 10,000 accounts to 16 blocks are minutes at the most.
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

/// What a ledger must be beyond sound. The default asks for nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    /// Store versions that are accepted, such as those the own node opens.
    pub store_versions: Option<RangeInclusive<u32>>,
    /// The store version its publisher named.
    pub claimed_version: Option<u32>,
    /// The blocks its publisher counted.
    pub claimed_blocks: Option<u64>,
    /// The cemented blocks its publisher counted; looked at from [`Level::L2`](super::Level::L2).
    pub claimed_cemented: Option<u64>,
    /// Blocks of the ledger accepted before.
    pub least_blocks: Option<u64>,
    /// Cemented blocks of the ledger accepted before: they never become fewer. Looked at from
    /// [`Level::L2`](super::Level::L2).
    pub least_cemented: Option<u64>,
}

/// How to verify.
#[derive(Clone, Copy)]
pub struct VerifyOptions<'a> {
    /// Told now and then how far it has come, from any thread.
    pub progress: Option<&'a (dyn Fn(StageProgress) + Sync)>,
    /// Ends the verification once it is set.
    pub cancel: Option<&'a AtomicBool>,
    /// The accounts that are looked into.
    pub sample: Sample,
    /// What is asked of the ledger.
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

/// Rows between two looks at the flag and two reports.
const STRIDE: u64 = 1024;

/// Progress through one stage.
pub(crate) struct StageMeter<'a> {
    options: VerifyOptions<'a>,
    progress: StageProgress,
}

impl<'a> VerifyOptions<'a> {
    /// Begins a stage.
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
    /// One row more.
    pub(crate) fn step(&mut self) -> Result<(), VerifyError> {
        self.advance(1)
    }

    /// Some rows more.
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
