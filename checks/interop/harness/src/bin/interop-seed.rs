//! Seeds content as a hybrid torrent until standard input ends.
//!
//! ```text
//! interop-seed CONTENT DIRECTORY PIECE_LENGTH
//! ```
//!
//! `DIRECTORY` gets a copy of the content and `seed.torrent`. Prints one JSON line once it listens:
//! `{"address": "127.0.0.1:PORT", "v1": "HASH"}`, with the v1 info-hash in hexadecimal.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use bittorrent_protocol::PieceLength;
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

    let cut = Cut {
        piece_length: PieceLength::new(piece_length)?,
        hybrid: true,
    };
    let place = directory.join("store");
    let store = copy_path(&content, &place, cut, Arc::new(RealIo), &mut |_| true)?;
    std::fs::write(directory.join("seed.torrent"), store.metainfo().encode())?;

    let listen = vec![(Ipv4Addr::LOCALHOST, 0).into()];
    let session = Session::start(SessionConfig {
        listen,
        ..SessionConfig::default()
    })
    .await?;
    let torrent = session.add_store(Arc::new(store)).await?;
    let address = session
        .local_addrs()
        .first()
        .context("the session listens nowhere")?;
    let v1 = torrent.id().v1.context("the torrent is no hybrid")?;
    println!(
        "{}",
        serde_json::json!({"address": address.to_string(), "v1": v1.to_string()})
    );
    tokio::io::copy(&mut tokio::io::stdin(), &mut tokio::io::sink()).await?;
    session.shutdown().await;
    Ok(())
}
