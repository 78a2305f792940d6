//! Local Service Discovery (BEP 14): announces our swarms to the local network and receives the
//! announcements of others.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bittorrent_engine::{Scope, Source};
use bittorrent_protocol::SwarmHash;
use bittorrent_protocol::local::{
    LOCAL_GROUP_V4, LOCAL_GROUP_V6, LOCAL_PORT, LocalSearch, MAX_SEARCH_LEN,
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::error::Causes;
use crate::handle::TorrentHandle;
use crate::transport::handshake;

/// Interval of announcements, as in BEP 14.
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(5 * 60);

/// Shortest time between two rounds, however often torrents are added.
const MIN_PAUSE: Duration = Duration::from_secs(5);

/// Received datagrams that are parsed in a second.
const MAX_DATAGRAMS_PER_SECOND: u32 = 50;

/// Interface and port of the discovery.
#[derive(Debug, Clone, Copy)]
pub struct LocalDiscoveryConfig {
    /// Local address in the network to search, if there are several. By default the system chooses,
    /// and only then IPv6 is searched too.
    pub interface: Ipv4Addr,
    /// UDP port that all clients use. Default 6771.
    pub port: u16,
}

impl Default for LocalDiscoveryConfig {
    fn default() -> Self {
        Self {
            interface: Ipv4Addr::UNSPECIFIED,
            port: LOCAL_PORT,
        }
    }
}

type Swarms = Mutex<HashMap<SwarmHash, TorrentHandle>>;

/// Finds peers in the local network.
#[derive(Debug)]
pub struct LocalDiscovery {
    sockets: Vec<(UdpSocket, SocketAddr)>,
    peer_port: u16,
    cookie: String,
    registry: LocalRegistry,
}

/// The torrents to announce. Clones share the registry.
#[derive(Debug, Clone, Default)]
pub struct LocalRegistry {
    swarms: Arc<Swarms>,
    changed: Arc<Notify>,
}

/// A torrent in the registry; dropping this removes it.
#[derive(Debug)]
pub struct LocalRegistration {
    registry: LocalRegistry,
    swarms: Vec<SwarmHash>,
}

impl LocalRegistry {
    /// Announces a torrent under all these names until the registration is dropped. Not for private
    /// torrents (BEP 27).
    pub fn register(&self, torrent: &TorrentHandle, swarms: &[SwarmHash]) -> LocalRegistration {
        let named = swarms.iter().map(|swarm| (*swarm, torrent.clone()));
        self.swarms().extend(named);
        self.changed.notify_one();
        LocalRegistration {
            registry: self.clone(),
            swarms: swarms.to_vec(),
        }
    }

    fn swarms(&self) -> std::sync::MutexGuard<'_, HashMap<SwarmHash, TorrentHandle>> {
        // No code panics while it has the lock.
        self.swarms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LocalRegistration {
    fn drop(&mut self) {
        let mut swarms = self.registry.swarms();
        for swarm in &self.swarms {
            swarms.remove(swarm);
        }
    }
}

impl LocalDiscovery {
    /// Opens the sockets. `peer_port` is our port for peers. Fails if neither family can be used.
    pub fn open(config: LocalDiscoveryConfig, peer_port: u16) -> io::Result<Self> {
        let v4 = open_v4(config);
        let v6 = if config.interface.is_unspecified() {
            open_v6(config.port).ok()
        } else {
            None
        };
        let sockets = match (v4, v6) {
            (Ok(v4), v6) => std::iter::once(v4).chain(v6).collect(),
            (Err(_), Some(v6)) => vec![v6],
            (Err(error), None) => return Err(error),
        };
        let mut cookie = [0; 8];
        getrandom::fill(&mut cookie)?;
        Ok(Self {
            sockets,
            peer_port,
            cookie: format!("{:016x}", u64::from_be_bytes(cookie)),
            registry: LocalRegistry::default(),
        })
    }

    /// Returns the registry.
    pub fn registry(&self) -> LocalRegistry {
        self.registry.clone()
    }

    /// Announces and listens until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.announce() => {}
            () = self.listen() => {}
        }
    }

    async fn announce(&self) {
        let mut clock = tokio::time::interval(ANNOUNCE_INTERVAL);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = clock.tick() => {}
                () = self.registry.changed.notified() => clock.reset(),
            }
            let swarms: Vec<SwarmHash> = self.registry.swarms().keys().copied().collect();
            // One swarm in each datagram: not every client reads more.
            for swarm in swarms {
                let search = LocalSearch {
                    port: self.peer_port,
                    swarms: vec![swarm],
                    cookie: Some(self.cookie.clone()),
                };
                for (socket, group) in &self.sockets {
                    let text = search.encode(*group);
                    if let Err(error) = socket.send_to(text.as_bytes(), group).await {
                        tracing::debug!(%group, error = %Causes(&error), "cannot announce in the local network");
                    }
                }
            }
            tokio::time::sleep(MIN_PAUSE).await;
        }
    }

    async fn listen(&self) {
        let (mut second, mut received) = (Instant::now(), 0);
        loop {
            let mut datagram = [0; MAX_SEARCH_LEN];
            let (read, from) = self.next_datagram(&mut datagram).await;
            if second.elapsed() >= Duration::from_secs(1) {
                (second, received) = (Instant::now(), 0);
            }
            received += 1;
            if received > MAX_DATAGRAMS_PER_SECOND {
                continue;
            }
            let mut peer = handshake::canonical(from);
            // A link-local address is valid on its link only.
            if let (SocketAddr::V6(peer), SocketAddr::V6(from)) = (&mut peer, from) {
                peer.set_scope_id(from.scope_id());
            }
            let search = LocalSearch::decode(datagram.get(..read).unwrap_or_default());
            // Ignores senders outside the local network.
            let Some(search) = search.filter(|_| Scope::of(peer.ip()).is_local()) else {
                continue;
            };
            if search.cookie.as_ref() == Some(&self.cookie) {
                continue;
            }
            let torrents: Vec<TorrentHandle> = {
                let ours = self.registry.swarms();
                let common = search.swarms.iter().filter_map(|swarm| ours.get(swarm));
                common.cloned().collect()
            };
            peer.set_port(search.port);
            for torrent in torrents {
                tracing::debug!(%peer, "found a peer in the local network");
                let scope = Scope::of(peer.ip());
                torrent.add_peers_from(&[peer], Source::Lan, scope).await;
            }
        }
    }

    async fn next_datagram(&self, buffer: &mut [u8; MAX_SEARCH_LEN]) -> (usize, SocketAddr) {
        loop {
            let (first, second) = match self.sockets.as_slice() {
                [(first, _), (second, _)] => (first, second),
                [(only, _)] => (only, only),
                _ => return std::future::pending().await,
            };
            let socket = tokio::select! {
                _ = first.readable() => first,
                _ = second.readable() => second,
            };
            match socket.try_recv_from(buffer) {
                Ok(read) => return read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    tracing::debug!(error = %Causes(&error), "cannot receive announcements");
                    tokio::time::sleep(MIN_PAUSE).await;
                }
            }
        }
    }
}

fn socket(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    // Other clients on this host listen on the same port.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn open_v4(config: LocalDiscoveryConfig) -> io::Result<(UdpSocket, SocketAddr)> {
    let socket = socket(Domain::IPV4)?;
    // A socket bound to the group receives nothing else.
    let group = SocketAddr::from((LOCAL_GROUP_V4, config.port));
    socket.bind(&group.into())?;
    socket.join_multicast_v4(&LOCAL_GROUP_V4, &config.interface)?;
    if !config.interface.is_unspecified() {
        socket.set_multicast_if_v4(&config.interface)?;
    }
    socket.set_multicast_loop_v4(true)?;
    Ok((UdpSocket::from_std(socket.into())?, group))
}

fn open_v6(port: u16) -> io::Result<(UdpSocket, SocketAddr)> {
    let socket = socket(Domain::IPV6)?;
    socket.set_only_v6(true)?;
    let group = SocketAddr::new(IpAddr::V6(LOCAL_GROUP_V6), port);
    socket.bind(&group.into())?;
    socket.join_multicast_v6(&LOCAL_GROUP_V6, 0)?;
    socket.set_multicast_loop_v6(true)?;
    Ok((UdpSocket::from_std(socket.into())?, group))
}
