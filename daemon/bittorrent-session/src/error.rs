//! Errors that a session returns.

use std::error::Error;
use std::fmt;
use std::io;
use std::net::SocketAddr;

use bittorrent_protocol::{InfoHashV2, InfoHashes};

/// A session could not start.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// An address could not be bound.
    #[error("cannot listen on {addr}")]
    Bind {
        /// The address.
        addr: SocketAddr,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
    /// A socket passed by the service manager could not be used.
    #[error("cannot use a listening socket passed by the service manager")]
    Inherit(#[source] io::Error),
    /// A thread could not be started.
    #[error("cannot start the disk threads")]
    Threads(#[source] io::Error),
    /// The system returned no random bytes.
    #[error("the system returned no random bytes")]
    Random(#[source] io::Error),
}

/// A torrent could not be added or given its content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// The session has a torrent with one of these hashes already.
    #[error("the session already has torrent {0}")]
    Exists(InfoHashV2),
    /// The store belongs to another torrent.
    #[error("the store contains torrent {}, not {}", .found.v2, .expected.v2)]
    OtherTorrent {
        /// The torrent's hashes.
        expected: InfoHashes,
        /// The hashes in the store.
        found: InfoHashes,
    },
    /// The store's records of verified blocks could not be read.
    #[error("cannot read the store of torrent {0}; see the log")]
    Unreadable(InfoHashV2),
    /// The torrent has a store already, or it was removed.
    #[error("torrent {0} already has a store, or was removed")]
    NotWaiting(InfoHashV2),
    /// The session is shutting down.
    #[error("the session is shutting down")]
    Ending,
}

/// Displays an error and its causes in one line. `Display` of an error leaves its source out.
#[derive(Debug, Clone, Copy)]
pub struct Causes<'a>(pub &'a dyn Error);

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
