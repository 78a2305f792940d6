//! The session: one listening port, one engine, many torrents.

mod listener;

use std::net::SocketAddr;
use std::sync::Arc;

use bittorrent_engine::Engine;
use bittorrent_protocol::{InfoHashes, PeerId, SwarmHash};
use bittorrent_store::{ReuseSources, TorrentStore};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::Instrument as _;

use crate::config::SessionConfig;
use crate::descriptors::SocketBudget;
use crate::discovery::tracker::{Announcer, TrackerUrl};
use crate::disk::{self, DiskThreads};
use crate::driver::{Driver, Inputs, Policy, SessionCommand};
use crate::error::{AddError, SessionError};
use crate::handle::{SessionHandle, TorrentHandle, prepare};
use crate::heartbeat::Heartbeat;
use crate::http::LazyHttpClient;
use crate::link::PeerContext;
use crate::status::ShutdownReport;
use crate::transport::buffers::BufferPool;
use crate::transport::handshake::{EncryptionPolicy, HandshakeConfig};
use crate::transport::rate_limit::Buckets;
use listener::{AcceptState, Slots};

/// Commands that may wait for the driver.
const COMMAND_QUEUE: usize = 256;

/// Batches that may wait for the driver. Permits bound the blocks in them.
const BATCH_QUEUE: usize = 256;

/// Finished disk jobs that may wait for the driver.
const FINISHED_JOB_QUEUE: usize = 256;

/// First bytes of the peer id; the rest is random (BEP 20).
const PEER_ID_PREFIX: [u8; 8] = *b"-BS0100-";

/// A set of torrents and their connections. Dropping it stops everything without waiting; see
/// [`Self::shutdown`].
#[derive(Debug)]
pub struct Session {
    local_addrs: Vec<SocketAddr>,
    peer_id: PeerId,
    announce_port: u16,
    encryption: EncryptionPolicy,
    http: Arc<LazyHttpClient>,
    commands: mpsc::Sender<SessionCommand>,
    cancel: DropGuard,
    accept_state: watch::Sender<AcceptState>,
    acceptors: JoinSet<()>,
    driver: JoinHandle<ShutdownReport>,
    threads: DiskThreads,
    heartbeat: Heartbeat,
}

