//! Verification of a ledger file, without a node.
//!
//! The levels follow what each costs. None proves that the network confirmed what the file says;
//! a ledger that passes [`Level::L2`] is one a node opens and does not refuse at start-up.

mod checks;

use std::path::Path;

use crate::error::LedgerError;
use crate::file::LedgerFile;
use crate::summary::LedgerSummary;

/// How deep to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Milliseconds: meta pages, file length, list of free pages, tables and store version.
    L0,
    /// Seconds: every page accounted for, entry counts, genesis block.
    L1,
    /// Minutes: scans of `accounts`, `confirmation_height`, `pending` and `rep_weights`. Block
    /// counts, confirmation heights, the supply (balances and receivables are exactly 2^128 - 1
    /// raw) and the weights of representatives.
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
        !self
            .checks
            .iter()
            .any(|check| matches!(check.outcome, Outcome::Failed { .. }))
    }

    /// The checks that failed.
    pub fn failures(&self) -> impl Iterator<Item = &Check> {
        self.checks
            .iter()
            .filter(|check| matches!(check.outcome, Outcome::Failed { .. }))
    }
}

/// Verifies the ledger at `path` as deep as `level` says.
///
/// A ledger that contradicts itself is a [`Report`] with failed checks. The file must not be
/// written to meanwhile.
///
/// # Errors
///
/// [`LedgerError::NotALedger`] when the file is something else altogether, [`LedgerError::Open`]
/// and [`LedgerError::Read`] when the system fails to read it.
pub fn verify(path: &Path, level: Level) -> Result<Report, LedgerError> {
    checks::run(&LedgerFile::open(path)?, level)
}
