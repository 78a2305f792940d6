//! SHA-256 (FIPS 180-4, section 6.2).

use sha2::Digest as _;

use crate::padding::{Ending, digest};
use crate::{Block, Work};

/// FIPS 180-4, section 5.3.3.
pub(crate) const INITIAL: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

/// How many messages are prepared together: a multiple of every number of lanes.
const GROUP: usize = 6;

/// The SHA-256 of each message, in order. Fastest when neighbours have the same length.
///
/// Whichever of the two slices is longer, what it has more is left alone.
pub fn sha256_many(messages: &[&[u8]], digests: &mut [[u8; 32]]) {
    for (messages, digests) in messages.chunks(GROUP).zip(digests.chunks_mut(GROUP)) {
        let mut states = [INITIAL; GROUP];
        let mut blocks: [&[Block]; GROUP] = [&[]; GROUP];
        let mut endings = [Ending::new(&[], 0); GROUP];
        let count = messages.len().min(digests.len());
        let (states, _) = states.split_at_mut(count);
        let (blocks, _) = blocks.split_at_mut(count);
        for ((message, blocks), ending) in messages.iter().zip(&mut *blocks).zip(&mut endings) {
            let (whole, tail) = message.as_chunks();
            *blocks = whole;
            *ending = Ending::new(tail, message.len() as u64);
        }
        Work::Sha256(states, blocks).run();
        for (blocks, ending) in blocks.iter_mut().zip(&endings) {
            *blocks = ending.blocks();
        }
        Work::Sha256(states, blocks).run();
        for (slot, state) in digests.iter_mut().zip(states) {
            *slot = digest(state);
        }
    }
}

/// The SHA-256 of two messages.
pub fn sha256_pair(first: &[u8], second: &[u8]) -> [[u8; 32]; 2] {
    let mut digests = [[0; 32]; 2];
    sha256_many(&[first, second], &mut digests);
    digests
}

/// Hashes neighbours together, as merkle trees do: node `n` becomes the SHA-256 of nodes `2n` and
/// `2n + 1`. Ignores a last node without a sibling. Returns the new nodes, which are in the first
/// half; the others have no meaning any more.
pub fn sha256_parents(nodes: &mut [[u8; 32]]) -> &mut [[u8; 32]] {
    let parents = nodes.len() / 2;
    Work::Sha256Parents(nodes.split_at_mut(2 * parents).0).run();
    nodes.split_at_mut(parents).0
}

pub(crate) fn parents_one_by_one(nodes: &mut [[u8; 32]]) {
    for parent in 0..nodes.len() / 2 {
        let mut hasher = sha2::Sha256::new();
        // There are two nodes for each parent.
        hasher.update(nodes[2 * parent]);
        hasher.update(nodes[2 * parent + 1]);
        nodes[parent] = hasher.finalize().into();
    }
}
