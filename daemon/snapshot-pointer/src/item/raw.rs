//! Items as text, in files and over sockets.

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use serde::{Deserialize, Serialize};

use super::refusal::Refusal;
use super::salt::Salt;
use super::seq::Seq;
use super::signed::SignedItem;

/// An unverified item as hexadecimal text, as written to files and sent over sockets. `try_into`
/// verifies it and makes a [`SignedItem`].
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
            authority: item.authority().to_string(),
            salt: item.salt().to_hex(),
            seq: item.seq().get(),
            value: HEXLOWER.encode(item.value()),
            signature: HEXLOWER.encode(item.signature()),
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

/// A [`RawItem`] is not a valid item.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRawItem {
    /// A field is malformed.
    #[error("the item's field {field:?} is malformed")]
    Field {
        /// The name of the field.
        field: &'static str,
    },
    /// Every field can be read, but the authority did not sign this item.
    #[error("the item is not what its authority signed")]
    Refused {
        /// The reason.
        #[source]
        source: Refusal,
    },
}
