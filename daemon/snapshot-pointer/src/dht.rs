//! The operations that this project needs from a DHT.

use std::net::SocketAddr;

use bittorrent_protocol::SwarmHash;
use futures_util::future::BoxFuture;

use crate::item::{Authority, Salt, Seq, SignedItem};
use crate::lookup_result::{AnswerCounts, LookupResult};

pub mod loopback;
mod mainline_node;

pub use mainline_node::{MAX_START_NODES, MainlineDht, NodeSettings, NodeStatus, Role, may_store};

/// A node of a distributed hash table that keeps signed items (BEP 44) and knows peers (BEP 5).
///
/// [`MainlineDht`](crate::MainlineDht) is the one for the public network. Each operation ends after
/// a bounded time, and its future may be dropped at any point.
pub trait Dht: Send + Sync {
    /// Looks an item up. Returns the valid one with the greatest `seq` once all nodes have
    /// answered.
    ///
    /// Calls `better` with the first valid item as soon as it arrives, and then with each one of
    /// greater `seq`. Most look-ups have their result long before they settle. Such an item is not
    /// final: a newer or contradicting one may still arrive.
    ///
    /// # Errors
    ///
    /// When no node answered, so that nothing is known. Finding no item is no error.
    fn get_item<'a>(
        &'a self,
        authority: &'a Authority,
        salt: &'a Salt,
        better: &'a mut (dyn FnMut(&SignedItem) + Send),
    ) -> BoxFuture<'a, Result<LookupResult, LookupError>>;

    /// Looks up the current item, then stores `item`. Never overwrites a greater `seq`, or another
    /// value with an equal one. An item that is stored already is stored again, so that nodes keep
    /// it.
    ///
    /// # Errors
    ///
    /// When the item must not be stored, when the look-up failed, or when no node stored it.
    fn put_item<'a>(&'a self, item: &'a SignedItem) -> BoxFuture<'a, Result<Stored, PutError>>;

    /// Looks for peers of a swarm. Returns each address once, and at most [`MAX_PEERS`].
    ///
    /// # Errors
    ///
    /// When the node is not running. A search without any answer finds no peers, which is no error.
    fn get_peers(&self, swarm: SwarmHash) -> BoxFuture<'_, Result<Vec<SocketAddr>, LookupError>>;

    /// Announces this machine as a peer of a swarm, listening on TCP `port`, and returns the peers
    /// that were found on the way, as [`Self::get_peers`] does.
    ///
    /// # Errors
    ///
    /// When no node accepted the announcement; [`PutError::PortZero`] for port 0.
    fn announce(
        &self,
        swarm: SwarmHash,
        port: u16,
    ) -> BoxFuture<'_, Result<Vec<SocketAddr>, PutError>>;

    /// Returns nodes that answered lately, for the next start.
    fn contacts(&self) -> BoxFuture<'_, Vec<SocketAddr>>;

    /// Queries the network; returns whether any node answered.
    fn bootstrapped(&self) -> BoxFuture<'_, bool>;
}

/// The most peers that one look-up returns.
pub const MAX_PEERS: usize = 2000;

/// An item was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The number of nodes that confirmed.
    pub nodes: u32,
    /// The result of the look-up before.
    pub before: LookupResult,
}

/// A look-up failed, so that nothing is known of the item.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// The node itself could not be started.
    #[error("the DHT node is not running")]
    NotRunning {
        /// The cause.
        #[source]
        source: StartError,
    },
    /// The node stopped during the operation. The next operation starts it again.
    #[error("the DHT node stopped unexpectedly")]
    Stopped,
    /// The node knows no other node.
    #[error("no DHT node could be reached: is UDP blocked, or no bootstrap node alive?")]
    NotConnected,
    /// No queried node returned a usable answer.
    #[error(
        "of {} DHT nodes asked none gave an answer ({} timed out, {} answered badly)",
        counts.queried, counts.timeouts, counts.invalid.saturating_add(counts.errors)
    )]
    NoAnswer {
        /// The counts of answers.
        counts: AnswerCounts,
    },
    /// A transport other than a DHT node of this process failed, such as a control socket.
    #[error("the DHT could not be asked")]
    Transport {
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// An item or announcement was not stored.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// The look-up before storing failed. Nothing is stored without one.
    #[error("the look-up before storing failed")]
    Lookup {
        /// The cause.
        #[source]
        source: LookupError,
    },
    /// The look-up before storing ran out of time: a greater `seq` may be there.
    #[error("the look-up before storing did not settle")]
    Unsettled,
    /// The DHT has a newer item.
    #[error("the DHT has seq {there}, which is above {ours}")]
    Superseded {
        /// The number in the DHT.
        there: Seq,
        /// The number of the item to be stored.
        ours: Seq,
    },
    /// The DHT has another value at the same `seq`. Storing would destroy the proof of the double
    /// signing on some nodes, and readers would disagree.
    #[error("the DHT has another value signed with seq {seq}")]
    Conflict {
        /// The number.
        seq: Seq,
        /// One of the other items.
        other: Box<SignedItem>,
    },
    /// Nodes refused because they have an item that the look-up had not found: another process is
    /// publishing.
    #[error("the DHT nodes have an item that the look-up did not show: look up again")]
    Raced,
    /// No node stored it.
    #[error("no DHT node stored it")]
    NotStored {
        /// The error of the node.
        #[source]
        source: Option<mainline::errors::PutQueryError>,
    },
    /// Peers cannot be reached at port 0.
    #[error("port 0 cannot be announced")]
    PortZero,
    /// A transport other than a DHT node of this process failed, such as a control socket.
    #[error("the DHT could not be asked to store")]
    Transport {
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl From<LookupError> for PutError {
    fn from(source: LookupError) -> Self {
        Self::Lookup { source }
    }
}

/// A DHT node cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The UDP port cannot be bound.
    #[error("cannot listen on UDP {address}")]
    Bind {
        /// The address.
        address: std::net::SocketAddrV4,
        /// The error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// No bootstrap name has an IPv4 address, usually because there is no name service yet. The next
    /// operation tries again.
    #[error("no DHT bootstrap node has an IPv4 address: is there a name service?")]
    NoBootstrap,
}
