//! The keys of producers: mirrors trust an [`Authority`], a producer signs with a [`SigningKey`].

use std::fmt;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use bittorrent_protocol::SwarmHash;
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use ed25519_dalek::{Signature, Signer as _, VerifyingKey};
use mainline::MutableItem;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::salt::Salt;

/// The Ed25519 public key of a producer. The owner of its private half vouches for snapshots.
///
/// Written as 64 hexadecimal digits. Keys of small order are refused at construction, because
/// signatures of such a key prove nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Authority([u8; Self::LEN]);

impl Authority {
    /// Length in bytes.
    pub const LEN: usize = 32;

    /// Reads the 32 bytes of a public key (RFC 8032, 5.1.2).
    ///
    /// # Errors
    ///
    /// When the bytes are not a point of the curve, or one of small order.
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Result<Self, InvalidAuthority> {
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| InvalidAuthority::NotAPoint {
            hex: HEXLOWER.encode(bytes),
        })?;
        if key.is_weak() {
            return Err(InvalidAuthority::Weak {
                hex: HEXLOWER.encode(bytes),
            });
        }
        Ok(Self(*bytes))
    }

    /// Returns the 32 bytes of the key.
    pub fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// Returns the DHT target of this authority's item: the SHA-1 of key and salt (BEP 44, "Mutable
    /// items").
    pub fn target(&self, salt: &Salt) -> SwarmHash {
        let id = MutableItem::target_from_key(self.as_bytes(), salt.as_option());
        SwarmHash::from_bytes(*id.as_bytes())
    }

    /// Returns whether `signature` is this authority's signature of `message`. The strict rules
    /// apply, which admit one encoding of a signature only.
    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        // Computes the point each time, because it takes six times the memory of its 32 bytes, and
        // most of the code needs only these.
        VerifyingKey::from_bytes(&self.0).is_ok_and(|key| {
            key.verify_strict(message, &Signature::from_bytes(signature))
                .is_ok()
        })
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(self.as_bytes()))
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority({self})")
    }
}

impl FromStr for Authority {
    type Err = InvalidAuthority;

    fn from_str(text: &str) -> Result<Self, InvalidAuthority> {
        let bytes: [u8; Self::LEN] = HEXLOWER_PERMISSIVE
            .decode(text.as_bytes())
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| InvalidAuthority::NotHex {
                // Bounded: the text may be a whole file given by mistake.
                found: text.chars().take(2 * Self::LEN + 1).collect(),
            })?;
        Self::from_bytes(&bytes)
    }
}

/// Serializes as 64 hexadecimal digits.
impl Serialize for Authority {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Deserializes from 64 hexadecimal digits of either case; fails as [`Authority::from_bytes`] does.
impl<'de> Deserialize<'de> for Authority {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// A public key could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAuthority {
    /// Not 64 hexadecimal digits.
    #[error("an authority is 64 hexadecimal digits, found {found:?}")]
    NotHex {
        /// The beginning of what was found.
        found: String,
    },
    /// 32 bytes that no private key has as its public half.
    #[error("{hex} is not an Ed25519 public key")]
    NotAPoint {
        /// The bytes.
        hex: String,
    },
    /// A point of small order, under which signatures can be made without a private key.
    #[error("{hex} is a weak Ed25519 key, under which anyone can sign")]
    Weak {
        /// The bytes.
        hex: String,
    },
}

/// A producer's Ed25519 private key, as its 32-byte seed (RFC 8032, 5.1.5).
///
/// The seed is wiped when the value is dropped and never printed by `Debug`. Load it as late and
/// drop it as early as possible.
pub struct SigningKey(ed25519_dalek::SigningKey);

/// Key files hold at most 128 digits and a line end; a longer one is not a key file.
const MAX_KEY_FILE_LEN: u64 = 1024;

impl SigningKey {
    /// Makes the key of a seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(ed25519_dalek::SigningKey::from_bytes(seed))
    }

