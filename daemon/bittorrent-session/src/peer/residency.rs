//! Whether a range of a file is in the page cache, so that `sendfile` will not wait for a disk.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::{Errno, ReadWriteFlags};

/// The smallest unit in which the page cache keeps or drops content.
const PAGE: u64 = 4096;

/// What `statfs` calls tmpfs, whose pages have no disk to wait for. It answers no probe.
const TMPFS: i64 = 0x0102_1994;

/// Asks the kernel about every page: two bytes that lie on both sides of a page boundary tell of
/// two pages. A page may still go between the answer and its use; then one read of one page is
/// waited for, which no way of asking can rule out.
#[derive(Debug, Default)]
pub(super) struct Probe {
    /// What is to be said for file systems that cannot tell.
    silent: Option<bool>,
}

impl Probe {
    /// Whether all of `len` bytes from `offset` are in memory. Errors count as no: reading on a
    /// disk thread will meet them again.
    pub(super) fn resident(&mut self, file: BorrowedFd<'_>, offset: u64, len: u32) -> bool {
        let end = offset + u64::from(len);
        let mut at = offset;
        while at < end {
            let boundary = (at / PAGE + 1) * PAGE;
            let (from, count) = if boundary < end {
                (boundary - 1, 2)
            } else {
                (at, 1)
            };
            let mut bytes = [0; 2];
            let read = rustix::io::preadv2(
                file,
                &mut [IoSliceMut::new(bytes.split_at_mut(count).0)],
                from,
                ReadWriteFlags::NOWAIT,
            );
            match read {
                Ok(read) if read == count => at = boundary + PAGE,
                Err(Errno::OPNOTSUPP) => return *self.silent.get_or_insert_with(|| is_tmpfs(file)),
                // The second page is missing, or the first.
                _ => return false,
            }
        }
        true
    }
}

fn is_tmpfs(file: impl AsFd) -> bool {
    // The type of the field differs between architectures.
    #[expect(clippy::unnecessary_cast, reason = "the field is not i64 everywhere")]
    rustix::fs::fstatfs(file).is_ok_and(|stat| stat.f_type as i64 == TMPFS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn what_was_just_written_is_resident_and_what_is_not_there_is_not() {
        let mut file = tempfile::tempfile().unwrap();
        // Page by page: what is written at once may be kept and dropped as one.
        for page in [1; 20_000].chunks(PAGE as usize) {
            file.write_all(page).unwrap();
        }
        let mut probe = Probe::default();
        for (offset, len) in [(0, 1), (0, 20_000), (4_095, 2), (19_999, 1), (0, 0)] {
            assert!(probe.resident(file.as_fd(), offset, len), "{offset}+{len}");
        }
        if probe.silent.is_none() {
            assert!(!probe.resident(file.as_fd(), 0, 20_481));
            assert!(!probe.resident(file.as_fd(), 30_000, 1));
            file.sync_all().unwrap();
            for (offset, len, resident) in [
                (0, 8_192, true),
                (0, 20_000, false),
                (0, 12_288, false),
                (4_096, 8_192, false),
                (8_192, 1, false),
                (8_191, 2, false),
            ] {
                // Asking for what is not there makes the kernel fetch it.
                rustix::fs::fadvise(&file, 8_192, None, rustix::fs::Advice::DontNeed).unwrap();
                assert_eq!(
                    probe.resident(file.as_fd(), offset, len),
                    resident,
                    "{offset}+{len}"
                );
            }
        }
    }

    #[test]
    fn memory_files_need_no_probe() {
        let memory = std::path::Path::new("/dev/shm");
        if !memory.is_dir() {
            return;
        }
        let mut file = tempfile::tempfile_in(memory).unwrap();
        file.write_all(&[1; 100]).unwrap();
        assert!(Probe::default().resident(file.as_fd(), 0, 100));
    }
}
