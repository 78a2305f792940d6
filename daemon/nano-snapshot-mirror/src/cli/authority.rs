//! `attest` and `rotate`: what key holders do apart from producing.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use nano_ledger::Level;

use super::{CommonArgs, DhtArgs, SaltArgs};

/// `attest`.
#[derive(Debug, Args)]
pub(crate) struct AttestArgs {
    /// The stored snapshot: its v2 info-hash, or a unique prefix of it [default: the current one of the stream]
    #[arg(value_name = "ID")]
    pub(crate) snapshot: Option<String>,
    /// The key file that keygen made; only its owner may have access
    #[arg(long, value_name = "FILE", required_unless_present = "dry_run")]
    pub(crate) key: Option<PathBuf>,
    /// The level at which the ledger must have been verified; a ledger that was not is verified first
    #[arg(long, value_enum, ignore_case = true, default_value_t = AttestLevel::L2)]
    pub(crate) level: AttestLevel,
    /// The stream, if the configuration has several
    #[arg(long, value_name = "NAME")]
    pub(crate) stream: Option<String>,
    /// Only show what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Publish even if no pointer of this key is found on the network or on disk
    #[arg(long)]
    pub(crate) first: bool,
    /// Attest even if the ledger is older than that of the snapshot attested last, with fewer cemented blocks, or as
    /// many and fewer blocks
    #[arg(long)]
    pub(crate) allow_older: bool,
    #[command(flatten)]
    pub(crate) dht: DhtArgs,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// The verification level of an attested ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AttestLevel {
    /// Minutes: balances add up, weights and heights agree, a sample of blocks is genuine.
    L2,
    /// Hours: every block is genuine.
    L3,
}

impl From<AttestLevel> for Level {
    fn from(level: AttestLevel) -> Self {
        match level {
            AttestLevel::L2 => Self::L2,
            AttestLevel::L3 => Self::L3,
        }
    }
}

/// `rotate`.
#[derive(Debug, Args)]
pub(crate) struct RotateArgs {
    /// The key file of the key that is replaced
    #[arg(long, value_name = "FILE")]
    pub(crate) old: PathBuf,
    /// The key file of the key that replaces it
    #[arg(long, value_name = "FILE")]
    pub(crate) new: PathBuf,
    /// Only show what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) salt: SaltArgs,
    #[command(flatten)]
    pub(crate) dht: DhtArgs,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}
