//! The claims of a generation, in one file (`progress`) that is replaced as a whole.
//!
//! ```text
//! magic 8 · v2 info-hash 32 · epoch 8 · sealed 1 · files 4 · (length 8 · modified 16 · inode 8)*
//! · words 8 · (word 8)* · SHA-256 of all before
//! ```
//! All integers are little-endian. A sealed generation needs no bitmap: it has every block.

use std::path::Path;

use bittorrent_protocol::InfoHashV2;
use sha2::{Digest as _, Sha256};

use crate::disk::io::{Identity, Io};
use crate::disk::paths::Paths;
use crate::disk::whole_file::{read_whole, replace};
use crate::error::StoreError;

const MAGIC: &[u8; 8] = b"btprog\0\x01";
const DIGEST: usize = 32;

/// The most bytes that are read: one bit per 16 KiB of 100 TB is 763 MB.
const MAX_LENGTH: u64 = 1 << 30;

/// The claims of a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClaimsRecord {
    pub(crate) torrent: InfoHashV2,
    /// Journals of this epoch and later ones have the blocks verified after these claims.
    pub(crate) epoch: u64,
    /// Whether the content is complete and its files are read-only.
    pub(crate) sealed: bool,
    /// The identity of each content file when the claims were written.
    pub(crate) identities: Vec<Identity>,
    /// One bit per block number; empty if sealed.
    pub(crate) words: Vec<u64>,
}

impl ClaimsRecord {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(128 + self.identities.len() * 32 + self.words.len() * 8);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(self.torrent.as_bytes());
        bytes.extend_from_slice(&self.epoch.to_le_bytes());
        bytes.push(self.sealed.into());
        bytes.extend_from_slice(&(self.identities.len() as u32).to_le_bytes());
        for identity in &self.identities {
            bytes.extend_from_slice(&identity.length.to_le_bytes());
            bytes.extend_from_slice(&identity.modified.to_le_bytes());
            bytes.extend_from_slice(&identity.inode.to_le_bytes());
        }
        bytes.extend_from_slice(&(self.words.len() as u64).to_le_bytes());
        for word in &self.words {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        let digest = Sha256::digest(&bytes);
        bytes.extend_from_slice(&digest);
        bytes
    }

    /// Returns `None` for anything that [`Self::encode`] did not write completely.
    fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, digest) = bytes.split_at_checked(bytes.len().checked_sub(DIGEST)?)?;
        if Sha256::digest(body).as_slice() != digest {
            return None;
        }
        let mut rest = body;
        if take::<8>(&mut rest)? != *MAGIC {
            return None;
        }
        let torrent = InfoHashV2::from_bytes(take(&mut rest)?);
        let epoch = u64::from_le_bytes(take(&mut rest)?);
        let sealed = take::<1>(&mut rest)? == [1];
        let files = u32::from_le_bytes(take(&mut rest)?);
        let mut identities = Vec::new();
        for _ in 0..files {
            identities.push(Identity {
                length: u64::from_le_bytes(take(&mut rest)?),
                modified: i128::from_le_bytes(take(&mut rest)?),
                inode: u64::from_le_bytes(take(&mut rest)?),
            });
        }
        let words = usize::try_from(u64::from_le_bytes(take(&mut rest)?)).ok()?;
        if rest.len() != words.checked_mul(8)? {
            return None;
        }
        let words = rest
            .chunks_exact(8)
            .map(|word| word.try_into().map(u64::from_le_bytes))
            .collect::<Result<_, _>>()
            .ok()?;
        Some(Self {
            torrent,
            epoch,
            sealed,
            identities,
            words,
        })
    }

    /// Returns whether a block is claimed, given by number.
    pub(crate) fn claims(&self, number: u64) -> bool {
        let word = self.words.get((number / 64) as usize);
        self.sealed || word.is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    /// Reads the claims; `None` if they are missing or damaged: then nothing is claimed.
    pub(crate) fn read(paths: &Paths, io: &dyn Io) -> Result<Option<Self>, StoreError> {
        let path = paths.progress();
        let Some(bytes) = read_whole(io, &path, MAX_LENGTH)? else {
            return Ok(None);
        };
        Ok(Self::decode(&bytes))
    }

    /// Replaces the claims, durably.
    pub(crate) fn write(&self, paths: &Paths, io: &dyn Io) -> Result<(), StoreError> {
        replace(io, paths, &paths.progress(), &self.encode())
    }
}

/// Returns the number of blocks that the generation in `dir` claims; `None` if the claims are
/// missing or damaged, or if it is sealed. Writes nothing, so that other processes may have it
/// open.
///
/// # Errors
///
/// When the claims exist and cannot be read.
pub fn claimed_blocks(dir: &Path, io: &dyn Io) -> Result<Option<u64>, StoreError> {
    let record = ClaimsRecord::read(&Paths::new(dir), io)?;
    let partial = record.filter(|record| !record.sealed);
    Ok(partial.map(|record| {
        let ones = record.words.iter().map(|word| word.count_ones());
        ones.map(u64::from).sum()
    }))
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sample() -> ClaimsRecord {
        ClaimsRecord {
            torrent: InfoHashV2::from_bytes([7; 32]),
            epoch: 3,
            sealed: false,
            identities: vec![Identity {
                length: 5,
                modified: -1,
                inode: 9,
            }],
            words: vec![1, u64::MAX],
        }
    }

    #[test]
    fn claims_survive_and_damage_of_any_byte_is_noticed() {
        let bytes = sample().encode();
        assert_eq!(ClaimsRecord::decode(&bytes), Some(sample()));
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert_eq!(ClaimsRecord::decode(&damaged), None, "byte {at}");
            assert_eq!(ClaimsRecord::decode(&bytes[..at]), None, "cut at {at}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = ClaimsRecord::decode(&bytes);
        }
    }
}
