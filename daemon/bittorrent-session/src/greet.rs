//! Handshakes on both sides of a connection, with the way from v1 to v2 (BEP 52, "upgrade path").
//!
//! A peer that dials under the v1 hash of a hybrid and offers v2 is answered under the truncated
//! v2 hash; both sides then take the connection for a v2 one. We dial under the v2 hash, and once
//! more under the v1 hash when a hybrid's peer closes without an answer.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bittorrent_engine::{DialFailure, Direction, Link, TorrentKey};
use bittorrent_protocol::wire::{
    HANDSHAKE_LEN, Handshake, HandshakeError, OPENING_LEN, Opening, Reserved,
};
use bittorrent_protocol::{InfoHashes, PeerId, SwarmHash};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::peer::Greeted;

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
            Self::Handshake(_) | Self::OtherSwarm(_) | Self::NotWelcome(_) => DialFailure::Refused,
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
    match dial_under(manners, addr, hashes, Link::V2).await {
        // It may know the torrent by its v1 hash only, as clients without v2 do.
        Err(GreetError::Closed | GreetError::Socket(_)) if hashes.v1.is_some() => {
            dial_under(manners, addr, hashes, Link::V1).await
        }
        result => result,
    }
}

async fn dial_under(
    manners: &Manners,
    addr: SocketAddr,
    hashes: &InfoHashes,
    link: Link,
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
        let mut stream = stream;
        let ours = Handshake {
            reserved,
            swarm,
            peer_id: manners.peer_id,
        };
        stream
            .write_all(&ours.encode())
            .await
            .map_err(GreetError::Socket)?;
        let mut bytes = [0; HANDSHAKE_LEN];
        let opening = read_opening(&mut stream, &mut bytes).await?;
        let link = match opening.swarm {
            // Answered under v2, whichever hash we named.
            hash if hash == v2 => Link::V2,
            hash if hash == swarm => Link::V1,
            other => return Err(GreetError::OtherSwarm(other)),
        };
        let peer_id = read_peer_id(&mut stream, &mut bytes).await?;
        greeted(
            manners,
            stream,
            addr,
            Direction::Outgoing,
            opening,
            peer_id,
            link,
        )
    })
    .await
    .map_err(|_| GreetError::Slow)?
}

/// Answers a peer that connected. `welcome` is asked once the peer named its swarm.
pub(crate) async fn answer<F>(
    manners: &Manners,
    stream: TcpStream,
    addr: SocketAddr,
    welcome: impl FnOnce(Opening) -> F,
) -> Result<(TorrentKey, Greeted), GreetError>
where
    F: Future<Output = Option<Welcome>>,
{
    prepare(&stream)?;
    timeout(manners.handshake_timeout, async {
        let mut stream = stream;
        let mut bytes = [0; HANDSHAKE_LEN];
        let opening = read_opening(&mut stream, &mut bytes).await?;
        let Some(Welcome {
            torrent,
            swarm,
            link,
        }) = welcome(opening).await
        else {
            return Err(GreetError::NotWelcome(opening.swarm));
        };
        let ours = Handshake {
            reserved: OFFER,
            swarm,
            peer_id: manners.peer_id,
        };
        stream
            .write_all(&ours.encode())
            .await
            .map_err(GreetError::Socket)?;
        let peer_id = read_peer_id(&mut stream, &mut bytes).await?;
        greeted(
            manners,
            stream,
            addr,
            Direction::Incoming,
            opening,
            peer_id,
            link,
        )
        .map(|greeted| (torrent, greeted))
    })
    .await
    .map_err(|_| GreetError::Slow)?
}

fn prepare(stream: &TcpStream) -> Result<(), GreetError> {
    // Small messages are batched by us.
    stream.set_nodelay(true).map_err(GreetError::Socket)
}

/// Reads up to the swarm's hash, and nothing of what follows. Bytes that cannot begin a handshake
/// are refused as soon as they are there: who sends them, mostly to encrypt, dials again in plain
/// text at once when we close, and waits long when we do not.
async fn read_opening(
    stream: &mut TcpStream,
    bytes: &mut [u8; HANDSHAKE_LEN],
) -> Result<Opening, GreetError> {
    let mut have = 0;
    loop {
        let Some(room) = bytes.get_mut(have..OPENING_LEN) else {
            return Err(GreetError::Closed);
        };
        match stream.read(room).await.map_err(GreetError::Socket)? {
            0 => return Err(GreetError::Closed),
            read => have += read,
        }
        let (opening, _) = bytes.split_at(have);
        if let Some(opening) = Opening::decode(opening).map_err(GreetError::Handshake)? {
            return Ok(opening);
        }
    }
}

async fn read_peer_id(
    stream: &mut TcpStream,
    bytes: &mut [u8; HANDSHAKE_LEN],
) -> Result<PeerId, GreetError> {
    let (_, rest) = bytes.split_at_mut(OPENING_LEN);
    stream
        .read_exact(rest)
        .await
        .map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => GreetError::Closed,
            _ => GreetError::Socket(error),
        })?;
    match Handshake::decode(bytes).map_err(GreetError::Handshake)? {
        Some(handshake) => Ok(handshake.peer_id),
        None => Err(GreetError::Closed),
    }
}

fn greeted(
    manners: &Manners,
    stream: TcpStream,
    addr: SocketAddr,
    direction: Direction,
    opening: Opening,
    peer_id: PeerId,
    link: Link,
) -> Result<Greeted, GreetError> {
    if peer_id == manners.peer_id {
        return Err(GreetError::Ourselves);
    }
    Ok(Greeted {
        stream,
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
