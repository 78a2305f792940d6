//! Extracting a 7z archive.
//!
//! The header is at the end and the content is one stream. The archive must therefore be complete, and an interrupted
//! extraction starts from zero. The header is parsed here, strictly and within bounds; the decoders are those of
//! `lzma-rust2`. One thread decodes: the multi-threaded decoder buffers the compressed stream up to the next reset of
//! the dictionary, which an archive need not have.

mod coder;
mod contents;
mod header;
mod reader;
mod start_header;

use std::cell::Cell;
use std::io::{self, BufReader, Read};
use std::ops::ControlFlow;
use std::path::Path;

use lzma_rust2::{Lzma2Reader, LzmaReader};

use self::coder::Coder;
use self::contents::Ledger;
use self::header::Headers;
use self::start_header::{MAX_HEADER, StartHeader};
use crate::LedgerFormat;
use crate::error::{ExtractError, Refusal};
use crate::extract::{ExtractOptions, ExtractProgress, ExtractReport, Extracted};
use crate::source::ArchiveSource;
use crate::tar_reader::MAX_OTHERS;
use crate::target::Target;

/// Bytes decoded and written at a time.
const CHUNK: usize = 256 << 10;
/// Bytes of ledger between two calls of the progress function.
const REPORT: u64 = 16 << 20;

/// Extracts the ledger of a whole archive to the target's partial file.
pub(super) fn extract<S: ArchiveSource>(
    source: &S,
    target: &Path,
    options: &ExtractOptions,
    progress: &mut dyn FnMut(ExtractProgress) -> ControlFlow<()>,
) -> Result<Extracted, ExtractError> {
    if options.discard {
        return Err(Refusal::SevenZDiscard.into());
    }
    let archive_len = source.available();
    let ledger = find_ledger(source, archive_len, options)?;
    let target = Target::open(target)?;
    target.start_over()?;
    let mut state = Extraction {
        source,
        archive_len,
        ledger: &ledger,
        limit: options.max_dictionary_bytes,
        target: &target,
        written: 0,
    };
    if let Err(error) = state.run(progress) {
        if let ExtractError::Refused { .. } = error {
            // The refusal matters more. What cannot be removed is overwritten next time.
            let _ = target.abandon();
        }
        return Err(error);
    }
    let archive_disk = source
        .allocated()
        .map_err(|source| ExtractError::Measure { source })?;
    let (_, ledger_disk) = target.partial_size()?;
    Ok(Extracted {
        target,
        report: ExtractReport {
            format: LedgerFormat::SevenZ,
            archive_bytes: archive_len,
            ledger_bytes: ledger.len,
            resumed_bytes: 0,
            peak_disk_bytes: archive_disk + ledger_disk,
        },
        installed: false,
    })
}

/// Reads and checks the headers, and checks that the ledger can be decoded.
pub(super) fn inspect(
    source: &impl ArchiveSource,
    options: &ExtractOptions,
) -> Result<(), ExtractError> {
    let ledger = find_ledger(source, source.available(), options)?;
    let needed = u64::from(ledger.coder.dictionary());
    let limit = options.max_dictionary_bytes;
    if needed > limit {
        return Err(Refusal::SevenZDictionary { needed, limit }.into());
    }
    Ok(())
}

/// Reads and checks the headers and locates the ledger.
fn find_ledger(
    source: &impl ArchiveSource,
    archive_len: u64,
    options: &ExtractOptions,
) -> Result<Ledger, ExtractError> {
    let start = read(source, 0, StartHeader::LEN.min(archive_len))?;
    let start = StartHeader::parse(&start, archive_len)?;
    let mut bytes = read(source, start.offset, start.len)?;
    start.check(&bytes)?;
    // 7-Zip compresses the header once.
    let mut headers = Headers::parse(&bytes, start.offset)?;
    if let Headers::Packed(packed) = headers {
        let position = StreamPosition::default();
        let stream = ArchiveStream::new(source, packed.at, packed.packed, &position);
        bytes = Vec::new();
        // The decoder allocates no more dictionary than it fills.
        decoder(&packed.coder, stream, packed.unpacked, u64::MAX)?
            .take(MAX_HEADER + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| position.error(0, error))?;
        packed.check(&bytes)?;
        headers = Headers::parse(&bytes, start.offset)?;
    }
    let Headers::Plain(contents) = headers else {
        return Err(Refusal::SevenZHeader {
            detail: "it is compressed twice",
        }
        .into());
    };
    let ledger = contents.ledger()?;
    if ledger.len > options.max_ledger_bytes {
        return Err(Refusal::TooLarge {
            declared: ledger.len,
            limit: options.max_ledger_bytes,
        }
        .into());
    }
    if ledger.skip > MAX_OTHERS {
        return Err(Refusal::OthersTooLarge { limit: MAX_OTHERS }.into());
    }
    Ok(ledger)
}

fn read(source: &impl ArchiveSource, at: u64, len: u64) -> Result<Vec<u8>, ExtractError> {
    let mut bytes = vec![0; len as usize];
    source
        .read_exact_at(&mut bytes, at)
        .map_err(|source| ExtractError::ReadArchive { offset: at, source })?;
    Ok(bytes)
}

