//! The salt of an item.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;

/// The name that distinguishes several items of one authority (BEP 44, "salt"): 0 to 64 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Salt(Box<[u8]>);

/// A salt has more than 64 bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "a salt has at most {} bytes (BEP 44), this one has {len}",
    Salt::MAX_LEN
)]
pub struct SaltTooLong {
    len: usize,
}

impl Salt {
    /// The greatest length in bytes (BEP 44; nodes answer error 207 above it).
    pub const MAX_LEN: usize = 64;

    /// Makes a salt of 0 to 64 bytes. An empty salt is the same as no salt.
    ///
    /// # Errors
    ///
    /// When there are more than 64.
    pub fn new(bytes: &[u8]) -> Result<Self, SaltTooLong> {
        if bytes.len() > Self::MAX_LEN {
            return Err(SaltTooLong { len: bytes.len() });
        }
        Ok(Self(bytes.into()))
    }

    /// Returns the bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns two hexadecimal digits per byte, as used in file names and files.
    pub fn to_hex(&self) -> String {
        HEXLOWER.encode(&self.0)
    }

    /// Returns the salt under which the same authority names its successor: this salt followed by
    /// `.next`.
    ///
    /// # Errors
    ///
    /// When this salt has more than 59 bytes, so that the result would have more than 64.
    pub fn next(&self) -> Result<Self, SaltTooLong> {
        Self::new(&[&self.0, b".next".as_slice()].concat())
    }

    /// Returns `None` for an empty salt, which is left out of the signed bytes (BEP 44).
    pub(crate) fn as_option(&self) -> Option<&[u8]> {
        (!self.0.is_empty()).then_some(&*self.0)
    }
}

impl FromStr for Salt {
    type Err = SaltTooLong;

    fn from_str(text: &str) -> Result<Self, SaltTooLong> {
        Self::new(text.as_bytes())
    }
}

impl fmt::Display for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_ascii().fmt(f)
    }
}

impl fmt::Debug for Salt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Salt(\"{self}\")")
    }
}
