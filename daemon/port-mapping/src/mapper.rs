//! The loop that requests, renews and releases a port mapping.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::num::NonZeroU16;
use std::time::{Duration, SystemTime};

use crab_nat::{InternetProtocol, PortMappingOptions, PortMappingType, TimeoutConfig};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::error::PortMappingError;
use crate::routes;
use crate::status::{MappedPort, MappingProtocol, PortMappingStatus};
use crate::upnp::Forwarding;

/// Requested lifetime of a mapping, as RFC 6886 recommends. The mapping is renewed after half of the
/// lifetime that the router granted.
const LIFETIME: Duration = Duration::from_secs(7_200);

/// Shortest time between two requests, however short the granted lifetime is.
const MIN_PAUSE: Duration = Duration::from_secs(60);

/// Pause after the first failure. It doubles with each further failure.
const FIRST_RETRY: Duration = Duration::from_secs(60);

/// Longest pause between two attempts. By then the host may be in another network.
const LAST_RETRY: Duration = Duration::from_secs(3_600);

/// Time limit for releasing the mapping at the end.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(3);

/// Timeouts of PCP and NAT-PMP. The router is one hop away: it answers soon or never.
const TIMEOUTS: TimeoutConfig = TimeoutConfig {
    initial_timeout: Duration::from_millis(500),
    max_retries: 3,
    max_retry_timeout: Some(Duration::from_secs(4)),
};

/// A mapping at the router.
#[derive(Debug)]
enum Mapping {
    /// By PCP or NAT-PMP, and the local address that it leads to.
    NatPmp(crab_nat::PortMapping, Ipv4Addr),
    /// By UPnP; perhaps not requested yet.
    Upnp(Forwarding),
}

impl Mapping {
    /// Returns whether the mapping leads through this router to this local address. It does not after
    /// the host has moved to another network.
    fn is_for(&self, router: Ipv4Addr, local: Ipv4Addr) -> bool {
        match self {
            Self::NatPmp(mapping, to) => IpAddr::from(mapping.gateway()) == router && *to == local,
            Self::Upnp(forwarding) => {
                forwarding.router() == router && *forwarding.local().ip() == local
            }
        }
    }

    async fn release(self) {
        let released = async {
            match self {
                Self::NatPmp(mapping, _) => mapping.try_drop().await.is_ok(),
                Self::Upnp(forwarding) => forwarding.release().await.is_ok(),
            }
        };
        if !matches!(timeout(RELEASE_TIMEOUT, released).await, Ok(true)) {
            tracing::debug!(
                "the router did not confirm the release of the port; most mappings expire"
            );
        }
    }
}

/// Keeps a TCP port of the router forwarded to this host.
#[derive(Debug)]
pub struct PortMapper {
    router: Option<Ipv4Addr>,
    port: NonZeroU16,
    wanted: NonZeroU16,
    lifetime: Duration,
    status: watch::Sender<PortMappingStatus>,
}

impl PortMapper {
    /// Creates a mapper from the external port `wanted` to the local port `port`. `router` defaults to
    /// the gateway of the IPv4 default route.
    pub fn new(router: Option<Ipv4Addr>, port: NonZeroU16, wanted: NonZeroU16) -> Self {
        Self {
            router,
            port,
            wanted,
            lifetime: LIFETIME,
            status: watch::Sender::new(PortMappingStatus::Requesting),
        }
    }

