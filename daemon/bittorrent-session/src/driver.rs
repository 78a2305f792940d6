//! The one task that owns the engine. It turns what connections, disks and callers say into
//! calls of the engine and the engine's outputs into work for them, and never waits for any one
//! of them.

mod commands;
mod outputs;
mod shutdown;
mod swarms;
mod torrent;
mod web_seeds;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bittorrent_engine::{
    BlockVerdict, Command, Connected, DialFailure, Engine, PeerKey, Scope, TorrentKey,
};
use bittorrent_protocol::PieceIndex;
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::config::Tuning;
use crate::disk::{DiskQueues, FinishedJob};
use crate::error::Causes;
use crate::handshake::{self, Encryption, HandshakeConfig, HandshakeError};
use crate::heartbeat::Heartbeat;
use crate::http::LazyHttpClient;
use crate::limits::Buckets;
use crate::mailbox;
use crate::peer::{
    self, Established, Instruction, PeerBatch, PeerContext, PeerError, PeerMessage, ReceivedBlock,
    Start,
};
pub(crate) use commands::{AddedTorrent, PreparedStore, SessionCommand};
pub use shutdown::ShutdownReport;
use swarms::SwarmRegistry;
use torrent::Torrent;

/// Reports taken up in one go.
const BATCHES_AT_ONCE: usize = 32;

/// How often statuses are published and checkpoints considered.
const TICK: std::time::Duration = std::time::Duration::from_secs(1);

/// The channels a driver listens to.
#[derive(Debug)]
pub(crate) struct Inputs {
    pub(crate) commands: mpsc::Receiver<SessionCommand>,
    pub(crate) batches: mpsc::Receiver<PeerBatch>,
    pub(crate) done: mpsc::Receiver<FinishedJob>,
}

/// What a driver is configured with.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) handshake_config: Arc<HandshakeConfig>,
    pub(crate) context: Arc<PeerContext>,
    pub(crate) tuning: Tuning,
    /// Connections for which the process has descriptors.
    pub(crate) max_connections: usize,
    /// Rate limits over all torrents.
    pub(crate) limits: Buckets,
    pub(crate) http: Arc<LazyHttpClient>,
}

/// The driver's side of a connection.
#[derive(Debug)]
struct PeerHandle {
    mailbox: mailbox::Sender<Instruction>,
    /// Instructions of this turn.
    pending: Vec<Instruction>,
    cancel: CancellationToken,
    addr: SocketAddr,
    encryption: Encryption,
}

type Dialled = Result<Established, HandshakeError>;

pub(crate) struct Driver {
    engine: Engine,
    policy: Policy,
    disks: DiskQueues,
    torrents: HashMap<TorrentKey, Torrent>,
    /// All names of all torrents.
    swarms: SwarmRegistry,
    peers: HashMap<PeerKey, PeerHandle>,
    /// Connections with instructions of this turn.
    addressed: Vec<PeerKey>,
    connections: JoinSet<Result<(), PeerError>>,
    connection_keys: HashMap<Id, PeerKey>,
    dials: JoinSet<Dialled>,
    dial_keys: HashMap<Id, (TorrentKey, SocketAddr)>,
    cancel: CancellationToken,
    /// Payload arrived since the last tick.
    busy: bool,
    /// Web seeds that were ever named.
    web_seeds_named: u32,
    heartbeat: Heartbeat,
}

impl Driver {
    pub(crate) fn new(
        engine: Engine,
        policy: Policy,
        disks: DiskQueues,
        cancel: CancellationToken,
        heartbeat: Heartbeat,
    ) -> Self {
        Self {
            engine,
            policy,
            disks,
            torrents: HashMap::new(),
            swarms: SwarmRegistry::default(),
            peers: HashMap::new(),
            addressed: Vec::new(),
            connections: JoinSet::new(),
            connection_keys: HashMap::new(),
            dials: JoinSet::new(),
            dial_keys: HashMap::new(),
            cancel,
            busy: false,
            web_seeds_named: 0,
            heartbeat,
        }
    }

