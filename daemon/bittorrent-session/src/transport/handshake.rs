//! Handshakes of both sides of a connection, including the upgrade from v1 to v2 (BEP 52, "upgrade
//! path").
//!
//! A peer that names the v1 hash of a hybrid and offers v2 is answered with the truncated v2 hash;
//! both sides then treat the connection as a v2 one. We name the v2 hash, and try the v1 hash when
//! a hybrid's peer closes without an answer. Where encryption is allowed, failed plain handshakes
//! are retried encrypted.

mod encrypt;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bittorrent_engine::{DialFailure, Direction, Link, TorrentKey};
use bittorrent_protocol::mse::{HiddenSwarm, MseError};
use bittorrent_protocol::wire::{
    HANDSHAKE_LEN, Handshake, HandshakeError as MalformedHandshake, OPENING_LEN, Opening, Reserved,
};
use bittorrent_protocol::{InfoHashes, PeerId, SwarmHash};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub use encrypt::{Encryption, EncryptionPolicy};

use super::stream::PeerStream;
use encrypt::Wire;

/// The extensions we offer; v2 only where a v1 hash opens the connection.
const OFFER: Reserved = Reserved {
    extended: true,
    fast: true,
    dht: false,
    v2: false,
};

/// Time limit for a TCP connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A handshake failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("the connection broke during the handshake")]
    Socket(#[source] io::Error),
    #[error("the peer closed the connection during the handshake")]
    Closed,
    #[error("the handshake timed out")]
    Slow,
    #[error("the peer does not use the BitTorrent protocol")]
    Handshake(#[source] MalformedHandshake),
    #[error("the encrypted handshake failed")]
    Encryption(#[source] MseError),
    #[error("the peer sent a plain handshake, and peer.encryption is \"require\"")]
    Plain,
    #[error("the peer named an unknown swarm in its encrypted handshake")]
    HiddenSwarm,
    #[error("the host began too many encrypted handshakes recently")]
    TooManyEncrypted,
    #[error("no random bytes for an encrypted handshake")]
    Random(#[source] getrandom::Error),
    #[error("the peer answered for another swarm, {0}")]
    OtherSwarm(SwarmHash),
    #[error("swarm {0} is unknown, or the peer is refused")]
    NotAccepted(SwarmHash),
    #[error("the peer is this client itself")]
    Ourselves,
}

impl HandshakeError {
    pub(crate) const fn dial_failure(&self) -> DialFailure {
        match self {
            Self::Connect(_) | Self::Slow => DialFailure::Unreachable,
            Self::Socket(_) | Self::Closed => DialFailure::ClosedEarly,
            Self::Handshake(_)
            | Self::Encryption(_)
            | Self::Plain
            | Self::HiddenSwarm
            | Self::TooManyEncrypted
            | Self::Random(_)
            | Self::OtherSwarm(_)
            | Self::NotAccepted(_) => DialFailure::Refused,
            Self::Ourselves => DialFailure::Ourselves,
        }
    }
}

/// A connection whose handshakes are done.
#[derive(Debug)]
pub(crate) struct Established {
    pub(crate) stream: PeerStream,
    /// Bytes that the peer sent after its handshake.
    pub(crate) early: Vec<u8>,
    pub(crate) encryption: Encryption,
    pub(crate) addr: SocketAddr,
    pub(crate) direction: Direction,
    pub(crate) peer_id: PeerId,
    pub(crate) fast: bool,
    pub(crate) extended: bool,
    pub(crate) link: Link,
}

/// Identity and limits of our handshakes.
#[derive(Debug, Clone)]
pub(crate) struct HandshakeConfig {
    pub(crate) peer_id: PeerId,
    pub(crate) handshake_timeout: Duration,
    pub(crate) encryption: EncryptionPolicy,
}

/// The answer to a peer that named a swarm of ours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Acceptance {
    pub(crate) torrent: TorrentKey,
    /// The hash to answer with.
    pub(crate) swarm: SwarmHash,
    pub(crate) link: Link,
}

/// Connects to a peer and performs the handshake.
pub(crate) async fn dial(
    handshake_config: &HandshakeConfig,
    addr: SocketAddr,
    hashes: &InfoHashes,
) -> Result<Established, HandshakeError> {
    // The peer may know only the v1 hash, as clients without v2 do.
    let links: &[Link] = match hashes.v1 {
        Some(_) => &[Link::V2, Link::V1],
        None => &[Link::V2],
    };
    let mut first = None;
    for hide in handshake_config.encryption.ways() {
        for link in links {
            match dial_under(handshake_config, addr, hashes, *link, *hide).await {
                // The peer may not support this kind of handshake.
                Err(error @ (HandshakeError::Closed | HandshakeError::Socket(_))) => {
                    first.get_or_insert(error);
                }
                Ok(established) => return Ok(established),
                // After an early close, the error of a later attempt is less informative.
                Err(error) => return Err(first.unwrap_or(error)),
            }
        }
    }
    Err(first.unwrap_or(HandshakeError::Closed))
}

async fn dial_under(
    handshake_config: &HandshakeConfig,
    addr: SocketAddr,
    hashes: &InfoHashes,
    link: Link,
    hide: bool,
) -> Result<Established, HandshakeError> {
    let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(addr))
        .await
        .map_err(|_| HandshakeError::Slow)?
        .map_err(HandshakeError::Connect)?;
    prepare(&stream)?;
    let v2 = hashes.v2.truncated();
    let (swarm, reserved) = match (link, hashes.v1) {
        (Link::V1, Some(v1)) => (SwarmHash::from(v1), Reserved { v2: true, ..OFFER }),
        _ => (v2, OFFER),
    };
    timeout(handshake_config.handshake_timeout, async {
        let mut wire = Wire::new(stream);
        let ours = Handshake {
            reserved,
            swarm,
            peer_id: handshake_config.peer_id,
        };
        if hide {
            wire.initiate(swarm, handshake_config.encryption, &ours.encode())
                .await?;
        } else {
            wire.send(&ours.encode()).await?;
        }
        let mut bytes = [0; HANDSHAKE_LEN];
        let (_, opening) = read_opening(&mut wire, &mut bytes).await;
        let opening = opening?;
        let link = match opening.swarm {
            // Answered with v2, whichever hash we named.
            hash if hash == v2 => Link::V2,
            hash if hash == swarm => Link::V1,
            other => return Err(HandshakeError::OtherSwarm(other)),
        };
        let peer_id = read_peer_id(&mut wire, &mut bytes).await?;
        let whom = (addr, Direction::Outgoing);
        established(handshake_config, wire, whom, opening, peer_id, link)
    })
    .await
    .map_err(|_| HandshakeError::Slow)?
}

/// Looks up torrents for peers that have connected.
pub(crate) trait SwarmDirectory {
    /// Returns whether the peer may begin an encrypted handshake; each costs a key exchange.
    fn may_encrypt(&self) -> bool;

    /// Returns the swarm of the session that has this name.
    async fn find(&self, name: HiddenSwarm) -> Option<SwarmHash>;

    /// Decides whether and how to answer a peer that named its swarm.
    async fn accept(&self, opening: Opening) -> Option<Acceptance>;
}

/// Performs the handshake with a peer that has connected.
pub(crate) async fn answer(
    handshake_config: &HandshakeConfig,
    stream: TcpStream,
    addr: SocketAddr,
    directory: &impl SwarmDirectory,
) -> Result<(TorrentKey, Established), HandshakeError> {
    prepare(&stream)?;
    timeout(handshake_config.handshake_timeout, async {
        let mut wire = Wire::new(stream);
        let mut bytes = [0; HANDSHAKE_LEN];
        let mut opening = read_opening(&mut wire, &mut bytes).await;
        // Bytes that cannot begin a plain handshake may begin an encrypted one.
        if let (read, Err(HandshakeError::Handshake(_))) = opening
            && handshake_config.encryption != EncryptionPolicy::Off
        {
            if !directory.may_encrypt() {
                return Err(HandshakeError::TooManyEncrypted);
            }
            let (first, _) = bytes.split_at(read);
            wire.respond(first, handshake_config.encryption, directory)
                .await?;
            opening = read_opening(&mut wire, &mut bytes).await;
        }
        let (_, opening) = opening;
        let mut opening = opening?;
        match wire.encryption() {
            Encryption::None if handshake_config.encryption == EncryptionPolicy::Require => {
                return Err(HandshakeError::Plain);
            }
            Encryption::None => {}
            // The swarm's hash is already part of the connection's key: libtorrent does not accept
            // it as a v2 hash afterwards.
            Encryption::Handshake | Encryption::Rc4 => opening.reserved.v2 = false,
        }
        let Some(Acceptance {
            torrent,
            swarm,
            link,
        }) = directory.accept(opening).await
        else {
            return Err(HandshakeError::NotAccepted(opening.swarm));
        };
        let ours = Handshake {
            reserved: OFFER,
            swarm,
            peer_id: handshake_config.peer_id,
        };
        wire.send(&ours.encode()).await?;
        let peer_id = read_peer_id(&mut wire, &mut bytes).await?;
        let whom = (addr, Direction::Incoming);
        established(handshake_config, wire, whom, opening, peer_id, link)
            .map(|established| (torrent, established))
    })
    .await
    .map_err(|_| HandshakeError::Slow)?
}

fn prepare(stream: &TcpStream) -> Result<(), HandshakeError> {
    // We batch small messages ourselves.
    stream.set_nodelay(true).map_err(HandshakeError::Socket)
}

/// Reads up to the swarm's hash and nothing beyond. Returns how much was read. Bytes that cannot
/// begin a handshake are rejected at once: a peer that tries encryption dials again in plain text
/// when we close, and waits long when we do not.
async fn read_opening(
    wire: &mut Wire,
    bytes: &mut [u8; HANDSHAKE_LEN],
) -> (usize, Result<Opening, HandshakeError>) {
    let mut have = 0;
    loop {
        let Some(room) = bytes.get_mut(have..OPENING_LEN) else {
            return (have, Err(HandshakeError::Closed));
        };
        match wire.read(room).await {
            Ok(0) => return (have, Err(HandshakeError::Closed)),
            Ok(read) => have += read,
            Err(error) => return (have, Err(HandshakeError::Socket(error))),
        }
        let (opening, _) = bytes.split_at(have);
        match Opening::decode(opening) {
            Ok(None) => {}
            Ok(Some(opening)) => return (have, Ok(opening)),
            Err(error) => return (have, Err(HandshakeError::Handshake(error))),
        }
    }
}

async fn read_peer_id(
    wire: &mut Wire,
    bytes: &mut [u8; HANDSHAKE_LEN],
) -> Result<PeerId, HandshakeError> {
    let mut have = OPENING_LEN;
    while let Some(room) = bytes.get_mut(have..).filter(|room| !room.is_empty()) {
        match wire.read(room).await.map_err(HandshakeError::Socket)? {
            0 => return Err(HandshakeError::Closed),
            read => have += read,
        }
    }
    match Handshake::decode(bytes).map_err(HandshakeError::Handshake)? {
        Some(handshake) => Ok(handshake.peer_id),
        None => Err(HandshakeError::Closed),
    }
}

fn established(
    handshake_config: &HandshakeConfig,
    wire: Wire,
    (addr, direction): (SocketAddr, Direction),
    opening: Opening,
    peer_id: PeerId,
    link: Link,
) -> Result<Established, HandshakeError> {
    if peer_id == handshake_config.peer_id {
        return Err(HandshakeError::Ourselves);
    }
    let encryption = wire.encryption();
    let (stream, early) = wire.into_parts();
    Ok(Established {
        stream,
        early,
        encryption,
        addr,
        direction,
        peer_id,
        fast: opening.reserved.fast,
        extended: opening.reserved.extended,
        link,
    })
}

/// Returns the address as IPv4 if it is one: a socket for both families reports such peers as
/// mapped addresses.
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_addresses_become_plain_ones() {
        let mapped = "[::ffff:192.0.2.1]:6881".parse().unwrap();
        assert_eq!(canonical(mapped), "192.0.2.1:6881".parse().unwrap());
        let v6 = "[2001:db8::1]:6881".parse().unwrap();
        assert_eq!(canonical(v6), v6);
    }
}
