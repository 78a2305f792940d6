//! How SHA-256 and SHA-1 end a message (FIPS 180-4, section 5.1.1).

use crate::Block;

/// The last one or two blocks of a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ending {
    blocks: [Block; 2],
    count: usize,
}

impl Ending {
    /// `tail` is what of the message fills no block, `length` the whole message's, in bytes.
    pub(crate) fn new(tail: &[u8], length: u64) -> Self {
        const LENGTH_AT: usize = size_of::<Block>() - size_of::<u64>();
        debug_assert!(tail.len() < size_of::<Block>(), "{} bytes", tail.len());
        let mut blocks = [[0; 64]; 2];
        for (slot, byte) in blocks[0].iter_mut().zip(tail.iter().chain(&[0x80])) {
            *slot = *byte;
        }
        let count = if tail.len() < LENGTH_AT { 1 } else { 2 };
        let (_, bits) = blocks[count - 1].split_at_mut(LENGTH_AT);
        bits.copy_from_slice(&length.wrapping_mul(8).to_be_bytes());
        Self { blocks, count }
    }

    pub(crate) fn blocks(&self) -> &[Block] {
        self.blocks.split_at(self.count).0
    }
}

/// A digest from the state that took in the whole message.
pub(crate) fn digest<const WORDS: usize, const BYTES: usize>(state: &[u32; WORDS]) -> [u8; BYTES] {
    let mut digest = [0; BYTES];
    for (bytes, word) in digest.chunks_mut(size_of::<u32>()).zip(state) {
        bytes.copy_from_slice(&word.to_be_bytes());
    }
    digest
}
