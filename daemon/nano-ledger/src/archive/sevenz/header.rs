//! The headers of a 7z archive, as `7zFormat.txt` of the LZMA SDK describes them, as far as an archive
//! of a ledger has them.
//!
//! Total: whatever the bytes are, parsing ends, never panics, and allocates no more than a small
//! multiple of their number.

use super::reader::{MAX_COUNT, Reader, damaged};
use crate::archive::error::Refusal;
use crate::archive::name::{EntryName, Names};

/// Longest header. That of an archive with one file has some 150 bytes.
pub(super) const MAX_HEADER: u64 = 1 << 20;

/// Numbers of the properties.
mod id {
    pub(super) const END: u8 = 0x00;
    pub(super) const HEADER: u8 = 0x01;
    pub(super) const ARCHIVE_PROPERTIES: u8 = 0x02;
    pub(super) const MAIN_STREAMS: u8 = 0x04;
    pub(super) const FILES: u8 = 0x05;
    pub(super) const PACK_INFO: u8 = 0x06;
    pub(super) const UNPACK_INFO: u8 = 0x07;
    pub(super) const SUB_STREAMS: u8 = 0x08;
    pub(super) const SIZE: u8 = 0x09;
    pub(super) const CRC: u8 = 0x0A;
    pub(super) const FOLDER: u8 = 0x0B;
    pub(super) const UNPACK_SIZE: u8 = 0x0C;
    pub(super) const NUM_STREAMS: u8 = 0x0D;
    pub(super) const EMPTY_STREAM: u8 = 0x0E;
    pub(super) const EMPTY_FILE: u8 = 0x0F;
    pub(super) const ANTI: u8 = 0x10;
    pub(super) const NAMES: u8 = 0x11;
    pub(super) const ATTRIBUTES: u8 = 0x15;
    pub(super) const PACKED_HEADER: u8 = 0x17;
}

/// 7-Zip's numbers of the methods that are supported.
mod method {
    pub(super) const COPY: &[u8] = &[0x00];
    pub(super) const LZMA: &[u8] = &[0x03, 0x01, 0x01];
    pub(super) const LZMA2: &[u8] = &[0x21];
    /// AES-256 with a key made of a password by SHA-256.
    pub(super) const AES: &[u8] = &[0x06, 0xF1, 0x07, 0x01];

    /// The name of a method that is not supported, as 7-Zip shows it (`Methods.txt` of the LZMA SDK), with
    /// its number.
    pub(super) fn name(method: &[u8]) -> String {
        let id: String = method.iter().map(|byte| format!("{byte:02x}")).collect();
        let name = match method {
            [0x03] => "the filter Delta",
            [0x04] | [0x03, 0x03, 0x01, 0x03] => "the filter BCJ (x86)",
            [0x05] | [0x03, 0x03, 0x02, 0x05] => "the filter PPC",
            [0x06] | [0x03, 0x03, 0x04, 0x01] => "the filter IA64",
            [0x07] | [0x03, 0x03, 0x05, 0x01] => "the filter ARM",
            [0x08] | [0x03, 0x03, 0x07, 0x01] => "the filter ARMT",
            [0x09] | [0x03, 0x03, 0x08, 0x05] => "the filter SPARC",
            [0x0a] => "the filter ARM64",
            [0x0b] => "the filter RISCV",
            [0x02, 0x03, 0x02] => "the filter Swap2",
            [0x02, 0x03, 0x04] => "the filter Swap4",
            [0x03, 0x03, 0x01, 0x1b] => "the filter BCJ2 (x86)",
            [0x03, 0x04, 0x01] => "PPMd",
            [0x04, 0x01, 0x08] => "Deflate",
            [0x04, 0x01, 0x09] => "Deflate64",
            [0x04, 0x02, 0x02] => "BZip2",
            [0x04, 0xf7, 0x11, 0x01] => "Zstandard",
            [0x04, 0xf7, 0x11, 0x02] => "Brotli",
            [0x04, 0xf7, 0x11, 0x04] => "LZ4",
            [0x04, 0xf7, 0x11, 0x05] => "LZ5",
            [0x04, 0xf7, 0x11, 0x06] => "Lizard",
            _ => return format!("an unknown method ({id})"),
        };
        format!("{name} ({id})")
    }
}

/// Attribute bits: Windows' link, and the bit that says that Unix' mode is in the upper half.
const REPARSE_POINT: u32 = 0x400;
const UNIX_MODE: u32 = 0x8000;

