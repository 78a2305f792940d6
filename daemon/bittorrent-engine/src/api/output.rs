//! Outputs of the engine.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use bittorrent_protocol::merkle::HashRequest;
use bittorrent_protocol::metainfo::PieceLayer;
use bittorrent_protocol::wire::{OwnedMetadataMessage, PexMessage};
use bittorrent_protocol::{BlockIndex, FileIndex, MerkleHash, PieceIndex};

use crate::api::keys::{PeerKey, TorrentKey};

/// Something for the caller to do. The order of outputs is the order to do them in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Open a connection; ends in `handle_connected` or `handle_dial_failed`.
    Dial {
        /// For this torrent.
        torrent: TorrentKey,
        /// To this address.
        addr: SocketAddr,
    },
    /// Send a message.
    Send {
        /// To this peer.
        peer: PeerKey,
        /// What to send.
        command: Command,
    },
    /// Close a connection. The engine has forgotten the peer.
    Disconnect {
        /// The peer.
        peer: PeerKey,
        /// Why.
        reason: DisconnectReason,
    },
    /// The info dictionary is complete and has the right hash; not parsed yet. The torrent goes
    /// on with `set_content`.
    Metadata {
        /// Of this torrent.
        torrent: TorrentKey,
        /// Its bytes.
        info: Vec<u8>,
    },
    /// The piece layer of a file is complete and proven.
    Layer {
        /// Of this torrent.
        torrent: TorrentKey,
        /// Of this file.
        file: FileIndex,
        /// The layer.
        layer: Arc<PieceLayer>,
    },
    /// Look up the missing blocks of this piece in older content, write those that are found at their
    /// offsets, and answer with exactly one `handle_looked_up`. Until then nothing else is written to the
    /// piece. Look-ups are emitted nearly in the order of the file; at most
    /// [`Config::max_lookup_blocks`](crate::Config::max_lookup_blocks) are under way.
    Lookup {
        /// In this torrent.
        torrent: TorrentKey,
        /// The piece.
        piece: PieceIndex,
        /// `None`: look for the whole piece by its piece hash. Otherwise the proven leaf hashes of
        /// all its blocks: look for each block that is not verified yet by its own.
        leaves: Option<Vec<MerkleHash>>,
    },
    /// Look up the leaf hashes that the store knows of older content at the offset of this piece, and answer
    /// with exactly one `handle_leaves_looked_up`. Counts as a look-up.
    LookupLeaves {
        /// In this torrent.
        torrent: TorrentKey,
        /// The piece.
        piece: PieceIndex,
        /// The proven nodes of the piece two layers above the leaves: only leaves that fold to
        /// these are of use.
        nodes: Vec<MerkleHash>,
    },
    /// These blocks are written and proven: mark them verified.
    Proven {
        /// In this torrent.
        torrent: TorrentKey,
        /// In this piece.
        piece: PieceIndex,
        /// From this block of the piece on.
        first_block: u16,
        /// One leaf hash for each block.
        leaves: Vec<MerkleHash>,
    },
    /// Verified blocks became doubtful and will be downloaded again: clear them in the store, durably,
    /// before anything is written to them.
    Revoke {
        /// In this torrent.
        torrent: TorrentKey,
        /// Blocks of one piece.
        blocks: Vec<BlockIndex>,
    },
    /// An address sent false data and is banned; its connection is closed by an output of its own.
    Banned {
        /// In this torrent.
        torrent: TorrentKey,
        /// The address.
        addr: SocketAddr,
        /// What was false.
        blame: Blame,
    },
    /// Every block is written and proven.
    Complete {
        /// The torrent.
        torrent: TorrentKey,
    },
    /// The torrent requests nothing any more, until `resume`. It still serves what it has.
    Stopped {
        /// The torrent.
        torrent: TorrentKey,
        /// Why.
        reason: StopReason,
    },
}

/// A message to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// BEP 3: the pieces we have, highest bit first. Comes before everything else.
    Bitfield(Vec<u8>),
    /// BEP 6. Comes before everything else.
    HaveAll,
    /// BEP 6. Comes before everything else.
    HaveNone,
    /// BEP 3.
    Choke,
    /// BEP 3.
    Unchoke,
    /// BEP 3.
    Interested,
    /// BEP 3.
    NotInterested,
    /// BEP 3: one message for each piece.
    Have(Vec<PieceIndex>),
    /// BEP 3: one message for each block, of the block's real length.
    Request(Vec<BlockIndex>),
    /// BEP 3: one message for each block.
    Cancel(Vec<BlockIndex>),
    /// BEP 52.
    HashRequest(HashRequest),
    /// BEP 9.
    Metadata(OwnedMetadataMessage),
    /// BEP 11. The caller neither sends nor accepts it where the torrent is private (BEP 27).
    Exchange(PexMessage),
}

/// What a banned peer did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    /// The bytes it sent for this block are false.
    Block(BlockIndex),
    /// It sent the whole piece, which is false.
    Piece(PieceIndex),
    /// It sent the whole metadata, which is false.
    Metadata,
    /// Hashes it sent do not prove themselves.
    Hashes,
}

/// Why the engine closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DisconnectReason {
    /// Neither side has a piece that the other lacks.
    Redundant,
    /// It was of no use lately, and another peer needs its connection.
    Idle,
    /// It sent false data.
    Banned,
    /// A second connection to the same peer is kept instead.
    Duplicate,
    /// The torrent was removed.
    Removed,
    /// What it said before the metadata was known does not fit the torrent.
    InvalidPieces,
    /// There are fewer connections allowed than before.
    Surplus,
}

/// Why a torrent stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// Our own disk does not take the data.
    WritesFail,
    /// The metadata has the v2 hash and not the v1 hash the torrent was added with.
    HashesContradict,
    /// No peer sends piece layers, and what peers sent for a file does not fold to its root, again
    /// and again.
    FilesFalse,
}

/// What to do with a block that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockVerdict {
    /// Write it, then report `handle_written`.
    Write,
    /// Drop it.
    Discard(Discard),
}

/// Why a block is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discard {
    /// The connection is gone.
    UnknownPeer,
    /// It was not requested.
    Unrequested,
    /// It is here already, or on its way to the disk.
    Duplicate,
    /// It is known to be false; the sender is banned.
    False,
    /// The torrent is stopped.
    Stopped,
}

impl fmt::Display for DisconnectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Redundant => "neither side lacks anything the other has",
            Self::Idle => "it was idle while others wait",
            Self::Banned => "it sent false data",
            Self::Duplicate => "another connection to the same peer is kept",
            Self::Removed => "the torrent was removed",
            Self::InvalidPieces => "its pieces do not fit the torrent",
            Self::Surplus => "fewer connections are allowed than before",
        })
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::WritesFail => "the disk does not take the data",
            Self::HashesContradict => "the metadata fits the v2 info-hash and not the v1 one",
            Self::FilesFalse => "files do not fold to their roots and no peer gives piece layers",
        })
    }
}

impl fmt::Display for Blame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Block(block) => write!(f, "block {block} is false"),
            Self::Piece(piece) => write!(f, "piece {piece} is false"),
            Self::Metadata => f.write_str("the metadata is false"),
            Self::Hashes => f.write_str("hashes do not prove themselves"),
        }
    }
}
