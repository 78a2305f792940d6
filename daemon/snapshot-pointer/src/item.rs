//! BEP 44 mutable items whose signature is known to be good, and the pointer inside them.

use std::fmt;
use std::str::FromStr;

use bittorrent_protocol::InfoHashV2;
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use serde::{Deserialize, Serialize};

use crate::judge::Refusal;
use crate::key::{Authority, SigningKey};

/// What tells several items of one authority apart (BEP 44, "salt"): 0 to 64 bytes.
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

    /// Takes the bytes of a salt; none is the same as no salt.
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

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Two hexadecimal digits per byte, as file names and files carry it.
    pub fn to_hex(&self) -> String {
        HEXLOWER.encode(&self.0)
    }

    /// The salt under which the same authority names its successor: this one followed by `.next`.
    ///
    /// # Errors
    ///
    /// When this salt has more than 59 bytes, so that the result would have more than 64.
    pub fn next(&self) -> Result<Self, SaltTooLong> {
        Self::new(&[&self.0, b".next".as_slice()].concat())
    }

    /// `None` when empty: an empty salt is left out of the signed bytes (BEP 44).
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

/// The sequence number of an item (BEP 44, "seq"): 0 to 2⁶³ − 1; a greater one replaces a lesser.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seq(i64);

impl Seq {
    /// The number of a producer's first item: 1, so that 0 can stay below all.
    pub const FIRST: Self = Self(1);

    /// The greatest number that is still followed or published: 2⁶².
    ///
    /// Nothing can follow an item at 2⁶³ − 1, so a slip of the producer would end its stream for
    /// ever. An item above this bound is refused and never put again by mirrors, therefore nodes
    /// forget it after some hours and the stream goes on. Counters and clocks, even in nanoseconds
    /// until the year 2116, stay below; any smaller jump is accepted, since a producer may change
    /// from one to the other.
    pub const MAX_PLAUSIBLE: Self = Self(1 << 62);

    /// `None` when negative.
    pub const fn new(seq: i64) -> Option<Self> {
        if seq < 0 { None } else { Some(Self(seq)) }
    }

    /// The number.
    pub const fn get(self) -> i64 {
        self.0
    }

    /// The number after this one, `None` after [`Self::MAX_PLAUSIBLE`].
    pub fn next(self) -> Option<Self> {
        (self < Self::MAX_PLAUSIBLE).then(|| Self(self.0 + 1))
    }
}

impl fmt::Display for Seq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Which snapshot an authority calls current, and since which sequence number at the latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pointer {
    /// The snapshot.
    pub snapshot: InfoHashV2,
    /// The item's sequence number; comparable only between items of one authority and salt.
    pub seq: Seq,
}

/// A BEP 44 mutable item whose signature is good: made by us with the key, or verified.
///
/// The value is always a byte string. (BEP 46 puts a dictionary there, which `mainline` cannot
/// carry: it reads and signs `v` as a string.)
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SignedItem {
    authority: Authority,
    salt: Salt,
    seq: Seq,
    value: Box<[u8]>,
    signature: [u8; 64],
}

impl SignedItem {
    /// The longest value in bytes: bencoded, with its length before it, it makes up the 1,000 bytes
    /// that nodes store (BEP 44; error 205 above).
    pub const MAX_VALUE_LEN: usize = 996;

    /// Signs a value.
    ///
    /// # Errors
    ///
    /// [`Refusal::ValueTooLong`] and [`Refusal::ImplausibleSeq`], the faults no mirror would accept.
    pub fn sign(key: &SigningKey, salt: &Salt, seq: Seq, value: &[u8]) -> Result<Self, Refusal> {
        check_value_len(value)?;
        if seq > Seq::MAX_PLAUSIBLE {
            return Err(Refusal::ImplausibleSeq { seq });
        }
        Ok(Self::sign_unbounded(key, salt, seq, value))
    }

    pub(crate) fn sign_unbounded(key: &SigningKey, salt: &Salt, seq: Seq, value: &[u8]) -> Self {
        Self {
            authority: key.authority(),
            salt: salt.clone(),
            seq,
            value: value.into(),
            signature: key.sign(&sign_buffer(salt, seq, value)),
        }
    }

    /// Signs a pointer: the value is the snapshot's 32-byte v2 info-hash.
    ///
    /// # Errors
    ///
    /// [`Refusal::ImplausibleSeq`].
    pub fn sign_pointer(key: &SigningKey, salt: &Salt, pointer: Pointer) -> Result<Self, Refusal> {
        Self::sign(key, salt, pointer.seq, pointer.snapshot.as_bytes())
    }

