//! Peer exchange (BEP 11) between our session and libtorrent, in both directions: the peer in the
//! middle sends no content, only the address of the seed.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bittorrent_protocol::bencode::Limits;
use bittorrent_protocol::metainfo::Metainfo;
use bittorrent_session::{RateLimits, Session, SessionConfig, TorrentHandle, TorrentStatus};
use bittorrent_store::{RealIo, TorrentStore};
use interop_harness::{Libtorrent, LibtorrentPeer, TorrentKind};

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

    fn folder(&self, name: &str) -> PathBuf {
        let folder = self.dir.path().join(name);
        fs::create_dir_all(&folder).unwrap();
        folder
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
        let folder: &Path = &self.dir.path().join(name);
        let store = TorrentStore::create(folder, &metainfo, Arc::new(RealIo)).unwrap();
        let torrent = session.add_store(Arc::new(store)).await.unwrap();
        (session, torrent)
    }
}

async fn we_tell(release: Libtorrent) {
    let mut world = World::new(release);
    // Slow enough not to complete and leave before the other one has the address.
    let rates = RateLimits {
        upload: Some(0),
        download: Some(10_000),
    };
    let (middle, torrent) = world.ours("middle", rates).await;
    torrent.add_peers(&[world.seed.address()]).await;
    let mut leech = LibtorrentPeer::start(release);
    let folder = world.folder("leech");
    let id = leech.download(&world.torrent, &folder);
    leech.connect(id, middle.local_addrs()[0]);
    let leech = tokio::task::spawn_blocking(move || {
        leech.wait_complete(id, PATIENCE);
        leech
    });
    leech.await.unwrap();
    let (ours, theirs) = (world.dir.path().join("content"), folder.join("content"));
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
    // Ours, and so slow that libtorrent in the middle stays with it.
    let slow = RateLimits {
        upload: Some(10_000),
        download: None,
    };
    let (seed, seeding) = world.ours("seed", slow).await;
    seeding.add_peers(&[world.seed.address()]).await;
    let whole = |status: &TorrentStatus| status.phase.is_seeding();
    wait(&seeding, "the seed to be whole", whole).await;
    let mut middle = LibtorrentPeer::start(release);
    let folder = world.folder("middle");
    let id = middle.download(&world.torrent, &folder);
    middle.connect(id, seed.local_addrs()[0]);
    let (session, torrent) = world.ours("ours", RateLimits::default()).await;
    torrent.add_peers(&[middle.address()]).await;
    wait(&torrent, "both to be peers", |status| status.peers == 2).await;
    // Whichever dialled the other got its address from libtorrent, the only peer that knows both.
    seed.handle().set_rate_limits(RateLimits::default()).await;
    wait(&torrent, "us to be whole", whole).await;
    session.shutdown().await;
    seed.shutdown().await;
}

async fn wait(torrent: &TorrentHandle, what: &str, wanted: impl FnMut(&TorrentStatus) -> bool) {
    let mut status = torrent.subscribe();
    let found = tokio::time::timeout(PATIENCE, status.wait_for(wanted)).await;
    if found.is_err() {
        panic!("waited for {what}: {:#?}", torrent.status());
    }
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
