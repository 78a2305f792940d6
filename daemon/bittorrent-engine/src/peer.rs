//! One connection.

pub(crate) mod exchange;
pub(crate) mod pipeline;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bittorrent_protocol::merkle::{CheckedRequest, HashRequest};
use bittorrent_protocol::{Layout, MAX_PIECES, PeerId, PieceIndex};

use crate::api::addresses::Host;
use crate::api::config::Config;
use crate::api::input::{Connected, Direction, Link, PeerFault};
use crate::api::keys::PeerKey;
use crate::api::output::Command;
use crate::hedge::Hedge;
use crate::hosts::idle_hosts::SLOT_IDLE;
use crate::peer::exchange::Exchange;
use crate::peer::pipeline::Pipeline;
use crate::pieces::descent::LeafRange;
use crate::pieces::layers::ChunkId;
use crate::pieces::piece_set::PieceSet;
use crate::pieces::senders::Sender;
use crate::rate::Rate;
use crate::shared::Shared;

/// How many recently rejected pieces are remembered for one peer.
const MOST_REFUSED: usize = 64;
/// How many allowed-fast pieces are remembered for one peer.
const MOST_ALLOWED: usize = 64;
/// How many given-up hash requests that may still be answered are remembered for one peer.
const MOST_LATE_HASHES: usize = 64;

/// Requests for few leaves under way to one peer: they are short, and pieces need several of them.
const MOST_SHORT_REQUESTS: usize = 24;

/// After this many rejects in a row, a peer gets no requests for a while.
const MOST_REJECTS: u32 = 32;
/// For how long, the first time; doubled each time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// It is doubled at most this often.
const MOST_DOUBLINGS: u32 = 6;

/// After this many failures in a row to send leaves, a peer is asked for none.
const MOST_LEAF_FAILURES: u32 = 3;

/// What a peer has.
#[derive(Debug)]
pub(crate) enum PeerPieces {
    /// What it sent before the torrent's size was known.
    Unchecked(UncheckedPieces),
    /// The pieces.
    Known(PieceSet),
}

/// What a peer sent about its pieces before the torrent's size was known. At most
/// [`MAX_PIECES`] bits.
#[derive(Debug, Default)]
pub(crate) struct UncheckedPieces {
    all: bool,
    bitfield: Option<Vec<u8>>,
    haves: Vec<u32>,
}

/// Why hashes were requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HashPurpose {
    /// A chunk of a piece layer.
    Chunk(ChunkId),
    /// The leaves of a false piece.
    Leaves(PieceIndex),
    /// The leaves of this many neighbouring pieces, so that their blocks can be looked up.
    Reuse(PieceIndex, u32),
    /// The same with coarser nodes instead of leaves.
    Nodes(PieceIndex, u32),
    /// Leaves of a piece below such nodes.
    Below(PieceIndex, LeafRange),
}

/// Whether a peer sends the leaves of the pieces it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeafSupport {
    /// It does, as far as is known.
    Yes,
    /// It rejected a request: it may know a piece's leaves only after it has sent a block of it.
    AfterBlock,
    /// It does not.
    No,
}

