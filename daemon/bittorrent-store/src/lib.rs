//! The content of one torrent on disk: a block counts as stored only once it is proven, and as claimed only once it
//! is durable.
//!
//! Synchronous, with positioned I/O through one trait ([`Io`]), so that a test double can lose whatever was not synced.
//! Disk threads share a [`TorrentStore`] by `&self`. It knows nothing of peers or networks: the caller proves the
//! blocks that it marks as verified.
//!
//! Rooms, the lowest first: `disk` (files), `record` (claims and journal), `store` (one open generation), `create` (new
//! generations from local content), `reuse` (blocks from older generations).

mod bitmap;
pub mod create;
mod disk;
mod error;
mod record;
mod reuse;
mod space;
mod store;
mod sync;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod zeros;

pub use disk::io::{Identity, Io, IoFile, OpenMode, RealIo};
pub use disk::pages::{PAGE, page_aligned};
pub use disk::paths::names;
pub use error::StoreError;
pub use record::claims::claimed_blocks;
pub use reuse::{Clones, ReuseSources};
pub use space::required_space;
pub use store::{
    Checkpoint, Condition, DamagedBlock, Extent, Inspection, Recovery, Scrub, ScrubCursor,
    SharedFile, TorrentStore, Verification,
};
