//! Torrents in the session: how they start, where their peers come from, when a download waits.

pub(crate) mod disk_pause;
pub(crate) mod download;
pub(crate) mod local_mirror;
pub(crate) mod peer_sources;
pub(crate) mod reuse;
pub(crate) mod session;
pub(crate) mod swarm_leftover;
