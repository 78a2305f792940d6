//! The proofs of a block: the signature of its account and its proof of work.
//!
//! Nano signs with Ed25519 over Blake2b-512 in place of SHA-512, and verifies as ed25519-donna does.
//! Signers and thresholds of the networks after nano-node's `nano/secure/common.cpp` and
//! `nano/lib/work.cpp`.

use blake2::digest::consts::U8;
use blake2::{Blake2b, Blake2b512, Digest as _};
use ed25519_dalek::{Signature, VerifyingKey, hazmat};

use crate::blocks::block::{Block, BlockKind, EPOCH, Id, RECEIVE, Signed};
use crate::blocks::network::Network;
use crate::blocks::schema;

/// Links of the blocks that upgrade an account to epoch 1 and 2. All of them are signed by one key.
const EPOCH_LINKS: [&[u8; 14]; 2] = [b"epoch v1 block", b"epoch v2 block"];

const LIVE_GENESIS: Id =
    schema::hash("E89208DD038FBB269987689621D52292AE9C35941A7484756ECCED92A65093BA");
const LIVE_EPOCH_2: Id =
    schema::hash("DD24A9200D4BF8247981E4AC63DBDE38FD2319386970A26D02ECC98C79975DB1");
pub(crate) const DEV_GENESIS: Id =
    schema::hash("B0311EA55708D6A53C75CDBF88300259C6D018522FE3D4D0A242E431F9E8B6D0");

/// Least difficulties of work: before epoch 2, since, and since for receives and upgrades.
struct Thresholds {
    before: u64,
    since: u64,
    since_receive: u64,
}

const LIVE_WORK: Thresholds = Thresholds {
    before: 0xFFFF_FFC0_0000_0000,
    since: 0xFFFF_FFF8_0000_0000,
    since_receive: 0xFFFF_FE00_0000_0000,
};
const DEV_WORK: Thresholds = Thresholds {
    before: 0xFE00_0000_0000_0000,
    since: 0xFFC0_0000_0000_0000,
    since_receive: 0xF000_0000_0000_0000,
};

/// The epoch, 1 or 2, that a link upgrades to.
pub(crate) fn epoch_of_link(link: &Id) -> Option<u8> {
    let (text, zeros) = link.split_at_checked(14)?;
    if zeros.iter().any(|byte| *byte != 0) {
        return None;
    }
    (1..)
        .zip(EPOCH_LINKS)
        .find_map(|(epoch, link)| (text == link).then_some(epoch))
}

/// Returns whether the block upgrades its account to an epoch, by its sideband.
pub(crate) fn is_upgrade(block: &Block) -> bool {
    block.kind == BlockKind::State
        && block.details & EPOCH != 0
        && epoch_of_link(&block.link).is_some()
}

/// Returns the key that signs a block. `None` for an upgrade on a network whose signers are not known.
fn signer(block: &Block, network: Network) -> Option<Id> {
    if !is_upgrade(block) {
        return Some(block.account);
    }
    match (network, epoch_of_link(&block.link)) {
        (Network::Live, Some(1)) => Some(LIVE_GENESIS),
        (Network::Live, _) => Some(LIVE_EPOCH_2),
        (Network::Dev, _) => Some(DEV_GENESIS),
        (Network::Unknown, _) => None,
    }
}

/// Whether the signature is the signer's; `None` when the signer is not known.
pub(crate) fn is_signed(signed: &Signed, network: Network) -> Option<bool> {
    let signer = signer(&signed.block, network)?;
    Some(verify(&signer, &signed.hash, &signed.signature))
}

fn verify(key: &Id, hash: &Id, signature: &[u8; 64]) -> bool {
    let Ok(key) = VerifyingKey::from_bytes(key) else {
        return false;
    };
    let Some(signature) = canonical(signature) else {
        return false;
    };
    hazmat::raw_verify::<Blake2b512>(&key, hash, &Signature::from_bytes(&signature)).is_ok()
}

/// The order of the group, little-endian.
const ORDER: [u8; 32] = [
    0xED, 0xD3, 0xF5, 0x5C, 0x1A, 0x63, 0x12, 0x58, 0xD6, 0x9C, 0xF7, 0xA2, 0xDE, 0xF9, 0xDE, 0x14,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

/// Returns the signature with its scalar reduced below the order of the group, as this library requires. The node accepts
/// any scalar below 2^253. The scalar is not hashed, so both forms are equivalent.
fn canonical(signature: &[u8; 64]) -> Option<[u8; 64]> {
    let (_, scalar) = signature.split_at_checked(32)?;
    if scalar.last()? & 0xE0 != 0 {
        return None;
    }
    let mut reduced = *signature;
    let mut borrow = 0;
    for ((to, from), order) in reduced.iter_mut().skip(32).zip(scalar).zip(ORDER) {
        let difference = i16::from(*from) - i16::from(order) - borrow;
        borrow = i16::from(difference < 0);
        *to = difference.rem_euclid(256) as u8;
    }
    Some(if borrow == 0 { reduced } else { *signature })
}

/// Whether enough work was done; `None` when the network's thresholds are not known.
pub(crate) fn is_worked(signed: &Signed, network: Network) -> Option<bool> {
    let thresholds = match network {
        Network::Live => LIVE_WORK,
        Network::Dev => DEV_WORK,
        Network::Unknown => return None,
    };
    let block = &signed.block;
    let least = match block.epoch() {
        Some(2) if block.details & (RECEIVE | EPOCH) != 0 => thresholds.since_receive,
        Some(2) => thresholds.since,
        _ => thresholds.before,
    };
    let mut hasher = Blake2b::<U8>::new();
    hasher.update(signed.work.to_le_bytes());
    hasher.update(block.root());
    Some(u64::from_le_bytes(hasher.finalize().into()) >= least)
}
