//! The task that owns the engine.
//!
//! It turns the messages of connections, the results of the disks and the commands of callers into calls
//! of the engine, and the engine's outputs into work for them. It waits for none of them.

mod commands;
mod connections;
mod dials;
mod outputs;
mod swarms;
mod torrent;
mod web_seeds;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bittorrent_engine::{BlockVerdict, Connected, Engine, Output, PeerKey, Scope, TorrentKey};
use bittorrent_protocol::MerkleHash;
use bittorrent_protocol::metainfo::Info;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::config::Tuning;
use crate::disk::{DiskQueues, FinishedJob, ReceivedBlock};
use crate::error::Causes;
use crate::heartbeat::Heartbeat;
use crate::http::LazyHttpClient;
use crate::link::{PeerBatch, PeerContext, PeerMessage};
use crate::peer::{self, PeerError};
use crate::status::{ShutdownReport, TorrentStatus};
use crate::transport::handshake::{Established, HandshakeConfig};
use crate::transport::rate_limit::Buckets;
pub(crate) use commands::{AddedTorrent, PreparedStore, SessionCommand};
use connections::{Connections, LinkError, TaskResult};
use dials::{Dials, EndedDial};
use swarms::SwarmRegistry;
use torrent::Torrent;

/// Batches that are handled in one turn.
const BATCHES_AT_ONCE: usize = 32;

/// How often statuses are published and checkpoints considered.
const TICK: Duration = Duration::from_secs(1);

/// The channels from which a driver receives.
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

/// The receivers of a torrent's status and metadata that its handles have.
#[derive(Debug, Clone)]
pub(crate) struct TorrentWatch {
    pub(crate) status: watch::Receiver<TorrentStatus>,
    pub(crate) info: watch::Receiver<Option<Arc<Info>>>,
}