    /// Works until cancelled, then brings everything to its end.
    pub(crate) async fn run(mut self, mut inputs: Inputs) -> ShutdownReport {
        let mut clock = tokio::time::interval(TICK);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let cancel = self.cancel.clone();
        let mut batches = Vec::with_capacity(BATCHES_AT_ONCE);
        loop {
            let timeout = self.engine.poll_timeout();
            // No fixed order: under full load one source would starve the others.
            tokio::select! {
                () = cancel.cancelled() => break,
                _ = inputs.batches.recv_many(&mut batches, BATCHES_AT_ONCE) => {
                    for report in batches.drain(..) {
                        self.on_peer_batch(report);
                    }
                }
                Some(done) = inputs.done.recv() => {
                    self.on_job_done(done);
                    while let Ok(done) = inputs.done.try_recv() {
                        self.on_job_done(done);
                    }
                }
                Some(command) = inputs.commands.recv() => self.on_command(command),
                Some(ended) = self.connections.join_next_with_id(),
                    if !self.connections.is_empty() =>
                {
                    // What it said last is still to be heard.
                    while let Ok(report) = inputs.batches.try_recv() {
                        self.on_peer_batch(report);
                    }
                    self.on_connection_ended(ended);
                }
                Some(dialled) = self.dials.join_next_with_id(), if !self.dials.is_empty() => {
                    self.on_dial_ended(dialled);
                }
                () = sleep_until(timeout) => self.engine.handle_timeout(Instant::now()),
                _ = clock.tick() => self.tick(),
            }
            self.turn();
        }
        self.end(inputs).await
    }

