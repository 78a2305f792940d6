//! Parses and writes the formats of BitTorrent v2 and hybrid torrents, without I/O, clock or
//! randomness. Parsers never panic, and bound what they allocate by the length of their input.
//!
//! The formats are bencode, metainfo, merkle trees, magnet links, tracker messages and the peer
//! wire protocol.

pub mod bencode;
pub mod block_set;
mod compact;
pub mod hash;
pub mod layout;
pub mod local;
pub mod magnet;
pub mod merkle;
pub mod metainfo;
pub mod mse;
mod printable;
pub mod tracker;
pub mod units;
pub mod wire;

pub use block_set::BlockSet;
pub use hash::{InfoHashV1, InfoHashV2, InfoHashes, MerkleHash, PeerId, PieceSha1, SwarmHash};
pub use layout::{FileSpan, Layout, LayoutError};
pub use metainfo::PieceLayer;
pub use printable::{Printable, is_printable};
pub use units::{
    BLOCK_LEN, BlockIndex, FileIndex, MAX_INFO_LEN, MAX_PIECES, PieceIndex, PieceLength,
};
