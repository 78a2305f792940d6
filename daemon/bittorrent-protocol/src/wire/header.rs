//! The first bytes of a message: how long it is and where a block belongs.

use super::PIECE_HEADER_LEN;
use super::ids::MessageId;

/// A peer broke the framing of messages. The connection is of no more use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The message is longer than the reader accepts.
    #[error("a message of {length} bytes is longer than {max} bytes")]
    TooLong {
        /// The value of the length field.
        length: u32,
        /// The reader's limit.
        max: u32,
    },
    /// The message has a length that messages of its kind cannot have.
    #[error("a {id} message cannot be {length} bytes long")]
    WrongLength {
        /// What the message is.
        id: MessageId,
        /// The value of the length field.
        length: u32,
    },
}

/// The header of a message. Its length is within the limit of its kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Header {
    /// More bytes are needed, at least this many; never 0.
    Need(usize),
    /// A `piece` whose payload begins after [`PIECE_HEADER_LEN`] bytes.
    Piece {
        /// The number of the piece, as the peer gave it.
        index: u32,
        /// The payload's first byte in the piece, as the peer gave it.
        begin: u32,
        /// Bytes of payload, at most a block's.
        payload: u32,
    },
    /// Any other message.
    Other {
        /// Bytes from its length field to its end, at least 4.
        total: usize,
    },
}

impl Header {
    /// Reads the header of the message that `input` begins with. `max_len` bounds the message
    /// without its length field. A wrong length is an error as soon as the length, or where it
    /// depends on the id that too, has arrived.
    pub fn peek(input: &[u8], max_len: u32) -> Result<Self, WireError> {
        let Some((length, rest)) = input.split_first_chunk::<4>() else {
            return Ok(Self::Need(4 - input.len()));
        };
        let length = u32::from_be_bytes(*length);
        if length > max_len {
            return Err(WireError::TooLong {
                length,
                max: max_len,
            });
        }
        if length == 0 {
            return Ok(Self::Other { total: 4 });
        }
        let Some((id, fields)) = rest.split_first() else {
            return Ok(Self::Need(1));
        };
        let id = MessageId(*id);
        if !id.allows(length) {
            return Err(WireError::WrongLength { id, length });
        }
        if id != MessageId::PIECE {
            return Ok(Self::Other {
                total: (length as usize).saturating_add(4),
            });
        }
        let fields_of_piece = fields.split_first_chunk::<4>().and_then(|(index, rest)| {
            let (begin, _) = rest.split_first_chunk::<4>()?;
            Some((u32::from_be_bytes(*index), u32::from_be_bytes(*begin)))
        });
        Ok(match fields_of_piece {
            Some((index, begin)) => Self::Piece {
                index,
                begin,
                payload: length - *id.lengths().start(),
            },
            None => Self::Need(PIECE_HEADER_LEN - input.len()),
        })
    }
}

/// The bytes before the payload of a `piece`, for senders that send the payload on another way.
/// `payload` is its length in bytes, at most a block's.
pub fn piece_header(index: u32, begin: u32, payload: u32) -> [u8; PIECE_HEADER_LEN] {
    let mut bytes = [0; PIECE_HEADER_LEN];
    let (length, rest) = bytes.split_at_mut(4);
    let (id, rest) = rest.split_at_mut(1);
    let (index_field, begin_field) = rest.split_at_mut(4);
    length.copy_from_slice(&(MessageId::PIECE.lengths().start() + payload).to_be_bytes());
    id.copy_from_slice(&[MessageId::PIECE.0]);
    index_field.copy_from_slice(&index.to_be_bytes());
    begin_field.copy_from_slice(&begin.to_be_bytes());
    bytes
}
