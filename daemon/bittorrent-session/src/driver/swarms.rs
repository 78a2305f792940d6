//! The names by which peers refer to torrents.

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
    /// Registers a name for a torrent unless another torrent has it. Returns the torrent that has
    /// it now.
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

    /// Returns the swarm that an encrypted handshake names.
    pub(super) fn find(&self, name: HiddenSwarm) -> Option<SwarmHash> {
        self.hidden.get(&name).copied()
    }
}
