//! Configuration of a session.

use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use crate::transport::handshake::EncryptionPolicy;
use crate::transport::rate_limit::RateLimits;

/// How a [`Session`](crate::Session) listens, what it limits and how it presents itself to peers.
#[derive(Debug)]
pub struct SessionConfig {
    /// TCP addresses to bind. Port 0 takes a free one; see
    /// [`Session::local_addrs`](crate::Session::local_addrs). `[::]` also takes IPv4, unless the
    /// list or [`Self::listeners`] have an IPv4 address of the same port. Default: `[::]:0`.
    pub listen: Vec<SocketAddr>,
    /// Sockets that are bound and listening already, as systemd passes them. They are used in addition
    /// to [`Self::listen`]. Default: none.
    pub listeners: Vec<TcpListener>,
    /// Port that is announced to peers, where a router forwards another external port. Default: the
    /// port of the first listener.
    pub announce_port: Option<u16>,
    /// Limits on peers, slots and requests. The session replaces `peer_id` by its own. Bounds on
    /// connections are lowered where the process may not have as many file descriptors.
    pub engine: bittorrent_engine::Config,
    /// Rate limits over all torrents. Default: none. They can be changed later with
    /// [`SessionHandle::set_rate_limits`](crate::SessionHandle::set_rate_limits).
    pub rates: RateLimits,
    /// Whether connections use Message Stream Encryption. Default: plain text first.
    pub encryption: EncryptionPolicy,
    /// Whether peers exchange addresses of other peers (BEP 11), except in private torrents. Default: true.
    pub peer_exchange: bool,
    /// Name in the extended handshake (BEP 10, "v") and in HTTP requests. Default: the name and version
    /// of this crate.
    pub client: String,
    /// Accepts no connections before [`Session::start_accepting`](crate::Session::start_accepting): until
    /// then they wait in the kernel's queue. Default: false.
    pub accept_paused: bool,
    /// Sizes and times that have one good value outside of tests.
    pub tuning: Tuning,
}

/// Sizes and times that no setting of the program changes. Tests make them smaller.
#[derive(Debug, Clone)]
pub struct Tuning {
    /// Web seeds are used while a torrent receives less than this, in bytes a second. Default 1 MiB.
    pub web_seeds_below: u64,
    /// How long a torrent must receive too little before a web seed is used, and before each further
    /// one. Default 10 s.
    pub web_seed_patience: Duration,
    /// Bytes of received blocks that may wait for the disk, over all torrents. When they are used up,
    /// connections stop reading. At least one block of 16 KiB. Default 16 MiB.
    pub write_buffer_bytes: usize,
    /// Requests of one peer that may wait. Announced as `reqq`; further requests are rejected (BEP 6,
    /// BEP 10). 24 bytes each. Default 2000.
    pub request_queue: usize,
    /// Incoming handshakes at a time, of one host at most 8. When all slots are taken, the oldest
    /// handshake that has not named a torrent is closed for a new connection. Default 128; lowered where
    /// the process may not have as many file descriptors.
    pub max_incoming_handshakes: usize,
    /// Time limit for the peer's part of the handshake. Default 10 s.
    pub handshake_timeout: Duration,
    /// A connection from which nothing arrives for this long is closed. Default 120 s, as in other clients.
    pub idle_timeout: Duration,
    /// A keep-alive is sent after this time without a message. Default 60 s.
    pub keep_alive: Duration,
    /// Verified bytes that start a checkpoint, once [`Self::checkpoint_pause`] is over. Default 256 MiB.
    pub checkpoint_bytes: u64,
    /// Shortest time between the first verified byte and a checkpoint because of
    /// [`Self::checkpoint_bytes`]: a fast download shall not wait for the disk all the time. Default 5 s.
    pub checkpoint_pause: Duration,
}

impl Default for SessionConfig {
    fn default() -> Self {
        Self {
            listen: vec![(Ipv6Addr::UNSPECIFIED, 0).into()],
            listeners: Vec::new(),
            announce_port: None,
            engine: bittorrent_engine::Config::default(),
            rates: RateLimits::default(),
            encryption: EncryptionPolicy::default(),
            peer_exchange: true,
            client: concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")).to_owned(),
            accept_paused: false,
            tuning: Tuning::default(),
        }
    }
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            web_seeds_below: 1 << 20,
            web_seed_patience: Duration::from_secs(10),
            write_buffer_bytes: 16 << 20,
            request_queue: 2_000,
            max_incoming_handshakes: 128,
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(120),
            keep_alive: Duration::from_secs(60),
            checkpoint_bytes: 256 << 20,
            checkpoint_pause: Duration::from_secs(5),
        }
    }
}
