//! Repeats a search for devices in the network and forwards the router's answers only.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::interval;

/// Multicast group and port of searches (UPnP Device Architecture 2.0, 1.3.2).
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 255, 250);
const PORT: u16 = 1_900;

/// Search targets. Routers with an older service answer only a search for that service.
const TARGETS: [&str; 4] = [
    "urn:schemas-upnp-org:device:InternetGatewayDevice:1",
    "urn:schemas-upnp-org:device:InternetGatewayDevice:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
];

/// Time between two searches; datagrams get lost.
const SEARCH_INTERVAL: Duration = Duration::from_secs(2);

/// Answers that are forwarded at most. The router has one device, which answers each target.
const MAX_ANSWERS: usize = 16;

/// Longest answer in bytes; usual ones have a few hundred.
const MAX_ANSWER_LEN: usize = 1_500;

/// A socket in the router's network, and one on loopback for the library.
#[derive(Debug)]
pub(super) struct SearchRelay {
    router: Ipv4Addr,
    network: UdpSocket,
    loopback: UdpSocket,
}

impl SearchRelay {
    /// Opens both sockets. `local` is this host's address in the router's network.
    pub(super) async fn open(router: Ipv4Addr, local: Ipv4Addr) -> io::Result<Self> {
        let network = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        network.set_nonblocking(true)?;
        network.set_multicast_if_v4(&local)?;
        // The value that the architecture recommends; no device farther away should answer.
        network.set_multicast_ttl_v4(2)?;
        network.bind(&SocketAddr::from((local, 0)).into())?;
        Ok(Self {
            router,
            network: UdpSocket::from_std(network.into())?,
            loopback: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?,
        })
    }

    /// Returns the address to which the library sends its search.
    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.loopback.local_addr()
    }

    /// Waits for the library's search, then searches the network and forwards the router's answers. Returns
    /// only when a socket fails.
    pub(super) async fn run(&self) -> io::Error {
        let mut datagram = [0; MAX_ANSWER_LEN];
        let search = self.loopback.recv_from(&mut datagram).await;
        let done = match search {
            Ok((_, client)) => tokio::select! {
                searched = self.search() => searched,
                forwarded = self.forward(client) => forwarded,
            },
            Err(error) => Err(error),
        };
        match done {
            Err(error) => error,
            Ok(never) => match never {},
        }
    }

    async fn search(&self) -> io::Result<Infallible> {
        let mut clock = interval(SEARCH_INTERVAL);
        loop {
            clock.tick().await;
            let mut failure = None;
            let mut sent = 0;
            // Some routers listen to the group only, and some networks do not carry multicast. A local firewall
            // accepts the answer only because the router's own address was contacted too.
            for to in [self.router, GROUP] {
                for target in TARGETS {
                    let text = format!(
                        "M-SEARCH * HTTP/1.1\r\nHOST: {to}:{PORT}\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\n\
                         ST: {target}\r\n\r\n"
                    );
                    match self.network.send_to(text.as_bytes(), (to, PORT)).await {
                        Ok(_) => sent += 1,
                        Err(error) => failure = Some(error),
                    }
                }
            }
            if let Some(error) = failure.filter(|_| sent == 0) {
                return Err(error);
            }
        }
    }

    async fn forward(&self, client: SocketAddr) -> io::Result<Infallible> {
        let mut left = MAX_ANSWERS;
        let mut datagram = [0; MAX_ANSWER_LEN];
        loop {
            let (read, from) = self.network.recv_from(&mut datagram).await?;
            if from.ip() != IpAddr::V4(self.router) {
                tracing::debug!(%from, "ignoring an answer to the search: the sender is not the router");
                continue;
            }
            if left > 0 {
                left -= 1;
                let answer = datagram.get(..read).unwrap_or_default();
                self.loopback.send_to(answer, client).await?;
            }
        }
    }
}
