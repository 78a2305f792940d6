//! Content of every awkward size comes back as it went in.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::fs;
use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::sync::Arc;

use bittorrent_protocol::metainfo::{HashedContent, MetainfoBuilder};
use bittorrent_protocol::{BlockIndex, PieceLength, merkle};
use bittorrent_store::{Extent, RealIo, StoreError, TorrentStore};
use bytes::Bytes;
use common::{BLOCK, Sample, content, hashed, salted};

const PIECE_LENGTHS: [u64; 3] = [BLOCK, 4 * BLOCK, 64 * BLOCK];

fn lengths(piece_length: u64) -> Vec<u64> {
    let mut lengths = vec![1, BLOCK - 1, BLOCK, BLOCK + 1];
    lengths.extend([piece_length - 1, piece_length, piece_length + 1]);
    lengths.extend([2 * piece_length, 3 * piece_length + BLOCK + 1]);
    lengths.sort_unstable();
    lengths.dedup();
    lengths
}

/// One file of each length, and all of them with empty ones between.
fn samples() -> Vec<Sample> {
    let mut samples = Vec::new();
    for piece_length in PIECE_LENGTHS {
        let lengths = lengths(piece_length);
        for length in &lengths {
            samples.push(Sample::single(piece_length, salted(*length, 1)));
        }
        let names: Vec<(String, u64)> = (0..)
            .zip(&lengths)
            .flat_map(|(number, length)| {
                [
                    (format!("{number:02}/content"), *length),
                    (format!("{number:02}/empty"), 0),
                ]
            })
            .collect();
        let files: Vec<(&str, Vec<u8>)> = (1..)
            .zip(&names)
            .map(|(salt, (name, length))| (name.as_str(), salted(*length, salt)))
            .collect();
        samples.push(Sample::directory(piece_length, &files));
    }
    samples
}

fn bytes_of(extent: &Extent) -> Vec<u8> {
    let file = File::from(extent.file.as_fd().try_clone_to_owned().unwrap());
    let mut bytes = vec![0; extent.content as usize];
    file.read_exact_at(&mut bytes, extent.offset).unwrap();
    bytes.resize(bytes.len() + extent.zeros as usize, 0);
    bytes
}

#[test]
fn every_size_comes_back() {
    for sample in samples() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("snapshot");
        let store = sample.create(&place, Arc::new(RealIo));
        let case = format!(
            "{:?} in pieces of {}",
            sample.contents.iter().map(Vec::len).collect::<Vec<_>>(),
            sample.layout().piece_length(),
        );
        assert_eq!(store.total_blocks(), sample.blocks.len() as u64, "{case}");
        for (number, bytes) in (0..).zip(&sample.contents) {
            let path = store.file_path(sample.layout().file_index(number).unwrap());
            let found = fs::metadata(path).unwrap();
            assert_eq!((found.len(), found.blocks()), (bytes.len() as u64, 0));
        }

        // In an order that makes runs of several lengths.
        let mut batch: Vec<BlockIndex> = sample.blocks.clone();
        batch.rotate_left(sample.blocks.len() / 3);
        sample.write(&store, &batch).unwrap();
        assert_eq!(store.verified_blocks(), 0);
        for piece in sample.layout().piece_indices() {
            store
                .mark_verified(piece, 0, &sample.leaves(piece))
                .unwrap();
        }
        store.finish().unwrap();
        drop(store);

        let (store, recovery) = TorrentStore::open(&place, Arc::new(RealIo)).unwrap();
        assert_eq!(recovery.blocks_claimed, store.total_blocks(), "{case}");
        assert!(store.is_sealed() && store.is_complete(), "{case}");
        assert_eq!(store.missing_bytes(), 0);
        assert_eq!(store.verified().count(), store.total_blocks());
        for (number, bytes) in (0..).zip(&sample.contents) {
            let path = store.file_path(sample.layout().file_index(number).unwrap());
            assert_eq!(fs::read(&path).unwrap(), *bytes, "{case}");
            let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
            assert!(bytes.is_empty() || mode == 0o444, "{case}: {mode:o}");
        }
        sample.check_verified(&store).unwrap();
    }
}

