//! One engine with the least possible session and disk around it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bittorrent_engine::{
    Blame, Config, Discard, DisconnectReason, Engine, PeerKey, StopReason, TorrentKey,
};
use bittorrent_protocol::merkle::HashRequest;
use bittorrent_protocol::{BlockIndex, MerkleHash, PeerId, PieceIndex};

use simulation::SyntheticTorrent;

/// What a node does wrong, or differently.
#[derive(Debug, Clone)]
pub(crate) struct Habits {
    /// Sends false bytes for these of its blocks.
    pub(crate) lies: fn(BlockIndex) -> bool,
    /// Answers hash requests.
    pub(crate) hashes: Answers,
    /// Has the leaves, too, for hash requests.
    pub(crate) gives_leaves: bool,
    /// And the nodes between leaves and pieces.
    pub(crate) gives_nodes: bool,
    /// Answers metadata requests.
    pub(crate) metadata: Answers,
    /// Speaks the fast extension.
    pub(crate) fast: bool,
    /// Connects under the v1 info-hash.
    pub v1: bool,
    /// Takes part in peer exchange.
    pub(crate) exchanges: bool,
    /// Counts as local to everyone.
    pub(crate) local: bool,
    /// Bytes a second it sends.
    pub(crate) upload_rate: u64,
    /// Stops answering after so many blocks, without closing anything.
    pub(crate) silent_after: Option<u64>,
    /// Goes away after so many blocks.
    pub(crate) vanishes_after: Option<u64>,
    /// How many requests it says it queues, and does.
    pub(crate) reqq: u32,
    /// How long a write takes.
    pub(crate) write_time: Duration,
    /// Each of so many writes fails, the first ones included.
    pub(crate) failing_writes: u32,
    /// Learns the leaves of a piece only when a block of it is asked for, and rejects requests for
    /// them before, as libtorrent does in its seed mode.
    pub(crate) seed_mode: bool,
    /// Chokes everyone for a while after so many blocks, again and again.
    pub(crate) chokes_every: Option<u64>,
}

/// How requests of a kind are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answers {
    Truly,
    Falsely,
    WithReject,
    /// Truly, after 2 s.
    Late,
    Not,
}

impl Answers {
    /// How long it takes to answer.
    pub(crate) fn delay(self) -> Duration {
        Duration::from_secs(if self == Self::Late { 2 } else { 0 })
    }
}

impl Default for Habits {
    fn default() -> Self {
        Self {
            lies: |_| false,
            hashes: Answers::Truly,
            gives_leaves: true,
            gives_nodes: true,
            metadata: Answers::Truly,
            fast: true,
            v1: false,
            exchanges: false,
            local: false,
            upload_rate: 20_000_000,
            silent_after: None,
            vanishes_after: None,
            reqq: 500,
            write_time: Duration::from_millis(3),
            failing_writes: 0,
            seed_mode: false,
            chokes_every: None,
        }
    }
}

/// What a node finds when its engine has it look for something.
pub(crate) struct Held {
    /// The block's bytes are held somewhere.
    pub(crate) has: Box<dyn Fn(BlockIndex) -> bool>,
    /// Wrong bytes stand at the block's place afterwards, and the node says so.
    pub(crate) spoils: Box<dyn Fn(BlockIndex) -> bool>,
    /// A look-up for this piece is answered.
    pub(crate) answers: Box<dyn Fn(PieceIndex) -> bool>,
    /// Says what it has of a piece that is not there as a whole.
    pub(crate) halves: bool,
}

impl Held {
    pub(crate) fn new(has: impl Fn(BlockIndex) -> bool + 'static) -> Self {
        Self {
            has: Box::new(has),
            spoils: Box::new(|_| false),
            answers: Box::new(|_| true),
            halves: false,
        }
    }
}

/// The far end of a connection, and what is on its way out.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) node: usize,
    pub(crate) key: PeerKey,
    pub(crate) fast: bool,
    /// Our engine chokes it.
    pub(crate) chokes: bool,
    /// We choke it on a whim, see [`Habits::chokes_every`].
    pub(crate) moody: bool,
    /// Requests it made that are not answered.
    pub(crate) queue: VecDeque<BlockIndex>,
    /// What our engine asked it for and has not seen answered or given up.
    pub(crate) asked: BTreeSet<BlockIndex>,
    /// The limit it announced.
    pub(crate) limit: usize,
    /// A block is being sent.
    pub(crate) sending: bool,
}

