//! Tests of the reuse of stored blocks: equal content is found at any offset of a stored snapshot, and different content is never taken for it.
//! Above 600 lines: all tests share one model of two snapshots.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use bittorrent_protocol::metainfo::Metainfo;
use bittorrent_protocol::{BlockIndex, MerkleHash, PieceIndex};
use bittorrent_store::testing::{Dice, ForgetfulDisk, Operation};
use bittorrent_store::{Clones, RealIo, ReuseSources, StoreError, TorrentStore};
use bytes::Bytes;
use common::{BLOCK, Sample, broken, salted};
use proptest::prelude::*;

const NEW: &str = "/new";
const SCRATCH: &str = "/scratch";

/// A sealed generation.
fn held(disk: &ForgetfulDisk, sample: &Sample, dir: &str) -> Arc<TorrentStore> {
    let store = sample.create(Path::new(dir), disk.io());
    sample.complete(&store);
    Arc::new(store)
}

fn index(disk: &ForgetfulDisk, generations: Vec<Arc<TorrentStore>>) -> ReuseSources {
    ReuseSources::new(generations)
        .with_index(Path::new(SCRATCH), &*disk.io(), &|| true)
        .unwrap()
}

/// Reuses the blocks of a whole torrent, by its proven leaf hashes or without them.
fn reuse_all(
    sample: &Sample,
    store: &TorrentStore,
    sources: &ReuseSources,
    by_leaves: bool,
) -> BTreeSet<BlockIndex> {
    let mut all = BTreeSet::new();
    for piece in sample.layout().piece_indices() {
        let leaves = by_leaves.then(|| sample.leaves(piece));
        let found = sources
            .reuse_blocks(store, piece, leaves.as_deref())
            .unwrap();
        all.extend(check(sample, store, piece, &found));
    }
    all
}

/// What is said to stand in its place does, in order, and is not verified yet.
fn check(
    sample: &Sample,
    store: &TorrentStore,
    piece: PieceIndex,
    found: &[(BlockIndex, MerkleHash)],
) -> Vec<BlockIndex> {
    assert!(found.is_sorted_by_key(|(block, _)| *block));
    for (block, leaf) in found {
        assert_eq!((block.piece(), *leaf), (piece, sample.leaf(*block)));
        assert!(!store.is_block_verified(*block));
        let mut is = vec![0; sample.bytes(*block).len()];
        store.read(piece, block.begin(), &mut is).unwrap();
        assert!(is == sample.bytes(*block), "{block}");
    }
    found.iter().map(|(block, _)| *block).collect()
}

fn mark(store: &TorrentStore, found: &[(BlockIndex, MerkleHash)]) {
    for (block, leaf) in found {
        store
            .mark_verified(block.piece(), block.in_piece(), &[*leaf])
            .unwrap();
    }
}

/// Changes one byte of each of some blocks of a file.
fn changed(bytes: &[u8], blocks: &[u64]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for block in blocks {
        bytes[(block * BLOCK + 9) as usize] ^= 0x55;
    }
    bytes
}

fn all_but(sample: &Sample, missing: &[usize]) -> BTreeSet<BlockIndex> {
    let blocks = sample.blocks.iter().enumerate();
    blocks
        .filter(|(number, _)| !missing.contains(number))
        .map(|(_, block)| *block)
        .collect()
}