#[test]
fn what_is_past_the_content_of_a_piece_reads_as_zeros() {
    for sample in samples() {
        let dir = tempfile::tempdir().unwrap();
        let store = sample.create(&dir.path().join("s"), Arc::new(RealIo));
        sample.fill(&store, &sample.blocks);
        let layout = sample.layout();
        let whole = layout.piece_length().bytes();
        for piece in layout.piece_indices() {
            let file = &sample.contents[layout.file_of(piece).as_usize()];
            let start = layout.offset_in_file(piece) as usize;
            let size = layout.piece_size(piece);
            let mut expected = file[start..start + size as usize].to_vec();
            expected.resize(whole as usize, 0);
            let begins = [0, 1, size - 1, size.min(whole - 1), size / 2, whole - 1];
            for begin in begins {
                for length in [1, 2, whole - begin, (whole - begin).min(16_384)] {
                    let length = length.min(whole - begin);
                    let asked = &expected[begin as usize..(begin + length) as usize];
                    let mut buffer = vec![0xaa; length as usize];
                    store.read(piece, begin, &mut buffer).unwrap();
                    assert_eq!(buffer, asked, "{piece} {begin} {length}");
                    let extent = store.extent(piece, begin, length).unwrap();
                    assert_eq!(extent.content + extent.zeros, length);
                    assert_eq!(bytes_of(&extent), asked, "{piece} {begin} {length}");
                    assert!(store.is_range_verified(piece, begin, length));
                }
            }
            assert!(!store.is_range_verified(piece, 1, whole));
            assert!(!store.is_range_verified(piece, u32::MAX, u32::MAX));
        }
    }
}

#[test]
fn a_range_is_verified_when_each_of_its_blocks_is() {
    let sample = Sample::single(4 * BLOCK, salted(6 * BLOCK + 1, 1));
    let dir = tempfile::tempdir().unwrap();
    let store = sample.create(&dir.path().join("s"), Arc::new(RealIo));
    sample.fill(&store, &[sample.blocks[1], sample.blocks[6]]);
    let layout = sample.layout();
    let (first, second) = (layout.piece(0).unwrap(), layout.piece(1).unwrap());
    let block = BLOCK as u32;
    for (piece, begin, length, verified) in [
        (first, block, block, true),
        (first, block + 5, 1, true),
        (first, block - 1, 2, false),
        (first, 2 * block - 1, 1, true),
        (first, 2 * block - 1, 2, false),
        (first, 0, 4 * block, false),
        // The last block has one byte; the rest of the piece is padding.
        (second, 2 * block, 1, true),
        (second, 2 * block, 2 * block, true),
        (second, 3 * block, block, true),
        (second, 2 * block - 1, 2, false),
        (second, 3 * block, block + 1, false),
    ] {
        let found = store.is_range_verified(piece, begin, length);
        assert_eq!(found, verified, "{piece} {begin} {length}");
    }
}

#[test]
fn of_two_versions_of_a_block_in_a_batch_the_later_one_stays() {
    let sample = Sample::single(4 * BLOCK, salted(9 * BLOCK, 1));
    let dir = tempfile::tempdir().unwrap();
    let store = sample.create(&dir.path().join("s"), Arc::new(RealIo));
    let lie = Bytes::from(vec![0xee; BLOCK as usize]);
    let mut batch: Vec<_> = sample.blocks.iter().map(|b| (*b, lie.clone())).collect();
    batch.extend(sample.blocks.iter().rev().map(|b| (*b, sample.bytes(*b))));
    store.write_blocks(&batch).unwrap();
    let path = store.file_path(sample.layout().file_index(0).unwrap());
    assert_eq!(fs::read(path).unwrap(), sample.contents[0]);
}

#[test]
fn a_run_longer_than_one_call_takes_is_written_whole() {
    // The kernel takes 1024 slices at once.
    let sample = Sample::single(4 << 20, salted(2100 * BLOCK + 3, 1));
    let dir = tempfile::tempdir().unwrap();
    let store = sample.create(&dir.path().join("s"), Arc::new(RealIo));
    sample.write(&store, &sample.blocks).unwrap();
    let path = store.file_path(sample.layout().file_index(0).unwrap());
    assert!(fs::read(path).unwrap() == sample.contents[0]);
}

