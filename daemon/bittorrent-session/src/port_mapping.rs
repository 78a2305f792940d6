//! A way in through the router of this network: it is asked to hand on what comes to one of its
//! ports, by PCP (RFC 6887), NAT-PMP (RFC 6886) or UPnP, whichever it knows.

mod routes;
mod status;
mod upnp;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::num::NonZeroU16;
use std::time::{Duration, SystemTime};

use crab_nat::{
    InternetProtocol, MappingFailure, PortMappingOptions, PortMappingType, TimeoutConfig,
};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::error::Causes;

pub use status::{MappedPort, MappingProtocol, PortMappingStatus};

use upnp::{Forwarding, UpnpError};

/// For how long a mapping is asked, as RFC 6886 recommends; renewed at half of what is given.
const LIFETIME: Duration = Duration::from_secs(7_200);

/// However short a lifetime the router gives, it is not asked more often than this.
const LEAST_PAUSE: Duration = Duration::from_secs(60);

/// How long to wait after the first failure; doubled with each further one.
const FIRST_RETRY: Duration = Duration::from_secs(60);

/// The longest pause between two tries: the network may be another one by then.
const LAST_RETRY: Duration = Duration::from_secs(3_600);

/// How long taking the mapping back may take.
const FAREWELL: Duration = Duration::from_secs(3);

/// A router is near: it answers soon or never.
const ASKING: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(500),
    max_retries: 3,
    max_retry_timeout: Some(Duration::from_secs(4)),
};