#[test]
fn only_changed_blocks_are_missing_whatever_the_lengths() {
    let old_bytes = salted(40 * BLOCK + 77, 1);
    // The old tail is cut, or continues, or is there as it was.
    for length in [
        39 * BLOCK,
        40 * BLOCK,
        40 * BLOCK + 76,
        40 * BLOCK + 77,
        40 * BLOCK + 78,
        41 * BLOCK,
        45 * BLOCK + 1,
    ] {
        for (old_piece, new_piece) in [(4, 4), (1, 8), (32, 2), (2, 64)] {
            for reflinks in [false, true] {
                let mut disk = ForgetfulDisk::new();
                if reflinks {
                    disk = disk.with_reflinks();
                }
                let old = Sample::single(old_piece * BLOCK, old_bytes.clone());
                let mut bytes = changed(&old_bytes, &[0, 7, 8, 30]);
                bytes.resize(length as usize, 3);
                let new = Sample::single(new_piece * BLOCK, bytes);
                let old = held(&disk, &old, "/old");
                let sources = ReuseSources::new(vec![old]);
                let (store, clones) = sources
                    .create(Path::new(NEW), &new.meta, disk.io())
                    .unwrap();
                let expected = Clones {
                    files: reflinks.into(),
                    bytes: if reflinks { 40 * BLOCK + 77 } else { 0 },
                    refused: (!reflinks).into(),
                };
                assert_eq!(clones, expected);
                let mut missing = vec![0, 7, 8, 30];
                // The tail of a clone that was cut is in its place; elsewhere no leaf hash tells of it.
                let cut = reflinks && length == 40 * BLOCK + 76;
                if length != 40 * BLOCK + 77 && !cut {
                    missing.extend(40..new.blocks.len());
                }
                let before = disk.changes();
                let found = reuse_all(&new, &store, &sources, true);
                assert_eq!(found, all_but(&new, &missing), "{length}");
                // What the clone brought is not written.
                assert_eq!(disk.changes() == before, reflinks, "{length}");
                assert_eq!(store.verified_blocks(), 0);
                new.complete(&store);
                new.check_verified(&store).unwrap();
            }
        }
    }
}

#[test]
fn a_piece_is_found_by_its_hash_in_its_place_and_elsewhere() {
    let disk = ForgetfulDisk::new();
    let piece = 4 * BLOCK;
    let old_bytes = salted(5 * piece + 100, 1);
    let part = |number: u64| {
        let start = (number * piece) as usize;
        &old_bytes[start..old_bytes.len().min(start + piece as usize)]
    };
    let zeros = vec![0; piece as usize];
    let fresh = salted(piece, 9);
    // In place; one that moved back and one that moved forward; zeros; a new one; the tail.
    let bytes = [part(0), part(3), &zeros, part(1), &fresh, part(5)].concat();
    let new = Sample::single(piece, bytes);
    for old_piece in [4, 2] {
        let dir = format!("/old{old_piece}");
        let old = Sample::single(old_piece * BLOCK, old_bytes.clone());
        let sources = ReuseSources::new(vec![held(&disk, &old, &dir)]);
        let place = format!("/new{old_piece}");
        let store = new.create(Path::new(&place), disk.io());
        let found = reuse_all(&new, &store, &sources, false);
        let pieces: BTreeSet<u32> = found.iter().map(|block| block.piece().get()).collect();
        // Pieces of another length are found in their place only.
        let expected = if old_piece == 4 {
            vec![0, 1, 2, 3, 5]
        } else {
            vec![0, 2, 5]
        };
        assert_eq!(pieces, expected.into_iter().collect());
        assert_eq!(found.len(), pieces.len() * 4 - 3);
        new.complete(&store);
        new.check_verified(&store).unwrap();
    }
}

#[test]
fn blocks_are_found_anywhere_in_several_generations() {
    let disk = ForgetfulDisk::new();
    let first = salted(9 * BLOCK, 1);
    let second = salted(7 * BLOCK + 50, 2);
    let third = salted(70, 3);
    let one = Sample::single(4 * BLOCK, first.clone());
    let two = Sample::directory(
        2 * BLOCK,
        &[
            ("a", second.clone()),
            ("b", third.clone()),
            ("c", Vec::new()),
        ],
    );
    let block = |bytes: &[u8], number: usize| {
        let start = number * BLOCK as usize;
        bytes[start..bytes.len().min(start + BLOCK as usize)].to_vec()
    };
    let zeros = vec![0; BLOCK as usize];
    let mixed = [
        block(&second, 3),
        block(&first, 0),
        zeros,
        salted(BLOCK, 8),
        block(&first, 1),
        block(&first, 2),
        block(&first, 8),
        block(&second, 7),
    ]
    .concat();
    let new = Sample::directory(8 * BLOCK, &[("x", mixed), ("y", third), ("z", vec![0; 5])]);
    let generations = vec![held(&disk, &one, "/one"), held(&disk, &two, "/two")];
    let sources = index(&disk, generations.clone());
    let store = new.create(Path::new(NEW), disk.io());
    assert_eq!(reuse_all(&new, &store, &sources, true), all_but(&new, &[3]));
    new.complete(&store);
    new.check_verified(&store).unwrap();

    // The same index serves the next start, and only those generations.
    let changes = disk.changes();
    index(&disk, generations.clone());
    assert_eq!(disk.changes(), changes);
    let fewer = index(&disk, generations[1..].to_vec());
    assert!(disk.changes() > changes);
    let store = new.create(Path::new("/again"), disk.io());
    let found = reuse_all(&new, &store, &fewer, true);
    assert_eq!(found, all_but(&new, &[1, 3, 4, 5, 6]));
}

