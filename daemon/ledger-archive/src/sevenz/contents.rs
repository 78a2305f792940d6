//! The entries of a 7z archive, and which of them is the ledger.

use super::coder::Coder;
use super::reader::damaged;
use crate::error::Refusal;
use crate::name::{EntryName, Names};

/// Attribute bits: Windows' link, and the bit that says that Unix' mode is in the upper half.
const REPARSE_POINT: u32 = 0x400;
const UNIX_MODE: u32 = 0x8000;

/// The contents of an archive.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) folders: Vec<Folder>,
    pub(super) files: Vec<File>,
}

/// A compressed stream and the files in it.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) coder: Coder,
    pub(super) at: u64,
    pub(super) packed: u64,
    pub(super) unpacked: u64,
    pub(super) checksum: Option<u32>,
    /// Length and checksum of every file.
    pub(super) streams: Vec<(u64, Option<u32>)>,
}

#[derive(Debug, Default, Clone)]
pub(super) struct File {
    pub(super) name: Vec<u8>,
    pub(super) has_stream: bool,
    pub(super) directory: bool,
    pub(super) attributes: u32,
}

/// The location of the ledger in the archive, and how to decode it.
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

impl Contents {
    /// Checks all entries and finds the ledger.
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
                    // 7-Zip stores the mode of its input: `7z a -si` that of a pipe, `7z a /dev/sda` that of a
                    // device. An entry with content is a file, as for every other unpacker.
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
