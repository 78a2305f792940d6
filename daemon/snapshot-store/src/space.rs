//! Free space, asked for before a transfer begins: one that cannot end should not begin, and one that continues
//! should leave space to others.

use std::error::Error;
use std::fmt;
use std::path::{Path, PathBuf};

use file_kit::space::{Bytes, FileSystem, occupied};

use crate::data_dir::DataDir;
use crate::error::Result;

/// Bytes kept free by default: logs and the node need space too.
const RESERVE: u64 = 1 << 30;

/// On a small disk, at most one part in this many is kept free.
const SMALL_DISK_SHARE: u64 = 20;

/// A directory, and how many bytes to keep free on its file system.
#[derive(Debug, Clone, Copy)]
pub struct Location<'a> {
    dir: &'a Path,
    /// Bytes; `None` means the default.
    reserve: Option<u64>,
}

impl<'a> From<&'a Path> for Location<'a> {
    fn from(dir: &'a Path) -> Self {
        Self { dir, reserve: None }
    }
}

impl<'a> From<&'a PathBuf> for Location<'a> {
    fn from(dir: &'a PathBuf) -> Self {
        dir.as_path().into()
    }
}

impl<'a> From<&'a DataDir> for Location<'a> {
    fn from(data: &'a DataDir) -> Self {
        Self {
            dir: data.root(),
            reserve: data.reserve(),
        }
    }
}

/// Returns the bytes to keep free on the file system of a directory.
///
/// # Errors
///
/// When the file system cannot be inspected.
pub fn reserve<'a>(location: impl Into<Location<'a>>) -> Result<u64> {
    let Location { dir, reserve } = location.into();
    if let Some(chosen) = reserve {
        return Ok(chosen);
    }
    let size = FileSystem::of(dir)?.size();
    Ok(RESERVE.min(size / SMALL_DISK_SHARE))
}

/// Returns the approximate size of a snapshot of one file of `length` bytes: the content, 32 bytes for each block of
/// 16 KiB, and its metadata.
pub fn of_file(length: u64) -> u64 {
    length + length / 512 + (4 << 20)
}

/// Returns what is still to be written of `total` bytes, of which the directory `partial` may occupy some already.
/// Sparse files count by what they occupy.
pub fn remaining(total: u64, partial: &Path) -> u64 {
    total.saturating_sub(occupied(partial))
}

/// Returns the size of the file system of a directory: no file there can be larger.
///
/// # Errors
///
/// When the file system cannot be inspected.
pub fn of_disk(dir: &Path) -> Result<u64> {
    Ok(FileSystem::of(dir)?.size())
}

/// Too little free space for an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// What needs the space.
    pub purpose: &'static str,
    /// Bytes that it needs.
    pub needed: u64,
    /// Bytes to keep free besides.
    pub reserve: u64,
    /// Bytes that are free.
    pub free: u64,
    /// The directory.
    pub dir: PathBuf,
}

impl Shortage {
    /// Returns the bytes to free.
    pub fn missing(&self) -> u64 {
        self.needed
            .saturating_add(self.reserve)
            .saturating_sub(self.free)
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the disk is too small: {} needs {} and {} stay free, but {} has {}; free {} or name another data \
             directory with --data-dir",
            self.purpose,
            Bytes(self.needed),
            Bytes(self.reserve),
            self.dir.display(),
            Bytes(self.free),
            Bytes(self.missing()),
        )
    }
}

impl Error for Shortage {}

/// Fails with a [`Shortage`] unless `needed` bytes are free above the reserve.
///
/// # Errors
///
/// The shortage, or when the file system cannot be inspected.
pub fn ensure<'a>(
    location: impl Into<Location<'a>>,
    needed: u64,
    purpose: &'static str,
) -> Result<()> {
    match shortage(location, needed, purpose)? {
        Some(shortage) => Err(shortage.into()),
        None => Ok(()),
    }
}

/// Returns what is missing for `needed` bytes above the reserve, if anything is.
///
/// # Errors
///
/// When the file system cannot be inspected.
pub fn shortage<'a>(
    location: impl Into<Location<'a>>,
    needed: u64,
    purpose: &'static str,
) -> Result<Option<Shortage>> {
    let location = location.into();
    let found = Shortage {
        purpose,
        needed,
        reserve: reserve(location)?,
        free: FileSystem::of(location.dir)?.free(),
        dir: location.dir.to_owned(),
    };
    Ok((found.missing() > 0).then_some(found))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data_dir::tests::data_dir;
    use crate::error::{SnapshotStoreError, is_out_of_space};

    fn short(free: u64, needed: u64, reserve: u64) -> Shortage {
        Shortage {
            purpose: "the snapshot",
            needed,
            reserve,
            free,
            dir: "/data".into(),
        }
    }

    #[test]
    fn the_error_has_the_numbers() {
        let text = short(1 << 30, 3 << 30, 64 << 20).to_string();
        for part in [
            "the snapshot needs 3.00 GiB",
            "64.0 MiB stay free",
            "/data has 1.00 GiB",
            "free 2.06 GiB",
        ] {
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(short(105, 5, 100).missing(), 0);
        assert_eq!(short(104, 5, 100).missing(), 1);
        assert_eq!(short(u64::MAX, u64::MAX, u64::MAX).missing(), 0);
    }

    #[test]
    fn the_reserve_is_a_share_of_a_small_disk_or_what_was_chosen() {
        let (_temp, data) = data_dir();
        let share = FileSystem::of(data.root()).unwrap().size() / SMALL_DISK_SHARE;
        assert_eq!(reserve(&data).unwrap(), share.min(RESERVE));
        let data = data.with_reserve(Some(7));
        assert_eq!(reserve(&data).unwrap(), 7);
        assert!(ensure(&data, 0, "nothing").is_ok());
        let error = ensure(&data, u64::MAX, "everything").unwrap_err();
        assert!(is_out_of_space(&error), "{error:?}");
        assert!(matches!(error, SnapshotStoreError::Shortage(_)));
    }

    #[test]
    fn what_is_on_disk_is_not_needed_again() {
        let (temp, _data) = data_dir();
        let path = temp.path().join("content");
        assert_eq!(remaining(1 << 20, &path), 1 << 20);
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(1 << 30).unwrap();
        assert_eq!(remaining(1 << 20, &path), 1 << 20, "a hole takes nothing");
        std::fs::write(&path, vec![1; 1 << 20]).unwrap();
        assert_eq!(remaining(1 << 20, &path), 0);
    }
}
