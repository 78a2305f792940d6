//! A small DHT inside this process, on the loopback interface: for tests and demonstrations.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mainline::async_dht::AsyncDht;

use super::StartError;
use super::mainline_node::{NodeSettings, build};

/// Server nodes of `mainline` on 127.0.0.1, on ports chosen by the system. They know only each
/// other, and stop when this value is dropped.
///
/// Other DHT implementations cannot join: these nodes ignore queries whose transaction id has not
/// four bytes.
#[derive(Debug)]
pub struct LoopbackDht {
    nodes: Vec<(SocketAddrV4, AsyncDht)>,
}

impl LoopbackDht {
    /// Starts `count` nodes and waits until they know each other. With 20 or fewer, each node is
    /// among the nearest to each target and stores each item. The network does not grow: `mainline`
    /// nodes only contact addresses they were given.
    ///
    /// # Errors
    ///
    /// [`StartError::Bind`].
    pub async fn start(count: usize) -> Result<Self, StartError> {
        let mut attempts = 1;
        let nodes = loop {
            match start_nodes(count) {
                Err(StartError::Bind { .. }) if attempts < MAX_ATTEMPTS => attempts += 1,
                result => break result?,
            }
        };
        // Twice, because the first may join a query that began before the last nodes started.
        for _ in 0..2 {
            join_all(nodes.iter().map(|(_, node)| node.bootstrapped())).await;
        }
        Ok(Self { nodes })
    }

    /// Returns the nodes' addresses, oldest first.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes
            .iter()
            .map(|(address, _)| SocketAddr::V4(*address))
            .collect()
    }

    /// Returns the nodes' addresses as text, for bootstrap lists.
    pub fn bootstrap(&self) -> Vec<String> {
        self.addresses().iter().map(ToString::to_string).collect()
    }

    /// Returns the settings of a node that joins only this network.
    pub fn client_settings(&self) -> NodeSettings {
        NodeSettings {
            port: 0,
            bind_address: Ipv4Addr::LOCALHOST,
            bootstrap: self.bootstrap(),
            request_timeout: REQUEST_TIMEOUT,
            ..NodeSettings::default()
        }
    }

    /// Stops the `count` oldest nodes, with all they stored, and waits until their ports are free.
    pub async fn stop_oldest(&mut self, count: usize) {
        let stopped: Vec<_> = self
            .nodes
            .drain(..count.min(self.nodes.len()))
            .map(|(address, _)| address)
            .collect();
        // Only the free port shows that a node's thread has ended.
        let deadline = Instant::now() + Duration::from_secs(10);
        for address in stopped {
            while UdpSocket::bind(address).is_err() && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

/// Nodes on loopback answer at once; only a stopped node uses the whole time.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(500);

/// Another process can take a port between its reservation and its use.
const MAX_ATTEMPTS: u32 = 5;

fn start_nodes(count: usize) -> Result<Vec<(SocketAddrV4, AsyncDht)>, StartError> {
    let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    let failed = |source| StartError::Bind {
        address: any,
        source,
    };
    // Each node starts from all others. A node without any would take each querying client for a
    // node and pass its address on. So all addresses are chosen first.
    let mut reserved = Vec::new();
    let mut addresses = Vec::new();
    for _ in 0..count {
        let socket = UdpSocket::bind(any).map_err(failed)?;
        if let SocketAddr::V4(address) = socket.local_addr().map_err(failed)? {
            addresses.push(address);
        }
        reserved.push(socket);
    }
    let mut nodes = Vec::new();
    for (socket, address) in reserved.into_iter().zip(&addresses) {
        let others: Vec<_> = addresses.iter().filter(|a| *a != address).collect();
        let mut builder = mainline::Dht::builder();
        builder
            .server_mode()
            .bind_address(Ipv4Addr::LOCALHOST)
            .port(address.port())
            .bootstrap(&others)
            .request_timeout(REQUEST_TIMEOUT);
        drop(socket);
        nodes.push((*address, build(&builder, *address)?));
    }
    Ok(nodes)
}
