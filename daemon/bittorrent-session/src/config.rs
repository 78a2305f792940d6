//! What a caller may tune.

use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use crate::handshake::EncryptionPolicy;
use crate::limits::RateLimits;

/// How a [`Session`](crate::Session) listens, how much memory it takes and how long it waits.
#[derive(Debug)]
pub struct SessionConfig {
    /// Addresses to bind, for TCP. Port 0 takes a free one; see
    /// [`Session::local_addrs`](crate::Session::local_addrs). `[::]` also takes IPv4, unless the
    /// list or [`Self::listeners`] have an IPv4 address of the same port. Default: `[::]:0`.
    pub listen: Vec<SocketAddr>,
    /// Sockets that are bound and listening already, as a service manager hands them over.
    /// They are used in addition to [`Self::listen`]. Default: none.
    pub listeners: Vec<TcpListener>,
    /// The port at which peers are told to reach us, where a router hands over another one than we
    /// listen at. Default: the first that we listen at.
    pub announce_port: Option<u16>,
    /// Limits on peers, slots and requests. Its `peer_id` is replaced by the session's own.
    pub engine: bittorrent_engine::Config,
    /// How fast content may come and go, over all torrents. Default: no limit. Can be changed
    /// later with [`SessionHandle::set_rate_limits`](crate::SessionHandle::set_rate_limits).
    pub rates: RateLimits,
    /// Whether connections are hidden from who looks for the protocol. Default: plain text first.
    pub encryption: EncryptionPolicy,
    /// Tells peers of each other, and hears of others from them (BEP 11), except in private
    /// torrents. Default: true.
    pub peer_exchange: bool,
    /// Web seeds are used while a torrent receives fewer bytes a second than this. Default 1 MiB.
    pub web_seeds_below: u64,
    /// For how long a torrent must receive too little before a web seed is used, and before one
    /// more is. Default 10 s.
    pub web_seed_patience: Duration,
    /// The first bytes of our peer id, the rest is random (BEP 20). Default `-BS0100-`.
    pub peer_id_prefix: [u8; 8],
    /// What we call ourselves in the extended handshake (BEP 10, "v"). Default: the name and
    /// version of this crate.
    pub client: String,
    /// Threads that write blocks, and as many again that read and hash. Default 2. More help
    /// where reads wait for a rotating disk.
    pub disk_threads: usize,
    /// Bytes of received blocks that may wait for the disk, over all torrents; beyond it we stop
    /// reading from sockets. At least one block of 16 KiB. Default 16 MiB.
    pub write_buffer_bytes: usize,
    /// Bytes of blocks read from disk that may wait for sockets, over all torrents. Blocks in
    /// the page cache need no buffer. At least 256 KiB. Default 8 MiB.
    pub read_buffer_bytes: usize,
    /// Requests one peer may have waiting with us; we announce this as `reqq` and reject what is
    /// beyond (BEP 6, BEP 10). 24 bytes each. Default 2000.
    pub request_queue: usize,
    /// Lets nobody in before [`Session::start_accepting`](crate::Session::start_accepting): who connects waits in the
    /// kernel until the torrents are there. Default: false.
    pub accept_paused: bool,
    /// Incoming connections that may be shaking hands at a time, of one host at most 8. When all
    /// are taken, the oldest one that has not named a torrent is closed for a newcomer. Default 128.
    pub max_incoming_handshakes: usize,
    /// How long a TCP connect may take. Default 10 s.
    pub connect_timeout: Duration,
    /// How long each side's handshake may take. Default 10 s.
    pub handshake_timeout: Duration,
    /// How long a peer may send nothing at all. Default 120 s, at which others give up too.
    pub idle_timeout: Duration,
    /// After how long without a message we send a keep-alive. Default 60 s.
    pub keep_alive: Duration,
    /// How many verified bytes of a torrent may lie on disk without being made durable, once
    /// [`Self::checkpoint_pause`] is over. Default 256 MiB.
    pub checkpoint_bytes: u64,
    /// The least time between two such moments, so that a fast download does not wait for the disk
    /// all the time: what a power cut may cost again. Default 5 s.
    pub checkpoint_pause: Duration,
    /// How long verified bytes may lie on disk without being made durable. Default 30 s.
    pub checkpoint_interval: Duration,
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
            web_seeds_below: 1 << 20,
            web_seed_patience: Duration::from_secs(10),
            peer_id_prefix: *b"-BS0100-",
            client: concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")).to_owned(),
            disk_threads: 2,
            write_buffer_bytes: 16 << 20,
            read_buffer_bytes: 8 << 20,
            request_queue: 2_000,
            accept_paused: false,
            max_incoming_handshakes: 128,
            connect_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(120),
            keep_alive: Duration::from_secs(60),
            checkpoint_bytes: 256 << 20,
            checkpoint_pause: Duration::from_secs(5),
            checkpoint_interval: Duration::from_secs(30),
        }
    }
}
