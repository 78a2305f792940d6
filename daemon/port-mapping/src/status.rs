//! The result of requesting a port mapping.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;
use std::time::{Duration, SystemTime};

/// The protocol by which a port mapping was requested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MappingProtocol {
    /// The Port Control Protocol (RFC 6887).
    Pcp,
    /// The NAT Port Mapping Protocol (RFC 6886).
    NatPmp,
    /// UPnP's `WANIPConnection` or `WANPPPConnection`.
    Upnp,
}

impl MappingProtocol {
    /// All protocols.
    pub const ALL: [Self; 3] = [Self::Pcp, Self::NatPmp, Self::Upnp];

    /// Returns the name in lower case, for metrics and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pcp => "pcp",
            Self::NatPmp => "nat-pmp",
            Self::Upnp => "upnp",
        }
    }
}

impl fmt::Display for MappingProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pcp => "PCP",
            Self::NatPmp => "NAT-PMP",
            Self::Upnp => "UPnP",
        })
    }
}

/// Whether the router forwards a port to this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortMappingStatus {
    /// No answer yet.
    Requesting,
    /// The router forwards this port.
    Mapped(MappedPort),
    /// The router forwards no port, for this reason.
    Failed(String),
}

/// A port of the router that is forwarded to this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedPort {
    /// The router's address in the local network.
    pub router: Ipv4Addr,
    /// The protocol that made the mapping.
    pub protocol: MappingProtocol,
    /// The external port.
    pub port: NonZeroU16,
    /// The router's external address, if the router reported it.
    pub address: Option<IpAddr>,
    /// Time of the last successful request.
    pub requested: SystemTime,
    /// Lifetime from then on; `None` for a permanent mapping, which is all that some routers support.
    pub lifetime: Option<Duration>,
}

impl MappedPort {
    /// Returns when the mapping expires unless it is renewed; `None` if it is permanent.
    pub fn expires(&self) -> Option<SystemTime> {
        self.requested.checked_add(self.lifetime?)
    }

    /// Returns the router's external address if it is not a public one: the router is then behind another
    /// router.
    pub(crate) fn private_address(&self) -> Option<IpAddr> {
        self.address.filter(|address| match address {
            IpAddr::V4(v4) => {
                // RFC 6598, 7: the range that providers use between their routers and those of customers.
                let shared = v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64;
                shared || v4.is_private() || v4.is_loopback() || v4.is_link_local()
            }
            IpAddr::V6(v6) => {
                v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local()
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_router_behind_a_router_is_recognised() {
        for (address, inner) in [
            ("192.168.1.2", true),
            ("10.0.0.1", true),
            ("100.64.0.1", true),
            ("100.127.255.255", true),
            ("100.128.0.1", false),
            ("203.0.113.1", false),
        ] {
            let mapped = MappedPort {
                router: Ipv4Addr::new(192, 168, 1, 1),
                protocol: MappingProtocol::Upnp,
                port: NonZeroU16::MIN,
                address: Some(address.parse().unwrap()),
                requested: SystemTime::now(),
                lifetime: None,
            };
            assert_eq!(mapped.private_address().is_some(), inner, "{address}");
            assert_eq!(mapped.expires(), None);
        }
    }
}