/// The state of the task.
pub(crate) struct Driver {
    engine: Engine,
    policy: Policy,
    disks: DiskQueues,
    torrents: HashMap<TorrentKey, Torrent>,
    /// All names of all torrents.
    swarms: SwarmRegistry,
    connections: Connections,
    dials: Dials,
    cancel: CancellationToken,
    /// Whether payload has arrived since the last tick.
    busy: bool,
    /// Web seeds that were ever added; numbers their addresses.
    web_seeds_added: u32,
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
            disks,
            torrents: HashMap::new(),
            swarms: SwarmRegistry::default(),
            connections: Connections::new(policy.context.clone(), cancel.clone()),
            dials: Dials::new(policy.handshake_config.clone()),
            policy,
            cancel,
            busy: false,
            web_seeds_added: 0,
            heartbeat,
        }
    }

    /// Runs until cancelled, then ends all connections and makes all content durable.
    pub(crate) async fn run(mut self, mut inputs: Inputs) -> ShutdownReport {
        let mut clock = tokio::time::interval(TICK);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let cancel = self.cancel.clone();
        let mut batches = Vec::with_capacity(BATCHES_AT_ONCE);
        loop {
            let timeout = self.engine.poll_timeout();
            // In random order: under full load one source would starve the others.
            tokio::select! {
                () = cancel.cancelled() => break,
                _ = inputs.batches.recv_many(&mut batches, BATCHES_AT_ONCE) => {
                    for batch in batches.drain(..) {
                        self.on_peer_batch(batch);
                    }
                }
                Some(done) = inputs.done.recv() => {
                    self.on_job_done(done);
                    while let Ok(done) = inputs.done.try_recv() {
                        self.on_job_done(done);
                    }
                }
                Some(command) = inputs.commands.recv() => self.on_command(command),
                Some(ended) = self.connections.join_next() => {
                    // The connection's last batch may still be queued.
                    while let Ok(batch) = inputs.batches.try_recv() {
                        self.on_peer_batch(batch);
                    }
                    self.on_connection_ended(ended);
                }
                Some(ended) = self.dials.join_next() => self.on_dial_ended(ended),
                () = sleep_until(timeout) => self.engine.handle_timeout(Instant::now()),
                _ = clock.tick() => self.tick(),
            }
            self.process_outputs();
        }
        self.shut_down(inputs).await
    }

    /// Ends all connections, then writes what is queued and makes it durable.
    async fn shut_down(mut self, mut inputs: Inputs) -> ShutdownReport {
        let mut report = ShutdownReport {
            connections: self.connections.open(),
            tasks: self.connections.tasks() + self.dials.len(),
            ..ShutdownReport::default()
        };
        self.dials.shutdown().await;
        // The connections' tokens are cancelled with ours. Closing the channel ends their waits for room in it.
        inputs.batches.close();
        while let Some(ended) = self.connections.join_next().await {
            self.on_connection_ended(ended);
        }
        inputs.commands.close();
        self.drain_disks(&mut inputs).await;
        for torrent in self.torrents.values_mut() {
            torrent.demand_checkpoint();
        }
        self.drain_disks(&mut inputs).await;
        for torrent in self.torrents.values() {
            match torrent.error() {
                Some(error) => report.failures.push((torrent.hashes.v2, error.clone())),
                None => report.torrents += 1,
            }
        }
        report
    }

    /// Waits until the disk threads have finished all jobs.
    async fn drain_disks(&mut self, inputs: &mut Inputs) {
        loop {
            while let Some(output) = self.engine.poll_output() {
                // All peers have left, and none is dialled again.
                if !matches!(output, Output::Dial { .. } | Output::Send { .. }) {
                    self.apply_output(output);
                }
            }
            self.submit_jobs();
            if !self.torrents.values().any(|torrent| torrent.is_busy()) {
                return;
            }
            match inputs.done.recv().await {
                Some(done) => self.on_job_done(done),
                None => return,
            }
        }
    }

    /// Applies what the engine decided after an event.
    fn process_outputs(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            self.apply_output(output);
        }
        for peer in self.connections.deliver() {
            self.engine.handle_disconnected(peer, Instant::now());
        }
        self.submit_jobs();
    }

    /// Submits queued jobs to the disk threads.
    fn submit_jobs(&mut self) {
        for torrent in self.torrents.values_mut() {
            torrent.submit_jobs(&self.disks);
        }
        for (_, torrent) in self.torrents.extract_if(|_, torrent| torrent.is_gone()) {
            torrent.notify_removed();
        }
    }

    fn on_peer_batch(&mut self, PeerBatch { peer, messages }: PeerBatch) {
        let now = Instant::now();
        for message in messages {
            match message {
                PeerMessage::Block(block, leaf) => self.on_block(peer, block, leaf, now),
                PeerMessage::Uploaded(bytes) => self.engine.handle_uploaded(peer, bytes, now),
                PeerMessage::HasRequests => self.engine.handle_upload_requested(peer, now),
                PeerMessage::Event(event) => {
                    if let Err(fault) = self.engine.handle_event(peer, event, now) {
                        if let Some(addr) = self.connections.addr(peer) {
                            tracing::info!(
                                peer = %addr,
                                error = %Causes(&fault),
                                "disconnecting a peer that violated the protocol"
                            );
                        }
                        self.connections.disconnect(peer);
                        return;
                    }
                }
            }
        }
    }

    fn on_block(&mut self, peer: PeerKey, received: ReceivedBlock, leaf: MerkleHash, now: Instant) {
        self.busy = true;
        match self.engine.handle_block(peer, received.block, leaf, now) {
            BlockVerdict::Write => {
                if let Some(torrent) = self.torrents.get_mut(&peer.torrent()) {
                    torrent.write(received);
                }
            }
            // Dropping the block releases its permit.
            BlockVerdict::Discard(reason) => {
                tracing::trace!(%peer, block = %received.block, ?reason, "block discarded");
            }
        }
    }

    fn on_connection_ended(&mut self, ended: TaskResult) {
        let Some(ended) = self.connections.remove_ended(ended) else {
            return;
        };
        let (peer, addr) = (ended.peer, ended.addr);
        let is_web_seed = self.on_web_seed_ended(peer, ended.result.as_ref().ok());
        match ended.result {
            Ok(Ok(())) => {}
            Ok(Err(LinkError::WebSeed(_))) if is_web_seed => {}
            Ok(Err(LinkError::Peer(error @ (PeerError::Closed | PeerError::Socket(_))))) => {
                tracing::debug!(?addr, error = %Causes(&error), "connection closed");
            }
            Ok(Err(error)) => {
                tracing::info!(?addr, error = %Causes(&error), "connection failed");
            }
            Err(error) => {
                tracing::error!(?addr, %error, "the task of a connection panicked; it is closed");
            }
        }
        if addr.is_some() {
            self.engine.handle_disconnected(peer, Instant::now());
        }
    }

    fn on_dial_ended(&mut self, ended: EndedDial) {
        match ended.result {
            Ok(established) => self.on_connected(ended.torrent, established),
            Err(failure) => {
                self.engine
                    .handle_dial_failed(ended.torrent, ended.addr, failure, Instant::now());
            }
        }
    }

    /// Starts the task of a connection whose handshakes are done, if the engine accepts the peer.
    fn on_connected(&mut self, torrent: TorrentKey, established: Established) {
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
                tracing::debug!(%addr, %refusal, "connection refused");
                return;
            }
        };
        let known = self.torrents.get(&torrent);
        let info = known.and_then(|torrent| torrent.info.clone());
        let content = known.and_then(|torrent| torrent.content.clone());
        tracing::debug!(%addr, peer = %key, ?encryption, "connected");
        let span = tracing::debug_span!("peer", %addr);
        let throttles = self.policy.limits.throttles();
        self.connections
            .start(key, (addr, encryption), throttles, span, |link| {
                let start = peer::Start {
                    link,
                    established,
                    info,
                    content,
                };
                async { peer::run(start).await.map_err(LinkError::Peer) }
            });
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
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
