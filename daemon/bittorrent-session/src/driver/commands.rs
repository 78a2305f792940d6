//! Commands that handles and handshakes send to the driver.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bittorrent_engine::{ConnectionLimits, Content, Link, PieceLeaves, Scope, Source, TorrentKey};
use bittorrent_protocol::mse::HiddenSwarm;
use bittorrent_protocol::{BlockIndex, InfoHashes, SwarmHash};
use bittorrent_store::{ReuseSources, TorrentStore};
use tokio::sync::oneshot;

use super::torrent::Torrent;
use super::{Driver, TorrentWatch};
use crate::disk::content::StoredContent;
use crate::disk::piece_map::BlockOrigins;
use crate::error::AddError;
use crate::link::Instruction;
use crate::status::Peer;
use crate::transport::handshake::{Acceptance, Established};
use crate::transport::rate_limit::{Buckets, RateLimits};
use crate::web_seed::WebSeedUrl;

/// A store, and what the engine needs of it. Read before the driver receives it.
#[derive(Debug)]
pub(crate) struct PreparedStore {
    pub(crate) attached: Arc<StoredContent>,
    /// Local snapshots that may have its missing blocks.
    pub(crate) sources: Option<Arc<ReuseSources>>,
    pub(crate) content: Content,
    /// Missing blocks are not requested.
    pub(crate) only_serve: bool,
}

/// A torrent that was added.
#[derive(Debug)]
pub(crate) struct AddedTorrent {
    pub(crate) key: TorrentKey,
    pub(crate) views: TorrentWatch,
}

#[derive(Debug)]
pub(crate) enum SessionCommand {
    Add {
        hashes: InfoHashes,
        store: Option<Box<PreparedStore>>,
        reply: oneshot::Sender<Result<AddedTorrent, AddError>>,
    },
    Attach {
        torrent: TorrentKey,
        store: Box<PreparedStore>,
        reply: oneshot::Sender<Result<(), AddError>>,
    },
    AddPeers {
        torrent: TorrentKey,
        addrs: Vec<SocketAddr>,
        source: Source,
        scope: Scope,
    },
    DownloadInOrder(TorrentKey),
    Peers {
        torrent: TorrentKey,
        reply: oneshot::Sender<Vec<Peer>>,
    },
    BlockOrigins {
        torrent: TorrentKey,
        reply: oneshot::Sender<Option<(Arc<TorrentStore>, BlockOrigins)>>,
    },
    /// Blocks are damaged on disk; the store no longer counts them as verified.
    Repair {
        torrent: TorrentKey,
        damaged: Vec<BlockIndex>,
        /// Leaf hashes of the intact blocks of the same pieces.
        intact: Vec<PieceLeaves>,
    },
    Remove {
        torrent: TorrentKey,
        reply: oneshot::Sender<()>,
    },
    LimitRates(RateLimits),
    AddWebSeeds(TorrentKey, Vec<WebSeedUrl>),
    LimitConnections(ConnectionLimits),
    /// A peer named a swarm in an encrypted handshake.
    FindSwarm {
        name: HiddenSwarm,
        reply: oneshot::Sender<Option<SwarmHash>>,
    },
    /// A peer named a swarm.
    AcceptPeer {
        swarm: SwarmHash,
        v2_offered: bool,
        addr: SocketAddr,
        reply: oneshot::Sender<Option<Acceptance>>,
    },
    /// A peer that was accepted has completed its handshake.
    Incoming(TorrentKey, Box<Established>),
}

impl Driver {
    pub(super) fn on_command(&mut self, command: SessionCommand) {
        // A caller that no longer waits needs no reply.
        match command {
            SessionCommand::Add {
                hashes,
                store,
                reply,
            } => {
                let _ = reply.send(self.add(hashes, store));
            }
            SessionCommand::Attach {
                torrent,
                store,
                reply,
            } => {
                let _ = reply.send(self.attach(torrent, *store));
            }
            SessionCommand::AddPeers {
                torrent,
                addrs,
                source,
                scope,
            } => self
                .engine
                .add_candidates(torrent, &addrs, source, scope, Instant::now()),
            SessionCommand::DownloadInOrder(torrent) => self.engine.download_in_order(torrent),
            SessionCommand::Peers { torrent, reply } => {
                let _ = reply.send(self.peers(torrent));
            }
            SessionCommand::BlockOrigins { torrent, reply } => {
                let torrent = self.torrents.get(&torrent);
                let _ = reply.send(torrent.and_then(Torrent::origins));
            }
            SessionCommand::Repair {
                torrent,
                damaged,
                intact,
            } => self.repair(torrent, &damaged, intact),
            SessionCommand::Remove { torrent, reply } => self.remove(torrent, reply),
            SessionCommand::AddWebSeeds(torrent, urls) => self.add_web_seeds(torrent, urls),
            SessionCommand::LimitConnections(mut limits) => {
                limits.max_peers = limits.max_peers.min(self.policy.max_connections);
                self.engine.limit_connections(limits, Instant::now());
            }
            SessionCommand::LimitRates(rates) => self.limit_rates(rates),
            SessionCommand::FindSwarm { name, reply } => {
                let _ = reply.send(self.swarms.find(name));
            }
            SessionCommand::AcceptPeer {
                swarm,
                v2_offered,
                addr,
                reply,
            } => {
                let _ = reply.send(self.accept(swarm, v2_offered, addr));
            }
            SessionCommand::Incoming(torrent, established) => {
                self.on_connected(torrent, *established);
            }
        }
    }