#[test]
fn an_index_that_is_damaged_costs_reuse_and_nothing_else() {
    let disk = ForgetfulDisk::new();
    let old_bytes = salted(20 * BLOCK, 1);
    let old = held(&disk, &Sample::single(4 * BLOCK, old_bytes.clone()), "/old");
    let mut bytes = old_bytes.clone();
    bytes.rotate_left(BLOCK as usize);
    let new = Sample::single(4 * BLOCK, bytes);
    let path = Path::new(SCRATCH).join("leaf-index");
    index(&disk, vec![old.clone()]);
    let good = disk.read(&path).unwrap();
    assert_eq!(good.len(), 40 + 65536 * 8 + 20 * 12);
    let entries = good.len() - 240;
    for (number, at) in [0, 9, 45, 300_000, entries, entries + 7, entries + 239]
        .into_iter()
        .enumerate()
    {
        disk.meddle(&path, at as u64, &[good[at] ^ 0x81]).unwrap();
        let sources = index(&disk, vec![old.clone()]);
        let store = new.create(Path::new(&format!("/new{number}")), disk.io());
        let found = reuse_all(&new, &store, &sources, true);
        // One entry, or the boundary of two buckets.
        assert!(found.len() >= 18, "{at}: {}", found.len());
        disk.meddle(&path, 0, &good).unwrap();
    }
    // Cut, and prolonged: built again.
    for length in [0, 30, good.len() - 1, good.len() + 12] {
        let file = disk.io().open(&path, bittorrent_store::OpenMode::Write);
        file.unwrap().set_len(length as u64).unwrap();
        index(&disk, vec![old.clone()]);
        assert!(disk.read(&path).unwrap() == good, "{length}");
    }
}

#[test]
fn what_rotted_in_an_old_generation_does_not_spread() {
    for (reflinks, by_leaves) in [(false, true), (false, false), (true, true), (true, false)] {
        let mut disk = ForgetfulDisk::new();
        if reflinks {
            disk = disk.with_reflinks();
        }
        let old = Sample::single(4 * BLOCK, salted(16 * BLOCK, 1));
        let new = Sample::single(4 * BLOCK, salted(18 * BLOCK, 1));
        let source = held(&disk, &old, "/old");
        let content = source.file_path(old.layout().file_index(0).unwrap());
        disk.meddle(&content, 5 * BLOCK + 3, b"rot").unwrap();
        // A leaf hash that rotted makes its block unknown, and its piece.
        let leaves = Path::new("/old/leaves/0");
        disk.meddle(leaves, 10 * 32 + 1, b"rot").unwrap();
        let sources = index(&disk, vec![source]);
        let (store, _) = sources
            .create(Path::new(NEW), &new.meta, disk.io())
            .unwrap();
        let found = reuse_all(&new, &store, &sources, by_leaves);
        let missing = match (by_leaves, reflinks) {
            // A clone has the block though the old generation no longer knows it.
            (true, true) => vec![5, 16, 17],
            (true, false) => vec![5, 10, 16, 17],
            (false, _) => vec![5, 8, 9, 10, 11, 16, 17],
        };
        assert_eq!(found, all_but(&new, &missing));
        new.complete(&store);
        new.check_verified(&store).unwrap();
    }
}

