//! The peer wire protocol: the handshake, messages, and the extension messages we speak.
//!
//! Decoders return values that borrow from a byte slice, so that a reader can work on one big
//! buffer. [`Message::decode`] returns the number of missing or consumed bytes. [`Header::peek`]
//! returns the position of the payload of a `piece` as soon as its first 13 bytes have arrived. The
//! length of a message is checked before its bytes arrive. Encoders append to any
//! [`bytes::BufMut`].
//!
//! All integers on the wire are big-endian. A message is a 4-byte length, a 1-byte id and the rest;
//! length 0 is a keep-alive (BEP 3, "peer protocol").

mod extended;
mod handshake;
mod header;
mod ids;
mod message;
mod metadata;
mod pex;

pub use extended::{EXTENDED_HANDSHAKE, ExtendedError, ExtendedHandshake, UT_METADATA, UT_PEX};
pub use handshake::{HANDSHAKE_LEN, Handshake, HandshakeError, OPENING_LEN, Opening, Reserved};
pub use header::{Header, WireError, piece_header};
pub use ids::{MAX_HASHES, MAX_MESSAGE_LEN, MessageId};
pub use message::{HashList, Message, Request, Step};
pub use metadata::{
    MAX_METADATA_LEN, METADATA_PIECE_LEN, MetadataError, MetadataMessage, OwnedMetadataMessage,
    metadata_piece_size,
};
pub use pex::{PexError, PexFlags, PexMessage, PexPeer};

/// Bytes of a `piece` message before its payload: length, id, piece index, begin.
pub const PIECE_HEADER_LEN: usize = 13;
