//! An announce over UDP (BEP 15).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use bittorrent_protocol::tracker::{
    Announce, Announced, ConnectionId, MAX_REPLY_LEN, Reply, ReplyError, TransactionId,
    encode_announce, encode_connect,
};
use hyper::Uri;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use super::TrackerError;

/// Time to wait for an answer before a request is sent again. It doubles with each attempt, as in
/// BEP 15.
const FIRST_WAIT: Duration = Duration::from_secs(15);

/// Attempts for one request. BEP 15 retries for an hour; we announce again later instead.
const TRIES: u32 = 2;

/// Datagrams that are parsed while waiting for one answer: others are guesses of third parties.
const MAX_OTHER_DATAGRAMS: usize = 16;

/// Announces to the first address of the tracker that answers. Returns that address.
pub(super) async fn announce(
    url: &Uri,
    announce: &Announce,
) -> Result<(Announced, SocketAddr), TrackerError> {
    let host = url.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let port = url.port_u16().unwrap_or_default();
    let found = tokio::net::lookup_host((host, port))
        .await
        .map_err(TrackerError::Resolve)?;
    // One address of each family: several of one family lead to the same tracker.
    let mut addrs: Vec<SocketAddr> = Vec::new();
    for addr in found {
        if addrs.iter().all(|other| other.is_ipv4() != addr.is_ipv4()) {
            addrs.push(addr);
        }
    }
    let mut result = Err(TrackerError::Silent);
    for addr in addrs {
        result = ask(addr, announce).await.map(|announced| (announced, addr));
        if result.is_ok() {
            break;
        }
    }
    result
}

async fn ask(tracker: SocketAddr, announce: &Announce) -> Result<Announced, TrackerError> {
    let any: IpAddr = if tracker.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0))
        .await
        .map_err(TrackerError::Socket)?;
    // From here on the socket receives datagrams of the tracker only.
    socket
        .connect(tracker)
        .await
        .map_err(TrackerError::Socket)?;
    let connection: ConnectionId = request(&socket, tracker, |transaction| {
        encode_connect(transaction).to_vec()
    })
    .await
    .and_then(|reply| match reply {
        Reply::Connected(connection) => Ok(connection),
        Reply::Refused(reason) => Err(TrackerError::Refused(reason)),
        Reply::Announced(_) => Err(TrackerError::Reply(ReplyError::Unknown(1))),
    })?;
    let reply = request(&socket, tracker, |transaction| {
        encode_announce(connection, transaction, announce)
    })
    .await?;
    match reply {
        Reply::Announced(announced) => Ok(announced),
        Reply::Refused(reason) => Err(TrackerError::Refused(reason)),
        Reply::Connected(_) => Err(TrackerError::Reply(ReplyError::Unknown(0))),
    }
}

/// Sends a request until it is answered or the attempts are used up.
async fn request(
    socket: &UdpSocket,
    tracker: SocketAddr,
    message: impl Fn(TransactionId) -> Vec<u8>,
) -> Result<Reply, TrackerError> {
    let mut buffer = vec![0; MAX_REPLY_LEN];
    for again in 0..TRIES {
        let mut random = [0; 4];
        getrandom::fill(&mut random).map_err(|error| TrackerError::Random(error.into()))?;
        let transaction = TransactionId(u32::from_be_bytes(random));
        let answer = timeout(FIRST_WAIT * 2_u32.pow(again), async {
            socket.send(&message(transaction)).await?;
            for _ in 0..MAX_OTHER_DATAGRAMS {
                let read = socket.recv(&mut buffer).await?;
                let datagram = buffer.get(..read).unwrap_or_default();
                match Reply::decode(datagram, transaction, tracker.is_ipv6()) {
                    Err(ReplyError::OtherTransaction) => {}
                    reply => return Ok(Some(reply)),
                }
            }
            Ok(None)
        });
        match answer.await {
            Ok(Ok(Some(reply))) => return reply.map_err(TrackerError::Reply),
            Ok(Err(error)) => return Err(TrackerError::Socket(error)),
            Ok(Ok(None)) | Err(_) => {}
        }
    }
    Err(TrackerError::Silent)
}
