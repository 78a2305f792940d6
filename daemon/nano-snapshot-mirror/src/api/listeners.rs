//! The listening sockets of the mirror: opened before the mirror reports that it is ready, closed before it ends.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use service_kit::control_socket::ControlListener;
use service_kit::http_server::{EventStreams, Hosts};
use service_kit::listening;
use service_kit::systemd::InheritedSockets;
use snapshot_pointer::MainlineDht;
use snapshot_store::DataDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::api::control::{Api, Request};
use crate::api::http::Site;
use crate::config::OrOff;
use crate::config::{Chosen, Config};
use crate::observe::report::{Addresses, ReportWatch};
use crate::transfer::network::Network;

/// Listening sockets whose servers do not run yet.
pub(crate) struct Listeners {
    control: Vec<ControlListener>,
    http: Vec<TcpListener>,
    hosts: Hosts,
}

impl Listeners {
    /// Binds the configured addresses, except those that an inherited socket covers. If a *default* address cannot be bound, only warns: mirroring
    /// matters more than the status page.
    pub(crate) fn open(
        config: &Config,
        data: &DataDir,
        inherited: &mut InheritedSockets,
    ) -> Result<Self> {
        Ok(Self {
            control: open_control(config, data, inherited.take_unix("control"))?,
            http: open_http(&config.http.listen, inherited.take_tcp("http"))?,
            hosts: Hosts::of_this_machine(&config.http.hosts),
        })
    }

    /// Returns the addresses on which the mirror listens.
    pub(crate) fn addresses(&self, network: &Network) -> Addresses {
        let peers = network.session().local_addrs().iter();
        let control = self.control.first();
        let http = self.http.first().and_then(|http| http.local_addr().ok());
        Addresses {
            peers: peers.map(ToString::to_string).collect(),
            dht: None,
            http: http.map(|address| address.to_string()),
            control: control.map(|listener| listener.file.path().display().to_string()),
        }
    }

    /// Starts the servers.
    pub(crate) fn serve(
        self,
        watching: &ReportWatch,
        requests: &mpsc::Sender<Request>,
        data: &DataDir,
        dht: &Arc<MainlineDht>,
    ) -> Servers {
        let stop = CancellationToken::new();
        let mut tasks = Vec::new();
        for listener in self.control {
            info!(socket = %listener.file.path().display(), "serving the control socket");
            let api = Api {
                watching: watching.clone(),
                requests: requests.clone(),
                data: data.clone(),
                dht: dht.clone(),
                stop: stop.clone(),
                streams: EventStreams::default(),
            };
            tasks.push(tokio::spawn(api.serve(listener)));
        }
        for listener in self.http {
            info!(
                address = listener.local_addr().ok().map(tracing::field::display),
                "answering HTTP"
            );
            let site = Site {
                watching: watching.clone(),
                data: data.clone(),
                stop: stop.clone(),
                streams: EventStreams::default(),
            };
            let hosts = self.hosts.clone();
            tasks.push(tokio::spawn(async move {
                if let Err(error) = site.serve(listener, hosts).await {
                    warn!("{error:#}");
                }
            }));
        }
        Servers { stop, tasks }
    }
}

fn open_control(
    config: &Config,
    data: &DataDir,
    inherited: Option<UnixListener>,
) -> Result<Vec<ControlListener>> {
    let mut listeners = Vec::new();
    if let Some(socket) = inherited {
        if config.control.socket == Some(OrOff::word()) {
            warn!(
                "control.socket is off: not serving the control socket from the service \
                 manager; disable its socket unit"
            );
            return Ok(listeners);
        }
        listeners.push(ControlListener::inherited(socket)?);
    }
    // Besides an inherited socket only a path that the user configured is bound.
    let named = config.control.socket.is_some();
    let place = config
        .control
        .path(data.root())
        .filter(|_| named || listeners.is_empty());
    let Some(path) = place else {
        return Ok(listeners);
    };
    if listeners.iter().any(|one| one.file.is(&path)) {
        return Ok(listeners);
    }
    match ControlListener::bind(&path, "a mirror") {
        Err(error) if !named => warn!("no control socket: {error:#}"),
        bound => listeners.push(bound?),
    }
    Ok(listeners)
}

fn open_http(
    listen: &Chosen<OrOff<SocketAddr>>,
    inherited: Vec<TcpListener>,
) -> Result<Vec<TcpListener>> {
    let OrOff::Value(address) = listen.value else {
        if !inherited.is_empty() {
            warn!(
                "http.listen is off: not answering on the HTTP socket from the service manager; \
                 disable its socket unit"
            );
        }
        return Ok(Vec::new());
    };
    let mut listeners = inherited;
    if !listeners.is_empty() && !listen.by_user() {
        return Ok(listeners);
    }
    for address in listening::remaining(&[address], &listeners, "http.listen")? {
        let bound = match TcpListener::bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse && !listen.by_user() => {
                warn!(
                    "cannot answer HTTP on {address}: {error}; taking any free port instead, \
                     choose one with http.listen or --http"
                );
                TcpListener::bind((address.ip(), 0))
            }
            bound => bound,
        };
        let bound = bound.with_context(|| {
            format!("cannot answer HTTP on {address}; choose another with http.listen or --http")
        });
        match bound {
            Err(error) if !listen.by_user() => warn!("no status page: {error:#}"),
            bound => listeners.push(bound?),
        }
    }
    Ok(listeners)
}

/// The running servers.
pub(crate) struct Servers {
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Servers {
    /// Stops the servers. Running requests have a short time to finish.
    pub(crate) async fn close(self) {
        self.stop.cancel();
        for task in self.tasks {
            // A panic was printed when it happened.
            let _ = task.await;
        }
    }
}
