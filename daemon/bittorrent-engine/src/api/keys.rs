//! Names of torrents and peers inside one engine.

use std::fmt;

/// Names a torrent of one [`Engine`](crate::Engine). Never given out twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TorrentKey(u64);

/// Names one connection to a peer. Never given out twice, so a late message about a connection
/// that is gone cannot be taken for one about its successor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerKey {
    torrent: TorrentKey,
    serial: u64,
}

impl PeerKey {
    /// The torrent this connection is for.
    pub const fn torrent(self) -> TorrentKey {
        self.torrent
    }
}

impl fmt::Display for TorrentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "t{}", self.0)
    }
}

impl fmt::Display for PeerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}p{}", self.torrent, self.serial)
    }
}

/// Gives out keys.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    torrents: u64,
    peers: u64,
}

impl Keys {
    pub(crate) fn torrent(&mut self) -> TorrentKey {
        self.torrents += 1;
        TorrentKey(self.torrents)
    }

    pub(crate) fn peer(&mut self, torrent: TorrentKey) -> PeerKey {
        self.peers += 1;
        PeerKey {
            torrent,
            serial: self.peers,
        }
    }
}