#[test]
fn what_an_old_generation_lost_is_not_looked_for_in_it() {
    let disk = ForgetfulDisk::new();
    let old = Sample::single(4 * BLOCK, salted(16 * BLOCK, 1));
    let source = held(&disk, &old, "/old");
    source.revoke(&old.blocks[6..7]).unwrap();
    let new = Sample::single(4 * BLOCK, salted(17 * BLOCK, 1));
    let store = new.create(Path::new(NEW), disk.io());
    let sources = ReuseSources::new(vec![source]);
    // Its hash is still kept, as are its bytes; but they are in doubt.
    let found = reuse_all(&new, &store, &sources, true);
    assert_eq!(found, all_but(&new, &[6, 7, 16]));
}

#[test]
fn zeros_are_held_also_where_a_clone_has_something_else() {
    let disk = ForgetfulDisk::new().with_reflinks();
    let old = Sample::single(4 * BLOCK, salted(8 * BLOCK, 1));
    let mut bytes = salted(8 * BLOCK + 40, 1);
    bytes[2 * BLOCK as usize..4 * BLOCK as usize].fill(0);
    bytes[8 * BLOCK as usize..].fill(0);
    let new = Sample::single(4 * BLOCK, bytes);
    let sources = ReuseSources::new(vec![held(&disk, &old, "/old")]);
    let (store, _) = sources
        .create(Path::new(NEW), &new.meta, disk.io())
        .unwrap();
    let before = disk.changes();
    assert_eq!(reuse_all(&new, &store, &sources, true), all_but(&new, &[]));
    // Two neighbours with one call; the tail is in the hole behind the clone.
    assert_eq!(disk.changes() - before, 1);
    new.complete(&store);
    new.check_verified(&store).unwrap();

    // An empty torrent has its zeros without any source.
    let bare = new.create(Path::new("/bare"), disk.io());
    let before = disk.changes();
    let none = ReuseSources::new(Vec::new());
    let found = reuse_all(&new, &bare, &none, true);
    assert_eq!(found.len(), 3);
    assert_eq!(disk.changes(), before);
}

#[test]
fn a_file_with_the_same_root_is_taken_whole_with_its_layer() {
    for reflinks in [false, true] {
        let mut disk = ForgetfulDisk::new();
        if reflinks {
            disk = disk.with_reflinks();
        }
        let (big, small, one) = (
            salted(9 * BLOCK + 5, 1),
            salted(2 * BLOCK, 2),
            salted(99, 3),
        );
        let old = Sample::directory(
            2 * BLOCK,
            &[
                ("a", big.clone()),
                ("b", small.clone()),
                ("c", one.clone()),
                ("d", salted(3 * BLOCK, 4)),
            ],
        );
        // Renamed, and one that is new under an old name.
        let new = Sample::directory(
            2 * BLOCK,
            &[
                ("a", salted(3 * BLOCK, 5)),
                ("p", big),
                ("q/r", small),
                ("q/s", one),
            ],
        );
        let sources = ReuseSources::new(vec![held(&disk, &old, "/old")]);
        let bare = Metainfo::from_info(new.meta.info().clone());
        let (store, clones) = sources.create(Path::new(NEW), &bare, disk.io()).unwrap();
        assert_eq!(
            (clones.files, clones.refused),
            if reflinks { (4, 0) } else { (0, 4) }
        );
        // No peer has to be asked for these hashes, also not after a restart.
        let missing = |store: &TorrentStore| {
            let meta = store.metainfo();
            meta.missing_layers().map(|f| f.get()).collect::<Vec<_>>()
        };
        assert_eq!(missing(&store), [0]);
        let before = disk.changes();
        let found = reuse_all(&new, &store, &sources, false);
        assert_eq!(found, all_but(&new, &[0, 1, 2]));
        assert_eq!(disk.changes() == before, reflinks);
        drop(store);
        let (store, _) = TorrentStore::open(Path::new(NEW), disk.restart().io()).unwrap();
        assert_eq!(missing(&store), [0]);
    }
}

