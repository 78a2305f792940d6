//! `verify`, and the verification flags of every command that uses ledgers.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use nano_ledger::Level;

use super::CommonArgs;
use crate::config::written;

/// `verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// A ledger file, or the directory of one snapshot, instead of all stored snapshots
    #[arg(value_name = "PATH")]
    pub(crate) path: Option<PathBuf>,
    /// The level of verification of ledgers
    #[arg(long, value_enum, ignore_case = true, default_value_t = VerifyLevel::L1)]
    pub(crate) level: VerifyLevel,
    /// Refuse ledgers of other store versions: one, or a range (21-24)
    #[arg(long, value_name = "VERSION", value_parser = written::versions)]
    pub(crate) store_version: Option<RangeInclusive<u32>>,
    /// The seed of the random sample of level l2, to repeat a run [default: random]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) seed: Option<u64>,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// The levels of verification; each one includes those above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum VerifyLevel {
    /// Milliseconds: the file is complete, a ledger, and of a known store version.
    L0,
    /// Seconds: every page is accounted for, counts agree, the genesis block is present.
    L1,
    /// Minutes: balances and receivables add up to the total supply, weights and confirmation heights agree, and the
    /// newest blocks of a random sample of accounts are genuine.
    L2,
    /// Hours: every block is genuine and everything that a node derives from blocks is correct. Sorts in the
    /// directory of the ledger and needs up to 340 bytes a block for it.
    L3,
}

impl From<VerifyLevel> for Level {
    fn from(level: VerifyLevel) -> Self {
        match level {
            VerifyLevel::L0 => Self::L0,
            VerifyLevel::L1 => Self::L1,
            VerifyLevel::L2 => Self::L2,
            VerifyLevel::L3 => Self::L3,
        }
    }
}

/// The requirements for a ledger before it is used.
#[derive(Debug, Clone, Args)]
pub(crate) struct LedgerPolicyArgs {
    /// The level of verification before a ledger is used; see `verify --help`
    #[arg(long = "verify-level", value_name = "L0|L1|L2|L3")]
    pub(crate) level: Option<String>,
    /// Accept only ledgers of this store version or range (21-24)
    #[arg(long = "store-version", value_name = "VERSION")]
    pub(crate) store_versions: Option<String>,
}
