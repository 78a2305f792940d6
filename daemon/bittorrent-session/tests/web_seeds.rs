//! Downloads from file servers, alone and beside peers.

#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bittorrent_session::{Session, SessionConfig, TorrentHandle, Tuning, WebSeedUrl};
use bittorrent_store::TorrentStore;
use common::http::{Request, Response, Server, ranged};
use common::{Sample, addr, config, session, wait_for, wait_seeding};

/// Reaches for web seeds at once.
fn impatient() -> SessionConfig {
    SessionConfig {
        tuning: Tuning {
            web_seed_patience: Duration::ZERO,
            ..Tuning::default()
        },
        ..config()
    }
}

struct Download {
    _dir: tempfile::TempDir,
    session: Session,
    store: Arc<TorrentStore>,
    torrent: TorrentHandle,
}

async fn download(sample: &Sample, urls: &[String], config: SessionConfig) -> Download {
    let dir = tempfile::tempdir().unwrap();
    let session = Session::start(config).await.unwrap();
    let store = sample.empty_store(dir.path().join("t").as_path());
    let torrent = session.add_store(store.clone()).await.unwrap();
    let urls: Vec<WebSeedUrl> = urls.iter().map(|url| url.parse().unwrap()).collect();
    torrent.add_web_seeds(&urls).await;
    Download {
        _dir: dir,
        session,
        store,
        torrent,
    }
}

