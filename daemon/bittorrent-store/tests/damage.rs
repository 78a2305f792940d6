//! What was changed, damaged or taken away behind a store's back is noticed, and can be mended.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bittorrent_store::testing::ForgetfulDisk;
use bittorrent_store::{RealIo, Recovery, StoreError, TorrentStore};
use bytes::Bytes;
use common::{BLOCK, Sample, salted};

/// A whole and sealed generation on the real disk.
fn sealed(sample: &Sample) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("s");
    sample.complete(&sample.create(&place, Arc::new(RealIo)));
    (dir, place)
}

fn open(place: &Path) -> (TorrentStore, Recovery) {
    TorrentStore::open(place, Arc::new(RealIo)).unwrap()
}

/// Opens a sealed file as the administrator would.
fn force(path: &Path) -> File {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    let file = OpenOptions::new().write(true).open(path).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o444)).unwrap();
    file
}

/// The clock that stamps files may stand still for some milliseconds.
fn touch(file: &File) {
    file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
}

#[test]
fn a_sealed_file_that_was_changed_is_noticed_and_mended() {
    let sample = Sample::four_files(2);
    let size = sample.contents[0].len() as u64;
    type Change<'a> = &'a dyn Fn(&Path);
    let changes: [(&str, Change<'_>); 5] = [
        ("written", &|path| {
            let file = force(path);
            file.write_all_at(b"x", BLOCK + 9).unwrap();
            touch(&file);
        }),
        ("cut", &|path| force(path).set_len(size - 1).unwrap()),
        ("emptied", &|path| force(path).set_len(0).unwrap()),
        ("prolonged", &|path| {
            let file = force(path);
            file.write_all_at(b"more", size).unwrap();
        }),
        ("replaced", &|path| {
            let bytes = fs::read(path).unwrap();
            fs::remove_file(path).unwrap();
            // Not the number that has just become free.
            let other = path.with_file_name("other");
            fs::write(other, b"").unwrap();
            fs::write(path, bytes).unwrap();
        }),
    ];
    for (what, change) in changes {
        let (_dir, place) = sealed(&sample);
        change(&place.join("content/sample/a"));
        let (store, recovery) = open(&place);
        assert!(recovery.claims_lost, "{what}: {recovery:?}");
        // The file has five blocks, the others have three.
        assert_eq!(recovery.blocks_dropped, 5, "{what}");
        assert_eq!(recovery.blocks_claimed, 3, "{what}");
        assert!(!store.is_sealed() && !store.is_complete(), "{what}");
        sample.check_verified(&store).unwrap();
        sample.complete(&store);
        drop(store);
        let (store, recovery) = open(&place);
        assert!(!recovery.claims_lost, "{what}: {recovery:?}");
        assert!(store.is_sealed() && store.is_complete(), "{what}");
        let found = fs::read(place.join("content/sample/a")).unwrap();
        assert!(found == sample.contents[0], "{what}");
    }
}

#[test]
fn a_partial_file_that_was_cut_or_replaced_is_noticed() {
    let sample = Sample::four_files(2);
    let changes: [&dyn Fn(&Path); 3] = [
        &|path| force(path).set_len(BLOCK).unwrap(),
        &|path| force(path).set_len(100 * BLOCK).unwrap(),
        &|path| {
            let bytes = fs::read(path).unwrap();
            fs::write(path.with_file_name("other"), bytes).unwrap();
            fs::rename(path.with_file_name("other"), path).unwrap();
        },
    ];
    for change in changes {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("s");
        let store = sample.create(&place, Arc::new(RealIo));
        sample.fill(
            &store,
            &[sample.blocks[0], sample.blocks[4], sample.blocks[5]],
        );
        store.checkpoint().unwrap();
        drop(store);
        change(&place.join("content/sample/a"));
        let (store, recovery) = open(&place);
        assert!(recovery.claims_lost);
        assert_eq!((recovery.blocks_dropped, recovery.blocks_claimed), (2, 1));
        sample.complete(&store);
        let found = fs::read(place.join("content/sample/a")).unwrap();
        assert!(found == sample.contents[0]);
    }
}

#[test]
fn what_someone_who_is_not_the_administrator_sealed_he_can_mend() {
    let sample = Sample::four_files(2);
    let disk = ForgetfulDisk::new();
    let place = Path::new("/s");
    sample.complete(&sample.create(place, disk.io()));
    let path = place.join("content/sample/a");
    disk.meddle(&path, 3, b"?").unwrap();
    let (store, recovery) = TorrentStore::open(place, disk.io()).unwrap();
    assert_eq!(recovery.blocks_dropped, 5);
    sample.complete(&store);
    assert_eq!(disk.read(&path).unwrap(), sample.contents[0]);
    assert!(
        disk.io()
            .open(&path, bittorrent_store::OpenMode::Write)
            .is_err()
    );
}

#[test]
fn bit_rot_is_found_and_only_that_is_fetched_again() {
    let sample = Sample::four_files(2);
    for restart in [false, true] {
        let mut disk = ForgetfulDisk::new();
        let place = Path::new("/s");
        sample.complete(&sample.create(place, disk.io()));
        disk.rot(&place.join("content/sample/a"), 2 * BLOCK + 5, b"rot")
            .unwrap();
        disk.rot(&place.join("content/sample/c/one"), 699, b"\0")
            .unwrap();

        let (mut store, recovery) = TorrentStore::open(place, disk.io()).unwrap();
        assert_eq!((recovery.blocks_dropped, recovery.claims_lost), (0, false));
        assert!(store.is_sealed());
        let verification = store.verify_all(&|_| true).unwrap();
        let bad = [sample.blocks[2], sample.blocks[5]];
        assert_eq!(verification.damaged, bad);
        assert_eq!((verification.found, verification.leaves_mended), (0, 0));
        assert_eq!(verification.bytes, sample.layout().content_length());
        assert!(!store.is_sealed() && store.verified_blocks() == 6);
        sample.check_verified(&store).unwrap();
        assert!(matches!(
            store.finish(),
            Err(StoreError::Incomplete { missing: 2 })
        ));
        // The files were sealed: they are mended in place, and by the next process.
        if restart {
            drop(store);
            disk = disk.restart();
            let (reopened, recovery) = TorrentStore::open(place, disk.io()).unwrap();
            assert_eq!((recovery.blocks_claimed, recovery.claims_lost), (6, false));
            store = reopened;
        }
        assert!(!store.is_sealed());
        sample.fill(&store, &bad[..1]);
        // What is mended is journalled.
        drop(store);
        disk = disk.restart();
        let (store, recovery) = TorrentStore::open(place, disk.io()).unwrap();
        assert_eq!((recovery.blocks_claimed, recovery.blocks_rehashed), (6, 1));
        sample.fill(&store, &bad);
        store.finish().unwrap();
        assert!(store.verify_all(&|_| true).unwrap().damaged.is_empty());
        drop(store);
        let (store, _) = TorrentStore::open(place, disk.restart().io()).unwrap();
        assert!(store.is_sealed());
    }
}

#[test]
fn a_generation_that_was_just_made_keeps_its_claims_when_one_block_rots() {
    use bittorrent_protocol::PieceLength;
    use bittorrent_store::create::{Cut, Draft, Shape};
    let bytes = salted(9 * BLOCK, 1);
    let disk = ForgetfulDisk::new();
    let place = Path::new("/s");
    let cut = Cut {
        piece_length: PieceLength::new(2 * BLOCK).unwrap(),
        hybrid: false,
    };
    let mut draft = Draft::begin(place, "data.ldb", Shape::SingleFile, cut, disk.io()).unwrap();
    draft.add_file(&[], &mut &bytes[..], &mut |_| true).unwrap();
    let store = draft.finish(|builder| builder).unwrap();
    assert!(store.is_sealed());
    disk.rot(&place.join("content/data.ldb"), 0, b"rot")
        .unwrap();
    assert_eq!(store.verify_all(&|_| true).unwrap().damaged.len(), 1);
    drop(store);
    let (store, recovery) = TorrentStore::open(place, disk.io()).unwrap();
    assert_eq!(recovery.blocks_claimed, 8);
    let block = store.layout().block_at(0, 0).unwrap();
    let good = Bytes::copy_from_slice(&bytes[..BLOCK as usize]);
    store.write_blocks(&[(block, good.clone())]).unwrap();
    let leaf = bittorrent_protocol::merkle::leaf(&good);
    store.mark_verified(block.piece(), 0, &[leaf]).unwrap();
    store.finish().unwrap();
}

/// Everything that may be in the place of a file of ours.
fn damages(bytes: &[u8], other: &[u8]) -> Vec<(String, Option<Vec<u8>>)> {
    let mut damages = vec![
        ("missing".to_owned(), None),
        ("empty".to_owned(), Some(Vec::new())),
        ("zeros".to_owned(), Some(vec![0; bytes.len()])),
        ("noise".to_owned(), Some(vec![0xa5; 5000])),
        ("another torrent's".to_owned(), Some(other.to_vec())),
        ("doubled".to_owned(), Some([bytes, bytes].concat())),
    ];
    for at in (0..bytes.len()).step_by(bytes.len() / 40 + 1) {
        let mut flipped = bytes.to_vec();
        flipped[at] ^= 0x41;
        damages.push((format!("changed at {at}"), Some(flipped)));
        damages.push((format!("cut at {at}"), Some(bytes[..at].to_vec())));
    }
    damages
}

fn put(path: &Path, bytes: Option<&Vec<u8>>) {
    match bytes {
        Some(bytes) => fs::write(path, bytes).unwrap(),
        None => fs::remove_file(path).unwrap(),
    }
}

#[test]
fn damaged_claims_claim_nothing_and_the_content_is_found_again() {
    let sample = Sample::four_files(2);
    let (_dir, place) = sealed(&sample);
    let (_other_dir, other) = sealed(&Sample::single(2 * BLOCK, salted(4 * BLOCK, 7)));
    let path = place.join("progress");
    let whole = fs::read(&path).unwrap();
    let other = fs::read(other.join("progress")).unwrap();
    for (what, damage) in damages(&whole, &other) {
        put(&path, damage.as_ref());
        let (store, recovery) = open(&place);
        let nothing = Recovery {
            claims_lost: true,
            ..Recovery::default()
        };
        assert_eq!(recovery, nothing, "{what}");
        assert_eq!(store.verified_blocks(), 0, "{what}");
        let verification = store.verify_all(&|_| true).unwrap();
        assert_eq!(verification.found, 8, "{what}");
        assert!(store.is_complete());
        assert_eq!(store.dirty_bytes(), 0, "{what}");
        drop(store);
        let (store, recovery) = open(&place);
        assert_eq!(recovery.blocks_claimed, 8, "{what}");
        store.finish().unwrap();
    }
}

#[test]
fn what_is_left_of_a_journal_is_used_and_nothing_else() {
    let sample = Sample::four_files(2);
    let (_other_dir, other) = sealed(&Sample::single(2 * BLOCK, salted(4 * BLOCK, 7)));
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("s");
    let store = sample.create(&place, Arc::new(RealIo));
    sample.fill(&store, &sample.blocks[..2]);
    store.checkpoint().unwrap();
    sample.fill(&store, &sample.blocks[2..6]);
    // One more, of which the bytes are gone.
    sample.fill(&store, &sample.blocks[6..7]);
    drop(store);
    let file = force(&place.join("content/sample/d"));
    file.write_all_at(b"gone", 0).unwrap();
    let kept: Vec<(PathBuf, Vec<u8>)> = ["progress", "journal.0", "journal.1"]
        .iter()
        .map(|name| (place.join(name), fs::read(place.join(name)).unwrap()))
        .collect();
    let journal = kept
        .iter()
        .filter(|(path, _)| path.to_string_lossy().contains("journal"))
        .max_by_key(|(_, bytes)| bytes.len())
        .unwrap();
    assert_eq!(journal.1.len(), 5 * 56);
    let progress = fs::read(other.join("progress")).unwrap();
    let mut seen = BTreeSet::new();
    for (what, damage) in damages(&journal.1, &progress) {
        for (path, bytes) in &kept {
            fs::write(path, bytes).unwrap();
        }
        put(&journal.0, damage.as_ref());
        let (store, recovery) = open(&place);
        assert_eq!(recovery.blocks_claimed, 2, "{what}");
        assert!(!recovery.claims_lost);
        assert!(
            recovery.blocks_rehashed <= 4 && recovery.blocks_dropped <= 1,
            "{what}"
        );
        let found = 2 + recovery.blocks_rehashed;
        assert_eq!(store.verified_blocks(), found, "{what}: {recovery:?}");
        sample.check_verified(&store).unwrap();
        seen.insert(recovery.blocks_rehashed);
    }
    assert_eq!(seen, (0..=4).collect(), "some of it survives, or all");
}

#[test]
fn a_journal_alone_proves_what_it_tells() {
    let sample = Sample::four_files(2);
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("s");
    let store = sample.create(&place, Arc::new(RealIo));
    sample.fill(&store, &sample.blocks[..3]);
    drop(store);
    fs::remove_file(place.join("progress")).unwrap();
    let (store, recovery) = open(&place);
    assert!(recovery.claims_lost);
    assert_eq!(recovery.blocks_rehashed, 3);
    sample.check_verified(&store).unwrap();
}

#[test]
fn the_journal_of_another_torrent_proves_nothing() {
    // Both have a block of zeros there, but only one should.
    let zeros = Sample::single(2 * BLOCK, vec![0; 3 * BLOCK as usize]);
    let other = Sample::single(2 * BLOCK, salted(3 * BLOCK, 1));
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let store = zeros.create(&a, Arc::new(RealIo));
    zeros.fill(&store, &zeros.blocks);
    drop(store);
    drop(other.create(&b, Arc::new(RealIo)));
    for journal in ["journal.0", "journal.1"] {
        if a.join(journal).exists() {
            fs::copy(a.join(journal), b.join(journal)).unwrap();
        }
    }
    let (store, recovery) = open(&b);
    assert_eq!(store.verified_blocks(), 0, "{recovery:?}");
}

#[test]
fn a_damaged_torrent_is_an_error_or_another_torrent() {
    let sample = Sample::four_files(2);
    let (_dir, place) = sealed(&sample);
    let path = place.join("snapshot.torrent");
    let whole = fs::read(&path).unwrap();
    let progress = fs::read(place.join("progress")).unwrap();
    let mut noticed = 0;
    for (what, damage) in damages(&whole, b"d4:infode") {
        put(&path, damage.as_ref());
        match TorrentStore::open(&place, Arc::new(RealIo)) {
            Err(StoreError::Torrent { path: named, .. }) => {
                assert_eq!(named, path, "{what}");
                noticed += 1;
            }
            Err(StoreError::Open { .. }) => {
                // Another name of a file, or none at all.
            }
            Ok((store, recovery)) => {
                let same = store.info().raw() == sample.meta.info().raw();
                // With the info dictionary whole, nothing but a layer can be missing.
                assert!(same != recovery.claims_lost, "{what}");
                assert_eq!(store.is_complete(), same, "{what}");
            }
            Err(error) => panic!("{what}: {error:?}"),
        }
        fs::write(place.join("progress"), &progress).unwrap();
    }
    assert!(noticed > 40, "{noticed}");
}

#[test]
fn missing_content_is_an_error_that_names_the_file() {
    let sample = Sample::four_files(2);
    let (_dir, place) = sealed(&sample);
    let gone = place.join("content/sample/d");
    fs::remove_file(&gone).unwrap();
    match TorrentStore::open(&place, Arc::new(RealIo)) {
        Err(StoreError::Open { path, .. }) => assert_eq!(path, gone),
        other => panic!("{other:?}"),
    }
}

#[test]
fn links_out_of_the_directory_are_not_followed() {
    let sample = Sample::four_files(2);
    let (dir, place) = sealed(&sample);
    let outside = dir.path().join("outside");
    fs::write(&outside, &sample.contents[3]).unwrap();
    let file = place.join("content/sample/d");
    fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink(&outside, &file).unwrap();
    assert!(TorrentStore::open(&place, Arc::new(RealIo)).is_err());
}

#[test]
fn making_it_again_keeps_what_is_there_and_claims_nothing() {
    let sample = Sample::four_files(2);
    let (_dir, place) = sealed(&sample);
    fs::remove_file(place.join("snapshot.torrent")).unwrap();
    let store = sample.create(&place, Arc::new(RealIo));
    assert_eq!(store.verified_blocks(), 0);
    assert_eq!(store.verify_all(&|_| true).unwrap().found, 8);
    store.finish().unwrap();
}
