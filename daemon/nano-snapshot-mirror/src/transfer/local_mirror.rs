//! The mirror that runs on this machine, as a peer of a command that runs once.
//!
//! The search tries, in this order: the configured control socket, the configured HTTP address, and the configured port for peers.
//! Nothing from that mirror is trusted: its content is verified like that of any peer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use serde::Deserialize;
use snapshot_store::DataDir;
use tokio::task::spawn_blocking;
use tracing::debug;

use crate::config::Config;
use crate::kit::control_client as client;

/// The most addresses to take from an answer.
const MOST: usize = 8;

/// Finds a mirror on this machine.
#[derive(Debug, Clone)]
pub(crate) struct LocalMirror {
    control: Option<PathBuf>,
    http: Option<SocketAddr>,
    listen: Vec<SocketAddr>,
    /// Ports at which this command itself accepts peers.
    own: Vec<u16>,
}

/// The part of the report of a mirror that has its addresses.
#[derive(Debug, Deserialize)]
struct Report {
    addresses: Addresses,
}

#[derive(Debug, Deserialize)]
struct Addresses {
    peers: Vec<SocketAddr>,
}

impl LocalMirror {
    /// Reads the addresses to try from the configuration of a command that accepts peers at `own`.
    pub(crate) fn new(config: &Config, data: &DataDir, own: &[SocketAddr]) -> Self {
        Self {
            control: config.control.path(data.root()),
            http: config.http.listen.value.value().and_then(on_this_machine),
            listen: config.peer.listen.value.clone(),
            own: own.iter().map(SocketAddr::port).collect(),
        }
    }

    /// Returns addresses at which a mirror on this machine may accept peers. Queries the mirror on each call, because it may start later.
    pub(crate) async fn peers(&self) -> Vec<SocketAddr> {
        let asked = self.clone();
        // A panic there was printed; then there is no answer.
        let listen = spawn_blocking(move || asked.listen()).await;
        let addresses = listen.unwrap_or_default().into_iter();
        let mut peers: Vec<SocketAddr> = addresses
            .filter_map(on_this_machine)
            .filter(|address| !self.own.contains(&address.port()))
            .take(MOST)
            .collect();
        peers.dedup();
        peers
    }

    fn listen(&self) -> Vec<SocketAddr> {
        let control = self.control.as_ref();
        let by_control = || client::get::<Report>(control?, "/status").ok().flatten();
        let by_http = || client::get_over_tcp::<Report>(self.http?, "/status.json").ok()?;
        match by_control().or_else(by_http) {
            Some(report) => {
                debug!(addresses = ?report.addresses.peers, "found the mirror on this machine");
                report.addresses.peers
            }
            // A mirror may still run: without HTTP, and with a control socket that this user may not use.
            None => self.listen.clone(),
        }
    }
}

/// Returns how this machine itself reaches a listening address; `None` without a port.
fn on_this_machine(address: SocketAddr) -> Option<SocketAddr> {
    let ip = match address.ip() {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) | IpAddr::V4(Ipv4Addr::UNSPECIFIED) => {
            Ipv4Addr::LOCALHOST.into()
        }
        ip => ip,
    };
    (address.port() != 0).then_some(SocketAddr::new(ip, address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unspecified_addresses_are_reached_over_loopback() {
        for (listen, reached) in [
            ("[::]:1", Some("127.0.0.1:1")),
            ("0.0.0.0:2", Some("127.0.0.1:2")),
            ("192.0.2.1:3", Some("192.0.2.1:3")),
            ("[::1]:4", Some("[::1]:4")),
            ("[::]:0", None),
        ] {
            let reached = reached.map(|text| text.parse().unwrap());
            assert_eq!(
                on_this_machine(listen.parse().unwrap()),
                reached,
                "{listen}"
            );
        }
    }

    #[tokio::test]
    async fn without_an_answer_the_configured_port_is_tried_unless_it_is_ours() {
        let local_mirror = |own: &[u16]| LocalMirror {
            control: Some("/nonexistent/control.sock".into()),
            http: None,
            listen: vec!["[::]:6881".parse().unwrap()],
            own: own.to_vec(),
        };
        let peers = local_mirror(&[7]).peers().await;
        assert_eq!(peers, ["127.0.0.1:6881".parse().unwrap()]);
        assert!(local_mirror(&[6881]).peers().await.is_empty());
    }
}
