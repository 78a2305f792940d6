//! What this project asks of a DHT.

use std::net::SocketAddr;

use bittorrent_protocol::SwarmHash;
use futures_util::future::BoxFuture;

use crate::gather::{Counts, Found};
use crate::item::{Salt, Seq, SignedItem};
use crate::key::Authority;

/// A node of a distributed hash table that keeps signed items (BEP 44) and knows peers (BEP 5).
///
/// [`MainlineDht`](crate::MainlineDht) is the real one. Every operation ends after a bounded time and
/// may be dropped at any point.
pub trait Dht: Send + Sync {
    /// Looks an item up, and gives the highest that verified once all nodes have answered.
    ///
    /// `better` is called with the first verified item as soon as it is there, and with every one of
    /// greater `seq` after it: most look-ups have their result long before they settle. Such an item
    /// is not yet final; a newer one, or one that contradicts it, may still come.
    ///
    /// # Errors
    ///
    /// When no node at all gave an answer, so that nothing is known. Finding no item is no error.
    fn get_item<'a>(
        &'a self,
        authority: &'a Authority,
        salt: &'a Salt,
        better: &'a mut (dyn FnMut(&SignedItem) + Send),
    ) -> BoxFuture<'a, Result<Found, LookupError>>;

    /// Stores an item, after looking up what is there: never over a greater `seq`, never another
    /// value at an equal one. An item that is there already is stored again, so that nodes keep it.
    ///
    /// # Errors
    ///
    /// When the item may not be stored, nothing could be learnt of what is there, or no node took it.
    fn put_item<'a>(&'a self, item: &'a SignedItem) -> BoxFuture<'a, Result<Stored, PutError>>;

    /// Looks for peers of a swarm. Each address is given once; at most [`MAX_PEERS`] of them.
    ///
    /// # Errors
    ///
    /// When there is no node to ask with. A search that nobody answered finds no peers.
    fn get_peers(&self, swarm: SwarmHash) -> BoxFuture<'_, Result<Vec<SocketAddr>, LookupError>>;

    /// Announces this machine as a peer of a swarm, listening on TCP `port`, and gives the peers that
    /// were met on the way, as [`Self::get_peers`] would.
    ///
    /// # Errors
    ///
    /// When no node took the announcement; [`PutError::PortZero`] for port 0.
    fn announce(
        &self,
        swarm: SwarmHash,
        port: u16,
    ) -> BoxFuture<'_, Result<Vec<SocketAddr>, PutError>>;

    /// Nodes that answered lately, for the next start.
    fn contacts(&self) -> BoxFuture<'_, Vec<SocketAddr>>;

    /// Asks around; true when any node answers.
    fn bootstrapped(&self) -> BoxFuture<'_, bool>;
}

/// The most peers that one look-up gives.
pub const MAX_PEERS: usize = 2000;

/// An item was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// How many nodes said so.
    pub nodes: u32,
    /// What was there before.
    pub before: Found,
}

/// A look-up brought no knowledge.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// The node itself could not be started.
    #[error("the DHT node is not running")]
    NotRunning {
        /// Why.
        #[source]
        source: StartError,
    },
    /// The node stopped under the question. The next operation starts it again.
    #[error("the DHT node stopped unexpectedly")]
    Stopped,
    /// There was nobody to ask: the node knows no others.
    #[error("no DHT node could be reached: is UDP blocked, or no bootstrap node alive?")]
    NotConnected,
    /// Nodes were asked, and none answered usefully.
    #[error(
        "of {} DHT nodes asked none gave an answer ({} timed out, {} answered badly)",
        counts.queried, counts.timeouts, counts.invalid.saturating_add(counts.errors)
    )]
    NoAnswer {
        /// Who said what.
        counts: Counts,
    },
    /// A transport other than a DHT node of this process failed, such as a control socket.
    #[error("the DHT could not be asked")]
    Transport {
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// An item or announcement was not stored.
#[derive(Debug, thiserror::Error)]
pub enum PutError {
    /// What is there could not be learnt, and nothing is stored blindly.
    #[error("the look-up before storing failed")]
    Lookup {
        /// Why.
        #[source]
        source: LookupError,
    },
    /// The look-up before storing ran out of time: a greater `seq` may be there.
    #[error("the look-up before storing did not settle")]
    Unsettled,
    /// The DHT has a newer item.
    #[error("the DHT has seq {there}, which is above {ours}")]
    Superseded {
        /// What is there.
        there: Seq,
        /// What was to be stored.
        ours: Seq,
    },
    /// The DHT has another value at the same `seq`. Storing would destroy the proof of it on some
    /// nodes and split the readers.
    #[error("the DHT has another value signed with seq {seq}")]
    Conflict {
        /// The number.
        seq: Seq,
        /// One of the other items.
        other: Box<SignedItem>,
    },
    /// Nodes refused because of an item this node had not found: somebody else is publishing.
    #[error("the DHT nodes have an item that the look-up did not show: look up again")]
    Raced,
    /// No node took it.
    #[error("no DHT node stored it")]
    NotStored {
        /// What the node said.
        #[source]
        source: Option<mainline::errors::PutQueryError>,
    },
    /// Peers cannot be reached at port 0.
    #[error("port 0 cannot be announced")]
    PortZero,
    /// A transport other than a DHT node of this process failed, such as a control socket.
    #[error("the DHT could not be asked to store")]
    Transport {
        /// Why.
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
    /// The UDP port cannot be had.
    #[error("cannot listen on UDP {address}")]
    Bind {
        /// Where.
        address: std::net::SocketAddrV4,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// No bootstrap name has an IPv4 address, usually because there is no name service yet. The next
    /// operation tries again.
    #[error("no DHT bootstrap node has an IPv4 address: is there a name service?")]
    NoBootstrap,
}
