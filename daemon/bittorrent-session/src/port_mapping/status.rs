//! What came of asking the router for a port.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::num::NonZeroU16;
use std::time::{Duration, SystemTime};

use bittorrent_engine::Scope;

/// How the router was asked for a port.
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
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Pcp, Self::NatPmp, Self::Upnp];

    /// In lower case, for programs.
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

/// Whether a port of the router leads to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PortMappingStatus {
    /// It was not answered yet.
    Asking,
    /// One does.
    Mapped(MappedPort),
    /// None does; why, for people.
    Failed(String),
}

/// A port of the router that leads to us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MappedPort {
    /// Where it was asked.
    pub router: Ipv4Addr,
    /// How.
    pub protocol: MappingProtocol,
    /// The port at the router.
    pub port: NonZeroU16,
    /// The router's own address to the outside, where it says so.
    pub address: Option<IpAddr>,
    /// When it was last asked.
    pub asked: SystemTime,
    /// How long from then it holds; `None` for ever, as with routers that know nothing else.
    pub lifetime: Option<Duration>,
}

impl MappedPort {
    /// When it ends unless it is renewed, as it is long before; `None`: never.
    pub fn ends(&self) -> Option<SystemTime> {
        self.asked.checked_add(self.lifetime?)
    }

    /// The router's address to the outside, where that is inside yet another network.
    pub(super) fn inner_address(&self) -> Option<IpAddr> {
        self.address.filter(|address| match address {
            // RFC 6598, 7: what providers use between their routers and those of customers.
            IpAddr::V4(v4) if v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64 => true,
            address => Scope::of(*address).is_local(),
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
                asked: SystemTime::now(),
                lifetime: None,
            };
            assert_eq!(mapped.inner_address().is_some(), inner, "{address}");
            assert_eq!(mapped.ends(), None);
        }
    }
}
