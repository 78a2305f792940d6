//! Genuine ledgers and helpers shared by the tests.

#![allow(dead_code, reason = "every test file uses its own part")]

use std::path::{Path, PathBuf};

use nano_ledger::{CheckOutcome, Sample, VerifyOptions, VerifyReport};

/// The path of a file under `tests/data`.
pub(crate) fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data")
        .join(name)
}

/// The outcome of the check called `name`.
pub(crate) fn outcome<'a>(report: &'a VerifyReport, name: &str) -> &'a CheckOutcome {
    &report
        .checks
        .iter()
        .find(|check| check.name == name)
        .expect(name)
        .outcome
}

/// Names of the failed checks.
pub(crate) fn failures(report: &VerifyReport) -> Vec<&'static str> {
    report.failures().map(|check| check.name).collect()
}

/// Everything but the sample: blocks of invented ledgers are random bytes.
pub(crate) fn without_sample() -> VerifyOptions<'static> {
    VerifyOptions {
        sample: Sample {
            accounts: 0,
            ..Sample::default()
        },
        ..VerifyOptions::default()
    }
}
