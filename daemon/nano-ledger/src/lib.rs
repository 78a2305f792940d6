//! The Nano node's LMDB ledger: consistent live copies, bounds-checked reading, verification.

mod error;
mod live;
mod summary;
pub mod synthetic;
mod verify;

pub use error::{CopyError, LedgerError, OpenError};
pub use live::LiveLedger;
pub use summary::{LedgerSummary, Network, TableSummary, summarize};
pub use verify::{Check, Level, Outcome, Report, verify};
