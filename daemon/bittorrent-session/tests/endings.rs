//! Ends of all kinds: orderly ones, removal, and the process being killed.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bittorrent_session::{AddError, Session, SessionConfig, Tuning};
use bittorrent_store::{RealIo, TorrentStore};
use common::{Sample, addr, config, session, wait_for, wait_seeding};

fn open(dir: &Path) -> Arc<TorrentStore> {
    Arc::new(TorrentStore::open(dir, Arc::new(RealIo)).unwrap().0)
}

fn threads() -> usize {
    std::fs::read_dir("/proc/self/task").unwrap().count()
}

/// One thread, so that the runtime's own threads do not count, and a process of its own: other
/// tests of this file start threads too.
#[test]
fn a_shutdown_leaves_no_task_and_no_thread() {
    if !run_alone("a_shutdown_leaves_no_task_and_no_thread") {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // The thread pool for blocking calls keeps its threads for a while.
        .thread_keep_alive(Duration::from_millis(1))
        .build()
        .unwrap();
    let sample = Sample::file("ended", 20_000_000, 64 * 1024, false);
    let dir = tempfile::tempdir().unwrap();
    let before = threads();
    runtime.block_on(async {
        let (seed, leech) = (session().await, session().await);
        let full = sample.full_store(&dir.path().join("seed"));
        seed.add_store(full).await.unwrap();
        let store = sample.empty_store(&dir.path().join("leech"));
        let torrent = leech.add_store(store.clone()).await.unwrap();
        torrent.add_peers(&[addr(&seed)]).await;
        // In the middle of it.
        wait_for(&torrent, "begun", |status| status.downloaded_payload > 0).await;
        for session in [leech, seed] {
            let report = session.shutdown().await;
            assert!(report.failures.is_empty(), "{report:?}");
            assert_eq!(report.torrents, 1);
            assert_eq!(report.threads, 5);
        }
        assert_eq!(
            tokio::runtime::Handle::current()
                .metrics()
                .num_alive_tasks(),
            0
        );
        assert_eq!(
            Arc::strong_count(&store),
            1,
            "the session dropped the store"
        );
        assert_eq!(store.dirty_bytes(), 0);
        // Handles that are left say so.
        assert!(torrent.peers().await.is_empty());
        assert_eq!(torrent.attach(store).await, Err(AddError::Ending));
    });
    drop(runtime);
    let gone = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        threads() <= before
    });
    assert!(gone, "{} threads, {before} before", threads());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_shut_down_goes_on_where_it_was() {
    let sample = Sample::file("continued", 30_000_000, 256 * 1024, false);
    let dir = tempfile::tempdir().unwrap();
    let seed = session().await;
    let full = sample.store_with(&dir.path().join("seed"), |piece| piece.get() < 60);
    let seeding = seed.add_store(full).await.unwrap();
    let leech_dir = dir.path().join("leech");
    let leech = session().await;
    let torrent = leech
        .add_store(sample.empty_store(&leech_dir))
        .await
        .unwrap();
    torrent.add_peers(&[addr(&seed)]).await;
    wait_for(&torrent, "as far as the seed", |status| {
        status.pieces_verified == 60
    })
    .await;
    leech.shutdown().await;
    seeding.remove().await;
    let full = sample.full_store(&dir.path().join("full"));
    seed.add_store(full).await.unwrap();

    let leech = session().await;
    let store = open(&leech_dir);
    let torrent = leech.add_store(store.clone()).await.unwrap();
    assert_eq!(torrent.status().pieces_verified, 60);
    torrent.add_peers(&[addr(&seed)]).await;
    let status = wait_seeding(&torrent).await;
    assert_eq!(
        status.downloaded_payload,
        sample.layout().content_length() - 60 * 256 * 1024
    );
    sample.assert_held_by(&store);
    leech.shutdown().await;
    seed.shutdown().await;
}

