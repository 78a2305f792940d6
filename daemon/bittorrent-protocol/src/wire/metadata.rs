//! Metadata messages: the info dictionary from peers (BEP 9).

use std::borrow::Cow;

use crate::bencode::{self, BencodeError, Encoder, Limits};

/// Bytes in a piece of metadata; the last one may be shorter.
pub const METADATA_PIECE_LEN: u32 = 16 * 1024;

/// The longest info dictionary in bytes; the bound libtorrent uses. An info dictionary with as
/// many v1 hashes as [`MAX_PIECES`](crate::MAX_PIECES) would be longer: such a torrent cannot be
/// started from a magnet link.
pub const MAX_METADATA_LEN: u32 = 30 * 1024 * 1024;

/// A piece and a dictionary of three numbers.
const LIMITS: Limits = Limits {
    max_len: METADATA_PIECE_LEN as usize + 1024,
    ..Limits::MESSAGE
};

/// How long a piece of metadata of `total_size` bytes is; `None` when there is no such piece.
pub fn metadata_piece_size(total_size: u32, piece: u32) -> Option<u32> {
    let begin = piece.checked_mul(METADATA_PIECE_LEN)?;
    let left = total_size.checked_sub(begin).filter(|left| *left > 0)?;
    Some(left.min(METADATA_PIECE_LEN))
}

/// The payload is no metadata message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// It does not begin with a bencoded value, or it is much longer than a piece.
    #[error("the metadata message cannot be read")]
    Bencode(#[from] BencodeError),
    /// A field is missing, of the wrong type or out of range.
    #[error("the metadata message has no usable {field:?}")]
    Field {
        /// The field.
        field: &'static str,
    },
    /// The metadata would be empty, or too long.
    #[error("metadata of {total_size} bytes, not 1 to {MAX_METADATA_LEN}")]
    TotalSize {
        /// The content of the message.
        total_size: u32,
    },
    /// There is no such piece, or it has another length.
    #[error("{len} bytes for piece {piece} of metadata of {total_size} bytes")]
    Length {
        /// Bytes in the message.
        len: usize,
        /// The number of the piece in the message.
        piece: u32,
        /// The length of the metadata in the message.
        total_size: u32,
    },
}

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
        /// Its number; when decoded, it exists in metadata of `total_size` bytes.
        piece: u32,
        /// Length of the whole info dictionary in bytes; when decoded, 1 to [`MAX_METADATA_LEN`].
        total_size: u32,
        /// The piece; when decoded, as long as the piece with this number has to be.
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

const REQUEST: i64 = 0;
const DATA: i64 = 1;
const REJECT: i64 = 2;

impl<'a> MetadataMessage<'a> {
    /// Reads the payload of an `extended` message about metadata. A piece must have the length
    /// that its number and the total size give it; bytes behind other messages do not matter.
    pub fn decode(payload: &'a [u8]) -> Result<Self, MetadataError> {
        let decoded = bencode::decode(payload, &LIMITS)?;
        let dict = decoded.root.as_dict();
        let field = |field| {
            let int = dict.and_then(|dict| dict.int(field));
            int.ok_or(MetadataError::Field { field })
        };
        let unsigned =
            |name| u32::try_from(field(name)?).map_err(|_| MetadataError::Field { field: name });
        match field("msg_type")? {
            REQUEST => Ok(Self::Request {
                piece: unsigned("piece")?,
            }),
            DATA => {
                let (piece, total_size) = (unsigned("piece")?, unsigned("total_size")?);
                if !(1..=MAX_METADATA_LEN).contains(&total_size) {
                    return Err(MetadataError::TotalSize { total_size });
                }
                let data = payload.get(decoded.consumed..).unwrap_or_default();
                if metadata_piece_size(total_size, piece).map(|size| size as usize)
                    != Some(data.len())
                {
                    return Err(MetadataError::Length {
                        len: data.len(),
                        piece,
                        total_size,
                    });
                }
                Ok(Self::Data {
                    piece,
                    total_size,
                    payload: Cow::Borrowed(data),
                })
            }
            REJECT => Ok(Self::Reject {
                piece: unsigned("piece")?,
            }),
            kind => Ok(Self::Unknown { kind }),
        }
    }

