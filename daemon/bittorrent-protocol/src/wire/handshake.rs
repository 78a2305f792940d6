//! The first 68 bytes of a connection (BEP 3, "peer protocol").

use crate::hash::{PeerId, SwarmHash};

/// Bytes up to and including the swarm's hash: what a peer sends before it must know who answers.
pub const OPENING_LEN: usize = 48;

/// Bytes of a whole handshake.
pub const HANDSHAKE_LEN: usize = OPENING_LEN + PeerId::LEN;

const PROTOCOL: &[u8; 20] = b"\x13BitTorrent protocol";
const RESERVED_LEN: usize = 8;

/// What a peer sent is no BitTorrent handshake.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HandshakeError {
    /// The first byte is another one than every plain handshake begins with. Mostly an encrypted
    /// handshake: closing at once makes such a peer dial again in plain text soon.
    #[error("the first byte is {0:#04x}: no plain BitTorrent handshake")]
    NotPlain(u8),
    /// The protocol has another name.
    #[error("the handshake names another protocol")]
    OtherProtocol,
}

/// The extensions a handshake offers in its reserved bytes. Bits of others are ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Reserved {
    /// The extension protocol (BEP 10).
    pub extended: bool,
    /// The fast extension (BEP 6).
    pub fast: bool,
    /// The peer has a DHT node and wants to hear of ours (BEP 5).
    pub dht: bool,
    /// The torrent also has a v2 hash and the link, opened under the v1 hash, may be answered
    /// under it (BEP 52, "upgrade path"). Absent on links that are v2 from the start.
    pub v2: bool,
}

impl Reserved {
    const EXTENDED: (usize, u8) = (5, 0x10);
    const FAST: (usize, u8) = (7, 0x04);
    const DHT: (usize, u8) = (7, 0x01);
    const V2: (usize, u8) = (7, 0x10);

    fn to_bytes(self) -> [u8; RESERVED_LEN] {
        let mut bytes = [0; RESERVED_LEN];
        for (offered, (byte, bit)) in [
            (self.extended, Self::EXTENDED),
            (self.fast, Self::FAST),
            (self.dht, Self::DHT),
            (self.v2, Self::V2),
        ] {
            if offered {
                bytes[byte] |= bit;
            }
        }
        bytes
    }

    fn from_bytes(bytes: [u8; RESERVED_LEN]) -> Self {
        let offers = |(byte, bit): (usize, u8)| bytes[byte] & bit != 0;
        Self {
            extended: offers(Self::EXTENDED),
            fast: offers(Self::FAST),
            dht: offers(Self::DHT),
            v2: offers(Self::V2),
        }
    }
}

/// The first part of a handshake, with the swarm. The accepting side answers after this part;
/// libtorrent sends its peer id only then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// The extensions it offers.
    pub reserved: Reserved,
    /// The swarm it is for.
    pub swarm: SwarmHash,
}

impl Opening {
    /// Decodes the first [`OPENING_LEN`] bytes; `None` while some of them are missing. Bytes that
    /// cannot begin a handshake are refused as soon as they are there.
    pub fn decode(input: &[u8]) -> Result<Option<Self>, HandshakeError> {
        if let Some(first) = input.first()
            && *first != PROTOCOL[0]
        {
            return Err(HandshakeError::NotPlain(*first));
        }
        if input.iter().zip(PROTOCOL).any(|(got, want)| got != want) {
            return Err(HandshakeError::OtherProtocol);
        }
        let fields = input
            .split_at_checked(PROTOCOL.len())
            .and_then(|(_, rest)| {
                let (reserved, rest) = rest.split_first_chunk::<RESERVED_LEN>()?;
                let (swarm, _) = rest.split_first_chunk()?;
                Some(Self {
                    reserved: Reserved::from_bytes(*reserved),
                    swarm: SwarmHash::from_bytes(*swarm),
                })
            });
        Ok(fields)
    }

    /// The whole handshake, once the peer id is known.
    pub const fn with_peer_id(self, peer_id: PeerId) -> Handshake {
        Handshake {
            reserved: self.reserved,
            swarm: self.swarm,
            peer_id,
        }
    }
}

/// A whole handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Handshake {
    /// The extensions it offers.
    pub reserved: Reserved,
    /// The swarm it is for.
    pub swarm: SwarmHash,
    /// Who sends it.
    pub peer_id: PeerId,
}

impl Handshake {
    /// The bytes to send.
    pub fn encode(&self) -> [u8; HANDSHAKE_LEN] {
        let mut bytes = [0; HANDSHAKE_LEN];
        let (protocol, rest) = bytes.split_at_mut(PROTOCOL.len());
        let (reserved, rest) = rest.split_at_mut(RESERVED_LEN);
        let (swarm, peer_id) = rest.split_at_mut(SwarmHash::LEN);
        protocol.copy_from_slice(PROTOCOL);
        reserved.copy_from_slice(&self.reserved.to_bytes());
        swarm.copy_from_slice(self.swarm.as_bytes());
        peer_id.copy_from_slice(self.peer_id.as_bytes());
        bytes
    }

