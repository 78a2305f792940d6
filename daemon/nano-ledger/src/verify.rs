//! Verification of a ledger file.

use std::path::Path;

use crate::error::LedgerError;
use crate::summary::LedgerSummary;

/// How deep to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Milliseconds: meta pages, lengths, free list, tables.
    L0,
    /// Seconds: entry counts and the genesis block.
    L1,
    /// Minutes: scans of all tables but the blocks.
    L2,
}

/// How a check ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// As it should be.
    Passed {
        /// What was found.
        found: String,
    },
    /// Not as it should be.
    Failed {
        /// What a sound ledger has.
        expected: String,
        /// What this one has.
        found: String,
    },
    /// Not looked at.
    Skipped {
        /// Why.
        reason: String,
    },
}

/// One check and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Stable short name, such as `supply`.
    pub name: &'static str,
    /// How it ended.
    pub outcome: Outcome,
}

/// What verification found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// How deep it looked.
    pub level: Level,
    /// All checks of that level in order.
    pub checks: Vec<Check>,
    /// The counts, where the level reads them (from [`Level::L2`]) and they could be read.
    pub summary: Option<LedgerSummary>,
}

impl Report {
    /// Whether no check failed.
    pub fn passed(&self) -> bool {
        !self.checks.iter().any(|check| matches!(check.outcome, Outcome::Failed { .. }))
    }

    /// The checks that failed.
    pub fn failures(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| matches!(check.outcome, Outcome::Failed { .. }))
    }
}

/// Verifies the ledger at `path`.
pub fn verify(_path: &Path, _level: Level) -> Result<Report, LedgerError> {
    unimplemented!()
}
