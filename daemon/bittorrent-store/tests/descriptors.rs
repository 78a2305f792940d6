//! A torrent may have more files than a process may have descriptors. A process of its own: the limit is
//! the process's.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use bittorrent_protocol::PieceIndex;
use bittorrent_store::{RealIo, ReuseSources, ScrubCursor, StoreError, TorrentStore};
use common::{BLOCK, Sample, salted};
use rustix::process::{Resource, Rlimit, setrlimit};

const FILES: usize = 5_000;
const LIMIT: u64 = 256;

fn sample() -> Sample {
    let files: Vec<(String, Vec<u8>)> = (0..FILES)
        .map(|number| {
            // Every tenth has leaf hashes of its own.
            let length = if number % 10 == 0 { BLOCK + 9 } else { 40 };
            let mut bytes = salted(length, number as u8);
            bytes[8..16].copy_from_slice(&(number as u64).to_le_bytes());
            (format!("d{}/{number:05}", number / 1000), bytes)
        })
        .collect();
    let files: Vec<_> = files
        .iter()
        .map(|(path, bytes)| (path.as_str(), bytes.clone()))
        .collect();
    Sample::directory(2 * BLOCK, &files)
}

/// In memory where there is such a place: five thousand syncs of a real disk take long.
fn place() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    tempfile::tempdir_in(memory).unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

#[test]
fn five_thousand_files_need_few_descriptors() {
    let limit = Rlimit {
        current: Some(LIMIT),
        maximum: Some(LIMIT),
    };
    setrlimit(Resource::Nofile, limit).unwrap();
    let sample = sample();
    let dir = place();
    let (old, new) = (dir.path().join("old"), dir.path().join("new"));
    let store = sample.create(&old, Arc::new(RealIo));
    sample.complete(&store);
    drop(store);

    let (store, recovery) = TorrentStore::open(&old, Arc::new(RealIo)).unwrap();
    assert_eq!(recovery.blocks_claimed, store.total_blocks());
    assert!(store.is_sealed() && !recovery.claims_lost);

    // Who sends from a file keeps it, whatever else is opened meanwhile.
    let pieces: Vec<PieceIndex> = sample.layout().piece_indices().collect();
    let read = |piece| {
        let mut bytes = vec![0; sample.layout().piece_size(piece) as usize];
        store.read(piece, 0, &mut bytes).unwrap();
        bytes
    };
    assert!(store.extent(pieces[0], 0, 40).is_none(), "opened long ago");
    let kept: Vec<_> = pieces[..70]
        .iter()
        .map(|piece| {
            read(*piece);
            (*piece, store.extent(*piece, 0, 40))
        })
        .collect();
    for piece in &pieces {
        let good = sample.bytes(sample.layout().block(*piece, 0).unwrap());
        assert!(read(*piece).starts_with(&good));
    }
    // Once as many are in use as the table holds, others are not kept open for the next.
    let in_use = kept.iter().filter(|(_, extent)| extent.is_some()).count();
    assert_eq!(in_use, 64);
    for (piece, extent) in &kept {
        let Some(extent) = extent else { continue };
        let mut bytes = vec![0; extent.content as usize];
        let file = rustix::io::dup(&extent.file).unwrap();
        let file = std::fs::File::from(file);
        file.read_exact_at(&mut bytes, extent.offset).unwrap();
        assert!(read(*piece).starts_with(&bytes));
    }
    drop(kept);
    let open = std::fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(open < 200, "{open} descriptors");

    // Without a free descriptor nothing is read, and nothing counts as damaged.
    let mut taken = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        taken.push(file);
    }
    let piece = pieces[2_000];
    let busy = store.read(piece, 0, &mut [0]).unwrap_err();
    assert!(busy.is_busy() && !busy.is_out_of_space(), "{busy:?}");
    let mut cursor = ScrubCursor::at(piece.get());
    assert!(store.scrub_slice(&mut cursor, 1).unwrap_err().is_busy());
    assert_eq!(cursor.piece(), piece.get());
    drop(taken);
    assert!(store.recheck_unreadable().unwrap().is_empty());
    assert!(store.is_complete() && store.is_sealed());
    read(piece);

    // A file that takes another's place is not read as if it were that one.
    let stranger = store.file_path(sample.layout().file_index(4_000).unwrap());
    let aside = stranger.with_extension("aside");
    std::fs::copy(&stranger, &aside).unwrap();
    std::fs::rename(&aside, &stranger).unwrap();
    let replaced = store.read(
        sample
            .layout()
            .file(sample.layout().file_index(4_000).unwrap())
            .piece_indices()
            .next()
            .unwrap(),
        0,
        &mut [0],
    );
    assert!(matches!(replaced, Err(StoreError::Replaced { path }) if path == stranger));

    // Everything but that comes from the old generation.
    let sources = ReuseSources::new(vec![Arc::new(store)]);
    let (store, _) = sources
        .create(&new, &sample.meta, Arc::new(RealIo))
        .unwrap();
    for piece in &pieces {
        for (block, leaf) in sources.reuse_blocks(&store, *piece, None).unwrap() {
            store
                .mark_verified(block.piece(), block.in_piece(), &[leaf])
                .unwrap();
        }
    }
    assert_eq!(store.total_blocks() - store.verified_blocks(), 2);
    sample.complete(&store);
    sample.check_verified(&store).unwrap();
}
