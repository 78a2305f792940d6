//! The messages of the peer wire protocol and their encoding.

use std::fmt;

use bytes::BufMut;

use super::header::{Header, WireError};
use super::ids::MessageId;
use super::{MAX_MESSAGE_LEN, PIECE_HEADER_LEN};
use crate::hash::MerkleHash;
use crate::layout::Layout;
use crate::merkle::HashRequest;
use crate::units::{BLOCK_LEN, BlockIndex, PieceIndex};

/// A range of a piece, as a peer names it in `request`, `cancel` and `reject request`. Nothing
/// about it has been checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Request {
    /// The number of the piece.
    pub index: u32,
    /// The first byte, counted from the start of the piece.
    pub begin: u32,
    /// How many bytes.
    pub length: u32,
}

impl Request {
    /// Asks for a whole block: as many bytes of it as hold content.
    pub fn for_block(layout: &Layout, block: BlockIndex) -> Self {
        Self {
            index: block.piece().get(),
            begin: block.begin(),
            length: layout.block_size(block),
        }
    }

    /// The piece, when the range is one that has to be served once the piece is there: 1 to
    /// 16384 bytes within the piece length. It may reach past the content of a file's last piece,
    /// because libtorrent before 2.0.13 asks v2 torrents for full blocks there and v1 clients ask
    /// hybrids for the padding; such bytes are zero.
    pub fn servable(&self, layout: &Layout) -> Option<PieceIndex> {
        let end = self.begin.checked_add(self.length)?;
        let fits = (1..=BLOCK_LEN).contains(&self.length) && end <= layout.piece_length().bytes();
        layout.piece(self.index).filter(|_| fits)
    }
}

/// The hashes of a `hashes` message: as many of the base layer as were asked for, then uncles from
/// low to high (BEP 52).
#[derive(Clone, Copy)]
pub struct HashList<'a>(Hashes<'a>);

#[derive(Clone, Copy)]
enum Hashes<'a> {
    /// As they arrived.
    Wire(&'a [[u8; MerkleHash::LEN]]),
    /// As they are to be sent.
    Own(&'a [MerkleHash]),
}

impl<'a> HashList<'a> {
    /// How many there are.
    pub const fn len(&self) -> usize {
        match self.0 {
            Hashes::Wire(hashes) => hashes.len(),
            Hashes::Own(hashes) => hashes.len(),
        }
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The hashes in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = MerkleHash> + use<'a> {
        let list = self.0;
        (0..self.len()).map(move |n| match list {
            Hashes::Wire(hashes) => MerkleHash::from_bytes(hashes[n]),
            Hashes::Own(hashes) => hashes[n],
        })
    }

    /// Copies the hashes.
    pub fn to_vec(&self) -> Vec<MerkleHash> {
        self.iter().collect()
    }
}

impl<'a> From<&'a [MerkleHash]> for HashList<'a> {
    fn from(hashes: &'a [MerkleHash]) -> Self {
        Self(Hashes::Own(hashes))
    }
}

impl PartialEq for HashList<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for HashList<'_> {}

impl fmt::Debug for HashList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// One message. Payloads borrow from the buffer it was decoded from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Message<'a> {
    /// Nothing but a sign of life.
    KeepAlive,
    /// The sender will not serve requests.
    Choke,
    /// The sender will serve requests.
    Unchoke,
    /// The sender wants pieces the receiver has.
    Interested,
    /// The sender wants nothing the receiver has.
    NotInterested,
    /// The sender completed this piece.
    Have(u32),
    /// Which pieces the sender has: one bit each, the highest bit of the first byte first.
    Bitfield(&'a [u8]),
    /// Asks for a range of a piece.
    Request(Request),
    /// A range of a piece.
    Piece {
        /// The number of the piece.
        index: u32,
        /// The payload's first byte in the piece.
        begin: u32,
        /// The payload: at most a block's length.
        data: &'a [u8],
    },
    /// Takes a request back.
    Cancel(Request),
    /// The UDP port of the sender's DHT node.
    Port(u16),
    /// The sender has this piece at hand.
    Suggest(u32),
    /// The sender has every piece.
    HaveAll,
    /// The sender has no piece.
    HaveNone,
    /// The sender will not serve this request.
    Reject(Request),
    /// The sender serves this piece even while choking.
    AllowedFast(u32),
    /// A message of the extension protocol.
    Extended {
        /// [`EXTENDED_HANDSHAKE`](super::EXTENDED_HANDSHAKE), or the number the *receiver* gave
        /// to an extension in its extended handshake.
        id: u8,
        /// What the extension defines.
        payload: &'a [u8],
    },
    /// Asks for hashes of a merkle tree.
    HashRequest(HashRequest),
    /// Hashes of a merkle tree, with the request they answer.
    Hashes(HashRequest, HashList<'a>),
    /// The sender will not serve this hash request.
    HashReject(HashRequest),
    /// A message this protocol knows nothing about.
    Unknown {
        /// Its id, none of [`MessageId::ALL`].
        id: u8,
        /// The rest of it.
        payload: &'a [u8],
    },
}

/// How far decoding came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step<'a> {
    /// More bytes are needed, at least this many; never 0. Once the header is there this is
    /// exactly what the message lacks.
    Need(usize),
    /// A whole message.
    Message {
        /// The payload.
        message: Message<'a>,
        /// Bytes from its length field to its end.
        consumed: usize,
    },
}

