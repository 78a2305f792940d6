//! What was verified since the last checkpoint, block by block.
//!
//! The journal is not synced. It serves after a kill, when the kernel still has the writes of the
//! process. Each record has its epoch and a checksum, so that torn and stale records are skipped. A
//! block that it names is hashed again before it counts. The checksum covers the info-hash too,
//! because a power failure may leave bytes of another file in the journal.
//!
//! ```text
//! epoch 8 · block number 8 · leaf 32 · the first 8 bytes of SHA-256(v2 info-hash · all before)
//! ```

use std::io::IoSlice;
use std::sync::Arc;

use bittorrent_protocol::{InfoHashV2, MerkleHash};
use sha2::{Digest as _, Sha256};

use crate::disk::io::{Io, IoFile, OpenMode};
use crate::disk::paths::Paths;
use crate::disk::whole_file::read_whole;
use crate::error::{Operation, StoreError};

const RECORD: usize = 56;
const CHECK: usize = 8;

/// The most bytes that are read of a journal: the windows of many failed checkpoints.
const MAX_LENGTH: u64 = 1 << 30;

/// The journal of one epoch, being written.
#[derive(Debug)]
pub(crate) struct Journal {
    file: Arc<dyn IoFile>,
    torrent: InfoHashV2,
    epoch: u64,
    end: u64,
}

impl Journal {
    /// Starts the journal of an epoch, over that of the epoch before the last.
    pub(crate) fn start(
        paths: &Paths,
        io: &dyn Io,
        torrent: InfoHashV2,
        epoch: u64,
    ) -> Result<Self, StoreError> {
        let path = paths.journal(epoch);
        let file = io
            .open(&path, OpenMode::Replace)
            .map_err(StoreError::io(Operation::Create, &path))?;
        Ok(Self {
            file,
            torrent,
            epoch,
            end: 0,
        })
    }

    pub(crate) const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Appends records of blocks, given by number.
    pub(crate) fn append(
        &mut self,
        paths: &Paths,
        blocks: &[(u64, MerkleHash)],
    ) -> Result<(), StoreError> {
        let mut bytes = Vec::with_capacity(blocks.len() * RECORD);
        for (number, leaf) in blocks {
            let start = bytes.len();
            bytes.extend_from_slice(&self.epoch.to_le_bytes());
            bytes.extend_from_slice(&number.to_le_bytes());
            bytes.extend_from_slice(leaf.as_bytes());
            let check = check(self.torrent, &bytes[start..]);
            bytes.extend_from_slice(&check);
        }
        self.file
            .write_all_at(&mut [IoSlice::new(&bytes)], self.end)
            .map_err(StoreError::io(Operation::Write, &paths.journal(self.epoch)))?;
        self.end += bytes.len() as u64;
        Ok(())
    }
}

/// Returns the blocks in the journals of this epoch or later ones, by number, with their leaves. A
/// block may occur more than once.
pub(crate) fn replay(
    paths: &Paths,
    io: &dyn Io,
    torrent: InfoHashV2,
    least_epoch: u64,
) -> Result<Vec<(u64, MerkleHash)>, StoreError> {
    let mut found = Vec::new();
    for turn in 0..2 {
        let Some(bytes) = read_whole(io, &paths.journal(turn), MAX_LENGTH)? else {
            continue;
        };
        for record in bytes.chunks_exact(RECORD) {
            if let Some((epoch, number, leaf)) = read(record, torrent)
                && epoch >= least_epoch
            {
                found.push((number, leaf));
            }
        }
    }
    Ok(found)
}

fn read(record: &[u8], torrent: InfoHashV2) -> Option<(u64, u64, MerkleHash)> {
    let (body, found) = record.split_at_checked(RECORD - CHECK)?;
    if check(torrent, body) != found {
        return None;
    }
    let (epoch, rest) = body.split_first_chunk::<8>()?;
    let (number, leaf) = rest.split_first_chunk::<8>()?;
    Some((
        u64::from_le_bytes(*epoch),
        u64::from_le_bytes(*number),
        MerkleHash::from_slice(leaf)?,
    ))
}

fn check(torrent: InfoHashV2, body: &[u8]) -> [u8; CHECK] {
    let digest = Sha256::new()
        .chain_update(torrent.as_bytes())
        .chain_update(body)
        .finalize();
    std::array::from_fn(|n| digest[n])
}

/// Empties the journals, whose blocks must not be tried any more.
pub(crate) fn discard(paths: &Paths, io: &dyn Io) -> Result<(), StoreError> {
    (0..2).try_for_each(|turn| {
        let path = paths.journal(turn);
        io.open(&path, OpenMode::Replace)
            .map(drop)
            .map_err(StoreError::io(Operation::Empty, &path))
    })
}

/// Removes the journals of a sealed generation.
pub(crate) fn remove(paths: &Paths, io: &dyn Io) -> Result<(), StoreError> {
    for turn in 0..2 {
        let path = paths.journal(turn);
        match io.remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(StoreError::io(Operation::Remove, &path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}
