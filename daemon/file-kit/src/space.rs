//! Free bytes of file systems, and bytes that files occupy.

use std::fmt;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::error::FileError;

/// Bytes that `st_blocks` counts in, on every file system.
const STAT_BLOCK: u64 = 512;

/// Displays a number of bytes in the unit that gives three digits: `17 B`, `4.00 MiB`, `121 GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bytes(
    /// The number.
    pub u64,
);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        for unit in ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"] {
            // 999.5 would be printed as 1000: the next unit has it in three digits.
            if value < 999.5 || unit == "EiB" {
                let digits = match value {
                    _ if unit == "B" => 0,
                    value if value < 9.995 => 2,
                    value if value < 99.95 => 1,
                    _ => 0,
                };
                return write!(f, "{value:.digits$} {unit}");
            }
            value /= 1024.0;
        }
        Ok(())
    }
}

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
    fn bytes_have_three_digits() {
        let cases = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "0.98 KiB"),
            (4 << 20, "4.00 MiB"),
            (10 * 1024 - 1, "10.0 KiB"),
            (121 << 30, "121 GiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(Bytes(bytes).to_string(), text);
        }
    }

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
