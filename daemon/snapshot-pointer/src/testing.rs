//! Items for unit tests.

use crate::item::{Authority, Salt, Seq, SignedItem, SigningKey};

pub(crate) fn key(n: u8) -> SigningKey {
    SigningKey::from_seed(&[n; 32])
}

pub(crate) fn authority(n: u8) -> Authority {
    key(n).authority()
}

pub(crate) fn salt() -> Salt {
    Salt::new(b"daily").unwrap()
}

/// An item of authority `n` whose value is 32 times `byte`.
pub(crate) fn item(n: u8, seq: i64, byte: u8) -> SignedItem {
    SignedItem::sign(&key(n), &salt(), Seq::new(seq).unwrap(), &[byte; 32]).unwrap()
}

/// An item that only a careless producer signs.
pub(crate) fn oversized_seq_item(n: u8) -> SignedItem {
    SignedItem::sign_unbounded(&key(n), &salt(), Seq::new(i64::MAX).unwrap(), &[0xee; 32])
}
