//! The two networks of a mirror or a command: peers over TCP, and the DHT over UDP.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Result;
use bittorrent_protocol::SwarmHash;
use bittorrent_session::{Session, TorrentHandle};
use port_mapping::PortMappingStatus;
use service_kit::sync::lock;
use snapshot_pointer::{Dht as _, MainlineDht};
use snapshot_store::DataDir;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use tracing::{error, info};

use crate::config::{Config, Live, Origin};
use crate::text::Causes;
use crate::transfer::announce::Announcer;
use crate::transfer::dht::{dht_port, save_contacts, start_dht};
use crate::transfer::limits::LimitUpdater;
use crate::transfer::local_mirror::LocalMirror;
use crate::transfer::peer_sources::PeerSources;
use crate::transfer::quota::Allowance;
use crate::transfer::session::{port_mapper, start_session};

/// Time limit for reading the contacts of the DHT node at the end.
const CONTACTS_TIMEOUT: Duration = Duration::from_secs(2);

/// The kind of process that uses the network. Two processes on one machine must not use the same port.
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
    /// Returns whether an address of this origin may be replaced when it is in use.
    pub(super) fn may_replace(&self, origin: Origin) -> bool {
        match (origin, self) {
            (Origin::Default, _) | (Origin::Configured, Self::Once) => true,
            (Origin::Configured, Self::Mirror(_)) | (Origin::Flag, _) => false,
        }
    }
}

/// A running session and DHT node.
pub(crate) struct Network {
    session: Session,
    dht: Arc<MainlineDht>,
    config: watch::Receiver<Arc<Config>>,
    peer_port: u16,
    /// State of the port mapping, if configured.
    port_mapping: Option<watch::Receiver<PortMappingStatus>>,
    /// Whether the DHT is the public one, not one with configured bootstrap nodes.
    public: bool,
    sources: PeerSources,
    tasks: TaskTracker,
    /// How to find a mirror on this machine, for a command that runs once.
    local_mirror: Option<Arc<LocalMirror>>,
    /// Announced torrents, by a serial number.
    torrents: Arc<Mutex<BTreeMap<u64, TorrentHandle>>>,
    next_number: AtomicU64,
    /// How much content the monthly quota allows to upload.
    allowance: watch::Sender<Allowance>,
    stop: CancellationToken,
}

impl Network {
    /// Starts the session and the DHT node.
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
        let local_mirror = once.then(|| Arc::new(LocalMirror::new(&config, data, local)));
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let sources = PeerSources::open(&config, &session, &tasks, &stop);
        let port_mapping = port_mapper(&config, &session).map(|mapper| {
            let status = mapper.status();
            tasks.spawn(mapper.run(stop.clone()));
            status
        });
        let allowance = watch::Sender::new(Allowance::Unlimited);
        let limits = LimitUpdater {
            session: session.handle(),
            config: live.subscribe(),
            allowance: allowance.subscribe(),
        };
        let until = stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = until.cancelled() => {}
                () = limits.run() => {}
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
            tasks,
            local_mirror,
            torrents: Arc::default(),
            next_number: AtomicU64::new(0),
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

    /// Returns the state of the port mapping; `None` if it is not configured.
    pub(crate) fn port_mapping(&self) -> Option<PortMappingStatus> {
        Some(self.port_mapping.as_ref()?.borrow().clone())
    }

    /// Sets how much content may be uploaded from now on.
    pub(crate) fn allow(&self, allowance: Allowance) {
        self.allowance
            .send_if_modified(|now| std::mem::replace(now, allowance) != allowance);
    }

    /// Announces the torrent in `swarms` and adds their peers to it, until the guard is dropped.
    pub(crate) fn announce(&self, torrent: &TorrentHandle, swarms: Vec<SwarmHash>) -> DropGuard {
        let stop = self.stop.child_token();
        if swarms.is_empty() {
            return stop.drop_guard();
        }
        self.sources
            .announce(&self.session, torrent, &swarms, &self.tasks, &stop);
        let announcer = Announcer {
            torrent: torrent.clone(),
            swarms,
            dht: self.dht.clone(),
            config: self.config.clone(),
            local_mirror: self.local_mirror.clone(),
            peer_port: self.peer_port,
        };
        let until = stop.clone();
        let number = self.next_number.fetch_add(1, Ordering::Relaxed);
        let torrents = self.torrents.clone();
        lock(&torrents).insert(number, torrent.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = until.cancelled() => {}
                () = announcer.run() => {}
            }
            lock(&torrents).remove(&number);
        });
        stop.drop_guard()
    }

    /// Returns the announced torrents, each once, oldest first.
    pub(crate) fn torrents(&self) -> Vec<TorrentHandle> {
        let mut found: Vec<TorrentHandle> = Vec::new();
        for torrent in lock(&self.torrents).values() {
            if found.iter().all(|known| known.id().v2 != torrent.id().v2) {
                found.push(torrent.clone());
            }
        }
        found
    }

    /// Stops the session and the DHT node, and writes all received data to disk.
    pub(crate) async fn close(self, data: &DataDir) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        // Contacts from configured bootstrap nodes are useless in the public DHT.
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
