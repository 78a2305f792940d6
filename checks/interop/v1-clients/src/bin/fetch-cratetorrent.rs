//! Downloads a torrent with cratetorrent: `fetch-cratetorrent TORRENT DIRECTORY SEED_ADDRESS`.
//!
//! cratetorrent hashes a re-encoded info dictionary that holds only the keys it knows, so the
//! seeder must also answer to that hash; `--info-hash` instead of a seed address prints it.

use std::time::Duration;

use anyhow::{Context as _, bail};
use cratetorrent::prelude::*;
use tokio_02 as tokio;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let [torrent, directory, seed] = std::env::args()
        .skip(1)
        .collect::<Vec<_>>()
        .try_into()
        .map_err(|_| anyhow::anyhow!("three arguments: TORRENT DIRECTORY SEED_ADDRESS"))?;
    let metainfo = Metainfo::from_bytes(&std::fs::read(&torrent)?)
        .map_err(|e| anyhow::anyhow!("cratetorrent cannot read {torrent}: {e}"))?;
    if seed == "--info-hash" {
        println!(
            "{}",
            metainfo
                .info_hash
                .iter()
                .map(|b| format!("{b:02x}"))
                .collect::<String>()
        );
        return Ok(());
    }
    let seed = seed.parse().context("the seed's IP address and port")?;
    let (engine, mut alerts) = engine::spawn(Conf::new(directory)).map_err(anyhow::Error::msg)?;
    engine
        .create_torrent(TorrentParams {
            metainfo,
            listen_addr: Some(([127, 0, 0, 1], 0).into()),
            mode: Mode::Download { seeds: vec![seed] },
            conf: None,
        })
        .map_err(anyhow::Error::msg)?;
    let completed = async {
        while let Some(alert) = alerts.next().await {
            match alert {
                Alert::TorrentComplete(_) => return Ok(()),
                Alert::Error(error) => bail!("cratetorrent: {error}"),
                _ => {}
            }
        }
        bail!("cratetorrent stopped before the torrent was complete")
    };
    tokio::time::timeout(Duration::from_secs(60), completed)
        .await
        .context("60 s are over")??;
    engine.shutdown().await.map_err(anyhow::Error::msg)?;
    Ok(())
}
