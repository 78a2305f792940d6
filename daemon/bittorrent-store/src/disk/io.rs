//! The interface to the disk. The store does all I/O through [`Io`], so that a test double can lose
//! whatever was not synced.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::num::NonZeroU64;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use file_kit::FileError;
use rustix::fs::{Advice, OFlags, SeekFrom};
use rustix::io::Errno;

/// The most slices the kernel takes in one vectored write.
pub(crate) const MAX_SLICES: usize = 1024;

/// How a file is opened. A link in the last component is never followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, to read.
    Read,
    /// An existing file, to read and write.
    Write,
    /// To read and write; created if missing. An existing file keeps its bytes.
    Create,
    /// To read and write; created if missing, emptied if not.
    Replace,
}

/// The data by which a file is recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Identity {
    /// The length in bytes.
    pub length: u64,
    /// The last modification, in nanoseconds since 1970.
    pub modified: i128,
    /// The inode number.
    pub inode: u64,
}

/// Operations on directories and files by name. Paths are absolute or relative to the process.
pub trait Io: fmt::Debug + Send + Sync {
    /// Opens or creates a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn IoFile>>;
    /// Creates a directory and its parents. An existing one is no error.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Renames a file, and replaces an existing one.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Makes a sealed file writable for its owner.
    fn unseal(&self, path: &Path) -> io::Result<()>;
    /// Makes the entries of a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
}

/// Operations on an open file. All are positioned, so that threads can share it.
pub trait IoFile: AsFd + fmt::Debug + Send + Sync {
    /// Reads at a position; returns 0 at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all slices in a row from a position on.
    fn write_all_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// Makes the content durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Drops the page cache of a range, apart from unwritten pages, so that the next read comes
    /// from the disk: bytes lost by a failed sync are still in memory. A hint that the system may
    /// ignore.
    fn forget_cached(&self, offset: u64, length: u64) -> io::Result<()>;
    /// Returns the next position, from one on, that is not in a hole; `None` if there is none. On
    /// file systems that do not report holes, no position is in one.
    fn next_content(&self, offset: u64) -> io::Result<Option<u64>>;
    /// Changes the length; new bytes are zeros and take no space.
    fn set_len(&self, length: u64) -> io::Result<()>;
    /// Returns the bytes that the content takes on the disk. Holes take none; extents shared with
    /// other files count in each.
    fn allocated(&self) -> io::Result<u64>;
    /// Shares the content of another file (a reflink), which takes no space until it is
    /// overwritten. Fails if the file system cannot, with [`io::ErrorKind::Unsupported`] or another
    /// kind.
    fn reflink_from(&self, source: &dyn IoFile) -> io::Result<()>;
    /// Returns the identity of the file.
    fn identity(&self) -> io::Result<Identity>;
    /// Makes the file read-only (mode 0444, or 0555 if executable), durably together with its
    /// times.
    fn seal(&self, executable: bool) -> io::Result<()>;
}

/// Fills the buffer, or less at the end of the file. Returns the bytes read.
pub(crate) fn read_full(
    file: &dyn IoFile,
    mut buffer: &mut [u8],
    mut offset: u64,
) -> io::Result<usize> {
    let mut total = 0;
    while !buffer.is_empty() {
        match file.read_at(buffer, offset) {
            Ok(0) => break,
            Ok(count) => {
                total += count;
                offset += count as u64;
                buffer = buffer.split_at_mut(count).1;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(total)
}

/// Returns the next position that is not in a hole. Moves the file's own position, which this crate
/// never uses.
pub(crate) fn next_content(file: BorrowedFd<'_>, offset: u64) -> io::Result<Option<u64>> {
    match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NXIO) => Ok(None),
        Err(Errno::INVAL) => Ok(Some(offset)),
        Err(error) => Err(error.into()),
    }
}

/// The real disk.
#[derive(Debug, Clone, Copy, Default)]
pub struct RealIo;

impl Io for RealIo {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn IoFile>> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
        match mode {
            OpenMode::Read => {}
            OpenMode::Write => {
                options.write(true);
            }
            OpenMode::Create => {
                options.write(true).create(true).truncate(false);
            }
            OpenMode::Replace => {
                options.write(true).create(true).truncate(true);
            }
        }
        Ok(Arc::new(RealFile(options.open(path)?)))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn unseal(&self, path: &Path) -> io::Result<()> {
        let mode = fs::symlink_metadata(path)?.permissions().mode();
        fs::set_permissions(path, fs::Permissions::from_mode(mode | 0o200))
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        file_kit::fs::sync_dir(path).map_err(FileError::into_io)
    }
}

#[derive(Debug)]
struct RealFile(File);

impl AsFd for RealFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl IoFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.0.read_at(buffer, offset)
    }

    fn write_all_at(&self, mut slices: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            let some = slices.split_at(slices.len().min(MAX_SLICES)).0;
            match rustix::io::pwritev(&self.0, some, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    offset += count as u64;
                    IoSlice::advance_slices(&mut slices, count);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn forget_cached(&self, offset: u64, length: u64) -> io::Result<()> {
        let length = NonZeroU64::new(length);
        Ok(rustix::fs::fadvise(
            &self.0,
            offset,
            length,
            Advice::DontNeed,
        )?)
    }

    fn next_content(&self, offset: u64) -> io::Result<Option<u64>> {
        next_content(self.0.as_fd(), offset)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.set_len(length)
    }

    fn allocated(&self) -> io::Result<u64> {
        // `st_blocks` counts 512 bytes on every file system.
        Ok(self.0.metadata()?.blocks().saturating_mul(512))
    }

    fn reflink_from(&self, source: &dyn IoFile) -> io::Result<()> {
        Ok(rustix::fs::ioctl_ficlone(&self.0, source.as_fd())?)
    }

    fn identity(&self) -> io::Result<Identity> {
        let metadata = self.0.metadata()?;
        Ok(Identity {
            length: metadata.len(),
            modified: i128::from(metadata.mtime()) * 1_000_000_000
                + i128::from(metadata.mtime_nsec()),
            inode: metadata.ino(),
        })
    }

    fn seal(&self, executable: bool) -> io::Result<()> {
        let mode = if executable { 0o555 } else { 0o444 };
        self.0.set_permissions(fs::Permissions::from_mode(mode))?;
        self.0.sync_all()
    }
}
