//! The Nano node's LMDB ledger: consistent live copies, bounds-checked reading, verification. Knows neither archives nor torrents.
//!
//! - [`LiveLedger`] copies the ledger of a running node through LMDB, under the node's own lock.
//!   It is for the operator's own file: LMDB maps it and trusts it.
//! - [`LedgerFile`] reads pages with positioned reads and trusts nothing. It is for files that came
//!   from elsewhere; [`summarize`] and [`verify`] are built on it.
//! - [`scrub_copy`] takes out of a copy what is the node's own business, before it is published.
//! - [`synthetic`] invents ledgers for demonstrations and tests.

mod blocks;
mod bytes;
mod findings;
mod live;
mod lmdb;
mod random;
mod scrub_private;
mod state;
mod summary;
pub mod synthetic;
mod verify;

pub use blocks::network::{Network, UnknownNetwork};
pub use blocks::schema::minimum_node_version;
pub use blocks::sort::SortError;
pub use live::error::{CopyError, OpenError};
pub use live::{LiveLedger, clear_dead_readers, copy_exact};
pub use lmdb::error::LedgerError;
pub use lmdb::file::LedgerFile;
pub use lmdb::meta::{Meta, MetaFault, Tree};
pub use lmdb::page::PageFault;
pub use lmdb::tables::Table;
pub use lmdb::walk::{Entries, Row};
pub use scrub_private::{ScrubError, ScrubReport, scrub_copy};
pub use state::LedgerState;
pub use summary::succession::{LedgerPosition, Regression, regression};
pub use summary::{LedgerOutline, LedgerSummary, TableSummary, outline, summarize};
pub use verify::{
    Check, CheckOutcome, Level, Policy, Sample, StageProgress, VerifyError, VerifyOptions,
    VerifyReport, verify,
};
