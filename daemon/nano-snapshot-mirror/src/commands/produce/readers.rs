//! `clear-readers`: removes readers of dead processes from the lock file of a node's ledger.

use anyhow::Result;
use service_kit::output::outln;
use tracing::info;

use crate::cli::ClearReadersArgs;
use crate::commands::outcome::Outcome;

/// Clears the dead readers and prints how many there were.
pub(crate) fn run(args: &ClearReadersArgs) -> Result<Outcome> {
    let cleared = nano_ledger::clear_dead_readers(&args.ledger)?;
    outln!("cleared: {cleared}");
    if cleared > 0 {
        info!(
            "readers of dead processes kept the node from re-using pages of {}; it re-uses them from its next \
             commit on, and its file does not shrink",
            args.ledger.display()
        );
    }
    Ok(Outcome::Done)
}
