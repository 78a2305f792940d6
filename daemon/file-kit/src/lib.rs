//! Blocking helpers for files by name: after a crash or a power cut, a file has all of its old content or all of its
//! new content.
//!
//! The crate knows nothing of torrents, ledgers or data directories, and starts no task or thread.
//!
//! - [`fs`]: atomic replacement, durable renames, removal that accepts a missing file.
//! - [`json_file`]: one value per file, as JSON.
//! - [`recorded_time`]: times read from files, and those in the future among them.
//! - [`space`]: free and occupied bytes.
//! - [`Temporary`]: a large file that is written under a temporary name and then renamed.

mod error;
pub mod fs;
pub mod json_file;
pub mod recorded_time;
pub mod space;
mod temporary;

pub use error::FileError;
pub use space::Bytes;
pub use temporary::Temporary;
