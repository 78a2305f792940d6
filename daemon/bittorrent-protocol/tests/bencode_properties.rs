//! Properties of the bencode decoder and encoder.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::BTreeMap;

use bittorrent_protocol::bencode::{Encoder, Limits, Node, Value, decode};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

/// A value that owns its parts.
#[derive(Debug, Clone, PartialEq)]
enum Model {
    Int(i64),
    Bytes(Vec<u8>),
    List(Vec<Model>),
    Dict(BTreeMap<Vec<u8>, Model>),
}

fn model() -> impl Strategy<Value = Model> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(Model::Int),
        vec(any::<u8>(), 0..20).prop_map(Model::Bytes),
    ];
    leaf.prop_recursive(6, 60, 8, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..8).prop_map(Model::List),
            btree_map(vec(any::<u8>(), 0..6), inner, 0..8).prop_map(Model::Dict),
        ]
    })
}

fn encode(model: &Model, encoder: &mut Encoder) {
    match model {
        Model::Int(int) => encoder.int(*int),
        Model::Bytes(bytes) => encoder.bytes(bytes),
        Model::List(list) => encoder.list(|out| list.iter().for_each(|item| encode(item, out))),
        Model::Dict(dict) => encoder.dict(|out| {
            for (key, item) in dict {
                encode(item, out.key(key));
            }
        }),
    }
}

fn model_of(node: &Node<'_>) -> Model {
    match node.value() {
        Value::Int(int) => Model::Int(*int),
        Value::Bytes(bytes) => Model::Bytes(bytes.to_vec()),
        Value::List(list) => Model::List(list.iter().map(model_of).collect()),
        Value::Dict(dict) => Model::Dict(
            dict.iter()
                .map(|(key, node)| (key.to_vec(), model_of(node)))
                .collect(),
        ),
    }
}

/// Encodes again what was decoded, entry by entry.
fn again(node: &Node<'_>, encoder: &mut Encoder) {
    match node.value() {
        Value::Int(int) => encoder.int(*int),
        Value::Bytes(bytes) => encoder.bytes(bytes),
        Value::List(list) => encoder.list(|out| list.iter().for_each(|item| again(item, out))),
        Value::Dict(dict) => encoder.dict(|out| {
            for (key, item) in dict.iter() {
                again(item, out.key(key));
            }
        }),
    }
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(model in model(), tail in vec(any::<u8>(), 0..10)) {
        let mut encoder = Encoder::new();
        encode(&model, &mut encoder);
        let mut bytes = encoder.finish();
        let len = bytes.len();
        bytes.extend_from_slice(&tail);
        let decoded = decode(&bytes, &Limits::TORRENT).unwrap();
        prop_assert_eq!(model_of(&decoded.root), model);
        prop_assert_eq!(decoded.flaws, []);
        prop_assert_eq!(decoded.consumed, len);
        prop_assert_eq!(decoded.root.raw(), &bytes[..len]);
        // No prefix of a value is a value.
        for end in 0..len {
            prop_assert!(decode(&bytes[..end], &Limits::TORRENT).is_err());
        }
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in vec(any::<u8>(), 0..200)) {
        let _ = decode(&bytes, &Limits::MESSAGE);
    }

    /// Without flaws there is one way to write a value only, so that no two parsers can read
    /// different torrents from bytes with the same hash.
    #[test]
    fn what_decodes_without_flaws_is_canonical(text in "[dl]?[dlei0123:ab-]{0,24}e{0,6}") {
        if let Ok(decoded) = decode(text.as_bytes(), &Limits::MESSAGE) {
            let raw = &text.as_bytes()[..decoded.consumed];
            prop_assert_eq!(decoded.root.raw(), raw);
            if decoded.flaws.is_empty() {
                let mut encoder = Encoder::new();
                again(&decoded.root, &mut encoder);
                prop_assert_eq!(encoder.finish(), raw);
            } else {
                prop_assert!(decoded.flaws.iter().all(|flaw| flaw.offset < decoded.consumed));
            }
        }
    }

    #[test]
    fn limits_bound_what_is_built(
        model in model(),
        max_depth in 0usize..6,
        max_tokens in 0usize..30,
    ) {
        let mut encoder = Encoder::new();
        encode(&model, &mut encoder);
        let limits = Limits { max_depth, max_tokens, max_len: usize::MAX };
        let fits = depth(&model) <= max_depth && tokens(&model) <= max_tokens;
        prop_assert_eq!(decode(&encoder.finish(), &limits).is_ok(), fits);
    }
}

fn depth(model: &Model) -> usize {
    match model {
        Model::Int(_) | Model::Bytes(_) => 0,
        Model::List(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        Model::Dict(dict) => 1 + dict.values().map(depth).max().unwrap_or(0),
    }
}

fn tokens(model: &Model) -> usize {
    match model {
        Model::Int(_) | Model::Bytes(_) => 1,
        Model::List(list) => 1 + list.iter().map(tokens).sum::<usize>(),
        Model::Dict(dict) => 1 + dict.values().map(|item| 1 + tokens(item)).sum::<usize>(),
    }
}
