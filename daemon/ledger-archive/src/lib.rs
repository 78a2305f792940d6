//! Packs ledgers into archives and extracts them; parses hostile archives, knows neither LMDB nor torrents.
//!
//! A snapshot has one of three [`LedgerFormat`]s. *Plain* is the ledger itself and needs nothing from
//! here. *tar.zst* is written by [`pack`] and extracted by [`Extractor`] while it arrives. *7z* is only
//! read, for streams that publish it. [`detect`] recognises them by their first bytes, not by
//! their names.
//!
//! # What [`pack`] writes
//!
//! A tar file with the one file `data.ldb`, compressed with zstd, which `zstd -d | tar x` unpacks:
//!
//! ```text
//! frame      the tar header, 512 bytes
//! frame …    the ledger, a fixed number of its bytes per frame, so that pages are never cut
//! frame      zeros to the next 512 bytes, and the 1024 that end a tar file
//! skippable  the seek table of the zstd seekable format
//! ```
//!
//! Every frame starts at a multiple of 16 KiB, with skippable frames in the gaps, so that a frame
//! that is the same in another snapshot is made of the same BitTorrent v2 leaves. The same ledger and
//! options give the same bytes.
//!
//! # What is extracted
//!
//! The one regular file whose name is `data.ldb`, in whatever directory of the archive. Other files and
//! directories are skipped and never written, up to 64 MiB of them. Everything else is a
//! [`Refusal`]: links, devices, sparse files, absolute names, `..`, duplicate names, two ledgers,
//! more bytes than declared or allowed, wrong checksums, an early end, and data after the end.
//!
//! The ledger is written to `<target>.partial`, synced, and only [`Extracted::install`] renames it: until
//! then an earlier target is as it was. Nothing but the target, the partial file and
//! `<target>.journal` is ever written, and no link is followed to them.
//!
//! # What it costs
//!
//! | | `tar.zst` | `tar.zst`, discarding the archive | `7z` |
//! |---|---|---|---|
//! | starts | with the first bytes | with the first bytes | when the archive is whole |
//! | after a crash | at the last checkpoint | at the last checkpoint | from zero |
//! | disk at most | archive + ledger | the larger of both + a checkpoint | archive + ledger |
//! | memory | 128 MiB window at most | the same | the dictionary, limited by an option |
//!
//! [`disk_needed`] computes the disk space beforehand; [`ExtractReport::peak_disk_bytes`] has the measured maximum.
//!
//! # Example
//!
//! ```
//! use std::fs::{self, File};
//! use std::ops::ControlFlow;
//!
//! use ledger_archive::{ExtractOptions, PackOptions};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let dir = dir.path();
//! # fs::write(dir.join("ledger"), vec![7; 200_000])?;
//! let packed = dir.join("snapshot.tar.zst");
//! let out = File::create(&packed)?;
//! let report = ledger_archive::pack_file(&dir.join("ledger"), out, &PackOptions::default())?;
//! assert_eq!(report.ledger_bytes, 200_000);
//!
//! let target = dir.join("data.ldb");
//! let options = ExtractOptions::new(1 << 40);
//! let extracted = ledger_archive::extract_file(&packed, &target, options, |progress| {
//!     println!("{} of {}", progress.archive_bytes, progress.archive_len);
//!     ControlFlow::Continue(())
//! })?;
//! // Verify `extracted.path()` here.
//! extracted.install()?;
//! assert_eq!(fs::read(&target)?, fs::read(dir.join("ledger"))?);
//! # Ok(())
//! # }
//! ```

mod error;
mod extract;
mod format;
mod frames;
mod framing;
mod journal;
mod name;
mod pack;
mod sevenz;
mod source;
mod tar_reader;
mod target;

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

pub use error::{ExtractError, PackError, Refusal};
pub use extract::{
    ExtractOptions, ExtractProgress, ExtractReport, ExtractStep, Extracted, Extractor,
};
pub use format::{LedgerFormat, detect};
pub use name::EntryName;
pub use pack::{PackOptions, PackReport, pack, pack_file};
pub use source::{ArchiveSource, FileSource};

/// Identifies an archive, so that an interrupted extraction resumes with the same one only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchiveId([u8; 32]);

impl ArchiveId {
    /// Makes an id from bytes that identify the content, such as the info-hash of its torrent.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Makes an id from the file system, inode, length and modification time of a file. Discarding an archive changes
    /// its modification time, so an extraction that does so needs [`from_bytes`](Self::from_bytes) to resume.
    ///
    /// # Errors
    ///
    /// When the file's metadata cannot be read.
    pub fn of_file(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        // Seconds fill 34 bits and nanoseconds 30: together one number.
        let modified = (metadata.mtime() << 30) ^ metadata.mtime_nsec();
        let mut bytes = [0; 32];
        let numbers = [
            metadata.dev(),
            metadata.ino(),
            metadata.len(),
            modified as u64,
        ];
        for (slot, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            slot.copy_from_slice(&number.to_le_bytes());
        }
        Ok(Self(bytes))
    }
}

