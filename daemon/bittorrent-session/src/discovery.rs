//! Finding peers: trackers and the local network.

pub(crate) mod local_discovery;
pub(crate) mod tracker;
