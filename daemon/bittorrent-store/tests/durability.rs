//! Whatever ends it, a generation that is taken up again claims no block that is not there, has what the
//! last checkpoint claimed, and after a kill all that was verified.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;
#[path = "common/world.rs"]
mod world;

use std::io::ErrorKind;
use std::path::Path;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bittorrent_store::testing::{Dice, ForgetfulDisk, Operation};
use bittorrent_store::{StoreError, TorrentStore};
use bytes::Bytes;
use common::{BLOCK, Sample, broken, salted};
use proptest::prelude::*;
use world::{DIR, Step, World};

/// Every kind of file: longer than a piece with a short tail, full pieces, one block, nothing, the
/// same content twice.
static SAMPLE: LazyLock<Sample> = LazyLock::new(|| {
    let twin = salted(2 * BLOCK + 5, 3);
    Sample::directory(
        2 * BLOCK,
        &[
            ("a", salted(4 * BLOCK + 100, 1)),
            ("b", Vec::new()),
            ("c/full", salted(2 * BLOCK, 2)),
            ("c/one", salted(700, 4)),
            ("c/twin", twin.clone()),
            ("d", twin),
        ],
    )
});

/// A download with everything in it.
fn download(sample: &Sample) -> Vec<Step> {
    let all = sample.blocks.len();
    let mut steps = vec![
        Step::Write(vec![0, 1, 2, 5]),
        Step::Mark(0, 1),
        Step::Checkpoint,
        Step::Lie(3),
        Step::Mark(2, 0),
        Step::Mark(5, 0),
        Step::Write((3..all).collect()),
        Step::Layers,
        Step::Checkpoint,
        Step::Mark(3, 0),
        Step::Lie(4),
        Step::Lie(0),
        Step::Write(vec![4, 4, 0, 1]),
    ];
    steps.extend((0..all).map(|number| Step::Mark(number, 0)));
    steps.push(Step::Finish);
    steps
}

/// How many changes the disk sees while the download is done.
fn changes_of(sample: &Sample, steps: &[Step]) -> u64 {
    let mut world = World::new(sample);
    world.create().unwrap();
    steps.iter().for_each(|step| world.step(step));
    assert!(world.store.as_ref().unwrap().is_sealed());
    world.disk.changes()
}

#[test]
fn a_process_killed_between_any_two_changes_loses_nothing() {
    let sample = &*SAMPLE;
    let steps = download(sample);
    for end in 0..=changes_of(sample, &steps) {
        let mut world = World::new(sample);
        world.disk.lose_power_after(end);
        if world.create().is_ok() {
            steps.iter().for_each(|step| world.step(step));
        }
        world.reopen(None);
        world.complete();
    }
}

#[test]
fn a_power_failure_between_any_two_changes_loses_no_claims() {
    let sample = &*SAMPLE;
    let steps = download(sample);
    for end in 0..=changes_of(sample, &steps) {
        for seed in 0..12 {
            let mut world = World::new(sample);
            world.disk.lose_power_after(end);
            if world.create().is_ok() {
                steps.iter().for_each(|step| world.step(step));
            }
            world.reopen(Some(seed * 1_000 + end));
            if seed % 4 == 0 {
                world.complete();
            }
        }
    }
}

#[test]
fn taking_up_may_be_interrupted_too() {
    let sample = &*SAMPLE;
    // Half a download, with a window in each of both journals.
    let steps = [
        Step::Layers,
        Step::Write((0..8).collect()),
        Step::Mark(0, 1),
        Step::Checkpoint,
        Step::Mark(2, 1),
        // The claims cannot be written, so that the next window begins before this one is claimed.
        Step::Fault(Operation::Rename, "progress", broken(), 0),
        Step::Checkpoint,
        Step::Mark(4, 0),
        Step::Mark(5, 0),
    ];
    for first in [None, Some(5), Some(6), Some(7)] {
        for end in 0..40 {
            let mut world = World::new(sample);
            world.create().unwrap();
            steps.iter().for_each(|step| world.step(step));
            let before = match first {
                None => world.marked.clone(),
                Some(_) => world.claimed.clone(),
            };
            assert!(world.marked.len() > world.claimed.len());
            drop(world.store.take());
            world.disk = match first {
                None => world.disk.restart(),
                Some(seed) => world.disk.crash(&mut Dice::new(seed)).unwrap(),
            };
            world.disk.lose_power_after(end);
            let opened = TorrentStore::open(Path::new(DIR), world.disk.io());
            let dead = world.disk.is_dead();
            assert!(opened.is_ok() || dead);
            drop(opened);
            // Killed again: what was there before is there still.
            (world.marked, world.claimed) = (before.clone(), before);
            world.reopen(None);
            world.complete();
            if !dead {
                break;
            }
            assert!(end < 39, "it comes to an end");
        }
    }
}

