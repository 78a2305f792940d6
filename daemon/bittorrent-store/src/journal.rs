//! What was verified since the last checkpoint, block by block.
//!
//! The journal is not synced: it is there for a process that was killed, whose writes the kernel
//! still has. Each record carries its epoch and a checksum, so that torn and stale ones are
//! passed over, and what it names is hashed again before it counts.
//!
//! ```text
//! epoch 8 · block number 8 · leaf 32 · the first 8 bytes of the SHA-256 of all before
//! ```

use std::io::IoSlice;
use std::sync::Arc;

use bittorrent_protocol::MerkleHash;
use sha2::{Digest as _, Sha256};

use crate::error::StoreError;
use crate::io::{Io, IoFile, OpenMode};
use crate::paths::Paths;
use crate::progress::read_whole;

const RECORD: usize = 56;

/// The journal of one epoch, being written.
#[derive(Debug)]
pub(crate) struct Journal {
    file: Arc<dyn IoFile>,
    epoch: u64,
    end: u64,
}

impl Journal {
    /// Starts the journal of an epoch; that of the epoch before the last is overwritten.
    pub(crate) fn start(paths: &Paths, io: &dyn Io, epoch: u64) -> Result<Self, StoreError> {
        let path = paths.journal(epoch);
        let file = io
            .open(&path, OpenMode::Replace)
            .map_err(StoreError::io("create", &path))?;
        Ok(Self {
            file,
            epoch,
            end: 0,
        })
    }

    pub(crate) const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Adds records for blocks whose numbers follow each other.
    pub(crate) fn append(
        &mut self,
        paths: &Paths,
        first_number: u64,
        leaves: &[MerkleHash],
    ) -> Result<(), StoreError> {
        let mut bytes = Vec::with_capacity(leaves.len() * RECORD);
        for (number, leaf) in (first_number..).zip(leaves) {
            let start = bytes.len();
            bytes.extend_from_slice(&self.epoch.to_le_bytes());
            bytes.extend_from_slice(&number.to_le_bytes());
            bytes.extend_from_slice(leaf.as_bytes());
            let check = Sha256::digest(&bytes[start..]);
            bytes.extend_from_slice(&check[..8]);
        }
        self.file
            .write_all_at(&mut [IoSlice::new(&bytes)], self.end)
            .map_err(StoreError::io("write", &paths.journal(self.epoch)))?;
        self.end += bytes.len() as u64;
        Ok(())
    }
}

/// The blocks that the journals name for this epoch or later ones, with their leaves.
pub(crate) fn replay(
    paths: &Paths,
    io: &dyn Io,
    epoch: u64,
) -> Result<Vec<(u64, MerkleHash)>, StoreError> {
    let mut found = Vec::new();
    for turn in 0..2 {
        if let Some(bytes) = read_whole(io, &paths.journal(turn))? {
            found.extend(
                bytes
                    .chunks_exact(RECORD)
                    .filter_map(|record| read(record, epoch)),
            );
        }
    }
    Ok(found)
}

fn read(record: &[u8], least_epoch: u64) -> Option<(u64, MerkleHash)> {
    let (body, check) = record.split_at_checked(RECORD - 8)?;
    if Sha256::digest(body).get(..8) != Some(check) {
        return None;
    }
    let (epoch, rest) = body.split_first_chunk::<8>()?;
    let (number, leaf) = rest.split_first_chunk::<8>()?;
    (u64::from_le_bytes(*epoch) >= least_epoch)
        .then_some((u64::from_le_bytes(*number), MerkleHash::from_slice(leaf)?))
}

/// Removes the journals: nothing is being written any more.
pub(crate) fn remove(paths: &Paths, io: &dyn Io) -> Result<(), StoreError> {
    for turn in 0..2 {
        let path = paths.journal(turn);
        match io.remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::io("remove", &path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}
