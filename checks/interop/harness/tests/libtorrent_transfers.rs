//! Whole transfers between our session and libtorrent, in both directions, byte for byte: v2-only and
//! hybrid, a file and a directory, short and long pieces, from a torrent file and from a v2 magnet.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bittorrent_protocol::metainfo::Metainfo;
use bittorrent_protocol::{InfoHashes, PieceLength};
use bittorrent_session::{Session, SessionConfig, TorrentHandle};
use bittorrent_store::create::{Cut, copy_path, hash_path};
use bittorrent_store::{RealIo, TorrentStore};
use interop_harness::{Crashed, Libtorrent, LibtorrentPeer, TorrentKind};

const PATIENCE: Duration = Duration::from_secs(60);
const PIECE_LENGTHS: [u32; 3] = [16 << 10, 1 << 20, 32 << 20];

/// Content below `parent` under the torrent's name, and the torrent of it.
struct Sample {
    parent: PathBuf,
    metainfo: Metainfo,
    torrent: PathBuf,
    what: String,
}

#[derive(Clone, Copy, Debug)]
enum Shape {
    OneBlock,
    File,
    Directory,
}

fn content(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

impl Sample {
    fn make(dir: &Path, shape: Shape, piece_length: u32, hybrid: bool) -> Self {
        let kind = if hybrid { "hybrid" } else { "v2" };
        let what = format!("{kind}-{shape:?}-{piece_length}");
        let parent = dir.join(&what);
        let path = parent.join("snapshot");
        fs::create_dir_all(&parent).unwrap();
        let piece = piece_length as usize;
        match shape {
            Shape::OneBlock => fs::write(&path, content(848, 1)).unwrap(),
            // Neither the file nor its last block is full.
            Shape::File => fs::write(&path, content(piece + 40_000, 2)).unwrap(),
            Shape::Directory => {
                fs::create_dir_all(path.join("deep/er")).unwrap();
                let small = piece.min(1 << 20);
                for (name, length) in [
                    ("a-block", 16_384),
                    ("b-less", 16_383),
                    ("c-more", 16_385),
                    ("d-byte", 1),
                    ("deep/er/piece", small),
                    ("deep/less", small - 1),
                    ("deep/more", small + 1),
                    ("empty", 0),
                    ("z-last", 3 * 16_384 + 5),
                ] {
                    fs::write(path.join(name), content(length, length as u64)).unwrap();
                }
            }
        }
        let cut = Cut {
            piece_length: PieceLength::new(piece_length.into()).unwrap(),
            hybrid,
        };
        let metainfo = hash_path(&path, cut, &mut |_| true).unwrap();
        let torrent = parent.with_extension("torrent");
        fs::write(&torrent, metainfo.encode()).unwrap();
        Self {
            parent,
            metainfo,
            torrent,
            what,
        }
    }

    fn all(dir: &Path) -> Vec<Self> {
        let mut samples = Vec::new();
        for piece_length in PIECE_LENGTHS {
            for hybrid in [false, true] {
                for shape in [Shape::OneBlock, Shape::File, Shape::Directory] {
                    samples.push(Self::make(dir, shape, piece_length, hybrid));
                }
            }
        }
        samples
    }

    fn path(&self) -> PathBuf {
        self.parent.join("snapshot")
    }

    fn v2_magnet(&self) -> String {
        format!(
            "magnet:?xt=urn:btmh:1220{}",
            self.metainfo.info().hashes().v2
        )
    }

    /// Every file lies below `other` with the same bytes, and nothing else does.
    fn assert_same(&self, other: &Path, how: &str) {
        let (ours, theirs) = (list(&self.path()), list(other));
        assert_eq!(ours, theirs, "{} {how}", self.what);
        for name in ours {
            let join = |root: &Path| {
                if name.is_empty() {
                    root.to_owned()
                } else {
                    root.join(&name)
                }
            };
            let (here, there) = (fs::read(join(&self.path())), fs::read(join(other)));
            let (here, there) = (here.unwrap(), there.unwrap());
            let differs: Vec<_> = (0..here.len().max(there.len()))
                .filter(|&at| here.get(at) != there.get(at))
                .collect();
            assert!(
                differs.is_empty(),
                "{} {how}: {name:?} of {} bytes, there {}, differs in {} of them from {:?} to {:?}",
                self.what,
                here.len(),
                there.len(),
                differs.len(),
                differs.first(),
                differs.last()
            );
        }
    }
}

fn list(root: &Path) -> Vec<String> {
    if root.is_file() {
        return vec![String::new()];
    }
    let mut found = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                found.push(
                    path.strip_prefix(root)
                        .unwrap()
                        .to_str()
                        .unwrap()
                        .to_owned(),
                );
            }
        }
    }
    found.sort();
    found
}

