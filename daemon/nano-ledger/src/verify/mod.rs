//! Verification of a ledger file, without a node.
//!
//! The levels differ in cost, and each includes the checks of those below it. No level proves that the network
//! confirmed the content: only other nodes or a trusted authority can. A node opens a ledger that passes
//! [`Level::L2`], although a few blocks outside of the sample may be forged. In a ledger that passes [`Level::L3`]
//! every block is genuine, and everything that the node derives from blocks is correct.
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
pub use report::{Check, CheckOutcome, Level, VerifyReport};

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
/// [`VerifyError::Ledger`] when the file is not a ledger or cannot be read, [`VerifyError::Cancelled`], and
/// [`VerifyError::Sort`].
pub fn verify(
    path: &Path,
    level: Level,
    options: &VerifyOptions<'_>,
) -> Result<VerifyReport, VerifyError> {
    run::run(&LedgerFile::open(path)?, level, options)
}
