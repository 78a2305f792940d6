//! Sources of peers besides the DHT: trackers, local discovery, web seeds.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bittorrent_protocol::SwarmHash;
use bittorrent_session::{
    LocalDiscovery, LocalDiscoveryConfig, LocalRegistry, Session, TorrentHandle, TrackerUrl,
    WebSeedUrl,
};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::config::Config;

/// The configured sources.
pub(crate) struct PeerSources {
    trackers: Vec<TrackerUrl>,
    web_seeds: Vec<WebSeedUrl>,
    lan: Option<LocalRegistry>,
}

impl PeerSources {
    /// Starts local discovery, if configured. Its task ends with `stop`.
    pub(crate) fn open(
        config: &Config,
        session: &Session,
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) -> Self {
        let lan = config
            .peer
            .local_discovery
            .then(|| lan_of(session.local_addrs()))
            .flatten()
            .and_then(
                |lan| match LocalDiscovery::open(lan, session.announce_port()) {
                    Ok(discovery) => Some(discovery),
                    Err(error) => {
                        info!(%error, "cannot start local discovery");
                        None
                    }
                },
            );
        let lan = lan.map(|discovery| {
            let book = discovery.registry();
            tasks.spawn(discovery.run(stop.clone()));
            book
        });
        Self {
            trackers: config.trackers.urls.clone(),
            web_seeds: config.web_seeds.urls.clone(),
            lan,
        }
    }

    /// Announces a torrent in these swarms until `stop` is cancelled.
    pub(crate) fn announce(
        &self,
        session: &Session,
        torrent: &TorrentHandle,
        swarms: &[SwarmHash],
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) {
        for url in &self.trackers {
            let announcer = session.announcer(url.clone(), torrent, swarms.to_vec());
            tasks.spawn(announcer.run(stop.clone()));
        }
        let entry = self
            .lan
            .as_ref()
            .map(|registry| registry.register(torrent, swarms));
        let (torrent, web_seeds, stop) = (torrent.clone(), self.web_seeds.clone(), stop.clone());
        tasks.spawn(async move {
            torrent.add_web_seeds(&web_seeds).await;
            // A private torrent may use its trackers only (BEP 27).
            let private = async {
                match torrent.info().await {
                    Some(info) if info.is_private() => {}
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = private => warn!("the torrent is private: stopped local discovery"),
            }
            drop(entry);
        });
    }
}

/// Returns the local network of the listening addresses; `None` if all are loopback.
fn lan_of(listen: &[SocketAddr]) -> Option<LocalDiscoveryConfig> {
    let reached = listen.iter().find(|addr| !addr.ip().is_loopback())?;
    let interface = match reached.ip() {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    };
    Some(LocalDiscoveryConfig {
        interface,
        ..LocalDiscoveryConfig::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_network_is_the_one_we_are_reached_in() {
        for (listen, interface) in [
            (&["[::]:1"][..], Some("0.0.0.0")),
            (&["0.0.0.0:1"], Some("0.0.0.0")),
            (&["127.0.0.1:1", "192.168.1.2:1"], Some("192.168.1.2")),
            (&["127.0.0.1:1", "[::1]:1"], None),
            (&[], None),
        ] {
            let listen: Vec<SocketAddr> = listen.iter().map(|text| text.parse().unwrap()).collect();
            let found = lan_of(&listen).map(|lan| lan.interface);
            assert_eq!(found, interface.map(|text| text.parse().unwrap()));
        }
    }
}
