//! Announces one torrent to the DHT, and adds the peers that it finds to the torrent in the session.

mod pace;

use std::sync::Arc;

use bittorrent_protocol::SwarmHash;
use bittorrent_session::{Scope, Source, TorrentHandle};
use snapshot_pointer::{Dht as _, MainlineDht};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tracing::{debug, warn};

use crate::config::Config;
use crate::config::HostPort;
use crate::transfer::local_mirror::LocalMirror;
use pace::SearchPace;

/// Announces one torrent and searches for its peers.
pub(super) struct Announcer {
    pub(super) torrent: TorrentHandle,
    pub(super) swarms: Vec<SwarmHash>,
    pub(super) dht: Arc<MainlineDht>,
    pub(super) config: watch::Receiver<Arc<Config>>,
    pub(super) local_mirror: Option<Arc<LocalMirror>>,
    pub(super) peer_port: u16,
}

impl Announcer {
    /// Searches and announces until the future is dropped.
    pub(super) async fn run(&self) {
        let mut pace = SearchPace::default();
        let mut config = self.config.clone();
        loop {
            let seed_peers = config.borrow_and_update().seed_peers.clone();
            if let Some(local_mirror) = &self.local_mirror {
                self.torrent.add_peers(&local_mirror.peers().await).await;
            }
            self.ask_seed_peers(&seed_peers).await;
            for swarm in &self.swarms {
                self.ask_dht(*swarm).await;
            }
            pace.searched(&self.torrent.status());
            tokio::select! {
                () = self.until_due(&mut pace) => {}
                // A reload changed the seed peers.
                Ok(_) = config.wait_for(|config| config.seed_peers != seed_peers) => {}
            }
        }
    }

    /// Waits until it is time to search again.
    async fn until_due(&self, pace: &mut SearchPace) {
        let mut clock = tokio::time::interval(pace::TICK);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        clock.tick().await;
        loop {
            clock.tick().await;
            if pace.is_due(&self.torrent.status()) {
                return;
            }
        }
    }

    async fn ask_seed_peers(&self, seed_peers: &[HostPort]) {
        for peer in seed_peers {
            match peer.resolve().await {
                Ok(addresses) => self.torrent.add_peers(&addresses).await,
                Err(error) => warn!(%peer, %error, "cannot resolve a seed peer"),
            }
        }
    }

    /// Announces the torrent, which also finds peers. If no node accepts the announcement, a plain search
    /// may still find peers.
    async fn ask_dht(&self, swarm: SwarmHash) {
        let peers = match self.dht.announce(swarm, self.peer_port).await {
            Ok(peers) => peers,
            Err(error) => {
                debug!(%swarm, %error, "cannot announce to the DHT");
                self.dht.get_peers(swarm).await.unwrap_or_default()
            }
        };
        debug!(%swarm, peers = peers.len(), "asked the DHT for peers");
        // The public DHT returns no private addresses; one that was joined through private addresses may.
        let joined = self.dht.joined_by().into_iter();
        let scope = joined.map(|ip| Scope::of(ip.into())).min();
        let scope = scope.unwrap_or(Scope::World);
        self.torrent
            .add_peers_from(&peers, Source::Dht, scope)
            .await;
    }
}
