//! Lanes give what `sha2` and `sha1` give, whatever the lengths and how many there are.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use proptest::prelude::*;
use sha_lanes::{Sha1, sha256_many, sha256_pair, sha256_parents};
use sha2::Digest as _;

fn noise(length: usize, seed: usize) -> Vec<u8> {
    (0..length)
        .map(|n| (n.wrapping_mul(n + seed).wrapping_add(seed * 77) >> 3) as u8)
        .collect()
}

fn plain256(message: &[u8]) -> [u8; 32] {
    sha2::Sha256::digest(message).into()
}

fn plain1(message: &[u8]) -> [u8; 20] {
    sha1::Sha1::digest(message).into()
}

fn check256(messages: &[Vec<u8>]) {
    let messages: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
    let mut digests = vec![[0; 32]; messages.len()];
    sha256_many(&messages, &mut digests);
    let expected: Vec<_> = messages.iter().map(|message| plain256(message)).collect();
    let lengths: Vec<_> = messages.iter().map(|message| message.len()).collect();
    assert_eq!(digests, expected, "{lengths:?}");
}

/// Each message in parts of whole blocks, cut at the same places, and a rest.
fn check1(messages: &[Vec<u8>], cuts: &[usize]) {
    let mut hashes = vec![Sha1::default(); messages.len()];
    let mut rests: Vec<&[u8]> = messages.iter().map(Vec::as_slice).collect();
    for cut in cuts {
        let mut parts = Vec::new();
        for rest in &mut rests {
            let whole = rest.as_chunks::<64>().0;
            let part = whole.split_at(whole.len().min(*cut)).0;
            *rest = rest.split_at(64 * part.len()).1;
            parts.push(part);
        }
        Sha1::update_many(&mut hashes, &parts);
    }
    for ((hash, rest), message) in hashes.iter().zip(rests).zip(messages) {
        assert_eq!(hash.finish(rest), plain1(message), "{}", message.len());
    }
}

/// FIPS 180-4 examples, as NIST publishes them ("SHA256.pdf", "SHA1.pdf"), and the empty message.
#[test]
fn published_vectors() {
    let long = b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
    let a = "a".repeat(1_000_000);
    let messages: [&[u8]; 4] = [b"abc", long, b"", a.as_bytes()];
    let sha256 = [
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0",
    ];
    let sha1 = [
        "a9993e364706816aba3e25717850c26c9cd0d89d",
        "84983e441c3bd26ebaae4aa1f95129e5e54670f1",
        "da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "34aa973cd4c4daa4f61eeb2bdbad27316534016f",
    ];
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
    let mut digests = [[0; 32]; 4];
    sha256_many(&messages, &mut digests);
    assert_eq!(digests.map(|digest| hex(&digest)), sha256);
    let [first, second] = sha256_pair(messages[1], messages[0]);
    assert_eq!([hex(&first), hex(&second)], [sha256[1], sha256[0]]);
    for (message, expected) in messages.iter().zip(sha1) {
        assert_eq!(hex(&Sha1::default().finish(message)), expected);
    }
}

/// All lengths around one, two and five blocks, side by side with their neighbours.
#[test]
fn every_short_length() {
    for length in 0..=300 {
        let equal: Vec<_> = (0..7).map(|seed| noise(length, seed)).collect();
        let unequal: Vec<_> = (0..7).map(|n| noise(length + 21 * n, n)).collect();
        check256(&equal);
        check256(&unequal);
        check1(&equal, &[1, 2]);
        check1(&unequal, &[1, 2]);
    }
}

#[test]
fn lengths_around_a_block_of_a_torrent() {
    for length in (16384 - 66)..=(16384 + 66) {
        let messages: Vec<_> = (0..3).map(|n| noise(length.min(16384 + n), n)).collect();
        check256(&messages);
        check1(&messages, &[100, 1000]);
    }
}

#[test]
fn any_number_of_messages() {
    for count in 0..=14 {
        let messages: Vec<_> = (0..count).map(|seed| noise(1000, seed)).collect();
        check256(&messages);
        check1(&messages, &[7, 3]);
    }
}

#[test]
fn what_has_no_counterpart_is_left_alone() {
    let mut digests = [[9; 32]; 3];
    sha256_many(&[b"x"], &mut digests);
    assert_eq!(digests, [plain256(b"x"), [9; 32], [9; 32]]);
    let mut digests = [[9; 32]; 1];
    sha256_many(&[b"x", b"y"], &mut digests);
    assert_eq!(digests, [plain256(b"x")]);

    let block: &[[u8; 64]] = &[[5; 64]];
    for count in 0..=7 {
        let mut hashes = vec![Sha1::default(); count];
        Sha1::update_many(&mut hashes, &[block; 4]);
        for (n, hash) in hashes.iter().enumerate() {
            let expected = plain1(if n < 4 { &block[0] } else { &[] });
            assert_eq!(hash.finish(&[]), expected, "{n} of {count}");
        }
    }
}

#[test]
fn any_number_of_nodes() {
    for count in 0..=40_u8 {
        let nodes: Vec<_> = (0..count).map(|n| plain256(&[n])).collect();
        let pairs = nodes.chunks_exact(2);
        let expected: Vec<_> = pairs.map(|pair| plain256(&pair.concat())).collect();
        assert_eq!(sha256_parents(&mut nodes.clone()), expected, "{count}");
    }
}

proptest! {
    #[test]
    fn any_messages(lengths in proptest::collection::vec(0..2000_usize, 0..12), cuts in proptest::collection::vec(0..20_usize, 0..4)) {
        let messages: Vec<_> = lengths.iter().enumerate().map(|(n, length)| noise(*length, n)).collect();
        check256(&messages);
        check1(&messages, &cuts);
    }
}