/// Takes fields off the front of a body whose length has been checked against the table of ids.
/// A field that is not there reads as zero, which no checked body lets happen.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn array<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk() {
            Some((head, rest)) => {
                self.0 = rest;
                *head
            }
            None => [0; N],
        }
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.array())
    }

    fn request(&mut self) -> Request {
        Request {
            index: self.u32(),
            begin: self.u32(),
            length: self.u32(),
        }
    }

    fn hash_request(&mut self) -> HashRequest {
        HashRequest {
            root: MerkleHash::from_bytes(self.array()),
            base: self.u32(),
            index: self.u32(),
            count: self.u32(),
            proof_layers: self.u32(),
        }
    }

    fn hashes(self) -> HashList<'a> {
        HashList(Hashes::Wire(self.0.as_chunks().0))
    }
}

impl<'a> Message<'a> {
    /// Decodes the message that `input` begins with. `max_len`, usually [`MAX_MESSAGE_LEN`],
    /// bounds a message without its length field; a message that breaks it, or the bounds of its
    /// kind, is an error before its bytes are awaited.
    pub fn decode(input: &'a [u8], max_len: u32) -> Result<Step<'a>, WireError> {
        let total = match Header::peek(input, max_len)? {
            Header::Need(missing) => return Ok(Step::Need(missing)),
            Header::Piece { payload, .. } => PIECE_HEADER_LEN + payload as usize,
            Header::Other { total } => total,
        };
        let Some(whole) = input.get(..total) else {
            return Ok(Step::Need(total - input.len()));
        };
        let message = match whole.get(4..).and_then(<[u8]>::split_first) {
            None => Self::KeepAlive,
            Some((id, body)) => Self::from_body(MessageId(*id), body),
        };
        Ok(Step::Message {
            message,
            consumed: total,
        })
    }

    /// `body` has a length that the table of ids allows.
    fn from_body(id: MessageId, body: &'a [u8]) -> Self {
        let mut fields = Fields(body);
        match id {
            MessageId::CHOKE => Self::Choke,
            MessageId::UNCHOKE => Self::Unchoke,
            MessageId::INTERESTED => Self::Interested,
            MessageId::NOT_INTERESTED => Self::NotInterested,
            MessageId::HAVE => Self::Have(fields.u32()),
            MessageId::BITFIELD => Self::Bitfield(body),
            MessageId::REQUEST => Self::Request(fields.request()),
            MessageId::PIECE => Self::Piece {
                index: fields.u32(),
                begin: fields.u32(),
                data: fields.0,
            },
            MessageId::CANCEL => Self::Cancel(fields.request()),
            MessageId::PORT => Self::Port(u16::from_be_bytes(fields.array())),
            MessageId::SUGGEST => Self::Suggest(fields.u32()),
            MessageId::HAVE_ALL => Self::HaveAll,
            MessageId::HAVE_NONE => Self::HaveNone,
            MessageId::REJECT => Self::Reject(fields.request()),
            MessageId::ALLOWED_FAST => Self::AllowedFast(fields.u32()),
            MessageId::EXTENDED => {
                let [id] = fields.array();
                Self::Extended {
                    id,
                    payload: fields.0,
                }
            }
            MessageId::HASH_REQUEST => Self::HashRequest(fields.hash_request()),
            MessageId::HASHES => {
                let request = fields.hash_request();
                Self::Hashes(request, fields.hashes())
            }
            MessageId::HASH_REJECT => Self::HashReject(fields.hash_request()),
            MessageId(id) => Self::Unknown { id, payload: body },
        }
    }

    /// What kind of message it is; `None` for a keep-alive.
    pub const fn id(&self) -> Option<MessageId> {
        Some(match self {
            Self::KeepAlive => return None,
            Self::Choke => MessageId::CHOKE,
            Self::Unchoke => MessageId::UNCHOKE,
            Self::Interested => MessageId::INTERESTED,
            Self::NotInterested => MessageId::NOT_INTERESTED,
            Self::Have(_) => MessageId::HAVE,
            Self::Bitfield(_) => MessageId::BITFIELD,
            Self::Request(_) => MessageId::REQUEST,
            Self::Piece { .. } => MessageId::PIECE,
            Self::Cancel(_) => MessageId::CANCEL,
            Self::Port(_) => MessageId::PORT,
            Self::Suggest(_) => MessageId::SUGGEST,
            Self::HaveAll => MessageId::HAVE_ALL,
            Self::HaveNone => MessageId::HAVE_NONE,
            Self::Reject(_) => MessageId::REJECT,
            Self::AllowedFast(_) => MessageId::ALLOWED_FAST,
            Self::Extended { .. } => MessageId::EXTENDED,
            Self::HashRequest(_) => MessageId::HASH_REQUEST,
            Self::Hashes(..) => MessageId::HASHES,
            Self::HashReject(_) => MessageId::HASH_REJECT,
            Self::Unknown { id, .. } => MessageId(*id),
        })
    }

    /// Bytes after the id.
    const fn body_len(&self) -> usize {
        match self {
            Self::KeepAlive
            | Self::Choke
            | Self::Unchoke
            | Self::Interested
            | Self::NotInterested
            | Self::HaveAll
            | Self::HaveNone => 0,
            Self::Port(_) => 2,
            Self::Have(_) | Self::Suggest(_) | Self::AllowedFast(_) => 4,
            Self::Request(_) | Self::Cancel(_) | Self::Reject(_) => 12,
            Self::Bitfield(bits) => bits.len(),
            Self::Piece { data, .. } => 8 + data.len(),
            Self::Extended { payload, .. } => 1 + payload.len(),
            Self::HashRequest(_) | Self::HashReject(_) => 48,
            Self::Hashes(_, hashes) => 48 + MerkleHash::LEN * hashes.len(),
            Self::Unknown { payload, .. } => payload.len(),
        }
    }

    /// Appends the message's bytes. Receivers refuse messages longer than [`MAX_MESSAGE_LEN`];
    /// payloads are for the caller to keep below that.
    pub fn encode(&self, out: &mut impl BufMut) {
        let Some(id) = self.id() else {
            out.put_u32(0);
            return;
        };
        debug_assert!(self.body_len() < MAX_MESSAGE_LEN as usize, "{id} too long");
        out.put_u32(1 + self.body_len() as u32);
        out.put_u8(id.0);
        match self {
            Self::KeepAlive
            | Self::Choke
            | Self::Unchoke
            | Self::Interested
            | Self::NotInterested
            | Self::HaveAll
            | Self::HaveNone => {}
            Self::Piece { index, begin, data } => {
                out.put_u32(*index);
                out.put_u32(*begin);
                out.put_slice(data);
            }
            Self::Port(port) => out.put_u16(*port),
            Self::Have(index) | Self::Suggest(index) | Self::AllowedFast(index) => {
                out.put_u32(*index);
            }
            Self::Request(request) | Self::Cancel(request) | Self::Reject(request) => {
                put_request(out, request);
            }
            Self::Bitfield(bits) => out.put_slice(bits),
            Self::Extended { id, payload } => {
                out.put_u8(*id);
                out.put_slice(payload);
            }
            Self::HashRequest(request) | Self::HashReject(request) => {
                put_hash_request(out, request);
            }
            Self::Hashes(request, hashes) => {
                put_hash_request(out, request);
                for hash in hashes.iter() {
                    out.put_slice(hash.as_bytes());
                }
            }
            Self::Unknown { payload, .. } => out.put_slice(payload),
        }
    }
}

fn put_request(out: &mut impl BufMut, request: &Request) {
    out.put_u32(request.index);
    out.put_u32(request.begin);
    out.put_u32(request.length);
}

fn put_hash_request(out: &mut impl BufMut, request: &HashRequest) {
    out.put_slice(request.root.as_bytes());
    out.put_u32(request.base);
    out.put_u32(request.index);
    out.put_u32(request.count);
    out.put_u32(request.proof_layers);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::PieceLength;

    #[test]
    fn requests_for_blocks_ask_for_their_content_only() {
        let layout = Layout::new(PieceLength::new(32_768).unwrap(), [(50_000, None)]).unwrap();
        let asked: Vec<Request> = layout
            .piece_indices()
            .flat_map(|piece| layout.blocks(piece))
            .map(|block| Request::for_block(&layout, block))
            .collect();
        let expected = [
            (0, 0, 16_384),
            (0, 16_384, 16_384),
            (1, 0, 16_384),
            (1, 16_384, 848),
        ];
        assert_eq!(
            asked,
            expected.map(|(index, begin, length)| Request {
                index,
                begin,
                length
            })
        );
    }

    #[test]
    fn ranges_within_the_piece_length_are_servable_even_past_the_content() {
        let layout = Layout::new(PieceLength::new(32_768).unwrap(), [(40_000, None)]).unwrap();
        let served = |index, begin, length| {
            let request = Request {
                index,
                begin,
                length,
            };
            request.servable(&layout).map(PieceIndex::get)
        };
        for (index, begin, length) in [
            (0, 0, 1),
            (0, 0, 16_384),
            (0, 1, 16_384),
            (0, 16_384, 16_384),
            (0, 32_767, 1),
            // 7232 bytes of content and padding to a full block, then padding only.
            (1, 0, 16_384),
            (1, 16_384, 16_384),
        ] {
            assert_eq!(
                served(index, begin, length),
                Some(index),
                "{begin}+{length}"
            );
        }
        for (index, begin, length) in [
            (0, 0, 0),
            (0, 0, 16_385),
            (0, 16_385, 16_384),
            (0, 32_768, 1),
            (0, u32::MAX, 1),
            (0, 1, u32::MAX),
            (0, u32::MAX, u32::MAX),
            (2, 0, 1),
            (u32::MAX, 0, 1),
        ] {
            assert_eq!(
                served(index, begin, length),
                None,
                "{index} {begin}+{length}"
            );
        }
    }
}
