//! Torrent content on disk: verified blocks, leaf hashes, durable progress.
//!
//! Synchronous and positioned: a [`TorrentStore`] is shared by disk threads, which call it with
//! `&self`. It knows nothing of peers or networks; what it is told to be proven it believes.

mod bitmap;
pub mod create;

mod error;
mod files;
mod io;
mod journal;
mod pages;
mod paths;
mod progress;
mod reuse;
mod space;
mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use error::StoreError;
pub use io::{Identity, Io, IoFile, OpenMode, RealIo};
pub use pages::{PAGE, page_aligned};
pub use progress::claimed_blocks;
pub use reuse::ReuseSources;
pub use space::{free_space, required_space};
pub use store::{
    Checkpoint, Clones, Condition, Damage, Extent, Inspection, Recovery, Room, Scrub, ScrubCursor,
    SharedFile, TorrentStore, Verification,
};
