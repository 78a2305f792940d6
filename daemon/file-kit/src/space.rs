//! Free bytes of file systems, and bytes that files occupy.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::error::FileError;

/// Bytes that `st_blocks` counts in, on every file system.
const STAT_BLOCK: u64 = 512;

/// The size of a file system and what is free of it, at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileSystem {
    size: u64,
    free: u64,
}

impl FileSystem {
    /// Asks the file system that a directory is on.
    ///
    /// # Errors
    ///
    /// [`FileError::InspectFileSystem`].
    pub fn of(dir: &Path) -> Result<Self, FileError> {
        let stat = rustix::fs::statvfs(dir).map_err(|errno| FileError::InspectFileSystem {
            path: dir.to_owned(),
            source: errno.into(),
        })?;
        let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
        Ok(Self {
            size: bytes(stat.f_blocks),
            free: bytes(stat.f_bavail),
        })
    }

    /// Returns its whole size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the bytes that an ordinary user can still write.
    pub fn free(&self) -> u64 {
        self.free
    }
}

/// Returns the bytes that a file occupies, or a directory with everything in it. Holes occupy nothing; what cannot be
/// inspected counts as nothing.
pub fn occupied(path: &Path) -> u64 {
    let Ok(metadata) = path.symlink_metadata() else {
        return 0;
    };
    let own = metadata.blocks() * STAT_BLOCK;
    if !metadata.is_dir() {
        return own;
    }
    let entries = path.read_dir().into_iter().flatten().flatten();
    own + entries.map(|entry| occupied(&entry.path())).sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_system_is_not_smaller_than_its_free_space() {
        let temp = tempfile::tempdir().unwrap();
        let found = FileSystem::of(temp.path()).unwrap();
        assert!(
            found.size() > 0 && found.free() <= found.size(),
            "{found:?}"
        );
        let error = FileSystem::of(&temp.path().join("missing")).unwrap_err();
        assert!(
            matches!(error, FileError::InspectFileSystem { .. }),
            "{error}"
        );
    }

    #[test]
    fn holes_occupy_nothing_and_directories_count_what_is_in_them() {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("dir");
        std::fs::create_dir(&dir).unwrap();
        let before = occupied(temp.path());
        let sparse = std::fs::File::create(dir.join("sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        std::fs::write(dir.join("full"), vec![7; 1 << 20]).unwrap();
        let grown = occupied(temp.path()) - before;
        assert!((1 << 20..1 << 24).contains(&grown), "{grown}");
        assert_eq!(occupied(&dir.join("missing")), 0);
    }
}
