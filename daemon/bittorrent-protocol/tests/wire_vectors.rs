//! Every message of the peer wire protocol as annotated bytes: each vector must decode to its
//! message, encode back to the same bytes, and not be mistaken while some of its bytes are missing.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use bittorrent_protocol::MerkleHash;
use bittorrent_protocol::merkle::HashRequest;
use bittorrent_protocol::wire::{
    Header, MAX_HASHES, MAX_MESSAGE_LEN, Message, MessageId, Request, Step, WireError, piece_header,
};

/// Reads lines of hexadecimal bytes, each with what they mean after a `|`.
fn bytes(dump: &str) -> Vec<u8> {
    dump.lines()
        .filter_map(|line| line.split('|').next())
        .flat_map(str::split_whitespace)
        .map(|digits| u8::from_str_radix(digits, 16).unwrap())
        .collect()
}

const REQUEST: Request = Request {
    index: 1,
    begin: 0x4000,
    length: 0x350,
};

/// What libtorrent asks first about a file of 641 pieces of 32 KiB.
fn hash_request() -> HashRequest {
    HashRequest {
        root: MerkleHash::from_bytes([0xab; 32]),
        base: 1,
        index: 0,
        count: 512,
        proof_layers: 9,
    }
}

const HASH_FIELDS: &str = "
    ab ab ab ab ab ab ab ab ab ab ab ab ab ab ab ab  | pieces root
    ab ab ab ab ab ab ab ab ab ab ab ab ab ab ab ab  |
    00 00 00 01                                      | base layer: one above the leaves
    00 00 00 00                                      | index
    00 00 02 00                                      | count: 512
    00 00 00 09                                      | proof layers";

fn check(message: Message<'_>, dump: &str) {
    let wire = bytes(dump);
    let mut encoded = Vec::new();
    message.encode(&mut encoded);
    assert_eq!(encoded, wire, "{message:?}");
    let step = Message::decode(&wire, MAX_MESSAGE_LEN).unwrap();
    assert_eq!(
        step,
        Step::Message {
            message,
            consumed: wire.len()
        }
    );
    // Followed by the next message's bytes, nothing changes.
    let mut longer = wire.clone();
    longer.extend([0xff; 7]);
    assert_eq!(Message::decode(&longer, MAX_MESSAGE_LEN).unwrap(), step);
    // Cut anywhere, it asks for more: never for more than is missing, and once the 5 bytes of
    // length and id are there (13 of a piece) for exactly that.
    let header = match message {
        Message::Piece { .. } => 13,
        _ => 5,
    };
    for cut in 0..wire.len() {
        let Step::Need(more) = Message::decode(&wire[..cut], MAX_MESSAGE_LEN).unwrap() else {
            panic!("{message:?} cut at {cut} decodes");
        };
        assert!(
            (1..=wire.len() - cut).contains(&more),
            "{message:?} at {cut}"
        );
        if cut >= header {
            assert_eq!(more, wire.len() - cut, "{message:?} at {cut}");
        }
    }
}

#[test]
fn keep_alive() {
    check(Message::KeepAlive, "00 00 00 00 | length 0: no id");
}

#[test]
fn messages_without_fields() {
    for (message, id) in [
        (Message::Choke, "00"),
        (Message::Unchoke, "01"),
        (Message::Interested, "02"),
        (Message::NotInterested, "03"),
        (Message::HaveAll, "0e"),
        (Message::HaveNone, "0f"),
    ] {
        check(message, &format!("00 00 00 01 | length\n{id} | id"));
    }
}

#[test]
fn messages_with_a_piece_number() {
    for (message, id) in [
        (Message::Have(0x0102_0304), "04"),
        (Message::Suggest(0x0102_0304), "0d"),
        (Message::AllowedFast(0x0102_0304), "11"),
    ] {
        check(
            message,
            &format!("00 00 00 05 | length\n{id} | id\n01 02 03 04 | piece"),
        );
    }
}

#[test]
fn messages_with_a_range() {
    for (message, id) in [
        (Message::Request(REQUEST), "06"),
        (Message::Cancel(REQUEST), "08"),
        (Message::Reject(REQUEST), "10"),
    ] {
        check(
            message,
            &format!(
                "00 00 00 0d | length
                 {id}        | id
                 00 00 00 01 | piece
                 00 00 40 00 | begin: the second block
                 00 00 03 50 | length: 848"
            ),
        );
    }
}

#[test]
fn bitfield() {
    check(
        Message::Bitfield(&[0b1000_0000, 0b0000_0010]),
        "00 00 00 03 | length
         05          | id
         80 02       | pieces 0 and 14",
    );
}

#[test]
fn piece() {
    check(
        Message::Piece {
            index: 7,
            begin: 0x4000,
            data: b"abc",
        },
        "00 00 00 0c | length: 9 and the payload
         07          | id
         00 00 00 07 | piece
         00 00 40 00 | begin
         61 62 63    | payload",
    );
}

#[test]
fn dht_port() {
    check(
        Message::Port(6881),
        "00 00 00 03 | length
         09          | id
         1a e1       | UDP port",
    );
}

#[test]
fn extended() {
    check(
        Message::Extended {
            id: 0,
            payload: b"d1:mdee",
        },
        "00 00 00 09          | length
         14                   | id
         00                   | extended handshake
         64 31 3a 6d 64 65 65 | d1:mdee",
    );
}

