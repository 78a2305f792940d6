//! The handshake of the extension protocol (BEP 10).

use std::net::IpAddr;

use crate::bencode::{self, BencodeError, Dict, Encoder, Limits};
use crate::printable::Printable;

/// The id of the extended handshake within `extended` messages.
pub const EXTENDED_HANDSHAKE: u8 = 0;

/// The id under which we take metadata messages (BEP 9).
pub const UT_METADATA: u8 = 1;

/// The id under which we take peer exchange messages (BEP 11).
pub const UT_PEX: u8 = 2;

/// A handshake is some hundred bytes; what is much longer is no handshake.
const LIMITS: Limits = Limits {
    max_len: 64 * 1024,
    ..Limits::MESSAGE
};

/// Longer names of clients are cut.
const MAX_CLIENT_CHARS: usize = 64;

/// The payload is no extended handshake. libtorrent ignores such a message and keeps the link.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExtendedError {
    /// It is not bencoded.
    #[error("the extended handshake cannot be read")]
    Bencode(#[from] BencodeError),
    /// It is no dictionary.
    #[error("the extended handshake is no dictionary")]
    NotADictionary,
}

/// The properties and extensions of a peer. A peer may send it again at any time; fields missing in
/// a later one keep their values ([`Self::update`]).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExtendedHandshake {
    /// The id under which the sender takes metadata messages (BEP 9); 0 when it no longer does.
    pub ut_metadata: Option<u8>,
    /// The id under which the sender takes peer exchange messages (BEP 11); 0 when it no longer
    /// does.
    pub ut_pex: Option<u8>,
    /// Length of the info dictionary in bytes, when the sender has it; at least 1.
    pub metadata_size: Option<u32>,
    /// How many requests the sender queues, at least 1. libtorrent takes it for its own limit of
    /// outstanding requests, which is 500 otherwise.
    pub reqq: Option<u32>,
    /// The TCP port where the sender listens; never 0.
    pub port: Option<u16>,
    /// Name and version of the sender's software; when decoded, printable and at most 64
    /// characters long.
    pub client: Option<String>,
    /// The receiver's address as the sender sees it.
    pub yourip: Option<IpAddr>,
    /// Whether the sender will not download anything (BEP 21).
    pub upload_only: Option<bool>,
}

impl ExtendedHandshake {
    /// Reads the payload of an `extended` message with id [`EXTENDED_HANDSHAKE`]. Forgiving:
    /// fields of the wrong type or out of range count as absent, unsorted keys and bytes behind
    /// the dictionary do not matter.
    pub fn decode(payload: &[u8]) -> Result<Self, ExtendedError> {
        let decoded = bencode::decode(payload, &LIMITS)?;
        let root = decoded
            .root
            .as_dict()
            .ok_or(ExtendedError::NotADictionary)?;
        let extensions = root.get("m").and_then(bencode::Node::as_dict);
        let extension = |name| number(extensions?, name);
        Ok(Self {
            ut_metadata: extension("ut_metadata"),
            ut_pex: extension("ut_pex"),
            metadata_size: number(root, "metadata_size").filter(|size| *size > 0),
            reqq: number(root, "reqq").filter(|reqq| *reqq > 0),
            port: number(root, "p").filter(|port| *port > 0),
            client: root.bytes("v").map(client_name),
            yourip: root.bytes("yourip").and_then(address),
            upload_only: root.int("upload_only").map(|flag| flag != 0),
        })
    }

    /// The payload to send.
    pub fn encode(&self) -> Vec<u8> {
        let mut encoder = Encoder::new();
        encoder.dict(|root| {
            root.key("m").dict(|extensions| {
                for (name, id) in [("ut_metadata", self.ut_metadata), ("ut_pex", self.ut_pex)] {
                    if let Some(id) = id {
                        extensions.int(name, id.into());
                    }
                }
            });
            if let Some(size) = self.metadata_size {
                root.int("metadata_size", size.into());
            }
            if let Some(port) = self.port {
                root.int("p", port.into());
            }
            if let Some(reqq) = self.reqq {
                root.int("reqq", reqq.into());
            }
            if let Some(upload_only) = self.upload_only {
                root.int("upload_only", upload_only.into());
            }
            if let Some(client) = &self.client {
                root.bytes("v", client);
            }
            match self.yourip {
                Some(IpAddr::V4(ip)) => root.bytes("yourip", ip.octets()),
                Some(IpAddr::V6(ip)) => root.bytes("yourip", ip.octets()),
                None => {}
            }
        });
        encoder.finish()
    }