fn not_found() -> Response {
    Response {
        status: 404,
        ..Response::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_comes_from_a_file_server_alone() {
    for hybrid in [false, true] {
        let sample = Sample::file("alone", 3_000_001, 64 * 1024, hybrid);
        let content = sample.contents[0].clone();
        let server = Server::start(move |request| ranged(request, &content)).await;
        let url = server.url("/any/name.bin");
        let download = download(&sample, &[url], impatient()).await;
        let status = wait_seeding(&download.torrent).await;
        sample.assert_held_by(&download.store);
        assert_eq!((status.wasted, status.banned), (0, 0));
        let requests = server.requests();
        assert!(
            requests
                .iter()
                .all(|request| request.path == "/any/name.bin")
        );
        assert!(requests.len() < 20, "{} requests", requests.len());
    }
}

/// The range that was requested, or its first `most` bytes.
fn at_most(request: &Request, content: &[u8], most: usize) -> Response {
    let (first, last) = request.range().unwrap();
    let last = last.min(first + most - 1);
    let range = format!("bytes {first}-{last}/{}", content.len());
    Response {
        status: 206,
        headers: vec![("Content-Range", range)],
        body: content[first..=last].to_vec(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_is_cut_short_is_requested_again_from_there() {
    let sample = Sample::file("short", 1_000_001, 64 * 1024, false);
    let content = sample.contents[0].clone();
    // Six blocks, and a part of one that is of no use.
    let server = Server::start(move |request| at_most(request, &content, 100_000)).await;
    let download = download(&sample, &[server.url("/x")], impatient()).await;
    wait_seeding(&download.torrent).await;
    sample.assert_held_by(&download.store);
    assert!(server.requests().len() >= 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn relative_redirections_are_followed_with_the_credentials_of_their_server() {
    let sample = Sample::file("moved", 200_000, 64 * 1024, false);
    let content = sample.contents[0].clone();
    let server = Server::start(move |request| {
        let authorized = request.headers.get("authorization");
        // "me:p@ss", as the URL below has it.
        if authorized.is_none_or(|value| value != "Basic bWU6cEBzcw==") {
            return Response {
                status: 401,
                ..Response::default()
            };
        }
        let location = match &*request.path {
            "/a/b/x" => "../c/x?y=1",
            "/a/c/x?y=1" => "?z",
            "/a/c/x?z" => return ranged(request, &content),
            _ => return not_found(),
        };
        Response {
            status: 302,
            headers: vec![("Location", location.to_owned())],
            ..Response::default()
        }
    })
    .await;
    let url = format!("http://me:p%40ss@{}/a/b/x", server.addr);
    let download = download(&sample, &[url], impatient()).await;
    wait_seeding(&download.torrent).await;
    sample.assert_held_by(&download.store);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_files_of_a_directory_stand_below_the_name_of_the_torrent() {
    let sizes = [70_000, 0, 1, 16_384, 200_000];
    let sample = Sample::directory("the name", &sizes, 32 * 1024, false);
    let contents = sample.contents.clone();
    let server = Server::start(move |request| {
        let number = request.path.strip_prefix("/d/the%20name/");
        let number = number.and_then(|path| path.get("00/file%20".len()..));
        match number.and_then(|number| number.parse::<usize>().ok()) {
            Some(number) => ranged(request, &contents[number]),
            None => not_found(),
        }
    })
    .await;
    let download = download(&sample, &[server.url("/d/")], impatient()).await;
    wait_seeding(&download.torrent).await;
    sample.assert_held_by(&download.store);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_one_server_lacks_comes_from_another() {
    let sample = Sample::directory("two", &[100_000, 100_000], 32 * 1024, false);
    let serve = |contents: Vec<Vec<u8>>, has: usize| {
        move |request: &Request| match request.path.ends_with(&format!("{has:03}")) {
            true => ranged(request, &contents[has]),
            false => not_found(),
        }
    };
    let first = Server::start(serve(sample.contents.clone(), 0)).await;
    let second = Server::start(serve(sample.contents.clone(), 1)).await;
    let urls = [first.url("/"), second.url("/")];
    let download = download(&sample, &urls, impatient()).await;
    wait_seeding(&download.torrent).await;
    sample.assert_held_by(&download.store);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lies_is_found_out_and_peers_complete_the_download() {
    let sample = Sample::file("lies", 1_000_000, 64 * 1024, false);
    let mut content = sample.contents[0].clone();
    content[500_000] ^= 1;
    let server = Server::start(move |request| ranged(request, &content)).await;
    let download = download(&sample, &[server.url("/lies")], impatient()).await;
    let banned = wait_for(&download.torrent, "banned", |status| status.banned == 1).await;
    assert!(banned.bytes_verified < banned.bytes_total);
    let dir = tempfile::tempdir().unwrap();
    let seed = session().await;
    let seeding = sample.full_store(&dir.path().join("seed"));
    seed.add_store(seeding).await.unwrap();
    download.torrent.add_peers(&[addr(&seed)]).await;
    wait_seeding(&download.torrent).await;
    sample.assert_held_by(&download.store);
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_do_not_do_their_work_are_left_alone() {
    let sample = Sample::file("broken", 300_000, 64 * 1024, false);
    let content = sample.contents[0].clone();
    let whole = Server::start({
        let content = content.clone();
        // Knows no ranges.
        move |_| Response {
            status: 200,
            body: content[..content.len() - 1].to_vec(),
            ..Response::default()
        }
    })
    .await;
    let busy = Server::start(|_| Response {
        status: 503,
        headers: vec![("Retry-After", "3000".to_owned())],
        ..Response::default()
    })
    .await;
    let other = Server::start(|request| ranged(request, &[0; 400_000])).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let good = Server::start(move |request| {
        // Sends us elsewhere first.
        match calls.fetch_add(1, Ordering::Relaxed) {
            0 => Response {
                status: 302,
                headers: vec![("Location", "/elsewhere".to_owned())],
                ..Response::default()
            },
            _ => ranged(request, &content),
        }
    })
    .await;
    let urls = [&whole, &busy, &other].map(|server| server.url("/broken"));
    let download = download(&sample, &urls, impatient()).await;
    wait_for(&download.torrent, "tried and left", |status| {
        let tried = [&whole, &busy, &other]
            .iter()
            .all(|s| s.requests().len() == 1);
        tried && status.peers == 0
    })
    .await;
    let url = good.url("/broken").parse().unwrap();
    download.torrent.add_web_seeds(&[url]).await;
    wait_seeding(&download.torrent).await;
    sample.assert_held_by(&download.store);
    assert_eq!(good.requests()[1].path, "/elsewhere");
    for server in [&whole, &busy, &other] {
        assert_eq!(server.requests().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_file_server_sends_counts_against_the_limit() {
    let sample = Sample::file("limited", 4 << 20, 256 * 1024, false);
    let content = sample.contents[0].clone();
    let server = Server::start(move |request| ranged(request, &content)).await;
    let config = SessionConfig {
        rates: bittorrent_session::RateLimits {
            upload: None,
            download: Some(2 << 20),
        },
        ..impatient()
    };
    let start = std::time::Instant::now();
    let download = download(&sample, &[server.url("/x")], config).await;
    wait_seeding(&download.torrent).await;
    let took = start.elapsed();
    // 2 s at the limit; what is asked for at once comes before it is paid for.
    assert!(took > Duration::from_millis(1_700), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_peers_give_enough_no_file_server_is_asked() {
    let sample = Sample::file("enough", 5_000_000, 256 * 1024, false);
    let dir = tempfile::tempdir().unwrap();
    let seed = session().await;
    let store = sample.full_store(&dir.path().join("seed"));
    seed.add_store(store).await.unwrap();
    let server = Server::start(|_| not_found()).await;
    let download = download(&sample, &[server.url("/x")], config()).await;
    download.torrent.add_peers(&[addr(&seed)]).await;
    wait_seeding(&download.torrent).await;
    assert!(server.requests().is_empty());
    let report = download.session.shutdown().await;
    assert!(report.failures.is_empty());
}
