//! Commands for the running mirror: HTTP and JSON over a Unix socket, and the channel from the server to the mirror's loop.

mod api;
pub(crate) mod dht;

use bittorrent_protocol::InfoHashV2;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

pub(crate) use api::Api;

use crate::config::Reloaded;

/// Requests in the queue of the mirror's loop, at most.
pub(crate) const WAITING: usize = 16;

/// A request to the mirror's loop.
#[derive(Debug)]
pub(crate) enum Request {
    /// Check the store and look up the pointers now.
    Refresh(Reply<()>),
    /// Read the configuration again.
    Reload(Reply<Reloaded>),
    /// Seed a snapshot that another process has put into the store.
    AddSnapshot(InfoHashV2, Reply<Added>),
    /// Scrub a seeded snapshot from its start, before those that are due.
    Scrub(InfoHashV2, Reply<()>),
}

/// The channel for the answer. The client may have disconnected; then the answer is dropped.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, Denied>>;

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Denied {
    /// The store has no such snapshot.
    Unknown(String),
    /// The snapshot is not in the state that the request needs.
    Unfit(String),
}

/// The answer to [`Request::AddSnapshot`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Added {
    /// Whether the mirror already seeded it.
    pub(crate) before: bool,
}

/// The receiving end of the queue.
pub(crate) type Requests = mpsc::Receiver<Request>;

/// Creates the queue from the servers to the mirror's loop.
pub(crate) fn requests() -> (mpsc::Sender<Request>, Requests) {
    mpsc::channel(WAITING)
}
