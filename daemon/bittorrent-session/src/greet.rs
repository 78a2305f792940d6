//! Handshakes on both sides of a connection, with the way from v1 to v2 (BEP 52, "upgrade path").
//!
//! A peer that dials under the v1 hash of a hybrid and offers v2 is answered under the truncated
//! v2 hash; both sides then take the connection for a v2 one. We dial under the v2 hash, and once
//! more under the v1 hash when a hybrid's peer closes without an answer. Where encryption is allowed,
//! what was tried in plain text is then tried again behind an encrypted handshake.

mod encrypt;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bittorrent_engine::{DialFailure, Direction, Link, TorrentKey};
use bittorrent_protocol::mse::{HiddenSwarm, MseError};
use bittorrent_protocol::wire::{
    HANDSHAKE_LEN, Handshake, HandshakeError, OPENING_LEN, Opening, Reserved,
};
use bittorrent_protocol::{InfoHashes, PeerId, SwarmHash};
use tokio::net::TcpStream;
use tokio::time::timeout;

pub use encrypt::{Encryption, EncryptionPolicy};

use crate::peer::Greeted;
use encrypt::Wire;

/// What we offer; v2 only where a v1 hash opens the connection.
const OFFER: Reserved = Reserved {
    extended: true,
    fast: true,
    dht: false,
    v2: false,
};