    /// Takes over the fields of a later handshake of the same peer.
    pub fn update(&mut self, later: Self) {
        let earlier = std::mem::take(self);
        *self = Self {
            ut_metadata: later.ut_metadata.or(earlier.ut_metadata),
            ut_pex: later.ut_pex.or(earlier.ut_pex),
            metadata_size: later.metadata_size.or(earlier.metadata_size),
            reqq: later.reqq.or(earlier.reqq),
            port: later.port.or(earlier.port),
            client: later.client.or(earlier.client),
            yourip: later.yourip.or(earlier.yourip),
            upload_only: later.upload_only.or(earlier.upload_only),
        };
    }
}

/// An integer that its field can hold.
fn number<T: TryFrom<i64>>(dict: &Dict<'_>, key: &str) -> Option<T> {
    T::try_from(dict.int(key)?).ok()
}

/// The client name sent by a peer: shortened, and safe to print.
fn client_name(name: &[u8]) -> String {
    // A character takes at most 4 bytes; the rest need not be looked at.
    let start = name.get(..4 * MAX_CLIENT_CHARS).unwrap_or(name);
    let name = String::from_utf8_lossy(start);
    let cut: String = name.chars().take(MAX_CLIENT_CHARS).collect();
    Printable(cut).to_string()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes)
        .map(IpAddr::from)
        .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    /// What a seed running libtorrent 2.0.8 sends on a connection it opened.
    const LIBTORRENT: &[u8] = b"d12:complete_agoi-1e1:md11:lt_donthavei7e10:share_modei8e\
        11:upload_onlyi3e12:ut_holepunchi4e11:ut_metadatai2e6:ut_pexi1ee\
        13:metadata_sizei34256e1:pi6881e4:reqqi2000e11:upload_onlyi1e\
        1:v18:libtorrent/2.0.8.06:yourip4:\x7f\x00\x00\x01e";

    fn decode(payload: &[u8]) -> ExtendedHandshake {
        ExtendedHandshake::decode(payload).unwrap()
    }

    #[test]
    fn libtorrent_is_understood() {
        assert_eq!(
            decode(LIBTORRENT),
            ExtendedHandshake {
                ut_metadata: Some(2),
                ut_pex: Some(1),
                metadata_size: Some(34_256),
                reqq: Some(2000),
                port: Some(6881),
                client: Some("libtorrent/2.0.8.0".to_owned()),
                yourip: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
                upload_only: Some(true),
            }
        );
    }

    #[test]
    fn what_we_send_has_its_keys_in_order() {
        let handshake = ExtendedHandshake {
            ut_metadata: Some(UT_METADATA),
            ut_pex: Some(UT_PEX),
            metadata_size: Some(1),
            reqq: Some(512),
            port: Some(6881),
            client: Some("x 1".to_owned()),
            yourip: Some(IpAddr::V6(Ipv6Addr::LOCALHOST)),
            upload_only: Some(false),
        };
        assert_eq!(
            handshake.encode(),
            b"d1:md11:ut_metadatai1e6:ut_pexi2ee13:metadata_sizei1e1:pi6881e4:reqqi512e\
            11:upload_onlyi0e1:v3:x 16:yourip16:\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01e"
        );
        assert_eq!(ExtendedHandshake::default().encode(), b"d1:mdee");
    }

    #[test]
    fn fields_that_make_no_sense_count_as_absent() {
        for payload in [
            &b"de"[..],
            b"d1:m3:abce",
            b"d1:md11:ut_metadatai256eee",
            b"d1:md11:ut_metadatai-1eee",
            b"d1:md11:ut_metadata1:2ee",
            b"d13:metadata_sizei0ee",
            b"d13:metadata_sizei-1ee",
            b"d13:metadata_sizei4294967296ee",
            b"d13:metadata_size1:1e",
            b"d1:pi0ee",
            b"d1:pi65536ee",
            b"d4:reqqi0ee",
            b"d4:reqqi-5ee",
            b"d1:vi5ee",
            b"d6:yourip5:abcdee",
            b"d6:youripi5ee",
            b"d11:upload_only1:1e",
        ] {
            let shown = payload.escape_ascii();
            assert_eq!(decode(payload), ExtendedHandshake::default(), "{shown}");
        }
        // The others of the same message still count.
        let some = decode(b"d1:md11:ut_metadatai999e6:ut_pexi0ee4:reqqi-5e1:pi1ee");
        assert_eq!(some.ut_metadata, None);
        assert_eq!(some.ut_pex, Some(0));
        assert_eq!(some.port, Some(1));
    }

    #[test]
    fn careless_bencode_is_read_all_the_same() {
        // Unsorted keys, and bytes behind the dictionary.
        let handshake = decode(b"d4:reqqi7e1:pi80e1:mdeeabc");
        assert_eq!((handshake.reqq, handshake.port), (Some(7), Some(80)));
    }

    #[test]
    fn what_is_no_dictionary_is_an_error() {
        for payload in [
            &b""[..],
            b"le",
            b"i1e",
            b"garbage",
            b"d",
            b"d1:m",
            b"d1:mde",
        ] {
            let shown = payload.escape_ascii();
            assert!(ExtendedHandshake::decode(payload).is_err(), "{shown}");
        }
        let mut long = b"d1:v99999:".to_vec();
        long.resize(long.len() + 99_999, b'v');
        long.push(b'e');
        assert!(ExtendedHandshake::decode(&long).is_err());
    }

    #[test]
    fn a_client_name_is_short_and_printable() {
        assert_eq!(
            decode(b"d1:v7:a\x1b\n\xffb\xc3\xa4e").client.unwrap(),
            "a\u{fffd}\u{fffd}\u{fffd}b\u{e4}"
        );
        let mut long = b"d1:v3000:".to_vec();
        long.resize(long.len() + 3000, b'v');
        long.push(b'e');
        assert_eq!(decode(&long).client.unwrap(), "v".repeat(MAX_CLIENT_CHARS));
    }

    #[test]
    fn a_later_handshake_changes_what_it_names() {
        let mut known = decode(LIBTORRENT);
        known.update(decode(b"d1:md11:ut_metadatai0ee13:metadata_sizei9ee"));
        let expected = ExtendedHandshake {
            ut_metadata: Some(0),
            metadata_size: Some(9),
            ..decode(LIBTORRENT)
        };
        assert_eq!(known, expected);
        known.update(ExtendedHandshake::default());
        assert_eq!(known, expected);
    }

    fn handshake() -> impl Strategy<Value = ExtendedHandshake> {
        let ids = (any::<Option<u8>>(), any::<Option<u8>>());
        let sizes = (
            prop::option::of(1..=u32::MAX),
            prop::option::of(1..=u32::MAX),
            prop::option::of(1..=u16::MAX),
        );
        let rest = (
            prop::option::of("[ -~]{0,64}"),
            any::<Option<IpAddr>>(),
            any::<Option<bool>>(),
        );
        (ids, sizes, rest).prop_map(
            |(
                (ut_metadata, ut_pex),
                (metadata_size, reqq, port),
                (client, yourip, upload_only),
            )| {
                ExtendedHandshake {
                    ut_metadata,
                    ut_pex,
                    metadata_size,
                    reqq,
                    port,
                    client,
                    yourip,
                    upload_only,
                }
            },
        )
    }

    proptest! {
        #[test]
        fn handshakes_round_trip(handshake in handshake()) {
            prop_assert_eq!(decode(&handshake.encode()), handshake);
        }

        #[test]
        fn damaged_handshakes_never_panic(
            handshake in handshake(),
            at: prop::sample::Index,
            byte: u8,
            cut: prop::sample::Index,
        ) {
            let mut payload = handshake.encode();
            let at = at.index(payload.len());
            payload[at] = byte;
            payload.truncate(cut.index(payload.len() + 1));
            if let Ok(read) = ExtendedHandshake::decode(&payload) {
                prop_assert_eq!(decode(&read.encode()), read);
            }
        }
    }
}
