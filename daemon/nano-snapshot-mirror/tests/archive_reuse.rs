//! Archives with frames that begin at blocks: between two days, only what the day changed is fetched.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::collections::HashSet;
use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bittorrent_protocol::{BLOCK_LEN, PieceLength};
use bittorrent_session::{Session, SessionConfig};
use bittorrent_store::create::{Cut, Draft, Shape};
use bittorrent_store::{RealIo, ReuseSources, TorrentStore};
use ledger_archive::{PackOptions, pack_file};
use nano_ledger::synthetic;

const NAME: &str = "ledger.tar.zst";

fn pack(ledger: &Path, archive: &Path) {
    let options = PackOptions::default().with_frame_bytes(64 << 10).unwrap();
    pack_file(ledger, File::create(archive).unwrap(), &options).unwrap();
}

fn store(archive: &Path, dir: &Path) -> Arc<TorrentStore> {
    let cut = Cut {
        piece_length: PieceLength::new(1 << 20).unwrap(),
        hybrid: false,
    };
    let mut draft = Draft::begin(dir, NAME, Shape::SingleFile, cut, Arc::new(RealIo)).unwrap();
    let mut source = File::open(archive).unwrap();
    draft.add_file(&[], &mut source, &mut |_| true).unwrap();
    Arc::new(draft.finish(|builder| builder).unwrap())
}

fn session() -> SessionConfig {
    SessionConfig {
        listen: vec![(Ipv4Addr::LOCALHOST, 0).into()],
        ..SessionConfig::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unchanged_frames_are_found_although_they_moved() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let options = synthetic::Options {
        seed: 5,
        target_len: 12 << 20,
    };
    synthetic::create(&path("data.ldb"), &options).unwrap();
    pack(&path("data.ldb"), &path("old"));
    synthetic::add_day(&path("data.ldb"), 2, 1).unwrap();
    pack(&path("data.ldb"), &path("new"));
    let (old, new) = (
        fs::read(path("old")).unwrap(),
        fs::read(path("new")).unwrap(),
    );
    let held: HashSet<&[u8]> = old.chunks(BLOCK_LEN as usize).collect();
    let blocks = new.chunks(BLOCK_LEN as usize);
    let fresh: usize = blocks
        .filter(|block| !held.contains(block))
        .map(<[u8]>::len)
        .sum();
    let in_place: usize = (old.chunks(BLOCK_LEN as usize))
        .zip(new.chunks(BLOCK_LEN as usize))
        .filter(|(old, new)| old == new)
        .map(|(_, new)| new.len())
        .sum();
    assert!(fresh < new.len() / 2, "{fresh} of {} are new", new.len());
    assert!(
        in_place + fresh < new.len(),
        "nothing moved, so this shows nothing"
    );

    let (seed, leech) = (
        Session::start(session()).await.unwrap(),
        Session::start(session()).await.unwrap(),
    );
    let seeded = store(&path("new"), &path("seed"));
    seed.add_store(seeded.clone()).await.unwrap();
    let sources = ReuseSources::new(vec![store(&path("old"), &path("held"))])
        .with_index(&path("index"), &RealIo, &|| true)
        .unwrap();
    let (fetched, _) = sources
        .create(&path("fetched"), &seeded.metainfo(), Arc::new(RealIo))
        .unwrap();
    let torrent = leech
        .add_store_reusing(Arc::new(fetched), Arc::new(sources))
        .await
        .unwrap();
    torrent.add_peers(seed.local_addrs()).await;
    let mut status = torrent.subscribe();
    let whole = status.wait_for(|status| status.phase.is_seeding());
    let status = tokio::time::timeout(Duration::from_secs(120), whole)
        .await
        .unwrap()
        .unwrap()
        .clone();
    assert_eq!(status.downloaded_payload, fresh as u64, "{status:#?}");
    assert!(fs::read(path("fetched/content").join(NAME)).unwrap() == new);
    leech.shutdown().await;
    seed.shutdown().await;
}