/// A hash request without an answer yet.
#[derive(Debug)]
pub(crate) struct HashWait {
    pub(crate) request: CheckedRequest,
    pub(crate) purpose: HashPurpose,
    pub(crate) asked: Instant,
    pub(crate) deadline: Instant,
    pub(crate) hedge: Hedge,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) key: PeerKey,
    pub(crate) addr: SocketAddr,
    /// Where it listens: its address when we dialled it, otherwise the port in its extended handshake.
    pub(crate) listens: Option<SocketAddr>,
    pub(crate) peer_id: PeerId,
    pub(crate) direction: Direction,
    pub(crate) fast: bool,
    pub(crate) link: Link,
    pub(crate) local: bool,
    pub(crate) client: Option<String>,
    pub(crate) since: Instant,
    /// When it last requested a block, or sent one that was needed; else when it connected.
    pub(crate) last_use: Instant,
    /// When it last requested a block; else when it connected.
    pub(crate) last_asked: Instant,
    /// Its entry in the table of senders, once it has sent a block.
    pub(crate) sender: Option<Sender>,

    pub(crate) has: PeerPieces,
    /// How many of its pieces we lack.
    pub(crate) offers: u32,
    pub(crate) upload_only: bool,
    pub(crate) allowed_fast: Vec<PieceIndex>,
    refused: Vec<(PieceIndex, Instant)>,
    /// Requests it rejected since the last block it sent, while it did not choke.
    rejects: u32,
    /// How often it was paused because of that, in a row.
    pauses: u32,
    /// No block is requested from it before this time.
    pub(crate) paused_until: Option<Instant>,

    /// It chokes us.
    pub(crate) choking_us: bool,
    /// It has sent `interested`.
    pub(crate) interested: bool,
    /// We choke it.
    pub(crate) choked: bool,
    /// Since when it is choked, or not.
    pub(crate) choked_since: Instant,
    /// We have sent it `interested`.
    pub(crate) wanted: bool,
    /// We have sent it `not interested` although it has pieces we lack, because other peers send those.
    pub(crate) parked: bool,

    pub(crate) pipeline: Pipeline,
    /// The piece it works on.
    pub(crate) current: Option<PieceIndex>,
    /// Since when it has had room for requests and nothing could be requested from it.
    pub(crate) starved: Option<Instant>,
    /// It may have room for requests and is in the list of peers to refill.
    pub(crate) wake: bool,

    pub(crate) hash_waits: Vec<HashWait>,
    late_hashes: Vec<HashRequest>,
    pub(crate) hashes_not_before: Instant,
    pub(crate) hash_failures: u32,
    pub(crate) leaf_support: LeafSupport,
    /// It sends nodes between leaves and pieces, which BEP 52 makes optional.
    pub(crate) answers_nodes: bool,
    leaf_failures: u32,
    /// It supports `ut_metadata` (BEP 9).
    pub(crate) offers_metadata: bool,
    pub(crate) exchange: Exchange,

    pub(crate) down: Rate,
    pub(crate) up: Rate,
}

impl Peer {
    pub(crate) fn new(
        key: PeerKey,
        connected: &Connected,
        layout: Option<&Layout>,
        config: &Config,
        now: Instant,
    ) -> Self {
        Self {
            key,
            addr: connected.addr,
            listens: (connected.direction == Direction::Outgoing).then_some(connected.addr),
            peer_id: connected.peer_id,
            direction: connected.direction,
            fast: connected.fast,
            link: connected.link,
            local: connected.local,
            client: None,
            since: now,
            last_use: now,
            last_asked: now,
            sender: None,
            has: match layout {
                Some(layout) => PeerPieces::Known(PieceSet::new(layout.piece_count())),
                None => PeerPieces::Unchecked(UncheckedPieces::default()),
            },
            offers: 0,
            upload_only: false,
            allowed_fast: Vec::new(),
            refused: Vec::new(),
            rejects: 0,
            pauses: 0,
            paused_until: None,
            choking_us: true,
            interested: false,
            choked: true,
            choked_since: now,
            wanted: false,
            parked: false,
            pipeline: Pipeline::new(
                config.initial_requests,
                config.assumed_request_limit.min(config.max_requests),
                now,
            ),
            current: None,
            starved: None,
            wake: false,
            hash_waits: Vec::new(),
            late_hashes: Vec::new(),
            hashes_not_before: now,
            hash_failures: 0,
            leaf_support: LeafSupport::Yes,
            answers_nodes: true,
            leaf_failures: 0,
            offers_metadata: false,
            exchange: Exchange::new(now),
            down: Rate::new(now),
            up: Rate::new(now),
        }
    }

    /// The host it connects from.
    pub(crate) fn host(&self) -> Host {
        Host::of(self.addr.ip())
    }

    /// Its pieces, once the torrent's size is known.
    pub(crate) fn pieces(&self) -> Option<&PieceSet> {
        match &self.has {
            PeerPieces::Known(set) => Some(set),
            PeerPieces::Unchecked(_) => None,
        }
    }

    pub(crate) fn has(&self, piece: PieceIndex) -> bool {
        self.pieces().is_some_and(|set| set.contains(piece))
    }

    pub(crate) fn is_seed(&self) -> bool {
        match &self.has {
            PeerPieces::Known(set) => set.is_full(),
            PeerPieces::Unchecked(early) => early.all,
        }
    }

    /// Returns the value of the connection, for comparison: first whether either side is interested, then the
    /// rate, then the bytes so far.
    pub(crate) fn worth(&self) -> (bool, u64, u64) {
        let wants = self.interested || self.offers > 0;
        let rate = self.down.per_second() + self.up.per_second();
        (wants, rate, self.down.total() + self.up.total())
    }

