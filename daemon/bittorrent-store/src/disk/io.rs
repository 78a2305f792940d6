//! The one way to the disk. Everything the store does goes through [`Io`], so that a test double
//! can lose whatever was not synced.

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

/// How a file is opened. Links are never followed in the last component.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, to read.
    Read,
    /// An existing file, to read and write.
    Write,
    /// To read and write; made when it is not there, with its bytes kept when it is.
    Create,
    /// To read and write, empty.
    Replace,
}

/// By what a file is known again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Identity {
    /// Bytes.
    pub length: u64,
    /// Last change of the content, nanoseconds since 1970.
    pub modified: i128,
    /// The number of the inode.
    pub inode: u64,
}

/// Operations on directories and files by name. All paths are absolute or relative to the process.
pub trait Io: fmt::Debug + Send + Sync {
    /// Opens or makes a file.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn IoFile>>;
    /// Makes a directory and those above it; fine when it exists.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Renames a file, replacing what is there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Lets the owner write a sealed file again.
    fn unseal(&self, path: &Path) -> io::Result<()>;
    /// Makes the entries of a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
}

/// Operations on an open file; positions are given, so that threads can share it.
pub trait IoFile: AsFd + fmt::Debug + Send + Sync {
    /// Reads at a position; 0 bytes at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all slices, one behind the other, from a position on.
    fn write_all_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// Makes the content durable.
    fn sync_data(&self) -> io::Result<()>;
    /// Lets the next read of a stretch come from the disk, as far as it is not waiting to be written:
    /// what a failed sync lost is still in memory. A hint, that the system need not follow.
    fn forget_cached(&self, offset: u64, length: u64) -> io::Result<()>;
    /// Where the next bytes begin, from a position on, that are not in a hole; `None` when there are none.
    /// Where the file system does not tell holes from zeros, nothing is in a hole.
    fn next_content(&self, offset: u64) -> io::Result<Option<u64>>;
    /// Changes the length; new bytes are zeros and take no space.
    fn set_len(&self, length: u64) -> io::Result<()>;
    /// Bytes that the content takes on the disk: holes take none, and what is shared with other files
    /// counts in each.
    fn allocated(&self) -> io::Result<u64>;
    /// Shares the content of another file (a reflink): it takes no space until it is overwritten. Where
    /// the file system cannot do that, [`io::ErrorKind::Unsupported`] or another error of the caller's.
    fn reflink_from(&self, source: &dyn IoFile) -> io::Result<()>;
    /// By what the file is known again.
    fn identity(&self) -> io::Result<Identity>;
    /// Forbids writing (0444, or 0555 for what is to be executed) and makes that durable with the file's
    /// times.
    fn seal(&self, executable: bool) -> io::Result<()>;
}

/// Fills the buffer, less when the file ends; returns how much was read.
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

/// Moves the position of the file, which nothing here uses.
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
        // Counted in 512 bytes, whatever the file system.
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
