//! One store, several threads.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use bittorrent_store::{RealIo, TorrentStore};
use bytes::Bytes;
use common::{BLOCK, Sample, salted};

#[test]
fn writers_readers_and_checkpoints_do_not_disturb_each_other() {
    let sample = Sample::directory(
        4 * BLOCK,
        &[
            ("a", salted(90 * BLOCK + 17, 1)),
            ("b", salted(5, 2)),
            ("c", salted(61 * BLOCK, 3)),
        ],
    );
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("s");
    let store = sample.create(&place, Arc::new(RealIo));
    let next = AtomicUsize::new(0);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        let Some(block) = sample.blocks.get(number) else {
                            return;
                        };
                        sample.fill(&store, &[*block]);
                        // A late duplicate with other bytes.
                        let lie = vec![0xee; sample.bytes(*block).len()];
                        store.write_blocks(&[(*block, Bytes::from(lie))]).unwrap();
                    }
                })
            })
            .collect();
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                store.checkpoint().unwrap();
            }
        });
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                sample.check_verified_so_far(&store).unwrap();
            }
        });
        for writer in writers {
            writer.join().unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(store.is_complete());
    store.checkpoint().unwrap();
    assert_eq!(store.dirty_bytes(), 0);
    store.finish().unwrap();
    drop(store);
    let (store, recovery) = TorrentStore::open(&place, Arc::new(RealIo)).unwrap();
    assert_eq!(recovery.blocks_claimed, sample.blocks.len() as u64);
    sample.check_verified(&store).unwrap();
}

#[test]
fn a_scrub_during_a_download_finds_nothing_wrong_with_it() {
    let sample = Sample::single(4 * BLOCK, salted(120 * BLOCK + 17, 1));
    let dir = tempfile::tempdir().unwrap();
    let store = sample.create(&dir.path().join("s"), Arc::new(RealIo));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let scrub = scope.spawn(|| {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) || rounds == 0 {
                let verification = store.verify_all(&|_| true).unwrap();
                assert_eq!(verification.damaged, []);
                assert_eq!(verification.leaves_mended, 0);
                rounds += 1;
            }
        });
        for block in &sample.blocks {
            let lie = vec![0xee; sample.bytes(*block).len()];
            store.write_blocks(&[(*block, Bytes::from(lie))]).unwrap();
            sample.fill(&store, &[*block]);
        }
        done.store(true, Ordering::Relaxed);
        scrub.join().unwrap();
    });
    assert!(store.is_complete());
    sample.check_verified(&store).unwrap();
}

#[test]
fn what_is_found_by_a_scrub_is_not_overwritten_by_a_write_on_its_way() {
    // The scrub finds a piece that is there and not verified while liars write to it: each block is then
    // either good and verified, or not verified.
    let sample = Sample::single(2 * BLOCK, salted(24 * BLOCK, 1));
    let dir = tempfile::tempdir().unwrap();
    let store = sample.create(&dir.path().join("s"), Arc::new(RealIo));
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                store.verify_all(&|_| true).unwrap();
            }
        });
        for _ in 0..20 {
            sample.write(&store, &sample.blocks).unwrap();
            let lies: Vec<_> = sample
                .blocks
                .iter()
                .map(|block| (*block, Bytes::from(vec![0xee; BLOCK as usize])))
                .collect();
            store.write_blocks(&lies).unwrap();
            sample.check_verified_so_far(&store).unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
    sample.check_verified(&store).unwrap();
}

#[test]
fn a_scrub_stops_on_request_and_says_what_it_read() {
    let sample = Sample::single(BLOCK, salted(40 * BLOCK, 1));
    let dir = tempfile::tempdir().unwrap();
    let store = sample.create(&dir.path().join("s"), Arc::new(RealIo));
    sample.fill(&store, &sample.blocks);
    let stopped = store.verify_all(&|bytes| bytes < 10 * BLOCK);
    assert!(matches!(
        stopped,
        Err(bittorrent_store::StoreError::Cancelled)
    ));
    assert_eq!(store.verify_all(&|_| true).unwrap().bytes, 40 * BLOCK);
}
