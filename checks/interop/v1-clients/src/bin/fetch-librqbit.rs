//! Downloads a torrent with librqbit: `fetch-librqbit TORRENT DIRECTORY SEED_ADDRESS`.

use std::time::Duration;

use anyhow::Context as _;
use librqbit::{AddTorrent, AddTorrentOptions, Session, SessionOptions};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let [torrent, directory, seed] = std::env::args()
        .skip(1)
        .collect::<Vec<_>>()
        .try_into()
        .map_err(|_| anyhow::anyhow!("three arguments: TORRENT DIRECTORY SEED_ADDRESS"))?;
    // Nothing leaves the machine: no DHT, no trackers, no local discovery.
    let session = Session::new_with_opts(
        directory.into(),
        SessionOptions {
            dht: None,
            disable_trackers: true,
            disable_local_service_discovery: true,
            ..SessionOptions::default()
        },
    )
    .await?;
    let handle = session
        .add_torrent(
            AddTorrent::from_local_filename(&torrent)?,
            Some(AddTorrentOptions {
                overwrite: true,
                disable_trackers: true,
                initial_peers: Some(vec![
                    seed.parse().context("the seed's IP address and port")?,
                ]),
                ..AddTorrentOptions::default()
            }),
        )
        .await?
        .into_handle()
        .context("librqbit only listed the torrent")?;
    tokio::time::timeout(Duration::from_secs(60), handle.wait_until_completed())
        .await
        .context("60 s are over")??;
    session.stop().await;
    Ok(())
}
