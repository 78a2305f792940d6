//! Ports by UPnP (Internet Gateway Device 1 and 2), which many home routers know alone.
//!
//! The library takes the first device that answers its search, whoever that is. So it searches on this
//! machine only, and a [`Courier`] of ours searches the network in its stead and hands on what the
//! router itself says. Of what is said, only addresses at the router are followed.

mod courier;

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

use courier::Courier;

/// How long it may take to find the router's device and to read what it is.
const SEARCH: Duration = Duration::from_secs(6);

/// How long the router may take over one question, with connecting to it.
const ANSWER: Duration = Duration::from_secs(3);

/// What the router's page shows beside the port.
const DESCRIPTION: &str = "BitTorrent";

/// As much of what a router says as is repeated.
const MOST_SAID: usize = 100;

/// What the two actions take, all of it and in this order (WANIPConnection:1, 2.4.16 and 2.4.18). What
/// routers describe themselves is often wrong.
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

/// No port came about by UPnP.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpnpError {
    #[error("cannot search for devices")]
    Search(#[source] io::Error),
    #[error("no device that hands on ports answers from there")]
    NoDevice,
    #[error("no answer in {} s", ANSWER.as_secs())]
    Slow,
    #[error("it does not answer")]
    Silent,
    #[error("its answer makes no sense")]
    Nonsense,
    #[error("it is set up not to")]
    Forbidden,
    #[error("its port {0} leads elsewhere already; another can be named with peer.announce-port")]
    Taken(NonZeroU16),
    #[error("it hands ports on under their own number only: set peer.announce-port to {0}")]
    OtherNumber(u16),
    #[error("it says {said:?} ({code})")]
    Refused { code: u16, said: String },
}

impl From<SearchError> for UpnpError {
    fn from(error: SearchError) -> Self {
        match error {
            SearchError::IoError(error) => Self::Search(error),
            // Not worth more: what is no answer of such a device is passed over.
            _ => Self::NoDevice,
        }
    }
}

impl From<RequestError> for UpnpError {
    fn from(error: RequestError) -> Self {
        // The library's texts repeat whole answers.
        match error {
            RequestError::ErrorCode(code, said) => Self::Refused {
                code,
                said: said.chars().take(MOST_SAID).collect(),
            },
            RequestError::InvalidResponse(_)
            | RequestError::UnsupportedAction(_)
            | RequestError::Utf8Error(_) => Self::Nonsense,
            _ => Self::Silent,
        }
    }
}

/// A port of the router that is to lead to us, or does.
#[derive(Debug)]
pub(super) struct Forwarding {
    router: Ipv4Addr,
    device: Gateway<Tokio>,
    local: SocketAddrV4,
    external: NonZeroU16,
    address: Option<IpAddr>,
    /// It knows no mappings that end.
    permanent: bool,
    lifetime: Option<Duration>,
}

impl Forwarding {
    /// Finds the device of this router that hands on ports. Asks it for nothing yet.
    ///
    /// # Errors
    ///
    /// [`UpnpError::Search`], and [`UpnpError::NoDevice`] after some seconds.
    pub(super) async fn find(
        router: Ipv4Addr,
        local: SocketAddrV4,
        external: NonZeroU16,
    ) -> Result<Self, UpnpError> {
        let courier = Courier::open(router, *local.ip())
            .await
            .map_err(UpnpError::Search)?;
        let mut options = SearchOptions::default();
        options.bind_addr = (Ipv4Addr::LOCALHOST, 0).into();
        options.broadcast_address = courier.address().map_err(UpnpError::Search)?;
        options.timeout = Some(SEARCH);
        options.single_search_timeout = Some(SEARCH);
        options.gateway_ip_version = GatewayIpVersion::V4;
        // The one address to which any of the device's URLs may lead: what the library is told comes from the
        // courier on this machine, whose own address it does not take for a device's.
        options.allowed_gateway_ips = vec![router.into()];
        let mut device = tokio::select! {
            found = search_gateway(options) => found?,
            error = courier.carry() => return Err(UpnpError::Search(error)),
        };
        device.control_schema = actions();
        let asked = timeout(ANSWER, device.get_external_ip()).await;
        Ok(Self {
            router,
            device,
            local,
            external,
            address: asked.ok().and_then(Result::ok),
            permanent: false,
            lifetime: None,
        })
    }

    /// Asks for the port, for the first time or again. Takes some seconds at most.
    ///
    /// # Errors
    ///
    /// What the router says, or that it says nothing.
    pub(super) async fn ask(&mut self, lifetime: Duration) -> Result<(), UpnpError> {
        let asked = async {
            if !self.permanent {
                match self.add(lifetime).await {
                    Err(AddPortError::OnlyPermanentLeasesSupported) => self.permanent = true,
                    answer => return answer,
                }
            }
            self.add(Duration::ZERO).await
        };
        let answer = timeout(ANSWER, asked).await.map_err(|_| UpnpError::Slow)?;
        answer.map_err(|error| match error {
            AddPortError::ActionNotAuthorized => UpnpError::Forbidden,
            AddPortError::PortInUse => UpnpError::Taken(self.external),
            AddPortError::SamePortValuesRequired => UpnpError::OtherNumber(self.local.port()),
            AddPortError::RequestError(error) => error.into(),
            // Of what is never asked.
            _ => UpnpError::Nonsense,
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

    /// Has the router forget the port.
    pub(super) async fn give_back(self) -> Result<(), UpnpError> {
        let tcp = PortMappingProtocol::TCP;
        match self.device.remove_port(tcp, self.external.get()).await {
            Ok(()) | Err(RemovePortError::NoSuchPortMapping) => Ok(()),
            Err(RemovePortError::ActionNotAuthorized) => Err(UpnpError::Forbidden),
            Err(RemovePortError::RequestError(error)) => Err(error.into()),
        }
    }

    pub(super) const fn router(&self) -> Ipv4Addr {
        self.router
    }

    /// Where the port leads.
    pub(super) const fn local(&self) -> SocketAddrV4 {
        self.local
    }

    pub(super) const fn external_port(&self) -> NonZeroU16 {
        self.external
    }

    /// The router's address to the outside, where it says so.
    pub(super) const fn address(&self) -> Option<IpAddr> {
        self.address
    }

    /// For how long the port was given when it was last asked for; `None` for ever.
    pub(super) const fn lifetime(&self) -> Option<Duration> {
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
