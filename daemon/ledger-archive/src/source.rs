//! Where an archive is read from: a file that may still be growing.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::FallocateFlags;

/// Bytes `st_blocks` counts in.
const STAT_BLOCK: u64 = 512;

/// An archive of which the start can be read, and more and more of it.
///
/// Only bytes that are known to be the archive's may be called available: what is read once is not
/// read again.
pub trait ArchiveSource {
    /// Bytes from the archive's start that can be read now. Never falls.
    fn available(&self) -> u64;

    /// Fills `buffer` from byte `offset` on; all of it is available.
    ///
    /// # Errors
    ///
    /// What the system answers.
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()>;

    /// Bytes the archive takes on disk.
    ///
    /// # Errors
    ///
    /// What the system answers.
    fn allocated(&self) -> io::Result<u64>;

    /// Gives the bytes before `offset`, which are never read again, back to the file system. With 0 it
    /// only tells whether that is possible.
    ///
    /// # Errors
    ///
    /// What the system answers; `EOPNOTSUPP` where the file system cannot.
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

    /// Says that the first `len` bytes can be read. May be called from any thread while others read.
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
        // A hole behind the end changes nothing, but is refused where holes cannot be.
        let (start, len) = match offset {
            0 => (self.file.metadata()?.len(), STAT_BLOCK),
            offset => (0, offset),
        };
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        Ok(rustix::fs::fallocate(&self.file, flags, start, len)?)
    }
}
