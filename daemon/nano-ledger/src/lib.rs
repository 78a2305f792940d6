//! The Nano node's LMDB ledger: consistent live copies, bounds-checked reading, verification.

mod bytes;
mod env;
mod error;
mod file;
mod free_list;
mod live;
mod meta;
mod page;
mod scan;
mod schema;
mod summary;
pub mod synthetic;
mod verify;
mod walk;

pub use error::{CopyError, LedgerError, OpenError};
pub use file::{LedgerFile, Table};
pub use live::{LiveLedger, copy_exact};
pub use meta::{Meta, MetaFault, Tree};
pub use page::PageFault;
pub use summary::{LedgerSummary, Network, TableSummary, summarize};
pub use verify::{Check, Level, Outcome, Report, verify};
pub use walk::Entries;
