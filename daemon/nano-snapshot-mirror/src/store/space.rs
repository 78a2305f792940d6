//! Room on the disk, asked before starting: a transfer that cannot end should not begin, and one
//! that goes on should leave room to others.

use std::error::Error;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rustix::io::Errno;

use crate::store::data_dir::DataDir;
use crate::text::Bytes;

/// Kept free, so that the file system does not end up full to the brim: logs and the node need room
/// too.
const RESERVE: u64 = 1 << 30;

/// On a small disk, at most this share of it is kept free.
const SMALL_DISK_SHARE: u64 = 20;

/// A directory, and what of its file system stays free.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    dir: &'a Path,
    /// Bytes; `None` for the default.
    reserve: Option<u64>,
}

impl<'a> From<&'a Path> for Place<'a> {
    fn from(dir: &'a Path) -> Self {
        Self { dir, reserve: None }
    }
}

impl<'a> From<&'a PathBuf> for Place<'a> {
    fn from(dir: &'a PathBuf) -> Self {
        dir.as_path().into()
    }
}

impl<'a> From<&'a DataDir> for Place<'a> {
    fn from(data: &'a DataDir) -> Self {
        Self {
            dir: data.root(),
            reserve: data.reserve(),
        }
    }
}

/// The floor of free space on the file system of a directory, bytes.
pub(crate) fn reserve<'a>(place: impl Into<Place<'a>>) -> Result<u64> {
    let Place { dir, reserve } = place.into();
    if let Some(chosen) = reserve {
        return Ok(chosen);
    }
    let found = rustix::fs::statvfs(dir)
        .with_context(|| format!("cannot inspect the file system of {}", dir.display()))?;
    let size = found.f_blocks.saturating_mul(found.f_frsize);
    Ok(RESERVE.min(size / SMALL_DISK_SHARE))
}

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

/// There is not enough room on the disk.
#[derive(Debug)]
pub(crate) struct Shortage {
    /// What needs it.
    pub(crate) purpose: &'static str,
    /// Bytes that it needs.
    pub(crate) needed: u64,
    /// Bytes that stay free besides.
    pub(crate) reserve: u64,
    /// Bytes that are free.
    pub(crate) free: u64,
    /// Where.
    pub(crate) dir: PathBuf,
}

impl Shortage {
    /// Bytes that somebody has to free.
    pub(crate) fn missing(&self) -> u64 {
        self.needed
            .saturating_add(self.reserve)
            .saturating_sub(self.free)
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the disk is too small: {} needs {} and {} stay free, but {} has {}; free {} or choose \
             another place with --data-dir",
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

/// Fails with a [`Shortage`] unless the file system of a directory has room for `needed` bytes above
/// the floor.
pub(crate) fn ensure<'a>(
    place: impl Into<Place<'a>>,
    needed: u64,
    purpose: &'static str,
) -> Result<()> {
    match shortage(place, needed, purpose)? {
        Some(shortage) => Err(shortage.into()),
        None => Ok(()),
    }
}

/// What is missing for `needed` bytes above the floor, if anything is.
pub(crate) fn shortage<'a>(
    place: impl Into<Place<'a>>,
    needed: u64,
    purpose: &'static str,
) -> Result<Option<Shortage>> {
    let place = place.into();
    let found = Shortage {
        purpose,
        needed,
        reserve: reserve(place)?,
        free: file_kit::space::FileSystem::of(place.dir)?.free(),
        dir: place.dir.to_owned(),
    };
    Ok((found.missing() > 0).then_some(found))
}

/// Whether something failed because the file system or a quota is full, or would have filled it:
/// waiting for room helps.
pub(crate) fn is_lacking(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<Shortage>()
            || cause.downcast_ref::<std::io::Error>().is_some_and(|io| {
                matches!(io.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
            })
            || matches!(
                cause.downcast_ref::<Errno>(),
                Some(&Errno::NOSPC | &Errno::DQUOT)
            )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn a_full_disk_is_seen_through_all_that_was_said_of_it() {
        use anyhow::anyhow;
        use std::io;
        let full = || io::Error::from_raw_os_error(Errno::NOSPC.raw_os_error());
        let quota = || io::Error::from_raw_os_error(Errno::DQUOT.raw_os_error());
        for error in [
            anyhow::Error::from(full()).context("cannot switch"),
            anyhow::Error::from(quota()),
            anyhow::Error::from(Errno::NOSPC).context("cannot lock"),
            anyhow::Error::from(short(1, 2, 3)).context("in vain"),
        ] {
            assert!(is_lacking(&error), "{error:?}");
        }
        let denied = io::Error::from(ErrorKind::PermissionDenied);
        assert!(!is_lacking(&anyhow!(denied)));
        assert!(!is_lacking(&anyhow!("the disk is full, says somebody")));
    }

    #[test]
    fn the_floor_is_a_share_of_a_small_disk_and_what_was_chosen() {
        let temp = tempfile::tempdir().unwrap();
        let data = DataDir::create(Some(temp.path())).unwrap();
        let found = rustix::fs::statvfs(temp.path()).unwrap();
        let share = found.f_blocks * found.f_frsize / SMALL_DISK_SHARE;
        assert_eq!(reserve(&data).unwrap(), share.min(RESERVE));
        let data = data.with_reserve(Some(7));
        assert_eq!(reserve(&data).unwrap(), 7);
        assert!(ensure(&data, 0, "nothing").is_ok());
        let error = ensure(&data, u64::MAX, "everything").unwrap_err();
        assert!(is_lacking(&error), "{error:?}");
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
