//! The one task that owns the engine. It turns what connections, disks and callers say into
//! calls of the engine and the engine's outputs into work for them, and never waits for any one
//! of them.

mod asks;
mod ending;
mod outputs;
mod swarms;
mod torrent;
mod web_seeds;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bittorrent_engine::{
    Command, Connected, DialFailure, Engine, PeerKey, Scope, TorrentKey, Verdict,
};
use bittorrent_protocol::PieceIndex;
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::disk::{Disks, Done};
use crate::error::Causes;
use crate::greet::{self, Encryption, GreetError, Manners};
use crate::http::LazyHttp;
use crate::limits::{Buckets, Throttles};
use crate::mailbox;
use crate::peer::{
    self, Arrived, Greeted, Instruction, News, PeerError, Report, Start, Surroundings,
};
use crate::vitals::Vitals;
pub(crate) use asks::{Added, Ask, Prepared};
pub use ending::ShutdownReport;
use swarms::Swarms;
use torrent::Torrent;

/// Reports taken up in one go.
const REPORTS_AT_ONCE: usize = 32;

/// How often statuses are published and checkpoints considered.
const TICK: std::time::Duration = std::time::Duration::from_secs(1);

/// The channels a driver listens to.
#[derive(Debug)]
pub(crate) struct Inputs {
    pub(crate) asks: mpsc::Receiver<Ask>,
    pub(crate) reports: mpsc::Receiver<Report>,
    pub(crate) done: mpsc::Receiver<Done>,
}

/// What a driver is told once.
#[derive(Debug)]
pub(crate) struct Policy {
    pub(crate) manners: Arc<Manners>,
    pub(crate) surroundings: Arc<Surroundings>,
    pub(crate) checkpoint_bytes: u64,
    pub(crate) checkpoint_pause: std::time::Duration,
    pub(crate) checkpoint_interval: std::time::Duration,
    /// Over all torrents.
    pub(crate) limits: Buckets,
    pub(crate) http: Arc<LazyHttp>,
    /// Web seeds are used when peers give fewer bytes a second.
    pub(crate) web_seeds_below: u64,
    pub(crate) web_seed_patience: std::time::Duration,
}

/// The driver's side of a connection.
#[derive(Debug)]
struct Line {
    mailbox: mailbox::Sender<Instruction>,
    /// Instructions of this turn.
    pending: Vec<Instruction>,
    cancel: CancellationToken,
    addr: SocketAddr,
    encryption: Encryption,
}

type Dialled = Result<Greeted, GreetError>;

pub(crate) struct Driver {
    engine: Engine,
    policy: Policy,
    disks: Disks,
    torrents: HashMap<TorrentKey, Torrent>,
    /// All names of all torrents.
    swarms: Swarms,
    lines: HashMap<PeerKey, Line>,
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
    vitals: Vitals,
}

impl Driver {
    pub(crate) fn new(
        engine: Engine,
        policy: Policy,
        disks: Disks,
        cancel: CancellationToken,
        vitals: Vitals,
    ) -> Self {
        Self {
            engine,
            policy,
            disks,
            torrents: HashMap::new(),
            swarms: Swarms::default(),
            lines: HashMap::new(),
            addressed: Vec::new(),
            connections: JoinSet::new(),
            connection_keys: HashMap::new(),
            dials: JoinSet::new(),
            dial_keys: HashMap::new(),
            cancel,
            busy: false,
            web_seeds_named: 0,
            vitals,
        }
    }

