//! The two networks a mirror or a fetch is part of: peers over TCP and the DHT over UDP.

mod pace;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::num::NonZeroU16;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use bittorrent_protocol::SwarmHash;
use bittorrent_session::{
    ConnectionLimits, EngineConfig, RateLimits, Scope, Session, SessionConfig, SessionError,
    SessionHandle, Source, TorrentHandle,
};
use port_mapping::{PortMapper, PortMappingStatus};
use snapshot_pointer::{Dht as _, MainlineDht, NodeSettings, StartError};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{debug, error, info, warn};

use crate::cli::HostPort;
use crate::config::{self, Config, Live, Origin};
use crate::kit::clock::unix_seconds;
use crate::kit::listening;
use crate::kit::quota::Allowance;
use crate::store::data_dir::{DataDir, write_atomically};
use crate::text::Causes;
use crate::transfer::local_mirror::Beside;
use crate::transfer::peer_sources::Sources;
use pace::Pace;

/// How long the DHT node may take to say goodbye.
const CONTACTS_TIMEOUT: Duration = Duration::from_secs(2);

/// What to do when an address for peers cannot be bound.
const ANOTHER_ADDRESS: &str =
    "choose another address or port with peer.listen or --listen ADDR:PORT";

/// What uses the network. Two of them on one machine must not meet at a port.
#[derive(Debug)]
pub(crate) enum Role {
    /// A mirror, with the sockets on which the service manager already listens for peers. Its configured ports are fixed. A default port that is taken is
    /// replaced by any free one, with a warning.
    Mirror(Vec<TcpListener>),
    /// A command that runs once. Configured ports are those of the mirror on this machine, which may start later: its DHT node takes any free
    /// port, and a port for peers that is taken is replaced by any free one. Only a port that a flag gives is fixed.
    Once,
}

impl Role {
    /// Whether an address of this origin may be replaced when it is taken.
    fn may_replace(&self, origin: Origin) -> bool {
        match (origin, self) {
            (Origin::Default, _) | (Origin::Configured, Self::Once) => true,
            (Origin::Configured, Self::Mirror(_)) | (Origin::Flag, _) => false,
        }
    }
}

/// A session and a DHT node, running.
pub(crate) struct Network {
    session: Session,
    dht: Arc<MainlineDht>,
    config: watch::Receiver<Arc<Config>>,
    peer_port: u16,
    /// What came of asking the router for a port, where it is asked.
    port_mapping: Option<watch::Receiver<PortMappingStatus>>,
    /// The DHT is the public one.
    public: bool,
    sources: Sources,
    presences: TaskTracker,
    /// Where a mirror on this machine is found, for a command that runs once.
    beside: Option<Arc<Beside>>,
    /// Those that are attended, by a running number.
    torrents: Arc<Mutex<BTreeMap<u64, TorrentHandle>>>,
    attended: AtomicU64,
    /// How much content may be uploaded now.
    allowance: watch::Sender<Allowance>,
    stop: CancellationToken,
}

impl Network {
    /// Starts both.
    ///
    /// # Errors
    ///
    /// When a port that may not be replaced is taken, or there is no socket at all.
    pub(crate) async fn start(live: &Live, data: &DataDir, role: Role) -> Result<Self> {
        let config = live.config();
        let once = matches!(role, Role::Once);
        let dht_port = dht_port(&config.dht, &role);
        let session = start_session(&config, role).await?;
        let local = session.local_addrs();
        let peer_port = session.announce_port();
        info!(addresses = ?local, "listening for peers");
        let bind = match local.first().map(SocketAddr::ip) {
            Some(IpAddr::V4(ip)) => ip,
            _ => Ipv4Addr::UNSPECIFIED,
        };
        let dht = start_dht(&config.dht, bind, data, dht_port).await?;
        let beside = once.then(|| Arc::new(Beside::new(&config, data, local)));
        let (presences, stop) = (TaskTracker::new(), CancellationToken::new());
        let sources = Sources::open(&config, &session, &presences, &stop);
        let port_mapping = port_mapper(&config, &session).map(|mapper| {
            let status = mapper.status();
            presences.spawn(mapper.run(stop.clone()));
            status
        });
        let allowance = watch::Sender::new(Allowance::Unlimited);
        let limits = Limits {
            session: session.handle(),
            config: live.subscribe(),
            allowance: allowance.subscribe(),
        };
        let until = stop.clone();
        presences.spawn(async move {
            tokio::select! {
                () = until.cancelled() => {}
                () = limits.keep() => {}
            }
        });
        Ok(Self {
            session,
            sources,
            dht: Arc::new(dht),
            config: live.subscribe(),
            peer_port,
            port_mapping,
            public: config.dht.bootstrap.is_empty(),
            presences,
            beside,
            torrents: Arc::default(),
            attended: AtomicU64::new(0),
            allowance,
            stop,
        })
    }

    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    pub(crate) fn dht(&self) -> &Arc<MainlineDht> {
        &self.dht
    }

