//! Levels, checks and their outcomes.

use crate::summary::LedgerSummary;

/// The depth of a verification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Milliseconds: meta pages, file length, list of free pages, tables, store version and what
    /// [`Policy`](super::Policy) refuses.
    L0,
    /// Seconds: every page accounted for, entry counts, genesis block, what the publisher claimed.
    L1,
    /// Minutes: scans of `accounts`, `confirmation_height`, `pending` and `rep_weights` (block
    /// counts, confirmation heights, the supply: balances and receivables are exactly 2^128 - 1
    /// raw, the weights of representatives), and the newest blocks of a random [`Sample`](super::Sample) of
    /// accounts: hashes, signatures, work, and how they follow one another.
    L2,
    /// Up to hours: all of that for every block, every receivable send against the blocks, and what
    /// is cemented against what it depends on.
    L3,
}

/// The outcome of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckOutcome {
    /// The check passed.
    Passed {
        /// What was found.
        found: String,
    },
    /// The check failed.
    Failed {
        /// The property of a sound ledger.
        expected: String,
        /// The property of this ledger.
        found: String,
    },
    /// The check did not run.
    Skipped {
        /// The reason, for a person.
        reason: String,
    },
}

/// One check and its outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Stable short name, such as `supply`.
    pub name: &'static str,
    /// How it ended.
    pub outcome: CheckOutcome,
}

/// The result of a verification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyReport {
    /// The level that was run.
    pub level: Level,
    /// All checks of that level in order.
    pub checks: Vec<Check>,
    /// The store version in the `meta` table, if it could be read; see
    /// [`minimum_node_version`](crate::minimum_node_version).
    pub store_version: Option<u32>,
    /// The counts, where the level reads them (from [`Level::L2`]) and they could be read.
    pub summary: Option<LedgerSummary>,
}

/// The checks that distinguish [`Level::L2`] from L1. (How much work a network asks for need not be known.)
const OF_BLOCKS: [&str; 7] = [
    "block-hashes",
    "signatures",
    "representatives",
    "chains",
    "account-heads",
    "confirmed-blocks",
    "receivables",
];

/// The checks that distinguish [`Level::L3`] from L2.
const OF_ALL_BLOCKS: [&str; 1] = ["cementing"];

impl VerifyReport {
    /// Whether no check failed.
    pub fn passed(&self) -> bool {
        !self
            .checks
            .iter()
            .any(|check| matches!(check.outcome, CheckOutcome::Failed { .. }))
    }

    /// Returns the deepest level that ran completely, and why it was not a deeper one. Blocks of an unknown store version
    /// cannot be checked above [`Level::L1`], and a pruned ledger cannot be checked at [`Level::L3`].
    pub fn reached(&self) -> (Level, Option<&str>) {
        let skipped = |name: &str| {
            self.checks.iter().find_map(|check| match &check.outcome {
                CheckOutcome::Skipped { reason } if check.name == name => Some(reason.as_str()),
                _ => None,
            })
        };
        let limits = [(Level::L1, &OF_BLOCKS[..]), (Level::L2, &OF_ALL_BLOCKS[..])];
        limits
            .into_iter()
            .filter(|(level, _)| *level < self.level)
            .find_map(|(level, names)| {
                let reason = names.iter().find_map(|name| skipped(name))?;
                Some((level, Some(reason)))
            })
            .unwrap_or((self.level, None))
    }

    /// The checks that failed.
    pub fn failures(&self) -> impl Iterator<Item = &Check> {
        self.checks
            .iter()
            .filter(|check| matches!(check.outcome, CheckOutcome::Failed { .. }))
    }
}