#[test]
fn what_is_verified_is_left_alone() {
    let disk = ForgetfulDisk::new();
    let bytes = salted(8 * BLOCK, 1);
    let old = Sample::single(4 * BLOCK, bytes.clone());
    let sources = ReuseSources::new(vec![held(&disk, &old, "/old")]);
    let new = Sample::single(4 * BLOCK, changed(&bytes, &[7]));
    let store = new.create(Path::new(NEW), disk.io());
    new.fill(&store, &new.blocks[1..3]);
    let piece = new.layout().piece(0).unwrap();
    let found = sources.reuse_blocks(&store, piece, None).unwrap();
    assert_eq!(
        check(&new, &store, piece, &found),
        [new.blocks[0], new.blocks[3]]
    );
    mark(&store, &found);
    let again = sources.reuse_blocks(&store, piece, Some(&new.leaves(piece)));
    assert_eq!(again.unwrap(), []);
    // A bug of the caller.
    let wrong = sources.reuse_blocks(&store, piece, Some(&new.leaves(piece)[1..]));
    assert!(matches!(
        wrong,
        Err(StoreError::NoSuchBlocks { count: 3, .. })
    ));
}

#[test]
fn a_failed_sync_makes_reused_blocks_doubtful_wherever_they_came_from() {
    let disk = ForgetfulDisk::new().with_reflinks();
    let bytes = salted(8 * BLOCK, 1);
    let old = Sample::single(4 * BLOCK, bytes.clone());
    let sources = ReuseSources::new(vec![held(&disk, &old, "/old")]);
    let mut moved = bytes;
    moved[..4 * BLOCK as usize].rotate_left(BLOCK as usize);
    let new = Sample::single(4 * BLOCK, moved);
    let sources = index(&disk, sources.generations().to_vec());
    let (store, _) = sources
        .create(Path::new(NEW), &new.meta, disk.io())
        .unwrap();
    let pieces: Vec<_> = new.layout().piece_indices().collect();
    let lookup = |piece| {
        sources
            .reuse_blocks(&store, piece, Some(&new.leaves(piece)))
            .unwrap()
    };
    // One piece was copied, the other stood there. One block of it is verified when the sync fails.
    let (copied, stood) = (lookup(pieces[0]), lookup(pieces[1]));
    assert_eq!((copied.len(), stood.len()), (4, 4));
    mark(&store, &copied[..1]);
    disk.fail(Operation::Sync, "content", broken(), 1);
    assert!(matches!(
        store.checkpoint(),
        Err(StoreError::SyncFailed { .. })
    ));
    for (block, leaf) in copied.iter().chain(&stood) {
        let late = store.mark_verified(block.piece(), block.in_piece(), &[*leaf]);
        assert!(matches!(late, Err(StoreError::Lost { .. })), "{block}");
    }
    // Looked for again they are written again.
    for piece in pieces {
        let found = lookup(piece);
        assert_eq!(found.len(), 4);
        mark(&store, &found);
    }
    store.finish().unwrap();
    drop(store);
    let disk = disk.crash(&mut Dice::new(4)).unwrap();
    let (store, recovery) = TorrentStore::open(Path::new(NEW), disk.io()).unwrap();
    assert_eq!(recovery.blocks_claimed, 8);
    new.check_verified(&store).unwrap();
}

#[test]
fn an_earlier_process_may_have_left_what_the_disk_lost() {
    let disk = ForgetfulDisk::new();
    let new = Sample::single(4 * BLOCK, salted(4 * BLOCK, 1));
    let store = new.create(Path::new(NEW), disk.io());
    new.fill(&store, &new.blocks);
    disk.fail(Operation::Sync, "content", broken(), 1);
    assert!(store.checkpoint().is_err());
    drop(store);
    // The next process reads from memory what is not on the disk, and must not believe it.
    let disk = disk.restart();
    let (store, _) = TorrentStore::open(Path::new(NEW), disk.io()).unwrap();
    let none = ReuseSources::new(Vec::new());
    let piece = new.layout().piece(0).unwrap();
    let found = none
        .reuse_blocks(&store, piece, Some(&new.leaves(piece)))
        .unwrap();
    mark(&store, &found);
    store.checkpoint().unwrap();
    drop(store);
    let disk = disk.crash(&mut Dice::new(1)).unwrap();
    let (store, recovery) = TorrentStore::open(Path::new(NEW), disk.io()).unwrap();
    assert_eq!(recovery.blocks_claimed, found.len() as u64);
    new.check_verified(&store).unwrap();
}

