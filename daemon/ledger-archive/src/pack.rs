//! Packing a ledger into a `tar.zst`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use zstd::zstd_safe::{self, CCtx, CParameter};

use crate::error::PackError;
use crate::framing::FrameWriter;
use crate::name::LEDGER;

/// LMDB's largest page. Frames of multiples of it hold whole pages whatever their size is.
const LARGEST_PAGE: u32 = 64 << 10;
/// Largest frame: two threads then need half a gigabyte.
const MAX_FRAME_BYTES: u32 = 64 << 20;
/// Block size of tar files.
const TAR_BLOCK: u64 = 512;

/// Options for packing. With one version of zstd, the same ledger and options give the same bytes, whatever the
/// number of threads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackOptions {
    frame_bytes: u32,
    level: i32,
    threads: NonZeroUsize,
}

impl Default for PackOptions {
    /// Frames of 128 KiB of ledger, level 3, a thread for every core.
    fn default() -> Self {
        Self {
            frame_bytes: 128 << 10,
            level: 3,
            threads: thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
        }
    }
}

impl PackOptions {
    /// Sets the bytes of ledger in a frame: a multiple of 64 KiB up to 64 MiB. Smaller frames are more often identical in
    /// the next day's archive, but compress worse and are padded more: by 8 KiB on average.
    ///
    /// # Errors
    ///
    /// [`PackError::FrameBytes`] for other numbers.
    pub fn with_frame_bytes(mut self, frame_bytes: u32) -> Result<Self, PackError> {
        if frame_bytes == 0
            || !frame_bytes.is_multiple_of(LARGEST_PAGE)
            || frame_bytes > MAX_FRAME_BYTES
        {
            return Err(PackError::FrameBytes { given: frame_bytes });
        }
        self.frame_bytes = frame_bytes;
        Ok(self)
    }

    /// zstd's compression level, 1 (fast) to 22 (small).
    ///
    /// # Errors
    ///
    /// [`PackError::Level`] for other numbers.
    pub fn with_level(mut self, level: i32) -> Result<Self, PackError> {
        if !(1..=22).contains(&level) {
            return Err(PackError::Level { given: level });
        }
        self.level = level;
        Ok(self)
    }

    /// Threads that compress. Memory: about five times the bytes of a frame for each, plus zstd's own
    /// (some megabytes at low levels, hundreds at the highest).
    #[must_use]
    pub fn with_threads(mut self, threads: NonZeroUsize) -> Self {
        self.threads = threads;
        self
    }
}

/// The result of packing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackReport {
    /// Bytes of the ledger.
    pub ledger_bytes: u64,
    /// Bytes of the archive.
    pub archive_bytes: u64,
    /// Frames with ledger in them.
    pub frames: u64,
    /// Bytes of the archive that only fill its last leaves of 16 KiB.
    pub padding_bytes: u64,
}

/// Packs the ledger at `path` into `out`. The file must not be written to meanwhile.
///
/// # Errors
///
/// [`PackError`]; the data written to `out` by then is not a valid archive.
pub fn pack_file(
    path: &Path,
    out: impl Write,
    options: &PackOptions,
) -> Result<PackReport, PackError> {
    let open = |source| PackError::Open {
        path: path.to_owned(),
        source,
    };
    let ledger = File::open(path).map_err(open)?;
    let len = ledger.metadata().map_err(open)?.len();
    // Advice only.
    let _ = rustix::fs::fadvise(&ledger, 0, None, rustix::fs::Advice::Sequential);
    pack(ledger, len, out, options)
}

/// Packs the `len` bytes that `ledger` gives into `out`, from its current position on: a tar file with
/// the one file `data.ldb`, in zstd frames of `options`' length, of which the first holds the tar header
/// and the last the tar file's end.
///
/// `zstd -d | tar x` unpacks it, and so does everything else that reads zstd.
///
/// # Errors
///
/// [`PackError`]; the data written to `out` by then is not a valid archive.
pub fn pack(
    ledger: impl Read,
    len: u64,
    out: impl Write,
    options: &PackOptions,
) -> Result<PackReport, PackError> {
    thread::scope(|scope| {
        let workers = (0..options.threads.get())
            .map(|_| {
                let (jobs, todo) = sync_channel(IN_FLIGHT);
                let (done, results) = sync_channel(IN_FLIGHT);
                let level = options.level;
                scope.spawn(move || compress_frames(level, &todo, &done));
                Worker { jobs, results }
            })
            .collect::<Vec<_>>();
        Packer {
            ledger,
            len,
            read: 0,
            frame_bytes: options.frame_bytes as usize,
            out: FrameWriter::new(out),
            spare: Vec::new(),
        }
        .run(&workers)
    })
}

/// Frames that a worker may have at a time.
const IN_FLIGHT: usize = 2;

/// The error for a worker thread that ended without one.
const THREAD_ENDED: &str = "a compressing thread ended";

/// A frame to compress: its content, and a buffer for the result.
#[derive(Default)]
struct Job {
    content: Vec<u8>,
    frame: Vec<u8>,
}

struct Worker {
    jobs: SyncSender<Job>,
    results: Receiver<Result<Job, &'static str>>,
}

/// Runs one worker thread. Returns when the channel of jobs or that of results is closed.
fn compress_frames(level: i32, todo: &Receiver<Job>, done: &SyncSender<Result<Job, &'static str>>) {
    let mut context = match context(level) {
        Ok(context) => context,
        Err(reason) => {
            let _ = done.send(Err(reason));
            return;
        }
    };
    for mut job in todo {
        job.frame.clear();
        job.frame
            .reserve(zstd_safe::compress_bound(job.content.len()));
        let result = context
            .compress2(&mut job.frame, &job.content)
            .map(|_| job)
            .map_err(zstd_safe::get_error_name);
        if done.send(result).is_err() {
            return;
        }
    }
}

