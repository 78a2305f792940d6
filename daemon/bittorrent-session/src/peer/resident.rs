//! Reads from the page cache that never wait for a disk.

use std::io::IoSliceMut;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::{Errno, ReadWriteFlags};

/// Type of tmpfs in `statfs`, whose pages need no disk. It supports no flags.
const TMPFS: i64 = 0x0102_1994;

/// Reads without waiting, if the file system supports it.
#[derive(Debug, Default)]
pub(super) struct ResidentReader {
    /// The file system does not support such reads; whether it has no disk at all.
    plain: Option<bool>,
}

impl ResidentReader {
    /// Fills `targets` in order from `offset`, up to the first page that is not in memory. Returns
    /// the number of bytes read. An error counts as nothing read: a disk thread will find it again.
    pub(super) fn read(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        targets: &mut [IoSliceMut<'_>],
    ) -> usize {
        if self.plain.is_none() {
            match rustix::io::preadv2(file, targets, offset, ReadWriteFlags::NOWAIT) {
                Ok(read) => return read,
                Err(Errno::OPNOTSUPP) => self.plain = Some(is_tmpfs(file)),
                Err(_) => return 0,
            }
        }
        if self.plain == Some(true) {
            rustix::io::preadv(file, targets, offset).unwrap_or(0)
        } else {
            0
        }
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

    const PAGE: usize = 4096;

    fn read(reader: &mut ResidentReader, file: &std::fs::File, offset: u64, len: usize) -> usize {
        let mut bytes = vec![0; len];
        let (first, second) = bytes.split_at_mut(len / 3);
        let mut targets = [IoSliceMut::new(first), IoSliceMut::new(second)];
        let read = reader.read(file.as_fd(), offset, &mut targets);
        assert!(bytes.iter().take(read).all(|byte| *byte == 1));
        read
    }

    /// Five pages, written one by one: what is written at once may be kept and dropped as one.
    fn five_pages() -> std::fs::File {
        let mut file = tempfile::tempfile().unwrap();
        for page in [1; 20_000].chunks(PAGE) {
            file.write_all(page).unwrap();
        }
        file.sync_all().unwrap();
        file
    }

    #[test]
    fn what_is_in_memory_is_read_up_to_the_end_of_the_file() {
        let mut reader = ResidentReader::default();
        let file = five_pages();
        for (offset, len) in [(0, 1), (0, 20_000), (4_095, 2), (19_999, 1), (0, 0)] {
            assert_eq!(read(&mut reader, &file, offset, len), len, "{offset}+{len}");
        }
        assert_eq!(read(&mut reader, &file, 19_000, 2_000), 1_000);
        assert_eq!(read(&mut reader, &file, 30_000, 1), 0);
    }

    #[test]
    fn what_is_not_in_memory_is_not_waited_for() {
        let mut reader = ResidentReader::default();
        let mut short = 0;
        // A busy kernel does not drop every page it is asked to, and what is asked for in vain is
        // fetched, which may be quick.
        for _ in 0..50 {
            let file = five_pages();
            for (offset, len, there) in [
                (0, 8_192, 8_192),
                (0, 20_000, 8_192),
                (4_096, 8_192, 4_096),
                (8_192, 1, 0),
                (8_191, 2, 1),
            ] {
                rustix::fs::fadvise(&file, 8_192, None, rustix::fs::Advice::DontNeed).unwrap();
                let read = read(&mut reader, &file, offset, len);
                assert!((there..=len).contains(&read), "{read} of {offset}+{len}");
                short += usize::from(read < len);
            }
            if short > 0 {
                return;
            }
        }
        assert!(reader.plain.is_some(), "it waited every time");
    }

    #[test]
    fn memory_files_are_read_as_they_are() {
        let memory = std::path::Path::new("/dev/shm");
        if !memory.is_dir() {
            return;
        }
        let mut file = tempfile::tempfile_in(memory).unwrap();
        file.write_all(&[1; 100]).unwrap();
        assert_eq!(read(&mut ResidentReader::default(), &file, 0, 100), 100);
    }
}
