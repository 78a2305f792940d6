//! How our session and libtorrent connect: encrypted and plain, by trackers, over IPv6, by
//! a file server. Each way in both directions where there are two, and byte for byte.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod encryption;
mod ipv6;
mod tracker;
mod trackers;
mod web_seeds;

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bittorrent_protocol::PieceLength;
use bittorrent_protocol::bencode::Limits;
use bittorrent_protocol::metainfo::Metainfo;
use bittorrent_session::{
    Encryption, RateLimits, Session, SessionConfig, TorrentHandle, TorrentStatus,
};
use bittorrent_store::create::{Cut, copy_path, hash_path};
use bittorrent_store::{RealIo, TorrentStore};
use interop_harness::{Libtorrent, LibtorrentPeer, TorrentKind};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// Files of the content; neither ends where a piece or block does.
const FILES: [(&str, usize); 2] = [("first", 700_001), ("second", 2_000_003)];

const PIECE_LENGTH: u32 = 65_536;

/// Content, and a torrent of it.
struct World {
    release: Libtorrent,
    dir: tempfile::TempDir,
    torrent: PathBuf,
}

impl World {
    fn new(release: Libtorrent, hybrid: bool) -> Self {
        let world = Self::without_torrent(release);
        let piece_length = PieceLength::new(PIECE_LENGTH.into()).unwrap();
        let cut = Cut {
            piece_length,
            hybrid,
        };
        let metainfo = hash_path(&world.content(), cut, &mut |_| true).unwrap();
        fs::write(&world.torrent, metainfo.encode()).unwrap();
        world
    }

    /// With a torrent that libtorrent made.
    fn made_by(release: Libtorrent, kind: TorrentKind) -> Self {
        let world = Self::without_torrent(release);
        let (content, torrent) = (world.content(), &world.torrent);
        LibtorrentPeer::start(release).make(&content, torrent, PIECE_LENGTH, kind);
        world
    }

    fn without_torrent(release: Libtorrent) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let torrent = dir.path().join("torrent");
        let world = Self {
            release,
            dir,
            torrent,
        };
        fs::create_dir(world.content()).unwrap();
        for (name, len) in FILES {
            let bytes: Vec<u8> = (0..len).map(|n| (n * 31 / 7 + len) as u8).collect();
            fs::write(world.content().join(name), bytes).unwrap();
        }
        world
    }

    fn content(&self) -> PathBuf {
        self.dir.path().join("content")
    }

    fn metainfo(&self) -> Metainfo {
        Metainfo::parse(&fs::read(&self.torrent).unwrap(), &Limits::TORRENT).unwrap()
    }

    /// A libtorrent that has everything.
    fn seed(&self, listen: &str, settings: &Value) -> (LibtorrentPeer, u64) {
        let mut peer = LibtorrentPeer::start_with(self.release, listen, settings);
        let id = peer.seed(&self.torrent, self.dir.path());
        (peer, id)
    }

    /// A libtorrent that has nothing, and where it puts what it gets.
    fn leech(&self, listen: &str, settings: &Value) -> (LibtorrentPeer, u64, PathBuf) {
        let mut peer = LibtorrentPeer::start_with(self.release, listen, settings);
        let place = self.dir.path().join("libtorrent");
        fs::create_dir_all(&place).unwrap();
        let id = peer.download(&self.torrent, &place);
        (peer, id, place)
    }

    /// Our session, with nothing.
    async fn fetch(&self, config: SessionConfig) -> (Session, TorrentHandle) {
        let session = Session::start(config).await.unwrap();
        let place = self.dir.path().join("ours");
        let store = TorrentStore::create(&place, &self.metainfo(), Arc::new(RealIo)).unwrap();
        let torrent = session.add_store(Arc::new(store)).await.unwrap();
        (session, torrent)
    }

    /// Our session, with everything.
    async fn serve(&self, config: SessionConfig) -> (Session, TorrentHandle) {
        let info = self.metainfo().info().clone();
        let cut = Cut {
            piece_length: info.piece_length(),
            hybrid: info.hashes().v1.is_some(),
        };
        let (from, to) = (self.content(), self.dir.path().join("ours"));
        let store = copy_path(&from, &to, cut, Arc::new(RealIo), &mut |_| true).unwrap();
        assert_eq!(store.info().hashes(), info.hashes());
        let session = Session::start(config).await.unwrap();
        let torrent = session.add_store(Arc::new(store)).await.unwrap();
        (session, torrent)
    }

    fn assert_ours(&self) {
        self.assert_same(&self.dir.path().join("ours/content/content"));
    }

    fn assert_same(&self, place: &Path) {
        for (name, _) in FILES {
            let expected = fs::read(self.content().join(name)).unwrap();
            assert!(fs::read(place.join(name)).unwrap() == expected, "{name}");
        }
    }
}

fn config() -> SessionConfig {
    SessionConfig {
        listen: vec![(Ipv4Addr::LOCALHOST, 0).into()],
        ..SessionConfig::default()
    }
}

fn address(session: &Session) -> SocketAddr {
    session.local_addrs()[0]
}

/// Nothing goes: connections can be looked at.
const NOTHING: RateLimits = RateLimits {
    upload: Some(0),
    download: Some(0),
};

async fn encryption_of(torrent: &TorrentHandle) -> Encryption {
    wait(torrent, "one peer", |status| status.peers == 1).await;
    torrent.peers().await[0].encryption
}

async fn whole(torrent: &TorrentHandle) {
    wait(torrent, "us to be whole", |status| {
        status.phase.is_seeding()
    })
    .await;
}

async fn wait(torrent: &TorrentHandle, what: &str, wanted: impl FnMut(&TorrentStatus) -> bool) {
    let mut status = torrent.subscribe();
    let found = tokio::time::timeout(PATIENCE, status.wait_for(wanted)).await;
    if found.is_err() {
        panic!("waited for {what}: {:#?}", torrent.status());
    }
}

/// Waits until libtorrent has everything.
async fn completed(mut peer: LibtorrentPeer, id: u64) -> LibtorrentPeer {
    let waiting = tokio::task::spawn_blocking(move || {
        peer.wait_complete(id, PATIENCE);
        peer
    });
    waiting.await.unwrap()
}
