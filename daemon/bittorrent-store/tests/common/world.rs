//! A store on a disk that forgets, and what is known of it from outside.
#![allow(
    unreachable_pub,
    clippy::unwrap_used,
    reason = "a failed unwrap is a failed test"
)]

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;

use bittorrent_protocol::metainfo::Metainfo;
use bittorrent_store::testing::{Dice, ForgetfulDisk, Operation};
use bittorrent_store::{StoreError, TorrentStore};
use bytes::Bytes;

use crate::common::{BLOCK, Sample};

pub const DIR: &str = "/snapshot";

#[derive(Debug, Clone)]
pub enum Step {
    /// Blocks by number.
    Write(Vec<usize>),
    /// Bytes that are not the block's, as from a liar.
    Lie(usize),
    /// Says that a block, and so many behind it in its piece, are proven, if they were written.
    Mark(usize, usize),
    /// All piece layers become known.
    Layers,
    Checkpoint,
    Finish,
    Verify,
    /// The operation fails later.
    Fault(Operation, &'static str, ErrorKind, u32),
    /// The process or the power ends after so many changes: the next step that restarts tells which.
    EndAfter(u64),
    Kill,
    Crash(u64),
}

/// A store, and what is known of it from outside.
pub struct World<'a> {
    sample: &'a Sample,
    pub disk: ForgetfulDisk,
    /// `None` while it cannot be opened.
    pub store: Option<TorrentStore>,
    /// Blocks that hold good bytes as far as programs see.
    written: BTreeSet<usize>,
    pub marked: BTreeSet<usize>,
    pub claimed: BTreeSet<usize>,
    /// Durable, though their claims could not be written.
    synced: BTreeSet<usize>,
    /// Written, not proven, when a sync failed.
    doubtful: BTreeSet<usize>,
    faulty: bool,
    pub dead: bool,
}

impl<'a> World<'a> {
    pub fn new(sample: &'a Sample) -> Self {
        Self {
            sample,
            disk: ForgetfulDisk::new(),
            store: None,
            written: BTreeSet::new(),
            marked: BTreeSet::new(),
            claimed: BTreeSet::new(),
            synced: BTreeSet::new(),
            doubtful: BTreeSet::new(),
            faulty: false,
            dead: false,
        }
    }

    pub fn create(&mut self) -> Result<(), StoreError> {
        let bare = Metainfo::from_info(self.sample.meta.info().clone());
        let created = TorrentStore::create(Path::new(DIR), &bare, self.disk.io());
        self.dead = self.disk.is_dead();
        self.store = Some(created?);
        Ok(())
    }

    fn fails(&self, error: &StoreError) {
        let meant = self.faulty || self.disk.is_dead();
        assert!(meant, "fails without a fault: {error:?}");
    }

    pub fn step(&mut self, step: &Step) {
        match step {
            Step::Kill => return self.reopen(None),
            Step::Crash(seed) => return self.reopen(Some(*seed)),
            _ if self.dead => return,
            Step::EndAfter(changes) => return self.disk.lose_power_after(*changes),
            Step::Fault(operation, path, kind, skip) => {
                self.faulty = true;
                return self.disk.fail_later(*operation, path, *kind, *skip, 1);
            }
            _ => {}
        }
        let Some(store) = self.store.take() else {
            return;
        };
        self.try_step(&store, step);
        self.dead = self.disk.is_dead();
        if !self.dead {
            self.compare(&store);
        }
        self.store = Some(store);
    }

