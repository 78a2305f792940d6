//! The [`Dht`] of the public network: one node of the `mainline` crate.
//!
//! What this layer adds to `mainline`:
//!
//! - **Names are resolved when they can be.** `mainline` resolves its bootstrap names once, at the
//!   start, and drops those that fail; a node started before the name service would stay isolated
//!   for ever. Here the node starts with the first operation for which a name (or a contact of the
//!   last run) has an address.
//! - **One operation per target at a time.** `mainline` merges a query with any running one for the
//!   same target, even of another type. So a search for peers during an announcement would find
//!   none.
//! - **A node that died is replaced.** `mainline` owns its thread, and calls panic after the thread
//!   has ended. Such a panic ends one operation with [`LookupError::Stopped`].
//! - **Signatures are verified again**, by this crate's stricter rules.
//! - **Every operation ends.** No step of an operation takes longer than
//!   [`NodeSettings::operation_timeout`].
//!
//! Limits of `mainline` that remain: IPv4 only. As a *server* it ignores queries whose transaction
//! id has not four bytes, so it is a client to most of the network (libtorrent sends two).

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use bittorrent_protocol::SwarmHash;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use mainline::async_dht::AsyncDht;
use mainline::errors::{ConcurrencyError, PutMutableError};
use mainline::{DEFAULT_BOOTSTRAP_NODES, DhtBuilder, Id, MutableItem};
use tokio::time::{Instant, timeout_at};

use super::{Dht, LookupError, MAX_PEERS, PutError, StartError, Stored};
use crate::item::{Authority, Salt, Seq, SignedItem};
use crate::lookup_result::{AnswerCounts, LookupResult};

/// How a node runs.
#[derive(Debug, Clone)]
pub struct NodeSettings {
    /// The UDP port; 0 for any free one. Default 6882.
    pub port: u16,
    /// The local address. Default all interfaces; 127.0.0.1 for tests.
    pub bind_address: Ipv4Addr,
    /// Where to join the network, `host:port` each. Empty (the default) means the public routers.
    pub bootstrap: Vec<String>,
    /// Nodes known from the last run ([`Dht::contacts`]), queried besides the bootstrap nodes. At
    /// most about [`MAX_START_NODES`] addresses are used in all.
    pub contacts: Vec<SocketAddr>,
    /// Whether the node answers queries.
    pub role: Role,
    /// The time limit for one node's answer. Default 2 s.
    pub request_timeout: Duration,
    /// The time limit of a whole look-up, and of storing at the nodes found. Default 20 s. Either
    /// usually takes a few seconds, because some node always times out. Putting an item takes at
    /// most two of each.
    pub operation_timeout: Duration,
}

impl Default for NodeSettings {
    fn default() -> Self {
        Self {
            port: 6882,
            bind_address: Ipv4Addr::UNSPECIFIED,
            bootstrap: Vec::new(),
            contacts: Vec::new(),
            role: Role::default(),
            request_timeout: mainline::DEFAULT_REQUEST_TIMEOUT,
            operation_timeout: Duration::from_secs(20),
        }
    }
}

/// Whether a node answers queries of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// A client that becomes a server after a quarter of an hour, if it is reachable from outside.
    #[default]
    Adaptive,
    /// Answers queries from the start.
    Server,
}

/// The most addresses that a node starts from. `mainline` queries all of them while its routing
/// table returns fewer nodes than this for a target, and the table returns 20 at most.
pub const MAX_START_NODES: usize = 20;

/// The time limit for resolving a name; slower names are left out of a start.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The most contacts returned for the next start.
const MAX_CONTACTS: usize = 200;

/// The state of a node at one moment, for the status report.
#[derive(Debug, Clone)]
pub struct NodeStatus {
    /// The address it is bound to.
    pub local_addr: SocketAddrV4,
    /// Its address as other nodes see it.
    pub public_addr: Option<SocketAddrV4>,
    /// Whether it could not confirm that it is reachable from outside.
    pub firewalled: bool,
    /// Whether it answers queries.
    pub server: bool,
    /// Nodes in its routing table that are not stale.
    pub nodes: usize,
    /// Estimated size of the whole network, in nodes.
    pub network_size: usize,
}

