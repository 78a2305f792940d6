//! The Nano node's LMDB ledger: consistent live copies, bounds-checked reading, verification. Knows neither archives nor torrents.
//!
//! - [`LiveLedger`] copies the ledger of a running node through LMDB, under the node's own lock.
//!   It is for the operator's own file: LMDB maps it and trusts it.
//! - [`LedgerFile`] reads pages with positioned reads and trusts nothing. It is for files that came
//!   from elsewhere; [`summarize`] and [`verify`] are built on it.
//! - [`scrub_copy`] takes out of a copy what is the node's own business, before it is published.
//! - [`synthetic`] invents ledgers for demonstrations and tests.

mod block;
mod bytes;
mod chain;
mod env;
mod error;
mod file;
mod free_list;
mod live;
mod meta;
mod page;
mod proof;
mod scan;
mod schema;
mod scrub;
mod sort;
mod state;
mod succession;
mod summary;
pub mod synthetic;
mod verify;
mod walk;

pub use error::{CopyError, LedgerError, OpenError};
pub use file::{LedgerFile, Table};
pub use live::{LiveLedger, clear_dead_readers, copy_exact};
pub use meta::{Meta, MetaFault, Tree};
pub use page::PageFault;
pub use schema::minimum_node_version;
pub use scrub::{ScrubError, ScrubReport, scrub_copy};
pub use state::LedgerState;
pub use succession::{Regression, Standing, regression};
pub use summary::{
    LedgerSummary, Network, Outline, TableSummary, UnknownNetwork, outline, summarize,
};
pub use verify::{
    Check, Level, Outcome, Policy, Progress, Report, Sample, VerifyError, VerifyOptions, verify,
};
pub use walk::{Entries, Row};
