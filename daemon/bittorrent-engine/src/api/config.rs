//! What a caller may tune.

use std::time::Duration;

use bittorrent_protocol::PeerId;

/// Limits and times of one engine, over all its torrents.
#[derive(Debug, Clone)]
pub struct Config {
    /// Our own peer id, when all our handshakes carry the same one: a connection to it is refused
    /// as one to ourselves, and it settles which of two connections to one peer stays.
    /// Default: none.
    pub peer_id: Option<PeerId>,
    /// Most connections over all torrents. Default 200. Each costs about 2 KiB, its bitfield
    /// (one bit a piece) and 8 bytes for each outstanding request.
    pub max_peers: usize,
    /// Most connections of one torrent. Default 100.
    pub max_peers_per_torrent: usize,
    /// Most connections of one torrent with one host: an IPv4 address, or a network of 64 bits of
    /// IPv6, which one customer has to himself. This machine is not bounded. Default: no limit.
    pub max_peers_per_host: usize,
    /// Most dials under way at once, over all torrents. Default 32.
    pub max_half_open: usize,
    /// Most addresses remembered for one torrent, about 150 bytes each. Default 2000.
    pub max_candidates: usize,
    /// Peers that may download from us at a time, over all torrents, local ones not counted.
    /// Default 16. Fewer give each peer more; more waste less of a fast line on slow peers.
    pub unchoke_slots: usize,
    /// How many of these slots rotate among peers that gave us nothing yet. Default 3.
    pub optimistic_slots: usize,
    /// How often upload slots are assigned again. Default 15 s.
    pub rechoke_interval: Duration,
    /// How long an optimistic slot stays with one peer. Default 30 s.
    pub optimistic_interval: Duration,
    /// Requests in flight to a new peer, in blocks; doubles every round trip. Default 64.
    pub initial_requests: usize,
    /// Most requests in flight to one peer, in blocks. Default 1500. What a peer announces as its
    /// own limit (`reqq`) is kept as well.
    pub max_requests: usize,
    /// The limit assumed for peers that announce none. Default 250 (BEP 10, "reqq").
    pub assumed_request_limit: usize,
    /// How long a peer may leave all its requests unanswered before they are asked elsewhere; a
    /// quarter of that for one that has sent no block yet. Default 20 s.
    pub request_timeout: Duration,
    /// How long a hash request may take before another peer is asked. Default 4 s.
    pub hash_timeout: Duration,
    /// How long a metadata request may take before another peer is asked. Default 4 s.
    pub metadata_timeout: Duration,
    /// How long a request for hashes or metadata stays unanswered at least before another host is asked
    /// as well. Where answers take longer than a third of that, it is three times what they take.
    /// Default 1 s.
    pub hedge_after: Duration,
    /// Most bytes of metadata taken from peers. Default 4 MiB.
    pub max_metadata_len: u32,
    /// How long the sender of false data stays banned. Default 4 h, doubled each time.
    pub ban_time: Duration,
    /// How many blocks may be in pieces that are open and not verified, 40 bytes each; a peer
    /// with nothing else to do may begin one more piece. Default 2^18: 4 GiB of content, 10 MiB.
    pub max_open_blocks: u64,
    /// How many blocks may be in pieces that are looked up as a whole in older content
    /// ([`Content::reuse`](crate::Content::reuse)); one piece may always be. Default 2^12: 64 MiB
    /// of content. More keep more of a disk's queue busy, and delay what the network waits for.
    pub max_lookup_blocks: u64,
    /// How many blocks may be in pieces whose leaves are requested or looked up, 40 bytes each, or
    /// wait to be requested after that; one piece may always be. Default 2^15: 512 MiB of
    /// content, 1.3 MiB.
    pub max_reuse_blocks: u64,
    /// When no look-up has been answered for this long while some are under way, nothing is looked
    /// for any more and everything is asked of peers. Default 300 s.
    pub lookup_timeout: Duration,
    /// How many blocks may wait for the hash of their piece, 40 bytes each: only where no peer
    /// can give piece layers. Default 2^23: 128 GiB of content, 320 MiB.
    pub max_unproven_blocks: u64,
    /// The shortest wait before an address that failed is dialled again; doubles with each
    /// failure, up to [`Self::redial_max`]. Default 15 s.
    pub redial_min: Duration,
    /// The longest wait before an address that failed is dialled again. Default 1 h.
    pub redial_max: Duration,
}

/// The limits on connections that can be changed while there are connections. See the fields of
/// [`Config`] with the same names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Over all torrents.
    pub max_peers: usize,
    /// Of one torrent.
    pub max_peers_per_torrent: usize,
    /// Of one torrent with one host.
    pub max_peers_per_host: usize,
    /// Dials under way.
    pub max_half_open: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            peer_id: None,
            max_peers: 200,
            max_peers_per_torrent: 100,
            max_peers_per_host: usize::MAX,
            max_half_open: 32,
            max_candidates: 2_000,
            unchoke_slots: 16,
            optimistic_slots: 3,
            rechoke_interval: Duration::from_secs(15),
            optimistic_interval: Duration::from_secs(30),
            initial_requests: 64,
            max_requests: 1_500,
            assumed_request_limit: 250,
            request_timeout: Duration::from_secs(20),
            hash_timeout: Duration::from_secs(4),
            metadata_timeout: Duration::from_secs(4),
            hedge_after: Duration::from_secs(1),
            max_metadata_len: bittorrent_protocol::MAX_INFO_LEN,
            ban_time: Duration::from_secs(4 * 3600),
            max_open_blocks: 1 << 18,
            max_lookup_blocks: 1 << 12,
            max_reuse_blocks: 1 << 15,
            lookup_timeout: Duration::from_secs(300),
            max_unproven_blocks: 1 << 23,
            redial_min: Duration::from_secs(15),
            redial_max: Duration::from_secs(3600),
        }
    }
}
