//! The headers of a 7z archive, as `7zFormat.txt` of the LZMA SDK describes them, as far as an archive
//! of a ledger has them.
//!
//! Parsing is total: for any bytes it ends, never panics, and allocates at most a small multiple of their number.

use super::coder::Coder;
use super::contents::{Contents, File, Folder};
use super::reader::{MAX_COUNT, Reader, damaged};
use super::start_header::{MAX_HEADER, StartHeader};
use crate::error::Refusal;

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

/// A header, plain or compressed.
#[derive(Debug)]
pub(super) enum Headers {
    Packed(Packed),
    Plain(Contents),
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
            // Checksums of unpacked data are compared instead.
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
            // An unsupported method is the more helpful refusal, so it is checked first.
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

    proptest! {
        /// Parsing ends for any bytes.
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
