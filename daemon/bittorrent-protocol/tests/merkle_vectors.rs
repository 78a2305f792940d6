//! Trees, torrents and answers to hash requests that were checked against libtorrent:
//! `tests/data/merkle_vectors.json`.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::convert::Infallible;

use bittorrent_protocol::merkle::{self, HashRequest};
use bittorrent_protocol::metainfo::{HashedContent, MetainfoBuilder, v1_pads_tail};
use bittorrent_protocol::{BLOCK_LEN, Layout, MerkleHash, PieceLayer, PieceLength, PieceSha1};
use serde_json::Value;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

fn vectors() -> Value {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/data/merkle_vectors.json"
    );
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn hash(value: &Value) -> MerkleHash {
    value.as_str().unwrap().parse().unwrap()
}

/// The content rule of the vectors.
fn content(length: u64) -> Vec<u8> {
    (0..length)
        .map(|k| (k * k + 7 * k + (k >> 8)) as u8)
        .collect()
}

fn leaves(content: &[u8]) -> Vec<MerkleHash> {
    content
        .chunks(BLOCK_LEN as usize)
        .map(merkle::leaf)
        .collect()
}

#[test]
fn padding() {
    let vectors = vectors();
    let pads = vectors["pad_hash_by_level"].as_array().unwrap();
    assert_eq!(pads.len(), 21);
    for (level, pad) in (0u8..).zip(pads) {
        assert_eq!(merkle::pad(level), hash(pad), "level {level}");
    }
}

#[test]
fn roots_layers_and_info_hashes() {
    let vectors = vectors();
    let vectors = vectors["vectors"].as_array().unwrap();
    assert_eq!(vectors.len(), 42);
    for vector in vectors {
        let number = |key: &str| vector[key].as_u64().unwrap();
        let piece_length = PieceLength::new(number("piece_length")).unwrap();
        let content = content(number("length"));
        let leaves = leaves(&content);
        let case = format!("{} bytes, pieces of {piece_length}", content.len());
        assert_eq!(leaves.len() as u64, number("num_blocks"), "{case}");

        let root = merkle::file_root_from_leaves(&leaves);
        assert_eq!(root, hash(&vector["pieces_root"]), "{case}");
        let layout = Layout::new(piece_length, [(content.len() as u64, Some(root))]).unwrap();
        assert_eq!(u64::from(layout.piece_count()), number("num_pieces"));

        let layer = merkle::piece_layer_from_leaves(&leaves, piece_length);
        let pieces: Vec<MerkleHash> = layout
            .piece_indices()
            .zip(leaves.chunks(piece_length.blocks() as usize))
            .map(|(piece, leaves)| merkle::piece_hash(leaves, &layout, piece))
            .collect();
        let layer_len = number("piece_layer_len") as usize;
        if layer_len == 0 {
            assert_eq!(pieces, [root], "{case}");
        } else {
            assert_eq!(pieces, layer, "{case}");
            assert_eq!(layer.len() * MerkleHash::LEN, layer_len, "{case}");
            let bytes: Vec<u8> = layer
                .iter()
                .flat_map(MerkleHash::as_bytes)
                .copied()
                .collect();
            let digest = data_encoding::HEXLOWER.encode(&Sha256::digest(&bytes));
            assert_eq!(
                digest,
                vector["piece_layer_sha256"].as_str().unwrap(),
                "{case}"
            );
            if let Some(listed) = vector["piece_layer"].as_array() {
                let listed: Vec<MerkleHash> = listed.iter().map(hash).collect();
                assert_eq!(layer, listed, "{case}");
            }
            assert_eq!(merkle::file_root_from_layer(&layer, piece_length), root);
        }

        let metainfo = MetainfoBuilder::new("f", piece_length)
            .single_file(HashedContent {
                length: content.len() as u64,
                root: Some(root),
                layer,
                ..HashedContent::default()
            })
            .build()
            .unwrap();
        assert_eq!(
            metainfo.info().hashes().v2.to_string(),
            vector["info_hash_v2_name_f"].as_str().unwrap(),
            "{case}"
        );
        assert_eq!(metainfo.info().hashes().v1, None);
        assert!(metainfo.info().is_single_file());
    }
}