#[test]
fn a_directory_with_a_generation_is_not_made_again() {
    let disk = ForgetfulDisk::new();
    let sample = Sample::single(BLOCK, salted(3 * BLOCK, 1));
    let store = sample.create(Path::new(NEW), disk.io());
    sample.fill(&store, &sample.blocks[..2]);
    store.checkpoint().unwrap();
    drop(store);
    let other = Sample::single(BLOCK, salted(2 * BLOCK, 2));
    let again = TorrentStore::create(Path::new(NEW), &other.meta, disk.io());
    assert!(matches!(again, Err(StoreError::Exists { path }) if path == Path::new(NEW)));
    let (_, recovery) = TorrentStore::open(Path::new(NEW), disk.io()).unwrap();
    assert_eq!(recovery.blocks_claimed, 2);
}

#[test]
fn a_full_disk_is_told_while_cloning_and_while_copying() {
    let disk = ForgetfulDisk::new().with_reflinks();
    let old = Sample::single(4 * BLOCK, salted(8 * BLOCK, 1));
    let sources = ReuseSources::new(vec![held(&disk, &old, "/old")]);
    let new = Sample::single(4 * BLOCK, salted(9 * BLOCK, 1));
    let begin = || sources.create(Path::new(NEW), &new.meta, disk.io());
    disk.fail(Operation::Write, "content", ErrorKind::StorageFull, 1);
    assert!(begin().unwrap_err().is_out_of_space());
    // Any other reason not to clone is none not to begin.
    disk.fail(Operation::Write, "content", broken(), 1);
    let (store, clones) = begin().unwrap();
    assert_eq!((clones.files, clones.refused), (0, 1));
    // It may have been cloned in part.
    let junk = Bytes::from(vec![0x77; BLOCK as usize]);
    store.write_blocks(&[(new.blocks[0], junk)]).unwrap();
    disk.fail(Operation::Write, "content", ErrorKind::StorageFull, 1);
    let piece = new.layout().piece(0).unwrap();
    let full = sources.reuse_blocks(&store, piece, None).unwrap_err();
    assert!(full.is_out_of_space());
    assert_eq!(reuse_all(&new, &store, &sources, false).len(), 8);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is put together of old blocks, new ones and zeros: exactly what is not new is found.
    #[test]
    fn what_is_held_is_found_and_nothing_else(
        old in proptest::collection::vec(1..20usize, 1..30),
        new in proptest::collection::vec(0..24usize, 1..40),
        tails in (0..40usize, 0..40usize),
        pieces in (0..4u32, 0..4u32),
        reflinks: bool,
    ) {
        let block = |number: &usize| match number {
            0 => vec![0; BLOCK as usize],
            number => salted(BLOCK, *number as u8),
        };
        let build = |numbers: &[usize], tail: usize, piece: u32| {
            let mut bytes: Vec<u8> = numbers.iter().flat_map(block).collect();
            bytes.extend(salted(BLOCK, 200).iter().take(tail));
            Sample::single(BLOCK << piece, bytes)
        };
        let mut disk = ForgetfulDisk::new();
        if reflinks {
            disk = disk.with_reflinks();
        }
        let old_sample = build(&old, tails.0, pieces.0);
        let new_sample = build(&new, tails.1, pieces.1);
        let sources = index(&disk, vec![held(&disk, &old_sample, "/old")]);
        let (store, _) =
            sources.create(Path::new(NEW), &new_sample.meta, disk.io())
                .unwrap();
        // Something may be in the way already.
        let junk = new_sample.blocks[0];
        let length = new_sample.bytes(junk).len();
        store.write_blocks(&[(junk, Bytes::from(vec![0x77; length]))]).unwrap();
        let found = reuse_all(&new_sample, &store, &sources, true);
        let mut missing: Vec<usize> = (0..new.len())
            .filter(|n| new[*n] != 0 && !old.contains(&new[*n]))
            .collect();
        // A clone keeps the old tail in its place, cut or filled up with zeros to the new length.
        let added = &salted(BLOCK, 200)[tails.0.min(tails.1)..tails.1];
        let in_place = reflinks && old.len() == new.len() && added.iter().all(|byte| *byte == 0);
        if tails.1 > 0 && tails.0 != tails.1 && !in_place {
            missing.push(new.len());
        }
        prop_assert_eq!(found, all_but(&new_sample, &missing));
    }
}

