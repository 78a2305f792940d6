//! Collecting the outcomes of checks.

use crate::lmdb::error::LedgerError;
use crate::verify::error::VerifyError;
use crate::verify::report::{Check, CheckOutcome};

/// Collects outcomes. A contradiction in the pages becomes a failure of the check that found it. A read error of the
/// operating system ends the verification.
#[derive(Default)]
pub(super) struct Checks(Vec<Check>);

impl Checks {
    /// The outcomes in the order they were added.
    pub(super) fn into_vec(self) -> Vec<Check> {
        self.0
    }

    pub(super) fn add(&mut self, name: &'static str, outcome: CheckOutcome) {
        self.0.push(Check { name, outcome });
    }

    /// Records the outcome and returns the value.
    pub(super) fn run<T, E: Into<VerifyError>>(
        &mut self,
        name: &'static str,
        result: Result<(CheckOutcome, T), E>,
    ) -> Result<Option<T>, VerifyError> {
        match result.map_err(Into::into) {
            Ok((outcome, value)) => {
                self.add(name, outcome);
                Ok(Some(value))
            }
            Err(VerifyError::Ledger(
                error @ (LedgerError::Damaged { .. } | LedgerError::Record { .. }),
            )) => {
                self.add(name, failed("readable pages and rows", describe(&error)));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

pub(super) fn passed(found: impl Into<String>) -> CheckOutcome {
    CheckOutcome::Passed {
        found: found.into(),
    }
}

pub(super) fn failed(expected: impl Into<String>, found: impl Into<String>) -> CheckOutcome {
    CheckOutcome::Failed {
        expected: expected.into(),
        found: found.into(),
    }
}

pub(super) fn skipped(reason: impl Into<String>) -> CheckOutcome {
    CheckOutcome::Skipped {
        reason: reason.into(),
    }
}

/// Passed with `found` when `fault` is `None`.
pub(super) fn unless(
    fault: Option<String>,
    expected: &str,
    found: impl FnOnce() -> String,
) -> CheckOutcome {
    match fault {
        None => passed(found()),
        Some(fault) => failed(expected, fault),
    }
}

fn describe(error: &LedgerError) -> String {
    match error {
        LedgerError::Damaged { tree, source, .. } => format!("in {tree}: {source}"),
        other => other.to_string(),
    }
}
