//! Errors of packing and extracting, one variant per operation, and the refusals of archives, one variant per rule.

use std::io;
use std::path::PathBuf;

use crate::name::EntryName;

/// Why a ledger could not be packed.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// Frames must hold whole ledger pages of every size and must be worth a frame.
    #[error(
        "{given} bytes of ledger per frame are not possible; take a multiple of 64 KiB up to 64 MiB"
    )]
    FrameBytes {
        /// The requested value.
        given: u32,
    },
    /// zstd has no such level.
    #[error("zstd has no compression level {given}; take one from 1 to 22")]
    Level {
        /// The requested value.
        given: i32,
    },
    /// The ledger could not be opened.
    #[error("cannot open {}", path.display())]
    Open {
        /// The ledger.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The ledger could not be read.
    #[error("cannot read the ledger at byte {offset}")]
    Read {
        /// First byte of the failed read.
        offset: u64,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The ledger does not have the given length: it changes while it is packed.
    #[error(
        "the ledger does not have the expected {declared} bytes, it changed while it was packed; pack a copy of it"
    )]
    Length {
        /// The expected length.
        declared: u64,
    },
    /// The archive could not be written, such as for lack of space.
    #[error("cannot write the archive at byte {offset}")]
    Write {
        /// First byte of the failed write.
        offset: u64,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// zstd failed, which only lack of memory can cause.
    #[error("zstd cannot compress: {reason}")]
    Compress {
        /// zstd's name of the error.
        reason: &'static str,
    },
}