impl Session {
    /// Binds the listening sockets and starts all tasks and threads, on the current runtime.
    pub async fn start(config: SessionConfig) -> Result<Self, SessionError> {
        let listeners = listener::bind_all(&config.listen, config.listeners)?;
        let mut local_addrs = Vec::new();
        for listener in &listeners {
            local_addrs.push(listener.local_addr().map_err(SessionError::Inherit)?);
        }
        let mut tuning = config.tuning;
        let budget = SocketBudget::of_process();
        let mut engine_config = config.engine;
        if engine_config.max_peers > budget.connections {
            tracing::warn!(
                connections = budget.connections,
                wanted = engine_config.max_peers,
                "the limit on open files allows fewer connections than configured; raise LimitNOFILE or ulimit -n"
            );
            engine_config.max_peers = budget.connections;
        }
        tuning.max_incoming_handshakes = tuning.max_incoming_handshakes.min(budget.handshakes);
        let peer_id = random_peer_id()?;
        let mut engine = Engine::new(
            bittorrent_engine::Config {
                peer_id: Some(peer_id),
                ..engine_config
            },
            random()?,
        );
        for addr in local_addrs
            .iter()
            .filter(|addr| !addr.ip().is_unspecified())
        {
            engine.add_own_address(*addr);
        }
        let (done_to, done) = mpsc::channel(FINISHED_JOB_QUEUE);
        let heartbeat = Heartbeat::new(disk::DISK_THREADS);
        let (disks, readers, threads) =
            disk::start(&done_to, &heartbeat).map_err(SessionError::Threads)?;
        let (commands_to, commands) = mpsc::channel(COMMAND_QUEUE);
        let (batches_to, batches) = mpsc::channel(BATCH_QUEUE);
        let announce_port = config
            .announce_port
            .or_else(|| local_addrs.first().map(SocketAddr::port));
        let http = Arc::new(LazyHttpClient::new(config.client.clone()));
        let handshake_config = Arc::new(HandshakeConfig {
            peer_id,
            handshake_timeout: tuning.handshake_timeout,
            encryption: config.encryption,
        });
        let write_buffer = tuning
            .write_buffer_bytes
            .clamp(disk::MIN_READ_CHARGE as usize, Semaphore::MAX_PERMITS);
        let slots = Arc::new(Slots::new(tuning.max_incoming_handshakes));
        let policy = Policy {
            handshake_config: handshake_config.clone(),
            context: Arc::new(PeerContext {
                client: config.client,
                port: announce_port,
                peer_exchange: config.peer_exchange,
                request_queue: tuning.request_queue,
                idle_timeout: tuning.idle_timeout,
                keep_alive: tuning.keep_alive,
                buffers: Arc::new(BufferPool::new(write_buffer)),
                readers,
                write_permits: Arc::new(Semaphore::new(write_buffer)),
                batches: batches_to,
            }),
            max_connections: budget.connections,
            limits: Buckets::new(config.rates),
            http: http.clone(),
            tuning,
        };
        let cancel = CancellationToken::new();
        let accept_state = watch::Sender::new(if config.accept_paused {
            AcceptState::Paused
        } else {
            AcceptState::Accepting
        });
        let mut acceptors = JoinSet::new();
        for (listener, addr) in listeners.into_iter().zip(&local_addrs) {
            let acceptor = listener::accept(
                listener,
                handshake_config.clone(),
                slots.clone(),
                commands_to.clone(),
                accept_state.subscribe(),
                cancel.child_token(),
            );
            acceptors.spawn(acceptor.instrument(tracing::debug_span!("listener", %addr)));
        }
        let driver = Driver::new(
            engine,
            policy,
            disks,
            cancel.child_token(),
            heartbeat.clone(),
        );
        let inputs = Inputs {
            commands,
            batches,
            done,
        };
        let driver = tokio::spawn(
            driver
                .run(inputs)
                .instrument(tracing::debug_span!("driver")),
        );
        Ok(Self {
            local_addrs,
            peer_id,
            announce_port: announce_port.unwrap_or_default(),
            encryption: config.encryption,
            http,
            commands: commands_to,
            cancel: cancel.drop_guard(),
            accept_state,
            acceptors,
            driver,
            threads,
            heartbeat,
        })
    }

    /// Returns the listening addresses, with the ports that were bound.
    pub fn local_addrs(&self) -> &[SocketAddr] {
        &self.local_addrs
    }

    /// Returns the peer id of all handshakes.
    pub const fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// Starts to accept connections after [`SessionConfig::accept_paused`]. Call it after adding
    /// the torrents: peers of unknown torrents are rejected.
    pub fn start_accepting(&self) {
        self.accept_state.send_replace(AcceptState::Accepting);
    }

    /// Stops accepting connections; open ones continue. If a successor has inherited the listening
    /// socket, new connections wait in the kernel for it.
    pub fn stop_accepting(&self) {
        self.accept_state.send_replace(AcceptState::Stopped);
    }

    /// Returns the liveness counters of the session's loops.
    pub fn heartbeat(&self) -> Heartbeat {
        self.heartbeat.clone()
    }

    /// Adds a torrent with known metadata. Downloads what the store lacks and serves what it has.
    pub async fn add_store(&self, store: Arc<TorrentStore>) -> Result<TorrentHandle, AddError> {
        self.add_prepared(prepare(store, None).await?).await
    }

    /// Does the same as [`Self::add_store`], but looks for missing blocks in local snapshots before
    /// it requests them from peers.
    pub async fn add_store_reusing(
        &self,
        store: Arc<TorrentStore>,
        sources: Arc<ReuseSources>,
    ) -> Result<TorrentHandle, AddError> {
        self.add_prepared(prepare(store, Some(sources)).await?)
            .await
    }

