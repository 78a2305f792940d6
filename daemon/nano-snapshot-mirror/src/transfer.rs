//! Torrents in the session: how they start, where their peers come from, when a download waits.

pub(crate) mod announce;
pub(crate) mod dht;
pub(crate) mod disk_pause;
pub(crate) mod download;
pub(crate) mod limits;
pub(crate) mod local_mirror;
pub(crate) mod network;
pub(crate) mod peer_sources;
pub(crate) mod quota;
pub(crate) mod reuse;
pub(crate) mod session;
pub(crate) mod snapshot_torrent;
pub(crate) mod swarm_leftover;
