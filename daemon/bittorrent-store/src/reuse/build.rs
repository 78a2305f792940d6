//! Builds the index of leaf hashes with bounded memory.
//!
//! Sorting by selection: each pass over all leaf hashes picks the smallest ones that are not in the
//! file yet, as many as fit into memory, sorts them and appends them. There are no intermediate
//! files. The distribution of the hashes affects the number of passes, never the memory.

use std::collections::HashSet;
use std::io::IoSlice;
use std::path::Path;
use std::sync::Arc;

use bittorrent_protocol::{BLOCK_LEN, MerkleHash, merkle};

use super::index::{BUCKETS, ENTRY, Entry, HEADER, header, path};
use super::sealed;
use crate::disk::io::{Io, IoFile, OpenMode};
use crate::error::{Operation, StoreError};
use crate::store::TorrentStore;

/// Memory for sorting, in bytes.
pub(super) const MEMORY: usize = 64 << 20;

/// Leaf hashes read at once: 256 KiB of them.
const CHUNK: u64 = 8192;

/// Builds the index of all sealed generations, with `memory` bytes to sort in. After a crash the
/// old or the new index is there.
pub(super) fn build(
    scratch: &Path,
    io: &dyn Io,
    generations: &[Arc<TorrentStore>],
    memory: usize,
    go_on: &dyn Fn() -> bool,
) -> Result<(), StoreError> {
    io.create_dir_all(scratch)
        .map_err(StoreError::io(Operation::CreateDirectory, scratch))?;
    let target = path(scratch);
    let fresh = target.with_extension("new");
    let file = io
        .open(&fresh, OpenMode::Replace)
        .map_err(StoreError::io(Operation::Create, &fresh))?;
    let mut output = Output {
        path: &fresh,
        file: &*file,
        counts: vec![0; BUCKETS],
        written: 0,
    };
    let total: u64 = sealed(generations)
        .map(|(_, store)| store.total_blocks())
        .sum();
    let most = (memory / size_of::<Entry>()).max(2);
    let mut chosen = Vec::with_capacity(most.min(usize::try_from(total).unwrap_or(most)));
    let mut least = 0;
    loop {
        let limit = select(generations, &mut chosen, most, total, least, go_on)?;
        output.append(&chosen)?;
        let Some(limit) = limit else { break };
        least = limit;
    }
    let ends: Vec<u64> = output
        .counts
        .iter()
        .scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        })
        .collect();
    file.write_all_at(&mut [IoSlice::new(&header(generations, &ends))], 0)
        .map_err(StoreError::io(Operation::Write, &fresh))?;
    file.sync_data()
        .map_err(StoreError::io(Operation::Sync, &fresh))?;
    io.rename(&fresh, &target)
        .map_err(StoreError::io(Operation::Rename, &fresh))?;
    io.sync_dir(scratch)
        .map_err(StoreError::io(Operation::Sync, scratch))
}

/// Picks the entries from a key on, in order, each key once, as many as fit. Returns the key from
/// which there may be more.
fn select(
    generations: &[Arc<TorrentStore>],
    chosen: &mut Vec<Entry>,
    most: usize,
    total: u64,
    least: u64,
    go_on: &dyn Fn() -> bool,
) -> Result<Option<u64>, StoreError> {
    chosen.clear();
    // Hashes are spread evenly, apart from repeated blocks, so a good guess saves passes.
    let share = u128::from(u64::MAX) * (most as u128 * 15 / 16) / u128::from(total.max(1));
    let mut limit = u64::try_from(u128::from(least) + share.max(1)).ok();
    scan(
        generations,
        &mut |entry| {
            let key = entry.key();
            if key < least || limit.is_some_and(|limit| key >= limit) {
                return;
            }
            if chosen.len() == most {
                sort(chosen);
                // Removing repeated hashes may free memory.
                if chosen.len() > most / 2 {
                    limit = chosen.get(most / 2).map(|entry| entry.key());
                    chosen.truncate(most / 2);
                    if limit.is_some_and(|limit| key >= limit) {
                        return;
                    }
                }
            }
            chosen.push(entry);
        },
        go_on,
    )?;
    sort(chosen);
    Ok(limit)
}

fn sort(chosen: &mut Vec<Entry>) {
    chosen.sort_unstable();
    chosen.dedup_by_key(|entry| entry.key());
}

