//! Local service discovery (BEP 14): multicast datagrams in the form of HTTP requests.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};

use crate::SwarmHash;

/// The port of the multicast groups.
pub const LOCAL_PORT: u16 = 6771;

/// The multicast group of IPv4.
pub const LOCAL_GROUP_V4: Ipv4Addr = Ipv4Addr::new(239, 192, 152, 143);

/// The multicast group of IPv6.
pub const LOCAL_GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0xefc0, 0x988f);

/// The longest datagram that is parsed: one Ethernet packet.
pub const MAX_SEARCH_LEN: usize = 1_400;

/// The most swarms in one datagram.
const MAX_SWARMS: usize = 24;

/// The longest cookie; a longer one is ignored.
const MAX_COOKIE: usize = 64;

/// An announcement of swarms. Peers of these swarms should answer with one of their own, or
/// connect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalSearch {
    /// The sender's listening port, never 0. Its address is that of the datagram.
    pub port: u16,
    /// The swarms, at least one; at most 24 are read.
    pub swarms: Vec<SwarmHash>,
    /// Lets the sender recognise its own datagrams.
    pub cookie: Option<String>,
}

impl LocalSearch {
    /// Parses a datagram; returns `None` for anything else.
    pub fn decode(datagram: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(datagram.get(..MAX_SEARCH_LEN).unwrap_or(datagram)).ok()?;
        let mut lines = text.lines();
        if lines.next()? != "BT-SEARCH * HTTP/1.1" {
            return None;
        }
        let (mut port, mut swarms, mut cookie) = (None, Vec::new(), None);
        for (name, value) in lines
            .take_while(|line| !line.is_empty())
            .filter_map(|line| line.split_once(':'))
        {
            let value = value.trim();
            if name.eq_ignore_ascii_case("port") {
                port = value.parse().ok().filter(|port| *port != 0);
            } else if name.eq_ignore_ascii_case("infohash") && swarms.len() < MAX_SWARMS {
                let bytes = HEXLOWER_PERMISSIVE.decode(value.as_bytes()).ok();
                swarms.extend(bytes.and_then(|bytes| SwarmHash::from_slice(&bytes)));
            } else if name.eq_ignore_ascii_case("cookie") && value.len() <= MAX_COOKIE {
                cookie = Some(value.to_owned());
            }
        }
        Some(Self {
            port: port?,
            swarms: (!swarms.is_empty()).then_some(swarms)?,
            cookie,
        })
    }

    /// Returns the datagram for one group.
    pub fn encode(&self, group: SocketAddr) -> String {
        let mut text = format!(
            "BT-SEARCH * HTTP/1.1\r\nHost: {group}\r\nPort: {}\r\n",
            self.port
        );
        for swarm in &self.swarms {
            let hash = HEXLOWER.encode(swarm.as_bytes());
            text.push_str(&format!("Infohash: {hash}\r\n"));
        }
        if let Some(cookie) = &self.cookie {
            text.push_str(&format!("cookie: {cookie}\r\n"));
        }
        text.push_str("\r\n\r\n");
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn search(swarms: usize) -> LocalSearch {
        LocalSearch {
            port: 6881,
            swarms: (0..swarms)
                .map(|n| SwarmHash::from_bytes([n as u8; 20]))
                .collect(),
            cookie: Some("abc".to_owned()),
        }
    }

    #[test]
    fn a_search_looks_as_the_specification_has_it() {
        let group = SocketAddr::from((LOCAL_GROUP_V4, LOCAL_PORT));
        let text = search(1).encode(group);
        assert_eq!(
            text,
            "BT-SEARCH * HTTP/1.1\r\nHost: 239.192.152.143:6771\r\nPort: 6881\r\n\
             Infohash: 0000000000000000000000000000000000000000\r\ncookie: abc\r\n\r\n\r\n"
        );
        for swarms in 1..=MAX_SWARMS {
            let text = search(swarms).encode((LOCAL_GROUP_V6, LOCAL_PORT).into());
            assert!(text.len() <= MAX_SEARCH_LEN);
            assert_eq!(LocalSearch::decode(text.as_bytes()), Some(search(swarms)));
        }
        let many = search(100).encode(group);
        let read = LocalSearch::decode(many.as_bytes()).unwrap();
        assert_eq!(read.swarms.len(), MAX_SWARMS);
    }

    #[test]
    fn oddities_are_borne_and_nonsense_is_not() {
        const HASH: &str = "ABCDEFabcdef0123456789ABCDEFabcdef012345";
        for (text, good) in [
            (
                format!("BT-SEARCH * HTTP/1.1\nINFOHASH:{HASH}\nport:1\n"),
                true,
            ),
            (
                format!("BT-SEARCH * HTTP/1.1\r\nPort: 0\r\nInfohash: {HASH}\r\n\r\n"),
                false,
            ),
            (
                format!("BT-SEARCH * HTTP/1.1\r\nPort: 65536\r\nInfohash: {HASH}\r\n\r\n"),
                false,
            ),
            (
                format!("BT-SEARCH * HTTP/1.1\r\nInfohash: {HASH}\r\n\r\n"),
                false,
            ),
            (
                format!("BT-SEARCH * HTTP/1.1\r\nPort: 1\r\nInfohash: {HASH}0\r\n\r\n"),
                false,
            ),
            (
                format!("M-SEARCH * HTTP/1.1\r\nPort: 1\r\nInfohash: {HASH}\r\n\r\n"),
                false,
            ),
            (String::new(), false),
        ] {
            assert_eq!(
                LocalSearch::decode(text.as_bytes()).is_some(),
                good,
                "{text:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            let _ = LocalSearch::decode(&bytes);
        }
    }
}
