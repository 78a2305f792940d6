//! Commands for the running mirror: a Unix socket that speaks HTTP and JSON, and the way from there to
//! the mirror's loop.

mod api;
pub(crate) mod dht;

use bittorrent_protocol::InfoHashV2;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

pub(crate) use api::Api;

use crate::config::Reloaded;

/// Requests that may wait for the mirror's loop.
pub(crate) const WAITING: usize = 16;

/// What the mirror's loop may be asked.
#[derive(Debug)]
pub(crate) enum Request {
    /// Look at the store and at the pointers now.
    Refresh(Reply<()>),
    /// Read the configuration again.
    Reload(Reply<Reloaded>),
    /// Take up a snapshot that another process has put into the store.
    AddSnapshot(InfoHashV2, Reply<Added>),
    /// Read a seeded snapshot and compare it with its hashes, from its start, before those that are
    /// due.
    Scrub(InfoHashV2, Reply<()>),
}

/// Where the answer goes. Whoever asked may have gone; then nobody needs it.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, Denied>>;

/// A request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Denied {
    /// There is no such snapshot here.
    Unknown(String),
    /// It is there, and it is not as it must be.
    Unfit(String),
}

/// What became of a snapshot that was to be taken up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Added {
    /// It was seeded before.
    pub(crate) before: bool,
}

/// The loop's end of the way.
pub(crate) type Requests = mpsc::Receiver<Request>;

/// The way from the servers to the mirror's loop.
pub(crate) fn requests() -> (mpsc::Sender<Request>, Requests) {
    mpsc::channel(WAITING)
}
