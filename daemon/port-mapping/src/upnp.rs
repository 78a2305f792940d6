//! Port mappings by UPnP (Internet Gateway Device 1 and 2), the only protocol of many home routers.
//!
//! The library trusts the first device that answers its search. Any host of the network can answer. So
//! the library searches on loopback only, where a [`SearchRelay`] receives the search, repeats it in the
//! network and forwards the router's own answers. Only URLs with the router's address are followed.

mod search_relay;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::num::NonZeroU16;
use std::time::Duration;

use igd_next::aio::Gateway;
use igd_next::aio::tokio::{Tokio, search_gateway};
use igd_next::{
    AddPortError, GatewayIpVersion, PortMappingProtocol, RemovePortError, RequestError,
    SearchError, SearchOptions,
};
use tokio::time::timeout;

use search_relay::SearchRelay;

/// Time limit for finding the router's device and reading its description.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(6);

/// Time limit for one request, connecting included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// Description of the mapping in the router's user interface.
const DESCRIPTION: &str = "BitTorrent";

/// Longest part of a router's error text that is repeated, in characters.
const MAX_ERROR_TEXT: usize = 100;

/// The arguments of the two actions in their order (WANIPConnection:1, 2.4.16 and 2.4.18). The
/// descriptions that routers send are often wrong.
const ACTIONS: [(&str, &[&str]); 2] = [
    (
        "AddPortMapping",
        &[
            "NewRemoteHost",
            "NewExternalPort",
            "NewProtocol",
            "NewInternalPort",
            "NewInternalClient",
            "NewEnabled",
            "NewPortMappingDescription",
            "NewLeaseDuration",
        ],
    ),
    (
        "DeletePortMapping",
        &["NewRemoteHost", "NewExternalPort", "NewProtocol"],
    ),
];

/// There is no port mapping by UPnP.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpnpError {
    #[error("cannot search for devices")]
    Search(#[source] io::Error),
    #[error("no device with port forwarding answered")]
    NoDevice,
    #[error("no answer in {} s", REQUEST_TIMEOUT.as_secs())]
    Timeout,
    #[error("no answer")]
    NoAnswer,
    #[error("the answer is malformed")]
    Malformed,
    #[error("port forwarding by UPnP is disabled in the router")]
    Forbidden,
    #[error("port {0} is forwarded to another host; choose another port with peer.announce-port")]
    Conflict(NonZeroU16),
    #[error("the router requires equal external and internal ports: set peer.announce-port to {0}")]
    SamePortRequired(u16),
    #[error("the router refused: {text:?} ({code})")]
    Refused { code: u16, text: String },
}

impl From<SearchError> for UpnpError {
    fn from(error: SearchError) -> Self {
        match error {
            SearchError::IoError(error) => Self::Search(error),
            // The library skips answers of other devices and reports only that it found none.
            _ => Self::NoDevice,
        }
    }
}

impl From<RequestError> for UpnpError {
    fn from(error: RequestError) -> Self {
        // The library's error texts quote whole answers.
        match error {
            RequestError::ErrorCode(code, text) => Self::Refused {
                code,
                text: text.chars().take(MAX_ERROR_TEXT).collect(),
            },
            RequestError::InvalidResponse(_)
            | RequestError::UnsupportedAction(_)
            | RequestError::Utf8Error(_) => Self::Malformed,
            _ => Self::NoAnswer,
        }
    }
}

/// A mapping at a UPnP router, requested or to be requested.
#[derive(Debug)]
pub(crate) struct Forwarding {
    router: Ipv4Addr,
    device: Gateway<Tokio>,
    local: SocketAddrV4,
    external: NonZeroU16,
    address: Option<IpAddr>,
    /// The router supports permanent mappings only.
    permanent: bool,
    lifetime: Option<Duration>,
}