    /// Does what the engine wants after something happened.
    fn turn(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            self.apply_output(output);
        }
        self.deliver();
        self.submit_jobs();
    }

    /// Gives the disks what there is to do.
    fn submit_jobs(&mut self) {
        for torrent in self.torrents.values_mut() {
            torrent.submit_jobs(&self.disks);
        }
        for (_, torrent) in self.torrents.extract_if(|_, torrent| torrent.is_gone()) {
            torrent.notify_removed();
        }
    }

    fn instruct(&mut self, peer: PeerKey, instruction: Instruction) {
        if let Some(handle) = self.peers.get_mut(&peer) {
            if handle.pending.is_empty() {
                self.addressed.push(peer);
            }
            handle.pending.push(instruction);
        }
    }

    /// Hands over the instructions of this turn, one batch for each connection.
    fn deliver(&mut self) {
        while let Some(peer) = self.addressed.pop() {
            let Some(handle) = self.peers.get_mut(&peer) else {
                continue;
            };
            if handle.mailbox.send_all(&mut handle.pending).is_err() {
                tracing::error!(peer = %handle.addr, "the connection does not take instructions");
                self.disconnect(peer);
                self.engine.handle_disconnected(peer, Instant::now());
            }
        }
    }

    /// Ends a connection from our side. The engine is not told.
    fn disconnect(&mut self, peer: PeerKey) {
        if let Some(handle) = self.peers.remove(&peer) {
            handle.cancel.cancel();
        }
    }

    fn on_peer_batch(&mut self, PeerBatch { peer, news }: PeerBatch) {
        let now = Instant::now();
        for item in news {
            match item {
                PeerMessage::Block(arrived) => self.on_block(peer, arrived, now),
                PeerMessage::Uploaded(bytes) => self.engine.handle_uploaded(peer, bytes, now),
                PeerMessage::Asked => self.engine.handle_upload_requested(peer, now),
                PeerMessage::Event(event) => {
                    if let Err(fault) = self.engine.handle_event(peer, event, now) {
                        if let Some(handle) = self.peers.get(&peer) {
                            tracing::info!(
                                peer = %handle.addr,
                                error = %Causes(&fault),
                                "peer dropped"
                            );
                        }
                        self.disconnect(peer);
                        return;
                    }
                }
            }
        }
    }

    fn on_block(&mut self, peer: PeerKey, arrived: ReceivedBlock, now: Instant) {
        self.busy = true;
        match self
            .engine
            .handle_block(peer, arrived.block, arrived.leaf, now)
        {
            BlockVerdict::Write => {
                if let Some(torrent) = self.torrents.get_mut(&peer.torrent()) {
                    torrent.write(arrived);
                }
            }
            // Dropping it gives its permit back.
            BlockVerdict::Discard(reason) => {
                tracing::trace!(%peer, block = %arrived.block, ?reason, "block discarded");
            }
        }
    }

    fn on_connection_ended(&mut self, ended: Result<(Id, Result<(), PeerError>), JoinError>) {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let Some(peer) = self.connection_keys.remove(&id) else {
            return;
        };
        let handle = self.peers.remove(&peer);
        let addr = handle.as_ref().map(|handle| handle.addr);
        let error = match &ended {
            Ok((_, result)) => result.as_ref().err(),
            Err(_) => None,
        };
        let is_web_seed = self.web_seed_ended(peer, error);
        match ended {
            Ok((_, Err(PeerError::WebSeed(_)))) if is_web_seed => {}
            Ok((_, Ok(()))) => {}
            Ok((_, Err(error @ (PeerError::Closed | PeerError::Socket(_))))) => {
                tracing::debug!(?addr, error = %Causes(&error), "peer gone");
            }
            Ok((_, Err(error))) => {
                tracing::info!(
                    ?addr,
                    error = %Causes(&error),
                    "peer dropped"
                );
            }
            Err(error) => {
                tracing::error!(?addr, %error, "a connection panicked; the peer is dropped");
            }
        }
        if handle.is_some() {
            self.engine.handle_disconnected(peer, Instant::now());
        }
    }

    fn dial(&mut self, torrent: TorrentKey, addr: SocketAddr) {
        let Some(hashes) = self.torrents.get(&torrent).map(|torrent| torrent.hashes) else {
            return;
        };
        let handshake_config = self.policy.handshake_config.clone();
        let task = async move { handshake::dial(&handshake_config, addr, &hashes).await };
        let span = tracing::debug_span!("dial", %addr);
        let task = self.dials.spawn(task.instrument(span));
        self.dial_keys.insert(task.id(), (torrent, addr));
    }

    fn on_dial_ended(&mut self, dialled: Result<(Id, Dialled), JoinError>) {
        let (id, dialled) = match dialled {
            Ok((id, dialled)) => (id, Some(dialled)),
            Err(error) => {
                tracing::error!(%error, "a dial panicked");
                (error.id(), None)
            }
        };
        let Some((torrent, addr)) = self.dial_keys.remove(&id) else {
            return;
        };
        let failure = match dialled {
            Some(Ok(established)) => return self.connected(torrent, established),
            Some(Err(error)) => {
                tracing::debug!(%addr, error = %Causes(&error), "cannot dial");
                error.dial_failure()
            }
            None => DialFailure::Refused,
        };
        self.engine
            .handle_dial_failed(torrent, addr, failure, Instant::now());
    }

    /// Takes a connection whose handshakes are done into service, if the engine wants it.
    fn connected(&mut self, torrent: TorrentKey, established: Established) {
        let (addr, encryption) = (established.addr, established.encryption);
        let connected = Connected {
            addr,
            direction: established.direction,
            peer_id: established.peer_id,
            fast: established.fast,
            extended: established.extended,
            link: established.link,
            local: Scope::of(addr.ip()).is_local(),
        };
        let key = match self
            .engine
            .handle_connected(torrent, connected, Instant::now())
        {
            Ok(key) => key,
            Err(refusal) => {
                tracing::debug!(%addr, %refusal, "connection not wanted");
                return;
            }
        };
        let known = self.torrents.get(&torrent);
        let (mailbox, instructions) = mailbox::mailbox();
        let cancel = self.cancel.child_token();
        let start = Start {
            key,
            info: known.and_then(|torrent| torrent.info.clone()),
            content: known.and_then(|torrent| torrent.content.clone()),
            established,
            instructions,
            throttles: self.policy.limits.throttles(),
            cancel: cancel.clone(),
            context: self.policy.context.clone(),
        };
        tracing::debug!(%addr, peer = %key, ?encryption, "connected");
        let span = tracing::debug_span!("peer", %addr);
        let task = self.connections.spawn(peer::run(start).instrument(span));
        self.connection_keys.insert(task.id(), key);
        let handle = PeerHandle {
            mailbox,
            pending: Vec::new(),
            cancel,
            addr,
            encryption,
        };
        self.peers.insert(key, handle);
    }

    fn tick(&mut self) {
        self.heartbeat.beat_driver();
        for (key, torrent) in &mut self.torrents {
            torrent.publish(self.engine.status(*key));
            torrent.consider_checkpoint(&self.policy.tuning);
        }
        self.consider_web_seeds();
        if !std::mem::take(&mut self.busy) {
            self.policy.context.buffers.clear();
        }
    }

    /// Tells `peers` about a piece that can be served from now on.
    fn announce(&mut self, piece: PieceIndex, peers: Vec<PeerKey>) {
        for peer in peers {
            self.instruct(peer, Instruction::Send(Command::Have(vec![piece])));
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// The ends of a torrent's news that its handles hold.
#[derive(Debug, Clone)]
pub(crate) struct TorrentWatch {
    pub(crate) status: watch::Receiver<crate::TorrentStatus>,
    pub(crate) info: watch::Receiver<Option<Arc<bittorrent_protocol::metainfo::Info>>>,
}
