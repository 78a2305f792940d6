//! Answers to hash requests: those of libtorrent, provable at every layer, and never wrong.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use bittorrent_protocol::merkle::{self, HashRequest};
use bittorrent_protocol::metainfo::Metainfo;
use bittorrent_protocol::{BLOCK_LEN, FileSpan, Layout, MerkleHash, PieceLayer, PieceLength};
use bittorrent_store::{RealIo, TorrentStore};
use common::{BLOCK, Sample, content, salted};
use serde_json::Value;

fn vectors() -> Value {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../bittorrent-protocol/tests/data/merkle_vectors.json"
    );
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn hash(value: &Value) -> MerkleHash {
    value.as_str().unwrap().parse().unwrap()
}

fn full_store(sample: &Sample, dir: &Path) -> TorrentStore {
    let store = sample.create(dir, Arc::new(RealIo));
    sample.fill(&store, &sample.blocks);
    store
}

#[test]
fn roots_and_layers_follow_from_what_is_kept() {
    for vector in vectors()["vectors"].as_array().unwrap() {
        let number = |key: &str| vector[key].as_u64().unwrap();
        let sample = Sample::single(number("piece_length"), content(number("length")));
        let span = &sample.layout().files()[0];
        let root = hash(&vector["pieces_root"]);
        assert_eq!(span.root(), Some(root));
        let dir = tempfile::tempdir().unwrap();
        let store = full_store(&sample, &dir.path().join("s"));
        let height = merkle::tree_height(span.blocks());
        if height == 0 {
            continue;
        }
        // All leaves at once lead to the root.
        let request = HashRequest::anchored(span, 0, 0, 1 << height, height).unwrap();
        let leaves = store.hashes(&request.request()).unwrap().unwrap();
        assert_eq!(merkle::fold(&leaves, 0, height), root);
    }
}

#[test]
fn answers_are_those_of_libtorrent() {
    for vector in vectors()["hash_request_vectors"].as_array().unwrap() {
        let number = |key: &str| vector[key].as_u64().unwrap();
        let expected: Vec<MerkleHash> = vector["hashes"]
            .as_array()
            .unwrap()
            .iter()
            .map(hash)
            .collect();
        for piece_length in [BLOCK, 4 * BLOCK, 64 * BLOCK] {
            let sample = Sample::single(piece_length, content(number("length")));
            let dir = tempfile::tempdir().unwrap();
            let store = full_store(&sample, &dir.path().join("s"));
            let request = HashRequest {
                root: sample.layout().files()[0].root().unwrap(),
                base: number("base") as u32,
                index: number("index") as u32,
                count: number("count") as u32,
                proof_layers: number("proof_layers") as u32,
            };
            let answer = store.hashes(&request).unwrap();
            assert_eq!(answer.unwrap(), expected, "{request:?}, {piece_length}");
        }
    }
}

/// Every node of a file's tree.
fn tree(sample: &Sample, file: usize) -> PieceLayer {
    let span = &sample.layout().files()[file];
    let layout = Layout::new(PieceLength::MIN, [(span.length(), span.root())]).unwrap();
    PieceLayer::new(
        &layout.files()[0],
        PieceLength::MIN,
        sample.file_leaves(file),
    )
    .unwrap()
}

/// Every request that makes sense for a file.
fn requests(span: &FileSpan) -> Vec<HashRequest> {
    let height = u32::from(merkle::tree_height(span.blocks()));
    let mut requests = Vec::new();
    for base in 0..height {
        for bits in 1..=height - base {
            for index in 0..1 << (height - base - bits) {
                for proof_layers in 0..height - base {
                    requests.push(HashRequest {
                        root: span.root().unwrap(),
                        base,
                        index: index << bits,
                        count: 1 << bits,
                        proof_layers,
                    });
                }
            }
        }
    }
    requests
}

#[test]
fn every_layer_of_verified_content_can_be_proven() {
    for (piece_blocks, length) in [
        (1, 2 * BLOCK),
        (1, 5 * BLOCK + 1),
        (2, 5 * BLOCK + 1),
        (4, 18 * BLOCK + 1),
        (4, 16 * BLOCK),
        (8, 6 * BLOCK),
        (64, 19 * BLOCK),
    ] {
        let sample = Sample::single(piece_blocks * BLOCK, salted(length, 1));
        let span = &sample.layout().files()[0];
        let tree = tree(&sample, 0);
        let dir = tempfile::tempdir().unwrap();
        // Also if the layers were never set.
        let bare = Metainfo::from_info(sample.meta.info().clone());
        let bare = TorrentStore::create(&dir.path().join("b"), &bare, Arc::new(RealIo)).unwrap();
        sample.fill(&bare, &sample.blocks);
        for store in [full_store(&sample, &dir.path().join("s")), bare] {
            for request in requests(span) {
                let checked = request.validate(span).unwrap();
                let answer = store.hashes(&request).unwrap().unwrap();
                let proven = checked
                    .verify(&answer, |layer, index| tree.node(layer, index))
                    .unwrap();
                let first = u64::from(request.index);
                let expected: Vec<_> = (first..first + u64::from(request.count))
                    .map(|index| tree.node(checked.base(), index).unwrap())
                    .collect();
                assert_eq!(proven, expected, "{request:?} of {length} bytes");
            }
        }
    }
}

