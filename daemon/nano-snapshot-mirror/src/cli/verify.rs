//! `verify`, and what every command asks of ledgers.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use nano_ledger::Level;

use super::CommonArgs;
use crate::config::written;

/// `verify`.
#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    /// A ledger file, or one snapshot's directory, instead of all snapshots held
    #[arg(value_name = "PATH")]
    pub(crate) path: Option<PathBuf>,
    /// How deep to look into ledgers
    #[arg(long, value_enum, ignore_case = true, default_value_t = VerifyLevel::L1)]
    pub(crate) level: VerifyLevel,
    /// Refuse ledgers of other store versions: one, or a range (21-24)
    #[arg(long, value_name = "VERSION", value_parser = written::versions)]
    pub(crate) store_version: Option<RangeInclusive<u32>>,
    /// Number that picks the sample of level l2, to repeat one [default: random]
    #[arg(long, value_name = "NUMBER")]
    pub(crate) seed: Option<u64>,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// How deep `verify` looks into ledgers; each level does what those above it do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum VerifyLevel {
    /// Milliseconds: the file is whole, a ledger, and of a store version that is known.
    L0,
    /// Seconds: every page is accounted for, counts agree, the genesis block is there.
    L1,
    /// Minutes: balances and receivables sum up to all there is, weights and confirmation heights
    /// agree, and the newest blocks of a random sample of accounts are genuine.
    L2,
    /// Hours: every block is genuine and everything a node derives from blocks is right. Sorts in the
    /// directory of the ledger, up to 340 bytes a block.
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

/// What a ledger must be before it is used.
#[derive(Debug, Clone, Args)]
pub(crate) struct LedgerPolicyArgs {
    /// How deep to look into a ledger before it is used; see `verify --help`
    #[arg(long = "verify-level", value_name = "L0|L1|L2|L3")]
    pub(crate) level: Option<String>,
    /// Take ledgers of this store version or range (21-24) only
    #[arg(long = "store-version", value_name = "VERSION")]
    pub(crate) store_versions: Option<String>,
}
