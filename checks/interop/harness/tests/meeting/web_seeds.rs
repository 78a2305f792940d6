//! A file server that has the content of a torrent libtorrent made (BEP 19), alone and beside
//! libtorrent.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use bittorrent_session::{RateLimits, SessionConfig, Tuning};
use interop_harness::{Libtorrent, TorrentKind};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::{World, config, whole};

/// Serves the files below a directory, ranges of them only, until it is dropped.
async fn serve(root: PathBuf) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            connections.spawn(answer(stream, root.clone()));
        }
    });
    (url, tasks)
}

async fn answer(mut stream: TcpStream, root: PathBuf) {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let head = String::from_utf8(head).unwrap().to_lowercase();
        let path = head.split(' ').nth(1).unwrap().trim_start_matches('/');
        let range = head.split("range: bytes=").nth(1).unwrap();
        let (first, last) = range.lines().next().unwrap().split_once('-').unwrap();
        let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
        let content = fs::read(root.join(path)).unwrap();
        let head = format!(
            "HTTP/1.1 206 Partial\r\nContent-Range: bytes {first}-{last}/{}\r\nContent-Length: {}\r\n\r\n",
            content.len(),
            last + 1 - first
        );
        let body = &content[first..=last];
        if stream
            .write_all(&[head.as_bytes(), body].concat())
            .await
            .is_err()
        {
            return;
        }
    }
}

fn impatient() -> SessionConfig {
    SessionConfig {
        tuning: Tuning {
            web_seed_patience: Duration::ZERO,
            ..Tuning::default()
        },
        ..config()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_server_alone_gives_what_libtorrent_made_a_torrent_of() {
    for (release, kind) in [
        (Libtorrent::V2_0_11, TorrentKind::V2),
        (Libtorrent::V2_0_15, TorrentKind::Hybrid),
    ] {
        let world = World::made_by(release, kind);
        let (url, _server) = serve(world.dir.path().to_owned()).await;
        let (session, torrent) = world.fetch(impatient()).await;
        torrent.add_web_seeds(&[url.parse().unwrap()]).await;
        whole(&torrent).await;
        world.assert_ours();
        assert_eq!(torrent.status().wasted, 0);
        session.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_server_and_libtorrent_give_together() {
    // Slow enough for both to take part, whatever peers send.
    let both = SessionConfig {
        tuning: Tuning {
            web_seeds_below: u64::MAX,
            ..impatient().tuning
        },
        rates: RateLimits {
            upload: None,
            download: Some(500_000),
        },
        ..impatient()
    };
    let world = World::made_by(Libtorrent::V2_0_15, TorrentKind::V2);
    let (url, _server) = serve(world.dir.path().to_owned()).await;
    let (mut seed, id) = world.seed("127.0.0.1:0", &json!({}));
    let (session, torrent) = world.fetch(both).await;
    torrent.add_peers(&[seed.address()]).await;
    torrent.add_web_seeds(&[url.parse().unwrap()]).await;
    whole(&torrent).await;
    world.assert_ours();
    let uploaded = seed.status(id)["uploaded"].as_u64().unwrap();
    let total = torrent.status().bytes_total;
    assert!((1..total).contains(&uploaded), "{uploaded} of {total}");
    session.shutdown().await;
}