/// A node of the Mainline DHT. Dropping it stops its thread and closes its socket shortly after.
#[derive(Debug)]
pub struct MainlineDht {
    settings: NodeSettings,
    node: tokio::sync::Mutex<Option<AsyncDht>>,
    /// Addresses of the configured bootstrap nodes, as they were when the node started.
    joined: Mutex<Vec<Ipv4Addr>>,
    targets: Mutex<HashMap<SwarmHash, Weak<tokio::sync::Mutex<()>>>>,
}

impl MainlineDht {
    /// Binds the port and starts the node.
    ///
    /// Succeeds even when no bootstrap name has an address yet: it then only checks that the port
    /// is free, and a later operation starts the node.
    ///
    /// # Errors
    ///
    /// [`StartError::Bind`].
    pub async fn start(settings: NodeSettings) -> Result<Self, StartError> {
        let dht = Self {
            settings,
            node: tokio::sync::Mutex::new(None),
            joined: Mutex::default(),
            targets: Mutex::new(HashMap::new()),
        };
        match dht.node().await {
            Ok(_) => {}
            Err(StartError::NoBootstrap) => {
                check_port(dht.bind_address())?;
                tracing::warn!("no DHT bootstrap node has an address yet; trying again later");
            }
            Err(error) => return Err(error),
        }
        Ok(dht)
    }

    /// Returns the addresses of the configured bootstrap nodes. Empty for the public network, and
    /// while no name has an address. A network that was joined through a private address may name
    /// private addresses; the public one may not.
    pub fn joined_by(&self) -> Vec<Ipv4Addr> {
        let joined = self.joined.lock();
        joined.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the state of the node; `None` while it is not running.
    pub async fn status(&self) -> Option<NodeStatus> {
        self.with_node(async |node| {
            let info = node.info().await;
            NodeStatus {
                local_addr: info.local_addr(),
                public_addr: info.public_address(),
                firewalled: info.firewalled(),
                server: info.server_mode(),
                nodes: node.to_bootstrap().await.len(),
                network_size: info.dht_size_estimate().0,
            }
        })
        .await
        .ok()
    }

    fn bind_address(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.settings.bind_address, self.settings.port)
    }

    /// Returns the running node, and starts one if there is none.
    async fn node(&self) -> Result<AsyncDht, StartError> {
        let mut slot = self.node.lock().await;
        if let Some(node) = &*slot {
            return Ok(node.clone());
        }
        let start = self.start_nodes().await;
        if start.is_empty() {
            return Err(StartError::NoBootstrap);
        }
        let mut builder = mainline::Dht::builder();
        builder
            .port(self.settings.port)
            .bind_address(self.settings.bind_address)
            .bootstrap(&start)
            .request_timeout(self.settings.request_timeout);
        if self.settings.role == Role::Server {
            builder.server_mode();
        }
        let node = build(&builder, self.bind_address())?;
        Ok(slot.insert(node).clone())
    }

    /// Returns the addresses of the bootstrap names and, up to the limit, of the known contacts.
    async fn start_nodes(&self) -> Vec<SocketAddrV4> {
        let names: Vec<&str> = if self.settings.bootstrap.is_empty() {
            DEFAULT_BOOTSTRAP_NODES.to_vec()
        } else {
            self.settings.bootstrap.iter().map(String::as_str).collect()
        };
        let deadline = Instant::now() + RESOLVE_TIMEOUT;
        let resolved = futures_util::future::join_all(names.iter().map(async |name| {
            match timeout_at(deadline, tokio::net::lookup_host(*name)).await {
                Ok(Ok(addresses)) => addresses.collect::<Vec<_>>(),
                Ok(Err(error)) => {
                    tracing::debug!(name, %error, "DHT bootstrap name not resolved");
                    Vec::new()
                }
                Err(_) => Vec::new(),
            }
        }))
        .await;
        if !self.settings.bootstrap.is_empty() {
            let addresses = resolved.iter().flatten();
            let joined = addresses.filter_map(|address| match address {
                SocketAddr::V4(address) => Some(*address.ip()),
                SocketAddr::V6(_) => None,
            });
            let joined = joined.collect();
            *self.joined.lock().unwrap_or_else(PoisonError::into_inner) = joined;
        }
        let mut start = Vec::new();
        let contacts = self.settings.contacts.iter().copied();
        for address in resolved.into_iter().flatten().chain(contacts) {
            if let SocketAddr::V4(address) = address
                && start.len() < MAX_START_NODES
                && !start.contains(&address)
            {
                start.push(address);
            }
        }
        start
    }