    fn try_step(&mut self, store: &TorrentStore, step: &Step) {
        let sample = self.sample;
        let blocks = &sample.blocks;
        match step {
            Step::Write(numbers) => {
                let numbers = numbers.iter().map(|n| n % blocks.len());
                let numbers: Vec<usize> = numbers.collect();
                let batch: Vec<_> = numbers.iter().map(|n| blocks[*n]).collect();
                let result = sample.write(store, &batch);
                for number in numbers {
                    self.doubtful.remove(&number);
                    match &result {
                        Ok(()) => {
                            self.written.insert(number);
                        }
                        Err(_) if self.marked.contains(&number) => {}
                        Err(_) => {
                            self.written.remove(&number);
                        }
                    }
                }
                match result {
                    Ok(()) => {}
                    Err(error) => self.fails(&error),
                }
            }
            Step::Lie(number) => {
                let number = number % blocks.len();
                let lie = vec![0xee; sample.bytes(blocks[number]).len()];
                let result = store.write_blocks(&[(blocks[number], Bytes::from(lie))]);
                if !self.marked.contains(&number) {
                    self.written.remove(&number);
                    self.doubtful.remove(&number);
                }
                match result {
                    Ok(()) => {}
                    Err(error) => self.fails(&error),
                }
            }
            Step::Mark(number, more) => {
                let number = number % blocks.len();
                let run: Vec<usize> = (number..blocks.len().min(number + 1 + more))
                    .take_while(|n| blocks[*n].piece() == blocks[number].piece())
                    .take_while(|n| self.written.contains(n))
                    .collect();
                let leaves: Vec<_> = run.iter().map(|n| sample.leaf(blocks[*n])).collect();
                let first = blocks[number];
                match store.mark_verified(first.piece(), first.in_piece(), &leaves) {
                    Ok(()) => {
                        assert!(run.iter().all(|n| !self.doubtful.contains(n)));
                        self.marked.extend(run);
                    }
                    Err(StoreError::Lost { block }) => {
                        let found = blocks.iter().position(|b| *b == block).unwrap();
                        assert!(run.contains(&found) && self.doubtful.contains(&found));
                    }
                    Err(error) => self.fails(&error),
                }
            }
            Step::Layers => {
                for (number, layer) in (0..).zip(sample.meta.layers()) {
                    let file = sample.layout().file_index(number).unwrap();
                    if let Some(layer) = layer
                        && let Err(error) = store.set_layer(file, layer.clone())
                    {
                        self.fails(&error);
                    }
                }
            }
            Step::Checkpoint => {
                let window = self.marked.len() - self.claimed.len();
                let result = store.checkpoint();
                if let Ok(checkpoint) = &result
                    && !self.faulty
                {
                    assert_eq!(checkpoint.blocks, window as u64);
                }
                self.claim(result.map(|_| ()));
            }
            Step::Finish => {
                let missing = blocks.len() - self.marked.len();
                match store.finish() {
                    Err(StoreError::Incomplete { missing: counted }) => {
                        assert_eq!(counted, missing as u64);
                        assert!(missing > 0);
                    }
                    result => {
                        assert_eq!(missing, 0);
                        self.claim(result);
                    }
                }
            }
            Step::Verify => match store.verify_all(&|_| true) {
                Ok(verification) => {
                    assert!(verification.damaged.is_empty());
                    assert_eq!(verification.leaves_mended, 0);
                    assert_eq!(store.dirty_bytes(), 0);
                    self.adopt(store);
                }
                Err(error @ StoreError::SyncFailed { .. }) => {
                    self.fails(&error);
                    // What it had found is lost again, with the rest of the window.
                    self.lose();
                    self.adopt_window(store);
                }
                Err(error) => {
                    self.fails(&error);
                    if !self.disk.is_dead() {
                        self.adopt_window(store);
                    }
                }
            },
            Step::Fault(..) | Step::EndAfter(_) | Step::Kill | Step::Crash(_) => {}
        }
    }

    /// A checkpoint came to its end.
    pub fn claim(&mut self, result: Result<(), StoreError>) {
        let durable: BTreeSet<usize> = self.claimed.union(&self.synced).copied().collect();
        match result {
            Ok(()) => self.claimed = self.marked.clone(),
            Err(StoreError::SyncFailed { lost, .. }) if !self.disk.is_dead() => {
                assert!(self.faulty);
                let position = |block| self.sample.blocks.iter().position(|b| *b == block);
                let lost: BTreeSet<usize> = lost.into_iter().filter_map(position).collect();
                let window: BTreeSet<usize> = self.marked.difference(&durable).copied().collect();
                assert_eq!(
                    lost, window,
                    "the window is lost, all of it and nothing else"
                );
                self.lose();
            }
            // It may have failed before the end came.
            Err(StoreError::SyncFailed { .. }) if self.faulty => self.lose(),
            Err(error) => {
                self.fails(&error);
                // Everything but the claims was made durable, unless it did not even begin.
                let began = !matches!(&error, StoreError::Create { path, .. } if is_journal(path));
                if began && !self.disk.is_dead() {
                    self.synced = self.marked.clone();
                }
            }
        }
    }