impl Forwarding {
    /// Finds the port forwarding device of this router. Requests no mapping yet.
    ///
    /// # Errors
    ///
    /// [`UpnpError::Search`], and [`UpnpError::NoDevice`] after a few seconds.
    pub(crate) async fn find(
        router: Ipv4Addr,
        local: SocketAddrV4,
        external: NonZeroU16,
    ) -> Result<Self, UpnpError> {
        let relay = SearchRelay::open(router, *local.ip())
            .await
            .map_err(UpnpError::Search)?;
        let mut options = SearchOptions::default();
        options.bind_addr = (Ipv4Addr::LOCALHOST, 0).into();
        options.broadcast_address = relay.address().map_err(UpnpError::Search)?;
        options.timeout = Some(SEARCH_TIMEOUT);
        options.single_search_timeout = Some(SEARCH_TIMEOUT);
        options.gateway_ip_version = GatewayIpVersion::V4;
        // The only address that the device's URLs may have. Without it the library would expect the address of
        // the relay, from which the answers arrive.
        options.allowed_gateway_ips = vec![router.into()];
        let mut device = tokio::select! {
            found = search_gateway(options) => found?,
            error = relay.run() => return Err(UpnpError::Search(error)),
        };
        device.control_schema = actions();
        let external_ip = timeout(REQUEST_TIMEOUT, device.get_external_ip()).await;
        Ok(Self {
            router,
            device,
            local,
            external,
            address: external_ip.ok().and_then(Result::ok),
            permanent: false,
            lifetime: None,
        })
    }

    /// Requests or renews the mapping. Takes a few seconds at most.
    ///
    /// # Errors
    ///
    /// The router refused or did not answer.
    pub(crate) async fn request(&mut self, lifetime: Duration) -> Result<(), UpnpError> {
        let requested = async {
            if !self.permanent {
                match self.add(lifetime).await {
                    Err(AddPortError::OnlyPermanentLeasesSupported) => self.permanent = true,
                    answer => return answer,
                }
            }
            self.add(Duration::ZERO).await
        };
        let answer = timeout(REQUEST_TIMEOUT, requested)
            .await
            .map_err(|_| UpnpError::Timeout)?;
        answer.map_err(|error| match error {
            AddPortError::ActionNotAuthorized => UpnpError::Forbidden,
            AddPortError::PortInUse => UpnpError::Conflict(self.external),
            AddPortError::SamePortValuesRequired => UpnpError::SamePortRequired(self.local.port()),
            AddPortError::RequestError(error) => error.into(),
            // Errors of arguments that are never sent.
            _ => UpnpError::Malformed,
        })?;
        self.lifetime = (!self.permanent).then_some(lifetime);
        Ok(())
    }

    async fn add(&self, lifetime: Duration) -> Result<(), AddPortError> {
        let (external, local) = (self.external.get(), self.local.into());
        let seconds = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
        let tcp = PortMappingProtocol::TCP;
        self.device
            .add_port(tcp, external, local, seconds, DESCRIPTION)
            .await
    }

    /// Asks the router to delete the mapping.
    pub(crate) async fn release(self) -> Result<(), UpnpError> {
        let tcp = PortMappingProtocol::TCP;
        match self.device.remove_port(tcp, self.external.get()).await {
            Ok(()) | Err(RemovePortError::NoSuchPortMapping) => Ok(()),
            Err(RemovePortError::ActionNotAuthorized) => Err(UpnpError::Forbidden),
            Err(RemovePortError::RequestError(error)) => Err(error.into()),
        }
    }

    pub(crate) const fn router(&self) -> Ipv4Addr {
        self.router
    }

    /// Returns the local end of the mapping.
    pub(crate) const fn local(&self) -> SocketAddrV4 {
        self.local
    }

    pub(crate) const fn external_port(&self) -> NonZeroU16 {
        self.external
    }

    /// Returns the router's external address, if the router reported it.
    pub(crate) const fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// Returns the lifetime granted by the last request; `None` for a permanent mapping.
    pub(crate) const fn lifetime(&self) -> Option<Duration> {
        self.lifetime
    }
}

fn actions() -> HashMap<String, Vec<String>> {
    let owned = |arguments: &[&str]| arguments.iter().map(|&name| name.to_owned()).collect();
    let actions = ACTIONS.iter();
    actions
        .map(|(name, arguments)| ((*name).to_owned(), owned(arguments)))
        .collect()
}