async fn session() -> Session {
    let listen = vec![(Ipv4Addr::LOCALHOST, 0).into()];
    Session::start(SessionConfig {
        listen,
        ..SessionConfig::default()
    })
    .await
    .unwrap()
}

fn address(session: &Session) -> SocketAddr {
    session.local_addrs()[0]
}

async fn complete(torrent: &TorrentHandle, what: &str) {
    let mut status = torrent.subscribe();
    let ended =
        status.wait_for(|status| status.phase.is_seeding() || status.phase.error().is_some());
    match tokio::time::timeout(PATIENCE, ended).await {
        Ok(status) => {
            let phase = status.unwrap().phase.clone();
            assert!(phase.is_seeding(), "{what}: {phase:?}");
        }
        Err(_) => panic!(
            "{what}: not complete in {PATIENCE:?}: {:#?}",
            torrent.status()
        ),
    }
}

fn real_io() -> Arc<RealIo> {
    Arc::new(RealIo)
}

/// Our session downloads `sample` from `peers` into `dir`.
async fn fetch(sample: &Sample, dir: &Path, peers: &[SocketAddr], magnet: bool) {
    let how = if magnet {
        "from a magnet"
    } else {
        "from a torrent"
    };
    let ours = session().await;
    let store;
    let torrent;
    if magnet {
        let v2 = sample.metainfo.info().hashes().v2;
        torrent = ours.add_magnet(InfoHashes { v2, v1: None }).await.unwrap();
        torrent.add_peers(peers).await;
        let info = tokio::time::timeout(PATIENCE, torrent.info());
        let info = info
            .await
            .unwrap_or_else(|_| panic!("{}: no metadata", sample.what))
            .unwrap();
        let created = TorrentStore::create(dir, &Metainfo::from_info(info), real_io()).unwrap();
        store = Arc::new(created);
        torrent.attach(store.clone()).await.unwrap();
    } else {
        store = Arc::new(TorrentStore::create(dir, &sample.metainfo, real_io()).unwrap());
        torrent = ours.add_store(store.clone()).await.unwrap();
        torrent.add_peers(peers).await;
    }
    complete(&torrent, &format!("{} {how}", sample.what)).await;
    sample.assert_same(&dir.join("content/snapshot"), how);
    let missing: Vec<_> = store.metainfo().missing_layers().collect();
    assert!(
        missing.is_empty(),
        "{} {how}: layers of {missing:?}",
        sample.what
    );
    let report = ours.shutdown().await;
    assert!(report.failures.is_empty(), "{report:?}");
}

async fn we_download(release: Libtorrent) {
    let dir = tempfile::tempdir().unwrap();
    let mut seed = LibtorrentPeer::start(release);
    for sample in Sample::all(dir.path()) {
        seed.seed(&sample.torrent, &sample.parent);
        for magnet in [false, true] {
            let target = dir.path().join(format!("{}-{magnet}", sample.what));
            fetch(&sample, &target, &[seed.address()], magnet).await;
        }
    }
}

/// How many times libtorrent's process may be ended by a memory fault in one test; the transfer is then done again by a new process.
/// libtorrent 2.0.11 was seen to do so, rarely.
const CRASHES: usize = 2;