    /// Nothing that was not durable counts.
    fn lose(&mut self) {
        self.marked = self.claimed.union(&self.synced).copied().collect();
        let unproven = self.written.difference(&self.marked);
        self.doubtful.extend(unproven);
    }

    fn verified(&self, store: &TorrentStore) -> BTreeSet<usize> {
        let blocks = self.sample.blocks.iter().enumerate();
        blocks
            .filter(|(_, block)| store.is_block_verified(**block))
            .map(|(number, _)| number)
            .collect()
    }

    /// Believes the store, which claims what it has.
    fn adopt(&mut self, store: &TorrentStore) {
        self.adopt_window(store);
        self.claimed = self.marked.clone();
    }

    /// Believes the store, which may claim more than is known.
    fn adopt_window(&mut self, store: &TorrentStore) {
        let verified = self.verified(store);
        assert!(verified.is_superset(&self.marked));
        self.marked = verified;
        self.written.extend(&self.marked);
        self.doubtful = &self.doubtful - &self.marked;
    }

    pub fn compare(&self, store: &TorrentStore) {
        assert_eq!(self.verified(store), self.marked);
        self.sample.check_verified(store).unwrap();
        assert!(store.dirty_bytes() <= self.marked.len() as u64 * BLOCK);
    }

    /// Takes it up after the process was killed or, with a seed, after the power failed.
    pub fn reopen(&mut self, crash: Option<u64>) {
        let started = self.store.take().is_some();
        let mut least = match crash {
            None => self.marked.clone(),
            Some(_) => self.claimed.clone(),
        };
        self.disk = match crash {
            None => self.disk.restart(),
            Some(seed) => self.disk.crash(&mut Dice::new(seed)).unwrap(),
        };
        (self.faulty, self.dead) = (false, false);
        self.doubtful.clear();
        self.synced.clear();
        match TorrentStore::open(Path::new(DIR), self.disk.io()) {
            Ok((store, recovery)) => {
                if started {
                    assert!(!recovery.claims_lost, "{recovery:?}");
                }
                let verified = self.verified(&store);
                let found = recovery.blocks_claimed + recovery.blocks_rehashed;
                assert_eq!(verified.len() as u64, found, "{recovery:?}");
                let lost: Vec<_> = least.difference(&verified).collect();
                assert!(lost.is_empty(), "{lost:?} lost, {recovery:?}");
                least = verified;
                self.store = Some(store);
            }
            Err(error) => {
                assert!(!started, "cannot be opened: {error:?}");
                assert!(least.is_empty());
                self.create().unwrap();
            }
        }
        (self.marked, self.claimed) = (least.clone(), least.clone());
        self.written = least;
        let store = self.store.take().unwrap();
        self.compare(&store);
        self.store = Some(store);
    }

    /// In the end everything can be brought to its end.
    pub fn complete(mut self) {
        self.disk.heal();
        self.reopen(None);
        let store = self.store.take().unwrap();
        if !store.is_sealed() {
            self.sample.complete(&store);
        }
        drop(store);
        let disk = self.disk.crash(&mut Dice::new(1)).unwrap();
        let (store, recovery) = TorrentStore::open(Path::new(DIR), disk.io()).unwrap();
        assert_eq!(recovery.blocks_claimed, store.total_blocks());
        assert!(store.is_complete() && !recovery.claims_lost);
        // A process killed while it sealed may have left that to the power failure.
        store.finish().unwrap();
        drop(store);
        let disk = disk.crash(&mut Dice::new(2)).unwrap();
        let (store, recovery) = TorrentStore::open(Path::new(DIR), disk.io()).unwrap();
        assert_eq!(recovery.blocks_claimed, store.total_blocks());
        assert!(store.is_complete() && store.is_sealed() && !recovery.claims_lost);
        self.sample.check_verified(&store).unwrap();
    }
}

fn is_journal(path: &Path) -> bool {
    path.to_string_lossy().contains("journal")
}