    /// Sets the requested lifetime, in whole seconds, at least 2. Default: two hours.
    #[must_use]
    pub fn with_lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = lifetime;
        self
    }

    /// Returns a receiver of the current status.
    pub fn status(&self) -> watch::Receiver<PortMappingStatus> {
        self.status.subscribe()
    }

    /// Requests the mapping, renews it and retries after failures, until `stop` is cancelled. Then
    /// releases the mapping, which takes a few seconds at most.
    pub async fn run(self, stop: CancellationToken) {
        let mut mapping = None;
        self.maintain(&mut mapping, &stop).await;
        self.status.send_replace(PortMappingStatus::Requesting);
        if let Some(mapping) = mapping {
            mapping.release().await;
        }
    }

    /// Maintains the mapping until `stop` is cancelled.
    async fn maintain(&self, mapping: &mut Option<Mapping>, stop: &CancellationToken) {
        let mut retry = FIRST_RETRY;
        loop {
            let Some(requested) = self.request(mapping, stop).await else {
                return;
            };
            let pause = match requested {
                Ok(mapped) => {
                    retry = FIRST_RETRY;
                    // A permanent mapping is renewed as well: routers forget mappings when they restart.
                    let lifetime = mapped.lifetime.unwrap_or(self.lifetime);
                    self.publish_mapped(mapped);
                    (lifetime / 2).max(MIN_PAUSE.min(self.lifetime / 2))
                }
                Err(error) => {
                    self.publish_failure(&error, retry == FIRST_RETRY);
                    *mapping = None;
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

    /// Requests or renews the mapping once. Returns `None` if `stop` was cancelled; `mapping` then has
    /// what the router may have granted.
    async fn request(
        &self,
        mapping: &mut Option<Mapping>,
        stop: &CancellationToken,
    ) -> Option<Result<MappedPort, PortMappingError>> {
        let prepared = stop.run_until_cancelled(self.prepare(mapping)).await?;
        if let Err(error) = prepared {
            return Some(Err(error));
        }
        Some(match mapping {
            Some(Mapping::NatPmp(mapping, _)) => Ok(nat_pmp_port(mapping)),
            // Not cancelled: the router may have made the mapping before its answer arrives.
            Some(Mapping::Upnp(forwarding)) => match forwarding.request(self.lifetime).await {
                Ok(()) => Ok(upnp_port(forwarding)),
                Err(error) => Err(PortMappingError::Upnp(forwarding.router(), error)),
            },
            None => Err(PortMappingError::NoRouter),
        })
    }

    /// Leaves in `mapping` one that the router has just made or renewed or, with UPnP, one that is
    /// still to be requested.
    async fn prepare(&self, mapping: &mut Option<Mapping>) -> Result<(), PortMappingError> {
        let router = match self.router {
            Some(router) => router,
            None => routes::default_router()
                .map_err(PortMappingError::Routes)?
                .ok_or(PortMappingError::NoRouter)?,
        };
        let local = local_address(router)
            .await
            .map_err(|error| PortMappingError::Unreachable(router, error))?;
        match mapping
            .as_mut()
            .filter(|mapping| mapping.is_for(router, local))
        {
            Some(Mapping::NatPmp(mapping, _)) => {
                let renewed = mapping.renew().await;
                return renewed.map_err(|error| PortMappingError::NotRenewed(router, error));
            }
            Some(Mapping::Upnp(_)) => return Ok(()),
            None => *mapping = None,
        }
        let options = PortMappingOptions {
            external_port: Some(self.wanted),
            lifetime_seconds: u32::try_from(self.lifetime.as_secs()).ok(),
            timeout_config: Some(TIMEOUTS),
        };
        let tcp = InternetProtocol::Tcp;
        let requested =
            crab_nat::PortMapping::new(router.into(), local.into(), tcp, self.port, options).await;
        let nat_pmp = match requested {
            Ok(new) => {
                *mapping = Some(Mapping::NatPmp(new, local));
                return Ok(());
            }
            Err(error) => error,
        };
        let local = SocketAddrV4::new(local, self.port.get());
        match Forwarding::find(router, local, self.wanted).await {
            Ok(forwarding) => {
                *mapping = Some(Mapping::Upnp(forwarding));
                Ok(())
            }
            Err(upnp) => Err(PortMappingError::Refused {
                router,
                nat_pmp,
                upnp,
            }),
        }
    }

    fn publish_mapped(&self, mapped: MappedPort) {
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
            tracing::info!(%router, %protocol, external, port, "the router forwards a port to this host");
            if external != self.wanted {
                tracing::warn!(
                    external,
                    wanted = self.wanted,
                    "the router forwards another external port than the one that is announced to peers: set \
                     peer.announce-port to it"
                );
            }
            if let Some(address) = mapped.private_address() {
                tracing::warn!(
                    %address,
                    "the router is behind another router, which has to forward the port as well"
                );
            }
        }
        self.status.send_replace(PortMappingStatus::Mapped(mapped));
    }

    fn publish_failure(&self, error: &PortMappingError, first: bool) {
        let why = error.chain();
        if first {
            tracing::warn!(
                error = %why,
                "cannot get a port of the router forwarded: peers outside this network cannot connect unless \
                 the router is set up by hand; retrying"
            );
        } else {
            tracing::debug!(error = %why, "still cannot get a port of the router forwarded");
        }
        self.status.send_replace(PortMappingStatus::Failed(why));
    }
}

fn nat_pmp_port(mapping: &crab_nat::PortMapping) -> MappedPort {
    let router = match mapping.gateway().into() {
        IpAddr::V4(router) => router,
        // The request went out over IPv4.
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
        requested: SystemTime::now(),
        lifetime: Some(lifetime),
    }
}

fn upnp_port(forwarding: &Forwarding) -> MappedPort {
    MappedPort {
        router: forwarding.router(),
        protocol: MappingProtocol::Upnp,
        port: forwarding.external_port(),
        address: forwarding.address(),
        requested: SystemTime::now(),
        lifetime: forwarding.lifetime(),
    }
}

/// Returns the local address from which packets to the router are sent.
async fn local_address(router: Ipv4Addr) -> io::Result<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    // Sends nothing.
    socket.connect((router, crab_nat::GATEWAY_PORT)).await?;
    match socket.local_addr()?.ip() {
        IpAddr::V4(local) => Ok(local),
        IpAddr::V6(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}
