//! Whole downloads, beside a generation that is held already, in which the power fails at any moment:
//! whatever part of what was not synced the disk has lost, nothing false is claimed, and no more than
//! the window between two checkpoints comes again. `POWER_LOSSES` says how many.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bittorrent_protocol::BLOCK_LEN;
use bittorrent_protocol::metainfo::Metainfo;
use bittorrent_session::{Session, SessionConfig, Tuning};
use bittorrent_store::testing::{Dice, ForgetfulDisk};
use bittorrent_store::{ReuseSources, StoreError, TorrentStore};
use common::{Sample, addr, config, noise, session, wait_for};
use tokio::task::JoinSet;

const BLOCK: usize = BLOCK_LEN as usize;
const OLD: &str = "/old";
const NEW: &str = "/new";

const LOSSES: &str = "POWER_LOSSES";
const DEFAULT_LOSSES: u64 = 100;

/// Verified bytes after which a checkpoint is made.
const WINDOW: u64 = 512 << 10;

/// Bytes that were received and not proven, or proven while a checkpoint ran.
const UNDER_WAY: u64 = 1 << 20;

/// How often the power fails during one download at most.
const LOSSES_EACH: u32 = 6;

/// Downloads at a time: each waits for its session most of the time.
const AT_A_TIME: u64 = 8;

/// Two days of a directory of two files: half of the blocks changed.
fn days() -> [Sample; 2] {
    let old = noise(1, 300 * BLOCK + 700);
    let mut new = old.clone();
    for (number, block) in new.chunks_mut(BLOCK).enumerate() {
        if number % 2 == 1 {
            block[number] ^= 0x55;
        }
    }
    let fresh = noise(2, 90 * BLOCK + 1);
    let day = |ledger: Vec<u8>, other: Vec<u8>| {
        let files = [("data.ldb".to_owned(), ledger), ("other".to_owned(), other)];
        Sample::files("day", &files, 4 * BLOCK as u64)
    };
    [day(old, noise(3, 5 * BLOCK)), day(new, fresh)]
}

/// What is on the disk of the old day, or as far as the new one came.
fn take_up(dir: &str, disk: &ForgetfulDisk) -> Result<TorrentStore, StoreError> {
    Ok(TorrentStore::open(Path::new(dir), disk.io())?.0)
}

/// Downloads until it is whole, or the power is gone. Gives the bytes that came, of peers and out of the
/// old day.
async fn download(
    disk: &ForgetfulDisk,
    old: Arc<TorrentStore>,
    new: &Sample,
    seed: SocketAddr,
    dice: &mut Dice,
) -> u64 {
    let leech = Session::start(SessionConfig {
        tuning: Tuning {
            checkpoint_bytes: WINDOW,
            checkpoint_pause: std::time::Duration::ZERO,
            write_buffer_bytes: 256 << 10,
            ..Tuning::default()
        },
        ..config()
    })
    .await
    .unwrap();
    let mut sources = ReuseSources::new(vec![old]);
    let went_on = async {
        if dice.toss() {
            let scratch = Path::new("/scratch");
            sources = sources.with_index(scratch, &*disk.io(), &|| true)?;
        }
        let store = match take_up(NEW, disk) {
            Ok(store) => store,
            Err(_) => {
                let bare = Metainfo::from_info(new.meta.info().clone());
                sources.create(Path::new(NEW), &bare, disk.io())?.0
            }
        };
        let store = Arc::new(store);
        let added = leech
            .add_store_reusing(store.clone(), Arc::new(sources))
            .await;
        let torrent = match added {
            Ok(torrent) => torrent,
            // The power went while its hashes were read.
            Err(error) => {
                assert!(disk.is_dead(), "{error:?}");
                return Ok(0);
            }
        };
        torrent.add_peers(&[seed]).await;
        let done = wait_for(&torrent, "done or dead", |status| {
            status.phase.is_seeding() || status.phase.error().is_some()
        })
        .await;
        if done.phase.is_seeding() {
            assert!(store.is_sealed());
            // The power may go even now.
            if let Err(error) = read_all(&store, new) {
                assert!(disk.is_dead(), "{error:?}");
            }
        } else {
            assert!(disk.is_dead(), "{done:#?}");
        }
        torrent.remove().await;
        let status = torrent.status();
        Ok::<_, StoreError>(status.downloaded_payload + status.bytes_reused)
    };
    let came = went_on.await.unwrap_or_else(|error| {
        assert!(disk.is_dead(), "{error:?}");
        0
    });
    leech.shutdown().await;
    came
}