    /// Works until cancelled, then brings everything to its end.
    pub(crate) async fn run(mut self, mut inputs: Inputs) -> ShutdownReport {
        let mut clock = tokio::time::interval(TICK);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let cancel = self.cancel.clone();
        let mut reports = Vec::with_capacity(REPORTS_AT_ONCE);
        loop {
            let timeout = self.engine.poll_timeout();
            // No fixed order: under full load one source would starve the others.
            tokio::select! {
                () = cancel.cancelled() => break,
                _ = inputs.reports.recv_many(&mut reports, REPORTS_AT_ONCE) => {
                    for report in reports.drain(..) {
                        self.take_report(report);
                    }
                }
                Some(done) = inputs.done.recv() => {
                    self.take_done(done);
                    while let Ok(done) = inputs.done.try_recv() {
                        self.take_done(done);
                    }
                }
                Some(ask) = inputs.asks.recv() => self.take_ask(ask),
                Some(ended) = self.connections.join_next_with_id(),
                    if !self.connections.is_empty() =>
                {
                    // What it said last is still to be heard.
                    while let Ok(report) = inputs.reports.try_recv() {
                        self.take_report(report);
                    }
                    self.take_ended(ended);
                }
                Some(dialled) = self.dials.join_next_with_id(), if !self.dials.is_empty() => {
                    self.take_dialled(dialled);
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
            self.take_output(output);
        }
        self.deliver();
        self.pump();
    }

    /// Gives the disks what there is to do.
    fn pump(&mut self) {
        for torrent in self.torrents.values_mut() {
            torrent.pump(&self.disks);
        }
        for (_, torrent) in self.torrents.extract_if(|_, torrent| torrent.is_gone()) {
            torrent.bid_farewell();
        }
    }

    fn instruct(&mut self, peer: PeerKey, instruction: Instruction) {
        if let Some(line) = self.lines.get_mut(&peer) {
            if line.pending.is_empty() {
                self.addressed.push(peer);
            }
            line.pending.push(instruction);
        }
    }

    /// Hands over the instructions of this turn, one batch for each connection.
    fn deliver(&mut self) {
        while let Some(peer) = self.addressed.pop() {
            let Some(line) = self.lines.get_mut(&peer) else {
                continue;
            };
            if line.mailbox.send_all(&mut line.pending).is_err() {
                tracing::error!(peer = %line.addr, "the connection does not take instructions");
                self.hang_up(peer);
                self.engine.handle_disconnected(peer, Instant::now());
            }
        }
    }

    /// Ends a connection from our side. The engine is not told.
    fn hang_up(&mut self, peer: PeerKey) {
        if let Some(line) = self.lines.remove(&peer) {
            line.cancel.cancel();
        }
    }

    fn take_report(&mut self, Report { peer, news }: Report) {
        let now = Instant::now();
        for item in news {
            match item {
                News::Block(arrived) => self.take_block(peer, arrived, now),
                News::Uploaded(bytes) => self.engine.handle_uploaded(peer, bytes, now),
                News::Asked => self.engine.handle_asked(peer, now),
                News::Event(event) => {
                    if let Err(fault) = self.engine.handle_event(peer, event, now) {
                        if let Some(line) = self.lines.get(&peer) {
                            tracing::info!(
                                peer = %line.addr,
                                error = %Causes(&fault),
                                "peer dropped"
                            );
                        }
                        self.hang_up(peer);
                        return;
                    }
                }
            }
        }
    }

    fn take_block(&mut self, peer: PeerKey, arrived: Arrived, now: Instant) {
        self.busy = true;
        match self
            .engine
            .handle_block(peer, arrived.block, arrived.leaf, now)
        {
            Verdict::Write => {
                if let Some(torrent) = self.torrents.get_mut(&peer.torrent()) {
                    torrent.write(arrived);
                }
            }
            // Dropping it gives its permit back.
            Verdict::Discard(reason) => {
                tracing::trace!(%peer, block = %arrived.block, ?reason, "block discarded");
            }
        }
    }

    fn take_ended(&mut self, ended: Result<(Id, Result<(), PeerError>), JoinError>) {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let Some(peer) = self.connection_keys.remove(&id) else {
            return;
        };
        let line = self.lines.remove(&peer);
        let addr = line.as_ref().map(|line| line.addr);
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
        if line.is_some() {
            self.engine.handle_disconnected(peer, Instant::now());
        }
    }

    fn dial(&mut self, torrent: TorrentKey, addr: SocketAddr) {
        let Some(hashes) = self.torrents.get(&torrent).map(|torrent| torrent.hashes) else {
            return;
        };
        let manners = self.policy.manners.clone();
        let task = async move { greet::dial(&manners, addr, &hashes).await };
        let span = tracing::debug_span!("dial", %addr);
        let task = self.dials.spawn(task.instrument(span));
        self.dial_keys.insert(task.id(), (torrent, addr));
    }

    fn take_dialled(&mut self, dialled: Result<(Id, Dialled), JoinError>) {
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
            Some(Ok(greeted)) => return self.connected(torrent, greeted),
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
    fn connected(&mut self, torrent: TorrentKey, greeted: Greeted) {
        let (addr, encryption) = (greeted.addr, greeted.encryption);
        let connected = Connected {
            addr,
            direction: greeted.direction,
            peer_id: greeted.peer_id,
            fast: greeted.fast,
            extended: greeted.extended,
            link: greeted.link,
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
            greeted,
            instructions,
            throttles: known
                .map(|torrent| self.throttles(torrent))
                .unwrap_or_default(),
            cancel: cancel.clone(),
            surroundings: self.policy.surroundings.clone(),
        };
        tracing::debug!(%addr, peer = %key, ?encryption, "connected");
        let span = tracing::debug_span!("peer", %addr);
        let task = self.connections.spawn(peer::run(start).instrument(span));
        self.connection_keys.insert(task.id(), key);
        let line = Line {
            mailbox,
            pending: Vec::new(),
            cancel,
            addr,
            encryption,
        };
        self.lines.insert(key, line);
    }

    /// The limits of a connection of a torrent.
    fn throttles(&self, torrent: &Torrent) -> Throttles {
        Throttles::under([&self.policy.limits, &torrent.limits])
    }

    fn tick(&mut self) {
        self.vitals.driver_lives();
        for (key, torrent) in &mut self.torrents {
            torrent.publish(self.engine.status(*key));
            torrent.consider_checkpoint(&self.policy);
        }
        self.consider_web_seeds();
        if !std::mem::take(&mut self.busy) {
            self.policy.surroundings.buffers.clear();
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
pub(crate) struct Views {
    pub(crate) status: watch::Receiver<crate::TorrentStatus>,
    pub(crate) info: watch::Receiver<Option<Arc<bittorrent_protocol::metainfo::Info>>>,
}