    /// Runs an operation on the node. If the node's thread has ended, drops the node, so that the
    /// next operation starts another.
    async fn with_node<T>(&self, f: impl AsyncFnOnce(&AsyncDht) -> T) -> Result<T, LookupError> {
        let node = self
            .node()
            .await
            .map_err(|source| LookupError::NotRunning { source })?;
        // Unwind safe: nothing but the dead node's handle outlives the panic, and it is dropped.
        match AssertUnwindSafe(f(&node)).catch_unwind().await {
            Ok(value) => Ok(value),
            Err(_) => {
                tracing::error!("the DHT node stopped unexpectedly and will be started again");
                *self.node.lock().await = None;
                Err(LookupError::Stopped)
            }
        }
    }

    /// Waits until no other operation uses this target.
    async fn lock_target(&self, target: SwarmHash) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            // Poison is harmless: the map is whole after each of these statements.
            let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
            targets.retain(|_, lock| lock.strong_count() > 0);
            match targets.get(&target).and_then(Weak::upgrade) {
                Some(lock) => lock,
                None => {
                    let lock = Arc::default();
                    targets.insert(target, Arc::downgrade(&lock));
                    lock
                }
            }
        };
        lock.lock_owned().await
    }

    /// Looks an item up; the caller has reserved the target.
    async fn look_up(
        &self,
        authority: &Authority,
        salt: &Salt,
        better: &mut (dyn FnMut(&SignedItem) + Send),
    ) -> Result<LookupResult, LookupError> {
        let deadline = Instant::now() + self.settings.operation_timeout;
        let mut found = LookupResult::default();
        let mut malformed = 0;
        let outcome = self
            .with_node(async |node| {
                let mut answers =
                    node.get_mutable_detailed(authority.as_bytes(), salt.as_option(), None);
                timeout_at(deadline, async {
                    while let Some(item) = answers.items.next().await {
                        match verified(authority, salt, &item) {
                            Some(item) => {
                                if found.add(item) {
                                    // `add` put it there.
                                    found.best.as_ref().into_iter().for_each(&mut *better);
                                }
                            }
                            None => malformed += 1,
                        }
                    }
                    answers.outcome.recv().await
                })
                .await
                .ok()
            })
            .await?;
        if let Some(outcome) = outcome {
            found.settled = true;
            found.counts = AnswerCounts {
                queried: outcome.queried,
                valid: outcome.values.saturating_sub(malformed),
                empty: outcome.no_values + outcome.no_more_recent,
                invalid: outcome.invalid_values + outcome.invalid_responses + malformed,
                errors: outcome.krpc_errors,
                timeouts: outcome.timed_out(),
            };
            if outcome.queried == 0 {
                return Err(LookupError::NotConnected);
            }
        }
        if found.best.is_none() && found.counts.answered() == 0 {
            return Err(LookupError::NoAnswer {
                counts: found.counts,
            });
        }
        Ok(found)
    }

    async fn store(&self, item: &SignedItem) -> Result<Stored, PutError> {
        let _target = self.lock_target(item.authority().target(item.salt())).await;
        let before = self.check_storable(item).await?;
        let Some(replaced) = before.seq().filter(|there| *there < item.seq()) else {
            let nodes = self.put_once(item, None).await?;
            return Ok(Stored { nodes, before });
        };
        // Guards against another producer that publishes at this moment: nodes that have another
        // item than the one found refuse. Outdated nodes refuse too. So unless all nodes stored the
        // item, it is sent once more without that condition, after another look-up.
        let nodes = match self.put_once(item, Some(replaced)).await {
            Ok(nodes) if nodes >= before.counts.answered() => nodes,
            Ok(_) | Err(PutError::Raced) => {
                self.check_storable(item).await?;
                self.put_once(item, None).await?
            }
            Err(error) => return Err(error),
        };
        Ok(Stored { nodes, before })
    }

    /// Looks up the current item, and checks whether this item may replace it.
    async fn check_storable(&self, item: &SignedItem) -> Result<LookupResult, PutError> {
        let found = self
            .look_up(item.authority(), item.salt(), &mut |_| {})
            .await?;
        may_store(item, &found)?;
        Ok(found)
    }

    async fn put_once(&self, item: &SignedItem, cas: Option<Seq>) -> Result<u32, PutError> {
        let signed = MutableItem::new_signed_unchecked(
            *item.authority().as_bytes(),
            *item.signature(),
            item.value(),
            item.seq().get(),
            item.salt().as_option(),
        );
        let put = self.with_node(async |node| {
            tokio::time::timeout(
                self.settings.operation_timeout,
                node.put_mutable(signed, cas.map(Seq::get)),
            )
            .await
        });
        match put.await? {
            Ok(Ok(outcome)) => Ok(outcome.stored_at),
            Ok(Err(PutMutableError::Query(source))) => Err(PutError::NotStored {
                source: Some(source),
            }),
            Ok(Err(PutMutableError::Concurrency(
                ConcurrencyError::CasFailed
                | ConcurrencyError::NotMostRecent
                | ConcurrencyError::ConflictRisk,
            ))) => Err(PutError::Raced),
            Err(_) => Err(PutError::NotStored { source: None }),
        }
    }

    /// Searches for peers; the caller has reserved the target.
    async fn find_peers(&self, swarm: SwarmHash) -> Result<Vec<SocketAddr>, LookupError> {
        let deadline = Instant::now() + self.settings.operation_timeout;
        self.with_node(async |node| {
            let mut answers = node.get_peers(id(swarm));
            let mut seen = HashSet::new();
            let mut peers = Vec::new();
            // Reaching the time limit or the limit of peers is no failure.
            while let Ok(Some(batch)) = timeout_at(deadline, answers.next()).await {
                for peer in batch {
                    if is_reachable(peer) && peers.len() < MAX_PEERS && seen.insert(peer) {
                        peers.push(SocketAddr::V4(peer));
                    }
                }
            }
            peers
        })
        .await
    }
}

