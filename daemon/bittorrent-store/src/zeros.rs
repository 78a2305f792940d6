//! Hashing zeros that are not on the disk.

use sha1::{Digest as _, Sha1};

/// Feeds zeros to a SHA-1.
pub(crate) fn hash_zeros(sha1: &mut Sha1, mut count: usize) {
    const ZEROS: [u8; 16 << 10] = [0; 16 << 10];
    while count > 0 {
        let some = ZEROS.split_at(count.min(ZEROS.len())).0;
        sha1.update(some);
        count -= some.len();
    }
}
