//! The peer wire protocol.

use bittorrent_protocol::wire::{
    ExtendedHandshake, Handshake, Header, MAX_MESSAGE_LEN, MAX_METADATA_LEN, METADATA_PIECE_LEN,
    Message, MetadataMessage, Opening, PIECE_HEADER_LEN, Step, WireError, piece_header,
};

/// A connection: how it is split into reads, then its bytes. Must read the same however it is
/// split, and what decodes must encode back.
pub fn wire(data: &[u8]) {
    handshake(data);
    let Some((portion, stream)) = data.split_first() else {
        return;
    };
    let whole = read(stream, stream.len());
    let portions = read(stream, usize::from(*portion) + 1);
    assert_eq!(portions, whole, "split into {portion} bytes and one");
}

fn handshake(data: &[u8]) {
    let opening = Opening::decode(data);
    match Handshake::decode(data) {
        Ok(Some(handshake)) => {
            assert_eq!(
                opening.map(|opening| opening.map(|o| o.with_peer_id(handshake.peer_id))),
                Ok(Some(handshake))
            );
            assert_eq!(Handshake::decode(&handshake.encode()), Ok(Some(handshake)));
        }
        Ok(None) => assert!(opening.is_ok()),
        Err(fault) => assert_eq!(opening, Err(fault)),
    }
}

/// The messages of a stream that arrives in portions, encoded again; and the error it ends with.
fn read(stream: &[u8], portion: usize) -> (Vec<Vec<u8>>, Option<WireError>) {
    let (mut start, mut end) = (0, 0);
    let mut messages = Vec::new();
    loop {
        let unread = &stream[start..end];
        let header = Header::peek(unread, MAX_MESSAGE_LEN);
        match Message::decode(unread, MAX_MESSAGE_LEN) {
            Err(fault) => {
                assert_eq!(header, Err(fault.clone()));
                return (messages, Some(fault));
            }
            Ok(Step::Message { message, consumed }) => {
                let mut encoded = Vec::new();
                message.encode(&mut encoded);
                assert_eq!(encoded, unread[..consumed]);
                if let Message::Piece { index, begin, data } = message {
                    let payload = data.len() as u32;
                    assert_eq!(
                        header,
                        Ok(Header::Piece {
                            index,
                            begin,
                            payload
                        })
                    );
                    let header = piece_header(index, begin, payload);
                    assert_eq!(header, encoded[..PIECE_HEADER_LEN]);
                }
                messages.push(encoded);
                start += consumed;
            }
            Ok(Step::Need(more)) => {
                assert!((1..=MAX_MESSAGE_LEN as usize + 4).contains(&more));
                if end == stream.len() {
                    return (messages, None);
                }
                end = stream.len().min(end + portion.max(1));
            }
        }
    }
}

/// The payload of an extended handshake. What was understood must be understood again after it was
/// written, and a handshake on top of itself changes nothing.
pub fn extended_handshake(data: &[u8]) {
    let Ok(handshake) = ExtendedHandshake::decode(data) else {
        return;
    };
    assert_eq!(
        ExtendedHandshake::decode(&handshake.encode()).as_ref(),
        Ok(&handshake)
    );
    let mut updated = handshake.clone();
    updated.update(handshake.clone());
    assert_eq!(updated, handshake);
}

/// The payload of a metadata message, which must survive being written again.
pub fn metadata_message(data: &[u8]) {
    let Ok(message) = MetadataMessage::decode(data) else {
        return;
    };
    if let MetadataMessage::Data {
        total_size,
        payload,
        ..
    } = &message
    {
        assert!(!payload.is_empty());
        assert!(payload.len() <= METADATA_PIECE_LEN as usize);
        assert!(payload.len() <= *total_size as usize);
        assert!(*total_size <= MAX_METADATA_LEN);
    }
    let written = message.encode();
    assert_eq!(MetadataMessage::decode(&written).as_ref(), Ok(&message));
}