    /// Decodes the first [`HANDSHAKE_LEN`] bytes; `None` while some of them are missing.
    pub fn decode(input: &[u8]) -> Result<Option<Self>, HandshakeError> {
        let Some(opening) = Opening::decode(input)? else {
            return Ok(None);
        };
        let peer_id = input
            .get(OPENING_LEN..)
            .and_then(|rest| rest.first_chunk::<{ PeerId::LEN }>());
        Ok(peer_id.map(|bytes| opening.with_peer_id(PeerId::from_bytes(*bytes))))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What libtorrent 2.0.8 sends for a hybrid torrent that it dials under the v1 hash.
    const HYBRID: &[u8; HANDSHAKE_LEN] = b"\
        \x13BitTorrent protocol\
        \x00\x00\x00\x00\x00\x10\x00\x15\
        \x12\xd9\x24\x4b\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\
        -LT2080-abcdefghijkl";

    #[test]
    fn a_libtorrent_handshake_is_understood_and_reproduced() {
        let handshake = Handshake::decode(HYBRID).unwrap().unwrap();
        assert_eq!(
            handshake.reserved,
            Reserved {
                extended: true,
                fast: true,
                dht: true,
                v2: true
            }
        );
        assert_eq!(
            handshake.swarm.to_string(),
            "12d9244b000102030405060708090a0b0c0d0e0f"
        );
        assert_eq!(handshake.peer_id.as_bytes(), b"-LT2080-abcdefghijkl");
        assert_eq!(&handshake.encode(), HYBRID);
    }

    #[test]
    fn each_extension_has_its_bit() {
        let none = Reserved::default();
        for (reserved, bytes) in [
            (none, [0, 0, 0, 0, 0, 0, 0, 0]),
            (
                Reserved {
                    extended: true,
                    ..none
                },
                [0, 0, 0, 0, 0, 0x10, 0, 0],
            ),
            (Reserved { fast: true, ..none }, [0, 0, 0, 0, 0, 0, 0, 4]),
            (Reserved { dht: true, ..none }, [0, 0, 0, 0, 0, 0, 0, 1]),
            (Reserved { v2: true, ..none }, [0, 0, 0, 0, 0, 0, 0, 0x10]),
        ] {
            assert_eq!(reserved.to_bytes(), bytes);
            assert_eq!(Reserved::from_bytes(bytes), reserved);
        }
        assert_eq!(
            Reserved::from_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0xef, 0xff, 0xea]),
            none
        );
    }

    #[test]
    fn the_opening_is_known_before_the_peer_id_and_not_earlier() {
        for len in 0..=HANDSHAKE_LEN {
            let opening = Opening::decode(&HYBRID[..len]).unwrap();
            assert_eq!(opening.is_some(), len >= OPENING_LEN, "{len}");
            let whole = Handshake::decode(&HYBRID[..len]).unwrap();
            assert_eq!(whole.is_some(), len == HANDSHAKE_LEN, "{len}");
        }
    }

    #[test]
    fn what_follows_the_handshake_does_not_matter() {
        let mut longer = HYBRID.to_vec();
        longer.extend_from_slice(&[0, 0, 0, 0]);
        assert_eq!(Handshake::decode(&longer), Handshake::decode(HYBRID));
    }

    #[test]
    fn another_first_byte_or_protocol_is_refused_at_once() {
        assert_eq!(
            Handshake::decode(b"\x77").unwrap_err(),
            HandshakeError::NotPlain(0x77)
        );
        for at in 1..PROTOCOL.len() {
            let mut wrong = *HYBRID;
            wrong[at] ^= 0x20;
            assert_eq!(Opening::decode(&wrong[..at]), Ok(None));
            assert_eq!(
                Opening::decode(&wrong[..=at]),
                Err(HandshakeError::OtherProtocol)
            );
        }
    }

    proptest! {
        #[test]
        fn handshakes_round_trip(bits in any::<[bool; 4]>(), swarm in any::<[u8; 20]>(), id in any::<[u8; 20]>()) {
            let [extended, fast, dht, v2] = bits;
            let handshake = Handshake {
                reserved: Reserved { extended, fast, dht, v2 },
                swarm: SwarmHash::from_bytes(swarm),
                peer_id: PeerId::from_bytes(id),
            };
            prop_assert_eq!(Handshake::decode(&handshake.encode()), Ok(Some(handshake)));
        }

        #[test]
        fn any_bytes_are_judged_without_panic(valid in 0..=20_usize, rest in prop::collection::vec(any::<u8>(), 0..80)) {
            let mut input = PROTOCOL[..valid].to_vec();
            input.extend(rest);
            if let Ok(Some(handshake)) = Handshake::decode(&input) {
                prop_assert_eq!(&handshake.encode()[28..], &input[28..HANDSHAKE_LEN]);
            }
        }
    }
}