    /// Generates a key with randomness of the operating system.
    ///
    /// # Errors
    ///
    /// When the operating system returns no randomness.
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut()).map_err(|source| KeyError::Randomness { source })?;
        Ok(Self::from_seed(&seed))
    }

    /// Reads a key from hexadecimal text: 64 digits are the seed, 128 digits are the seed followed
    /// by its public key. Surrounding white space is ignored.
    ///
    /// # Errors
    ///
    /// When there is another number of digits, or when the two halves of 128 do not belong
    /// together. The 64-byte *expanded* key that libtorrent works with is refused with its own
    /// error: it is the SHA-512 of the seed, and the seed cannot be computed from it.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        let digits = text.trim();
        let bytes = HEXLOWER_PERMISSIVE
            .decode(digits.as_bytes())
            .map(Zeroizing::new)
            // The text may be a key with one wrong digit: it is never repeated in an error.
            .map_err(|_| KeyError::NotHex)?;
        if let Ok(seed) = <&[u8; 32]>::try_from(bytes.as_slice()) {
            return Ok(Self::from_seed(seed));
        }
        let Some((seed, public)) = bytes
            .split_first_chunk::<32>()
            .filter(|(_, public)| public.len() == Authority::LEN)
        else {
            return Err(KeyError::Length {
                digits: digits.chars().count(),
            });
        };
        let key = Self::from_seed(seed);
        if key.authority().as_bytes() == public {
            return Ok(key);
        }
        // RFC 8032, 5.1.5: an expanded secret scalar has its lowest three bits and its highest bit
        // clear and its second highest set.
        if seed[0] & 0b111 == 0 && seed[31] & 0b1100_0000 == 0b0100_0000 {
            return Err(KeyError::Expanded);
        }
        Err(KeyError::HalvesDiffer)
    }

    /// Reads a key file: hexadecimal text as [`Self::from_hex`] accepts it.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, is accessible to every user of the machine, or contains no
    /// key.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let unreadable = |source| KeyError::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(unreadable)?;
        let mode = file.metadata().map_err(unreadable)?.mode();
        // Ignores the group bits: they show the ACL mask of a systemd credential.
        if mode & 0o007 != 0 {
            return Err(KeyError::WorldAccessible {
                path: path.to_owned(),
                mode: mode & 0o777,
            });
        }
        // Allocates for the whole file at once, so that no reallocation leaves a copy in memory.
        let mut text = Zeroizing::new(String::with_capacity(MAX_KEY_FILE_LEN as usize + 1));
        file.take(MAX_KEY_FILE_LEN + 1)
            .read_to_string(&mut text)
            .map_err(unreadable)?;
        Self::from_hex(&text)
    }

    /// Returns the seed as 64 hexadecimal digits, for a new key file.
    pub fn to_hex(&self) -> Zeroizing<String> {
        Zeroizing::new(HEXLOWER.encode(self.0.as_bytes()))
    }

    /// Returns the public half.
    pub fn authority(&self) -> Authority {
        Authority(self.0.verifying_key().to_bytes())
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(of {})", self.authority())
    }
}

