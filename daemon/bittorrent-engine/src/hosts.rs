//! Remote hosts: addresses to dial, bans, idle hosts, and limits on handshakes.

pub(crate) mod bans;
pub(crate) mod candidates;
pub(crate) mod handshakes;
pub(crate) mod idle_hosts;