#[test]
fn what_is_not_verified_is_not_told() {
    let sample = Sample::single(4 * BLOCK, salted(18 * BLOCK + 1, 1));
    let span = &sample.layout().files()[0];
    let dir = tempfile::tempdir().unwrap();
    let store = sample.create(&dir.path().join("s"), Arc::new(RealIo));
    // All but one block of the third piece.
    let gap = 9;
    for number in (0..sample.blocks.len()).filter(|number| *number != gap) {
        sample.fill(&store, &[sample.blocks[number]]);
    }
    // Its leaf is kept, but not proven.
    let lie = merkle::leaf(b"lie");
    store.keep_leaves(sample.blocks[gap], &[lie]).unwrap();
    let tree = tree(&sample, 0);
    let (mut answered, mut rejected) = (0, 0);
    for request in requests(span) {
        let checked = request.validate(span).unwrap();
        // Below the piece layer the subtree that leads to the proof's top must not have the gap in it,
        // as far as it is made of leaves.
        let Some(answer) = store.hashes(&request).unwrap() else {
            let top = checked.anchor_layer().min(2);
            let width = u64::from(request.count) << checked.base();
            let start = u64::from(request.index) << checked.base();
            let widest = width.max(1 << top);
            let around = (start / widest * widest)..(start / widest * widest + widest);
            assert!(
                request.base < 2 && around.contains(&(gap as u64)),
                "{request:?}"
            );
            rejected += 1;
            continue;
        };
        checked
            .verify(&answer, |layer, index| tree.node(layer, index))
            .unwrap();
        answered += 1;
    }
    assert!(
        answered > 50 && rejected > 10,
        "{answered} answered, {rejected} rejected"
    );
    sample.fill(&store, &[sample.blocks[gap]]);
    for request in requests(span) {
        assert!(store.hashes(&request).unwrap().is_some(), "{request:?}");
    }
}

#[test]
fn senseless_requests_are_rejected() {
    let sample = Sample::single(4 * BLOCK, salted(18 * BLOCK + 1, 1));
    let dir = tempfile::tempdir().unwrap();
    let store = full_store(&sample, &dir.path().join("s"));
    let good = HashRequest {
        root: sample.layout().files()[0].root().unwrap(),
        base: 0,
        index: 0,
        count: 4,
        proof_layers: 4,
    };
    assert!(store.hashes(&good).unwrap().is_some());
    let root = MerkleHash::ZERO;
    for bad in [
        HashRequest { root, ..good },
        HashRequest { base: 5, ..good },
        HashRequest {
            base: u32::MAX,
            ..good
        },
        HashRequest { index: 2, ..good },
        HashRequest { index: 32, ..good },
        HashRequest {
            index: u32::MAX,
            ..good
        },
        HashRequest { count: 0, ..good },
        HashRequest { count: 3, ..good },
        HashRequest {
            count: u32::MAX,
            ..good
        },
        HashRequest {
            proof_layers: 5,
            ..good
        },
        HashRequest {
            proof_layers: u32::MAX,
            ..good
        },
    ] {
        assert_eq!(store.hashes(&bad).unwrap(), None, "{bad:?}");
    }
}

#[test]
fn of_files_with_the_same_content_any_one_answers() {
    let twin = salted(3 * BLOCK, 1);
    let sample = Sample::directory(
        4 * BLOCK,
        &[("a", twin.clone()), ("b", twin), ("c", vec![0; 3])],
    );
    let dir = tempfile::tempdir().unwrap();
    let store = sample.create(&dir.path().join("s"), Arc::new(RealIo));
    let request = requests(&sample.layout().files()[0])[0];
    assert_eq!(store.hashes(&request).unwrap(), None);
    sample.fill(&store, &sample.blocks[3..6]);
    assert!(store.hashes(&request).unwrap().is_some());
}

#[test]
fn damaged_leaf_hashes_are_not_told_and_can_be_mended() {
    let sample = Sample::single(4 * BLOCK, salted(18 * BLOCK + 1, 1));
    let span = &sample.layout().files()[0];
    let hash_len = MerkleHash::LEN;
    let damages: [&dyn Fn(&Path); 4] = [
        &|path| {
            let mut bytes = fs::read(path).unwrap();
            bytes[5 * hash_len] ^= 1;
            fs::write(path, bytes).unwrap();
        },
        &|path| fs::write(path, b"").unwrap(),
        &|path| {
            let bytes = fs::read(path).unwrap();
            fs::write(path, &bytes[..hash_len * 7 + 1]).unwrap();
        },
        &|path| fs::remove_file(path).unwrap(),
    ];
    for damage in damages {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("s");
        full_store(&sample, &place).finish().unwrap();
        damage(&place.join("leaves/0"));
        let (store, recovery) = TorrentStore::open(&place, Arc::new(RealIo)).unwrap();
        assert!(store.is_sealed(), "{recovery:?}");
        let tree = tree(&sample, 0);
        let mut rejected = 0;
        for request in requests(span) {
            let checked = request.validate(span).unwrap();
            match store.hashes(&request).unwrap() {
                // A proof that ends below what is known here cannot be checked here.
                Some(answer) if checked.anchor_layer() >= 2 => {
                    checked
                        .verify(&answer, |layer, index| tree.node(layer, index))
                        .unwrap();
                }
                Some(_) => {}
                None => rejected += 1,
            }
        }
        assert!(rejected > 0);
        let verification = store.verify_all(&|_| true).unwrap();
        assert!(verification.damaged.is_empty() && store.is_sealed());
        assert!(verification.leaves_mended > 0);
        drop(store);
        let (store, _) = TorrentStore::open(&place, Arc::new(RealIo)).unwrap();
        for request in requests(span) {
            assert!(store.hashes(&request).unwrap().is_some());
        }
        assert_eq!(store.verify_all(&|_| true).unwrap().leaves_mended, 0);
        let kept = fs::read(place.join("leaves/0")).unwrap();
        assert_eq!(
            kept.len(),
            hash_len * sample.contents[0].len().div_ceil(BLOCK_LEN as usize)
        );
    }
}