#[test]
fn a_checkpoint_that_is_tried_again_may_be_interrupted_too() {
    let sample = &*SAMPLE;
    for end in 0..40 {
        let mut world = World::new(sample);
        world.create().unwrap();
        for step in [
            Step::Write((0..8).collect()),
            Step::Mark(0, 1),
            Step::Fault(Operation::Rename, "progress", broken(), 0),
            Step::Checkpoint,
            Step::Mark(2, 1),
            Step::EndAfter(end),
            Step::Checkpoint,
        ] {
            world.step(&step);
        }
        let dead = world.dead;
        world.reopen(None);
        assert_eq!(world.marked, (0..4).collect());
        world.complete();
        if !dead {
            return;
        }
    }
    panic!("it does not come to an end");
}

#[test]
fn what_a_failed_sync_lost_is_not_believed_after_a_kill() {
    let sample = &*SAMPLE;
    let faults = [None, Some((Operation::Rename, "progress"))];
    let faults = faults
        .into_iter()
        .chain([Some((Operation::SyncDirectory, "snapshot"))]);
    for (blocks, claims_fail) in (2..6).flat_map(|n| faults.clone().map(move |f| (n, f))) {
        let mut world = World::new(sample);
        world.create().unwrap();
        world.step(&Step::Layers);
        world.step(&Step::Write((0..10).collect()));
        if let Some((operation, path)) = claims_fail {
            // With these claims in doubt the journal has to be kept.
            world.step(&Step::Mark(8, 0));
            world.step(&Step::Fault(operation, path, broken(), 0));
            world.step(&Step::Checkpoint);
        }
        (0..blocks).for_each(|number| world.step(&Step::Mark(number, 0)));
        world.step(&Step::Fault(Operation::Sync, "content", broken(), 0));
        let store = world.store.as_ref().unwrap();
        let result = store.checkpoint();
        assert!(matches!(result, Err(StoreError::SyncFailed { .. })));
        world.claim(result.map(|_| ()));
        // What was lost may be overwritten by anything, and must not be claimed by then.
        world.step(&Step::Lie(0));
        drop(world.store.take());
        world.disk = world.disk.restart();
        let opened = TorrentStore::open(Path::new(DIR), world.disk.io());
        let (store, recovery) = opened.unwrap();
        let kept = store.is_block_verified(sample.blocks[8]);
        assert_eq!(kept, claims_fail.is_some());
        if claims_fail.is_none() {
            assert_eq!(recovery.blocks_rehashed + recovery.blocks_dropped, 0);
        }
        // Nor is it found in memory by reading everything again.
        store.verify_all(&|_| true).unwrap();
        sample.check_verified(&store).unwrap();
        drop(store);
        world.disk = world.disk.crash(&mut Dice::new(blocks as u64)).unwrap();
        let opened = TorrentStore::open(Path::new(DIR), world.disk.io());
        sample.check_verified(&opened.unwrap().0).unwrap();
    }
}

