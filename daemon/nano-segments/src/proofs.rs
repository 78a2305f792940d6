//! The proofs of a segment: the works of all blocks, then the signatures of all blocks, both by place.

use thiserror::Error;

/// Bytes of a block's work and signature.
pub const PROOF_LEN: usize = 8 + 64;

/// The order of Ed25519's group, little-endian words: 2^252 + 27742317777372353535851937790883648493.
const ORDER: [u64; 4] = [
    0x5812_631a_5cf5_d3ed,
    0x14de_f9de_a2f7_9cd6,
    0,
    0x1000_0000_0000_0000,
];

/// Why bytes are no proofs of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ProofError {
    /// There are not exactly 72 bytes for each block.
    #[error("the proofs have {found} bytes instead of {PROOF_LEN} for each of {blocks} blocks")]
    Length {
        /// How long they are.
        found: usize,
        /// Blocks of the segment.
        blocks: usize,
    },
    /// A signature's scalar is not reduced.
    #[error("the scalar of the signature at {place} is not reduced")]
    Signature {
        /// The block's index.
        place: usize,
    },
}

/// An Ed25519 signature whose scalar is below the order of the group. A node also accepts the scalar with the order added; no hash covers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature([u8; 64]);

impl Signature {
    /// Reduces a signature's scalar.
    pub fn reduced(mut bytes: [u8; 64]) -> Self {
        let mut scalar = scalar(&bytes);
        while !is_reduced(&scalar) {
            let mut borrow = false;
            for (word, order) in scalar.iter_mut().zip(ORDER) {
                let (less, first) = word.overflowing_sub(order);
                let (less, second) = less.overflowing_sub(u64::from(borrow));
                *word = less;
                borrow = first | second;
            }
        }
        for (to, word) in bytes[32..].as_chunks_mut::<8>().0.iter_mut().zip(scalar) {
            *to = word.to_le_bytes();
        }
        Self(bytes)
    }

    /// Takes a signature whose scalar is reduced.
    pub fn new(bytes: [u8; 64]) -> Option<Self> {
        is_reduced(&scalar(&bytes)).then_some(Self(bytes))
    }

    /// Returns the point and the scalar.
    pub fn bytes(&self) -> &[u8; 64] {
        &self.0
    }
}

fn scalar(signature: &[u8; 64]) -> [u64; 4] {
    let (words, _) = signature[32..].as_chunks::<8>();
    std::array::from_fn(|word| u64::from_le_bytes(words[word]))
}

fn is_reduced(scalar: &[u64; 4]) -> bool {
    scalar.iter().rev().lt(ORDER.iter().rev())
}

/// Works and signatures of a segment's blocks, by place.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Proofs {
    works: Vec<u64>,
    signatures: Vec<Signature>,
}

impl Proofs {
    /// Adds those of the next block.
    pub fn push(&mut self, work: u64, signature: Signature) {
        self.works.push(work);
        self.signatures.push(signature);
    }

    /// Returns those of a block.
    pub fn get(&self, place: usize) -> Option<(u64, &Signature)> {
        Some((*self.works.get(place)?, self.signatures.get(place)?))
    }

    /// Returns how many blocks they are for.
    pub fn len(&self) -> usize {
        self.works.len()
    }

    /// Returns whether they are for no block.
    pub fn is_empty(&self) -> bool {
        self.works.is_empty()
    }

    /// Reads the proofs of `blocks` blocks.
    pub fn read(bytes: &[u8], blocks: usize) -> Result<Self, ProofError> {
        if blocks.checked_mul(PROOF_LEN) != Some(bytes.len()) {
            return Err(ProofError::Length {
                found: bytes.len(),
                blocks,
            });
        }
        let (works, signatures) = bytes.split_at(8 * blocks);
        let signatures = signatures.as_chunks::<64>().0.iter().enumerate();
        Ok(Self {
            works: works
                .as_chunks::<8>()
                .0
                .iter()
                .map(|&work| u64::from_be_bytes(work))
                .collect(),
            signatures: signatures
                .map(|(place, &bytes)| Signature::new(bytes).ok_or(ProofError::Signature { place }))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Returns the bytes of the file.
    pub fn write(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(PROOF_LEN * self.len());
        self.works
            .iter()
            .for_each(|work| bytes.extend_from_slice(&work.to_be_bytes()));
        self.signatures
            .iter()
            .for_each(|signature| bytes.extend_from_slice(&signature.0));
        bytes
    }
}
