//! A small DHT inside this process, on the loopback interface: for tests and demonstrations.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use mainline::async_dht::AsyncDht;

use crate::dht::StartError;
use crate::mainline_node::NodeSettings;

/// Server nodes of `mainline` on 127.0.0.1, on ports the system chose, which know each other and
/// nobody else. They stop when this is dropped.
///
/// Other DHT implementations cannot join: these nodes ignore queries whose transaction id has not
/// four bytes.
#[derive(Debug)]
pub struct LoopbackDht {
    nodes: Vec<(SocketAddrV4, AsyncDht)>,
}

impl LoopbackDht {
    /// Starts `count` nodes and waits until they know each other. With 20 or fewer, every node is
    /// among the nearest to every target and stores every item. A network does not grow: `mainline`
    /// nodes only meet those whose address they are given.
    ///
    /// # Errors
    ///
    /// [`StartError::Bind`].
    pub async fn start(count: usize) -> Result<Self, StartError> {
        // Every node starts from all others: one without any takes whoever asks it for a node, even
        // mere clients, and passes them on to be asked in vain. So all addresses come first.
        let mut reserved = Vec::new();
        for _ in 0..count {
            reserved.push(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).map_err(bind_error(0))?);
        }
        let mut addresses = Vec::new();
        for socket in &reserved {
            if let SocketAddr::V4(address) = socket.local_addr().map_err(bind_error(0))? {
                addresses.push(address);
            }
        }
        let mut nodes = Vec::new();
        for (socket, address) in reserved.into_iter().zip(&addresses) {
            let others: Vec<_> = addresses.iter().filter(|a| *a != address).collect();
            // From here to the next line somebody else could take the port; that is an error then.
            drop(socket);
            let node = mainline::Dht::builder()
                .server_mode()
                .bind_address(Ipv4Addr::LOCALHOST)
                .port(address.port())
                .bootstrap(&others)
                .request_timeout(REQUEST_TIMEOUT)
                .build()
                .map_err(bind_error(address.port()))?
                .as_async();
            nodes.push((*address, node));
        }
        // Now that all are there: the early ones have not met the late ones.
        join_all(nodes.iter().map(|(_, node)| node.bootstrapped())).await;
        Ok(Self { nodes })
    }

    /// The nodes' addresses, oldest first.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes
            .iter()
            .map(|(address, _)| SocketAddr::V4(*address))
            .collect()
    }

    /// The nodes' addresses as text, as bootstrap lists are written.
    pub fn bootstrap(&self) -> Vec<String> {
        self.addresses().iter().map(ToString::to_string).collect()
    }

    /// Settings for a node that joins here and nowhere else.
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
        // Nothing tells when a node's thread has ended but its socket.
        let deadline = Instant::now() + Duration::from_secs(10);
        for address in stopped {
            while UdpSocket::bind(address).is_err() && Instant::now() < deadline {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

/// Loopback answers at once; only a stopped node uses the time up.
const REQUEST_TIMEOUT: Duration = Duration::from_millis(500);

fn bind_error(port: u16) -> impl FnOnce(std::io::Error) -> StartError {
    move |source| StartError::Bind {
        address: SocketAddrV4::new(Ipv4Addr::LOCALHOST, port),
        source,
    }
}
