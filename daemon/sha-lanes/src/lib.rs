//! Hashes several messages at once in one thread, with SHA-256 or SHA-1; the only crate with vector instructions.
//!
//! The SHA instructions of a processor are pipelined, but each waits for the one before it when
//! there is only one message. Two or three messages whose rounds alternate keep the pipeline full,
//! at nearly twice the speed. There are always many blocks of a file and nodes of a merkle tree to
//! hash.
//!
//! On x86-64 processors with SHA instructions, detected at run time, messages are hashed side by
//! side. Elsewhere they are hashed one after the other, by `sha2` and `sha1`. Results are the same.
//!

mod padding;
mod sha1;
mod sha256;
#[cfg(target_arch = "x86_64")]
mod x86;

pub use sha1::Sha1;
pub use sha256::{sha256_many, sha256_pair, sha256_parents};

/// The block of SHA-256 and SHA-1 (FIPS 180-4, section 5.2.1).
pub type Block = [u8; 64];

/// A hashing operation on several lanes.
enum Work<'a> {
    /// Takes blocks into the state beside them.
    Sha256(&'a mut [[u32; 8]], &'a [&'a [Block]]),
    /// As [`sha256_parents`].
    Sha256Parents(&'a mut [[u8; 32]]),
    /// Takes blocks into the state beside them.
    Sha1(&'a mut [[u32; 5]], &'a [&'a [Block]]),
}

impl Work<'_> {
    fn run(self) {
        #[cfg(target_arch = "x86_64")]
        let this = match x86::run(self) {
            Ok(()) => return,
            Err(work) => work,
        };
        #[cfg(not(target_arch = "x86_64"))]
        let this = self;
        this.run_one_by_one();
    }

    fn run_one_by_one(self) {
        match self {
            Self::Sha256(states, blocks) => {
                for (state, blocks) in states.iter_mut().zip(blocks) {
                    sha2::block_api::compress256(state, blocks);
                }
            }
            Self::Sha256Parents(nodes) => sha256::parents_one_by_one(nodes),
            Self::Sha1(states, blocks) => {
                for (state, blocks) in states.iter_mut().zip(blocks) {
                    ::sha1::block_api::compress(state, blocks);
                }
            }
        }
    }
}