/// Extracts the archive in the file at `path`, whatever its format, to `<target>.partial`.
///
/// `progress` is called regularly and can stop the extraction. Calling this again resumes it (7z: from
/// the start).
///
/// # Errors
///
/// [`ExtractError`]; [`Refusal::Plain`] for a file that is a ledger already.
pub fn extract_file(
    path: &Path,
    target: &Path,
    options: ExtractOptions,
    progress: impl FnMut(ExtractProgress) -> ControlFlow<()>,
) -> Result<Extracted, ExtractError> {
    let file = if options.discard {
        let mut writable = File::options();
        writable.read(true).write(true);
        writable.open(path)
    } else {
        File::open(path)
    }
    .map_err(|source| ExtractError::OpenArchive {
        path: path.to_owned(),
        source,
    })?;
    let id = ArchiveId::of_file(&file).map_err(|source| ExtractError::Measure { source })?;
    let source = measured(path, file)?;
    extract(&source, id, target, options, progress)
}

/// Extracts a complete archive of any format: the available bytes of `source` are the whole archive. See
/// [`extract_file`].
///
/// # Errors
///
/// [`ExtractError`].
pub fn extract(
    source: &impl ArchiveSource,
    id: ArchiveId,
    target: &Path,
    options: ExtractOptions,
    mut progress: impl FnMut(ExtractProgress) -> ControlFlow<()>,
) -> Result<Extracted, ExtractError> {
    let len = source.available();
    match format::detect_source(source) {
        Ok(LedgerFormat::Plain) => return Err(Refusal::Plain.into()),
        Ok(LedgerFormat::SevenZ) => {
            return sevenz::extract(source, target, &options, &mut progress);
        }
        Ok(LedgerFormat::TarZst) => {}
        // A discarded archive has lost its start; its journal identifies it.
        Err(ExtractError::Refused { .. }) if options.discard => {}
        Err(error) => return Err(error),
    }
    let mut extractor = Extractor::open(target, id, len, options)?;
    loop {
        if progress(extractor.progress()).is_break() {
            return Err(ExtractError::Stopped);
        }
        extractor = match extractor.advance(source)? {
            ExtractStep::More(extractor) => extractor,
            ExtractStep::Whole(extracted) => return Ok(extracted),
            // Everything was available.
            ExtractStep::NeedsMore(extractor) => {
                return Err(ExtractError::ReadArchive {
                    offset: extractor.progress().archive_bytes,
                    source: io::ErrorKind::UnexpectedEof.into(),
                });
            }
        };
    }
}

/// Checks the archive in the file at `path` without extracting it: the header of a 7z, a `tar.zst` up to the start
/// of its ledger. Takes milliseconds. Finds encryption, unsupported methods and entries, a missing volume, and an
/// archive without a ledger. Only extracting finds damaged content.
///
/// # Errors
///
/// [`ExtractError`]; [`Refusal::Plain`] for a file that is a ledger already.
pub fn inspect(path: &Path, options: &ExtractOptions) -> Result<LedgerFormat, ExtractError> {
    let source = measured(path, open(path)?)?;
    let format = format::detect_source(&source)?;
    match format {
        LedgerFormat::Plain => return Err(Refusal::Plain.into()),
        LedgerFormat::SevenZ => sevenz::inspect(&source, options)?,
        LedgerFormat::TarZst => extract::inspect(&source, options)?,
    }
    Ok(format)
}

/// Removes the partial file and the journal of an interrupted extraction to `target`, if they exist.
///
/// # Errors
///
/// [`ExtractError`]: [`ExtractError::Busy`] while another process extracts to `target`.
pub fn remove_leftovers(target: &Path) -> Result<(), ExtractError> {
    if target::Target::is_begun(target) {
        target::Target::open(target)?.abandon()?;
    }
    Ok(())
}

/// Returns the maximum disk space of an extraction in bytes, archive and ledger together. It includes the space that
/// the archive takes already.
///
/// With `discard` (for [`LedgerFormat::TarZst`] only), an archive made by [`pack`] stays below this. One that
/// compresses the ledger's start far better than its end may exceed it by as much as it exceeds the rest
/// of the ledger, which zstd keeps below a hundredth.
#[must_use]
pub fn disk_needed(
    format: LedgerFormat,
    archive_bytes: u64,
    ledger_bytes: u64,
    discard: bool,
) -> u64 {
    match format {
        LedgerFormat::Plain => ledger_bytes,
        LedgerFormat::TarZst if discard => archive_bytes
            .max(ledger_bytes)
            .saturating_add(extract::CHECKPOINT),
        LedgerFormat::TarZst | LedgerFormat::SevenZ => archive_bytes.saturating_add(ledger_bytes),
    }
}

fn open(path: &Path) -> Result<File, ExtractError> {
    File::open(path).map_err(|source| ExtractError::OpenArchive {
        path: path.to_owned(),
        source,
    })
}

fn measured(path: &Path, file: File) -> Result<FileSource, ExtractError> {
    FileSource::whole(file).map_err(|source| ExtractError::OpenArchive {
        path: path.to_owned(),
        source,
    })
}
