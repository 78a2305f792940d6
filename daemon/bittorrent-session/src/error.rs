//! What can go wrong for the caller of a session.

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
    /// A socket handed over could not be used.
    #[error("cannot use a socket that was handed over")]
    Inherit(#[source] io::Error),
    /// A thread could not be started.
    #[error("cannot start the disk threads")]
    Threads(#[source] io::Error),
    /// The system gave no random bytes.
    #[error("the system gives no random numbers")]
    Random(#[source] io::Error),
}

/// A torrent could not be added or given its content.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddError {
    /// A torrent with one of these hashes is there already.
    #[error("torrent {0} was added already")]
    Exists(InfoHashV2),
    /// The store holds another torrent.
    #[error("the store holds torrent {}, not {}", .found.v2, .expected.v2)]
    OtherTorrent {
        /// The torrent's hashes.
        expected: InfoHashes,
        /// The store's.
        found: InfoHashes,
    },
    /// The store cannot tell what it holds.
    #[error("the store of torrent {0} cannot be read; the log says why")]
    Unreadable(InfoHashV2),
    /// The torrent has its content already, or was removed.
    #[error("torrent {0} does not wait for content")]
    NotWaiting(InfoHashV2),
    /// The session is shutting down.
    #[error("the session ends")]
    Ending,
}

/// An error and its causes in one line, for logs and people: `Display` of an error leaves its source out.
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