/// The first 32 bytes, which say where the header is.
#[derive(Debug)]
pub(super) struct StartHeader {
    /// First byte of the header.
    pub(super) offset: u64,
    /// Its length, at most [`MAX_HEADER`].
    pub(super) len: u64,
    checksum: u32,
}

impl StartHeader {
    pub(super) const LEN: u64 = 32;

    /// Checks that the header is what an archive of `archive_len` bytes ends with.
    pub(super) fn parse(bytes: &[u8], archive_len: u64) -> Result<Self, Refusal> {
        let truncated = || Refusal::Truncated { at: archive_len };
        let mut reader = Reader(bytes);
        let (_, [major, _]) = (reader.array::<6>(), reader.array().ok_or_else(truncated)?);
        if major != 0 {
            return Err(damaged("its version is unknown"));
        }
        let checksum = reader.array().ok_or_else(truncated)?;
        let covered = reader.0;
        let offset = u64::from_le_bytes(reader.array().ok_or_else(truncated)?);
        let len = u64::from_le_bytes(reader.array().ok_or_else(truncated)?);
        let header = u32::from_le_bytes(reader.array().ok_or_else(truncated)?);
        if crc32fast::hash(covered) != u32::from_le_bytes(checksum) {
            return Err(Refusal::SevenZHeaderChecksum);
        }
        if len == 0 {
            return Err(Refusal::NoLedger);
        }
        let offset = offset.checked_add(Self::LEN).ok_or_else(truncated)?;
        let end = offset.checked_add(len).ok_or_else(truncated)?;
        if end > archive_len {
            return Err(Refusal::SevenZIncomplete {
                len: archive_len,
                end,
            });
        }
        if end < archive_len {
            return Err(Refusal::TrailingGarbage { at: end });
        }
        if len > MAX_HEADER {
            return Err(damaged("it is too long"));
        }
        Ok(Self {
            offset,
            len,
            checksum: header,
        })
    }

    pub(super) fn check(&self, header: &[u8]) -> Result<(), Refusal> {
        if crc32fast::hash(header) == self.checksum {
            Ok(())
        } else {
            Err(Refusal::SevenZHeaderChecksum)
        }
    }
}

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Coder {
    Copy,
    Lzma { props: u8, dictionary: u32 },
    Lzma2 { dictionary: u32 },
}

impl Coder {
    /// Bytes of memory for decoding, but for a constant.
    pub(super) fn dictionary(&self) -> u32 {
        match *self {
            Self::Copy => 0,
            Self::Lzma { dictionary, .. } | Self::Lzma2 { dictionary } => dictionary,
        }
    }

    fn parse(method: &[u8], properties: &[u8]) -> Result<Self, Refusal> {
        match (method, properties) {
            (method::COPY, []) => Ok(Self::Copy),
            (method::LZMA, &[props, a, b, c, d]) => Ok(Self::Lzma {
                props,
                dictionary: u32::from_le_bytes([a, b, c, d]),
            }),
            (method::LZMA2, [40]) => Ok(Self::Lzma2 {
                dictionary: u32::MAX,
            }),
            (method::LZMA2, &[size @ 0..40]) => Ok(Self::Lzma2 {
                dictionary: (2 | u32::from(size & 1)) << (size / 2 + 11),
            }),
            (method::COPY | method::LZMA | method::LZMA2, _) => {
                Err(damaged("a method has wrong properties"))
            }
            (method::AES, _) => Err(Refusal::SevenZEncrypted),
            (method, _) => Err(Refusal::SevenZMethod {
                name: method::name(method),
            }),
        }
    }
}

/// A header that is compressed.
#[derive(Debug)]
pub(super) struct Packed {
    pub(super) coder: Coder,
    /// First byte of the stream in the archive.
    pub(super) at: u64,
    pub(super) packed: u64,
    pub(super) unpacked: u64,
    checksum: Option<u32>,
}

impl Packed {
    pub(super) fn check(&self, header: &[u8]) -> Result<(), Refusal> {
        if header.len() as u64 != self.unpacked {
            return Err(damaged("it has another length than it says"));
        }
        match self.checksum {
            Some(checksum) if checksum != crc32fast::hash(header) => {
                Err(Refusal::SevenZHeaderChecksum)
            }
            _ => Ok(()),
        }
    }
}

/// Where the ledger is, and how to get it out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ledger {
    pub(super) coder: Coder,
    /// First byte of the stream in the archive.
    pub(super) at: u64,
    /// Bytes of it in the archive.
    pub(super) packed: u64,
    /// Bytes it unpacks to.
    pub(super) unpacked: u64,
    /// Bytes of them before the ledger.
    pub(super) skip: u64,
    /// Bytes of the ledger.
    pub(super) len: u64,
    pub(super) checksum: u32,
    /// Whether the stream ends with the ledger.
    pub(super) last: bool,
}