struct Extraction<'a, S> {
    source: &'a S,
    archive_len: u64,
    ledger: &'a Ledger,
    limit: u64,
    target: &'a Target,
    written: u64,
}

impl<S: ArchiveSource> Extraction<'_, S> {
    fn run(
        &mut self,
        progress: &mut dyn FnMut(ExtractProgress) -> ControlFlow<()>,
    ) -> Result<(), ExtractError> {
        let ledger = self.ledger;
        let position = StreamPosition::default();
        let stream = ArchiveStream::new(self.source, ledger.at, ledger.packed, &position);
        let mut content = decoder(&ledger.coder, stream, ledger.unpacked, self.limit)?;
        let mut buffer = vec![0; CHUNK];
        let mut skip = ledger.skip;
        while skip > 0 {
            let want = buffer.len().min(usize::try_from(skip).unwrap_or(CHUNK));
            let got = self.read(&mut *content, buffer.get_mut(..want), &position)?;
            skip -= got as u64;
        }
        let mut checksum = crc32fast::Hasher::new();
        let mut report_at = 0;
        while self.written < ledger.len {
            if self.written >= report_at {
                report_at = self.written + REPORT;
                if progress(self.progress(&position)).is_break() {
                    return Err(ExtractError::Stopped);
                }
            }
            let left = ledger.len - self.written;
            let want = buffer.len().min(usize::try_from(left).unwrap_or(CHUNK));
            let got = self.read(&mut *content, buffer.get_mut(..want), &position)?;
            let bytes = buffer.get(..got).unwrap_or_default();
            checksum.update(bytes);
            self.target.write_at(bytes, self.written)?;
            self.written += got as u64;
        }
        if ledger.last {
            let more = content
                .read(&mut [0])
                .map_err(|error| position.error(self.written, error))?;
            if more > 0 {
                return Err(Refusal::MoreThanDeclared {
                    declared: ledger.len,
                }
                .into());
            }
        }
        if checksum.finalize() != ledger.checksum {
            return Err(Refusal::SevenZChecksum.into());
        }
        self.target.sync()
    }

    /// Reads at least one byte.
    fn read(
        &self,
        content: &mut dyn Read,
        buffer: Option<&mut [u8]>,
        position: &StreamPosition,
    ) -> Result<usize, ExtractError> {
        match content.read(buffer.unwrap_or_default()) {
            Ok(0) => Err(Refusal::LessThanDeclared {
                found: self.written,
                declared: self.ledger.len,
            }
            .into()),
            Ok(got) => Ok(got),
            Err(error) => Err(position.error(self.written, error)),
        }
    }

    fn progress(&self, position: &StreamPosition) -> ExtractProgress {
        ExtractProgress {
            archive_bytes: position.at.get(),
            archive_len: self.archive_len,
            ledger_bytes: self.written,
            ledger_len: Some(self.ledger.len),
        }
    }
}

/// The position of an [`ArchiveStream`]. It stays accessible after a decoder has taken the stream.
#[derive(Debug, Default)]
struct StreamPosition {
    at: Cell<u64>,
    failed: Cell<bool>,
}

impl StreamPosition {
    /// Converts an error of a decoder: the archive is damaged, or reading it failed.
    fn error(&self, content: u64, source: io::Error) -> ExtractError {
        if self.failed.get() {
            let offset = self.at.get();
            return ExtractError::ReadArchive { offset, source };
        }
        let at = content;
        Refusal::SevenZData { at, source }.into()
    }
}

/// The decoder of one stream of content.
fn decoder<'a>(
    coder: &Coder,
    packed: impl Read + 'a,
    unpacked: u64,
    limit: u64,
) -> Result<Box<dyn Read + 'a>, ExtractError> {
    let needed = u64::from(coder.dictionary());
    if needed > limit {
        return Err(Refusal::SevenZDictionary { needed, limit }.into());
    }
    let packed = BufReader::with_capacity(CHUNK, packed);
    Ok(match *coder {
        Coder::Copy => Box::new(packed),
        Coder::Lzma { props, dictionary } => {
            let reader = LzmaReader::new_with_props(packed, unpacked, props, dictionary, None)
                .map_err(|source| Refusal::SevenZData { at: 0, source })?;
            Box::new(reader)
        }
        Coder::Lzma2 { dictionary } => Box::new(Lzma2Reader::new(packed, dictionary, None)),
    })
}

/// A part of the archive as a stream.
struct ArchiveStream<'a, S> {
    source: &'a S,
    end: u64,
    position: &'a StreamPosition,
}

impl<'a, S> ArchiveStream<'a, S> {
    fn new(source: &'a S, at: u64, len: u64, position: &'a StreamPosition) -> Self {
        position.at.set(at);
        Self {
            source,
            end: at.saturating_add(len),
            position,
        }
    }
}

impl<S: ArchiveSource> Read for ArchiveStream<'_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let at = self.position.at.get();
        let left = usize::try_from(self.end.saturating_sub(at)).unwrap_or(usize::MAX);
        let want = buffer.len().min(left);
        if let Some(part) = buffer.get_mut(..want) {
            self.source
                .read_exact_at(part, at)
                .inspect_err(|_| self.position.failed.set(true))?;
        }
        self.position.at.set(at + want as u64);
        Ok(want)
    }
}
