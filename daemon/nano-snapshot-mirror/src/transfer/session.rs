//! Starts the BitTorrent session on the configured addresses, or on the sockets from the service manager.

use std::fmt::Debug;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;

use anyhow::{Context as _, Result};
use bittorrent_session::{EngineConfig, Session, SessionConfig, SessionError};
use port_mapping::PortMapper;
use service_kit::listening;
use tracing::{info, warn};

use crate::config::{Config, Origin};
use crate::transfer::limits::{connection_limits, rate_limits};
use crate::transfer::network::Role;
use crate::transfer::quota::Allowance;

/// The remedy when an address for peers cannot be bound.
const ANOTHER_ADDRESS: &str =
    "choose another address or port with peer.listen or --listen ADDR:PORT";

/// Starts the session. A port that may be replaced and is in use is replaced by any free one.
///
/// # Errors
///
/// When no address can be bound; the text names the key for another one.
pub(super) async fn start_session(config: &Config, role: Role) -> Result<Session> {
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
            // If the router forwards the configured port, then to the process that uses it.
            settings.announce_port = None;
        }
        match Session::start(settings).await {
            Ok(session) => {
                if replaced {
                    log_replaced_port("TCP", &listen.value, &session.local_addrs(), once);
                }
                return Ok(session);
            }
            Err(error @ SessionError::Bind { .. }) => {
                // The first error names the configured address; `0.0.0.0` fails the same way.
                first_failure.get_or_insert(error);
            }
            Err(error) => return Err(error.into()),
        }
    }
    let failure = first_failure.context("no address to listen on")?;
    Err(failure).context(ANOTHER_ADDRESS)
}

/// Logs that another port is used. Warns for a mirror: peers and its firewall may expect the default port.
pub(super) fn log_replaced_port(
    protocol: &str,
    wanted: &impl Debug,
    using: &impl Debug,
    once: bool,
) {
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
    let (peer, connections) = (&config.peer, connection_limits(config));
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
        rates: rate_limits(config, Allowance::Unlimited),
        encryption: peer.encryption,
        peer_exchange: peer.pex,
        client: concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION")).to_owned(),
        ..SessionConfig::default()
    }
}

/// Returns the port mapper, if it is configured and a listening address is not loopback.
pub(super) fn port_mapper(config: &Config, session: &Session) -> Option<PortMapper> {
    let open = |addr: &&SocketAddr| !addr.ip().is_loopback();
    let listener = session.local_addrs().iter().find(open)?;
    let port = NonZeroU16::new(listener.port())?;
    let announced = NonZeroU16::new(session.announce_port())?;
    (config.peer.port_mapping).then(|| PortMapper::new(None, port, announced))
}