#[test]
fn hash_messages() {
    check(
        Message::HashRequest(hash_request()),
        &format!("00 00 00 31 | length: 49\n15 | id{HASH_FIELDS}"),
    );
    check(
        Message::HashReject(hash_request()),
        &format!("00 00 00 31 | length: 49\n17 | id{HASH_FIELDS}"),
    );
    let hashes = [MerkleHash::from_bytes([1; 32]), MerkleHash::ZERO];
    let one = "01 ".repeat(32);
    let zero = "00 ".repeat(32);
    check(
        Message::Hashes(hash_request(), hashes.as_slice().into()),
        &format!(
            "00 00 00 71 | length: 49 and two hashes
             16          | id{HASH_FIELDS}
             {one}       | the first hash
             {zero}      | padding, sent like any other"
        ),
    );
    check(
        Message::Hashes(hash_request(), [].as_slice().into()),
        &format!("00 00 00 31 | length: 49\n16 | id{HASH_FIELDS}"),
    );
}

#[test]
fn unknown_messages_are_values() {
    check(
        Message::Unknown {
            id: 99,
            payload: &[1, 2],
        },
        "00 00 00 03 | length
         63          | an id no specification gives out
         01 02       | whatever it means",
    );
}

#[test]
fn every_known_id_has_a_message_and_no_other() {
    for id in 0..=u8::MAX {
        // 1, 2, 3, … bytes after the id until a length is allowed.
        let message_len = (1..200_u32).find(|len| {
            let mut wire = len.to_be_bytes().to_vec();
            wire.push(id);
            wire.resize(4 + *len as usize, 0);
            match Message::decode(&wire, MAX_MESSAGE_LEN) {
                Ok(Step::Message { message, .. }) => {
                    assert_eq!(message.id(), Some(MessageId(id)));
                    assert_eq!(
                        matches!(message, Message::Unknown { .. }),
                        MessageId(id).name().is_none()
                    );
                    true
                }
                Ok(Step::Need(_)) => panic!("all {len} bytes of message {id} are there"),
                Err(_) => false,
            }
        });
        assert!(message_len.is_some(), "{id}");
    }
}

#[test]
fn the_longest_bitfield_block_and_hash_list_are_taken_and_nothing_longer() {
    let max_bitfield = 1 + 0x20_0000 / 8;
    let max_hashes = 49 + 32 * MAX_HASHES;
    for (id, longest) in [
        (MessageId::BITFIELD, max_bitfield),
        (MessageId::PIECE, 9 + 16_384),
        (MessageId::HASHES, max_hashes),
        (MessageId::EXTENDED, MAX_MESSAGE_LEN),
        (MessageId(99), MAX_MESSAGE_LEN),
    ] {
        let mut wire = longest.to_be_bytes().to_vec();
        wire.push(id.0);
        wire.resize(4 + longest as usize, 0);
        assert!(
            matches!(
                Message::decode(&wire, MAX_MESSAGE_LEN),
                Ok(Step::Message { consumed, .. }) if consumed == wire.len()
            ),
            "{id}"
        );
        // One byte more (one hash more) is refused when only the length and the id are there.
        let step = if id == MessageId::HASHES { 32 } else { 1 };
        let mut header = (longest + step).to_be_bytes().to_vec();
        header.push(id.0);
        assert!(Message::decode(&header, MAX_MESSAGE_LEN).is_err(), "{id}");
    }
}

#[test]
fn a_wrong_length_is_refused_before_the_rest_arrives() {
    for (id, wrong) in [
        (MessageId::CHOKE, 2),
        (MessageId::HAVE_NONE, 5),
        (MessageId::HAVE, 4),
        (MessageId::HAVE, 6),
        (MessageId::REQUEST, 12),
        (MessageId::REQUEST, 14),
        (MessageId::PIECE, 8),
        (MessageId::PORT, 2),
        (MessageId::EXTENDED, 1),
        (MessageId::HASH_REQUEST, 48),
        (MessageId::HASH_REQUEST, 50),
        (MessageId::HASHES, 48),
        (MessageId::HASHES, 49 + 31),
        (MessageId::HASHES, 49 + 33),
        (MessageId::HASH_REJECT, 17),
    ] {
        let mut header = u32::to_be_bytes(wrong).to_vec();
        assert_eq!(Message::decode(&header, MAX_MESSAGE_LEN), Ok(Step::Need(1)));
        header.push(id.0);
        assert_eq!(
            Message::decode(&header, MAX_MESSAGE_LEN),
            Err(WireError::WrongLength { id, length: wrong }),
            "{id}"
        );
    }
}

#[test]
fn a_length_beyond_the_limit_is_refused_by_its_four_bytes() {
    for (length, max) in [
        (MAX_MESSAGE_LEN + 1, MAX_MESSAGE_LEN),
        (u32::MAX, 100),
        (101, 100),
    ] {
        assert_eq!(
            Message::decode(&length.to_be_bytes(), max),
            Err(WireError::TooLong { length, max })
        );
    }
    assert_eq!(
        Message::decode(&100_u32.to_be_bytes(), 100),
        Ok(Step::Need(1))
    );
}

#[test]
fn the_place_of_a_block_is_known_after_thirteen_bytes() {
    let header = piece_header(3, 0x8000, 16_384);
    assert_eq!(
        header.as_slice(),
        bytes(
            "00 00 40 09 | length: 9 and 16384
             07          | id
             00 00 00 03 | piece
             00 00 80 00 | begin"
        )
    );
    for cut in 0..header.len() {
        assert!(matches!(
            Header::peek(&header[..cut], MAX_MESSAGE_LEN),
            Ok(Header::Need(_))
        ));
    }
    assert_eq!(
        Header::peek(&header, MAX_MESSAGE_LEN),
        Ok(Header::Piece {
            index: 3,
            begin: 0x8000,
            payload: 16_384
        })
    );
    assert_eq!(
        Message::decode(&header, MAX_MESSAGE_LEN),
        Ok(Step::Need(16_384))
    );
}
