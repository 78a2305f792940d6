//! A way in through the router of this network: it is asked to hand on what comes to one of its
//! ports, by PCP (RFC 6887) or NAT-PMP (RFC 6886), whichever it knows.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;
use std::time::Duration;

use crab_nat::{InternetProtocol, MappingFailure, PortMappingOptions, TimeoutConfig};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

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
    Unreachable(IpAddr, #[source] io::Error),
    #[error("the router {0} gives no port by PCP or NAT-PMP")]
    Refused(IpAddr, #[source] MappingFailure),
}

/// Keeps a TCP port of the router leading to us.
#[derive(Debug)]
pub struct PortMapper {
    router: Option<Ipv4Addr>,
    port: NonZeroU16,
    wanted: NonZeroU16,
    external: watch::Sender<Option<NonZeroU16>>,
}

impl PortMapper {
    /// For the port we listen at and the port at which peers are told to reach us. `router` is where to
    /// ask; by default where the system sends what leaves this network.
    pub fn new(router: Option<Ipv4Addr>, port: NonZeroU16, wanted: NonZeroU16) -> Self {
        Self {
            router,
            port,
            wanted,
            external: watch::Sender::new(None),
        }
    }

    /// The port of the router that leads to us, while there is one.
    pub fn external(&self) -> watch::Receiver<Option<NonZeroU16>> {
        self.external.subscribe()
    }

    /// Asks, renews in time, tries again after failures, and takes the mapping back when `stop` is
    /// cancelled.
    pub async fn run(self, stop: CancellationToken) {
        let mut held = None;
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.keep(&mut held) => {}
        }
        self.external.send_replace(None);
        if let Some(mapping) = held
            && !matches!(timeout(FAREWELL, mapping.try_drop()).await, Ok(Ok(())))
        {
            tracing::debug!("the router did not take its port back; it will, in time");
        }
    }

    async fn keep(&self, held: &mut Option<crab_nat::PortMapping>) {
        let mut retry = FIRST_RETRY;
        loop {
            let pause = match self.ask(held).await {
                Ok(lifetime) => {
                    retry = FIRST_RETRY;
                    (lifetime / 2).max(LEAST_PAUSE)
                }
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    if retry == FIRST_RETRY {
                        tracing::warn!(
                            error,
                            "no port of the router leads here: peers outside cannot connect to us \
                             unless it is told by hand; trying again now and then"
                        );
                    } else {
                        tracing::debug!(error, "still no port of the router leads here");
                    }
                    *held = None;
                    self.external.send_replace(None);
                    let pause = retry;
                    retry = (2 * retry).min(LAST_RETRY);
                    pause
                }
            };
            sleep(pause).await;
        }
    }

    /// Asks once, for the first time or again; says for how long the answer is good.
    async fn ask(
        &self,
        held: &mut Option<crab_nat::PortMapping>,
    ) -> Result<Duration, PortMappingError> {
        let router = match self.router {
            Some(router) => router,
            None => default_router()?,
        };
        let known = held.take().filter(|mapping| {
            // Another network since then.
            IpAddr::from(mapping.gateway()) == IpAddr::V4(router)
        });
        let before = known.as_ref().map(crab_nat::PortMapping::external_port);
        let router = IpAddr::V4(router);
        let refused = |error| PortMappingError::Refused(router, error);
        let mapping = match known {
            Some(mut mapping) => {
                mapping.renew().await.map_err(refused)?;
                mapping
            }
            None => {
                let local = local_address(router)
                    .await
                    .map_err(|error| PortMappingError::Unreachable(router, error))?;
                let options = PortMappingOptions {
                    external_port: Some(self.wanted),
                    lifetime_seconds: u32::try_from(LIFETIME.as_secs()).ok(),
                    timeout_config: Some(ASKING),
                };
                let tcp = InternetProtocol::Tcp;
                crab_nat::PortMapping::new(router.into(), local, tcp, self.port, options)
                    .await
                    .map_err(refused)?
            }
        };
        let external = mapping.external_port();
        if before != Some(external) {
            let (protocol, port) = (mapping.mapping_type(), self.port);
            tracing::info!(%router, %protocol, %external, %port, "a port of the router leads here");
            if external != self.wanted {
                tracing::warn!(
                    %external,
                    "the router gave another port than peers are told: set peer.announce-port to it"
                );
            }
        }
        let lifetime = Duration::from_secs(mapping.lifetime().into());
        *held = Some(mapping);
        self.external.send_replace(Some(external));
        Ok(lifetime)
    }
}

/// The address under which the router knows us.
async fn local_address(router: IpAddr) -> io::Result<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    // Sends nothing.
    socket.connect((router, crab_nat::GATEWAY_PORT)).await?;
    Ok(socket.local_addr()?.ip())
}

fn default_router() -> Result<Ipv4Addr, PortMappingError> {
    let routes =
        std::fs::read_to_string("/proc/self/net/route").map_err(PortMappingError::Routes)?;
    router_in(&routes).ok_or(PortMappingError::NoRouter)
}

/// The router of the default route with the lowest metric, in Linux' table of routes: interface,
/// destination, gateway, flags, two counters, metric, mask, with addresses as hexadecimal numbers in
/// the processor's byte order.
fn router_in(routes: &str) -> Option<Ipv4Addr> {
    const UP_AND_GATEWAY: u32 = 0x3;
    let route = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let hex = |at: usize| u32::from_str_radix(fields.get(at)?, 16).ok();
        let usable = hex(3)? & UP_AND_GATEWAY == UP_AND_GATEWAY;
        let metric: u32 = fields.get(6)?.parse().ok()?;
        (usable && hex(1)? == 0 && hex(7)? == 0)
            .then_some((metric, Ipv4Addr::from(hex(2)?.to_ne_bytes())))
    };
    let found = routes.lines().skip(1).filter_map(route);
    found.min_by_key(|(metric, _)| *metric).map(|found| found.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn the_router_is_that_of_the_nearest_default_route() {
        let head =
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
        for (routes, expected) in [
            ("", None),
            (
                "eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n",
                None,
            ),
            (
                "eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n",
                Some([192, 168, 1, 1]),
            ),
            (
                "wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
                 eth0\t00000000\t0102000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                 down\t00000000\t0103000A\t0002\t0\t0\t1\t00000000\t0\t0\t0\n\
                 half\t00000000\t0104000A\t0003\t0\t0\t1\t00000080\t0\t0\t0\n\
                 short\t00000000\t01",
                Some([10, 0, 2, 1]),
            ),
            ("eth0\tnonsense\n\u{0}\n", None),
        ] {
            let found = router_in(&format!("{head}{routes}"));
            assert_eq!(found, expected.map(Ipv4Addr::from), "{routes}");
        }
    }
}
