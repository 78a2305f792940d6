//! `pin` and `unpin`: retention does not remove a pinned snapshot.

use anyhow::Result;
use service_kit::output::outln;
use snapshot_store::DataDir;

use crate::cli::PinArgs;
use crate::config::Config;

/// Pins or unpins a snapshot, and prints whether the mark changed.
pub(crate) fn run(args: &PinArgs, pinned: bool, config: &Config) -> Result<()> {
    let data = DataDir::existing(config.data_dir.as_deref())?;
    let id = data.find(&args.snapshot)?;
    let changed = data.pin(id, pinned)?;
    let again = if changed { "" } else { " already" };
    let what = if pinned { "pinned" } else { "not pinned" };
    outln!("{id}: {what}{again}");
    Ok(())
}