    /// Returns whether it holds an upload slot and asks for nothing.
    pub(crate) fn wastes_slot(&self, now: Instant) -> bool {
        let since = self.choked_since.max(self.last_asked);
        self.interested && !self.choked && since + SLOT_IDLE <= now
    }

    /// Returns whether it may be asked for hashes now.
    pub(crate) fn can_give_hashes(&self, most: usize, now: Instant) -> bool {
        let long = self.hash_waits.len() - self.short_requests();
        self.link == Link::V2 && long < most && self.hashes_not_before <= now
    }

    fn short_requests(&self) -> usize {
        let short = |wait: &&HashWait| matches!(wait.purpose, HashPurpose::Below(..));
        self.hash_waits.iter().filter(short).count()
    }

    /// Returns whether it may be asked for leaves below nodes now.
    pub(crate) fn can_give_below(&self) -> bool {
        self.may_give_leaves() && self.short_requests() < MOST_SHORT_REQUESTS
    }

    /// Returns whether it sends the leaves of what it has, as far as is known.
    pub(crate) fn may_give_leaves(&self) -> bool {
        self.link == Link::V2 && self.leaf_support == LeafSupport::Yes
    }

    /// Records that it sent leaves.
    pub(crate) fn leaves_given(&mut self) {
        self.leaf_failures = 0;
    }

    /// Records that it rejected a request for leaves.
    pub(crate) fn leaves_rejected(&mut self) {
        if self.leaf_support == LeafSupport::Yes {
            self.leaf_support = LeafSupport::AfterBlock;
            self.leaf_failures = 0;
        } else {
            self.leaves_failed();
        }
    }

    /// Records that it left a request for leaves unanswered, or did not send the block before one.
    pub(crate) fn leaves_failed(&mut self) {
        self.leaf_failures += 1;
        if self.leaf_failures >= MOST_LEAF_FAILURES {
            self.leaf_support = LeafSupport::No;
        }
    }

    /// Requests hashes from it.
    pub(crate) fn request_hashes(
        &mut self,
        request: CheckedRequest,
        purpose: HashPurpose,
        shared: &mut Shared,
        now: Instant,
    ) {
        self.ask_hashes(request, purpose, Hedge::None, shared, now);
    }

    /// Requests hashes from it that were requested from another host.
    pub(crate) fn request_hashes_too(
        &mut self,
        request: CheckedRequest,
        purpose: HashPurpose,
        shared: &mut Shared,
        now: Instant,
    ) {
        self.ask_hashes(request, purpose, Hedge::Duplicate, shared, now);
    }

    fn ask_hashes(
        &mut self,
        request: CheckedRequest,
        purpose: HashPurpose,
        hedge: Hedge,
        shared: &mut Shared,
        now: Instant,
    ) {
        self.hash_waits.push(HashWait {
            request,
            purpose,
            asked: now,
            hedge,
            deadline: now + shared.config.hash_timeout,
        });
        shared.send(self.key, Command::HashRequest(request.request()));
    }

    /// Takes a hash request that was answered or rejected. `None` when there is none; `Some(None)`
    /// when it was given up before.
    pub(crate) fn take_hash_wait(&mut self, request: &HashRequest) -> Option<Option<HashWait>> {
        if let Some(place) = self
            .hash_waits
            .iter()
            .position(|wait| wait.request.request() == *request)
        {
            return Some(Some(self.hash_waits.remove(place)));
        }
        let place = self.late_hashes.iter().position(|late| late == request)?;
        self.late_hashes.remove(place);
        Some(None)
    }

    /// Gives up the hash requests that timed out and returns them.
    pub(crate) fn expire_hash_waits(&mut self, now: Instant) -> Vec<HashWait> {
        let expired: Vec<_> = self
            .hash_waits
            .extract_if(.., |wait| wait.deadline <= now)
            .collect();
        for wait in &expired {
            if self.late_hashes.len() >= MOST_LATE_HASHES {
                self.late_hashes.remove(0);
            }
            self.late_hashes.push(wait.request.request());
        }
        expired
    }

    /// Records that it rejected a block of this piece: others are asked until then.
    pub(crate) fn refuse(&mut self, piece: PieceIndex, until: Instant) {
        self.refused.retain(|(refused, _)| *refused != piece);
        if self.refused.len() >= MOST_REFUSED {
            self.refused.remove(0);
        }
        self.refused.push((piece, until));
    }

