//! Why there is no port mapping.

use std::error::Error;
use std::io;
use std::net::Ipv4Addr;

use crab_nat::MappingFailure;

use crate::upnp::UpnpError;

/// The router does not forward a port to this host.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PortMappingError {
    #[error("cannot read the routing table")]
    Routes(#[source] io::Error),
    #[error("there is no IPv4 default route")]
    NoRouter,
    #[error("cannot send to the router {0}")]
    Unreachable(Ipv4Addr, #[source] io::Error),
    /// Every protocol failed. There are two causes, so neither is the source.
    #[error("the router {router} forwards no port: PCP and NAT-PMP: {nat_pmp}; UPnP: {upnp}")]
    Refused {
        router: Ipv4Addr,
        nat_pmp: MappingFailure,
        upnp: UpnpError,
    },
    #[error("the router {0} did not renew the port mapping by PCP or NAT-PMP")]
    NotRenewed(Ipv4Addr, #[source] MappingFailure),
    #[error("the router {0} did not grant the port mapping by UPnP")]
    Upnp(Ipv4Addr, #[source] UpnpError),
}

impl PortMappingError {
    /// Returns the error and its causes in one line.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }
}
