//! A disk that is full is waited for: nothing that was there is lost, and what was begun goes on.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use bittorrent_store::testing::{Dice, ForgetfulDisk, Operation};
use bittorrent_store::{RealIo, ReuseSources, StoreError, TorrentStore};
use common::{BLOCK, Sample, broken, salted};

const NEW: &str = "/new";

struct Update {
    disk: ForgetfulDisk,
    old: Arc<TorrentStore>,
    sample: Sample,
}

/// A generation that is held, and one that shares half of its blocks in other places.
fn update(reflinks: bool) -> Update {
    let mut disk = ForgetfulDisk::new();
    if reflinks {
        disk = disk.with_reflinks();
    }
    let bytes = salted(12 * BLOCK + 50, 1);
    let old = Sample::single(4 * BLOCK, bytes.clone());
    let store = old.create(Path::new("/old"), disk.io());
    old.complete(&store);
    let mut bytes = bytes;
    bytes[..4 * BLOCK as usize].rotate_left(BLOCK as usize);
    bytes[8 * BLOCK as usize..].iter_mut().for_each(|b| *b ^= 7);
    Update {
        disk,
        old: Arc::new(store),
        sample: Sample::single(4 * BLOCK, bytes),
    }
}

/// Everything from an empty directory to a sealed generation, each step tried again when the disk is
/// full. Says how often that was, and at what.
fn bring_up_to_date(update: &Update) -> Vec<String> {
    let Update { disk, old, sample } = update;
    let mut full = Vec::new();
    let mut verified_before = 0;
    let mut stop = |error: StoreError, store: Option<&TorrentStore>| {
        assert!(error.is_out_of_space(), "{error:?}");
        if let Some(store) = store {
            // Nothing that was durable is lost.
            let claimed = disk.crash(&mut Dice::new(5)).unwrap();
            let (reopened, _) = TorrentStore::open(Path::new(NEW), claimed.io()).unwrap();
            assert!(reopened.verified_blocks() >= verified_before);
            sample.check_verified(&reopened).unwrap();
            sample.check_verified(store).unwrap();
            verified_before = reopened.verified_blocks();
        }
        full.push(error.to_string());
        disk.make_room();
    };
    let sources = loop {
        let sources = ReuseSources::new(vec![old.clone()]);
        match sources.with_index(Path::new("/scratch"), &*disk.io(), &|| true) {
            Ok(sources) => break sources,
            Err(error) => stop(error, None),
        }
    };
    let store = loop {
        match sources.create(Path::new(NEW), &sample.meta, disk.io()) {
            Ok((store, _)) => break store,
            // The torrent is written, what it claims is not: it is taken up instead.
            Err(StoreError::Exists { .. }) => {
                break TorrentStore::open(Path::new(NEW), disk.io()).unwrap().0;
            }
            Err(error) => stop(error, None),
        }
    };
    for piece in sample.layout().piece_indices() {
        let found = loop {
            match sources.reuse_blocks(&store, piece, Some(&sample.leaves(piece))) {
                Ok(found) => break found,
                Err(error) => stop(error, Some(&store)),
            }
        };
        for (block, leaf) in &found {
            while let Err(error) = store.mark_verified(piece, block.in_piece(), &[*leaf]) {
                stop(error, Some(&store));
            }
        }
        while let Err(error) = store.checkpoint() {
            assert!(!matches!(error, StoreError::SyncFailed { .. }));
            stop(error, Some(&store));
        }
    }
    for block in &sample.blocks {
        if store.is_block_verified(*block) {
            continue;
        }
        while let Err(error) = sample
            .write(&store, &[*block])
            .and_then(|()| sample.mark(&store, *block))
        {
            stop(error, Some(&store));
        }
    }
    while let Err(error) = store.finish() {
        stop(error, Some(&store));
    }
    sample.check_verified(&store).unwrap();
    drop(store);
    let after = disk.crash(&mut Dice::new(6)).unwrap();
    let (store, recovery) = TorrentStore::open(Path::new(NEW), after.io()).unwrap();
    assert!(store.is_sealed() && recovery.blocks_claimed == store.total_blocks());
    full
}

#[test]
fn a_disk_that_fills_up_at_any_byte_only_delays() {
    let mut stages = std::collections::BTreeSet::new();
    for reflinks in [false, true] {
        let whole = update(reflinks);
        let before = whole.disk.written();
        assert!(bring_up_to_date(&whole).is_empty());
        let total = whole.disk.written() - before;
        // Most of it is the index; the steps are odd so that they meet blocks and records anywhere.
        let last = (total - 900..total).step_by(29);
        for room in (0..total).step_by(20_011).chain(last) {
            let now = update(reflinks);
            now.disk.fill_up_after(room);
            let full = bring_up_to_date(&now);
            assert_eq!(full.len(), 1, "{room} of {total}: {full:?}");
            stages.insert(full[0].clone());
        }
    }
    for part in [
        "leaf-index",
        "content/data.ldb",
        "leaves/0",
        "progress.new",
        "journal",
    ] {
        assert!(
            stages.iter().any(|stage| stage.contains(part)),
            "{part}: {stages:?}"
        );
    }
}