/// Downloads into `target` with a new libtorrent process. A process for each download: libtorrent 2.0.11 that is given a torrent
/// again right after its removal may crash, or call it whole while files are missing.
async fn libtorrent_download(
    release: Libtorrent,
    sample: &Sample,
    magnet: bool,
    seeder: SocketAddr,
    target: &Path,
) -> Result<(), Crashed> {
    fs::create_dir_all(target).unwrap();
    let mut theirs = LibtorrentPeer::start(release);
    let id = if magnet {
        theirs.download_magnet(&sample.v2_magnet(), target)
    } else {
        theirs.download(&sample.torrent, target)
    };
    theirs.connect(id, seeder);
    tokio::task::spawn_blocking(move || theirs.completed(id, PATIENCE))
        .await
        .unwrap_or_else(|_| panic!("{} at libtorrent, magnet {magnet}", sample.what))
        .map(|_| ())
}

async fn libtorrent_downloads(release: Libtorrent) {
    let dir = tempfile::tempdir().unwrap();
    let ours = session().await;
    let mut crashes = 0;
    for sample in Sample::all(dir.path()) {
        let place = dir.path().join(format!("{}-ours", sample.what));
        let info = sample.metainfo.info();
        let cut = Cut {
            piece_length: info.piece_length(),
            hybrid: info.hashes().v1.is_some(),
        };
        let store = copy_path(&sample.path(), &place, cut, real_io(), &mut |_| true).unwrap();
        assert_eq!(store.info().hashes(), info.hashes());
        let seeding = ours.add_store(Arc::new(store)).await.unwrap();
        // libtorrent makes the same torrent of the same content.
        let kind = if cut.hybrid {
            TorrentKind::Hybrid
        } else {
            TorrentKind::V2
        };
        let made = LibtorrentPeer::start(release).make(
            &sample.path(),
            &dir.path().join("made"),
            cut.piece_length.bytes(),
            kind,
        );
        assert_eq!(made, Some(info.hashes().v2.to_string()), "{}", sample.what);
        for magnet in [false, true] {
            let how = format!("at libtorrent, magnet {magnet}");
            let target = dir.path().join(format!("{}-{magnet}", sample.what));
            while let Err(Crashed(signal)) =
                libtorrent_download(release, &sample, magnet, address(&ours), &target).await
            {
                crashes += 1;
                eprintln!(
                    "{} {how}: libtorrent was ended by signal {signal}",
                    sample.what
                );
                assert!(crashes <= CRASHES, "libtorrent crashed {crashes} times");
                fs::remove_dir_all(&target).unwrap();
            }
            sample.assert_same(&target.join("snapshot"), &how);
        }
        seeding.remove().await;
    }
    ours.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn we_download_from_libtorrent_2_0_11() {
    we_download(Libtorrent::V2_0_11).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn we_download_from_libtorrent_2_0_15() {
    we_download(Libtorrent::V2_0_15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn libtorrent_2_0_11_downloads_from_us() {
    libtorrent_downloads(Libtorrent::V2_0_11).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn libtorrent_2_0_15_downloads_from_us() {
    libtorrent_downloads(Libtorrent::V2_0_15).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_libtorrent_seeds_are_used_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let sample = Sample::make(dir.path(), Shape::File, 32 << 20, true);
    let mut seeds = Libtorrent::ALL.map(LibtorrentPeer::start);
    let ids = seeds
        .each_mut()
        .map(|seed| seed.seed(&sample.torrent, &sample.parent));
    let peers = seeds.each_ref().map(LibtorrentPeer::address);
    fetch(&sample, &dir.path().join("fetched"), &peers, false).await;
    for (seed, id) in seeds.iter_mut().zip(ids) {
        let uploaded = seed.status(id)["uploaded"].as_u64().unwrap();
        assert!(uploaded > 0, "a seed was left aside");
    }
}
