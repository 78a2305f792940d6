//! Updates between two sessions: what is held is not transferred, wherever it stands.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::path::Path;
use std::sync::Arc;

use bittorrent_protocol::BLOCK_LEN;
use bittorrent_protocol::metainfo::Metainfo;
use bittorrent_session::TorrentStatus;
use bittorrent_store::{RealIo, ReuseSources, TorrentStore};
use common::{Sample, addr, noise, session, wait_seeding};

const BLOCK: usize = BLOCK_LEN as usize;

/// What held generations are looked through by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Search {
    /// Pieces by hash, blocks where they stood before.
    InPlace,
    /// Blocks anywhere, too.
    Anywhere,
}

/// Fetches a torrent from a seed, with nothing but its hash to begin with; gives the last account.
async fn update(
    dir: &Path,
    new: &Sample,
    held: Vec<Arc<TorrentStore>>,
    search: Search,
) -> TorrentStatus {
    let (seed, leech) = (session().await, session().await);
    seed.add_store(new.full_store(&dir.join("seed")))
        .await
        .unwrap();
    let mut sources = ReuseSources::new(held);
    if search == Search::Anywhere {
        sources = sources
            .with_index(&dir.join("index"), &RealIo, &|| true)
            .unwrap();
    }
    let torrent = leech.add_magnet(new.meta.info().hashes()).await.unwrap();
    torrent.add_peers(&[addr(&seed)]).await;
    let meta = Metainfo::from_info(torrent.info().await.unwrap());
    let place = dir.join("leech");
    let io = Arc::new(RealIo);
    let (store, _) = sources.create(&place, &meta, io).unwrap();
    let store = Arc::new(store);
    torrent
        .attach_reusing(store.clone(), Arc::new(sources))
        .await
        .unwrap();
    let status = wait_seeding(&torrent).await;
    new.assert_held_by(&store);
    assert_eq!(
        status.bytes_reused + status.bytes_fetched,
        status.bytes_total
    );
    assert_eq!(status.bytes_to_fetch, 0);
    leech.shutdown().await;
    seed.shutdown().await;
    status
}

/// Bytes of a number of whole blocks.
fn blocks(count: usize) -> u64 {
    (count * BLOCK) as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_blocks_are_fetched_and_moved_ones_found() {
    let old = noise(1, 600 * BLOCK + 77);
    // One in twelve changes, and 40 blocks change places.
    let mut content = old.clone();
    for (n, block) in content.chunks_mut(BLOCK).enumerate() {
        if n % 12 == 5 {
            block[n] ^= 0x55;
        }
    }
    let changed = 600 / 12;
    let (to, from) = (100 * BLOCK..140 * BLOCK, 303 * BLOCK..343 * BLOCK);
    content[to.clone()].copy_from_slice(&old[from]);
    let overwritten = (100..140).filter(|n| n % 12 == 5).count();
    for (search, wanted) in [
        (Search::Anywhere, changed - overwritten),
        (Search::InPlace, changed - overwritten + 40),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let old = Sample::of("data.ldb", old.clone(), 64 * 1024);
        let held = vec![old.full_store(&dir.path().join("old"))];
        let new = Sample::of("data.ldb", content.clone(), 256 * 1024);
        let status = update(dir.path(), &new, held, search).await;
        assert_eq!(status.downloaded_payload, blocks(wanted), "{status:#?}");
        assert_eq!(status.bytes_fetched, blocks(wanted));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_generation_lost_another_one_has() {
    let first = noise(1, 256 * BLOCK);
    // Each day rewrites its part; the last one takes back what the one before did to one block.
    let day = |content: &[u8], from: usize, seed: u64| {
        let mut content = content.to_vec();
        content[from * BLOCK..(from + 8) * BLOCK].copy_from_slice(&noise(seed, 8 * BLOCK));
        content
    };
    let second = day(&first, 32, 2);
    let mut third = day(&second, 200, 3);
    third[33 * BLOCK..34 * BLOCK].copy_from_slice(&first[33 * BLOCK..34 * BLOCK]);
    let dir = tempfile::tempdir().unwrap();
    let hold = |name: &str, content: &[u8]| {
        let sample = Sample::of("data.ldb", content.to_vec(), 64 * 1024);
        sample.full_store(&dir.path().join(name))
    };
    let held = vec![hold("second", &second), hold("first", &first)];
    let new = Sample::of("data.ldb", third, 64 * 1024);
    let status = update(dir.path(), &new, held, Search::InPlace).await;
    assert_eq!(status.downloaded_payload, blocks(8), "{status:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_files_only_new_ones_are_fetched_and_no_leaves_asked_of_the_others() {
    let file = |n: u64| (format!("{n:03}"), noise(n, 20_000 * (n as usize % 9) + 5));
    let old: Vec<_> = (0..120).map(file).collect();
    let mut files: Vec<_> = (3..124).map(file).collect();
    // A segment under another name is the same segment.
    files[50].0 = "990".to_owned();
    files.sort();
    let dir = tempfile::tempdir().unwrap();
    let old = Sample::files("segments", &old, 32 * 1024);
    let held = vec![old.full_store(&dir.path().join("old"))];
    let new = Sample::files("segments", &files, 32 * 1024);
    let fetched: usize = (120..124).map(|n| file(n).1.len()).sum();
    let status = update(dir.path(), &new, held, Search::InPlace).await;
    assert_eq!(status.downloaded_payload, fetched as u64, "{status:#?}");
    // Piece layers and leaves of four files; more where the numbers are padded to powers of two.
    let most = 4 * (2 * 160_000 / BLOCK) * 32 + 20 * 53;
    assert!(status.hash_bytes < most as u64, "{}", status.hash_bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_with_nothing_in_common_asks_for_each_hash_once() {
    let dir = tempfile::tempdir().unwrap();
    let total = 24 << 20;
    let old = Sample::of("data.ldb", noise(1, 8 << 20), 1 << 20);
    let held = vec![old.full_store(&dir.path().join("old"))];
    let new = Sample::of("data.ldb", noise(2, total), 1 << 20);
    let status = update(dir.path(), &new, held, Search::Anywhere).await;
    assert_eq!(status.downloaded_payload, total as u64, "{status:#?}");
    // The leaves, the piece layer, and for a while nodes above the leaves, in up to three requests for each
    // of the 24 pieces: no request was given up and made again.
    let most = (total / BLOCK * 5 / 4 + 24 + 16) * 32 + 3 * 24 * 53;
    assert!(status.hash_bytes <= most as u64, "{}", status.hash_bytes);
}
