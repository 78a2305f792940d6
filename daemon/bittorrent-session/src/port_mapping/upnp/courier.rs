//! Searches the network for devices and hears the router alone.

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;
use tokio::time::interval;

/// Where devices listen for searches (UPnP Device Architecture 2.0, 1.3.2).
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 255, 255, 250);
const PORT: u16 = 1_900;

/// Routers with an older service answer to its name only.
const TARGETS: [&str; 4] = [
    "urn:schemas-upnp-org:device:InternetGatewayDevice:1",
    "urn:schemas-upnp-org:device:InternetGatewayDevice:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
];

/// Datagrams get lost: time between two searches.
const AGAIN: Duration = Duration::from_secs(2);

/// Most of the router's answers that are handed on: it has one device, which answers several times.
const MOST_ANSWERS: usize = 16;

/// The longest answer; they are a few hundred bytes.
const LONGEST: usize = 1_500;

/// Two sockets: one in the network, and one for who has the search done.
#[derive(Debug)]
pub(super) struct Courier {
    router: Ipv4Addr,
    network: UdpSocket,
    here: UdpSocket,
}

impl Courier {
    /// Opens both. `local` is our address in the router's network.
    pub(super) async fn open(router: Ipv4Addr, local: Ipv4Addr) -> io::Result<Self> {
        let network = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
        network.set_nonblocking(true)?;
        network.set_multicast_if_v4(&local)?;
        // As the architecture has it; nothing is to answer from farther away.
        network.set_multicast_ttl_v4(2)?;
        network.bind(&SocketAddr::from((local, 0)).into())?;
        Ok(Self {
            router,
            network: UdpSocket::from_std(network.into())?,
            here: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?,
        })
    }

    /// Where to have a search done, on this machine.
    pub(super) fn address(&self) -> io::Result<SocketAddr> {
        self.here.local_addr()
    }

    /// Searches for whoever asks first, and hands on to him what the router answers. Ends with what keeps it
    /// from going on.
    pub(super) async fn carry(&self) -> io::Error {
        let mut datagram = [0; LONGEST];
        let asked = self.here.recv_from(&mut datagram).await;
        let done = match asked {
            Ok((_, client)) => tokio::select! {
                searched = self.search() => searched,
                handed_on = self.hand_on(client) => handed_on,
            },
            Err(error) => Err(error),
        };
        match done {
            Err(error) => error,
            Ok(never) => match never {},
        }
    }

    async fn search(&self) -> io::Result<Infallible> {
        let mut clock = interval(AGAIN);
        loop {
            clock.tick().await;
            let mut failure = None;
            let mut sent = 0;
            // Some routers hear the group only, and some networks do not carry what is sent to it. To a firewall
            // of this machine an answer is one only because the router itself was asked from here.
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

    async fn hand_on(&self, client: SocketAddr) -> io::Result<Infallible> {
        let mut left = MOST_ANSWERS;
        let mut datagram = [0; LONGEST];
        loop {
            let (read, from) = self.network.recv_from(&mut datagram).await?;
            if from.ip() != IpAddr::V4(self.router) {
                tracing::debug!(%from, "who answers a search for the router is not the router");
                continue;
            }
            if left > 0 {
                left -= 1;
                let answer = datagram.get(..read).unwrap_or_default();
                self.here.send_to(answer, client).await?;
            }
        }
    }
}