    /// Records that it rejected a request although it does not choke. After many in a row it is paused, for
    /// longer each time: requesting other pieces at once could repeat for ever.
    pub(crate) fn rejected(&mut self, now: Instant) {
        self.rejects += 1;
        let paused = self.paused_until.is_some_and(|until| until > now);
        if self.rejects < MOST_REJECTS || paused {
            return;
        }
        let pause = FIRST_PAUSE.saturating_mul(1 << self.pauses.min(MOST_DOUBLINGS));
        self.pauses += 1;
        self.paused_until = Some(now + pause);
        // A single request shows whether it has changed its mind.
        self.pipeline.snub();
    }

    /// Records that it sent a requested block.
    pub(crate) fn delivered(&mut self) {
        self.rejects = 0;
        self.pauses = 0;
        self.paused_until = None;
    }

    /// Forgets rejections that are over.
    pub(crate) fn forgive(&mut self, now: Instant) -> bool {
        let before = self.refused.len();
        self.refused.retain(|(_, until)| *until > now);
        self.refused.len() < before
    }

    /// The pieces it rejected lately.
    pub(crate) fn refused(&self) -> &[(PieceIndex, Instant)] {
        &self.refused
    }

    pub(crate) fn refuses(&self, piece: PieceIndex) -> bool {
        self.refused.iter().any(|(refused, _)| *refused == piece)
    }

    pub(crate) fn allow_fast(&mut self, piece: PieceIndex) {
        if self.allowed_fast.len() < MOST_ALLOWED && !self.allowed_fast.contains(&piece) {
            self.allowed_fast.push(piece);
        }
    }
}

impl UncheckedPieces {
    pub(crate) fn set_all(&mut self, all: bool) {
        *self = Self {
            all,
            ..Self::default()
        };
    }

    pub(crate) fn set_bitfield(&mut self, bitfield: Vec<u8>) -> Result<(), PeerFault> {
        let most = MAX_PIECES.div_ceil(8) as usize;
        if bitfield.len() > most {
            return Err(PeerFault::BitfieldLength {
                expected: most,
                found: bitfield.len(),
            });
        }
        *self = Self {
            bitfield: Some(bitfield),
            ..Self::default()
        };
        Ok(())
    }

    pub(crate) fn add(&mut self, piece: u32) -> Result<(), PeerFault> {
        if piece >= MAX_PIECES {
            return Err(PeerFault::PieceOutOfRange {
                index: piece,
                pieces: MAX_PIECES,
            });
        }
        // A peer with more pieces than this sends a bitfield.
        if self.haves.len() < 65_536 {
            self.haves.push(piece);
        }
        Ok(())
    }

    /// The pieces, now that the torrent's size is known.
    pub(crate) fn settle(&self, layout: &Layout) -> Result<PieceSet, PeerFault> {
        let pieces = layout.piece_count();
        let mut set = match &self.bitfield {
            _ if self.all => PieceSet::full(pieces),
            Some(bitfield) => PieceSet::from_wire(bitfield, pieces)?,
            None => PieceSet::new(pieces),
        };
        for number in &self.haves {
            let piece = layout.piece(*number).ok_or(PeerFault::PieceOutOfRange {
                index: *number,
                pieces,
            })?;
            set.insert(piece);
        }
        Ok(set)
    }
}

#[cfg(test)]
mod tests {
    use bittorrent_protocol::PieceLength;

    use super::*;

    #[test]
    fn what_was_said_early_is_checked_once_the_size_is_known() {
        let layout = Layout::new(PieceLength::MIN, [(10 * 16_384, None)]).unwrap();
        let mut early = UncheckedPieces::default();
        assert!(early.settle(&layout).unwrap().is_empty());
        early.set_bitfield(vec![0b1000_0000, 0]).unwrap();
        early.add(9).unwrap();
        let set = early.settle(&layout).unwrap();
        assert_eq!(set.to_wire(), [0b1000_0000, 0b0100_0000]);
        early.add(10).unwrap();
        assert!(matches!(
            early.settle(&layout),
            Err(PeerFault::PieceOutOfRange {
                index: 10,
                pieces: 10
            })
        ));
        early.set_bitfield(vec![0; 3]).unwrap();
        assert!(matches!(
            early.settle(&layout),
            Err(PeerFault::BitfieldLength { .. })
        ));
        early.set_all(true);
        assert!(early.settle(&layout).unwrap().is_full());
        early.set_all(false);
        assert!(early.settle(&layout).unwrap().is_empty());
        assert!(early.add(MAX_PIECES).is_err());
        assert!(early.set_bitfield(vec![0; 262_145]).is_err());
    }
}