#[test]
fn a_late_duplicate_of_a_verified_block_changes_nothing() {
    let sample = Sample::single(2 * BLOCK, salted(5 * BLOCK + 9, 1));
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("s");
    let store = sample.create(&place, Arc::new(RealIo));
    sample.fill(&store, &sample.blocks[..3]);
    store.checkpoint().unwrap();
    let leaves = fs::read(place.join("leaves/0")).unwrap();
    let lies: Vec<_> = sample.blocks[..4]
        .iter()
        .map(|block| (*block, Bytes::from(vec![0xee; BLOCK as usize])))
        .collect();
    store.write_blocks(&lies).unwrap();
    // Not even other hashes, and not in the middle of a new run.
    let lie = bittorrent_protocol::merkle::leaf(b"lie");
    let second = sample.blocks[2];
    sample.write(&store, &[sample.blocks[3]]).unwrap();
    store
        .mark_verified(second.piece(), 0, &[lie, sample.leaf(sample.blocks[3])])
        .unwrap();
    store.keep_leaves(sample.blocks[0], &[lie, lie]).unwrap();
    assert_eq!(store.verified_blocks(), 4);
    assert_eq!(store.checkpoint().unwrap().blocks, 1);
    sample.check_verified(&store).unwrap();
    let now = fs::read(place.join("leaves/0")).unwrap();
    assert_eq!(now[..leaves.len()], leaves);
    assert_eq!(now[96..128], *sample.leaf(sample.blocks[3]).as_bytes());
}

#[test]
fn bugs_of_the_caller_are_told_and_change_nothing() {
    let sample = Sample::directory(
        4 * BLOCK,
        &[("a", salted(5 * BLOCK + 9, 1)), ("b", salted(BLOCK, 2))],
    );
    let dir = tempfile::tempdir().unwrap();
    let store = sample.create(&dir.path().join("s"), Arc::new(RealIo));
    let last = sample.blocks[5];
    for length in [0, 8, 10, BLOCK as usize] {
        let good = (sample.blocks[0], sample.bytes(sample.blocks[0]));
        let bad = (last, Bytes::from(vec![1; length]));
        let found = store.write_blocks(&[good, bad]);
        assert!(matches!(
            found,
            Err(StoreError::BlockLength { block, expected: 9, found }) if block == last && found == length
        ));
    }
    let path = store.file_path(sample.layout().file_index(0).unwrap());
    assert!(fs::read(path).unwrap().iter().all(|byte| *byte == 0));
    let leaf = sample.leaf(last);
    let piece = last.piece();
    for (first, count) in [(0, 3), (1, 2), (2, 1), (u16::MAX, 1), (0, 20_000)] {
        let found = store.mark_verified(piece, first, &vec![leaf; count]);
        assert!(matches!(found, Err(StoreError::NoSuchBlocks { .. })));
        // Leaves may go on behind the piece, but not behind the file.
    }
    assert!(matches!(
        store.keep_leaves(sample.blocks[0], &[leaf; 7]),
        Err(StoreError::NoSuchBlocks { .. })
    ));
    store.keep_leaves(sample.blocks[0], &[leaf; 6]).unwrap();
    assert_eq!(store.verified_blocks(), 0);
    assert!(matches!(
        store.finish(),
        Err(StoreError::Incomplete { missing: 7 })
    ));
}

#[test]
fn what_is_to_be_executed_can_be_once_it_is_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let piece_length = PieceLength::MIN;
    let bytes = content(100);
    let meta = ["plain", "tool"]
        .into_iter()
        .fold(MetainfoBuilder::new("x", piece_length), |builder, name| {
            let hashed = HashedContent {
                executable: name == "tool",
                ..hashed(&bytes, piece_length)
            };
            builder.file(vec![name.to_owned()], hashed)
        })
        .build()
        .unwrap();
    let place = dir.path().join("s");
    let store = TorrentStore::create(&place, &meta, Arc::new(RealIo)).unwrap();
    for piece in store.layout().piece_indices() {
        let block = store.layout().block(piece, 0).unwrap();
        store
            .write_blocks(&[(block, Bytes::copy_from_slice(&bytes))])
            .unwrap();
        store
            .mark_verified(piece, 0, &[merkle::leaf(&bytes)])
            .unwrap();
    }
    let mode = |name: &str| {
        let path = place.join("content/x").join(name);
        std::fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    // Not before: what is not whole is not to be run.
    assert_eq!(mode("tool") & 0o111, 0);
    store.finish().unwrap();
    assert_eq!((mode("plain"), mode("tool")), (0o444, 0o555));
    // Who has to mend it keeps that.
    let block = store.layout().block_at(1, 0).unwrap();
    store.revoke(&[block]).unwrap();
    store
        .write_blocks(&[(block, Bytes::copy_from_slice(&bytes))])
        .unwrap();
    store
        .mark_verified(block.piece(), 0, &[merkle::leaf(&bytes)])
        .unwrap();
    store.finish().unwrap();
    assert_eq!((mode("plain"), mode("tool")), (0o444, 0o555));
}
