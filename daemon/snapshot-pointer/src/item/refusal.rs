//! The reasons why an item is not accepted.

use super::seq::Seq;

/// The longest value in bytes, see [`SignedItem::MAX_VALUE_LEN`](crate::SignedItem::MAX_VALUE_LEN).
pub(super) const MAX_VALUE_LEN: usize = 996;

/// Why an item is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The signature is not valid for the authority.
    #[error("the signature is not the authority's")]
    BadSignature,
    /// The value is longer than what the DHT stores.
    #[error("the value has {len} bytes, more than {MAX_VALUE_LEN}")]
    ValueTooLong {
        /// The length of the value.
        len: usize,
    },
    /// The item belongs to another authority or salt.
    #[error("the item belongs to another authority or salt")]
    Foreign,
    /// The item is older than one that was seen before: the node missed an update, or this is a
    /// rollback.
    #[error("seq {seen} is below {high}, which was seen before")]
    LowerSeq {
        /// The number of the item.
        seen: Seq,
        /// The high-water mark.
        high: Seq,
    },
    /// The authority signed two different values with one sequence number. Both are kept as
    /// evidence. The authority has no vote until it signs a greater number.
    #[error("the authority signed two different values with seq {seq}")]
    Equivocation {
        /// The number.
        seq: Seq,
    },
    /// The sequence number is above [`Seq::MAX_PLAUSIBLE`].
    #[error("seq {seq} leaves no room for a successor")]
    ImplausibleSeq {
        /// The number.
        seq: Seq,
    },
    /// The value has 20 bytes: a v1 info-hash, whose SHA-1 does not protect the content.
    #[error("the value is a 20-byte v1 info-hash; only 32-byte v2 info-hashes are followed")]
    V1Hash,
    /// The value is a bencoded dictionary, as BEP 46 describes.
    #[error("the value is a dictionary (BEP 46), not the 32 bytes of a v2 info-hash")]
    Dictionary,
    /// The value is something else and does not have 32 bytes.
    #[error("the value has {len} bytes and is not a v2 info-hash")]
    NotAHash {
        /// The length of the value.
        len: usize,
    },
    /// An item under `<salt>.next` that does not name a consenting successor.
    #[error("the value does not name a successor that agreed to be one")]
    NotASuccession,
}
