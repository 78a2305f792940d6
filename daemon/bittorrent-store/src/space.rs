//! Room on the disk.

use std::path::Path;

use bittorrent_protocol::metainfo::Metainfo;
use bittorrent_protocol::{BLOCK_LEN, MerkleHash};

use crate::error::StoreError;
use crate::io::{Io as _, RealIo};

/// Bytes that a whole generation takes: content, leaf hashes, and what describes them.
pub fn required_space(metainfo: &Metainfo) -> u64 {
    let layout = metainfo.info().layout();
    let blocks = layout.content_length().div_ceil(BLOCK_LEN.into());
    let hashes = blocks * MerkleHash::LEN as u64;
    // The torrent and its layers, the bitmap twice while it is replaced, one window of journal.
    let description = metainfo.encode().len() as u64 + layout.block_numbers() / 4 + (2 << 20);
    layout.content_length() + hashes + description
}

/// Bytes that an ordinary user can still write to the file system of a directory.
///
/// # Errors
///
/// When the file system cannot be asked.
pub fn free_space(directory: &Path) -> Result<u64, StoreError> {
    RealIo
        .free_space(directory)
        .map_err(StoreError::io("inspect the file system of", directory))
}
