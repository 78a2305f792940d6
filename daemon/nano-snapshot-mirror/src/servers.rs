//! The doors of the running mirror: what listens is opened before the mirror says that it is ready,
//! and closed before it ends.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use snapshot_pointer::MainlineDht;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::cli::Place;
use crate::config::{Chosen, Config};
use crate::control::{self, Api, ControlListener, Request};
use crate::data_dir::DataDir;
use crate::http::{Hosts, Site};
use crate::network::Network;
use crate::report::{Addresses, Watching};
use crate::systemd::Inherited;

/// Sockets that listen and are not answered yet.
pub(crate) struct Doors {
    control: Option<ControlListener>,
    http: Vec<TcpListener>,
}

impl Doors {
    /// Opens what is asked for, where the service manager has not opened it already. A default that cannot be had is warned of: mirroring is worth more
    /// than being watched.
    pub(crate) fn open(config: &Config, data: &DataDir, inherited: &mut Inherited) -> Result<Self> {
        let control = match inherited.control.take() {
            Some(socket) => Some(ControlListener::inherited(socket)?),
            None => open_control(config, data)?,
        };
        let http = std::mem::take(&mut inherited.http);
        Ok(Self {
            control,
            http: if http.is_empty() {
                open_http(&config.http.listen)?
            } else {
                http
            },
        })
    }

    /// Where the mirror listens.
    pub(crate) fn addresses(&self, network: &Network) -> Addresses {
        let peers = network.session().local_addrs().iter();
        let control = self.control.as_ref();
        let http = self.http.first().and_then(|http| http.local_addr().ok());
        Addresses {
            peers: peers.map(ToString::to_string).collect(),
            dht: None,
            http: http.map(|address| address.to_string()),
            control: control.map(|listener| listener.place.path.display().to_string()),
        }
    }

    /// Begins to answer.
    pub(crate) fn serve(
        self,
        watching: &Watching,
        requests: mpsc::Sender<Request>,
        data: &DataDir,
        dht: &Arc<MainlineDht>,
    ) -> Servers {
        let stop = CancellationToken::new();
        let mut tasks = Vec::new();
        if let Some(listener) = self.control {
            info!(socket = %listener.place.path.display(), "answering on the control socket");
            let api = Api {
                watching: watching.clone(),
                requests,
                data: data.clone(),
                dht: dht.clone(),
                stop: stop.clone(),
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
            };
            tasks.push(tokio::spawn(async move {
                if let Err(error) = site.serve(listener, Hosts::of_this_machine()).await {
                    warn!("{error:#}");
                }
            }));
        }
        Servers { stop, tasks }
    }
}

fn open_control(config: &Config, data: &DataDir) -> Result<Option<ControlListener>> {
    match control::place(config, data) {
        None => Ok(None),
        Some(path) => match ControlListener::bind(&path) {
            Err(error) if config.control.socket.is_none() => {
                warn!("no control socket: {error:#}");
                Ok(None)
            }
            other => other.map(Some),
        },
    }
}

fn open_http(listen: &Chosen<Place<SocketAddr>>) -> Result<Vec<TcpListener>> {
    let Place::At(address) = listen.value else {
        return Ok(Vec::new());
    };
    let bound = TcpListener::bind(address).with_context(|| {
        format!("cannot answer HTTP on {address}: choose another with http.listen or --http")
    });
    match bound {
        Err(error) if !listen.by_user => {
            warn!("no status page: {error:#}");
            Ok(Vec::new())
        }
        other => Ok(vec![other?]),
    }
}

/// The servers, running.
pub(crate) struct Servers {
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Servers {
    /// Ends them, with a moment for what is being answered.
    pub(crate) async fn close(self) {
        self.stop.cancel();
        for task in self.tasks {
            // A panic was printed when it happened.
            let _ = task.await;
        }
    }
}