/// As with a socket that the service manager keeps while the service restarts.
#[tokio::test(flavor = "multi_thread")]
async fn who_connects_before_or_between_sessions_is_answered_once_the_torrents_are_there() {
    let sample = Sample::file("handed over", 1_000_000, 64 * 1024, false);
    let dir = tempfile::tempdir().unwrap();
    let full = sample.full_store(&dir.path().join("seed"));
    let v2 = sample.meta.info().hashes().v2;
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let start = async || {
        let config = SessionConfig {
            listen: Vec::new(),
            listeners: vec![socket.try_clone().unwrap()],
            accept_paused: true,
            ..config()
        };
        Session::start(config).await.unwrap()
    };
    let knock = async || {
        let at = socket.local_addr().unwrap();
        let stream = tokio::net::TcpStream::connect(at).await.unwrap();
        let mut peer = common::wire::RawPeer::new(stream);
        peer.greet(v2.truncated(), common::wire::MODERN, [7; 20])
            .await;
        peer
    };
    let first = start().await;
    let mut early = knock().await;
    first.add_store(full.clone()).await.unwrap();
    first.start_accepting();
    assert!(early.handshake().await.is_some());
    first.stop_accepting();
    let mut late = knock().await;
    first.shutdown().await;

    let second = start().await;
    second.add_store(full).await.unwrap();
    second.start_accepting();
    assert!(late.handshake().await.is_some());
    second.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_torrent_is_no_longer_served_and_can_come_back() {
    let sample = Sample::file("removed", 1_000_000, 64 * 1024, true);
    let dir = tempfile::tempdir().unwrap();
    let seed = session().await;
    let full = sample.full_store(&dir.path().join("seed"));
    let torrent = seed.add_store(full.clone()).await.unwrap();
    let v2 = sample.meta.info().hashes().v2;
    assert_eq!(
        seed.add_store(full.clone()).await.map(|_| ()),
        Err(AddError::Exists(v2))
    );
    let (mut peer, _) =
        common::wire::RawPeer::connect(addr(&seed), v2.truncated(), common::wire::MODERN).await;
    torrent.remove().await;
    peer.closed().await;
    assert!(torrent.subscribe().wait_for(|_| false).await.is_err());
    let stream = tokio::net::TcpStream::connect(addr(&seed)).await.unwrap();
    let mut peer = common::wire::RawPeer::new(stream);
    peer.greet(v2.truncated(), common::wire::MODERN, [7; 20])
        .await;
    assert_eq!(peer.handshake().await, None);
    let again = seed.add_store(full).await.unwrap();
    wait_seeding(&again).await;
    seed.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_another_torrent_is_refused() {
    let (one, two) = (
        Sample::file("one", 10, 16 * 1024, false),
        Sample::file("two", 11, 16 * 1024, false),
    );
    let dir = tempfile::tempdir().unwrap();
    let session = session().await;
    let torrent = session.add_magnet(one.meta.info().hashes()).await.unwrap();
    let refused = torrent
        .attach(two.empty_store(&dir.path().join("two")))
        .await;
    assert!(matches!(refused, Err(AddError::OtherTorrent { .. })));
    let right = one.full_store(&dir.path().join("one"));
    torrent.attach(right.clone()).await.unwrap();
    wait_seeding(&torrent).await;
    assert!(matches!(
        torrent.attach(right).await,
        Err(AddError::NotWaiting(_))
    ));
    session.shutdown().await;
}

const ALONE: &str = "BITTORRENT_SESSION_TEST";

/// Runs the test of this name in a process of its own. `true` inside of it.
fn run_alone(name: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let status = child(name, "yes").status().unwrap();
    assert!(status.success(), "{status}");
    false
}

fn child(name: &str, value: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(ALONE, value)
        .stdin(Stdio::null());
    command
}

fn killed_sample() -> Sample {
    Sample::file("killed", 48 << 20, 256 * 1024, false)
}

/// With a directory and a peer in its environment this is the process that is killed; else the one that kills it.
#[test]
fn a_killed_download_goes_on_with_what_is_true() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let sample = killed_sample();
    if let Ok(arguments) = std::env::var(ALONE) {
        let (dir, peer) = arguments.split_once('|').unwrap();
        runtime.block_on(async {
            let often = SessionConfig {
                tuning: Tuning {
                    checkpoint_bytes: 4 << 20,
                    ..Tuning::default()
                },
                ..config()
            };
            let leech = Session::start(often).await.unwrap();
            let store = sample.empty_store(Path::new(dir));
            let torrent = leech.add_store(store.clone()).await.unwrap();
            torrent.add_peers(&[peer.parse().unwrap()]).await;
            std::future::pending::<()>().await;
        });
    }
    runtime.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let seed = session().await;
        // Not everything, so that the download is under way for ever.
        let part = sample.store_with(&dir.path().join("part"), |piece| piece.get() < 150);
        let seeding = seed.add_store(part).await.unwrap();
        let leech_dir = dir.path().join("leech");
        let arguments = format!("{}|{}", leech_dir.display(), addr(&seed));
        let mut victim = child("a_killed_download_goes_on_with_what_is_true", &arguments)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        wait_for(&seeding, "serving", |status| {
            status.uploaded_payload > 20 << 20
        })
        .await;
        victim.kill().unwrap();
        victim.wait().unwrap();

        let store = open(&leech_dir);
        let verified = store.verified();
        assert!(verified.count() > 0, "some of it was made durable");
        for piece in sample.layout().piece_indices() {
            if verified.piece_is_full(piece) {
                let mut bytes = vec![0; sample.layout().piece_size(piece) as usize];
                store.read(piece, 0, &mut bytes).unwrap();
                assert!(bytes == sample.stretch(piece, 0, bytes.len() as u32));
            }
        }
        seeding.remove().await;
        let full = sample.full_store(&dir.path().join("full"));
        seed.add_store(full).await.unwrap();
        let leech = session().await;
        let torrent = leech.add_store(store.clone()).await.unwrap();
        torrent.add_peers(&[addr(&seed)]).await;
        let status = wait_seeding(&torrent).await;
        assert!(status.downloaded_payload < status.bytes_total);
        sample.assert_held_by(&store);
        leech.shutdown().await;
        seed.shutdown().await;
    });
}