#[test]
fn answers_of_a_libtorrent_seed() {
    let vectors = vectors();
    let vectors = vectors["hash_request_vectors"].as_array().unwrap();
    assert!(!vectors.is_empty());
    for vector in vectors {
        let number = |key: &str| vector[key].as_u64().unwrap();
        let leaves = leaves(&content(number("length")));
        let root = merkle::file_root_from_leaves(&leaves);
        let request = HashRequest {
            root,
            base: number("base") as u32,
            index: number("index") as u32,
            count: number("count") as u32,
            proof_layers: number("proof_layers") as u32,
        };
        let expected: Vec<MerkleHash> = vector["hashes"]
            .as_array()
            .unwrap()
            .iter()
            .map(hash)
            .collect();
        let layout = Layout::new(PieceLength::MIN, [(number("length"), Some(root))]).unwrap();
        let file = &layout.files()[0];
        let checked = request.validate(file).unwrap();
        assert_eq!(checked.reply_len(), expected.len(), "{request:?}");

        // Any node of the tree is at hand at the lowest piece length.
        let layer = PieceLayer::new(file, PieceLength::MIN, leaves).unwrap();
        let reply = checked.respond(|layer_number, range| {
            Ok::<_, Infallible>(range.map(|index| layer.node(layer_number, index)).collect())
        });
        assert_eq!(reply.unwrap().unwrap(), expected, "{request:?}");

        let height = merkle::tree_height(file.blocks());
        let known = |layer, index| (layer == height && index == 0).then_some(root);
        let proven = checked.verify(&expected, known).unwrap();
        assert_eq!(proven, &expected[..request.count as usize]);
    }
}

/// A torrent of several files or a hybrid, and the hashes that libtorrent 2.0.11 and 2.0.15 give it
/// (`create_torrent` with pieces of 32 KiB, over files that follow the content rule).
type Made = (
    &'static str,
    &'static [(&'static str, u64)],
    &'static str,
    Option<&'static str>,
);

const MADE_BY_LIBTORRENT: &[Made] = &[
    (
        "m3",
        &[("a/x", 100_000), ("a/y", 0), ("b", 40_000)],
        "5dbfdb0a263669dbcaebf83f1f00f549bfe5533af5591b0b73e88d5eca1ba0ec",
        Some("de01b5facf1e0d078190184e2800237e8e2f289d"),
    ),
    (
        "m3",
        &[("a/x", 100_000), ("a/y", 0), ("b", 40_000)],
        "dd165840d9046b04625ec3ddc40e247861a14ccd3f4954b894a3343bfd2b68bc",
        None,
    ),
    (
        "m2",
        &[("z", 32_768), ("zz", 5)],
        "c733fbf868050d82ed5fe7fd3089a8f68c614b89f0f24511efba040111743afe",
        Some("e42849a490fdddab4337dd277957c1e07f34957d"),
    ),
    (
        "m2",
        &[("z", 32_768), ("zz", 5)],
        "89f65d6078d493f4a081a42aed2246776d43811c6b15b528f4701ba7240ead41",
        None,
    ),
    // A directory of one file has no padding behind it.
    (
        "m1",
        &[("only", 50_000)],
        "42e79ef1419798fe8e32916feac7a7a00138283a22fa8afe7d2e412180186ea4",
        Some("c43fa5054c907214150396caa11281fa0a34adcc"),
    ),
    (
        "m1",
        &[("only", 50_000)],
        "a0a97b85415f583769b61fa982f1d46fc63c0b7fa07e215c852d88e2f2384c06",
        None,
    ),
    // An empty file counts.
    (
        "m2e",
        &[("a", 0), ("b", 5)],
        "4e1431ef2b218fc075de76e9cfbc87317ed2b6bc3f36beb66c3da10208bea728",
        Some("9c9ae8af3e44c92c418ebc7ebe3b7c24bfc20bd6"),
    ),
    (
        "s.bin",
        &[("", 50_000)],
        "de76ca3e7051c8deeb286809d57acf0c69d0f90e885b057e1033f7d165313b33",
        Some("0cd27007ab1de7403fb5bdca4537663fe264f6b2"),
    ),
];

#[test]
fn torrents_that_libtorrent_makes() {
    let piece_length = PieceLength::new(32768).unwrap();
    for (name, files, v2, v1) in MADE_BY_LIBTORRENT {
        let mut builder = MetainfoBuilder::new(*name, piece_length).hybrid(v1.is_some());
        for (path, length) in *files {
            let content = content(*length);
            let leaves = leaves(&content);
            let v1_pieces = content.chunks(piece_length.bytes() as usize).map(|piece| {
                let mut piece = piece.to_vec();
                if v1_pads_tail(files.len()) {
                    piece.resize(piece_length.bytes() as usize, 0);
                }
                PieceSha1::from_bytes(Sha1::digest(&piece).into())
            });
            let hashed = HashedContent {
                length: *length,
                root: (*length > 0).then(|| merkle::file_root_from_leaves(&leaves)),
                layer: merkle::piece_layer_from_leaves(&leaves, piece_length),
                v1_pieces: v1_pieces.collect(),
                executable: false,
            };
            builder = match *path {
                "" => builder.single_file(hashed),
                path => builder.file(path.split('/').map(str::to_owned).collect(), hashed),
            };
        }
        let hashes = builder.build().unwrap().info().hashes();
        assert_eq!(hashes.v2.to_string(), *v2, "{name}");
        let found = hashes.v1.map(|v1| v1.to_string());
        assert_eq!(found.as_deref(), *v1, "{name}");
    }
}
