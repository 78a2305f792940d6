//! The three formats of a ledger in a snapshot, recognised by their first bytes.

use std::path::Path;

use crate::error::{ExtractError, Refusal};
use crate::source::ArchiveSource;
use crate::{measured, open};

/// The format of the ledger in a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LedgerFormat {
    /// The ledger itself.
    Plain,
    /// A tar file compressed with zstd.
    TarZst,
    /// A 7z archive.
    SevenZ,
}

impl LedgerFormat {
    /// Bytes that [`LedgerFormat::from_header`] looks at.
    pub const HEADER_LEN: usize = 20;

    /// Returns the format of a file that starts with `start`: [`LedgerFormat::HEADER_LEN`] bytes, or the whole file if
    /// it has fewer. Returns `None` for other files.
    #[must_use]
    pub fn from_header(start: &[u8]) -> Option<Self> {
        const LMDB_MAGIC: [u8; 4] = 0xBEEF_C0DE_u32.to_le_bytes();
        const ZSTD_MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();
        match start {
            [b'7', b'z', 0xBC, 0xAF, 0x27, 0x1C, ..] => Some(Self::SevenZ),
            // Skippable frames have sixteen magic numbers; pzstd puts one in front.
            [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..] => Some(Self::TarZst),
            start if start.starts_with(&ZSTD_MAGIC) => Some(Self::TarZst),
            start if start.get(16..20) == Some(&LMDB_MAGIC[..]) => Some(Self::Plain),
            _ => None,
        }
    }
}

/// Returns the format of the file at `path`.
///
/// # Errors
///
/// [`ExtractError::OpenArchive`], [`ExtractError::ReadArchive`], or
/// [`Refusal::UnknownFormat`] for a file that is none of them.
pub fn detect(path: &Path) -> Result<LedgerFormat, ExtractError> {
    let file = open(path)?;
    detect_source(&measured(path, file)?)
}

pub(crate) fn detect_source(source: &impl ArchiveSource) -> Result<LedgerFormat, ExtractError> {
    let mut start = [0; LedgerFormat::HEADER_LEN];
    let len = source.available().min(LedgerFormat::HEADER_LEN as u64) as usize;
    let start = start.get_mut(..len).unwrap_or_default();
    source
        .read_exact_at(start, 0)
        .map_err(|source| ExtractError::ReadArchive { offset: 0, source })?;
    LedgerFormat::from_header(start).ok_or_else(|| Refusal::UnknownFormat.into())
}
