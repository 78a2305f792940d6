//! The index from leaf hashes to blocks of generations: a sorted file, searched in place.
//!
//! ```text
//! magic 8 · SHA-256 of what it was made of 32 · (entries up to bucket n 8)*
//! · (bytes 2 to 8 of a leaf hash · generation 1 · block number 5)*
//! ```
//! The bucket of an entry is the first two bytes of its hash. All integers are big-endian, so that
//! entries sort as bytes. An entry is only a hint: the block is hashed before it is used. So a
//! damaged index costs reuse and nothing else.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bittorrent_protocol::MerkleHash;
use sha2::{Digest as _, Sha256};

use super::{beginning, sealed};
use crate::disk::io::{Io, IoFile, OpenMode, read_full};
use crate::error::{Operation, StoreError};
use crate::store::TorrentStore;

const MAGIC: &[u8; 8] = b"btreuse\x01";
pub(super) const BUCKETS: usize = 1 << 16;
pub(super) const HEADER: usize = MAGIC.len() + 32 + BUCKETS * 8;
pub(super) const ENTRY: usize = 12;

/// Entries that are read at once. In a larger bucket a binary search comes first.
const RUN: u64 = 512;

/// The first bytes of a leaf hash, and the position of a block with it. Sorts as the file does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Entry(u128);

impl Entry {
    pub(super) fn new(leaf: &MerkleHash, generation: usize, number: u64) -> Self {
        let position = (generation as u64 & 0xff) << 40 | number & 0xff_ffff_ffff;
        Self(u128::from(beginning(leaf)) << 48 | u128::from(position))
    }

    /// Returns the first bytes of the leaf hash.
    pub(super) const fn key(self) -> u64 {
        (self.0 >> 48) as u64
    }

    pub(super) const fn bucket(self) -> usize {
        (self.0 >> 96) as usize
    }

    pub(super) fn encode(self) -> [u8; ENTRY] {
        let bytes = self.0.to_be_bytes();
        std::array::from_fn(|n| bytes[n + 4])
    }
}

/// An index that is complete.
#[derive(Debug)]
pub(super) struct LeafIndex {
    path: PathBuf,
    file: Arc<dyn IoFile>,
    /// The number of entries up to each bucket.
    ends: Vec<u64>,
}

pub(super) fn path(scratch: &Path) -> PathBuf {
    scratch.join("leaf-index")
}

/// The header of an index of generations.
pub(super) fn header(generations: &[Arc<TorrentStore>], ends: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER);
    bytes.extend_from_slice(MAGIC);
    let mut digest = Sha256::new();
    for (number, store) in sealed(generations) {
        digest.update([number as u8]);
        digest.update(store.info().hashes().v2.as_bytes());
    }
    bytes.extend_from_slice(&digest.finalize());
    for end in ends {
        bytes.extend_from_slice(&end.to_be_bytes());
    }
    bytes
}

impl LeafIndex {
    /// Opens the index in a directory, if it was built of these generations.
    pub(super) fn open(
        scratch: &Path,
        io: &dyn Io,
        generations: &[Arc<TorrentStore>],
    ) -> Result<Option<Self>, StoreError> {
        let path = path(scratch);
        let file = match io.open(&path, OpenMode::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io(Operation::Open, &path)(error)),
        };
        let mut found = vec![0; HEADER];
        let read =
            read_full(&*file, &mut found, 0).map_err(StoreError::io(Operation::Read, &path))?;
        let expected = header(generations, &[]);
        let Some((start, ends)) = found.split_at_checked(expected.len()) else {
            return Ok(None);
        };
        if read < HEADER || start != expected {
            return Ok(None);
        }
        let (ends, _) = ends.as_chunks::<8>();
        let ends: Vec<u64> = ends.iter().map(|end| u64::from_be_bytes(*end)).collect();
        let length = file
            .identity()
            .map_err(StoreError::io(Operation::Inspect, &path))?
            .length;
        let entries = ends.last().copied().unwrap_or(0);
        let whole = entries.checked_mul(ENTRY as u64) == length.checked_sub(HEADER as u64);
        Ok((whole && ends.is_sorted()).then_some(Self { path, file, ends }))
    }

    /// Returns generation and number of blocks that may have these leaf hashes.
    pub(super) fn find(
        &self,
        leaves: &[MerkleHash],
    ) -> Result<Vec<Option<(usize, u64)>>, StoreError> {
        let mut order: Vec<usize> = (0..leaves.len()).collect();
        // From the beginning of the file to its end.
        order.sort_unstable_by_key(|n| leaves.get(*n).map(beginning));
        let mut found = vec![None; leaves.len()];
        let mut buffer = vec![0; RUN as usize * ENTRY];
        for n in order {
            if let (Some(leaf), Some(slot)) = (leaves.get(n), found.get_mut(n)) {
                *slot = self.find_one(leaf, &mut buffer)?;
            }
        }
        Ok(found)
    }

    fn find_one(
        &self,
        leaf: &MerkleHash,
        buffer: &mut [u8],
    ) -> Result<Option<(usize, u64)>, StoreError> {
        let wanted = Entry::new(leaf, 0, 0);
        let bucket = wanted.bucket();
        let before = bucket.checked_sub(1).and_then(|n| self.ends.get(n));
        let mut first = before.copied().unwrap_or(0);
        let mut end = self.ends.get(bucket).copied().unwrap_or(0);
        let key = &wanted.encode()[..6];
        while end - first > RUN {
            let middle = first + (end - first) / 2;
            let entry = self.read(middle, 1, buffer)?;
            if entry.get(..6).is_some_and(|found| found <= key) {
                first = middle;
            } else {
                end = middle;
            }
        }
        let entries = self.read(first, end - first, buffer)?;
        let (entries, _) = entries.as_chunks::<ENTRY>();
        let at = entries.partition_point(|entry| entry[..6] < *key);
        let entry = entries.get(at).filter(|entry| entry[..6] == *key);
        Ok(entry.map(|entry| {
            let number = entry[7..]
                .iter()
                .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
            (usize::from(entry[6]), number)
        }))
    }

    /// Reads at most [`RUN`] entries.
    fn read<'b>(
        &self,
        first: u64,
        count: u64,
        buffer: &'b mut [u8],
    ) -> Result<&'b [u8], StoreError> {
        let length = buffer.len().min(count as usize * ENTRY);
        let wanted = buffer.split_at_mut(length).0;
        let read = read_full(&*self.file, wanted, HEADER as u64 + first * ENTRY as u64)
            .map_err(StoreError::io(Operation::Read, &self.path))?;
        Ok(wanted.split_at(read).0)
    }
}
