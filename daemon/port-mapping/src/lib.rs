//! Keeps one TCP port of the local router forwarded to this host, by PCP (RFC 6887), NAT-PMP
//! (RFC 6886) or UPnP; this crate knows routers only, and nothing of BitTorrent or of this project.
//!
//! [`PortMapper::run`] requests the mapping, renews it, retries after failures and releases it at
//! the end. [`PortMapper::status`] is a channel with the current [`PortMappingStatus`].

mod error;
mod mapper;
mod routes;
mod status;
mod upnp;

pub use mapper::PortMapper;
pub use status::{MappedPort, MappingProtocol, PortMappingStatus};
