//! How much room a generation needs, and how much there is.

use std::sync::atomic::Ordering;

use bittorrent_protocol::{BLOCK_LEN, MerkleHash};

use super::TorrentStore;
use crate::error::StoreError;

/// Room on the file system of a generation, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// What may still be taken until the generation is complete, at most.
    pub needed: u64,
    /// What an ordinary user can still write.
    pub free: u64,
}

impl Room {
    /// How much is missing.
    pub const fn shortage(self) -> u64 {
        self.needed.saturating_sub(self.free)
    }
}

impl TorrentStore {
    /// Bytes that may still be taken on the disk until the generation is complete: content that has no
    /// place yet, leaf hashes, and what claims them. Of content that began as a clone every missing
    /// block counts, as writing it ends the sharing; what stands in its place already is known only once
    /// [`Self::adopt`] has seen it, so this can be far too much before.
    ///
    /// # Errors
    ///
    /// When a file cannot be inspected.
    pub fn space_needed(&self) -> Result<u64, StoreError> {
        let missing = self.missing_bytes();
        if missing == 0 {
            return Ok(0);
        }
        let mut content = missing;
        if !self.is_cloned() {
            let mut holes = 0;
            for file in self.contents.all() {
                let allocated = self.contents.get(file)?.allocated();
                let allocated = allocated.map_err(self.contents.failed("inspect", file))?;
                holes += self.layout().file(file).length().saturating_sub(allocated);
            }
            // Holes that are verified stay holes.
            content = missing.min(holes);
        }
        let leaves = missing.div_ceil(BLOCK_LEN.into()) * MerkleHash::LEN as u64;
        // The bitmap twice, while it is replaced, and a window of journal.
        let claims = self.layout().block_numbers() / 4 + (2 << 20);
        Ok(content + leaves + claims)
    }

    /// Whether content files began as clones of held ones, and the generation is not complete yet.
    pub fn is_cloned(&self) -> bool {
        self.cloned.load(Ordering::Relaxed)
    }

    /// [`Self::space_needed`], and what there is.
    ///
    /// # Errors
    ///
    /// When files or the file system cannot be inspected.
    pub fn room(&self) -> Result<Room, StoreError> {
        let root = self.paths.root();
        let free = self
            .io
            .free_space(root)
            .map_err(StoreError::io("inspect the file system of", root))?;
        Ok(Room {
            needed: self.space_needed()?,
            free,
        })
    }
}
