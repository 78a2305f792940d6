//! BitTorrent v2 decisions without I/O: peers, picker, choker, hash exchange, blame.
//!
//! The engine never touches a byte of content. Its inputs are indices, lengths, hashes and time; its
//! outputs are decisions. It opens no socket and no file, reads no clock, and draws randomness only from the
//! seed it was given. So whole swarms of engines can run in one test under a virtual clock.
//!
//! # Driving it
//!
//! After each input, or a batch of them, take outputs from [`Engine::poll_output`] until there are
//! none; then wait for the next input, or call [`Engine::handle_timeout`] at the time
//! [`Engine::poll_timeout`] names.
//!
//! - A torrent starts with [`Engine::add_torrent`]. When its metadata is known, from a file or from
//!   [`Output::Metadata`], [`Engine::set_content`] sets its piece space and what is on disk.
//! - The caller opens and accepts connections. [`Output::Dial`] asks for one, [`Engine::handle_connected`]
//!   reports one, in either direction, with its handshakes done. From then on every message goes to
//!   [`Engine::handle_event`], except payload: the caller hashes each block as it arrives and asks
//!   [`Engine::handle_block`] what to do with it.
//! - The caller serves peers itself. It sees [`Command::Choke`] and [`Command::Unchoke`] go by,
//!   answers requests for verified blocks, metadata and hashes, and reports
//!   [`Engine::handle_uploaded`].
//!
//! # A block's life
//!
//! missing → requested → arrived → written → verified. An arrived block's write is under way; a
//! written block's bytes are on disk and may be false; a verified block's leaf hash is proven to
//! belong to the file's root. Only missing and requested blocks get [`BlockVerdict::Write`], so a late,
//! duplicate or hostile copy can never touch good bytes. The only way back is the engine's own:
//! when a piece turns out false, its false blocks become missing again, and not before every write
//! to it has ended.
//!
//! # Truth
//!
//! The truth is the v2 tree. Pieces are picked when their hash is known, from the start or from
//! piece layers asked of peers, each answer proven against a file's root before it is used. Where
//! no connected peer can send piece layers (a swarm of v1 links only), blocks are downloaded all the
//! same, their leaf hashes are kept in memory, and the file's root decides when all of it is here:
//! nothing of such a file is reported verified before that, and nothing of it survives a restart.

mod api;
mod choker;
mod engine;
mod hedge;
mod hosts;
mod metadata;
mod peer;
mod pieces;
mod rate;
mod rng;
mod shared;
mod torrent;

pub use api::addresses::{Host, Scope};
pub use api::config::{Config, ConnectionLimits};
pub use api::input::{
    Connected, Content, ContentError, DialFailure, Direction, Link, PeerEvent, PeerFault,
    PieceLeaves, Refusal, Source, WriteFailed,
};
pub use api::keys::{PeerKey, TorrentKey};
pub use api::output::{
    Blame, BlockVerdict, Command, Discard, DisconnectReason, Output, StopReason,
};
pub use api::status::{PeerStatus, TorrentPhase, TorrentStatus};
pub use engine::Engine;
pub use hosts::handshakes::{HandshakeKey, Handshakes};
