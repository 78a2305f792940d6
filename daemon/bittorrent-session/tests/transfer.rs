//! Whole transfers between our own sessions over loopback.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use bittorrent_protocol::InfoHashes;
use bittorrent_store::{RealIo, TorrentStore};
use common::{Sample, addr, session, wait_for, wait_seeding};
use std::sync::Arc;

const KIB: usize = 1024;

/// One seed gives the torrent to one that starts with the metainfo and then to one that starts
/// with nothing but hashes.
async fn travels(sample: Sample, named: fn(InfoHashes) -> InfoHashes) {
    let dir = tempfile::tempdir().unwrap();
    let seed = session().await;
    let full = sample.full_store(&dir.path().join("seed"));
    let seeding = seed.add_store(full).await.unwrap();
    wait_seeding(&seeding).await;

    let second = session().await;
    let store = sample.empty_store(&dir.path().join("second"));
    let torrent = second.add_store(store.clone()).await.unwrap();
    torrent.add_peers(&[addr(&seed)]).await;
    let status = wait_seeding(&torrent).await;
    sample.assert_held_by(&store);
    assert_eq!(status.bytes_verified, sample.layout().content_length());
    assert_eq!(status.downloaded_payload, status.bytes_total);
    assert_eq!(status.wasted, 0);

    let third = session().await;
    let hashes = named(sample.meta.info().hashes());
    let torrent = third.add_magnet(hashes).await.unwrap();
    torrent.add_peers(&[addr(&second)]).await;
    let info = torrent.info().await.unwrap();
    assert_eq!(info.raw(), sample.meta.info().raw());
    let meta = bittorrent_protocol::metainfo::Metainfo::from_info(info);
    let store = TorrentStore::create(&dir.path().join("third"), &meta, Arc::new(RealIo)).unwrap();
    let store = Arc::new(store);
    torrent.attach(store.clone()).await.unwrap();
    wait_seeding(&torrent).await;
    sample.assert_held_by(&store);
    assert_eq!(store.metainfo().layers(), sample.meta.layers());

    for session in [seed, second, third] {
        let report = session.shutdown().await;
        assert!(report.failures.is_empty(), "{report:?}");
    }
}

fn as_is(hashes: InfoHashes) -> InfoHashes {
    hashes
}

fn v2_only(hashes: InfoHashes) -> InfoHashes {
    InfoHashes { v1: None, ..hashes }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_many_pieces() {
    travels(Sample::file("many", 3_000_001, 16 * 1024, false), as_is).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_long_pieces() {
    travels(
        Sample::file("long", 5 * 1024 * KIB + 1, 1 << 20, false),
        as_is,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_one_short_piece() {
    travels(Sample::file("short", 40 * KIB + 7, 32 << 20, false), as_is).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_the_longest_pieces_others_use() {
    travels(
        Sample::file("longest", (64 << 20) + 5, 32 << 20, false),
        as_is,
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_one_byte() {
    travels(Sample::file("byte", 1, 16 * 1024, false), as_is).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hybrid_file() {
    travels(Sample::file("hybrid", 2_000_003, 64 * 1024, true), as_is).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hybrid_known_by_its_v2_hash() {
    travels(Sample::file("hybrid", 700_003, 32 * 1024, true), v2_only).await;
}

/// Sizes around blocks, pieces and powers of two, with empty files in between.
const SIZES: [usize; 16] = [
    0,
    1,
    16 * KIB - 1,
    16 * KIB,
    16 * KIB + 1,
    0,
    64 * KIB - 1,
    64 * KIB,
    64 * KIB + 1,
    128 * KIB,
    3 * 64 * KIB + 16 * KIB,
    4 * 64 * KIB,
    4 * 64 * KIB + 1,
    5,
    300_000,
    0,
];

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_boundary_sizes() {
    travels(Sample::directory("dir", &SIZES, 64 * 1024, false), as_is).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hybrid_directory_of_boundary_sizes() {
    travels(Sample::directory("dir", &SIZES, 64 * 1024, true), as_is).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_where_every_block_is_a_piece() {
    travels(Sample::directory("dir", &SIZES, 16 * 1024, false), as_is).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_halves_make_a_whole() {
    let sample = Sample::file("halves", 4_000_001, 64 * 1024, false);
    let dir = tempfile::tempdir().unwrap();
    let (even, odd) = (session().await, session().await);
    let first = sample.store_with(&dir.path().join("even"), |piece| piece.get() % 2 == 0);
    let second = sample.store_with(&dir.path().join("odd"), |piece| piece.get() % 2 == 1);
    let first = even.add_store(first).await.unwrap();
    let second = odd.add_store(second).await.unwrap();
    first.add_peers(&[addr(&odd)]).await;
    let (one, two) = (wait_seeding(&first).await, wait_seeding(&second).await);
    let layout = sample.layout();
    let odd_bytes: u64 = layout
        .piece_indices()
        .filter(|piece| piece.get() % 2 == 1)
        .map(|piece| u64::from(layout.piece_size(piece)))
        .sum();
    assert_eq!(one.downloaded_payload, odd_bytes);
    assert_eq!(two.downloaded_payload, layout.content_length() - odd_bytes);
    even.shutdown().await;
    odd.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_seeds_share_the_work() {
    let sample = Sample::file("shared", 24 << 20, 256 * 1024, false);
    let dir = tempfile::tempdir().unwrap();
    let mut seeds = Vec::new();
    for name in ["a", "b"] {
        let seed = session().await;
        let store = sample.full_store(&dir.path().join(name));
        let torrent = seed.add_store(store).await.unwrap();
        seeds.push((seed, torrent));
    }
    let leech = session().await;
    let store = sample.empty_store(&dir.path().join("leech"));
    let torrent = leech.add_store(store.clone()).await.unwrap();
    let addrs: Vec<_> = seeds.iter().map(|(seed, _)| addr(seed)).collect();
    torrent.add_peers(&addrs).await;
    let status = wait_seeding(&torrent).await;
    sample.assert_held_by(&store);
    // Asked twice at the end at most.
    assert!(status.wasted * 5 < status.bytes_total, "{status:#?}");
    let mut sent = 0;
    for (seed, torrent) in seeds {
        let uploaded = wait_for(&torrent, "uploads counted", |status| {
            status.uploaded_payload > 0
        })
        .await
        .uploaded_payload;
        sent += uploaded;
        seed.shutdown().await;
    }
    assert!(sent > 0);
    leech.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_torrents_share_a_port() {
    let samples = [
        Sample::file("one", 1_000_001, 16 * 1024, false),
        Sample::file("two", 2_000_001, 128 * 1024, true),
        Sample::directory("three", &[1, 0, 70_000], 32 * 1024, false),
    ];
    let dir = tempfile::tempdir().unwrap();
    let (seed, leech) = (session().await, session().await);
    let mut downloads = Vec::new();
    for (n, sample) in samples.iter().enumerate() {
        let full = sample.full_store(&dir.path().join(format!("full {n}")));
        seed.add_store(full).await.unwrap();
        let store = sample.empty_store(&dir.path().join(format!("empty {n}")));
        let torrent = leech.add_store(store.clone()).await.unwrap();
        torrent.add_peers(&[addr(&seed)]).await;
        downloads.push((sample, torrent, store));
    }
    for (sample, torrent, store) in &downloads {
        wait_seeding(torrent).await;
        sample.assert_held_by(store);
    }
    seed.shutdown().await;
    leech.shutdown().await;
}
