//! Verification of a ledger file, without a node.
//!
//! The levels follow what each costs, and each does all that those below it do. None proves that
//! the network confirmed what the file says: only other nodes, or somebody who is trusted, can. A
//! ledger that passes [`Level::L2`] is one a node opens and does not refuse at start-up, although
//! a few blocks that the sample left out may be forged; in one that passes [`Level::L3`] every block
//! is genuine, and everything that the node derives from blocks is derived rightly.
//!
//! The names of checks are stable: `meta-pages`, `free-list`, `file-length`, `table-list`,
//! `store-version`, `tables`, `table-flags`, `policy` (L0); `page-accounting`, `counts`, `genesis`,
//! `claims` (L1); `accounts`, `block-count`, `confirmation-heights`, `rep-weights`, `supply`,
//! `block-hashes`, `signatures`, `work`, `representatives`, `chains`, `account-heads`, `confirmed-blocks`, `receivables`
//! (L2 of a sample, L3 of all); `cementing` (L3).

mod error;
mod full;
#[cfg(test)]
mod hostile;
mod ledger;
mod moves;
mod options;
mod outcomes;
mod proofs;
#[cfg(test)]
mod refusals;
mod report;
mod representatives;
#[cfg(test)]
mod roots;
mod run;
mod sample;
mod structure;
mod sums;
mod workers;

use std::path::Path;

use crate::lmdb::file::LedgerFile;
pub use error::VerifyError;
pub use options::{Policy, Sample, StageProgress, VerifyOptions};
pub use report::{Check, Level, Outcome, VerifyReport};

/// Verifies the ledger at `path` as deep as `level` says.
///
/// A ledger that contradicts itself, or that the policy refuses, is a [`VerifyReport`] with failed
/// checks. The file must not be written to meanwhile.
///
/// Time is bounded by the pages of the file and memory by
/// [`VerifyOptions::memory`], whatever the file says.
///
/// # Errors
///
/// [`VerifyError::Ledger`] when the file is something else altogether or the system fails to read
/// it, [`VerifyError::Cancelled`], and [`VerifyError::Scratch`].
pub fn verify(
    path: &Path,
    level: Level,
    options: &VerifyOptions<'_>,
) -> Result<VerifyReport, VerifyError> {
    run::run(&LedgerFile::open(path)?, level, options)
}
