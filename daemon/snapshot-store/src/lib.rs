//! The data directory on disk, synchronous and by name: this crate starts no task or thread, opens no socket, and knows neither the command line nor the
//! configuration. It has snapshots, their marks and records, `current/`, and what may be removed.
//!
//! - [`layout`]: the name of every file below a data directory.
//! - [`DataDir`]: opens a data directory, locks it, and switches `current/`.
//! - [`SnapshotDir`]: the directory of one snapshot; [`Mark`]: what is marked there by an empty file.
//! - [`Entry`]: what [`open`] finds in such a directory; [`repair`] makes it usable again.
//! - [`retention`]: which snapshots may be removed.
//! - [`inventory`]: the list of snapshots for people and programs.
//! - [`LedgerRecord`], [`SnapshotInfo`], [`ScrubProgress`], [`BuildRecord`]: the records in JSON.
//! - [`space`]: free space that a data directory needs.

mod build_record;
mod current;
mod data_dir;
mod error;
mod incoming;
pub mod inventory;
pub mod layout;
mod ledger_file;
mod ledger_record;
mod marks;
pub mod repair;
pub mod retention;
mod scrub_progress;
mod set_aside;
mod snapshot_dir;
mod snapshot_info;
mod snapshots;
pub mod space;

pub use build_record::{BuildRecord, Stage};
pub use current::StreamName;
pub use data_dir::{DataDir, DirLock, StoreLock};
pub use error::{SnapshotStoreError, is_out_of_space, is_temporary, shortage_of};
pub use ledger_file::ledger_file;
pub use ledger_record::{ARCHIVE_FAULT, Counts, LedgerRecord};
pub use marks::Mark;
pub use scrub_progress::ScrubProgress;
pub use snapshot_dir::SnapshotDir;
pub use snapshot_info::SnapshotInfo;
pub use snapshots::{Entry, Generation, open, open_and_repair};
