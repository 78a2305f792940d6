//! A scrub finds what the disk changed by itself, and what it found can be written again at once.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::path::Path;

use bittorrent_store::testing::ForgetfulDisk;
use bittorrent_store::{Scrub, ScrubCursor, TorrentStore};
use common::{BLOCK, DIR, Sample};

/// A whole scrub, in slices.
fn scrub(store: &TorrentStore, slice: u64) -> Scrub {
    let mut cursor = ScrubCursor::default();
    let mut all = Scrub::default();
    loop {
        let before = cursor.piece();
        let mut one = store.scrub_slice(&mut cursor, slice).unwrap();
        all.bytes += one.bytes;
        all.leaves_mended += one.leaves_mended;
        all.damage.append(&mut one.damage);
        all.contradictions.append(&mut one.contradictions);
        if one.done {
            assert_eq!(cursor, ScrubCursor::default());
            return all;
        }
        assert!(one.bytes > 0 && one.bytes < slice + 2 * BLOCK, "{slice}");
        assert!(cursor.piece() > before);
    }
}

#[test]
fn rot_that_memory_hides_is_found_whatever_the_slices() {
    let sample = Sample::four_files(3);
    for slice in [1, 2 * BLOCK, 5 * BLOCK, u64::MAX / 2] {
        let disk = ForgetfulDisk::new();
        let store = sample.sealed_on(&disk);
        let clean = scrub(&store, slice);
        assert_eq!(clean.bytes, sample.layout().content_length());
        assert!(clean.damage.is_empty() && store.is_sealed());

        let files = Path::new(DIR).join("content/sample");
        for (file, offset) in [("a", 2 * BLOCK + 5), ("a", 4 * BLOCK + 90), ("d", 0)] {
            disk.rot_on_disk(&files.join(file), offset, b"\xa5rot")
                .unwrap();
        }
        let found = scrub(&store, slice);
        let places: Vec<_> = found
            .damage
            .iter()
            .map(|damage| (damage.file.get(), damage.offset, damage.block))
            .collect();
        let blocks = &sample.blocks;
        let bad = [blocks[2], blocks[4], blocks[6]];
        assert_eq!(
            places,
            [
                (0, 2 * BLOCK, bad[0]),
                (0, 4 * BLOCK, bad[1]),
                (3, 0, bad[2])
            ]
        );
        assert_eq!((found.leaves_mended, found.contradictions.len()), (0, 0));
        assert!(!store.is_sealed() && store.verified_blocks() == 6);
        sample.check_verified(&store).unwrap();
        // Known to the next process, too.
        let (again, recovery) =
            TorrentStore::open(Path::new(DIR), disk.clone().restart().io()).unwrap();
        assert_eq!((recovery.blocks_claimed, again.is_sealed()), (6, false));
        sample.fill(&again, &bad);
        again.finish().unwrap();
        assert!(scrub(&again, slice).damage.is_empty());
        sample.check_verified(&again).unwrap();
    }
}

#[test]
fn what_cannot_be_read_is_damage_and_not_the_end_of_the_scrub() {
    let sample = Sample::four_files(3);
    let disk = ForgetfulDisk::new();
    let store = sample.sealed_on(&disk);
    let file = Path::new(DIR).join("content/sample/d");
    disk.scratch(&file, BLOCK + 1..BLOCK + 2);
    let found = scrub(&store, 1);
    let bad: Vec<_> = found.damage.iter().map(|damage| damage.block).collect();
    assert_eq!(bad, [sample.blocks[7]]);
}

#[test]
fn leaf_hashes_that_rot_are_computed_again() {
    let sample = Sample::four_files(3);
    let disk = ForgetfulDisk::new();
    let store = sample.sealed_on(&disk);
    disk.rot(Path::new("/s/leaves/0"), 33, b"rot").unwrap();
    let found = scrub(&store, BLOCK);
    assert!(found.damage.is_empty() && store.is_sealed());
    assert_eq!(found.leaves_mended, 1);
    assert_eq!(scrub(&store, BLOCK).leaves_mended, 0);
}

#[test]
fn of_a_partial_generation_only_what_is_verified_is_judged() {
    let sample = Sample::four_files(3);
    let disk = ForgetfulDisk::new();
    let store = sample.create(Path::new(DIR), disk.io());
    let blocks = &sample.blocks;
    sample.fill(&store, &[blocks[0], blocks[2], blocks[3]]);
    // Written, not proven.
    sample.write(&store, &blocks[7..]).unwrap();
    store.checkpoint().unwrap();
    let file = Path::new(DIR).join("content/sample/a");
    disk.rot(&file, 7, b"rot").unwrap();
    let found = scrub(&store, 1 << 30);
    assert_eq!(found.bytes, 3 * BLOCK);
    assert_eq!(found.damage.len(), 1);
    assert_eq!(found.damage[0].block, blocks[0]);
    assert_eq!(store.verified_blocks(), 2);
    sample.complete(&store);
    sample.check_verified(&store).unwrap();
}

#[test]
fn a_cursor_beyond_the_end_begins_again() {
    let sample = Sample::four_files(3);
    let disk = ForgetfulDisk::new();
    let store = sample.sealed_on(&disk);
    let mut cursor = ScrubCursor::at(1000);
    let nothing = store.scrub_slice(&mut cursor, 1 << 30).unwrap();
    assert_eq!((nothing.bytes, nothing.done, cursor.piece()), (0, true, 0));
}

#[test]
fn whole_and_sealed_is_opened_without_a_trace_and_nothing_else() {
    let sample = Sample::four_files(3);
    let disk = ForgetfulDisk::new();
    let open = || TorrentStore::open_sealed(Path::new(DIR), disk.io()).unwrap();
    let store = sample.create(Path::new(DIR), disk.io());
    assert!(open().is_none());
    sample.complete(&store);
    let before = disk.changes();
    let sealed = open().unwrap();
    assert!(sealed.is_sealed() && sealed.is_complete());
    sample.check_verified(&sealed).unwrap();
    assert_eq!(disk.changes(), before);
    // Being repaired, which writes to it.
    store.revoke(&sample.blocks[..1]).unwrap();
    let before = disk.changes();
    assert!(open().is_none());
    sample.complete(&store);
    assert!(disk.changes() > before && open().is_some());
    // Another program changed it.
    let file = Path::new(DIR).join("content/sample/a");
    disk.meddle(&file, 5, b"x").unwrap();
    let before = disk.changes();
    assert!(open().is_none());
    assert_eq!(disk.changes(), before);
}
