//! `attest` and `rotate`: what holders of keys do beside producing.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use nano_ledger::Level;

use super::{CommonArgs, DhtArgs, SaltArgs};

/// `attest`.
#[derive(Debug, Args)]
pub(crate) struct AttestArgs {
    /// The held snapshot: its v2 info-hash, or as much of its beginning as is needed [default: the
    /// current one of the stream]
    #[arg(value_name = "ID")]
    pub(crate) snapshot: Option<String>,
    /// The key file that keygen made: readable by its owner alone
    #[arg(long, value_name = "FILE", required_unless_present = "dry_run")]
    pub(crate) key: Option<PathBuf>,
    /// How deep the ledger must have been looked into; where it was not, that is done first
    #[arg(long, value_enum, ignore_case = true, default_value_t = AttestLevel::L2)]
    pub(crate) level: AttestLevel,
    /// Which of several streams of the configuration
    #[arg(long, value_name = "NAME")]
    pub(crate) stream: Option<String>,
    /// Only say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Publish although no pointer of this key was found on the network or on disk
    #[arg(long)]
    pub(crate) first: bool,
    /// Attest although the ledger has fewer cemented blocks than that of the snapshot attested last, or as many and
    /// fewer blocks
    #[arg(long)]
    pub(crate) allow_older: bool,
    #[command(flatten)]
    pub(crate) dht: DhtArgs,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}

/// How deep an attested ledger was looked into.
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
    /// The file of the key that hands over
    #[arg(long, value_name = "FILE")]
    pub(crate) old: PathBuf,
    /// The file of the key that takes over
    #[arg(long, value_name = "FILE")]
    pub(crate) new: PathBuf,
    /// Only say what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) salt: SaltArgs,
    #[command(flatten)]
    pub(crate) dht: DhtArgs,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}
