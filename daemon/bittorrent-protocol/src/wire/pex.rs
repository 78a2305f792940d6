//! Peer exchange messages: the peers that a peer is connected to (BEP 11).

use std::net::SocketAddr;

use crate::bencode::{self, BencodeError, Dict, Encoder, Limits};
use crate::compact;

/// Addresses taken from each list of a message; what is behind them is left out. BEP 11 asks
/// senders for no more than 50.
const MOST_PEERS: usize = 200;

/// Six lists.
const LIMITS: Limits = Limits {
    max_len: 64 * 1024,
    ..Limits::MESSAGE
};

/// What the sender knows of a peer. Other flags of BEP 11 are neither sent nor heard: they are
/// about transports we do not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PexFlags {
    /// It downloads nothing: 0x02.
    pub seed: bool,
    /// The sender connected to it, so it can be reached: 0x10.
    pub reachable: bool,
}

impl PexFlags {
    const fn from_byte(byte: u8) -> Self {
        Self {
            seed: byte & 0x02 != 0,
            reachable: byte & 0x10 != 0,
        }
    }

    const fn byte(self) -> u8 {
        (self.seed as u8) << 1 | (self.reachable as u8) << 4
    }
}

/// A peer the sender is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PexPeer {
    /// Where it listens; nothing about it has been checked.
    pub addr: SocketAddr,
    /// What is known of it.
    pub flags: PexFlags,
}

/// What changed since the sender's last message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PexMessage {
    /// Peers it is connected to now.
    pub added: Vec<PexPeer>,
    /// Peers it is connected to no longer.
    pub dropped: Vec<SocketAddr>,
}

/// The payload is no peer exchange message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PexError {
    /// It is not bencoded, or too long.
    #[error("the peer exchange message cannot be read")]
    Bencode(#[from] BencodeError),
    /// It is no dictionary.
    #[error("the peer exchange message is no dictionary")]
    NotADictionary,
}

impl PexMessage {
    /// Returns whether it has no address.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.dropped.is_empty()
    }

    /// Reads the payload of an `extended` message. Fields that are missing or of the wrong type
    /// count as empty, flags that are missing as 0.
    pub fn decode(payload: &[u8]) -> Result<Self, PexError> {
        let decoded = bencode::decode(payload, &LIMITS)?;
        let root = decoded.root.as_dict().ok_or(PexError::NotADictionary)?;
        let list = |key| root.bytes(key).unwrap_or_default();
        let mut added = Vec::new();
        added.extend(with_flags(root, "added.f", compact::v4(list("added"))));
        added.extend(with_flags(root, "added6.f", compact::v6(list("added6"))));
        let dropped = compact::v4(list("dropped"))
            .take(MOST_PEERS)
            .chain(compact::v6(list("dropped6")).take(MOST_PEERS))
            .collect();
        Ok(Self { added, dropped })
    }

    /// The payload to send.
    pub fn encode(&self) -> Vec<u8> {
        let (mut added, mut added6) = (Vec::new(), Vec::new());
        let (mut flags, mut flags6) = (Vec::new(), Vec::new());
        for peer in &self.added {
            let before = added.len();
            compact::push(peer.addr, &mut added, &mut added6);
            let of_its_family = if added.len() > before {
                &mut flags
            } else {
                &mut flags6
            };
            of_its_family.push(peer.flags.byte());
        }
        let (mut dropped, mut dropped6) = (Vec::new(), Vec::new());
        for addr in &self.dropped {
            compact::push(*addr, &mut dropped, &mut dropped6);
        }
        let mut encoder = Encoder::new();
        encoder.dict(|dict| {
            for (key, value) in [
                ("added", added),
                ("added.f", flags),
                ("added6", added6),
                ("added6.f", flags6),
                ("dropped", dropped),
                ("dropped6", dropped6),
            ] {
                dict.bytes(key, value);
            }
        });
        encoder.finish()
    }
}

fn with_flags<'a>(
    root: &Dict<'a>,
    key: &str,
    addrs: impl Iterator<Item = SocketAddr>,
) -> impl Iterator<Item = PexPeer> {
    let flags = root.bytes(key).unwrap_or_default();
    addrs
        .take(MOST_PEERS)
        .enumerate()
        .map(|(at, addr)| PexPeer {
            addr,
            flags: PexFlags::from_byte(flags.get(at).copied().unwrap_or(0)),
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn peer(addr: &str, seed: bool, reachable: bool) -> PexPeer {
        PexPeer {
            addr: addr.parse().unwrap(),
            flags: PexFlags { seed, reachable },
        }
    }

    #[test]
    fn messages_look_like_those_in_the_specification() {
        let message = PexMessage {
            added: vec![
                peer("192.0.2.1:6881", true, false),
                peer("[2001:db8::1]:1", false, true),
                peer("192.0.2.2:80", true, true),
            ],
            dropped: vec!["192.0.2.3:2".parse().unwrap()],
        };
        let wire = message.encode();
        let expected = [
            &b"d5:added12:\xc0\x00\x02\x01\x1a\xe1\xc0\x00\x02\x02\x00P"[..],
            b"7:added.f2:\x02\x12",
            b"6:added618:\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\0\x01",
            b"8:added6.f1:\x10",
            b"7:dropped6:\xc0\x00\x02\x03\x00\x028:dropped60:e",
        ];
        let escaped = |wire: &[u8]| wire.escape_ascii().to_string();
        assert_eq!(escaped(&wire), escaped(&expected.concat()));
        let mut decoded = PexMessage::decode(&wire).unwrap();
        decoded.added.swap(1, 2);
        assert_eq!(decoded, message);
        assert!(!message.is_empty() && PexMessage::default().is_empty());
    }

    #[test]
    fn what_is_missing_or_odd_counts_as_nothing() {
        for (wire, added, dropped) in [
            (&b"de"[..], 0, 0),
            (b"d5:added6:abcdefe", 1, 0),
            (b"d5:added7:abcdefg7:added.fi7e7:droppedlee", 1, 0),
            (
                b"d5:added12:abcdefabcdef7:added.f1:\x027:dropped6:abcdefe",
                2,
                1,
            ),
        ] {
            let message = PexMessage::decode(wire).unwrap();
            assert_eq!(
                (message.added.len(), message.dropped.len()),
                (added, dropped)
            );
        }
        assert_eq!(PexMessage::decode(b"le"), Err(PexError::NotADictionary));
        assert!(matches!(
            PexMessage::decode(b"d"),
            Err(PexError::Bencode(_))
        ));
    }

    #[test]
    fn long_lists_are_cut() {
        let mut encoder = Encoder::new();
        encoder.dict(|dict| {
            dict.bytes("added", vec![1; 6 * 1_000]);
            dict.bytes("dropped", vec![1; 6 * 1_000]);
        });
        let message = PexMessage::decode(&encoder.finish()).unwrap();
        assert_eq!(
            (message.added.len(), message.dropped.len()),
            (MOST_PEERS, MOST_PEERS)
        );
        let mut encoder = Encoder::new();
        encoder.dict(|dict| dict.bytes("added", vec![1; LIMITS.max_len]));
        assert!(PexMessage::decode(&encoder.finish()).is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics(wire in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = PexMessage::decode(&wire);
        }
    }
}