/// No connection came about.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GreetError {
    #[error("cannot connect")]
    Connect(#[source] io::Error),
    #[error("the connection broke during the handshake")]
    Socket(#[source] io::Error),
    #[error("the peer closed the connection during the handshake")]
    Closed,
    #[error("no whole handshake in time")]
    Slow,
    #[error("the peer does not speak our protocol")]
    Handshake(#[source] HandshakeError),
    #[error("the encrypted handshake failed")]
    Encryption(#[source] MseError),
    #[error("the peer speaks plain text, and peer.encryption is \"require\"")]
    Plain,
    #[error("the peer names a swarm that is not one of ours in its encrypted handshake")]
    HiddenSwarm,
    #[error("the host began too many encrypted handshakes lately")]
    TooManyEncrypted,
    #[error("no random bytes for an encrypted handshake")]
    Random(#[source] getrandom::Error),
    #[error("the peer answers for swarm {0}, which was not asked for")]
    OtherSwarm(SwarmHash),
    #[error("swarm {0} is not one of ours, or the peer is not welcome")]
    NotWelcome(SwarmHash),
    #[error("the connection leads to ourselves")]
    Ourselves,
}

impl GreetError {
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
            | Self::NotWelcome(_) => DialFailure::Refused,
            Self::Ourselves => DialFailure::Ourselves,
        }
    }
}

/// How to greet.
#[derive(Debug, Clone)]
pub(crate) struct Manners {
    pub(crate) peer_id: PeerId,
    pub(crate) connect_timeout: Duration,
    pub(crate) handshake_timeout: Duration,
    pub(crate) encryption: EncryptionPolicy,
}

/// How to answer a peer that named one of our swarms.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Welcome {
    pub(crate) torrent: TorrentKey,
    /// The hash to answer under.
    pub(crate) swarm: SwarmHash,
    pub(crate) link: Link,
}

/// Connects and shakes hands.
pub(crate) async fn dial(
    manners: &Manners,
    addr: SocketAddr,
    hashes: &InfoHashes,
) -> Result<Greeted, GreetError> {
    // It may know the torrent by its v1 hash only, as clients without v2 do.
    let links: &[Link] = match hashes.v1 {
        Some(_) => &[Link::V2, Link::V1],
        None => &[Link::V2],
    };
    let mut first = None;
    for hide in manners.encryption.ways() {
        for link in links {
            match dial_under(manners, addr, hashes, *link, *hide).await {
                // The peer may have been asked in a way that it does not know.
                Err(error @ (GreetError::Closed | GreetError::Socket(_))) => {
                    first.get_or_insert(error);
                }
                Ok(greeted) => return Ok(greeted),
                // What a peer that closed before makes of noise says little about it.
                Err(error) => return Err(first.unwrap_or(error)),
            }
        }
    }
    Err(first.unwrap_or(GreetError::Closed))
}

async fn dial_under(
    manners: &Manners,
    addr: SocketAddr,
    hashes: &InfoHashes,
    link: Link,
    hide: bool,
) -> Result<Greeted, GreetError> {
    let stream = timeout(manners.connect_timeout, TcpStream::connect(addr))
        .await
        .map_err(|_| GreetError::Slow)?
        .map_err(GreetError::Connect)?;
    prepare(&stream)?;
    let v2 = hashes.v2.truncated();
    let (swarm, reserved) = match (link, hashes.v1) {
        (Link::V1, Some(v1)) => (SwarmHash::from(v1), Reserved { v2: true, ..OFFER }),
        _ => (v2, OFFER),
    };
    timeout(manners.handshake_timeout, async {
        let mut wire = Wire::new(stream);
        let ours = Handshake {
            reserved,
            swarm,
            peer_id: manners.peer_id,
        };
        if hide {
            wire.begin(swarm, manners.encryption, &ours.encode())
                .await?;
        } else {
            wire.send(&ours.encode()).await?;
        }
        let mut bytes = [0; HANDSHAKE_LEN];
        let (_, opening) = read_opening(&mut wire, &mut bytes).await;
        let opening = opening?;
        let link = match opening.swarm {
            // Answered under v2, whichever hash we named.
            hash if hash == v2 => Link::V2,
            hash if hash == swarm => Link::V1,
            other => return Err(GreetError::OtherSwarm(other)),
        };
        let peer_id = read_peer_id(&mut wire, &mut bytes).await?;
        let whom = (addr, Direction::Outgoing);
        greeted(manners, wire, whom, opening, peer_id, link)
    })
    .await
    .map_err(|_| GreetError::Slow)?
}

/// Finds our torrents for peers that connected.
pub(crate) trait Reception {
    /// Whether the peer may begin an encrypted handshake; each costs a key exchange.
    fn may_encrypt(&self) -> bool;

    /// The swarm of ours that has this name.
    async fn find(&self, name: HiddenSwarm) -> Option<SwarmHash>;

    /// Whether and how to answer a peer that named its swarm.
    async fn welcome(&self, opening: Opening) -> Option<Welcome>;
}

/// Answers a peer that connected.
pub(crate) async fn answer(
    manners: &Manners,
    stream: TcpStream,
    addr: SocketAddr,
    reception: &impl Reception,
) -> Result<(TorrentKey, Greeted), GreetError> {
    prepare(&stream)?;
    timeout(manners.handshake_timeout, async {
        let mut wire = Wire::new(stream);
        let mut bytes = [0; HANDSHAKE_LEN];
        let mut opening = read_opening(&mut wire, &mut bytes).await;
        // What cannot begin a plain handshake may be the beginning of an encrypted one.
        if let (read, Err(GreetError::Handshake(_))) = opening
            && manners.encryption != EncryptionPolicy::Off
        {
            if !reception.may_encrypt() {
                return Err(GreetError::TooManyEncrypted);
            }
            let (first, _) = bytes.split_at(read);
            wire.respond(first, manners.encryption, reception).await?;
            opening = read_opening(&mut wire, &mut bytes).await;
        }
        let (_, opening) = opening;
        let mut opening = opening?;
        match wire.encryption() {
            Encryption::None if manners.encryption == EncryptionPolicy::Require => {
                return Err(GreetError::Plain);
            }
            Encryption::None => {}
            // The swarm's hash is a key of this connection already: libtorrent does not know it as
            // a v2 one afterwards.
            Encryption::Handshake | Encryption::Rc4 => opening.reserved.v2 = false,
        }
        let Some(Welcome {
            torrent,
            swarm,
            link,
        }) = reception.welcome(opening).await
        else {
            return Err(GreetError::NotWelcome(opening.swarm));
        };
        let ours = Handshake {
            reserved: OFFER,
            swarm,
            peer_id: manners.peer_id,
        };
        wire.send(&ours.encode()).await?;
        let peer_id = read_peer_id(&mut wire, &mut bytes).await?;
        let whom = (addr, Direction::Incoming);
        greeted(manners, wire, whom, opening, peer_id, link).map(|greeted| (torrent, greeted))
    })
    .await
    .map_err(|_| GreetError::Slow)?
}

fn prepare(stream: &TcpStream) -> Result<(), GreetError> {
    // Small messages are batched by us.
    stream.set_nodelay(true).map_err(GreetError::Socket)
}

/// Reads up to the swarm's hash, and nothing of what follows; says how much was read. Bytes that
/// cannot begin a handshake are refused as soon as they are there: who sends them, mostly to
/// encrypt, dials again in plain text at once when we close, and waits long when we do not.
async fn read_opening(
    wire: &mut Wire,
    bytes: &mut [u8; HANDSHAKE_LEN],
) -> (usize, Result<Opening, GreetError>) {
    let mut have = 0;
    loop {
        let Some(room) = bytes.get_mut(have..OPENING_LEN) else {
            return (have, Err(GreetError::Closed));
        };
        match wire.read(room).await {
            Ok(0) => return (have, Err(GreetError::Closed)),
            Ok(read) => have += read,
            Err(error) => return (have, Err(GreetError::Socket(error))),
        }
        let (opening, _) = bytes.split_at(have);
        match Opening::decode(opening) {
            Ok(None) => {}
            Ok(Some(opening)) => return (have, Ok(opening)),
            Err(error) => return (have, Err(GreetError::Handshake(error))),
        }
    }
}

async fn read_peer_id(
    wire: &mut Wire,
    bytes: &mut [u8; HANDSHAKE_LEN],
) -> Result<PeerId, GreetError> {
    let mut have = OPENING_LEN;
    while let Some(room) = bytes.get_mut(have..).filter(|room| !room.is_empty()) {
        match wire.read(room).await.map_err(GreetError::Socket)? {
            0 => return Err(GreetError::Closed),
            read => have += read,
        }
    }
    match Handshake::decode(bytes).map_err(GreetError::Handshake)? {
        Some(handshake) => Ok(handshake.peer_id),
        None => Err(GreetError::Closed),
    }
}

fn greeted(
    manners: &Manners,
    wire: Wire,
    (addr, direction): (SocketAddr, Direction),
    opening: Opening,
    peer_id: PeerId,
    link: Link,
) -> Result<Greeted, GreetError> {
    if peer_id == manners.peer_id {
        return Err(GreetError::Ourselves);
    }
    let encryption = wire.encryption();
    let (stream, early) = wire.into_parts();
    Ok(Greeted {
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

/// The address as IPv4 where it is one: a socket for both families shows such peers as mapped.
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