#[test]
fn a_failed_sync_unclaims_the_window_and_nothing_else() {
    let sample = &*SAMPLE;
    for path in ["content/sample/a", "content/sample/c", "leaves/0"] {
        let mut world = World::new(sample);
        world.create().unwrap();
        for step in [
            Step::Layers,
            Step::Write((0..10).collect()),
            Step::Mark(0, 1),
            Step::Checkpoint,
            Step::Mark(2, 1),
            Step::Mark(5, 0),
            Step::Fault(Operation::Sync, path, broken(), 0),
        ] {
            world.step(&step);
        }
        let claimed = world.claimed.clone();
        let result = world.store.as_ref().unwrap().checkpoint();
        let Err(StoreError::SyncFailed { lost, .. }) = &result else {
            panic!("{result:?}");
        };
        let blocks = &sample.blocks;
        assert_eq!(*lost, [blocks[2], blocks[3], blocks[5]]);
        world.claim(result.map(|_| ()));
        assert_eq!(world.marked, claimed);
        let store = world.store.as_ref().unwrap();
        world.compare(store);
        assert_eq!(store.dirty_bytes(), 0);
        // Also what was written and is proven only now: it may be gone, though it can be read.
        let late = sample.mark(store, blocks[4]);
        assert!(matches!(late, Err(StoreError::Lost { block }) if block == blocks[4]));
        sample.fill(store, &[blocks[4]]);
        assert_eq!(store.checkpoint().unwrap().blocks, 1);
        world.marked.insert(4);
        world.claimed.insert(4);
        world.reopen(Some(3));
        world.complete();
    }
}

#[test]
fn a_full_disk_is_told_from_a_broken_one_and_can_be_waited_for() {
    let sample = &*SAMPLE;
    for (operation, path) in [
        (Operation::Write, "content"),
        (Operation::Write, "leaves"),
        (Operation::Write, "journal"),
        (Operation::Write, "progress"),
        (Operation::Sync, "content"),
        (Operation::Sync, "progress"),
        (Operation::SyncDirectory, "snapshot"),
        (Operation::Rename, "progress"),
    ] {
        for (kind, full) in [(ErrorKind::StorageFull, true), (broken(), false)] {
            let mut world = World::new(sample);
            world.create().unwrap();
            world.disk.fail(operation, path, kind, 1);
            let store = world.store.as_ref().unwrap();
            let some = &sample.blocks[..4];
            let attempt = || {
                sample.write(store, some)?;
                some.iter()
                    .try_for_each(|block| sample.mark(store, *block))?;
                store.checkpoint()
            };
            let failed = attempt().unwrap_err();
            assert_eq!(failed.is_out_of_space(), full, "{path}: {failed:?}");
            // What is durable and could not be claimed still counts as dirty.
            let verified = store.verified_blocks();
            assert_eq!(store.dirty_bytes(), verified * BLOCK, "{path}");
            assert_eq!(store.dirty_bytes() > 0, verified > 0, "{path}");
            assert_eq!(attempt().unwrap().blocks, 4, "{path}");
            assert_eq!(store.dirty_bytes(), 0);
            assert_eq!(store.verified_blocks(), 4, "{path}");
            world.marked = (0..4).collect();
            world.claimed = world.marked.clone();
            world.reopen(Some(9));
            world.complete();
        }
    }
}

#[test]
fn what_becomes_verified_during_a_checkpoint_waits_for_the_next_one() {
    let sample = &*SAMPLE;
    let blocks = &sample.blocks;
    for fails in [false, true] {
        let disk = ForgetfulDisk::new();
        let store = Arc::new(sample.create(Path::new(DIR), disk.io()));
        sample.fill(&store, &blocks[..1]);
        sample.write(&store, &blocks[1..2]).unwrap();
        let meanwhile = store.clone();
        disk.before(Operation::Sync, "content", move || {
            SAMPLE.mark(&meanwhile, SAMPLE.blocks[1]).unwrap();
        });
        if fails {
            disk.fail(Operation::Sync, "content", broken(), 1);
            // What was written while the sync ran may be lost with the rest.
            let result = store.checkpoint();
            let Err(StoreError::SyncFailed { lost, .. }) = &result else {
                panic!("{result:?}");
            };
            assert_eq!(lost[..], blocks[..2]);
            assert_eq!((store.verified_blocks(), store.dirty_bytes()), (0, 0));
            continue;
        }
        assert_eq!(store.checkpoint().unwrap().blocks, 1);
        assert_eq!(store.dirty_bytes(), BLOCK);
        drop(store);
        let (store, recovery) = TorrentStore::open(Path::new(DIR), disk.restart().io()).unwrap();
        assert_eq!((recovery.blocks_claimed, recovery.blocks_rehashed), (1, 1));
        sample.check_verified(&store).unwrap();
    }
}

