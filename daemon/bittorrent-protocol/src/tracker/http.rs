//! Trackers over HTTP.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::{Announce, AnnounceEvent, Announced, Crypto, MAX_PEERS, printable};
use crate::bencode::{self, BencodeError, Dict, Limits, Node};
use crate::compact;

/// A list of the most peers, each as a dictionary of three entries.
const LIMITS: Limits = Limits {
    max_depth: 8,
    max_tokens: 10 * MAX_PEERS,
    max_len: 256 * 1024,
};

/// The longest reason; a longer one is cut.
const MAX_REASON: usize = 200;

/// An answer without peers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResponseError {
    /// It is not bencoded, or too long.
    #[error("the tracker's answer cannot be read")]
    Bencode(#[from] BencodeError),
    /// It is no dictionary.
    #[error("the tracker's answer is no dictionary")]
    NotADictionary,
    /// The tracker refused, with this reason.
    #[error("the tracker refuses: {0}")]
    Refused(String),
}

/// The query of an announce, to be put behind the tracker's URL and a `?` or `&`.
pub fn query(announce: &Announce) -> String {
    let mut query = String::with_capacity(256);
    let mut binary = |key: &str, bytes: &[u8]| {
        query.push_str(key);
        for byte in bytes {
            if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
                query.push(char::from(*byte));
            } else {
                // Writing to a string does not fail.
                let _ = write!(query, "%{byte:02X}");
            }
        }
    };
    binary("info_hash=", announce.swarm.as_bytes());
    binary("&peer_id=", announce.peer_id.as_bytes());
    let Announce {
        port,
        uploaded,
        downloaded,
        left,
        key,
        want,
        ..
    } = announce;
    let _ = write!(
        query,
        "&port={port}&uploaded={uploaded}&downloaded={downloaded}&left={left}\
         &key={key:08X}&numwant={want}&compact=1&no_peer_id=1"
    );
    query.push_str(match announce.crypto {
        Crypto::None => "",
        Crypto::Supported => "&supportcrypto=1",
        Crypto::Required => "&supportcrypto=1&requirecrypto=1",
    });
    query.push_str(match announce.event {
        AnnounceEvent::Regular => "",
        AnnounceEvent::Started => "&event=started",
        AnnounceEvent::Completed => "&event=completed",
        AnnounceEvent::Stopped => "&event=stopped",
    });
    query
}

/// Reads the body of an answer.
pub fn decode_response(body: &[u8]) -> Result<Announced, ResponseError> {
    let decoded = bencode::decode_saturating(body, &LIMITS)?;
    let root = decoded
        .root
        .as_dict()
        .ok_or(ResponseError::NotADictionary)?;
    if let Some(reason) = root.bytes("failure reason") {
        let reason = reason.get(..MAX_REASON).unwrap_or(reason);
        return Err(ResponseError::Refused(printable(reason)));
    }
    let seconds = |key| root.int(key).and_then(|secs| u64::try_from(secs).ok());
    let interval = seconds("interval").max(seconds("min interval"));
    let mut peers = Vec::new();
    match root.get("peers") {
        Some(node) if node.as_bytes().is_some() => {
            peers.extend(compact::v4(node.as_bytes().unwrap_or_default()).take(MAX_PEERS));
        }
        Some(node) => {
            let list = node.as_list().unwrap_or_default();
            peers.extend(list.iter().filter_map(peer).take(MAX_PEERS));
        }
        None => {}
    }
    let room = MAX_PEERS - peers.len();
    peers.extend(compact::v6(root.bytes("peers6").unwrap_or_default()).take(room));
    Ok(Announced {
        interval: Duration::from_secs(interval.unwrap_or(0)),
        peers,
    })
}

/// A peer as BEP 3 has it. Host names are left out.
fn peer(node: &Node<'_>) -> Option<SocketAddr> {
    let peer: &Dict<'_> = node.as_dict()?;
    let ip: IpAddr = std::str::from_utf8(peer.bytes("ip")?).ok()?.parse().ok()?;
    let port = u16::try_from(peer.int("port")?).ok()?;
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{PeerId, SwarmHash};

    fn addrs(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn announces_look_like_libtorrents() {
        let mut announce = Announce {
            swarm: SwarmHash::from_bytes(*b"\x12\x34\xab~-._ zzzzzzzzzzzz"),
            peer_id: PeerId::from_bytes(*b"-BS0100-\xff+/=&aaaaaaa"),
            port: 6881,
            uploaded: 1,
            downloaded: 2,
            left: 3,
            event: AnnounceEvent::Started,
            key: 0xbeef,
            want: 50,
            crypto: Crypto::None,
        };
        assert_eq!(
            query(&announce),
            "info_hash=%124%AB~-._%20zzzzzzzzzzzz&peer_id=-BS0100-%FF%2B%2F%3D%26aaaaaaa\
             &port=6881&uploaded=1&downloaded=2&left=3&key=0000BEEF&numwant=50&compact=1\
             &no_peer_id=1&event=started"
        );
        announce.event = AnnounceEvent::Regular;
        assert!(query(&announce).ends_with("no_peer_id=1"));
        announce.crypto = Crypto::Supported;
        assert!(query(&announce).ends_with("no_peer_id=1&supportcrypto=1"));
        announce.crypto = Crypto::Required;
        assert!(query(&announce).ends_with("&supportcrypto=1&requirecrypto=1"));
    }

    #[test]
    fn peers_come_in_three_forms() {
        for (body, seconds, peers) in [
            (&b"de"[..], 0, &[][..]),
            (
                b"d8:intervali60e5:peers12:\xc0\x00\x02\x01\x1a\xe1\xc0\x00\x02\x02\x00\x01e",
                60,
                &["192.0.2.1:6881", "192.0.2.2:1"],
            ),
            (
                b"d8:intervali60e12:min intervali90e5:peers0:\
                  6:peers618:\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\0\x01e",
                90,
                &["[2001:db8::1]:1"],
            ),
            // A tracker without an interval.
            (b"d8:intervali99999999999999999999ee", i64::MAX as u64, &[]),
            (
                b"d8:intervali-1e5:peersld2:ip9:192.0.2.14:porti6881eed2:ip4:host4:porti1ee\
                  d2:ip11:2001:db8::27:peer id20:aaaaaaaaaaaaaaaaaaaa4:porti2eed2:ip3:::14:porti70000eeee",
                0,
                &["192.0.2.1:6881", "[2001:db8::2]:2"],
            ),
        ] {
            let announced = decode_response(body).unwrap();
            assert_eq!(announced.interval, Duration::from_secs(seconds));
            assert_eq!(announced.peers, addrs(peers));
        }
    }

    #[test]
    fn refusals_and_nonsense_are_told_apart() {
        assert_eq!(
            decode_response(b"d14:failure reason7:n\xc3\xb6\x1b[2Je"),
            Err(ResponseError::Refused("n\u{f6}\u{fffd}[2J".to_owned()))
        );
        assert_eq!(decode_response(b"le"), Err(ResponseError::NotADictionary));
        for body in [&b""[..], b"<html>", b"d8:interval"] {
            assert!(matches!(
                decode_response(body),
                Err(ResponseError::Bencode(_))
            ));
        }
        let many = [b"d5:peers60000:", &[1; 60_000][..], b"e"].concat();
        assert_eq!(decode_response(&many).unwrap().peers.len(), MAX_PEERS);
    }

    proptest! {
        #[test]
        fn nothing_panics(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_response(&body);
        }
    }
}