    /// Takes what came from elsewhere, if the authority signed exactly that.
    ///
    /// # Errors
    ///
    /// [`Refusal::ValueTooLong`] or [`Refusal::BadSignature`].
    pub fn verified(
        authority: Authority,
        salt: Salt,
        seq: Seq,
        value: &[u8],
        signature: [u8; 64],
    ) -> Result<Self, Refusal> {
        check_value_len(value)?;
        if !authority.verifies(&sign_buffer(&salt, seq, value), &signature) {
            return Err(Refusal::BadSignature);
        }
        Ok(Self {
            authority,
            salt,
            seq,
            value: value.into(),
            signature,
        })
    }

    /// Who signed.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Under which salt.
    pub fn salt(&self) -> &Salt {
        &self.salt
    }

    /// The sequence number.
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// The value, without its bencoding.
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    /// The signature.
    pub fn signature(&self) -> &[u8; 64] {
        &self.signature
    }

    /// The snapshot this item points to.
    ///
    /// # Errors
    ///
    /// When the value is not the 32 bytes of a v2 info-hash; the refusal says what it is instead.
    pub fn pointer(&self) -> Result<Pointer, Refusal> {
        match InfoHashV2::from_slice(&self.value) {
            Some(snapshot) => Ok(Pointer {
                snapshot,
                seq: self.seq,
            }),
            None if self.value.len() == 20 => Err(Refusal::V1Hash),
            None if self.value.starts_with(b"d") && self.value.ends_with(b"e") => {
                Err(Refusal::Dictionary)
            }
            None => Err(Refusal::NotAHash {
                len: self.value.len(),
            }),
        }
    }
}

impl fmt::Debug for SignedItem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedItem")
            .field("authority", &self.authority)
            .field("salt", &self.salt)
            .field("seq", &self.seq)
            .field("value", &HEXLOWER.encode(&self.value))
            .finish_non_exhaustive()
    }
}

fn check_value_len(value: &[u8]) -> Result<(), Refusal> {
    if value.len() > SignedItem::MAX_VALUE_LEN {
        return Err(Refusal::ValueTooLong { len: value.len() });
    }
    Ok(())
}

/// The bytes a signature is made over: salt (unless empty), seq and value, bencoded as they would
/// stand in a dictionary, without its delimiters (BEP 44, "Signature").
fn sign_buffer(salt: &Salt, seq: Seq, value: &[u8]) -> Vec<u8> {
    let mut buffer = Vec::with_capacity(128 + value.len());
    if let Some(salt) = salt.as_option() {
        buffer.extend_from_slice(format!("4:salt{}:", salt.len()).as_bytes());
        buffer.extend_from_slice(salt);
    }
    buffer.extend_from_slice(format!("3:seqi{seq}e1:v{}:", value.len()).as_bytes());
    buffer.extend_from_slice(value);
    buffer
}

/// The form in which an item is written into files and sent over sockets: hexadecimal text, nothing
/// verified. [`SignedItem`] is made from it by `try_into`, which verifies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RawItem {
    /// The public key, 64 digits.
    pub authority: String,
    /// The salt, two digits per byte.
    pub salt: String,
    /// The sequence number.
    pub seq: i64,
    /// The value, two digits per byte.
    pub value: String,
    /// The signature, 128 digits.
    pub signature: String,
}

impl From<&SignedItem> for RawItem {
    fn from(item: &SignedItem) -> Self {
        Self {
            authority: item.authority.to_string(),
            salt: item.salt.to_hex(),
            seq: item.seq.get(),
            value: HEXLOWER.encode(&item.value),
            signature: HEXLOWER.encode(&item.signature),
        }
    }
}

impl TryFrom<&RawItem> for SignedItem {
    type Error = InvalidRawItem;

    fn try_from(raw: &RawItem) -> Result<Self, InvalidRawItem> {
        let authority = raw
            .authority
            .parse()
            .map_err(|_| InvalidRawItem::Field { field: "authority" })?;
        let salt = decode_hex("salt", &raw.salt)?;
        let salt = Salt::new(&salt).map_err(|_| InvalidRawItem::Field { field: "salt" })?;
        let seq = Seq::new(raw.seq).ok_or(InvalidRawItem::Field { field: "seq" })?;
        let value = decode_hex("value", &raw.value)?;
        let signature = decode_hex("signature", &raw.signature)?
            .try_into()
            .map_err(|_| InvalidRawItem::Field { field: "signature" })?;
        Self::verified(authority, salt, seq, &value, signature)
            .map_err(|source| InvalidRawItem::Refused { source })
    }
}

fn decode_hex(field: &'static str, text: &str) -> Result<Vec<u8>, InvalidRawItem> {
    HEXLOWER_PERMISSIVE
        .decode(text.as_bytes())
        .map_err(|_| InvalidRawItem::Field { field })
}

/// A written item cannot be taken back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRawItem {
    /// A field does not hold what it should.
    #[error("the item's field {field:?} is malformed")]
    Field {
        /// Its name.
        field: &'static str,
    },
    /// Every field can be read, but together they are no item of that authority.
    #[error("the item is not what its authority signed")]
    Refused {
        /// Why.
        #[source]
        source: Refusal,
    },
}

#[cfg(test)]
mod tests;