    fn add(
        &mut self,
        hashes: InfoHashes,
        store: Option<Box<PreparedStore>>,
    ) -> Result<AddedTorrent, AddError> {
        let writer = self.disks.assign();
        let taken = Torrent::names_of(&hashes)
            .into_iter()
            .any(|name| self.swarms.get(name).is_some());
        if taken {
            return Err(AddError::Exists(hashes.v2));
        }
        let key = self.engine.add_torrent(hashes, Instant::now());
        let torrent = Torrent::new(key, hashes, writer);
        let views = torrent.views();
        for name in &torrent.names {
            self.swarms.register(*name, key);
        }
        self.torrents.insert(key, torrent);
        if let Some(store) = store {
            self.attach(key, *store)?;
        } else if let Some(torrent) = self.torrents.get(&key) {
            torrent.publish(self.engine.status(key));
        }
        Ok(AddedTorrent { key, views })
    }

    fn attach(&mut self, key: TorrentKey, prepared: PreparedStore) -> Result<(), AddError> {
        let PreparedStore {
            attached,
            sources,
            content,
            only_serve,
        } = prepared;
        let Some(torrent) = self.torrents.get(&key) else {
            return Err(AddError::Ending);
        };
        let (expected, found) = (torrent.hashes, attached.store().info().hashes());
        let v1_differs = expected.v1.is_some_and(|v1| found.v1 != Some(v1));
        if expected.v2 != found.v2 || v1_differs {
            return Err(AddError::OtherTorrent { expected, found });
        }
        if torrent.info.is_none() {
            self.set_info(key, &attached.store().info());
        }
        // Sent before the engine's outputs about the content.
        self.connections
            .instruct_all(Some(key), || Instruction::Attach(attached.clone()));
        let origins = BlockOrigins::new(&content.verified);
        if only_serve {
            self.engine.stop_downloading(key);
        }
        self.engine
            .set_content(key, content, Instant::now())
            .map_err(|_| AddError::NotWaiting(expected.v2))?;
        if let Some(torrent) = self.torrents.get_mut(&key) {
            // Sealing writes too.
            let complete = attached.store().is_complete() && !only_serve;
            torrent.attach(attached, sources.filter(|_| !complete), origins);
            if complete {
                torrent.complete();
            }
            torrent.publish(self.engine.status(key));
        }
        Ok(())
    }

    fn peers(&self, torrent: TorrentKey) -> Vec<Peer> {
        let statuses = self.engine.peers(torrent).into_iter();
        statuses
            .map(|status| Peer {
                encryption: self.connections.encryption(status.key),
                status,
            })
            .collect()
    }

    fn repair(&mut self, key: TorrentKey, damaged: &[BlockIndex], intact: Vec<PieceLeaves>) {
        let Some(torrent) = self.torrents.get_mut(&key) else {
            return;
        };
        torrent.unseal();
        self.engine
            .handle_damaged(key, damaged, intact, Instant::now());
        torrent.publish(self.engine.status(key));
    }

    fn remove(&mut self, key: TorrentKey, reply: oneshot::Sender<()>) {
        let Some(torrent) = self.torrents.get_mut(&key) else {
            let _ = reply.send(());
            return;
        };
        torrent.remove(reply);
        for name in std::mem::take(&mut torrent.names) {
            self.swarms.remove(name);
        }
        // Published once more, so that handles see the final counts.
        torrent.publish(self.engine.status(key));
        // The engine's outputs close its connections.
        self.engine.remove_torrent(key, Instant::now());
    }

    fn limit_rates(&mut self, rates: RateLimits) {
        self.policy.limits = Buckets::new(rates);
        let limits = &self.policy.limits;
        self.connections
            .instruct_all(None, || Instruction::Limit(Box::new(limits.throttles())));
    }

    /// Looks up the swarm that a peer named, and decides under which hash to answer.
    fn accept(&self, swarm: SwarmHash, v2_offered: bool, addr: SocketAddr) -> Option<Acceptance> {
        let key = self.swarms.get(swarm)?;
        let torrent = self.torrents.get(&key)?;
        if torrent.is_failed() {
            return None;
        }
        if let Err(refusal) = self.engine.may_accept(key, addr, Instant::now()) {
            tracing::debug!(%addr, %refusal, "connection refused");
            return None;
        }
        let v2 = torrent.hashes.v2.truncated();
        let upgrade = v2_offered && torrent.hashes.v1.map(SwarmHash::from) == Some(swarm);
        let (swarm, link) = if swarm == v2 || upgrade {
            (v2, Link::V2)
        } else {
            (swarm, Link::V1)
        };
        Some(Acceptance {
            torrent: key,
            swarm,
            link,
        })
    }
}
