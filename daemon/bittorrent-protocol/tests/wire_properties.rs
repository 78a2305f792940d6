//! What must hold for every message and every input of the peer wire protocol.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use bittorrent_protocol::MerkleHash;
use bittorrent_protocol::merkle::HashRequest;
use bittorrent_protocol::wire::{
    Header, MAX_MESSAGE_LEN, Message, MessageId, PIECE_HEADER_LEN, Request, Step, piece_header,
};
use proptest::prelude::*;

/// A message with its payload owned.
#[derive(Debug, Clone)]
enum Owned {
    Plain(Message<'static>),
    Bitfield(Vec<u8>),
    Piece(u32, u32, Vec<u8>),
    Extended(u8, Vec<u8>),
    Hashes(HashRequest, Vec<MerkleHash>),
    Unknown(u8, Vec<u8>),
}

impl Owned {
    fn message(&self) -> Message<'_> {
        match self {
            Self::Plain(message) => *message,
            Self::Bitfield(bits) => Message::Bitfield(bits),
            Self::Piece(index, begin, data) => Message::Piece {
                index: *index,
                begin: *begin,
                data,
            },
            Self::Extended(id, payload) => Message::Extended { id: *id, payload },
            Self::Hashes(request, hashes) => Message::Hashes(*request, hashes.as_slice().into()),
            Self::Unknown(id, payload) => Message::Unknown { id: *id, payload },
        }
    }
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..200)
}

fn request() -> impl Strategy<Value = Request> {
    any::<[u32; 3]>().prop_map(|[index, begin, length]| Request {
        index,
        begin,
        length,
    })
}

fn hash_request() -> impl Strategy<Value = HashRequest> {
    (any::<[u8; 32]>(), any::<[u32; 4]>()).prop_map(|(root, [base, index, count, proof_layers])| {
        HashRequest {
            root: MerkleHash::from_bytes(root),
            base,
            index,
            count,
            proof_layers,
        }
    })
}

fn message() -> impl Strategy<Value = Owned> {
    let fixed = prop::sample::select(vec![
        Message::KeepAlive,
        Message::Choke,
        Message::Unchoke,
        Message::Interested,
        Message::NotInterested,
        Message::HaveAll,
        Message::HaveNone,
    ]);
    let unknown = any::<u8>().prop_filter("known", |id| MessageId(*id).name().is_none());
    prop_oneof![
        fixed.prop_map(Owned::Plain),
        any::<u32>().prop_map(|index| Owned::Plain(Message::Have(index))),
        any::<u32>().prop_map(|index| Owned::Plain(Message::Suggest(index))),
        any::<u32>().prop_map(|index| Owned::Plain(Message::AllowedFast(index))),
        any::<u16>().prop_map(|port| Owned::Plain(Message::Port(port))),
        request().prop_map(|request| Owned::Plain(Message::Request(request))),
        request().prop_map(|request| Owned::Plain(Message::Cancel(request))),
        request().prop_map(|request| Owned::Plain(Message::Reject(request))),
        hash_request().prop_map(|request| Owned::Plain(Message::HashRequest(request))),
        hash_request().prop_map(|request| Owned::Plain(Message::HashReject(request))),
        payload().prop_map(Owned::Bitfield),
        (any::<u32>(), any::<u32>(), payload()).prop_map(|(i, b, data)| Owned::Piece(i, b, data)),
        (any::<u8>(), payload()).prop_map(|(id, payload)| Owned::Extended(id, payload)),
        (
            hash_request(),
            prop::collection::vec(any::<[u8; 32]>().prop_map(MerkleHash::from_bytes), 0..8)
        )
            .prop_map(|(request, hashes)| Owned::Hashes(request, hashes)),
        (unknown, payload()).prop_map(|(id, payload)| Owned::Unknown(id, payload)),
    ]
}

/// A reader that is given its stream in portions and waits for as much as the decoder asks for.
fn read_in_portions(stream: &[u8], portions: &[usize]) -> Vec<Vec<u8>> {
    let mut portions = portions.iter().copied().cycle();
    let (mut start, mut end) = (0, 0);
    let mut messages = Vec::new();
    loop {
        match Message::decode(&stream[start..end], MAX_MESSAGE_LEN).unwrap() {
            Step::Message { message, consumed } => {
                let mut encoded = Vec::new();
                message.encode(&mut encoded);
                assert_eq!(encoded.len(), consumed);
                messages.push(encoded);
                start += consumed;
            }
            Step::Need(more) => {
                assert!(more > 0);
                if end == stream.len() {
                    assert_eq!(start, end, "the stream ends within a message");
                    return messages;
                }
                end = (end + portions.next().unwrap()).min(stream.len());
            }
        }
    }
}

proptest! {
    #[test]
    fn messages_round_trip(owned in message()) {
        let message = owned.message();
        let mut wire = bytes::BytesMut::new();
        message.encode(&mut wire);
        prop_assert_eq!(
            Message::decode(&wire, MAX_MESSAGE_LEN),
            Ok(Step::Message { message, consumed: wire.len() })
        );
        if let Message::Piece { index, begin, data } = message {
            prop_assert_eq!(&wire[..PIECE_HEADER_LEN], &piece_header(index, begin, data.len() as u32));
        }
    }

    #[test]
    fn a_stream_reads_the_same_however_it_is_split(
        owned in prop::collection::vec(message(), 0..8),
        portions in prop::collection::vec(1..40_usize, 1..8),
    ) {
        let encoded: Vec<Vec<u8>> = owned
            .iter()
            .map(|owned| {
                let mut wire = Vec::new();
                owned.message().encode(&mut wire);
                wire
            })
            .collect();
        let stream = encoded.concat();
        prop_assert_eq!(&read_in_portions(&stream, &[1]), &encoded);
        prop_assert_eq!(&read_in_portions(&stream, &portions), &encoded);
        prop_assert_eq!(&read_in_portions(&stream, &[stream.len().max(1)]), &encoded);
    }

    #[test]
    fn any_bytes_are_judged_without_panic_and_what_decodes_encodes_back(
        // Mostly short lengths and known ids, or nothing would ever decode.
        length in prop_oneof![3 => 0..120_u32, 1 => any::<u32>()],
        id in prop_oneof![3 => 0..24_u8, 1 => any::<u8>()],
        rest in prop::collection::vec(any::<u8>(), 0..120),
        max_len in prop_oneof![Just(MAX_MESSAGE_LEN), any::<u32>()],
    ) {
        let mut input = length.to_be_bytes().to_vec();
        input.push(id);
        input.extend(rest);
        let header = Header::peek(&input, max_len);
        match Message::decode(&input, max_len) {
            Err(error) => prop_assert_eq!(header, Err(error)),
            Ok(Step::Need(more)) => prop_assert!(more > 0),
            Ok(Step::Message { message, consumed }) => {
                prop_assert_eq!(consumed, 4 + length as usize);
                let mut encoded = Vec::new();
                message.encode(&mut encoded);
                prop_assert_eq!(&encoded, &input[..consumed]);
            }
        }
    }

    #[test]
    fn raw_bytes_never_panic(input in prop::collection::vec(any::<u8>(), 0..64), max_len: u32) {
        let _ = Header::peek(&input, max_len);
        let _ = Message::decode(&input, max_len);
    }
}