    /// What came of asking the router for a port; `None` where it is not asked.
    pub(crate) fn port_mapping(&self) -> Option<PortMappingStatus> {
        Some(self.port_mapping.as_ref()?.borrow().clone())
    }

    /// Sets how much content may be uploaded from now on.
    pub(crate) fn allow(&self, allowance: Allowance) {
        self.allowance
            .send_if_modified(|now| std::mem::replace(now, allowance) != allowance);
    }

    /// Makes us known in `swarms` and brings their peers to the torrent, until the guard is
    /// dropped.
    pub(crate) fn attend(&self, torrent: &TorrentHandle, swarms: Vec<SwarmHash>) -> DropGuard {
        let stop = self.stop.child_token();
        if swarms.is_empty() {
            return stop.drop_guard();
        }
        self.sources
            .attend(&self.session, torrent, &swarms, &self.presences, &stop);
        let presence = Presence {
            torrent: torrent.clone(),
            swarms,
            dht: self.dht.clone(),
            config: self.config.clone(),
            beside: self.beside.clone(),
            peer_port: self.peer_port,
        };
        let until = stop.clone();
        let number = self.attended.fetch_add(1, Ordering::Relaxed);
        let torrents = self.torrents.clone();
        lock(&torrents).insert(number, torrent.clone());
        self.presences.spawn(async move {
            tokio::select! {
                () = until.cancelled() => {}
                () = presence.keep() => {}
            }
            lock(&torrents).remove(&number);
        });
        stop.drop_guard()
    }

    /// The torrents in the session, each once, in the order they came.
    pub(crate) fn torrents(&self) -> Vec<TorrentHandle> {
        let mut found: Vec<TorrentHandle> = Vec::new();
        for torrent in lock(&self.torrents).values() {
            if found.iter().all(|known| known.id().v2 != torrent.id().v2) {
                found.push(torrent.clone());
            }
        }
        found
    }

    /// Ends both; what was received is on disk afterwards.
    pub(crate) async fn close(self, data: &DataDir) {
        self.stop.cancel();
        self.presences.close();
        self.presences.wait().await;
        // Those of a network that was named are no start in the public one.
        if self.public
            && let Ok(contacts) = tokio::time::timeout(CONTACTS_TIMEOUT, self.dht.contacts()).await
        {
            save_contacts(data, &contacts);
        }
        let report = self.session.shutdown().await;
        for (snapshot, failure) in &report.failures {
            error!(%snapshot, "{}", Causes(&**failure));
        }
    }
}

/// A panic elsewhere leaves the map as good as it was.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn start_session(config: &Config, role: Role) -> Result<Session> {
    let listen = &config.peer.listen;
    let may_replace = role.may_replace(listen.origin);
    let by_default = listen.origin == Origin::Default;
    let once = matches!(role, Role::Once);
    let inherited = match role {
        Role::Mirror(inherited) => inherited,
        Role::Once => Vec::new(),
    };
    if !inherited.is_empty() {
        let listen = match by_default {
            true => Vec::new(),
            false => listening::remaining(&listen.value, &inherited, "peer.listen")?,
        };
        let config = SessionConfig {
            listeners: inherited,
            ..session_config(config, listen)
        };
        return Session::start(config).await.context(ANOTHER_ADDRESS);
    }
    let mut attempts = vec![listen.value.clone()];
    if by_default {
        // A machine without IPv6 has no `[::]`.
        let ipv4 = |addr: &SocketAddr| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), addr.port());
        attempts.push(listen.value.iter().map(ipv4).collect());
    }
    let wanted = attempts.len();
    if may_replace {
        let any_port = |addr: &SocketAddr| SocketAddr::new(addr.ip(), 0);
        let others: Vec<Vec<SocketAddr>> = attempts
            .iter()
            .map(|addrs| addrs.iter().map(any_port).collect())
            .collect();
        attempts.extend(others);
    }
    let mut first_failure = None;
    for (number, addresses) in attempts.into_iter().enumerate() {
        let replaced = number >= wanted;
        let mut settings = session_config(config, addresses);
        if replaced {
            // The router forwards the configured port to the other process, if to any.
            settings.announce_port = None;
        }
        match Session::start(settings).await {
            Ok(session) => {
                if replaced {
                    say_replaced("TCP", &listen.value, &session.local_addrs(), once);
                }
                return Ok(session);
            }
            Err(error @ SessionError::Bind { .. }) => {
                // The first says what was asked for; `0.0.0.0` after it fails the same way.
                first_failure.get_or_insert(error);
            }
            Err(error) => return Err(error.into()),
        }
    }
    let failure = first_failure.context("no address to listen on")?;
    Err(failure).context(ANOTHER_ADDRESS)
}

