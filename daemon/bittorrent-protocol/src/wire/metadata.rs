//! Metadata messages: the info dictionary from peers (BEP 9).

use std::borrow::Cow;

/// Bytes in a piece of metadata; the last one may be shorter.
pub const METADATA_PIECE_LEN: u32 = 16 * 1024;

/// The longest info dictionary in bytes; the bound libtorrent uses. An info dictionary with as
/// many v1 hashes as [`MAX_PIECES`](crate::MAX_PIECES) would be longer: such a torrent cannot be
/// started from a magnet link.
pub const MAX_METADATA_LEN: u32 = 30 * 1024 * 1024;

/// The payload of an `extended` message about metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MetadataMessage<'a> {
    /// Asks for a piece.
    Request {
        /// Its number; nothing about it has been checked.
        piece: u32,
    },
    /// A piece.
    Data {
        /// Its number; it exists in metadata of `total_size` bytes.
        piece: u32,
        /// Length of the whole info dictionary in bytes, 1 to [`MAX_METADATA_LEN`].
        total_size: u32,
        /// The piece: as long as the piece with this number is in metadata of `total_size` bytes.
        payload: Cow<'a, [u8]>,
    },
    /// The sender does not have, or will not send, a piece.
    Reject {
        /// Its number; nothing about it has been checked.
        piece: u32,
    },
    /// A kind of message that BEP 9 does not know and asks to ignore.
    Unknown {
        /// Its `msg_type`.
        kind: i64,
    },
}

/// A metadata message that borrows from no buffer.
pub type OwnedMetadataMessage = MetadataMessage<'static>;

impl MetadataMessage<'_> {
    /// Copies the payload out of the buffer it was decoded from.
    pub fn into_owned(self) -> OwnedMetadataMessage {
        match self {
            Self::Request { piece } => MetadataMessage::Request { piece },
            Self::Data {
                piece,
                total_size,
                payload,
            } => MetadataMessage::Data {
                piece,
                total_size,
                payload: Cow::Owned(payload.into_owned()),
            },
            Self::Reject { piece } => MetadataMessage::Reject { piece },
            Self::Unknown { kind } => MetadataMessage::Unknown { kind },
        }
    }
}
