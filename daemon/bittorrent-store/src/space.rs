//! The space that a generation takes on disk.

use bittorrent_protocol::metainfo::Metainfo;
use bittorrent_protocol::{BLOCK_LEN, MerkleHash};

/// Returns the bytes that a complete generation takes: content, leaf hashes, torrent file and records.
pub fn required_space(metainfo: &Metainfo) -> u64 {
    let layout = metainfo.info().layout();
    let blocks = layout.content_length().div_ceil(BLOCK_LEN.into());
    let hashes = blocks * MerkleHash::LEN as u64;
    // The torrent and its layers, the bitmap twice while it is replaced, one window of journal.
    let description = metainfo.encode().len() as u64 + layout.block_numbers() / 4 + (2 << 20);
    layout.content_length() + hashes + description
}