/// A private key could not be made or read. No variant repeats any digit of it.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Something other than hexadecimal digits.
    #[error("a signing key is written in hexadecimal digits, and this is not")]
    NotHex,
    /// Neither 64 nor 128 digits.
    #[error(
        "a signing key is 64 hexadecimal digits (or 128 with its public key), found {digits} digits"
    )]
    Length {
        /// How many digits there were.
        digits: usize,
    },
    /// 128 digits of which the second half is not the public key of the first.
    #[error("the second half of the 128 digits is not the public key of the first half")]
    HalvesDiffer,
    /// libtorrent's 64-byte form.
    #[error(
        "this is an expanded 64-byte key, as libtorrent uses it; its seed cannot be computed from \
         it: give the 32-byte seed it was made from, or publish under a new key"
    )]
    Expanded,
    /// The key file could not be read.
    #[error("cannot read the signing key {}", path.display())]
    Read {
        /// The key file.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// The key file is open to others.
    #[error(
        "the signing key {} is accessible to every user (mode {mode:03o}): chmod 600 it, and \
         consider the key known",
        path.display()
    )]
    WorldAccessible {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// No randomness for a new key.
    #[error("the operating system gave no randomness for a new key")]
    Randomness {
        /// The error of the operating system.
        #[source]
        source: getrandom::Error,
    },
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    // RFC 8032, 7.1, TEST 1.
    const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

    #[test]
    fn a_seed_alone_and_a_seed_with_its_public_key_are_the_same_key() {
        for text in [
            SEED.to_owned(),
            format!("{SEED}{PUBLIC}"),
            format!(" {}\n", SEED.to_uppercase()),
        ] {
            let key = SigningKey::from_hex(&text).unwrap();
            assert_eq!(key.authority().to_string(), PUBLIC);
            assert_eq!(*key.to_hex(), SEED);
            assert!(!format!("{key:?}").contains(SEED));
        }
    }

    #[test]
    fn wrong_private_keys_are_told_apart() {
        let other = SigningKey::from_seed(&[7; 32]).authority();
        assert!(matches!(
            SigningKey::from_hex(&format!("{SEED}{other}")),
            Err(KeyError::HalvesDiffer)
        ));
        // BEP 44, "Test vectors": libtorrent's form of a private key.
        let expanded = "e06d3183d14159228433ed599221b80bd0a5ce8352e4bdf0262f76786ef1c74d\
                        b7e7a9fea2c0eb269d61e3b38e450a22e754941ac78479d6c54e1faf6037881d";
        assert!(matches!(
            SigningKey::from_hex(expanded),
            Err(KeyError::Expanded)
        ));
        assert!(matches!(
            SigningKey::from_hex(&SEED[2..]),
            Err(KeyError::Length { digits: 62 })
        ));
        for text in ["", "  "] {
            assert!(matches!(
                SigningKey::from_hex(text),
                Err(KeyError::Length { digits: 0 })
            ));
        }
        let error = SigningKey::from_hex(&format!("{}zz", &SEED[2..])).unwrap_err();
        assert!(matches!(error, KeyError::NotHex));
        assert!(!format!("{error} {error:?}").contains(&SEED[2..20]));
    }

    #[test]
    fn key_files_open_to_others_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, format!("{SEED}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(
            SigningKey::read(&path),
            Err(KeyError::WorldAccessible { mode: 0o644, .. })
        ));
        for mode in [0o600, 0o400, 0o440] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(
                SigningKey::read(&path).unwrap().authority().to_string(),
                PUBLIC
            );
        }
        assert!(matches!(
            SigningKey::read(&dir.path().join("none")),
            Err(KeyError::Read { .. })
        ));
    }

    #[test]
    fn generated_keys_differ() {
        let (a, b) = (
            SigningKey::generate().unwrap(),
            SigningKey::generate().unwrap(),
        );
        assert_ne!(a.authority(), b.authority());
    }

    #[test]
    fn an_authority_is_a_string_of_digits_in_json() {
        let authority: Authority = PUBLIC.parse().unwrap();
        let json = serde_json::to_string(&authority).unwrap();
        assert_eq!(json, format!("\"{PUBLIC}\""));
        assert_eq!(serde_json::from_str::<Authority>(&json).unwrap(), authority);
        assert!(serde_json::from_str::<Authority>("\"ab\"").is_err());
        let weak = format!("\"01{}\"", "0".repeat(62));
        assert!(serde_json::from_str::<Authority>(&weak).is_err());
    }

    #[test]
    fn authorities_are_checked_when_read() {
        let authority: Authority = PUBLIC.parse().unwrap();
        assert_eq!(authority.to_string(), PUBLIC);
        assert!(matches!(
            PUBLIC[2..].parse::<Authority>(),
            Err(InvalidAuthority::NotHex { .. })
        ));
        // The neutral element: y = 1.
        let mut neutral = [0; 32];
        neutral[0] = 1;
        assert!(matches!(
            Authority::from_bytes(&neutral),
            Err(InvalidAuthority::Weak { .. })
        ));
        // y = 2 is on no point of the curve.
        let mut off_curve = [0; 32];
        off_curve[0] = 2;
        assert!(matches!(
            Authority::from_bytes(&off_curve),
            Err(InvalidAuthority::NotAPoint { .. })
        ));
    }

    #[test]
    fn targets_are_those_of_bep_44_and_bep_46() {
        let cases = [
            // BEP 44, "Test vectors": test 1 and test 2 (with salt).
            (
                "77ff84905a91936367c01360803104f92432fcd904a43511876df5cdf3e7e548",
                "",
                "4a533d47ec9c7d95b1ad75f576cffc641853b750",
            ),
            (
                "77ff84905a91936367c01360803104f92432fcd904a43511876df5cdf3e7e548",
                "foobar",
                "411eba73b6f087ca51a3795d9c8c938d365e32c1",
            ),
            // BEP 46, "Test vectors".
            (
                "8543d3e6115f0f98c944077a4493dcd543e49c739fd998550a1f614ab36ed63e",
                "",
                "cc3f9d90b572172053626f9980ce261a850d050b",
            ),
            (
                "8543d3e6115f0f98c944077a4493dcd543e49c739fd998550a1f614ab36ed63e",
                "n",
                "59ee7c2cb9b4f7eb1986ee2d18fd2fdb8a56554f",
            ),
        ];
        for (key, salt, target) in cases {
            let authority: Authority = key.parse().unwrap();
            let salt: Salt = salt.parse().unwrap();
            assert_eq!(authority.target(&salt).to_string(), target);
        }
    }
}
