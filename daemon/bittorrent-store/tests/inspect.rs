//! What a directory claims is found without changing it, and what happens to its files is noticed.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::path::Path;

use bittorrent_protocol::InfoHashV2;
use bittorrent_store::testing::ForgetfulDisk;
use bittorrent_store::{Condition, StoreError, TorrentStore};
use common::{BLOCK, DIR, Sample};

fn condition(disk: &ForgetfulDisk) -> Condition {
    let before = disk.changes();
    let found = TorrentStore::inspect(Path::new(DIR), None, &*disk.io()).unwrap();
    assert_eq!(disk.changes(), before);
    found.condition
}

#[test]
fn conditions_of_a_generation() {
    let sample = Sample::four_files(3);
    let disk = ForgetfulDisk::new();
    let store = sample.create(Path::new(DIR), disk.io());
    assert_eq!(condition(&disk), Condition::Partial { claimed: 0 });
    sample.fill(&store, &sample.blocks[..3]);
    store.checkpoint().unwrap();
    assert_eq!(condition(&disk), Condition::Partial { claimed: 3 });
    sample.complete(&store);
    assert_eq!(condition(&disk), Condition::Sealed);
    store.revoke(&sample.blocks[..1]).unwrap();
    let claimed = sample.blocks.len() as u64 - 1;
    assert_eq!(condition(&disk), Condition::Partial { claimed });
    sample.complete(&store);
    let path = Path::new(DIR).join("content/sample/d");
    disk.meddle(&path, 5, b"x").unwrap();
    assert_eq!(condition(&disk), Condition::Changed { path: path.clone() });
    disk.io().remove_file(&path).unwrap();
    assert_eq!(condition(&disk), Condition::Changed { path });
    disk.io()
        .remove_file(&Path::new(DIR).join("progress"))
        .unwrap();
    assert_eq!(condition(&disk), Condition::NoRecord);
}

#[test]
fn the_directory_of_another_torrent_is_refused_and_left_as_it_is() {
    let sample = Sample::four_files(3);
    let disk = ForgetfulDisk::new();
    let ours = sample.sealed_on(&disk).info().hashes().v2;
    let other = InfoHashV2::from_bytes([7; 32]);
    let before = disk.changes();
    let dir = Path::new(DIR);
    let errors = [
        TorrentStore::open_expecting(dir, Some(other), disk.io()).map(drop),
        TorrentStore::open_sealed_expecting(dir, Some(other), disk.io()).map(drop),
        TorrentStore::inspect(dir, Some(other), &*disk.io()).map(drop),
    ];
    for error in errors {
        assert!(
            matches!(&error, Err(StoreError::OtherTorrent { expected, found, .. })
                if (*expected, *found) == (other, ours)),
            "{error:?}"
        );
    }
    assert_eq!(disk.changes(), before);
    let (store, _) = TorrentStore::open_expecting(dir, Some(ours), disk.io()).unwrap();
    assert!(store.is_sealed());
}

#[test]
fn files_that_change_under_a_store_are_noticed() {
    let sample = Sample::four_files(3);
    type Meddling = fn(&ForgetfulDisk);
    let path = |name: &str| Path::new(DIR).join(name);
    let cases: [(&str, Meddling); 4] = [
        ("edited", |disk| {
            let file = Path::new(DIR).join("content/sample/d");
            disk.meddle(&file, 5, b"x").unwrap();
        }),
        ("deleted", |disk| {
            let file = Path::new(DIR).join("content/sample/c/one");
            disk.io().remove_file(&file).unwrap();
        }),
        ("replaced", |disk| {
            let other = Path::new(DIR).join("content/sample/c/one");
            let file = Path::new(DIR).join("content/sample/a");
            disk.io().rename(&other, &file).unwrap();
        }),
        ("without a record", |disk| {
            let file = Path::new(DIR).join("progress");
            disk.io().remove_file(&file).unwrap();
        }),
    ];
    for (what, meddle) in cases {
        let disk = ForgetfulDisk::new();
        let store = sample.sealed_on(&disk);
        // All at once, and one after the other.
        assert_eq!(store.check_files(0, 100).unwrap(), 0);
        let mut next = 0;
        for expected in [1, 2, 3, 4, 0] {
            next = store.check_files(next, 1).unwrap();
            assert_eq!(next, expected);
        }
        meddle(&disk);
        let found = store.check_files(0, 100);
        assert!(
            matches!(found, Err(StoreError::Changed { .. })),
            "{what}: {found:?}"
        );
    }
    // What is written by the store itself is no change.
    let disk = ForgetfulDisk::new();
    let store = sample.create(Path::new(DIR), disk.io());
    sample.fill(&store, &sample.blocks[..3]);
    assert_eq!(store.check_files(0, 100).unwrap(), 0);
    sample.complete(&store);
    assert_eq!(store.check_files(0, 100).unwrap(), 0);
    store.revoke(&sample.blocks[..2]).unwrap();
    assert_eq!(store.check_files(0, 100).unwrap(), 0);
    assert!(disk.files().contains(&path("progress")));
}

#[test]
fn blocks_that_cannot_be_read_while_serving_are_taken_back() {
    let sample = Sample::four_files(3);
    let disk = ForgetfulDisk::new();
    let store = sample.sealed_on(&disk);
    assert!(store.recheck_unreadable().unwrap().is_empty());
    disk.scratch(
        &Path::new(DIR).join("content/sample/d"),
        BLOCK + 1..BLOCK + 2,
    );
    let bad = sample.blocks[7];
    let mut buffer = vec![0; BLOCK as usize];
    let error = store.read(bad.piece(), bad.begin(), &mut buffer);
    assert!(error.is_err());
    assert_eq!(store.recheck_unreadable().unwrap(), [bad]);
    assert!(!store.is_sealed() && !store.is_block_verified(bad));
    assert!(store.recheck_unreadable().unwrap().is_empty());
    assert_eq!(store.total_blocks() - store.verified_blocks(), 1);
}

#[test]
fn blocks_that_cannot_be_read_do_not_end_a_verification() {
    let sample = Sample::four_files(3);
    let disk = ForgetfulDisk::new();
    let store = sample.sealed_on(&disk);
    disk.scratch(
        &Path::new(DIR).join("content/sample/d"),
        BLOCK + 1..BLOCK + 2,
    );
    let found = store.verify_all(&|_| true).unwrap();
    assert_eq!(found.damaged, [sample.blocks[7]]);
}