    /// Adds a torrent that only serves verified content. Nothing is requested or written: for a
    /// full disk.
    pub async fn add_store_seed_only(
        &self,
        store: Arc<TorrentStore>,
    ) -> Result<TorrentHandle, AddError> {
        let prepared = prepare(store, None).await?;
        self.add_prepared(crate::driver::PreparedStore {
            only_serve: true,
            ..prepared
        })
        .await
    }

    async fn add_prepared(
        &self,
        prepared: crate::driver::PreparedStore,
    ) -> Result<TorrentHandle, AddError> {
        let hashes = prepared.attached.store().info().hashes();
        self.add(hashes, Some(Box::new(prepared))).await
    }

    /// Adds a torrent of which only hashes are known. Peers provide the metadata.
    pub async fn add_magnet(&self, hashes: InfoHashes) -> Result<TorrentHandle, AddError> {
        self.add(hashes, None).await
    }

    /// Returns a handle that changes settings.
    pub fn handle(&self) -> SessionHandle {
        SessionHandle::new(self.commands.clone())
    }

    /// Creates an announcer that [announces](Announcer::run) a torrent to a tracker under all these
    /// names. Not for private torrents, except to trackers in their own metadata.
    pub fn announcer(
        &self,
        url: TrackerUrl,
        torrent: &TorrentHandle,
        swarms: Vec<SwarmHash>,
    ) -> Announcer {
        Announcer {
            url,
            http: self.http.client(),
            torrent: torrent.clone(),
            swarms,
            peer_id: self.peer_id,
            port: self.announce_port,
            encryption: self.encryption,
        }
    }

    /// Returns the port that is announced to peers.
    pub const fn announce_port(&self) -> u16 {
        self.announce_port
    }

    async fn add(
        &self,
        hashes: InfoHashes,
        store: Option<Box<crate::driver::PreparedStore>>,
    ) -> Result<TorrentHandle, AddError> {
        let (reply, answer) = oneshot::channel();
        let command = SessionCommand::Add {
            hashes,
            store,
            reply,
        };
        self.commands
            .send(command)
            .await
            .map_err(|_| AddError::Ending)?;
        let added = answer.await.map_err(|_| AddError::Ending)??;
        Ok(TorrentHandle::new(hashes, added, self.commands.clone()))
    }

    /// Closes all connections, finishes all writes, makes content durable and joins every task and
    /// thread.
    pub async fn shutdown(self) -> ShutdownReport {
        let Self {
            cancel,
            mut acceptors,
            driver,
            threads,
            ..
        } = self;
        drop(cancel);
        let mut tasks = 1 + acceptors.len();
        while acceptors.join_next().await.is_some() {}
        let mut report = match driver.await {
            Ok(report) => report,
            Err(error) => {
                tracing::error!(%error, "the driver panicked");
                tasks -= 1;
                ShutdownReport::default()
            }
        };
        report.tasks += tasks;
        // The driver and the connections have dropped their ends of the queues.
        report.threads = tokio::task::spawn_blocking(move || threads.join())
            .await
            .unwrap_or(0);
        tracing::info!(
            torrents = report.torrents,
            connections = report.connections,
            failures = report.failures.len(),
            "session ended"
        );
        report
    }
}

fn random<const N: usize>() -> Result<[u8; N], SessionError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| SessionError::Random(error.into()))?;
    Ok(bytes)
}

fn random_peer_id() -> Result<PeerId, SessionError> {
    let mut bytes = random::<{ PeerId::LEN }>()?;
    let (head, _) = bytes.split_at_mut(PEER_ID_PREFIX.len());
    head.copy_from_slice(&PEER_ID_PREFIX);
    Ok(PeerId::from_bytes(bytes))
}