#[test]
fn no_write_lands_on_a_block_while_it_becomes_verified() {
    let sample = &*SAMPLE;
    let block = sample.blocks[0];
    let lie = vec![(block, Bytes::from(vec![0xee; BLOCK as usize]))];
    for scrub in [false, true] {
        let disk = ForgetfulDisk::new();
        let store = Arc::new(sample.create(Path::new(DIR), disk.io()));
        sample.write(&store, &sample.blocks).unwrap();
        // All others are verified, so that the next that becomes so is this one's piece.
        let (own, others): (Vec<_>, Vec<_>) =
            (sample.blocks.iter()).partition(|other| other.piece() == block.piece());
        for other in others {
            sample.mark(&store, other).unwrap();
        }
        let (liar, lie) = (store.clone(), lie.clone());
        let (done, hear) = std::sync::mpsc::channel::<()>();
        // Its hash is journalled; a moment later it counts as verified.
        disk.before(Operation::Write, "journal", move || {
            let written = std::thread::spawn(move || {
                liar.write_blocks(&lie).unwrap();
                drop(done);
            });
            // It has to wait for that, as this has not to wait for it.
            let waits = hear.recv_timeout(Duration::from_millis(200));
            assert_eq!(waits, Err(RecvTimeoutError::Timeout));
            drop(written);
        });
        if scrub {
            let found = store.verify_all(&|_| true).unwrap().found;
            assert_eq!(found, own.len() as u64);
        } else {
            sample.mark(&store, block).unwrap();
        }
        // The liar has his turn now, if not before.
        while Arc::strong_count(&store) > 1 {
            std::thread::yield_now();
        }
        sample.check_verified(&store).unwrap();
    }
}

#[test]
fn neighbours_are_written_with_one_call() {
    let sample = &*SAMPLE;
    let disk = ForgetfulDisk::new();
    let store = sample.create(Path::new(DIR), disk.io());
    let before = disk.changes();
    let mut all = sample.blocks.clone();
    all.reverse();
    sample.write(&store, &all).unwrap();
    // Five of the files are not empty.
    assert_eq!(disk.changes() - before, 5);
}

fn step() -> impl Strategy<Value = Step> {
    let fault = (
        prop_oneof![
            Just(Operation::Write),
            Just(Operation::Sync),
            Just(Operation::Sync),
            Just(Operation::SyncDirectory),
            Just(Operation::Rename),
            Just(Operation::Open),
        ],
        prop_oneof![
            Just(""),
            Just("content"),
            Just("leaves"),
            Just("journal"),
            Just("progress"),
        ],
        prop_oneof![Just(broken()), Just(ErrorKind::StorageFull)],
        0..4u32,
    );
    prop_oneof![
        6 => proptest::collection::vec(0..32usize, 1..8).prop_map(Step::Write),
        1 => (0..32usize).prop_map(Step::Lie),
        8 => (0..32usize, 0..2usize).prop_map(|(number, more)| Step::Mark(number, more)),
        1 => Just(Step::Layers),
        4 => Just(Step::Checkpoint),
        2 => Just(Step::Finish),
        1 => Just(Step::Verify),
        2 => fault.prop_map(|(operation, path, kind, skip)| {
            Step::Fault(operation, path, kind, skip)
        }),
        1 => (0..20u64).prop_map(Step::EndAfter),
        1 => Just(Step::Kill),
        1 => any::<u64>().prop_map(Step::Crash),
    ]
}

proptest! {
    #[test]
    fn nothing_that_happens_makes_a_false_claim(
        steps in proptest::collection::vec(step(), 1..60),
        seed in any::<u64>(),
    ) {
        let sample = &*SAMPLE;
        let mut world = World::new(sample);
        world.create().unwrap();
        steps.iter().for_each(|step| world.step(step));
        world.reopen(Some(seed));
        world.complete();
    }
}
