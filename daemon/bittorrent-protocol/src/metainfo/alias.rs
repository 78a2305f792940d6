//! The wrong info-hash by which aria2 knows hybrid torrents.

use crate::bencode::{self, Encoder, Limits, Node, Value};
use crate::hash::InfoHashV1;

/// The SHA-1 of an info dictionary without any entry whose key is the empty string.
///
/// aria2 (1.36) drops such entries, which are the leaves of the file tree, and hashes what it
/// encodes again. A peer that answers to this name too can serve it: v1 pieces are unaffected.
/// `None` when the bytes are no info dictionary or the name is the right one.
pub fn alias_info_hash_without_empty_keys(info: &[u8]) -> Option<InfoHashV1> {
    let decoded = bencode::decode(info, &Limits::TORRENT).ok()?;
    if decoded.consumed != info.len() || !decoded.flaws.is_empty() {
        return None;
    }
    decoded.root.as_dict()?;
    let mut encoder = Encoder::new();
    without_empty_keys(&decoded.root, &mut encoder);
    let encoded = encoder.finish();
    (encoded != info).then(|| InfoHashV1::of_info(&encoded))
}

/// Values nest only as deep as [`Limits::TORRENT`] allows.
fn without_empty_keys(node: &Node<'_>, encoder: &mut Encoder) {
    match node.value() {
        Value::Int(_) | Value::Bytes(_) => encoder.raw(node.raw()),
        Value::List(list) => encoder.list(|encoder| {
            for node in list {
                without_empty_keys(node, encoder);
            }
        }),
        Value::Dict(dict) => encoder.dict(|out| {
            for (key, node) in dict.iter().filter(|(key, _)| !key.is_empty()) {
                without_empty_keys(node, out.key(key));
            }
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_entries_with_empty_keys_are_left_out() {
        let info = b"d9:file treed1:fd0:d6:lengthi5eeee5:filesld0:i1e1:xi2eee4:name1:fe";
        let read_by_aria2 = b"d9:file treed1:fdee5:filesld1:xi2eee4:name1:fe";
        assert_eq!(
            alias_info_hash_without_empty_keys(info),
            Some(InfoHashV1::of_info(read_by_aria2))
        );
    }

    #[test]
    fn without_empty_keys_there_is_no_alias() {
        for info in [&b"d4:name1:fe"[..], b"le", b"d0:i1e", b"d0:i1eetail", b""] {
            assert_eq!(alias_info_hash_without_empty_keys(info), None, "{info:?}");
        }
    }
}
