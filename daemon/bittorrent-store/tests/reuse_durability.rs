//! Whatever ends an update, neither generation claims a block that is not there.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::path::Path;
use std::sync::Arc;

use bittorrent_store::testing::{Dice, ForgetfulDisk};
use bittorrent_store::{ReuseSources, StoreError, TorrentStore};
use common::{BLOCK, Sample, salted};

const OLD: &str = "/old";
const NEW: &str = "/new";

fn samples(dice: &mut Dice) -> (Sample, Sample) {
    let bytes = salted(14 * BLOCK + 300, 1);
    let mut fresh = bytes.clone();
    fresh.resize((10 + dice.below(8)) as usize * BLOCK as usize + 300, 9);
    for _ in 0..dice.below(6) {
        let (from, to) = (dice.below(10) as usize, dice.below(10) as usize);
        let block = BLOCK as usize;
        match dice.below(3) {
            0 => fresh[to * block..(to + 1) * block].fill(0),
            1 => fresh[to * block] ^= 1,
            _ => fresh.copy_within(from * block..(from + 1) * block, to * block),
        }
    }
    let piece = BLOCK << dice.below(3);
    let twin = salted(3 * BLOCK, 4);
    let old = [("a", bytes), ("b", twin.clone()), ("c", salted(99, 5))];
    let new = [("a", fresh), ("c", salted(99, 6)), ("x", twin)];
    (
        Sample::directory(piece, &old),
        Sample::directory(piece, &new),
    )
}

/// An update until it is done, or the power is gone.
fn update(
    disk: &ForgetfulDisk,
    old: &Arc<TorrentStore>,
    new: &Sample,
    dice: &mut Dice,
) -> Result<TorrentStore, StoreError> {
    let mut sources = ReuseSources::new(vec![old.clone()]);
    if dice.toss() {
        sources = sources.with_index(Path::new("/scratch"), &*disk.io(), &|| true)?;
    }
    let store = match TorrentStore::open(Path::new(NEW), disk.io()) {
        Ok((store, _)) => store,
        Err(_) => sources.create(Path::new(NEW), &new.meta, disk.io())?.0,
    };
    for piece in new.layout().piece_indices() {
        let leaves = dice.toss().then(|| new.leaves(piece));
        for (block, leaf) in sources.reuse_blocks(&store, piece, leaves.as_deref())? {
            if dice.below(8) > 0 {
                store.mark_verified(piece, block.in_piece(), &[leaf])?;
            }
        }
        if dice.below(3) == 0 {
            store.checkpoint()?;
        }
    }
    let missing: Vec<_> = new
        .blocks
        .iter()
        .copied()
        .filter(|block| !store.is_block_verified(*block))
        .collect();
    for block in missing {
        new.write(&store, &[block])?;
        new.mark(&store, block)?;
    }
    store.finish()?;
    Ok(store)
}

#[test]
fn a_hundred_power_failures_during_an_update_make_no_false_claim() {
    for seed in 0..100 {
        let mut dice = Dice::new(seed);
        let (old_sample, new) = samples(&mut dice);
        let mut disk = ForgetfulDisk::new();
        if dice.toss() {
            disk = disk.with_reflinks();
        }
        old_sample.complete(&old_sample.create(Path::new(OLD), disk.io()));
        let mut ends = 0;
        loop {
            let (old, recovery) = TorrentStore::open(Path::new(OLD), disk.io()).unwrap();
            assert!(old.is_sealed() && !recovery.claims_lost, "seed {seed}");
            old_sample.check_verified(&old).unwrap();
            let old = Arc::new(old);
            if ends < 4 {
                disk.lose_power_after(dice.below(120 << ends));
            }
            let result = update(&disk, &old, &new, &mut dice);
            if let Ok(store) = &result
                && !disk.is_dead()
            {
                new.check_verified(store).unwrap();
            }
            let done = result.is_ok();
            assert!(done || disk.is_dead(), "seed {seed}: {result:?}");
            drop(result);
            disk = disk.crash(&mut dice).unwrap();
            if let Ok((store, _)) = TorrentStore::open(Path::new(NEW), disk.io()) {
                new.check_verified(&store)
                    .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
                assert!(!done || store.is_sealed());
            } else {
                assert!(!done);
            }
            if done {
                break;
            }
            ends += 1;
        }
    }
}