/// A header, as it is or still to be unpacked.
#[derive(Debug)]
pub(super) enum Headers {
    Packed(Packed),
    Plain(Contents),
}

/// What is in an archive.
#[derive(Debug)]
pub(super) struct Contents {
    folders: Vec<Folder>,
    files: Vec<File>,
}

/// A compressed stream and the files in it.
#[derive(Debug)]
struct Folder {
    coder: Coder,
    at: u64,
    packed: u64,
    unpacked: u64,
    checksum: Option<u32>,
    /// Length and checksum of every file.
    streams: Vec<(u64, Option<u32>)>,
}

#[derive(Debug, Default, Clone)]
struct File {
    name: Vec<u8>,
    has_stream: bool,
    directory: bool,
    attributes: u32,
}

impl Headers {
    /// Parses a header that starts at byte `end` of the archive, before which all streams end.
    pub(super) fn parse(bytes: &[u8], end: u64) -> Result<Self, Refusal> {
        let mut reader = Reader(bytes);
        let headers = match reader.byte()? {
            id::PACKED_HEADER => {
                let folders = reader.streams(end)?;
                let Ok([folder]) = <[Folder; 1]>::try_from(folders) else {
                    return Err(damaged("it is compressed in several streams"));
                };
                if folder.unpacked > MAX_HEADER {
                    return Err(damaged("it is too long"));
                }
                Self::Packed(Packed {
                    coder: folder.coder,
                    at: folder.at,
                    packed: folder.packed,
                    unpacked: folder.unpacked,
                    checksum: folder.checksum,
                })
            }
            id::HEADER => Self::Plain(reader.contents(end)?),
            _ => return Err(damaged("it does not begin as one")),
        };
        if !reader.0.is_empty() {
            return Err(damaged("something follows its end"));
        }
        Ok(headers)
    }
}

impl Contents {
    /// Judges all entries and finds the ledger.
    pub(super) fn ledger(&self) -> Result<Ledger, Refusal> {
        let mut names = Names::default();
        let mut streams = self.folders.iter().flat_map(|folder| {
            let count = folder.streams.len();
            let mut skip = 0_u64;
            folder
                .streams
                .iter()
                .enumerate()
                .map(move |(index, &(len, checksum))| {
                    let before = skip;
                    skip = skip.saturating_add(len);
                    (folder, before, len, checksum, index + 1 == count)
                })
        });
        let mut ledger = None;
        for file in &self.files {
            let name = || EntryName::new(&file.name);
            match file.attributes {
                attributes if attributes & UNIX_MODE != 0 => match attributes >> 16 & 0o170_000 {
                    0 | 0o100_000 | 0o040_000 => {}
                    0o120_000 => return Err(Refusal::Link { name: name() }),
                    // 7-Zip stores the mode of what it read from: `7z a -si` a pipe, `7z a /dev/sda` a
                    // device. What has content is a file, as every unpacker makes it.
                    _ if file.has_stream => {}
                    _ => return Err(Refusal::Device { name: name() }),
                },
                attributes if attributes & REPARSE_POINT != 0 => {
                    return Err(Refusal::Link { name: name() });
                }
                _ => {}
            }
            let called_so = names.admit(&file.name)?;
            let stream = match file.has_stream {
                true => Some(streams.next().ok_or(damaged("a file has no data"))?),
                false => None,
            };
            if !called_so || file.directory {
                continue;
            }
            if ledger.is_some() {
                return Err(Refusal::TwoLedgers { name: name() });
            }
            let Some((folder, skip, len, checksum, last)) = stream else {
                return Err(damaged("the ledger is empty"));
            };
            ledger = Some(Ledger {
                coder: folder.coder,
                at: folder.at,
                packed: folder.packed,
                unpacked: folder.unpacked,
                skip,
                len,
                checksum: checksum.ok_or(Refusal::SevenZUnchecked)?,
                last,
            });
        }
        if streams.next().is_some() {
            return Err(damaged("there is data of no file"));
        }
        ledger.ok_or(Refusal::NoLedger)
    }
}

