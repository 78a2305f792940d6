//! The names under which peers know our torrents.

use std::collections::HashMap;

use bittorrent_engine::TorrentKey;
use bittorrent_protocol::SwarmHash;
use bittorrent_protocol::mse::HiddenSwarm;

/// All names of all torrents.
#[derive(Debug, Default)]
pub(super) struct SwarmRegistry {
    torrents: HashMap<SwarmHash, TorrentKey>,
    hidden: HashMap<HiddenSwarm, SwarmHash>,
}

impl SwarmRegistry {
    /// Gives a name to a torrent unless another has it; says who has it now.
    pub(super) fn register(&mut self, swarm: SwarmHash, torrent: TorrentKey) -> TorrentKey {
        self.hidden.insert(HiddenSwarm::of(swarm), swarm);
        *self.torrents.entry(swarm).or_insert(torrent)
    }

    pub(super) fn remove(&mut self, swarm: SwarmHash) {
        self.torrents.remove(&swarm);
        self.hidden.remove(&HiddenSwarm::of(swarm));
    }

    pub(super) fn get(&self, swarm: SwarmHash) -> Option<TorrentKey> {
        self.torrents.get(&swarm).copied()
    }

    /// The name that an encrypted handshake hides.
    pub(super) fn find(&self, name: HiddenSwarm) -> Option<SwarmHash> {
        self.hidden.get(&name).copied()
    }
}
