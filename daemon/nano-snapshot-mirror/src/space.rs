//! Room on the disk, asked before starting: a transfer that cannot end should not begin.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use crate::text::Bytes;

/// Kept free beyond what is needed, so that the file system does not end up full to the brim:
/// logs and the node need room too.
const RESERVE: u64 = 64 << 20;

/// About what a snapshot of a file of `length` bytes takes: the content, 32 bytes for each block of
/// 16 KiB, and its description.
pub(crate) fn of_file(length: u64) -> u64 {
    length + length / 512 + (4 << 20)
}

/// What is still to be written of `total` bytes of which the directory `partial`, if it exists,
/// takes some already. Sparse files count by what they occupy.
pub(crate) fn remaining(total: u64, partial: &Path) -> u64 {
    total.saturating_sub(occupied(partial))
}

/// Bytes that a file, or a directory with everything in it, takes on disk.
pub(crate) fn occupied(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let Ok(metadata) = path.symlink_metadata() else {
        return 0;
    };
    let own = metadata.blocks() * 512;
    if !metadata.is_dir() {
        return own;
    }
    let Ok(entries) = path.read_dir() else {
        return own;
    };
    own + entries
        .flatten()
        .map(|entry| occupied(&entry.path()))
        .sum::<u64>()
}

/// Bytes of the whole file system of `dir`: nothing there can be larger.
pub(crate) fn of_disk(dir: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(dir)
        .with_context(|| format!("cannot tell the size of the disk of {}", dir.display()))?;
    Ok(stat.f_blocks.saturating_mul(stat.f_frsize))
}

/// Fails unless the file system of `dir` has room for `needed` bytes.
pub(crate) fn ensure(dir: &Path, needed: u64, purpose: &str) -> Result<()> {
    check(dir, bittorrent_store::free_space(dir)?, needed, purpose)
}

fn check(dir: &Path, free: u64, needed: u64, purpose: &str) -> Result<()> {
    if free < needed.saturating_add(RESERVE) {
        bail!(
            "the disk is too small: {purpose} needs {} and {} stay free, but {} has {}; \
             free {} or choose another place with --data-dir",
            Bytes(needed),
            Bytes(RESERVE),
            dir.display(),
            Bytes(free),
            Bytes(needed.saturating_add(RESERVE) - free),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_has_the_numbers() {
        let error = check(Path::new("/data"), 1 << 30, 3 << 30, "the snapshot").unwrap_err();
        let text = error.to_string();
        for part in [
            "the snapshot needs 3.00 GiB",
            "/data has 1.00 GiB",
            "free 2.06 GiB",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert!(check(Path::new("/"), RESERVE + 5, 5, "x").is_ok());
        assert!(check(Path::new("/"), RESERVE + 4, 5, "x").is_err());
        assert!(check(Path::new("/"), u64::MAX, u64::MAX, "x").is_ok());
    }

    #[test]
    fn what_is_on_disk_is_not_needed_again() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("content");
        assert_eq!(remaining(1 << 20, &path), 1 << 20);
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(1 << 30).unwrap();
        assert_eq!(remaining(1 << 20, &path), 1 << 20, "a hole takes nothing");
        std::fs::write(&path, vec![1; 1 << 20]).unwrap();
        assert_eq!(remaining(1 << 20, &path), 0);
    }
}