/// Logs that another port is used. For a mirror that matters: others, and its firewall, may expect it at the default one.
fn say_replaced(protocol: &str, wanted: &impl Debug, using: &impl Debug, once: bool) {
    if once {
        info!(protocol, ?wanted, ?using, "port in use: using another");
    } else {
        warn!(
            protocol,
            ?wanted,
            ?using,
            "default port in use by another program: using another; choose one with peer.listen or dht.port"
        );
    }
}

fn session_config(config: &Config, listen: Vec<SocketAddr>) -> SessionConfig {
    let (peer, connections) = (&config.peer, connections(config));
    SessionConfig {
        listen,
        accept_paused: true,
        announce_port: peer
            .announce_port
            .and_then(|port| port.get().try_into().ok()),
        engine: EngineConfig {
            max_peers: connections.max_peers,
            max_peers_per_torrent: connections.max_peers_per_torrent,
            max_peers_per_host: connections.max_peers_per_host,
            ..EngineConfig::default()
        },
        rates: rates(config, Allowance::Unlimited),
        encryption: peer.encryption,
        peer_exchange: peer.pex,
        client: concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")).to_owned(),
        ..SessionConfig::default()
    }
}

/// What asks the router for a way in, where that is wanted and peers may come from elsewhere.
fn port_mapper(config: &Config, session: &Session) -> Option<PortMapper> {
    let open = |addr: &&SocketAddr| !addr.ip().is_loopback();
    let listener = session.local_addrs().iter().find(open)?;
    let port = NonZeroU16::new(listener.port())?;
    let told = NonZeroU16::new(session.announce_port())?;
    (config.peer.port_mapping).then(|| PortMapper::new(None, port, told))
}

/// The limits that hold at this moment.
fn rates(config: &Config, allowance: Allowance) -> RateLimits {
    let limits = &config.limits;
    let now = unix_seconds(SystemTime::now());
    let window = limits.schedule.iter().find(|window| window.is_open(now));
    let (upload, download) = window.map_or((None, None), |w| (w.upload, w.download));
    RateLimits {
        upload: allowance.bound(upload.unwrap_or(limits.upload).get()),
        download: download.unwrap_or(limits.download).get(),
    }
}

fn connections(config: &Config) -> ConnectionLimits {
    let peer = &config.peer;
    ConnectionLimits {
        max_peers: peer.max_connections.get() as usize,
        max_peers_per_torrent: peer.max_connections_per_torrent.get() as usize,
        max_peers_per_host: peer.max_connections_per_ip.get() as usize,
        max_half_open: EngineConfig::default().max_half_open,
    }
}

/// How often it is looked whether a window of the schedule opens or closes.
const SCHEDULE_TICK: Duration = Duration::from_secs(15);

/// Carries changed limits into the session.
struct Limits {
    session: SessionHandle,
    config: watch::Receiver<Arc<Config>>,
    allowance: watch::Receiver<Allowance>,
}

impl Limits {
    async fn keep(mut self) {
        let (mut rates_now, mut connections_now) = (None, None);
        let mut clock = tokio::time::interval(SCHEDULE_TICK);
        loop {
            tokio::select! {
                _ = clock.tick() => {}
                Ok(()) = self.config.changed() => {}
                Ok(()) = self.allowance.changed() => {}
            }
            let config = self.config.borrow_and_update().clone();
            let allowance = *self.allowance.borrow_and_update();
            let (rates, connections) = (rates(&config, allowance), connections(&config));
            if rates_now.replace(rates) != Some(rates) {
                self.session.set_rate_limits(rates).await;
            }
            if connections_now.replace(connections) != Some(connections) {
                self.session.limit_connections(connections).await;
            }
        }
    }
}

/// The UDP port of a DHT node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DhtPort {
    /// This one or none; 0 for any free one.
    Fixed(u16),
    /// This one, or any free one with a warning.
    Preferred(u16),
}

/// Returns the port for the DHT node of a mirror or of a command that runs once.
pub(crate) fn dht_port(config: &config::Dht, role: &Role) -> DhtPort {
    let port = config.port.value;
    match (config.port.origin, role) {
        (Origin::Default, Role::Mirror(_)) => DhtPort::Preferred(port),
        (Origin::Configured, Role::Mirror(_)) | (Origin::Flag, _) => DhtPort::Fixed(port),
        // The mirror's, even while it does not run.
        (Origin::Default | Origin::Configured, Role::Once) => DhtPort::Fixed(0),
    }
}

