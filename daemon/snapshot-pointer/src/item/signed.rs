//! BEP 44 mutable items whose signature is known to be good, and the pointer inside them.

use std::fmt;

use bittorrent_protocol::InfoHashV2;
use data_encoding::HEXLOWER;

use super::key::{Authority, SigningKey};
use super::refusal::{MAX_VALUE_LEN, Refusal};
use super::salt::Salt;
use super::seq::Seq;

/// The snapshot that an authority calls current, with the sequence number of the item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pointer {
    /// The snapshot.
    pub snapshot: InfoHashV2,
    /// The item's sequence number; comparable only between items of one authority and salt.
    pub seq: Seq,
}

/// A BEP 44 mutable item with a valid signature: signed here, or verified.
///
/// The value is always a byte string. BEP 46 puts a dictionary there. `mainline` cannot transport
/// one: it reads and signs `v` as a string.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct SignedItem {
    authority: Authority,
    salt: Salt,
    seq: Seq,
    value: Box<[u8]>,
    signature: [u8; 64],
}

impl SignedItem {
    /// The longest value in bytes: bencoded with its length prefix, it takes the 1,000 bytes that
    /// nodes store (BEP 44; nodes answer error 205 above it).
    pub const MAX_VALUE_LEN: usize = MAX_VALUE_LEN;

    /// Signs a value.
    ///
    /// # Errors
    ///
    /// [`Refusal::ValueTooLong`] and [`Refusal::ImplausibleSeq`], which no mirror would accept.
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

    /// Makes an item of parts received from elsewhere, if the authority signed exactly these.
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

    /// Returns the authority that signed.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Returns the salt.
    pub fn salt(&self) -> &Salt {
        &self.salt
    }

    /// Returns the sequence number.
    pub fn seq(&self) -> Seq {
        self.seq
    }

    /// Returns the value, without its bencoding.
    pub fn value(&self) -> &[u8] {
        &self.value
    }

    /// Returns the signature.
    pub fn signature(&self) -> &[u8; 64] {
        &self.signature
    }

    /// Returns the snapshot that this item points to.
    ///
    /// # Errors
    ///
    /// When the value is not the 32 bytes of a v2 info-hash; the refusal names what it is instead.
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

/// Returns the bytes that are signed: salt (unless empty), seq and value, bencoded as in a
/// dictionary, without its delimiters (BEP 44, "Signature").
pub(super) fn sign_buffer(salt: &Salt, seq: Seq, value: &[u8]) -> Vec<u8> {
    let mut buffer = Vec::with_capacity(128 + value.len());
    if let Some(salt) = salt.as_option() {
        buffer.extend_from_slice(format!("4:salt{}:", salt.len()).as_bytes());
        buffer.extend_from_slice(salt);
    }
    buffer.extend_from_slice(format!("3:seqi{seq}e1:v{}:", value.len()).as_bytes());
    buffer.extend_from_slice(value);
    buffer
}
