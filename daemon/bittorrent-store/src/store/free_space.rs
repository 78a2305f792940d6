//! The disk space that a generation still needs.

use bittorrent_protocol::{BLOCK_LEN, MerkleHash};

use super::TorrentStore;
use crate::error::{Operation, StoreError};

/// Bytes of a window of journal, and of the rest of the records.
const RECORDS: u64 = 2 << 20;

/// Does the work of [`TorrentStore::space_needed`].
pub(super) fn needed(store: &TorrentStore) -> Result<u64, StoreError> {
    let missing = store.missing_bytes();
    if missing == 0 {
        return Ok(0);
    }
    let mut content = missing;
    if !store.is_cloned() {
        let contents = store.files.contents();
        let mut holes = 0;
        for file in contents.all() {
            let allocated = contents.get(file)?.allocated();
            let allocated = allocated.map_err(contents.failed(Operation::Inspect, file))?;
            holes += store.layout().file(file).length().saturating_sub(allocated);
        }
        // Verified holes stay holes.
        content = missing.min(holes);
    }
    let leaves = missing.div_ceil(BLOCK_LEN.into()) * MerkleHash::LEN as u64;
    // The claims exist twice while they are replaced.
    let claims = store.layout().block_numbers() / 4 + RECORDS;
    Ok(content + leaves + claims)
}
