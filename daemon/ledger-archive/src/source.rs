//! The source of an archive: a file that may still be growing.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::FallocateFlags;

/// Bytes `st_blocks` counts in.
const STAT_BLOCK: u64 = 512;

/// An archive that is read while it arrives, from its start.
///
/// Only verified bytes may be reported as available: every byte is read once.
pub trait ArchiveSource {
    /// Bytes from the archive's start that can be read now. Never falls.
    fn available(&self) -> u64;

    /// Fills `buffer` from byte `offset` on; all of it is available.
    ///
    /// # Errors
    ///
    /// The error of the operating system.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Bytes the archive takes on disk.
    ///
    /// # Errors
    ///
    /// The error of the operating system.
    fn allocated(&self) -> io::Result<u64>;

    /// Frees the disk space of the bytes before `offset`, which are not read again. With 0 it only checks whether
    /// the file system supports that.
    ///
    /// # Errors
    ///
    /// The error of the operating system; `EOPNOTSUPP` where the file system does not support it.
    fn discard_before(&self, offset: u64) -> io::Result<()>;
}

/// An archive in a file.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    available: AtomicU64,
}

impl FileSource {
    /// A whole archive.
    ///
    /// # Errors
    ///
    /// When the length of the file cannot be asked for.
    pub fn whole(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self {
            file,
            available: AtomicU64::new(len),
        })
    }

    /// An archive of which nothing can be read yet; see [`FileSource::set_available`].
    #[must_use]
    pub fn growing(file: File) -> Self {
        Self {
            file,
            available: AtomicU64::new(0),
        }
    }

    /// Marks the first `len` bytes as readable. May be called from any thread while others read.
    pub fn set_available(&self, len: u64) {
        self.available.fetch_max(len, Ordering::AcqRel);
    }
}

impl ArchiveSource for FileSource {
    fn available(&self) -> u64 {
        self.available.load(Ordering::Acquire)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn allocated(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.blocks() * STAT_BLOCK)
    }

    fn discard_before(&self, offset: u64) -> io::Result<()> {
        // A hole beyond the end changes nothing, but fails where holes are not supported.
        let (start, len) = match offset {
            0 => (self.file.metadata()?.len(), STAT_BLOCK),
            offset => (0, offset),
        };
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(&self.file, flags, start, len)?)
    }
}
