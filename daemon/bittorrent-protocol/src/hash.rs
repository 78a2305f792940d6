//! The hashes and identifiers that BitTorrent v2 and hybrid swarms use.

use std::fmt;
use std::str::FromStr;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

/// A hash or identifier could not be read from hexadecimal text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {expected} hexadecimal digits, found {found:?}")]
pub struct InvalidHex {
    expected: usize,
    found: String,
}

macro_rules! fixed_bytes {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// Makes a value of its bytes.
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// Copies the bytes; returns `None` unless there are exactly [`Self::LEN`].
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            /// Returns the bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = InvalidHex;

            fn from_str(text: &str) -> Result<Self, InvalidHex> {
                HEXLOWER_PERMISSIVE
                    .decode(text.as_bytes())
                    .ok()
                    .and_then(|bytes| Self::from_slice(&bytes))
                    .ok_or_else(|| InvalidHex {
                        expected: $len * 2,
                        // Bounded: the text may come from a peer or a very long argument.
                        found: text.chars().take($len * 2 + 1).collect(),
                    })
            }
        }
    };
}

fixed_bytes! {
    /// A node of a file's merkle tree: the SHA-256 of a 16 KiB leaf or of two child nodes
    /// (BEP 52, "pieces root").
    MerkleHash, 32
}
fixed_bytes! {
    /// SHA-1 of the info dictionary (BEP 3); hybrid torrents have one beside their v2 hash.
    InfoHashV1, 20
}
fixed_bytes! {
    /// SHA-256 of the info dictionary (BEP 52), which identifies a snapshot.
    InfoHashV2, 32
}
fixed_bytes! {
    /// The 20 bytes that identify a swarm in handshakes, trackers and the DHT: a v1 info-hash or
    /// the first 20 bytes of a v2 one (BEP 52, "info hash").
    SwarmHash, 20
}
fixed_bytes! {
    /// The 20 bytes that identify a peer in a handshake (BEP 3, BEP 20).
    PeerId, 20
}
fixed_bytes! {
    /// SHA-1 of one v1 piece (BEP 3, "pieces").
    PieceSha1, 20
}

impl MerkleHash {
    /// The hash of padding leaves: 32 zero bytes, not a hash of anything (BEP 52).
    pub const ZERO: Self = Self([0; 32]);
}

impl InfoHashV1 {
    /// Hashes the original bytes of an info dictionary.
    pub fn of_info(raw: &[u8]) -> Self {
        Self(sha1::Sha1::digest(raw).into())
    }
}

/// Serializes as 64 hexadecimal digits.
impl Serialize for InfoHashV2 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Deserializes from 64 hexadecimal digits of either case.
impl<'de> Deserialize<'de> for InfoHashV2 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

impl InfoHashV2 {
    /// Hashes the original bytes of an info dictionary.
    pub fn of_info(raw: &[u8]) -> Self {
        Self(sha2::Sha256::digest(raw).into())
    }

    /// Returns the first 20 bytes, which identify a v2 swarm in fields of 20 bytes (BEP 52).
    pub fn truncated(&self) -> SwarmHash {
        let mut short = [0; SwarmHash::LEN];
        short.copy_from_slice(self.0.split_at(SwarmHash::LEN).0);
        SwarmHash(short)
    }
}

impl From<InfoHashV1> for SwarmHash {
    fn from(hash: InfoHashV1) -> Self {
        Self(hash.0)
    }
}

/// The info-hashes of a torrent: the v2 hash, and the v1 hash of a hybrid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InfoHashes {
    /// SHA-256 of the info dictionary.
    pub v2: InfoHashV2,
    /// SHA-1 of the same bytes, for hybrids.
    pub v1: Option<InfoHashV1>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_v2_info_hash_is_a_string_of_digits_in_json() {
        let hash = InfoHashV2::from_bytes([0xab; 32]);
        let json = serde_json::to_string(&hash).unwrap();
        assert_eq!(json, format!("\"{}\"", "ab".repeat(32)));
        assert_eq!(serde_json::from_str::<InfoHashV2>(&json).unwrap(), hash);
        for wrong in ["\"ab\"", "\"\"", "7", "null"] {
            assert!(
                serde_json::from_str::<InfoHashV2>(wrong).is_err(),
                "{wrong}"
            );
        }
    }

    #[test]
    fn hex_round_trips_and_bad_hex_is_named() {
        let text = "cc3f9d90b572172053626f9980ce261a850d050b";
        let hash: SwarmHash = text.parse().unwrap();
        assert_eq!(hash.to_string(), text);
        assert_eq!(text.to_uppercase().parse::<SwarmHash>().unwrap(), hash);
        for bad in [
            "",
            "cc",
            &text[1..],
            &format!("{text}00"),
            "zz3f9d90b572172053626f9980ce261a850d050b",
        ] {
            assert!(bad.parse::<SwarmHash>().is_err(), "{bad}");
        }
    }

    #[test]
    fn truncation_keeps_the_first_twenty_bytes() {
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = i as u8;
        }
        assert_eq!(
            InfoHashV2::from_bytes(bytes).truncated().as_bytes(),
            &bytes[..20]
        );
    }
}
