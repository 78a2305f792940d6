//! The start header of a 7z archive: the 32 bytes that locate its header.

use super::reader::{Reader, damaged};
use crate::error::Refusal;

/// Longest header. That of an archive with one file has some 150 bytes.
pub(super) const MAX_HEADER: u64 = 1 << 20;

/// The first 32 bytes, which locate the header.
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

    /// Parses the start header and checks that the header it locates ends an archive of `archive_len` bytes.
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
