//! Whole lives of a generation, with the power failing anywhere in them: made, filled from a held one
//! and from peers, sealed, rotten, scrubbed, mended, sealed again. `POWER_LOSSES` says how many lives.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use bittorrent_protocol::BlockIndex;
use bittorrent_store::testing::{Dice, ForgetfulDisk};
use bittorrent_store::{ReuseSources, ScrubCursor, StoreError, TorrentStore};
use common::{BLOCK, Sample, salted};

const OLD: &str = "/old";
const NEW: &str = "/new";

/// Bytes that are verified before they are made durable, as a session does it.
const WINDOW: u64 = 4 * BLOCK;

/// Blocks of the longest pieces: so many more may be verified at once.
const PIECE: u64 = 4;

const LIVES: &str = "POWER_LOSSES";
const DEFAULT_LIVES: u64 = 100;

/// What is known of a generation from outside.
struct Life {
    sample: Sample,
    /// Blocks that a checkpoint has claimed, so that no power failure may cost them.
    durable: BTreeSet<BlockIndex>,
    /// Blocks that were verified when the power failed.
    held: BTreeSet<BlockIndex>,
    /// The most blocks that a power failure cost.
    most_lost: u64,
    /// Blocks that rotted and were not found yet, or not durably.
    rotten: BTreeSet<BlockIndex>,
    has_rotted: bool,
    /// How often the power is still to fail while rot is looked for and mended.
    failures_in_scrubs: u32,
}

impl Life {
    fn verified(&self, store: &TorrentStore) -> BTreeSet<BlockIndex> {
        let blocks = self.sample.blocks.iter().copied();
        blocks
            .filter(|block| store.is_block_verified(*block))
            .collect()
    }

    /// Whether a block has the bytes it should have.
    fn is_good(&self, store: &TorrentStore, block: BlockIndex) -> bool {
        let good = self.sample.bytes(block);
        let mut found = vec![0; good.len()];
        store
            .read(block.piece(), block.begin(), &mut found)
            .is_ok_and(|()| found == good)
    }

    /// No false claim except for rot that was not found yet, nothing lost that was claimed, and no
    /// more than the window of what was not.
    fn check(&mut self, store: &TorrentStore) {
        let verified = self.verified(store);
        for block in verified.difference(&self.rotten) {
            assert!(self.is_good(store, *block), "{block} is false");
        }
        let kept: BTreeSet<_> = verified.union(&self.rotten).copied().collect();
        let lost: Vec<_> = self.durable.difference(&kept).collect();
        assert!(lost.is_empty(), "{lost:?} lost");
        let cost = self.held.difference(&kept).count() as u64;
        assert!(cost * BLOCK < WINDOW + PIECE * BLOCK, "{cost} blocks lost");
        self.most_lost = self.most_lost.max(cost);
        self.held = verified;
    }

    /// After more was verified: makes it durable once it is as much as the window.
    fn grow(&mut self, store: &TorrentStore) -> Result<(), StoreError> {
        self.held = self.verified(store);
        if store.dirty_bytes() >= WINDOW {
            self.checkpoint(store)?;
        }
        Ok(())
    }

    fn checkpoint(&mut self, store: &TorrentStore) -> Result<(), StoreError> {
        store.checkpoint()?;
        self.durable = self.verified(store);
        Ok(())
    }

    /// Lives until everything is done, or the power is gone.
    fn live(
        &mut self,
        disk: &ForgetfulDisk,
        old: &Arc<TorrentStore>,
        dice: &mut Dice,
    ) -> Result<(), StoreError> {
        let sources = ReuseSources::new(vec![old.clone()]);
        let store = match TorrentStore::open(Path::new(NEW), disk.io()) {
            Ok((store, _)) => store,
            Err(_) => {
                let meta = &self.sample.meta;
                sources.create(Path::new(NEW), meta, disk.io())?.0
            }
        };
        self.fill(&store, &sources, dice)?;
        self.seal(&store)?;
        if !self.has_rotted {
            self.rot(disk, dice);
        }
        if self.failures_in_scrubs > 0 {
            self.failures_in_scrubs -= 1;
            disk.lose_power_after(dice.below(30));
        }
        // Twice: the second time finds nothing.
        for pass in 0..2 {
            let found = self.scrub(disk, &store, dice)?;
            assert!(pass == 0 || !found, "what was mended is found again");
            if let Err(error) = self.sample.check_verified(&store) {
                assert!(disk.is_dead(), "{error}");
                return Err(StoreError::Cancelled);
            }
            self.fill(&store, &sources, dice)?;
            self.seal(&store)?;
        }
        Ok(())
    }

    fn fill(
        &mut self,
        store: &TorrentStore,
        sources: &ReuseSources,
        dice: &mut Dice,
    ) -> Result<(), StoreError> {
        if store.is_sealed() {
            return Ok(());
        }
        for piece in self.sample.layout().clone().piece_indices() {
            let leaves = dice.toss().then(|| self.sample.leaves(piece));
            for (block, leaf) in sources.reuse_blocks(store, piece, leaves.as_deref())? {
                store.mark_verified(piece, block.in_piece(), &[leaf])?;
            }
            self.grow(store)?;
        }
        for block in self.sample.blocks.clone() {
            if store.is_block_verified(block) {
                continue;
            }
            self.sample.write(store, &[block])?;
            self.sample.mark(store, block)?;
            self.grow(store)?;
        }
        Ok(())
    }

