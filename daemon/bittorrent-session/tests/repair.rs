//! Blocks that are found damaged on disk are not served, fetched again alone, and sealed again.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::os::unix::fs::FileExt as _;
use std::path::Path;

use bittorrent_store::{ScrubCursor, TorrentStore};
use common::{Sample, addr, session, wait_for, wait_seeding};

const BLOCK: u64 = 16 * 1024;

/// Changes a byte on disk without the store's knowledge.
fn rot(store: &TorrentStore, offset: u64) {
    use std::os::unix::fs::PermissionsExt as _;
    let file = store.layout().file_index(0).unwrap();
    let path = store.file_path(file);
    let set = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode));
    set(0o644).unwrap();
    let open = std::fs::File::options().write(true).open(&path).unwrap();
    let times = open.metadata().unwrap().modified().unwrap();
    open.write_all_at(b"rot", offset).unwrap();
    open.set_modified(times).unwrap();
    set(0o444).unwrap();
}

fn scrub(store: &TorrentStore) -> Vec<bittorrent_protocol::BlockIndex> {
    let found = store.scrub_slice(&mut ScrubCursor::default(), u64::MAX / 2);
    let damage = found.unwrap().damage;
    damage.into_iter().map(|damage| damage.block).collect()
}

fn sealed_anew(dir: &Path) -> bool {
    let io = std::sync::Arc::new(bittorrent_store::RealIo);
    TorrentStore::open_sealed(dir, io).unwrap().is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_not_served_and_mended_from_a_peer() {
    let sample = Sample::file("rotten", 4_000_000, 256 * 1024, true);
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("rotten");
    let rotten = session().await;
    let store = sample.full_store(&place);
    let torrent = rotten.add_store(store.clone()).await.unwrap();
    wait_seeding(&torrent).await;

    for offset in [5, 20 * BLOCK + 1, 21 * BLOCK, 3_999_990] {
        rot(&store, offset);
    }
    let damaged = scrub(&store);
    assert_eq!(damaged.len(), 4);
    torrent.repair(store.clone(), damaged).await.unwrap();
    let good = 4_000_000 - 3 * BLOCK - 4_000_000 % BLOCK;
    wait_for(&torrent, "unsealed", |status| {
        status.bytes_verified == good && !status.phase.is_seeding()
    })
    .await;
    assert!(!sealed_anew(&place));

    // A peer that knows no other peer receives the intact blocks only.
    let leech = session().await;
    let partial = sample.empty_store(&dir.path().join("leech"));
    let leeching = leech.add_store(partial.clone()).await.unwrap();
    leeching.add_peers(&[addr(&rotten)]).await;
    let whole_pieces = 4_000_000 - 2 * 256 * 1024 - 4_000_000 % (256 * 1024);
    wait_for(&leeching, "what is good", |status| {
        status.bytes_verified >= whole_pieces
    })
    .await;
    assert!(!partial.is_complete());
    assert_eq!(leeching.status().banned, 0);

    let seed = session().await;
    seed.add_store(sample.full_store(&dir.path().join("seed")))
        .await
        .unwrap();
    torrent.add_peers(&[addr(&seed)]).await;
    let status = wait_seeding(&torrent).await;
    assert_eq!(status.downloaded_payload, 4_000_000 - good);
    assert!(store.is_sealed() && sealed_anew(&place));
    assert!(scrub(&store).is_empty());
    sample.assert_held_by(&store);
    wait_seeding(&leeching).await;
    sample.assert_held_by(&partial);
    for session in [rotten, leech, seed] {
        let report = session.shutdown().await;
        assert!(report.failures.is_empty(), "{report:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_that_is_found_again_and_again_is_mended_each_time() {
    let sample = Sample::file("rotting", 2_000_000, 64 * 1024, false);
    let dir = tempfile::tempdir().unwrap();
    let (rotten, seed) = (session().await, session().await);
    seed.add_store(sample.full_store(&dir.path().join("seed")))
        .await
        .unwrap();
    let store = sample.full_store(&dir.path().join("rotten"));
    let torrent = rotten.add_store(store.clone()).await.unwrap();
    torrent.add_peers(&[addr(&seed)]).await;
    for round in 0..20 {
        // Mended or being mended: found it is either way, unless it is missing already.
        rot(&store, round * 3 * BLOCK + 77);
        let damaged = scrub(&store);
        torrent.repair(store.clone(), damaged).await.unwrap();
    }
    wait_for(&torrent, "mended", |status| {
        assert!(status.phase.error().is_none(), "{status:#?}");
        status.phase.is_seeding() && status.downloaded_payload >= 20 * BLOCK
    })
    .await;
    assert!(store.is_sealed() && scrub(&store).is_empty());
    sample.assert_held_by(&store);
    for session in [rotten, seed] {
        let report = session.shutdown().await;
        assert!(report.failures.is_empty(), "{report:?}");
    }
}