/// Passes all leaf hashes to `each` that are worth finding.
fn scan(
    generations: &[Arc<TorrentStore>],
    each: &mut dyn FnMut(Entry),
    go_on: &dyn Fn() -> bool,
) -> Result<(), StoreError> {
    let zeros = merkle::leaf(&[0; BLOCK_LEN as usize]);
    let mut seen = HashSet::new();
    for (generation, store) in sealed(generations) {
        let layout = store.layout();
        for (number, span) in (0..).zip(layout.files()) {
            // Of files that several generations share, one is enough.
            let fresh = span.root().is_some_and(|root| seen.insert(root));
            let Some(file) = layout.file_index(number).filter(|_| fresh) else {
                continue;
            };
            let start = store.files().numbers(file).start;
            let mut first = 0;
            while first < span.blocks() {
                if !go_on() {
                    return Err(StoreError::Cancelled);
                }
                let count = CHUNK.min(span.blocks() - first);
                let leaves = store.files().stored_leaves(file, first, count as usize)?;
                for (number, leaf) in (start + first..).zip(&leaves) {
                    // `ZERO` means that no hash was stored.
                    if *leaf != MerkleHash::ZERO && *leaf != zeros {
                        each(Entry::new(leaf, generation, number));
                    }
                }
                first += count;
            }
        }
    }
    Ok(())
}

struct Output<'a> {
    path: &'a Path,
    file: &'a dyn IoFile,
    counts: Vec<u64>,
    written: u64,
}

impl Output<'_> {
    fn append(&mut self, entries: &[Entry]) -> Result<(), StoreError> {
        for some in entries.chunks(CHUNK as usize) {
            let mut bytes = Vec::with_capacity(some.len() * ENTRY);
            for entry in some {
                bytes.extend_from_slice(&entry.encode());
                if let Some(count) = self.counts.get_mut(entry.bucket()) {
                    *count += 1;
                }
            }
            let offset = HEADER as u64 + self.written;
            self.file
                .write_all_at(&mut [IoSlice::new(&bytes)], offset)
                .map_err(StoreError::io(Operation::Write, self.path))?;
            self.written += bytes.len() as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bittorrent_protocol::PieceLength;
    use bittorrent_protocol::metainfo::{HashedContent, MetainfoBuilder};

    use super::*;
    use crate::testing::{Dice, ForgetfulDisk};

    /// A sealed generation with these leaf hashes, and no content.
    fn generation(disk: &ForgetfulDisk, name: &str, leaves: &[MerkleHash]) -> Arc<TorrentStore> {
        let piece_length = PieceLength::DEFAULT;
        let metainfo = MetainfoBuilder::new(name, piece_length)
            .single_file(HashedContent {
                length: leaves.len() as u64 * u64::from(BLOCK_LEN),
                root: Some(merkle::file_root_from_leaves(leaves)),
                layer: merkle::piece_layer_from_leaves(leaves, piece_length),
                ..HashedContent::default()
            })
            .build()
            .unwrap();
        let dir = Path::new("/").join(name);
        let store = TorrentStore::create(&dir, &metainfo, disk.io()).unwrap();
        for (piece, leaves) in (0..).zip(leaves.chunks(piece_length.blocks() as usize)) {
            let piece = store.layout().piece(piece).unwrap();
            store.mark_verified(piece, 0, leaves).unwrap();
        }
        store.finish().unwrap();
        Arc::new(store)
    }

    #[test]
    fn the_index_is_the_same_whatever_the_memory() {
        let mut dice = Dice::new(3);
        let mut leaf = |spread: u64| {
            let mut bytes = [7; 32];
            bytes[..8].copy_from_slice(&dice.below(spread).to_be_bytes());
            MerkleHash::from_bytes(bytes)
        };
        // Evenly spread; close to each other; few that stand at many positions.
        let mut even: Vec<_> = (0..500).map(|_| leaf(u64::MAX)).collect();
        let close: Vec<_> = (0..300).map(|_| leaf(1 << 12)).collect();
        let mut same: Vec<_> = (0..400).map(|_| leaf(3)).collect();
        even[9] = MerkleHash::ZERO;
        same[5] = merkle::leaf(&[0; BLOCK_LEN as usize]);
        same.extend_from_slice(&even[..50]);
        let disk = ForgetfulDisk::new();
        let generations = [("even", even), ("close", close), ("same", same)]
            .map(|(name, leaves)| generation(&disk, name, &leaves));
        let built = |memory: usize| {
            let target = format!("/scratch{memory}");
            let io = disk.io();
            build(Path::new(&target), &*io, &generations, memory, &|| true).unwrap();
            disk.read(&path(Path::new(&target))).unwrap()
        };
        let whole = built(MEMORY);
        let (entries, rest) = whole[HEADER..].as_chunks::<ENTRY>();
        assert!(rest.is_empty());
        let keys: HashSet<&[u8]> = entries.iter().map(|entry| &entry[..6]).collect();
        assert!(keys.len() > 499 && entries.len() < 820, "{}", entries.len());
        for memory in [0, 50, 16 * 64, 16 * 800, 16 * 2000] {
            assert!(built(memory) == whole, "{memory}");
        }
        let stopped = build(Path::new("/x"), &*disk.io(), &generations, MEMORY, &|| {
            false
        });
        assert!(matches!(stopped, Err(StoreError::Cancelled)));
        assert!(!disk.files().contains(&path(Path::new("/x"))));
    }
}
