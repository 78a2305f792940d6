//! SHA-1 (FIPS 180-4, section 6.1).

use crate::padding::{Ending, digest};
use crate::{Block, Work};

/// An incremental SHA-1 of a message in parts.
#[derive(Debug, Clone, Copy)]
pub struct Sha1 {
    state: [u32; 5],
    /// Taken in so far.
    blocks: u64,
}

impl Default for Sha1 {
    fn default() -> Self {
        Self {
            // FIPS 180-4, section 5.3.1.
            state: [
                0x6745_2301,
                0xefcd_ab89,
                0x98ba_dcfe,
                0x1032_5476,
                0xc3d2_e1f0,
            ],
            blocks: 0,
        }
    }
}

impl Sha1 {
    /// How many messages should go side by side for the best speed.
    pub const LANES: usize = 3;

    /// Takes the next part of each message into the hash beside it. Fastest when all parts have the
    /// same length.
    ///
    /// Whichever of the two slices is longer, what it has more is left alone.
    pub fn update_many(hashes: &mut [Self], parts: &[&[Block]]) {
        for (hashes, parts) in hashes
            .chunks_mut(Self::LANES)
            .zip(parts.chunks(Self::LANES))
        {
            let mut states = [[0; 5]; Self::LANES];
            let count = hashes.len().min(parts.len());
            let (states, _) = states.split_at_mut(count);
            for (state, hash) in states.iter_mut().zip(&*hashes) {
                *state = hash.state;
            }
            let (parts, _) = parts.split_at(count);
            Work::Sha1(states, parts).run();
            for ((hash, state), part) in hashes.iter_mut().zip(states).zip(parts) {
                hash.state = *state;
                hash.blocks += part.len() as u64;
            }
        }
    }

    /// Takes the next part of the message.
    pub fn update(&mut self, part: &[Block]) {
        Self::update_many(std::slice::from_mut(self), &[part]);
    }

    /// Takes the rest of the message, of any length, and ends it.
    pub fn finish(mut self, rest: &[u8]) -> [u8; 20] {
        let (whole, tail) = rest.as_chunks();
        self.update(whole);
        let length = self.blocks * size_of::<Block>() as u64 + tail.len() as u64;
        self.update(Ending::new(tail, length).blocks());
        digest(&self.state)
    }
}
