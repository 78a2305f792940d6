//! Disks that fail, and files that are not in memory.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use bittorrent_session::AddError;
use bittorrent_store::TorrentStore;
use bittorrent_store::testing::{ForgetfulDisk, Operation};
use common::{Sample, addr, session, wait_for, wait_seeding};

/// Everything an error and its sources say.
fn chain(mut error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    while let Some(source) = error.source() {
        text += ": ";
        text += &source.to_string();
        error = source;
    }
    text
}

/// Downloads to a disk where `operation` fails once, late, and expects to hear of it.
async fn ends_with(operation: Operation, kind: ErrorKind, expected: &str) {
    let sample = Sample::file("limited", 8 << 20, 64 * 1024, false);
    let dir = tempfile::tempdir().unwrap();
    let (seed, leech) = (session().await, session().await);
    let full = sample.full_store(&dir.path().join("seed"));
    seed.add_store(full).await.unwrap();
    let disk = ForgetfulDisk::new();
    let store = TorrentStore::create(Path::new("/leech"), &sample.meta, disk.io()).unwrap();
    let store = Arc::new(store);
    disk.fail(operation, "content", kind, 1);
    let torrent = leech.add_store(store.clone()).await.unwrap();
    torrent.add_peers(&[addr(&seed)]).await;
    let status = wait_for(&torrent, "stopped", |status| status.phase.error().is_some()).await;
    let said = chain(&**status.phase.error().unwrap());
    assert!(said.contains(expected), "{said}");
    assert_eq!(status.peers, 0, "it parts with its peers");
    assert!(torrent.peers().await.is_empty());
    // A way on: the torrent is removed, the store opened again.
    torrent.remove().await;
    drop(store);
    let (store, _) = TorrentStore::open(Path::new("/leech"), disk.io()).unwrap();
    let store = Arc::new(store);
    let torrent = leech.add_store(store.clone()).await.unwrap();
    torrent.add_peers(&[addr(&seed)]).await;
    wait_seeding(&torrent).await;
    sample.assert_held_by(&store);
    let report = leech.shutdown().await;
    assert!(report.failures.is_empty());
    seed.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_the_torrent_and_is_named() {
    ends_with(Operation::Write, ErrorKind::StorageFull, "no storage space").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_forgets_stops_the_torrent_and_is_named() {
    ends_with(Operation::Sync, ErrorKind::Other, "the disk lost").await;
}

/// The failure shows in the report of a shutdown, which ends all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_disk_does_not_hold_up_the_end() {
    let sample = Sample::file("dead", 4 << 20, 64 * 1024, false);
    let dir = tempfile::tempdir().unwrap();
    let (seed, leech) = (session().await, session().await);
    let part = sample.store_with(&dir.path().join("seed"), |piece| piece.get() < 40);
    seed.add_store(part).await.unwrap();
    let disk = ForgetfulDisk::new();
    let store = TorrentStore::create(Path::new("/leech"), &sample.meta, disk.io()).unwrap();
    let torrent = leech.add_store(Arc::new(store)).await.unwrap();
    torrent.add_peers(&[addr(&seed)]).await;
    wait_for(&torrent, "as far as the seed", |status| {
        status.pieces_verified == 40
    })
    .await;
    disk.lose_power_after(0);
    let report = leech.shutdown().await;
    let [(hash, error)] = report.failures.as_slice() else {
        panic!("{report:?}");
    };
    assert_eq!(*hash, sample.meta.info().hashes().v2);
    assert!(chain(&**error).contains("making content durable"));
    assert!(matches!(
        torrent
            .attach(sample.empty_store(&dir.path().join("late")))
            .await,
        Err(AddError::Ending)
    ));
    seed.shutdown().await;
}

/// Nothing is asked for that could not be written, and what is there goes to who wants it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_full_disk_has_is_served() {
    let sample = Sample::file("part", 8 << 20, 64 * 1024, false);
    let dir = tempfile::tempdir().unwrap();
    let (seed, full, leech) = (session().await, session().await, session().await);
    let whole = sample.full_store(&dir.path().join("seed"));
    seed.add_store(whole).await.unwrap();
    let disk = ForgetfulDisk::new();
    let part = TorrentStore::create(Path::new("/part"), &sample.meta, disk.io()).unwrap();
    sample.write_to(&part, |piece| piece.get() % 3 == 0);
    disk.fill_up_after(0);
    let serving = full.add_store_seed_only(Arc::new(part)).await.unwrap();
    serving.add_peers(&[addr(&seed)]).await;
    let wanted = sample.empty_store(&dir.path().join("leech"));
    let torrent = leech.add_store(wanted.clone()).await.unwrap();
    torrent.add_peers(&[addr(&full)]).await;
    let there = wait_for(&torrent, "as far as the disk", |status| {
        status.pieces_verified == 43
    })
    .await;
    assert_eq!(there.bytes_verified, 43 * 64 * 1024);
    serving.remove().await;
    let status = serving.status();
    assert!(status.phase.error().is_none(), "{status:#?}");
    assert_eq!((status.downloaded_payload, status.hash_bytes), (0, 0));
    for session in [seed, full, leech] {
        assert!(session.shutdown().await.failures.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_in_memory_is_served_all_the_same() {
    let sample = Sample::file("cold", 12_000_003, 256 * 1024, false);
    let dir = tempfile::tempdir().unwrap();
    let (seed, leech) = (session().await, session().await);
    let full = sample.full_store(&dir.path().join("seed"));
    let file = sample.layout().file_index(0).unwrap();
    let content = std::fs::File::open(full.file_path(file)).unwrap();
    content.sync_all().unwrap();
    // Every other half MiB, so that both ways of serving take turns.
    for part in (0..12_000_003).step_by(1 << 20) {
        let length = std::num::NonZero::new(512 * 1024);
        rustix::fs::fadvise(&content, part, length, rustix::fs::Advice::DontNeed).unwrap();
    }
    seed.add_store(full).await.unwrap();
    let store = sample.empty_store(&dir.path().join("leech"));
    let torrent = leech.add_store(store.clone()).await.unwrap();
    torrent.add_peers(&[addr(&seed)]).await;
    let status = wait_seeding(&torrent).await;
    sample.assert_held_by(&store);
    assert_eq!(status.wasted, 0);
    seed.shutdown().await;
    leech.shutdown().await;
}