    /// The payload to send.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, piece, total_size, payload) = match self {
            Self::Request { piece } => (REQUEST, Some(*piece), None, &[][..]),
            Self::Data {
                piece,
                total_size,
                payload,
            } => (DATA, Some(*piece), Some(*total_size), &payload[..]),
            Self::Reject { piece } => (REJECT, Some(*piece), None, &[][..]),
            Self::Unknown { kind } => (*kind, None, None, &[][..]),
        };
        let mut encoder = Encoder::new();
        encoder.dict(|dict| {
            dict.int("msg_type", kind);
            if let Some(piece) = piece {
                dict.int("piece", piece.into());
            }
            if let Some(total_size) = total_size {
                dict.int("total_size", total_size.into());
            }
        });
        encoder.raw(payload);
        encoder.finish()
    }

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn data(piece: u32, total_size: u32, len: usize) -> Vec<u8> {
        let mut wire =
            format!("d8:msg_typei1e5:piecei{piece}e10:total_sizei{total_size}ee").into_bytes();
        wire.resize(wire.len() + len, b'x');
        wire
    }

    #[test]
    fn messages_look_like_those_in_the_specification() {
        for (message, wire) in [
            (
                MetadataMessage::Request { piece: 0 },
                &b"d8:msg_typei0e5:piecei0ee"[..],
            ),
            (
                MetadataMessage::Data {
                    piece: 2,
                    total_size: 32_772,
                    payload: Cow::Borrowed(b"xxxx"),
                },
                b"d8:msg_typei1e5:piecei2e10:total_sizei32772eexxxx",
            ),
            (
                MetadataMessage::Reject {
                    piece: 4_294_967_295,
                },
                b"d8:msg_typei2e5:piecei4294967295ee",
            ),
        ] {
            assert_eq!(
                message.encode().escape_ascii().to_string(),
                wire.escape_ascii().to_string()
            );
            assert_eq!(MetadataMessage::decode(wire).unwrap(), message);
            assert_eq!(message.clone().into_owned(), message);
        }
    }

    #[test]
    fn a_piece_must_have_the_length_its_place_gives_it() {
        let piece = METADATA_PIECE_LEN as usize;
        for (number, total, len) in [
            (0, 1, 1),
            (0, 16_383, 16_383),
            (0, 16_384, piece),
            (0, 16_385, piece),
            (1, 16_385, 1),
            (1, 32_768, piece),
            (1919, MAX_METADATA_LEN, piece),
        ] {
            let wire = data(number, total, len);
            let Ok(MetadataMessage::Data { payload, .. }) = MetadataMessage::decode(&wire) else {
                panic!("piece {number} of {total}");
            };
            assert_eq!(payload.len(), len);
            assert!(MetadataMessage::decode(&wire[..wire.len() - 1]).is_err());
            assert!(MetadataMessage::decode(&data(number, total, len + 1)).is_err());
        }
        for (number, total) in [
            (0, 0),
            (1, 16_384),
            (2, 16_385),
            (u32::MAX, 16_384),
            (u32::MAX, u32::MAX),
            (0, MAX_METADATA_LEN + 1),
        ] {
            for len in [0, 1, piece] {
                assert!(
                    MetadataMessage::decode(&data(number, total, len)).is_err(),
                    "piece {number} of {total}"
                );
            }
        }
    }

    #[test]
    fn missing_or_senseless_fields_are_errors() {
        for wire in [
            &b""[..],
            b"le",
            b"de",
            b"d8:msg_typei0ee",
            b"d5:piecei0ee",
            b"d8:msg_typei0e5:piecei-1ee",
            b"d8:msg_typei0e5:piecei4294967296ee",
            b"d8:msg_type1:05:piecei0ee",
            b"d8:msg_typei1e5:piecei0eex",
            b"d8:msg_typei1e5:piecei0e10:total_sizei-1eex",
        ] {
            let shown = wire.escape_ascii();
            assert!(MetadataMessage::decode(wire).is_err(), "{shown}");
        }
    }

    #[test]
    fn other_kinds_and_bytes_behind_a_request_are_no_fault() {
        assert_eq!(
            MetadataMessage::decode(b"d8:msg_typei3ee").unwrap(),
            MetadataMessage::Unknown { kind: 3 }
        );
        assert_eq!(
            MetadataMessage::decode(b"d5:piecei7e8:msg_typei2eegarbage").unwrap(),
            MetadataMessage::Reject { piece: 7 }
        );
    }

    #[test]
    fn nobody_needs_messages_much_longer_than_a_piece() {
        let mut wire = b"d8:msg_typei0e5:piecei0ee".to_vec();
        wire.resize(METADATA_PIECE_LEN as usize + 1024, 0);
        assert!(MetadataMessage::decode(&wire).is_ok());
        wire.push(0);
        assert!(MetadataMessage::decode(&wire).is_err());
    }

    proptest! {
        #[test]
        fn pieces_of_any_metadata_round_trip(total_size in 1..=200_000_u32, number: prop::sample::Index) {
            let piece = number.index(total_size.div_ceil(METADATA_PIECE_LEN) as usize) as u32;
            let len = metadata_piece_size(total_size, piece).unwrap();
            let message = MetadataMessage::Data {
                piece,
                total_size,
                payload: vec![b'e'; len as usize].into(),
            };
            let wire = message.encode();
            prop_assert_eq!(MetadataMessage::decode(&wire).unwrap(), message);
        }

        #[test]
        fn pieces_cover_the_metadata(total_size in 1..=MAX_METADATA_LEN) {
            let pieces = total_size.div_ceil(METADATA_PIECE_LEN);
            let sum: u32 = (0..pieces).map(|n| metadata_piece_size(total_size, n).unwrap()).sum();
            prop_assert_eq!(sum, total_size);
            prop_assert_eq!(metadata_piece_size(total_size, pieces), None);
        }

        #[test]
        fn damaged_messages_never_panic(
            kind in 0..4_i64,
            piece in -1..3_i64,
            total in -1..20_000_i64,
            payload in prop::collection::vec(any::<u8>(), 0..40),
            at: prop::sample::Index,
            byte: u8,
        ) {
            let mut wire =
                format!("d8:msg_typei{kind}e5:piecei{piece}e10:total_sizei{total}ee").into_bytes();
            wire.extend(payload);
            let _ = MetadataMessage::decode(&wire);
            let at = at.index(wire.len());
            wire[at] = byte;
            if let Ok(message) = MetadataMessage::decode(&wire) {
                let encoded = message.encode();
                prop_assert_eq!(MetadataMessage::decode(&encoded).unwrap(), message);
            }
        }
    }
}