/// Checks that a port can be bound.
fn check_port(address: SocketAddrV4) -> Result<(), StartError> {
    match UdpSocket::bind(address) {
        Ok(_) => Ok(()),
        Err(source) => Err(StartError::Bind { address, source }),
    }
}

/// Starts a node that binds `address`. Waits until its thread has the socket, which needs no
/// network.
pub(crate) fn build(builder: &DhtBuilder, address: SocketAddrV4) -> Result<AsyncDht, StartError> {
    // `mainline` reports a failed bind only if its thread is asked before it ends; otherwise it
    // panics. So the usual failures are found here first, and the panic is caught too.
    check_port(address)?;
    std::panic::catch_unwind(AssertUnwindSafe(|| builder.build()))
        .unwrap_or_else(|_| Err(io::Error::other("the node's thread ended at once")))
        .map(mainline::Dht::as_async)
        .map_err(|source| StartError::Bind { address, source })
}

/// Checks whether an item may be stored, given the result of a look-up.
///
/// # Errors
///
/// When it must not be stored.
pub fn may_store(item: &SignedItem, found: &LookupResult) -> Result<(), PutError> {
    if !found.settled {
        return Err(PutError::Unsettled);
    }
    let Some(best) = &found.best else {
        return Ok(());
    };
    if best.seq() > item.seq() {
        return Err(PutError::Superseded {
            there: best.seq(),
            ours: item.seq(),
        });
    }
    if best.seq() == item.seq() {
        let other = std::iter::once(best)
            .chain(&found.conflicts)
            .find(|there| there.value() != item.value());
        if let Some(other) = other {
            return Err(PutError::Conflict {
                seq: item.seq(),
                other: Box::new(other.clone()),
            });
        }
    }
    Ok(())
}

