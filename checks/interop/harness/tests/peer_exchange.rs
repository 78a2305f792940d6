//! Peer exchange (BEP 11) between our session and libtorrent, in both directions: whoever is in the
//! middle gives no content, only the address of the seed.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bittorrent_protocol::bencode::Limits;
use bittorrent_protocol::metainfo::Metainfo;
use bittorrent_session::{RateLimits, Session, SessionConfig, TorrentHandle};
use bittorrent_store::{RealIo, TorrentStore};
use interop_harness::{Libtorrent, LibtorrentPeer, TorrentKind};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(60);

const LENGTH: usize = 1 << 20;

/// A libtorrent seed and the torrent file of what it has.
struct World {
    dir: tempfile::TempDir,
    torrent: PathBuf,
    seed: LibtorrentPeer,
    seed_id: u64,
}

impl World {
    fn new(release: Libtorrent) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let content: Vec<u8> = (0..LENGTH).map(|n| (n * 31 / 7) as u8).collect();
        fs::write(dir.path().join("content"), content).unwrap();
        let torrent = dir.path().join("torrent");
        let mut seed = LibtorrentPeer::start(release);
        seed.make(
            &dir.path().join("content"),
            &torrent,
            65_536,
            TorrentKind::V2,
        );
        let seed_id = seed.seed(&torrent, dir.path());
        Self {
            dir,
            torrent,
            seed,
            seed_id,
        }
    }

    fn place(&self, name: &str) -> PathBuf {
        let place = self.dir.path().join(name);
        fs::create_dir_all(&place).unwrap();
        place
    }

    async fn ours(&self, name: &str, rates: RateLimits) -> (Session, TorrentHandle) {
        let config = SessionConfig {
            listen: vec![(Ipv4Addr::LOCALHOST, 0).into()],
            rates,
            ..SessionConfig::default()
        };
        let session = Session::start(config).await.unwrap();
        let bytes = fs::read(&self.torrent).unwrap();
        let metainfo = Metainfo::parse(&bytes, &Limits::TORRENT).unwrap();
        let place: &Path = &self.dir.path().join(name);
        let store = TorrentStore::create(place, &metainfo, Arc::new(RealIo)).unwrap();
        let torrent = session.add_store(Arc::new(store)).await.unwrap();
        (session, torrent)
    }
}

async fn we_tell(release: Libtorrent) {
    let mut world = World::new(release);
    // So slow that it is not done, and gone from the seed, before the other one has heard.
    let rates = RateLimits {
        upload: Some(0),
        download: Some(10_000),
    };
    let (middle, torrent) = world.ours("middle", rates).await;
    torrent.add_peers(&[world.seed.address()]).await;
    let mut leech = LibtorrentPeer::start(release);
    let place = world.place("leech");
    let id = leech.download(&world.torrent, &place);
    leech.connect(id, middle.local_addrs()[0]);
    let leech = tokio::task::spawn_blocking(move || {
        leech.wait_complete(id, PATIENCE);
        leech
    });
    leech.await.unwrap();
    let (ours, theirs) = (world.dir.path().join("content"), place.join("content"));
    assert!(fs::read(ours).unwrap() == fs::read(theirs).unwrap());
    assert_eq!(torrent.status().uploaded_payload, 0);
    let uploaded = world.seed.status(world.seed_id)["uploaded"]
        .as_u64()
        .unwrap();
    assert!(uploaded >= LENGTH as u64);
    middle.shutdown().await;
}

async fn we_are_told(release: Libtorrent) {
    let world = World::new(release);
    let mut middle = LibtorrentPeer::start(release);
    let place = world.place("middle");
    let added = middle.ask(&json!({
        "do": "add", "torrent": world.torrent, "save_path": place, "upload_mode": true,
    }));
    let id = added["id"].as_u64().unwrap();
    middle.connect(id, world.seed.address());
    let (session, torrent) = world.ours("ours", RateLimits::default()).await;
    torrent.add_peers(&[middle.address()]).await;
    let mut status = torrent.subscribe();
    let complete = status.wait_for(|status| status.phase.is_seeding());
    match tokio::time::timeout(PATIENCE, complete).await {
        Ok(status) => assert_eq!(status.unwrap().bytes_verified, LENGTH as u64),
        Err(_) => panic!(
            "not complete: {:#?}, {:#?}",
            torrent.status(),
            middle.ask(&json!({"do": "alerts"}))
        ),
    }
    let known: Vec<SocketAddr> = vec![middle.address(), world.seed.address()];
    assert!(torrent.status().candidates >= known.len());
    session.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn libtorrent_2_0_11_hears_of_the_seed_from_us() {
    we_tell(Libtorrent::V2_0_11).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn libtorrent_2_0_15_hears_of_the_seed_from_us() {
    we_tell(Libtorrent::V2_0_15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn we_hear_of_the_seed_from_libtorrent_2_0_11() {
    we_are_told(Libtorrent::V2_0_11).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn we_hear_of_the_seed_from_libtorrent_2_0_15() {
    we_are_told(Libtorrent::V2_0_15).await;
}
