//! Bencode.

use bittorrent_protocol::bencode::{Decoded, Encoder, FlawKind, Limits, Node, Value, decode};

/// One value and what follows it. Its flaws must be those an independent look finds, and without
/// flaws it must encode to the very bytes it was read from.
pub fn bencode(data: &[u8]) {
    let tight = Limits {
        max_depth: 3,
        max_tokens: 12,
        max_len: 4096,
    };
    let Ok(decoded) = decode(data, &Limits::TORRENT) else {
        assert!(decode(data, &tight).is_err());
        return;
    };
    let (read, _) = data.split_at(decoded.consumed);
    assert_eq!(decoded.root.raw(), read);
    if let Ok(within) = decode(data, &tight) {
        assert_eq!(within, decoded);
    }
    // Alone it reads the same.
    assert_eq!(decode(read, &Limits::TORRENT).as_ref(), Ok(&decoded));

    let mut written = Vec::new();
    let rising = write(&decoded.root, &mut written);
    if decoded.flaws.len() < Decoded::MAX_FLAWS {
        let zeros = decoded
            .flaws
            .iter()
            .any(|flaw| flaw.kind == FlawKind::LeadingZero);
        assert_eq!(written == read, !zeros);
        let disorder = decoded
            .flaws
            .iter()
            .any(|flaw| flaw.kind != FlawKind::LeadingZero);
        assert_eq!(rising, !disorder);
    }
    if decoded.flaws.is_empty() {
        let mut encoder = Encoder::new();
        encode(&decoded.root, &mut encoder);
        assert_eq!(encoder.finish(), read);
    }
}

/// Writes a value with its keys in the order they were read, and tells whether all keys rise.
fn write(node: &Node<'_>, out: &mut Vec<u8>) -> bool {
    fn bytes(bytes: &[u8], out: &mut Vec<u8>) {
        out.extend(format!("{}:", bytes.len()).bytes());
        out.extend_from_slice(bytes);
    }
    let mut rising = true;
    match node.value() {
        Value::Int(int) => out.extend(format!("i{int}e").bytes()),
        Value::Bytes(string) => bytes(string, out),
        Value::List(list) => {
            out.push(b'l');
            for node in list {
                rising &= write(node, out);
            }
            out.push(b'e');
        }
        Value::Dict(dict) => {
            out.push(b'd');
            for (key, node) in dict.iter() {
                bytes(key, out);
                rising &= write(node, out);
            }
            out.push(b'e');
            rising &= dict.is_sorted_by(|(one, _), (next, _)| one < next);
        }
    }
    rising
}

fn encode(node: &Node<'_>, encoder: &mut Encoder) {
    match node.value() {
        Value::Int(int) => encoder.int(*int),
        Value::Bytes(bytes) => encoder.bytes(bytes),
        Value::List(list) => encoder.list(|items| {
            for node in list {
                encode(node, items);
            }
        }),
        Value::Dict(dict) => encoder.dict(|entries| {
            for (key, node) in dict.iter() {
                encode(node, entries.key(key));
            }
        }),
    }
}