    fn seal(&mut self, store: &TorrentStore) -> Result<(), StoreError> {
        store.finish()?;
        assert!(store.is_sealed());
        self.durable = self.verified(store);
        // What was mended is durable, too.
        let rotten = std::mem::take(&mut self.rotten);
        let still = rotten
            .into_iter()
            .filter(|block| !self.is_good(store, *block));
        self.rotten = still.collect();
        Ok(())
    }

    fn rot(&mut self, disk: &ForgetfulDisk, dice: &mut Dice) {
        self.has_rotted = true;
        for _ in 0..1 + dice.below(3) {
            let blocks = &self.sample.blocks;
            let block = blocks[dice.below(blocks.len() as u64) as usize];
            let layout = self.sample.layout();
            let file = layout.file_of(block.piece());
            let name = ["a", "c", "x"][file.as_usize()];
            let path = Path::new(NEW).join("content/sample").join(name);
            let offset = layout.offset_in_file(block.piece()) + u64::from(block.begin());
            let length = u64::from(layout.block_size(block));
            let place = offset + dice.below(length);
            let old = disk.read(&path).unwrap()[place as usize];
            disk.rot_on_disk(&path, place, &[old ^ 0x10]).unwrap();
            self.rotten.insert(block);
        }
    }

    /// A whole scrub; whether it found anything.
    fn scrub(
        &mut self,
        disk: &ForgetfulDisk,
        store: &TorrentStore,
        dice: &mut Dice,
    ) -> Result<bool, StoreError> {
        let mut cursor = ScrubCursor::default();
        let mut found = false;
        loop {
            let slice = store.scrub_slice(&mut cursor, dice.below(4) * BLOCK)?;
            if disk.is_dead() {
                // Nothing can be read any more, which looks like damage.
                return Err(StoreError::Cancelled);
            }
            for damage in &slice.damage {
                assert!(self.rotten.contains(&damage.block), "{damage:?}");
                assert!(!store.is_block_verified(damage.block));
                self.durable.remove(&damage.block);
                self.held.remove(&damage.block);
                found = true;
            }
            if slice.done {
                return Ok(found);
            }
        }
    }
}

fn samples(dice: &mut Dice) -> (Sample, Sample) {
    let bytes = salted(11 * BLOCK + 300, 1);
    let mut fresh = bytes.clone();
    for _ in 0..dice.below(6) {
        let at = (dice.below(11) * BLOCK) as usize;
        fresh[at] ^= 1;
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

#[test]
fn lives_with_power_failures_make_no_false_claim_and_lose_no_more_than_the_window() {
    let lives = std::env::var(LIVES).map_or(DEFAULT_LIVES, |text| text.parse().unwrap());
    let (mut failures, mut in_scrubs, mut most_lost) = (0, 0, 0);
    for seed in 0..lives {
        let mut dice = Dice::new(seed);
        let (old_sample, new) = samples(&mut dice);
        let mut disk = ForgetfulDisk::new();
        if dice.toss() {
            disk = disk.with_reflinks();
        }
        old_sample.complete(&old_sample.create(Path::new(OLD), disk.io()));
        let mut life = Life {
            sample: new,
            durable: BTreeSet::new(),
            held: BTreeSet::new(),
            most_lost: 0,
            rotten: BTreeSet::new(),
            has_rotted: false,
            failures_in_scrubs: 2,
        };
        for ends in 0.. {
            let (old, _) = TorrentStore::open(Path::new(OLD), disk.io()).unwrap();
            old_sample.check_verified(&old).unwrap();
            let old = Arc::new(old);
            if ends < 4 && !life.has_rotted {
                disk.lose_power_after(dice.below(60 << ends));
            }
            let result = life.live(&disk, &old, &mut dice);
            assert!(result.is_ok() || disk.is_dead(), "seed {seed}: {result:?}");
            let done = result.is_ok() && !disk.is_dead();
            disk = disk.crash(&mut dice).unwrap();
            match TorrentStore::open(Path::new(NEW), disk.io()) {
                Ok((store, _)) => {
                    life.check(&store);
                    assert!(!done || store.is_sealed(), "seed {seed}");
                }
                Err(error) => assert!(life.durable.is_empty(), "seed {seed}: {error:?}"),
            }
            if done {
                break;
            }
            failures += 1;
            in_scrubs += u64::from(life.has_rotted);
        }
        most_lost = most_lost.max(life.most_lost);
    }
    println!(
        "{lives} lives, {failures} power failures, {in_scrubs} of them after the rot began: at most {} KiB \
         verified again, of a window of {} KiB and a piece of at most {} KiB",
        most_lost * BLOCK / 1024,
        WINDOW / 1024,
        PIECE * BLOCK / 1024,
    );
    assert!(
        failures >= 2 * lives && in_scrubs >= lives,
        "{failures} {in_scrubs}"
    );
    // Else nothing was measured.
    assert!(most_lost > 0);
}