#[test]
fn every_stage_tells_a_full_disk_and_a_quota_from_a_broken_disk() {
    for (operation, path) in [
        (Operation::Write, "leaf-index"),
        (Operation::Sync, "leaf-index"),
        (Operation::Rename, "leaf-index"),
        (Operation::Open, "content"),
        (Operation::Write, "content"),
        (Operation::Write, "snapshot.torrent"),
        (Operation::Write, "leaves"),
        (Operation::Write, "journal"),
        (Operation::Write, "progress"),
        (Operation::Rename, "progress"),
    ] {
        for kind in [ErrorKind::StorageFull, ErrorKind::QuotaExceeded] {
            let now = update(true);
            now.disk.fail(operation, path, kind, 1);
            let full = bring_up_to_date(&now);
            assert_eq!(full.len(), 1, "{operation:?} {path}");
            assert!(full[0].contains(path), "{full:?}");
        }
    }
    // Blocks that found no place when they were synced are named, and have to be written again.
    let now = update(false);
    let store = now.sample.create(Path::new(NEW), now.disk.io());
    now.sample.fill(&store, &now.sample.blocks[..3]);
    store.checkpoint().unwrap();
    now.sample.fill(&store, &now.sample.blocks[3..5]);
    now.disk
        .fail(Operation::Sync, "content", ErrorKind::StorageFull, 1);
    let error = store.checkpoint().unwrap_err();
    assert!(error.is_out_of_space());
    let StoreError::SyncFailed { lost, .. } = error else {
        panic!("{error:?}");
    };
    assert_eq!(lost, now.sample.blocks[3..5]);
    assert_eq!(store.verified_blocks(), 3);
    now.disk.fail(Operation::Sync, "content", broken(), 1);
    now.sample.fill(&store, &lost);
    assert!(!store.checkpoint().unwrap_err().is_out_of_space());
    now.sample.complete(&store);
}

#[test]
fn the_room_that_is_needed_shrinks_as_blocks_come() {
    // The double's files take pages of 4 KiB, as those of most file systems.
    for reflinks in [false, true] {
        let now = update(reflinks);
        let sources = ReuseSources::new(vec![now.old.clone()]);
        let sample = &now.sample;
        let (store, _) = sources
            .create(Path::new(NEW), &sample.meta, now.disk.io())
            .unwrap();
        assert_eq!(store.is_cloned(), reflinks);
        let content = |store: &TorrentStore| {
            let missing = store.missing_bytes();
            let others =
                missing.div_ceil(BLOCK) * 32 + store.layout().block_numbers() / 4 + (2 << 20);
            store.space_needed().unwrap().checked_sub(others).unwrap()
        };
        assert_eq!(content(&store), 12 * BLOCK + 50);
        sample.fill(&store, &sample.blocks[..5]);
        // The tail counts as a block where it is written over something else.
        let expected = if reflinks { 8 * BLOCK } else { 7 * BLOCK + 50 };
        assert_eq!(content(&store), expected);
        // What is written and not proven needs no more room where it took it.
        sample.write(&store, &sample.blocks[5..6]).unwrap();
        let expected = if reflinks { 8 * BLOCK } else { 6 * BLOCK + 50 };
        assert_eq!(content(&store), expected);
        // Also in the next process.
        store.checkpoint().unwrap();
        drop(store);
        let (store, _) = TorrentStore::open(Path::new(NEW), now.disk.io()).unwrap();
        assert_eq!(store.is_cloned(), reflinks);
        sample.complete(&store);
        assert_eq!(store.space_needed().unwrap(), 0);
        let files = now.disk.files();
        assert!(!files.contains(&Path::new(NEW).join("cloned")) && !store.is_cloned());
    }
}

/// On a real file system that is really full. Only root may mount one.
#[test]
fn a_real_file_system_that_is_full_is_waited_for() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root may mount a small file system");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mount = |size: &str, more: &str| {
        std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}{more}"), "tmpfs"])
            .arg(dir.path())
            .stderr(std::process::Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    };
    if !mount("1m", "") {
        eprintln!("skipped: mounting is not allowed here");
        return;
    }
    let outcome = std::panic::catch_unwind(|| {
        let sample = Sample::single(4 * BLOCK, salted(100 * BLOCK, 1));
        let store = sample.create(&dir.path().join("s"), Arc::new(RealIo));
        assert!(store.space_needed().unwrap() > 100 * BLOCK);
        let mut error = None;
        for block in &sample.blocks {
            let written = sample
                .write(&store, &[*block])
                .and_then(|()| sample.mark(&store, *block));
            if let Err(full) = written {
                error = Some(full);
                break;
            }
        }
        assert!(error.unwrap().is_out_of_space());
        let verified = store.verified_blocks();
        assert!(verified > 20);
        // Whatever there is room for: nothing is un-claimed by trying.
        let _ = store.checkpoint();
        assert_eq!(store.verified_blocks(), verified);
        assert!(mount("8m", ",remount"));
        sample.complete(&store);
        sample.check_verified(&store).unwrap();
    });
    let gone = std::process::Command::new("umount")
        .arg(dir.path())
        .status();
    assert!(gone.unwrap().success());
    outcome.unwrap();
}
