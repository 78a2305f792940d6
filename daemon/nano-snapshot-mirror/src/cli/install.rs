//! `install`.

use std::path::PathBuf;

use clap::Args;

use super::{CommonArgs, LedgerPolicyArgs, SaltArgs};

/// `install`.
#[derive(Debug, Args)]
pub(crate) struct InstallArgs {
    /// The data directory of a stopped node
    #[arg(long, value_name = "DIR")]
    pub(crate) to: PathBuf,
    /// Exchange the node's ledger with the backup that the last install made
    #[arg(long, conflicts_with = "ledger")]
    pub(crate) rollback: bool,
    /// Install even if the node's ledger is newer, with more cemented blocks, or as many and more blocks
    #[arg(long)]
    pub(crate) allow_older: bool,
    /// The ledger to install [default: the current snapshot, or else data.ldb in the data directory]
    #[arg(value_name = "LEDGER")]
    pub(crate) ledger: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) salt: SaltArgs,
    #[command(flatten)]
    pub(crate) policy: LedgerPolicyArgs,
    #[command(flatten)]
    pub(crate) common: CommonArgs,
}
