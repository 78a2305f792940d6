//! One engine with the least possible session, line and disk around it.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use bittorrent_engine::{Engine, PeerKey, TorrentKey};
use bittorrent_protocol::{BlockIndex, BlockSet, PeerId};

use crate::queue::Life;
use crate::random::mix;

/// The first host's address: 20.0.0.1, which is not private.
const FIRST_ADDRESS: u32 = 0x1400_0001;
const PORT: u16 = 6881;
/// Blocks that go out together at most, as a session sends and reads them.
const MOST_IN_BURST: u64 = 16;
/// How long the line is given to one connection at a time.
const TURN: Duration = Duration::from_millis(25);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Producer,
    Mirror,
    Liar,
}

/// One end of a connection.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) node: usize,
    pub(crate) key: PeerKey,
    pub(crate) far: usize,
    pub(crate) open: bool,
    /// Its engine serves the other end.
    pub(crate) serves: bool,
    /// What the other end asked for and was not sent.
    pub(crate) queue: VecDeque<BlockIndex>,
    /// It waits for its turn on the line.
    pub(crate) waits: bool,
    /// How long a message takes to the other end.
    pub(crate) latency: Duration,
    /// What is sent now arrives no sooner: messages keep their order.
    pub(crate) no_sooner: Duration,
}

/// An engine, its disk, its line and its connections.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) number: usize,
    pub(crate) role: Role,
    pub(crate) engine: Engine,
    pub(crate) torrent: TorrentKey,
    pub(crate) online: bool,
    pub(crate) lives: u32,
    pub(crate) knows_content: bool,
    /// Files whose piece layers it lacks.
    pub(crate) layers_lacking: usize,
    /// What was written in this life, or proven in a former one.
    pub(crate) disk: BlockSet,
    pub(crate) proven: BlockSet,
    pub(crate) ends: BTreeMap<PeerKey, usize>,
    /// Bytes a second it sends.
    pub(crate) up: u64,
    /// Ends that wait for their turn on the line.
    pub(crate) turns: VecDeque<usize>,
    /// The line is taken.
    pub(crate) sends: bool,
    /// Until then the line in is taken.
    pub(crate) receives_until: Duration,
    /// When its engine is called next.
    pub(crate) timeout: Option<Duration>,
    pub(crate) came: Duration,
    pub(crate) completed: Option<Duration>,
}

impl Node {
    pub(crate) fn life(&self) -> Life {
        Life {
            node: self.number,
            number: self.lives,
        }
    }

    pub(crate) fn is(&self, life: Life) -> bool {
        self.online && self.lives == life.number
    }

    pub(crate) fn peer_id(&self) -> PeerId {
        let mut id = [0; 20];
        let number = self.number as u64 + 1;
        id[..8].copy_from_slice(&number.to_be_bytes());
        id[8..12].copy_from_slice(&self.lives.to_be_bytes());
        PeerId::from_bytes(id)
    }

    /// How many blocks go out in one turn.
    pub(crate) fn burst(&self, block: u64) -> usize {
        let in_turn = (self.up as f64 * TURN.as_secs_f64()) as u64 / block.max(1);
        in_turn.clamp(1, MOST_IN_BURST) as usize
    }

    /// Returns whether the bytes it sends for a block are false: one block in so many of a liar's, the
    /// same ones each time.
    pub(crate) fn lies(&self, block: BlockIndex, lies_in: u64) -> bool {
        let name = u64::from(block.piece().get()) << 32 | u64::from(block.in_piece());
        self.role == Role::Liar
            && mix(name ^ mix(self.number as u64)).is_multiple_of(lies_in.max(1))
    }
}

/// Where a host listens.
pub(crate) fn address(number: usize) -> SocketAddr {
    SocketAddr::new(
        IpAddr::V4(Ipv4Addr::from_bits(FIRST_ADDRESS + number as u32)),
        PORT,
    )
}

/// Returns the host that listens at an address.
pub(crate) fn at_address(addr: SocketAddr) -> Option<usize> {
    match addr.ip() {
        IpAddr::V4(ip) => Some(ip.to_bits().checked_sub(FIRST_ADDRESS)? as usize),
        IpAddr::V6(_) => None,
    }
}
