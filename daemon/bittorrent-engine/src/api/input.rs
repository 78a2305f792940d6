//! Inputs of the engine.

use std::net::SocketAddr;
use std::sync::Arc;

use bittorrent_protocol::merkle::HashRequest;
use bittorrent_protocol::merkle::ProofFault;
use bittorrent_protocol::metainfo::PieceLayer;
use bittorrent_protocol::wire::{ExtendedHandshake, OwnedMetadataMessage, PexMessage, Request};
use bittorrent_protocol::{BlockSet, Layout, MerkleHash, PeerId, PieceIndex};

/// What a torrent consists of, once its metadata is known.
#[derive(Debug, Clone)]
pub struct Content {
    /// Its piece space.
    pub layout: Arc<Layout>,
    /// One entry for each file of the layout: the file's piece layer where it is known. Files of
    /// at most one piece need none.
    pub layers: Vec<Option<Arc<PieceLayer>>>,
    /// The blocks that are on disk and proven.
    pub verified: BlockSet,
    /// The leaf hashes of verified blocks in pieces that are verified in part, as far as the
    /// store still knows them. A piece without its leaves here starts again from nothing.
    pub leaves: Vec<PieceLeaves>,
    /// Older content may contain missing pieces: each is looked up there
    /// ([`Output::Lookup`](crate::Output::Lookup)) before it is requested from peers.
    pub reuse: bool,
}

/// The leaf hashes of the verified blocks of one piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PieceLeaves {
    /// The piece.
    pub piece: PieceIndex,
    /// Each block's number in the piece with its leaf hash.
    pub leaves: Vec<(u16, MerkleHash)>,
}

/// Content that contradicts itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// The torrent has content already, or there is no such torrent.
    #[error("the torrent is gone or has its content already")]
    NotWaiting,
    /// There is not exactly one layer entry for each file.
    #[error("{found} piece layers for {expected} files")]
    LayerCount {
        /// Files in the layout.
        expected: usize,
        /// Entries given.
        found: usize,
    },
}

/// Where an address was learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Named by the operator: dialled first, never forgotten.
    Static,
    /// Found in the DHT.
    Dht,
    /// Named by a tracker.
    Tracker,
    /// Found in the local network (BEP 14).
    Lan,
    /// A peer that connected to us and sent its listening port.
    Incoming,
    /// Named by a peer (BEP 11).
    Exchange,
}

/// Who opened a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// The peer did.
    Incoming,
    /// We did.
    Outgoing,
}

/// Which info-hash a connection runs under. Hash messages are legal on v2 links only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// The v1 info-hash.
    V1,
    /// The truncated v2 info-hash.
    V2,
}

/// A connection whose handshakes are done.
#[derive(Debug, Clone, Copy)]
pub struct Connected {
    /// The remote end. For incoming connections the port is not where the peer listens.
    pub addr: SocketAddr,
    /// Who opened it.
    pub direction: Direction,
    /// The peer's id.
    pub peer_id: PeerId,
    /// Both sides speak the fast extension (BEP 6).
    pub fast: bool,
    /// Both sides speak the extension protocol (BEP 10).
    pub extended: bool,
    /// The info-hash in use.
    pub link: Link,
    /// The peer is on this machine or in this network: never choked.
    pub local: bool,
}

/// Why a dial failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DialFailure {
    /// Refused, unreachable or timed out: the address is left alone for a while.
    Unreachable,
    /// Connected, but closed by the peer before its handshake: it may be starting, checking its
    /// files or settling on an encryption, so it is worth a try very soon.
    ClosedEarly,
    /// It speaks something else or does not know this torrent.
    Refused,
    /// We reached ourselves: never dialled again.
    Ourselves,
}

/// A message from a peer, as it was on the wire. Its numbers are unchecked.
#[derive(Debug, Clone)]
pub enum PeerEvent {
    /// BEP 3.
    Choke,
    /// BEP 3.
    Unchoke,
    /// BEP 3.
    Interested,
    /// BEP 3.
    NotInterested,
    /// BEP 3: a piece number.
    Have(u32),
    /// BEP 3: one bit a piece, highest bit first.
    Bitfield(Vec<u8>),
    /// BEP 6.
    HaveAll,
    /// BEP 6.
    HaveNone,
    /// BEP 6: the request will not be answered.
    Reject(Request),
    /// BEP 6: a piece number.
    Suggest(u32),
    /// BEP 6: a piece number.
    AllowedFast(u32),
    /// BEP 10.
    Extensions(ExtendedHandshake),
    /// BEP 9. The session answers requests itself; here they do nothing.
    Metadata(OwnedMetadataMessage),
    /// BEP 11.
    Exchange(PexMessage),
    /// BEP 52.
    Hashes {
        /// The request that it answers, according to the peer.
        request: HashRequest,
        /// Base hashes, then proof.
        hashes: Vec<MerkleHash>,
    },
    /// BEP 52: the request will not be answered.
    HashReject(HashRequest),
}

/// A block could not be written, so the torrent stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriteFailed;

/// A connection is not wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such torrent.
    #[error("the torrent is gone")]
    NoTorrent,
    /// The address sent false data not long ago.
    #[error("the address is banned")]
    Banned,
    /// As many connections as allowed.
    #[error("too many connections")]
    Full,
    /// As many connections with this host as allowed.
    #[error("too many connections with this host")]
    Crowded,
    /// There is a connection to this peer already.
    #[error("a connection to this peer exists")]
    Duplicate,
    /// The peer is this very process.
    #[error("the connection leads to ourselves")]
    Ourselves,
}

/// A peer broke the protocol: close the connection. The engine has forgotten the peer already.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerFault {
    /// A piece number outside the torrent.
    #[error("piece {index} of {pieces}")]
    PieceOutOfRange {
        /// The number.
        index: u32,
        /// Pieces in the torrent.
        pieces: u32,
    },
    /// A bitfield of the wrong length.
    #[error("a bitfield of {found} bytes instead of {expected}")]
    BitfieldLength {
        /// Bytes the torrent needs, or the most any torrent may need while that is unknown.
        expected: usize,
        /// Bytes received.
        found: usize,
    },
    /// Bits behind the last piece are set.
    #[error("a bitfield with spare bits set")]
    BitfieldSpareBits,
    /// Hashes that were not requested.
    #[error("hashes that were not requested")]
    UnrequestedHashes,
    /// Hashes whose proof does not hold.
    #[error("hashes that do not prove themselves")]
    FalseHashes(#[source] ProofFault),
}