/// Makes a context that writes the length and the checksum of the content into every frame.
fn context(level: i32) -> Result<CCtx<'static>, &'static str> {
    let mut context = CCtx::try_create().ok_or("no memory for a context")?;
    for parameter in [
        CParameter::CompressionLevel(level),
        CParameter::ChecksumFlag(true),
        CParameter::ContentSizeFlag(true),
    ] {
        context
            .set_parameter(parameter)
            .map_err(zstd_safe::get_error_name)?;
    }
    Ok(context)
}

struct Packer<R, W> {
    ledger: R,
    len: u64,
    read: u64,
    frame_bytes: usize,
    out: FrameWriter<W>,
    /// Buffers to be used again.
    spare: Vec<Job>,
}

impl<R: Read, W: Write> Packer<R, W> {
    /// Reads frames, sends them to workers and writes the results in order. Frame n goes to worker n mod threads and its
    /// result is received from there, so results need no sorting. No worker has more than [`IN_FLIGHT`] frames, so
    /// neither side can block the other.
    fn run(mut self, workers: &[Worker]) -> Result<PackReport, PackError> {
        let mut next = 0;
        let mut written = 0;
        while let Some(job) = self.next_job(next)? {
            if next - written == IN_FLIGHT * workers.len() {
                self.write_from(workers, written)?;
                written += 1;
            }
            let Some(worker) = workers.get(next % workers.len()) else {
                break;
            };
            if worker.jobs.send(job).is_err() {
                let reason = worker.results.iter().find_map(Result::err);
                return Err(PackError::Compress {
                    reason: reason.unwrap_or(THREAD_ENDED),
                });
            }
            next += 1;
        }
        while written < next {
            self.write_from(workers, written)?;
            written += 1;
        }
        let archive_bytes = self.out.at() + self.out.seek_table_len();
        let padding_bytes = self.out.padding();
        let offset = self.out.at();
        self.out
            .finish()
            .map_err(|source| PackError::Write { offset, source })?;
        Ok(PackReport {
            ledger_bytes: self.len,
            archive_bytes,
            frames: self.len.div_ceil(self.frame_bytes as u64),
            padding_bytes,
        })
    }

    /// The content of frame `number`: the tar header, a part of the ledger, or the tar file's end.
    fn next_job(&mut self, number: usize) -> Result<Option<Job>, PackError> {
        let mut job = self.spare.pop().unwrap_or_default();
        job.content.clear();
        if number == 0 {
            job.content.extend_from_slice(header(self.len).as_bytes());
        } else if self.read < self.len {
            let want = (self.len - self.read).min(self.frame_bytes as u64);
            let got = (&mut self.ledger)
                .take(want)
                .read_to_end(&mut job.content)
                .map_err(|source| self.failed_read(source))?;
            if (got as u64) < want {
                return Err(PackError::Length { declared: self.len });
            }
            self.read += want;
        } else if number as u64 == 1 + self.len.div_ceil(self.frame_bytes as u64) {
            let mut more = [0];
            let more = self
                .ledger
                .read(&mut more)
                .map_err(|source| self.failed_read(source))?;
            if more > 0 {
                return Err(PackError::Length { declared: self.len });
            }
            let end = self.len.next_multiple_of(TAR_BLOCK) - self.len + 2 * TAR_BLOCK;
            job.content.resize(end as usize, 0);
        } else {
            return Ok(None);
        }
        Ok(Some(job))
    }

    fn failed_read(&self, source: io::Error) -> PackError {
        PackError::Read {
            offset: self.read,
            source,
        }
    }

    fn write_from(&mut self, workers: &[Worker], number: usize) -> Result<(), PackError> {
        let result = workers
            .get(number % workers.len())
            .and_then(|worker| worker.results.recv().ok())
            .unwrap_or(Err(THREAD_ENDED));
        let job = result.map_err(|reason| PackError::Compress { reason })?;
        let offset = self.out.at();
        self.out
            // A frame's content has at most 64 MiB.
            .write(&job.frame, job.content.len() as u32)
            .map_err(|source| PackError::Write { offset, source })?;
        self.spare.push(job);
        Ok(())
    }
}

/// The tar header of a ledger: the same for every ledger of this length.
fn header(len: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    for (slot, byte) in header.as_old_mut().name.iter_mut().zip(LEDGER) {
        *slot = *byte;
    }
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(len);
    header.set_cksum();
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked() {
        for frame_bytes in [
            0,
            1,
            4096,
            (64 << 10) + 4096,
            (64 << 20) + (64 << 10),
            u32::MAX,
        ] {
            assert!(
                PackOptions::default()
                    .with_frame_bytes(frame_bytes)
                    .is_err(),
                "{frame_bytes}"
            );
        }
        for frame_bytes in [64 << 10, 1 << 20, 64 << 20] {
            assert!(PackOptions::default().with_frame_bytes(frame_bytes).is_ok());
        }
        for level in [-1, 0, 23] {
            assert!(PackOptions::default().with_level(level).is_err(), "{level}");
        }
    }

    #[test]
    fn lengths_beyond_octal_are_written_in_binary() {
        let size = |len| header(len).as_old().size;
        assert_eq!(&size((8 << 30) - 1), b"77777777777\0");
        assert_eq!(
            size(121_000_000_000),
            [0x80, 0, 0, 0, 0, 0, 0, 0x1c, 0x2c, 0x29, 0x7a, 0x00]
        );
        assert_eq!(header(1 << 40).entry_size().unwrap(), 1 << 40);
    }
}