/// An engine, its disk and its connections.
pub(crate) struct Node {
    pub(crate) engine: Engine,
    pub(crate) torrent: TorrentKey,
    pub(crate) truth: Arc<SyntheticTorrent>,
    pub(crate) addr: SocketAddr,
    pub(crate) peer_id: PeerId,
    pub(crate) habits: Habits,
    pub(crate) online: bool,
    pub(crate) knows_content: bool,
    pub(crate) links: BTreeMap<PeerKey, Link>,
    /// Connections the other side did not want.
    pub(crate) refused: BTreeSet<PeerKey>,
    /// What was written last to each block.
    pub(crate) disk: BTreeMap<BlockIndex, MerkleHash>,
    /// Blocks being written, with what.
    pub(crate) writing: BTreeMap<BlockIndex, MerkleHash>,
    pub(crate) proven: BTreeSet<BlockIndex>,
    pub(crate) held: Option<Held>,
    /// Pieces that are being looked for, and how many look-ups there were.
    pub(crate) looking: BTreeSet<PieceIndex>,
    pub(crate) lookups: u64,
    /// Look-ups are not answered on purpose: what the engine does to their pieces is no mistake.
    pub(crate) forgets_look_ups: bool,
    /// Pieces it was asked a block of.
    pub(crate) touched: BTreeSet<PieceIndex>,
    pub(crate) hash_requests: u64,
    /// Blocks below the nodes, lower than the piece layer, that it requested and has not received.
    pub(crate) blocks_below_requests: u64,
    pub(crate) layers: BTreeSet<u32>,
    pub(crate) writes: BTreeMap<BlockIndex, u32>,
    pub(crate) sent: u64,
    pub(crate) failed_writes: u32,
    pub(crate) ports: u16,
    // What its engine said.
    pub(crate) completed: Option<Instant>,
    pub(crate) banned: Vec<(SocketAddr, Blame)>,
    pub(crate) stopped: Option<StopReason>,
    pub(crate) disconnects: Vec<DisconnectReason>,
    pub(crate) faults: Vec<String>,
    pub(crate) discards: Vec<Discard>,
    pub(crate) cancels: u64,
}

impl Node {
    pub(crate) fn new(
        number: usize,
        truth: &Arc<SyntheticTorrent>,
        habits: Habits,
        config: &Config,
        now: Instant,
    ) -> Self {
        let peer_id = PeerId::from_bytes([number as u8 + 1; 20]);
        let config = Config {
            peer_id: Some(peer_id),
            ..config.clone()
        };
        let mut engine = Engine::new(config, [number as u8; 32]);
        let torrent = engine.add_torrent(truth.hashes(), now);
        Self {
            engine,
            torrent,
            truth: Arc::clone(truth),
            addr: SocketAddr::from(([192, 0, 2, number as u8 + 1], 6881)),
            peer_id,
            habits,
            online: true,
            knows_content: false,
            links: BTreeMap::new(),
            refused: BTreeSet::new(),
            disk: BTreeMap::new(),
            writing: BTreeMap::new(),
            proven: BTreeSet::new(),
            held: None,
            looking: BTreeSet::new(),
            lookups: 0,
            forgets_look_ups: false,
            touched: BTreeSet::new(),
            hash_requests: 0,
            blocks_below_requests: 0,
            layers: BTreeSet::new(),
            writes: BTreeMap::new(),
            sent: 0,
            failed_writes: 0,
            ports: 40_000,
            completed: None,
            banned: Vec::new(),
            stopped: None,
            disconnects: Vec::new(),
            faults: Vec::new(),
            discards: Vec::new(),
            cancels: 0,
        }
    }

    /// The engine's own view agrees with what was really written.
    pub(crate) fn check_complete(&self) {
        let status = self.engine.status(self.torrent).unwrap();
        assert_eq!(status.bytes_verified, status.bytes_total, "{status:?}");
        for block in self.truth.blocks() {
            assert!(self.proven.contains(&block), "{block} is not proven");
            assert_eq!(
                self.disk.get(&block),
                Some(&self.truth.leaf(block)),
                "{block}"
            );
        }
    }

    /// Returns an upper bound of the pieces that the engine has begun and not verified.
    pub(crate) fn open_pieces(&self) -> u64 {
        let asked = self.links.values().flat_map(|link| &link.asked);
        let blocks = asked.chain(self.writing.keys());
        let pieces: BTreeSet<_> = blocks
            .map(|block| block.piece())
            .chain(self.looking.iter().copied())
            .collect();
        let of_piece = u64::from(self.truth.layout.piece_length().blocks());
        pieces.len() as u64 + self.blocks_below_requests / of_piece
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.completed.is_some()
    }
}

/// Returns the blocks whose leaves a request is about, 0 where it is for a piece layer.
pub(crate) fn blocks_below(truth: &SyntheticTorrent, request: &HashRequest) -> u64 {
    let layer = u32::from(truth.layout.piece_length().layer());
    if request.base < layer {
        u64::from(request.count) << request.base
    } else {
        0
    }
}