impl Reader<'_> {
    /// Streams that all end at or before byte `end` of the archive.
    fn streams(&mut self, end: u64) -> Result<Vec<Folder>, Refusal> {
        let mut folders = Vec::new();
        if self.found(id::PACK_INFO) {
            let packed = self.packed(end)?;
            self.expect(id::UNPACK_INFO, "its streams have no methods")?;
            folders = self.folders(packed)?;
        }
        if self.found(id::SUB_STREAMS) {
            self.sub_streams(&mut folders)?;
        }
        self.expect(id::END, "its list of streams does not end")?;
        Ok(folders)
    }

    /// Where the packed streams are: first byte and length.
    fn packed(&mut self, end: u64) -> Result<Vec<(u64, u64)>, Refusal> {
        let outside = || damaged("a stream is not within the archive");
        let position = self.number()?;
        let mut at = position.checked_add(StartHeader::LEN).ok_or_else(outside)?;
        let count = self.count()?;
        self.expect(id::SIZE, "its streams have no sizes")?;
        let mut packed = Vec::with_capacity(count);
        for _ in 0..count {
            let len = self.number()?;
            packed.push((at, len));
            at = at
                .checked_add(len)
                .filter(|at| *at <= end)
                .ok_or_else(outside)?;
        }
        if self.found(id::CRC) {
            // What they are of is checked when it is unpacked.
            self.checksums(count)?;
        }
        self.expect(id::END, "its list of packed streams does not end")?;
        Ok(packed)
    }

    fn folders(&mut self, packed: Vec<(u64, u64)>) -> Result<Vec<Folder>, Refusal> {
        self.expect(id::FOLDER, "its methods are missing")?;
        let count = self.count()?;
        self.expect(0, "its methods are elsewhere")?;
        let coders: Vec<Coder> = (0..count).map(|_| self.coder()).collect::<Result<_, _>>()?;
        if coders.len() != packed.len() {
            return Err(damaged("it has not one stream for each method"));
        }
        self.expect(id::UNPACK_SIZE, "its unpacked sizes are missing")?;
        let sizes: Vec<u64> = (0..count)
            .map(|_| self.number())
            .collect::<Result<_, _>>()?;
        let checksums = if self.found(id::CRC) {
            self.checksums(count)?
        } else {
            vec![None; count]
        };
        self.expect(id::END, "its list of methods does not end")?;
        let folders = coders.into_iter().zip(packed).zip(sizes).zip(checksums);
        Ok(folders
            .map(|(((coder, (at, packed)), unpacked), checksum)| Folder {
                coder,
                at,
                packed,
                unpacked,
                checksum,
                streams: vec![(unpacked, checksum)],
            })
            .collect())
    }

    /// A folder's only coder.
    fn coder(&mut self) -> Result<Coder, Refusal> {
        const ID_LEN: u8 = 0x0F;
        const COMPLEX: u8 = 0x10;
        const PROPERTIES: u8 = 0x20;
        const RESERVED: u8 = 0xC0;
        let count = self.count()?;
        let mut coder = Err(damaged("a stream has no method"));
        for _ in 0..count {
            let flags = self.byte()?;
            let method = self.bytes(u64::from(flags & ID_LEN))?;
            if flags & COMPLEX != 0 {
                let _streams = (self.number()?, self.number()?);
            }
            let properties = if flags & PROPERTIES != 0 {
                let len = self.number()?;
                self.bytes(len)?
            } else {
                &[]
            };
            // The method first: it says more than the form.
            coder = Ok(Coder::parse(method, properties)?);
            if flags & (COMPLEX | RESERVED) != 0 {
                return Err(damaged("a method has several streams"));
            }
        }
        if count > 1 {
            return Err(damaged("a stream has several methods"));
        }
        coder
    }

    /// How the folders' streams are divided into files.
    fn sub_streams(&mut self, folders: &mut [Folder]) -> Result<(), Refusal> {
        let mut counts = vec![1; folders.len()];
        if self.found(id::NUM_STREAMS) {
            let mut total = 0;
            for count in &mut counts {
                *count = self.count()?;
                total += *count as u64;
            }
            if total > MAX_COUNT {
                return Err(Refusal::TooManyEntries);
            }
        }
        let sizes = self.found(id::SIZE);
        for (folder, &count) in folders.iter_mut().zip(&counts) {
            // A lone file's checksum is the stream's.
            let checksum = folder.checksum.filter(|_| count == 1);
            folder.streams = vec![(0, checksum); count];
            let mut left = folder.unpacked;
            let Some((last, others)) = folder.streams.split_last_mut() else {
                continue;
            };
            if !others.is_empty() && !sizes {
                return Err(damaged("the sizes of files are missing"));
            }
            for (len, _) in others {
                *len = self.number()?;
                left = left
                    .checked_sub(*len)
                    .ok_or(damaged("files are longer than their stream"))?;
            }
            last.0 = left;
        }
        if self.found(id::CRC) {
            let missing = || {
                folders
                    .iter()
                    .flat_map(|folder| &folder.streams)
                    .filter(|(_, checksum)| checksum.is_none())
                    .count()
            };
            let mut checksums = self.checksums(missing())?.into_iter();
            for (_, checksum) in folders.iter_mut().flat_map(|folder| &mut folder.streams) {
                if checksum.is_none() {
                    *checksum = checksums.next().flatten();
                }
            }
        }
        self.expect(id::END, "its list of files' sizes does not end")
    }

    fn contents(&mut self, end: u64) -> Result<Contents, Refusal> {
        if self.found(id::ARCHIVE_PROPERTIES) {
            while !self.found(id::END) {
                self.byte()?;
                let len = self.number()?;
                self.bytes(len)?;
            }
        }
        let folders = if self.found(id::MAIN_STREAMS) {
            self.streams(end)?
        } else {
            Vec::new()
        };
        let files = if self.found(id::FILES) {
            self.files()?
        } else {
            Vec::new()
        };
        self.expect(id::END, "it does not end as one")?;
        Ok(Contents { folders, files })
    }

    fn files(&mut self) -> Result<Vec<File>, Refusal> {
        let count = self.count()?;
        let mut files = vec![File::default(); count];
        let mut empty_streams = vec![false; count];
        let mut empty_files = Vec::new();
        let mut named = false;
        loop {
            let kind = self.byte()?;
            if kind == id::END {
                break;
            }
            let len = self.number()?;
            let mut property = Reader(self.bytes(len)?);
            let empties = || empty_streams.iter().filter(|empty| **empty).count();
            match kind {
                id::EMPTY_STREAM => empty_streams = property.bits(count)?,
                id::EMPTY_FILE => empty_files = property.bits(empties())?,
                id::ANTI if property.bits(empties())?.contains(&true) => {
                    return Err(damaged("an entry says to remove a file"));
                }
                id::NAMES => {
                    property.expect(0, "its names are elsewhere")?;
                    for file in &mut files {
                        file.name = property.name()?;
                    }
                    named = true;
                }
                id::ATTRIBUTES => {
                    let defined = property.all_or_bits(count)?;
                    property.expect(0, "its attributes are elsewhere")?;
                    for (file, defined) in files.iter_mut().zip(defined) {
                        if defined {
                            file.attributes = property.u32()?;
                        }
                    }
                }
                // Times, start positions, padding.
                _ => {}
            }
        }
        if !named && count > 0 {
            return Err(damaged("its files have no names"));
        }
        let mut empty_files = empty_files.into_iter();
        for (file, empty) in files.iter_mut().zip(empty_streams) {
            file.has_stream = !empty;
            // What has no stream is a directory unless it is listed.
            file.directory = empty && !empty_files.next().unwrap_or(false);
        }
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dictionaries_have_7_zips_sizes() {
        for (size, dictionary) in [
            (0, 4096),
            (1, 6144),
            (24, 16 << 20),
            (39, 3 << 30),
            (40, u32::MAX),
        ] {
            let coder = Coder::parse(method::LZMA2, &[size]).unwrap();
            assert_eq!(coder.dictionary(), dictionary, "{size}");
        }
        for bad in [&[41][..], &[0xFF], &[], &[24, 0]] {
            assert!(Coder::parse(method::LZMA2, bad).is_err(), "{bad:?}");
        }
        let aes = Coder::parse(&[0x06, 0xF1, 0x07, 0x01], &[]).unwrap_err();
        assert!(matches!(aes, Refusal::SevenZEncrypted));
        for (id, shown) in [
            (&[0x04, 0x02, 0x02][..], "BZip2 (040202)"),
            (&[0x03, 0x03, 0x01, 0x03], "the filter BCJ (x86) (03030103)"),
            (&[0x7f, 0x00], "an unknown method (7f00)"),
        ] {
            let method = Coder::parse(id, &[]).unwrap_err();
            assert!(method.to_string().contains(shown), "{method}");
        }
    }

    proptest! {
        /// Any bytes come to an end.
        #[test]
        fn parsing_is_total(mut bytes in prop::collection::vec(
            prop_oneof![0_u8..0x1A, any::<u8>()], 0..200,
        )) {
            for first in [id::HEADER, id::PACKED_HEADER] {
                bytes.insert(0, first);
                if let Ok(Headers::Plain(contents)) = Headers::parse(&bytes, 1 << 40) {
                    let _ = contents.ledger();
                }
            }
        }
    }
}