/// Starts a DHT node on `bind` and `port`.
///
/// # Errors
///
/// When there is no socket for it; the text names the key for another port.
pub(crate) async fn start_dht(
    config: &config::Dht,
    bind: Ipv4Addr,
    data: &DataDir,
    port: DhtPort,
) -> Result<MainlineDht> {
    // The contacts of the last run are of the public network, or of the one named then.
    let contacts = if config.bootstrap.is_empty() {
        load_contacts(data)
    } else {
        Vec::new()
    };
    let (DhtPort::Fixed(number) | DhtPort::Preferred(number)) = port;
    let settings = NodeSettings {
        port: number,
        bind_address: bind,
        bootstrap: config.bootstrap.iter().map(HostPort::to_string).collect(),
        contacts,
        ..NodeSettings::default()
    };
    let in_use = |error: &StartError| matches!(error, StartError::Bind { source, .. } if source.kind() == ErrorKind::AddrInUse);
    match MainlineDht::start(settings.clone()).await {
        Err(error) if in_use(&error) && matches!(port, DhtPort::Preferred(_)) => {
            let any = NodeSettings {
                port: 0,
                ..settings
            };
            let dht = MainlineDht::start(any).await?;
            let using = dht.status().await.map(|status| status.local_addr.port());
            say_replaced("UDP", &number, &using, false);
            Ok(dht)
        }
        Err(error) => Err(error).context("choose another port with dht.port or --dht-port"),
        Ok(dht) => Ok(dht),
    }
}

fn load_contacts(data: &DataDir) -> Vec<SocketAddr> {
    let text = std::fs::read_to_string(data.dht_nodes()).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

fn save_contacts(data: &DataDir, contacts: &[SocketAddr]) {
    if contacts.is_empty() {
        return;
    }
    let lines: String = contacts
        .iter()
        .map(|contact| format!("{contact}\n"))
        .collect();
    // Only a slower start depends on it.
    if let Err(error) = write_atomically(&data.dht_nodes(), lines.as_bytes()) {
        warn!("DHT contacts are not kept: {error:#}");
    }
}

/// One torrent's standing search for peers.
struct Presence {
    torrent: TorrentHandle,
    swarms: Vec<SwarmHash>,
    dht: Arc<MainlineDht>,
    config: watch::Receiver<Arc<Config>>,
    beside: Option<Arc<Beside>>,
    peer_port: u16,
}

impl Presence {
    async fn keep(&self) {
        let mut pace = Pace::default();
        let mut config = self.config.clone();
        loop {
            let seed_peers = config.borrow_and_update().seed_peers.clone();
            if let Some(beside) = &self.beside {
                self.torrent.add_peers(&beside.peers().await).await;
            }
            self.ask_seed_peers(&seed_peers).await;
            for swarm in &self.swarms {
                self.ask_dht(*swarm).await;
            }
            pace.searched(&self.torrent.status());
            tokio::select! {
                () = self.until_due(&mut pace) => {}
                // A reload: there are others to ask.
                Ok(_) = config.wait_for(|config| config.seed_peers != seed_peers) => {}
            }
        }
    }

    /// Waits until it is time to search again.
    async fn until_due(&self, pace: &mut Pace) {
        let mut clock = tokio::time::interval(pace::TICK);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        clock.tick().await;
        loop {
            clock.tick().await;
            if pace.is_due(&self.torrent.status()) {
                return;
            }
        }
    }

    async fn ask_seed_peers(&self, seed_peers: &[HostPort]) {
        for peer in seed_peers {
            match peer.resolve().await {
                Ok(addresses) => self.torrent.add_peers(&addresses).await,
                Err(error) => warn!(%peer, %error, "cannot resolve a seed peer"),
            }
        }
    }

    /// Announces us, which also finds who else is there. Where no node takes the announcement the
    /// search alone may still find somebody.
    async fn ask_dht(&self, swarm: SwarmHash) {
        let peers = match self.dht.announce(swarm, self.peer_port).await {
            Ok(peers) => peers,
            Err(error) => {
                debug!(%swarm, %error, "not announced");
                self.dht.get_peers(swarm).await.unwrap_or_default()
            }
        };
        debug!(%swarm, peers = peers.len(), "asked the DHT for peers");
        // The public network names no private addresses; one that was joined by them may.
        let joined = self.dht.joined_by().into_iter();
        let scope = joined.map(|ip| Scope::of(ip.into())).min();
        let scope = scope.unwrap_or(Scope::World);
        self.torrent
            .add_peers_from(&peers, Source::Dht, scope)
            .await;
    }
}
