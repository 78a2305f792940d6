//! The open connections: their handles, their tasks, and the instructions of this turn.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bittorrent_engine::{PeerKey, TorrentKey};
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use crate::link::{Instruction, LinkEnd, PeerContext, PeerHandle};
use crate::peer::PeerError;
use crate::transport::handshake::Encryption;
use crate::transport::rate_limit::Throttles;
use crate::web_seed::WebSeedError;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error(transparent)]
    Peer(#[from] PeerError),
    #[error("the web seed failed")]
    WebSeed(#[source] WebSeedError),
}

/// The result of a connection's task.
pub(super) type TaskResult = Result<(Id, Result<(), LinkError>), JoinError>;

/// A connection whose task has ended.
#[derive(Debug)]
pub(super) struct EndedConnection {
    pub(super) peer: PeerKey,
    /// The remote address, unless the driver closed the connection.
    pub(super) addr: Option<SocketAddr>,
    pub(super) result: Result<Result<(), LinkError>, JoinError>,
}

/// All connections of a session.
#[derive(Debug)]
pub(super) struct Connections {
    handles: HashMap<PeerKey, PeerHandle>,
    /// Connections with instructions of this turn.
    addressed: Vec<PeerKey>,
    tasks: JoinSet<Result<(), LinkError>>,
    keys: HashMap<Id, PeerKey>,
    context: Arc<PeerContext>,
    cancel: CancellationToken,
}

impl Connections {
    pub(super) fn new(context: Arc<PeerContext>, cancel: CancellationToken) -> Self {
        Self {
            handles: HashMap::new(),
            addressed: Vec::new(),
            tasks: JoinSet::new(),
            keys: HashMap::new(),
            context,
            cancel,
        }
    }

    /// Starts the task of a connection, which is `run` with its end of the link.
    pub(super) fn start<F>(
        &mut self,
        key: PeerKey,
        remote: (SocketAddr, Encryption),
        throttles: Throttles,
        span: Span,
        run: impl FnOnce(LinkEnd) -> F,
    ) where
        F: Future<Output = Result<(), LinkError>> + Send + 'static,
    {
        let cancel = self.cancel.child_token();
        let (handle, end) = PeerHandle::open(key, remote, throttles, cancel, self.context.clone());
        let task = self.tasks.spawn(run(end).instrument(span));
        self.keys.insert(task.id(), key);
        self.handles.insert(key, handle);
    }

    /// Adds an instruction for one connection to this turn.
    pub(super) fn instruct(&mut self, peer: PeerKey, instruction: Instruction) {
        if let Some(handle) = self.handles.get_mut(&peer)
            && handle.push(instruction)
        {
            self.addressed.push(peer);
        }
    }

    /// Adds an instruction for all connections, or for those of one torrent, to this turn.
    pub(super) fn instruct_all(
        &mut self,
        torrent: Option<TorrentKey>,
        make: impl Fn() -> Instruction,
    ) {
        let concerned = self
            .handles
            .iter_mut()
            .filter(|(peer, _)| torrent.is_none_or(|torrent| peer.torrent() == torrent));
        for (peer, handle) in concerned {
            if handle.push(make()) {
                self.addressed.push(*peer);
            }
        }
    }

    /// Delivers the instructions of this turn, one batch for each connection. Closes connections that
    /// do not take theirs, and returns them.
    pub(super) fn deliver(&mut self) -> Vec<PeerKey> {
        let mut closed = Vec::new();
        while let Some(peer) = self.addressed.pop() {
            let Some(handle) = self.handles.get_mut(&peer) else {
                continue;
            };
            if handle.deliver().is_err() {
                tracing::error!(peer = %handle.addr(), "closing a connection whose task takes no instructions");
                self.disconnect(peer);
                closed.push(peer);
            }
        }
        closed
    }

    /// Closes a connection. The caller reports it to the engine.
    pub(super) fn disconnect(&mut self, peer: PeerKey) {
        if let Some(handle) = self.handles.remove(&peer) {
            handle.close();
        }
    }

    /// Returns the remote address of an open connection.
    pub(super) fn addr(&self, peer: PeerKey) -> Option<SocketAddr> {
        self.handles.get(&peer).map(PeerHandle::addr)
    }

    /// Returns how a connection is encrypted.
    pub(super) fn encryption(&self, peer: PeerKey) -> Encryption {
        let handle = self.handles.get(&peer);
        handle.map_or(Encryption::None, PeerHandle::encryption)
    }

    /// Returns the number of open connections.
    pub(super) fn open(&self) -> usize {
        self.handles.len()
    }

    /// Returns the number of tasks that have not been joined.
    pub(super) fn tasks(&self) -> usize {
        self.tasks.len()
    }

    /// Waits for a task to end; `None` without tasks. Cancel safe.
    pub(super) async fn join_next(&mut self) -> Option<TaskResult> {
        self.tasks.join_next_with_id().await
    }

    /// Removes the connection of a task that has ended.
    pub(super) fn remove_ended(&mut self, result: TaskResult) -> Option<EndedConnection> {
        let (id, result) = match result {
            Ok((id, result)) => (id, Ok(result)),
            Err(error) => (error.id(), Err(error)),
        };
        let peer = self.keys.remove(&id)?;
        Some(EndedConnection {
            peer,
            addr: self.handles.remove(&peer).map(|handle| handle.addr()),
            result,
        })
    }
}