/// Why an archive was not extracted.
///
/// [`ExtractError::Refused`] is a fault of the archive: extracting it again fails again, and the extracted data is removed.
/// All other errors are faults of this machine: the extracted data stays, and the extraction can be resumed.
#[derive(Debug, thiserror::Error)]
pub enum ExtractError {
    /// The archive is not one to extract.
    #[error("the archive was refused")]
    Refused {
        /// By which rule.
        #[source]
        refusal: Refusal,
    },
    /// The archive could not be opened.
    #[error("cannot open {}", path.display())]
    OpenArchive {
        /// The archive.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The archive could not be read.
    #[error("cannot read the archive at byte {offset}")]
    ReadArchive {
        /// First byte of the failed read.
        offset: u64,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The target cannot be written: it is no path of a file, or a directory, link or device is there.
    #[error("{} cannot be the extracted ledger; give the path of a file in an existing directory", path.display())]
    NotAFile {
        /// The target or its temporary name.
        path: PathBuf,
    },
    /// Another process extracts to the same target.
    #[error("another process is extracting to {}", path.display())]
    Busy {
        /// The target.
        path: PathBuf,
    },
    /// A file beside the target could not be opened or created.
    #[error("cannot open {}", path.display())]
    OpenTarget {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The ledger could not be written, such as for lack of space.
    #[error("cannot write {} at byte {offset}", path.display())]
    Write {
        /// The temporary file.
        path: PathBuf,
        /// First byte of the failed write.
        offset: u64,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The written data could not be synced; the journal does not refer to it.
    #[error("cannot sync {} to disk", path.display())]
    Sync {
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The journal could not be read or written.
    #[error("cannot keep the journal {}", path.display())]
    Journal {
        /// The journal.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The ledger is complete but could not be renamed to the target.
    #[error("cannot rename {} to {}", from.display(), to.display())]
    Rename {
        /// The temporary name.
        from: PathBuf,
        /// The target.
        to: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// A file beside the target could not be removed.
    #[error("cannot remove {}", path.display())]
    Remove {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The disk space of the archive's start could not be freed; some file systems do not support that.
    #[error(
        "cannot free the extracted part of the archive; without discarding it, archive and \
         ledger must both fit"
    )]
    Discard {
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The allocated size of a file could not be asked for.
    #[error("cannot tell the size on disk of the archive or the ledger")]
    Measure {
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// zstd could not allocate its context.
    #[error("there is no memory for a zstd decoder")]
    Memory,
    /// The caller's progress function stopped the extraction. The extracted data stays.
    #[error("the extraction was stopped")]
    Stopped,
}

impl From<Refusal> for ExtractError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused { refusal }
    }
}

/// The rule an archive breaks. No archive that breaks one replaces a target.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// The first bytes are those of no known format.
    #[error("this is neither a ledger nor a tar.zst nor a 7z archive")]
    UnknownFormat,
    /// The file is a ledger and no archive.
    #[error("this file is a ledger and not an archive: there is nothing to extract")]
    Plain,
    /// The archive ends early.
    #[error("the archive ends at byte {at}, before its content does")]
    Truncated {
        /// Its length.
        at: u64,
    },
    /// There is more in the file than the archive.
    #[error("the file continues after the end of the archive, at byte {at}")]
    TrailingGarbage {
        /// Bytes from the archive's start.
        at: u64,
    },
    /// A zstd frame is damaged.
    #[error("the zstd frame before byte {at} of the archive is damaged: {reason}")]
    Frame {
        /// Bytes of the archive read so far.
        at: u64,
        /// zstd's name of the error.
        reason: &'static str,
    },
    /// The content of a zstd frame does not have the frame's checksum.
    #[error("the zstd frame that ends before byte {at} of the archive has a wrong checksum")]
    FrameChecksum {
        /// Bytes of the archive read so far.
        at: u64,
    },
    /// A zstd frame wants to look back further than is allowed.
    #[error("the zstd frame before byte {at} of the archive needs a window of more than 128 MiB")]
    Window {
        /// Bytes of the archive read so far.
        at: u64,
    },
    /// A zstd frame was compressed with a dictionary, which is not in the archive.
    #[error("the zstd frame before byte {at} of the archive needs a dictionary")]
    FrameDictionary {
        /// Bytes of the archive read so far.
        at: u64,
    },
    /// A tar header is none: the archive contains something else than a tar file, or a damaged one.
    #[error("there is no tar header at byte {at} of the tar file")]
    TarHeader {
        /// Bytes of uncompressed tar file.
        at: u64,
    },
    /// A tar extension header is malformed, too long, or of a kind that changes what follows.
    #[error("the tar extension header at byte {at} of the tar file is not supported: {detail}")]
    TarExtension {
        /// Bytes of uncompressed tar file.
        at: u64,
        /// What about it.
        detail: &'static str,
    },
    /// Something other than zeros follows the tar file's end.
    #[error("there is data after the end of the tar file, at its byte {at}")]
    TarTrailing {
        /// Bytes of uncompressed tar file.
        at: u64,
    },
    /// A name begins with `/`.
    #[error("the archive contains the absolute path {name}")]
    AbsolutePath {
        /// The entry.
        name: EntryName,
    },
    /// A name contains `..`.
    #[error("the archive contains the path {name}, which leads out of its directory")]
    ParentPath {
        /// The entry.
        name: EntryName,
    },
    /// A name is empty, too long, or contains NUL.
    #[error("the archive contains the impossible name {name}")]
    BadName {
        /// The entry.
        name: EntryName,
    },
    /// A hard or symbolic link.
    #[error("the archive contains the link {name}")]
    Link {
        /// The entry.
        name: EntryName,
    },
    /// A device, FIFO or socket.
    #[error("the archive contains the device or FIFO {name}")]
    Device {
        /// The entry.
        name: EntryName,
    },
    /// A file with holes, whose size is not that of its data.
    #[error("the archive contains {name} in a sparse format")]
    Sparse {
        /// The entry.
        name: EntryName,
    },
    /// An entry that is neither file nor directory.
    #[error("the archive contains {name}, which is neither a file nor a directory")]
    UnknownEntry {
        /// The entry.
        name: EntryName,
    },
    /// Two entries have the same name.
    #[error("the archive contains {name} twice")]
    Duplicate {
        /// The entry.
        name: EntryName,
    },
    /// Two files are called `data.ldb`.
    #[error("the archive contains two ledgers, the second is {name}")]
    TwoLedgers {
        /// The second.
        name: EntryName,
    },
    /// No file is called `data.ldb`.
    #[error("the archive contains no file called data.ldb")]
    NoLedger,
    /// More entries or longer names than any archive of a ledger has.
    #[error("the archive contains too many entries")]
    TooManyEntries,
    /// The ledger is larger than the caller allows.
    #[error("the ledger in the archive has {declared} bytes, more than the {limit} allowed")]
    TooLarge {
        /// Declared length in bytes.
        declared: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The other entries of the archive are too large.
    #[error("the archive contains more than {limit} bytes beside the ledger")]
    OthersTooLarge {
        /// Bytes allowed.
        limit: u64,
    },
    /// The archive contains more than its header declares.
    #[error("the archive contains more than the {declared} bytes that it declares")]
    MoreThanDeclared {
        /// Declared length in bytes.
        declared: u64,
    },
    /// The archive contains less than its header declares.
    #[error("the archive contains {found} bytes instead of the {declared} that it declares")]
    LessThanDeclared {
        /// Bytes found.
        found: u64,
        /// Declared length in bytes.
        declared: u64,
    },
    /// The 7z header is damaged or longer than one that describes a ledger.
    #[error("the 7z header is damaged or not supported: {detail}")]
    SevenZHeader {
        /// What about it.
        detail: &'static str,
    },
    /// The 7z header does not have its checksum.
    #[error("the 7z header has a wrong checksum")]
    SevenZHeaderChecksum,
    /// The file is shorter than its header declares.
    #[error(
        "the 7z archive has {len} of the {end} bytes that its header declares: it is not complete, or the first \
         of several volumes (.7z.001, .7z.002 and so on), which have to be joined with `cat` first"
    )]
    SevenZIncomplete {
        /// Bytes of the file.
        len: u64,
        /// Bytes it should have.
        end: u64,
    },
    /// The content or the header is encrypted.
    #[error("the 7z archive is encrypted; make it without a password")]
    SevenZEncrypted,
    /// The content is not compressed with LZMA or LZMA2 alone.
    #[error(
        "the 7z archive uses {name}; only LZMA2, LZMA and no compression are supported, without filters: \
         make it with `7z a -m0=lzma2 -mf=off`"
    )]
    SevenZMethod {
        /// 7-Zip's name of the method, with its number in hexadecimal.
        name: String,
    },
    /// Unpacking needs more memory than is allowed.
    #[error("the 7z archive needs a dictionary of {needed} bytes, more than the {limit} allowed")]
    SevenZDictionary {
        /// Bytes needed.
        needed: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// The ledger in a 7z archive has no checksum, so damage could not be detected.
    #[error("the 7z archive has no checksum of the ledger")]
    SevenZUnchecked,
    /// The ledger in a 7z archive does not have its checksum.
    #[error("the ledger in the 7z archive has a wrong checksum")]
    SevenZChecksum,
    /// The compressed data of a 7z archive is damaged.
    #[error("the compressed data of the 7z archive is damaged after {at} bytes of content")]
    SevenZData {
        /// Bytes unpacked so far.
        at: u64,
        /// The error of the decoder.
        #[source]
        source: io::Error,
    },
    /// A 7z archive cannot be discarded while it is extracted: a crash needs it from its start.
    #[error("a 7z archive cannot be discarded while it is extracted")]
    SevenZDiscard,
}