/// Reads a store that is whole.
fn read_all(store: &TorrentStore, sample: &Sample) -> Result<(), StoreError> {
    for piece in sample.layout().piece_indices() {
        let mut is = vec![0; sample.layout().piece_size(piece) as usize];
        store.read(piece, 0, &mut is)?;
        let good = sample.stretch(piece, 0, is.len() as u32);
        assert!(is == good, "piece {piece} differs");
    }
    Ok(())
}

/// Every block that is claimed is there.
fn check(store: &TorrentStore, sample: &Sample) {
    for piece in sample.layout().piece_indices() {
        for block in sample.layout().blocks(piece) {
            if store.is_block_verified(block) {
                let mut is = vec![0; sample.layout().block_size(block) as usize];
                store.read(piece, block.begin(), &mut is).unwrap();
                let good = sample.stretch(piece, block.begin(), is.len() as u32);
                assert!(is == good, "{block} is claimed and wrong");
            }
        }
    }
}

/// What came of one download.
#[derive(Debug, Default)]
struct Account {
    losses: u64,
    /// After so many of them something was there.
    taken_up: u64,
    /// Bytes that came more than once.
    again: u64,
}

/// One download from its beginning to its end.
async fn life(number: u64, [old, new]: &[Sample; 2], seed: SocketAddr) -> Account {
    let mut dice = Dice::new(number);
    let mut disk = ForgetfulDisk::new();
    if dice.toss() {
        disk = disk.with_reflinks();
    }
    old.fill(&TorrentStore::create(Path::new(OLD), &old.meta, disk.io()).unwrap());
    let mut account = Account::default();
    let mut came = 0;
    for ends in 0.. {
        let held = Arc::new(take_up(OLD, &disk).unwrap());
        if ends < LOSSES_EACH {
            disk.lose_power_after(dice.below(60 << ends));
        }
        came += download(&disk, held, new, seed, &mut dice).await;
        let died = disk.is_dead();
        disk = disk.crash(&mut dice).unwrap();
        let store = take_up(OLD, &disk).unwrap();
        assert!(store.is_sealed());
        check(&store, old);
        match take_up(NEW, &disk) {
            Ok(store) => {
                check(&store, new);
                assert!(died || store.is_sealed());
                account.taken_up += u64::from(died && store.verified_blocks() > 0);
            }
            Err(error) => assert!(died, "{error:?}"),
        }
        if !died {
            break;
        }
        account.losses += 1;
    }
    let length: u64 = new.contents.iter().map(|file| file.len() as u64).sum();
    account.again = came.checked_sub(length).unwrap();
    account
}

#[tokio::test(flavor = "multi_thread")]
async fn downloads_in_which_the_power_fails_make_no_false_claim_and_lose_little() {
    let wanted = std::env::var(LOSSES).map_or(DEFAULT_LOSSES, |text| text.parse().unwrap());
    let days = Arc::new(days());
    let dir = tempfile::tempdir().unwrap();
    let session = session().await;
    let whole = days[1].full_store(&dir.path().join("seed"));
    session.add_store(whole).await.unwrap();
    let (seed, mut downloads) = (addr(&session), 0);
    let mut sum = Account::default();
    while sum.losses < wanted {
        let mut running = JoinSet::new();
        for number in downloads..downloads + AT_A_TIME {
            let days = days.clone();
            running.spawn(async move { life(number, &days, seed).await });
        }
        for account in running.join_all().await {
            sum.losses += account.losses;
            sum.taken_up += account.taken_up;
            sum.again += account.again;
        }
        downloads += AT_A_TIME;
    }
    session.shutdown().await;
    let Account {
        losses,
        taken_up,
        again,
    } = sum;
    println!(
        "{losses} power losses in {downloads} downloads, after {taken_up} of them something was there: \
         {again} bytes came again, {} each, of a window of {WINDOW}",
        again / losses
    );
    assert!(again <= losses * (WINDOW + UNDER_WAY));
    // Else they fell before anything had come.
    assert!(taken_up >= losses / 4, "{taken_up}");
}