/// What the file system of the temporary directory is known to do, `clones` or `copies`, where a script has
/// made it for that: checks/reflinks.
fn expected() -> Option<String> {
    std::env::var("REUSE_EXPECTS").ok()
}

/// On the file system of the temporary directory, whichever it is: `TMPDIR` chooses another.
#[test]
fn a_real_file_system_clones_or_is_copied_to() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = salted(40 * BLOCK + 9, 1);
    let old = Sample::single(4 * BLOCK, bytes.clone());
    let new = Sample::single(4 * BLOCK, changed(&bytes, &[3, 20]));
    let store = old.create(&dir.path().join("old"), Arc::new(RealIo));
    old.complete(&store);
    let sources = ReuseSources::new(vec![Arc::new(store)]);
    let place = dir.path().join("new");
    let (store, clones) = sources.create(&place, &new.meta, Arc::new(RealIo)).unwrap();
    assert_eq!(clones.files + clones.refused, 1);
    if let Some(expected) = expected() {
        let is = if clones.files == 1 {
            "clones"
        } else {
            "copies"
        };
        assert_eq!(is, expected, "{clones:?}");
    }
    assert_eq!(store.is_cloned(), clones.files == 1);
    let found = reuse_all(&new, &store, &sources, true);
    assert_eq!(found, all_but(&new, &[3, 20]));
    new.complete(&store);
    new.check_verified(&store).unwrap();
    // The old one was shared, not handed over.
    let (old_store, _) = TorrentStore::open(&dir.path().join("old"), Arc::new(RealIo)).unwrap();
    assert!(old_store.is_sealed());
    old.check_verified(&old_store).unwrap();
}

#[test]
fn a_clone_takes_the_room_of_what_changed_only() {
    const BLOCKS: u64 = 1_200;
    if expected().as_deref() != Some("clones") {
        eprintln!("NOT TESTED: as root, checks/reflinks makes file systems that share content");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let free = || {
        let root = std::fs::File::open(dir.path()).unwrap();
        rustix::fs::syncfs(&root).unwrap();
        file_kit::space::FileSystem::of(dir.path()).unwrap().free()
    };
    let bytes = salted(BLOCKS * BLOCK, 1);
    let old = Sample::single(64 * BLOCK, bytes.clone());
    let numbers: Vec<u64> = (0..BLOCKS).step_by(40).collect();
    let new = Sample::single(64 * BLOCK, changed(&bytes, &numbers));
    let store = old.create(&dir.path().join("old"), Arc::new(RealIo));
    old.complete(&store);
    let sources = ReuseSources::new(vec![Arc::new(store)]);
    let before = free();
    let place = dir.path().join("new");
    let (store, _) = sources.create(&place, &new.meta, Arc::new(RealIo)).unwrap();
    let found = reuse_all(&new, &store, &sources, true);
    assert_eq!(found.len() as u64, BLOCKS - numbers.len() as u64);
    let fetched: Vec<BlockIndex> = (numbers.iter())
        .map(|number| new.blocks[*number as usize])
        .collect();
    new.fill(&store, &fetched);
    mark(
        &store,
        &found
            .into_iter()
            .map(|block| (block, new.leaf(block)))
            .collect::<Vec<_>>(),
    );
    store.finish().unwrap();
    let taken = before.saturating_sub(free());
    // What changed, the leaf hashes, and what the file system notes about it.
    assert!(taken < BLOCKS * BLOCK / 4, "{taken} bytes were taken");
    drop(store);
    let (store, _) = TorrentStore::open(&place, Arc::new(RealIo)).unwrap();
    new.check_verified(&store).unwrap();
}
