//! Seeds content as a hybrid torrent until standard input ends.
//!
//! ```text
//! interop-seed CONTENT DIRECTORY PIECE_LENGTH [TRACKER]
//! ```
//!
//! `DIRECTORY` gets a copy of the content and `seed.torrent`, which names the tracker if one is
//! given. Prints one JSON line once it listens: `{"address": "127.0.0.1:PORT"}`.

use std::io::Read as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use bittorrent_protocol::PieceLength;
use bittorrent_protocol::metainfo::Metainfo;
use bittorrent_session::{Session, SessionConfig};
use bittorrent_store::RealIo;
use bittorrent_store::create::{Cut, copy_path};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let mut next = |what| {
        arguments
            .next()
            .with_context(|| format!("missing argument: {what}"))
    };
    let content = PathBuf::from(next("CONTENT")?);
    let directory = PathBuf::from(next("DIRECTORY")?);
    let piece_length = next("PIECE_LENGTH")?.to_string_lossy().parse()?;
    let tracker = arguments.next();

    let cut = Cut {
        piece_length: PieceLength::new(piece_length)?,
        hybrid: true,
    };
    let place = directory.join("store");
    let store = copy_path(&content, &place, cut, Arc::new(RealIo), &mut |_| true)?;
    let mut metainfo = Metainfo::clone(&store.metainfo());
    if let Some(url) = tracker {
        metainfo.trackers = vec![vec![url.to_string_lossy().into_owned()]];
    }
    std::fs::write(directory.join("seed.torrent"), metainfo.encode())?;

    let listen = vec![(Ipv4Addr::LOCALHOST, 0).into()];
    let session = Session::start(SessionConfig {
        listen,
        ..SessionConfig::default()
    })
    .await?;
    session.add_store(Arc::new(store)).await?;
    let address = session
        .local_addrs()
        .first()
        .context("the session listens nowhere")?;
    println!("{}", serde_json::json!({"address": address.to_string()}));
    tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await??;
    session.shutdown().await;
    Ok(())
}