/// No mapping came about.
#[derive(Debug, thiserror::Error)]
enum PortMappingError {
    #[error("cannot find out where the router is")]
    Routes(#[source] io::Error),
    #[error("no IPv4 route leads out of this network")]
    NoRouter,
    #[error("cannot send to the router {0}")]
    Unreachable(Ipv4Addr, #[source] io::Error),
    /// By all protocols. Two causes, so none of them is the source.
    #[error("the router {router} gives no port: by PCP and NAT-PMP, {nat_pmp}; by UPnP, {upnp}")]
    Refused {
        router: Ipv4Addr,
        nat_pmp: MappingFailure,
        upnp: UpnpError,
    },
    #[error("the router {0} gives no port any longer by PCP or NAT-PMP")]
    Lost(Ipv4Addr, #[source] MappingFailure),
    #[error("the router {0} gives no port by UPnP")]
    Upnp(Ipv4Addr, #[source] UpnpError),
}

/// What the router was brought to do.
#[derive(Debug)]
enum Mapping {
    /// By PCP or NAT-PMP; for which address of ours.
    NatPmp(crab_nat::PortMapping, Ipv4Addr),
    Upnp(Forwarding),
}

impl Mapping {
    /// Whether it leads to this address of ours, through this router. It does not once we are in
    /// another network.
    fn is_for(&self, router: Ipv4Addr, local: Ipv4Addr) -> bool {
        match self {
            Self::NatPmp(mapping, to) => IpAddr::from(mapping.gateway()) == router && *to == local,
            Self::Upnp(forwarding) => {
                forwarding.router() == router && *forwarding.local().ip() == local
            }
        }
    }

    async fn give_back(self) {
        let given_back = async {
            match self {
                Self::NatPmp(mapping, _) => mapping.try_drop().await.is_ok(),
                Self::Upnp(forwarding) => forwarding.give_back().await.is_ok(),
            }
        };
        if !matches!(timeout(FAREWELL, given_back).await, Ok(true)) {
            tracing::debug!("the router did not take its port back; most do, in time");
        }
    }
}

/// Keeps a TCP port of the router leading to us.
#[derive(Debug)]
pub struct PortMapper {
    router: Option<Ipv4Addr>,
    port: NonZeroU16,
    wanted: NonZeroU16,
    lifetime: Duration,
    status: watch::Sender<PortMappingStatus>,
}

impl PortMapper {
    /// For the port we listen at and the port at which peers are told to reach us. `router` is where to
    /// ask; by default where the system sends what leaves this network.
    pub fn new(router: Option<Ipv4Addr>, port: NonZeroU16, wanted: NonZeroU16) -> Self {
        Self {
            router,
            port,
            wanted,
            lifetime: LIFETIME,
            status: watch::Sender::new(PortMappingStatus::Asking),
        }
    }

    /// For how long to ask, instead of two hours; whole seconds, at least 2.
    #[must_use]
    pub fn lasting(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// What came of asking; changes with time.
    pub fn status(&self) -> watch::Receiver<PortMappingStatus> {
        self.status.subscribe()
    }

    /// Asks, renews in time, tries again after failures, and takes the mapping back when `stop` is
    /// cancelled, for which it takes some seconds at most.
    pub async fn run(self, stop: CancellationToken) {
        let mut held = None;
        self.keep(&mut held, &stop).await;
        self.status.send_replace(PortMappingStatus::Asking);
        if let Some(mapping) = held {
            mapping.give_back().await;
        }
    }

    /// Until `stop` is cancelled.
    async fn keep(&self, held: &mut Option<Mapping>, stop: &CancellationToken) {
        let mut retry = FIRST_RETRY;
        loop {
            let Some(asked) = self.ask(held, stop).await else {
                return;
            };
            let pause = match asked {
                Ok(mapped) => {
                    retry = FIRST_RETRY;
                    // One without end is looked after as well: routers forget when they restart.
                    let lifetime = mapped.lifetime.unwrap_or(self.lifetime);
                    self.tell(mapped);
                    (lifetime / 2).max(LEAST_PAUSE.min(self.lifetime / 2))
                }
                Err(error) => {
                    self.complain(&error, retry == FIRST_RETRY);
                    *held = None;
                    let pause = retry;
                    retry = (2 * retry).min(LAST_RETRY);
                    pause
                }
            };
            if stop.run_until_cancelled(sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// Asks once, for the first time or again. `None`: `stop` was cancelled, and what the router then has is
    /// held.
    async fn ask(
        &self,
        held: &mut Option<Mapping>,
        stop: &CancellationToken,
    ) -> Option<Result<MappedPort, PortMappingError>> {
        let reached = stop.run_until_cancelled(self.reach(held)).await?;
        if let Err(error) = reached {
            return Some(Err(error));
        }
        Some(match held {
            Some(Mapping::NatPmp(mapping, _)) => Ok(nat_pmp_port(mapping)),
            // Not broken off: the router may have done it before it is heard to say so.
            Some(Mapping::Upnp(forwarding)) => match forwarding.ask(self.lifetime).await {
                Ok(()) => Ok(upnp_port(forwarding)),
                Err(error) => Err(PortMappingError::Upnp(forwarding.router(), error)),
            },
            None => Err(PortMappingError::NoRouter),
        })
    }

    /// Leaves behind a mapping that the router has just made or renewed or, by UPnP, one that is only
    /// to be asked for.
    async fn reach(&self, held: &mut Option<Mapping>) -> Result<(), PortMappingError> {
        let router = match self.router {
            Some(router) => router,
            None => routes::default_router()
                .map_err(PortMappingError::Routes)?
                .ok_or(PortMappingError::NoRouter)?,
        };
        let local = local_address(router)
            .await
            .map_err(|error| PortMappingError::Unreachable(router, error))?;
        match held.as_mut().filter(|held| held.is_for(router, local)) {
            Some(Mapping::NatPmp(mapping, _)) => {
                let renewed = mapping.renew().await;
                return renewed.map_err(|error| PortMappingError::Lost(router, error));
            }
            Some(Mapping::Upnp(_)) => return Ok(()),
            None => *held = None,
        }
        let options = PortMappingOptions {
            external_port: Some(self.wanted),
            lifetime_seconds: u32::try_from(self.lifetime.as_secs()).ok(),
            timeout_config: Some(ASKING),
        };
        let tcp = InternetProtocol::Tcp;
        let asked =
            crab_nat::PortMapping::new(router.into(), local.into(), tcp, self.port, options).await;
        let nat_pmp = match asked {
            Ok(mapping) => {
                *held = Some(Mapping::NatPmp(mapping, local));
                return Ok(());
            }
            Err(error) => error,
        };
        let local = SocketAddrV4::new(local, self.port.get());
        match Forwarding::find(router, local, self.wanted).await {
            Ok(forwarding) => {
                *held = Some(Mapping::Upnp(forwarding));
                Ok(())
            }
            Err(upnp) => Err(PortMappingError::Refused {
                router,
                nat_pmp,
                upnp,
            }),
        }
    }

    fn tell(&self, mapped: MappedPort) {
        let MappedPort {
            router,
            protocol,
            port: external,
            ..
        } = mapped;
        let same = |status: &PortMappingStatus| match status {
            PortMappingStatus::Mapped(before) => {
                (before.router, before.protocol, before.port) == (router, protocol, external)
            }
            _ => false,
        };
        if !same(&self.status.borrow()) {
            let port = self.port;
            tracing::info!(%router, %protocol, external, port, "a port of the router leads here");
            if external != self.wanted {
                tracing::warn!(
                    external,
                    "the router gave another port than peers are told: set peer.announce-port to it"
                );
            }
            if let Some(address) = mapped.inner_address() {
                tracing::warn!(
                    %address,
                    "the router is itself behind another one, which has to hand the port on to it"
                );
            }
        }
        self.status.send_replace(PortMappingStatus::Mapped(mapped));
    }

    fn complain(&self, error: &PortMappingError, loudly: bool) {
        let why = Causes(error).to_string();
        if loudly {
            tracing::warn!(
                error = %why,
                "no port of the router leads here: peers outside cannot connect to us unless it is told \
                 by hand; trying again now and then"
            );
        } else {
            tracing::debug!(error = %why, "still no port of the router leads here");
        }
        self.status.send_replace(PortMappingStatus::Failed(why));
    }
}

fn nat_pmp_port(mapping: &crab_nat::PortMapping) -> MappedPort {
    let router = match mapping.gateway().into() {
        IpAddr::V4(router) => router,
        // It was asked over IPv4.
        IpAddr::V6(_) => Ipv4Addr::UNSPECIFIED,
    };
    let (protocol, address) = match mapping.mapping_type() {
        PortMappingType::NatPmp => (MappingProtocol::NatPmp, None),
        PortMappingType::Pcp { external_ip, .. } => (MappingProtocol::Pcp, Some(external_ip)),
    };
    let lifetime = Duration::from_secs(mapping.lifetime().into());
    MappedPort {
        router,
        protocol,
        port: mapping.external_port(),
        address: address.map(|address| address.to_canonical()),
        asked: SystemTime::now(),
        lifetime: Some(lifetime),
    }
}

fn upnp_port(forwarding: &Forwarding) -> MappedPort {
    MappedPort {
        router: forwarding.router(),
        protocol: MappingProtocol::Upnp,
        port: forwarding.external_port(),
        address: forwarding.address(),
        asked: SystemTime::now(),
        lifetime: forwarding.lifetime(),
    }
}

/// The address under which the router knows us.
async fn local_address(router: Ipv4Addr) -> io::Result<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    // Sends nothing.
    socket.connect((router, crab_nat::GATEWAY_PORT)).await?;
    match socket.local_addr()?.ip() {
        IpAddr::V4(local) => Ok(local),
        IpAddr::V6(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}