impl Dht for MainlineDht {
    fn get_item<'a>(
        &'a self,
        authority: &'a Authority,
        salt: &'a Salt,
        better: &'a mut (dyn FnMut(&SignedItem) + Send),
    ) -> BoxFuture<'a, Result<LookupResult, LookupError>> {
        Box::pin(async move {
            let _target = self.lock_target(authority.target(salt)).await;
            self.look_up(authority, salt, better).await
        })
    }

    fn put_item<'a>(&'a self, item: &'a SignedItem) -> BoxFuture<'a, Result<Stored, PutError>> {
        Box::pin(self.store(item))
    }

    fn get_peers(&self, swarm: SwarmHash) -> BoxFuture<'_, Result<Vec<SocketAddr>, LookupError>> {
        Box::pin(async move {
            let _target = self.lock_target(swarm).await;
            self.find_peers(swarm).await
        })
    }

    fn announce(
        &self,
        swarm: SwarmHash,
        port: u16,
    ) -> BoxFuture<'_, Result<Vec<SocketAddr>, PutError>> {
        Box::pin(async move {
            if port == 0 {
                return Err(PutError::PortZero);
            }
            let _target = self.lock_target(swarm).await;
            // Needed before announcing, not only for the peers: without it `mainline` would look
            // for nodes to announce to by `get` (BEP 44), which not every node answers.
            let peers = self.find_peers(swarm).await?;
            let announced = self.with_node(async |node| {
                tokio::time::timeout(
                    self.settings.operation_timeout,
                    node.announce_peer(id(swarm), Some(port)),
                )
                .await
            });
            match announced.await? {
                Ok(Ok(_)) => Ok(peers),
                Ok(Err(source)) => Err(PutError::NotStored {
                    source: Some(source),
                }),
                Err(_) => Err(PutError::NotStored { source: None }),
            }
        })
    }

    fn contacts(&self) -> BoxFuture<'_, Vec<SocketAddr>> {
        Box::pin(async move {
            let known = self.with_node(async |node| node.to_bootstrap().await).await;
            known
                .unwrap_or_default()
                .iter()
                .filter_map(|address| address.parse().ok())
                .take(MAX_CONTACTS)
                .collect()
        })
    }

    fn bootstrapped(&self) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            // `mainline`'s own method of this name answers from its routing table, even long after
            // all nodes in it have gone.
            let asked = self.with_node(async |node| {
                tokio::time::timeout(
                    self.settings.operation_timeout,
                    node.get_closest_nodes(Id::random()),
                )
                .await
            });
            matches!(asked.await, Ok(Ok(answered)) if !answered.is_empty())
        })
    }
}

fn id(swarm: SwarmHash) -> Id {
    Id::from(*swarm.as_bytes())
}

/// Converts an item of `mainline`. Returns `None` for a negative `seq`, or for a signature that
/// only passes laxer rules.
fn verified(authority: &Authority, salt: &Salt, item: &MutableItem) -> Option<SignedItem> {
    SignedItem::verified(
        *authority,
        salt.clone(),
        Seq::new(item.seq())?,
        item.value(),
        *item.signature(),
    )
    .ok()
}

/// Returns whether an address from an untrusted node can be the address of a peer.
fn is_reachable(peer: SocketAddrV4) -> bool {
    let ip = peer.ip();
    peer.port() != 0
        && !ip.is_unspecified()
        && !ip.is_multicast()
        && !ip.is_broadcast()
        && ip.octets()[0] != 0
}

#[cfg(test)]
mod tests;
