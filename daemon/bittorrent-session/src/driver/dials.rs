//! Outgoing connections until their handshakes are done.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bittorrent_engine::{DialFailure, TorrentKey};
use bittorrent_protocol::InfoHashes;
use tokio::task::{Id, JoinSet};
use tracing::Instrument as _;

use crate::error::Causes;
use crate::transport::handshake::{self, Established, HandshakeConfig, HandshakeError};

/// The end of a dial.
#[derive(Debug)]
pub(super) struct EndedDial {
    pub(super) torrent: TorrentKey,
    pub(super) addr: SocketAddr,
    pub(super) result: Result<Established, DialFailure>,
}

/// All dials of a session. The engine bounds their number.
#[derive(Debug)]
pub(super) struct Dials {
    tasks: JoinSet<Result<Established, HandshakeError>>,
    targets: HashMap<Id, (TorrentKey, SocketAddr)>,
    config: Arc<HandshakeConfig>,
}

impl Dials {
    pub(super) fn new(config: Arc<HandshakeConfig>) -> Self {
        Self {
            tasks: JoinSet::new(),
            targets: HashMap::new(),
            config,
        }
    }

    /// Starts to connect to a peer of a torrent.
    pub(super) fn start(&mut self, torrent: TorrentKey, addr: SocketAddr, hashes: InfoHashes) {
        let config = self.config.clone();
        let dial = async move { handshake::dial(&config, addr, &hashes).await };
        let span = tracing::debug_span!("dial", %addr);
        let task = self.tasks.spawn(dial.instrument(span));
        self.targets.insert(task.id(), (torrent, addr));
    }

    /// Returns the number of dials under way.
    pub(super) fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Waits for a dial to end; `None` without dials. Cancel safe.
    pub(super) async fn join_next(&mut self) -> Option<EndedDial> {
        loop {
            let (id, result) = match self.tasks.join_next_with_id().await? {
                Ok((id, result)) => (id, Some(result)),
                Err(error) => {
                    tracing::error!(%error, "a dial panicked");
                    (error.id(), None)
                }
            };
            let Some((torrent, addr)) = self.targets.remove(&id) else {
                continue;
            };
            let result = match result {
                Some(Ok(established)) => Ok(established),
                Some(Err(error)) => {
                    tracing::debug!(%addr, error = %Causes(&error), "cannot connect to a peer");
                    Err(error.dial_failure())
                }
                None => Err(DialFailure::Refused),
            };
            return Some(EndedDial {
                torrent,
                addr,
                result,
            });
        }
    }

    /// Cancels all dials.
    pub(super) async fn shutdown(&mut self) {
        self.tasks.shutdown().await;
    }
}
