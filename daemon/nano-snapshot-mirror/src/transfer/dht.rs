//! Starts the DHT node, and saves its contacts for the next start.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result};
use file_kit::fs::write_atomically;
use snapshot_pointer::{MainlineDht, NodeSettings, StartError};
use snapshot_store::DataDir;
use tracing::warn;

use crate::config::HostPort;
use crate::config::{self, Origin};
use crate::text::Causes;
use crate::transfer::network::Role;
use crate::transfer::session::log_replaced_port;

/// The UDP port of a DHT node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DhtPort {
    /// This port, or an error; 0 for any free port.
    Fixed(u16),
    /// This port, or any free one with a warning.
    Preferred(u16),
}

/// Returns the port for the DHT node of a mirror or of a command that runs once.
pub(crate) fn dht_port(config: &config::Dht, role: &Role) -> DhtPort {
    let port = config.port.value;
    match (config.port.origin, role) {
        (Origin::Default, Role::Mirror(_)) => DhtPort::Preferred(port),
        (Origin::Configured, Role::Mirror(_)) | (Origin::Flag, _) => DhtPort::Fixed(port),
        // The configured port is reserved for the mirror, even while it does not run.
        (Origin::Default | Origin::Configured, Role::Once) => DhtPort::Fixed(0),
    }
}

/// Starts a DHT node on `bind` and `port`.
///
/// # Errors
///
/// When the port cannot be bound; the text names the key for another port.
pub(crate) async fn start_dht(
    config: &config::Dht,
    bind: Ipv4Addr,
    data: &DataDir,
    port: DhtPort,
) -> Result<MainlineDht> {
    // Saved contacts belong to the public DHT or to the bootstrap nodes of the last run.
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
            log_replaced_port("UDP", &number, &using, false);
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

pub(super) fn save_contacts(data: &DataDir, contacts: &[SocketAddr]) {
    if contacts.is_empty() {
        return;
    }
    let lines: String = contacts
        .iter()
        .map(|contact| format!("{contact}\n"))
        .collect();
    // Without them the next start is only slower.
    if let Err(error) = write_atomically(&data.dht_nodes(), lines.as_bytes()) {
        warn!("cannot save DHT contacts: {}", Causes(&error));
    }
}
