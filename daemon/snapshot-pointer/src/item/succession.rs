//! Key rotation: an authority names its successor.
//!
//! Under its own key, with the salt `<salt>.next`, an authority publishes an item of 96 bytes: the
//! new public key (32) and the new key's signature over the old public key (64). The first half
//! names the new key. The second half proves that the new key exists and agrees to succeed exactly
//! this old one. This module only makes and checks the statement; a mirror's policy decides whether
//! it warns the operator or follows the new key. Mirrors republish the item like any other, so that
//! it outlives the old key.

use super::key::{Authority, SigningKey};
use super::refusal::Refusal;
use super::salt::Salt;
use super::seq::Seq;
use super::signed::SignedItem;

/// A statement, proven from both sides, that one authority takes over from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Succession {
    /// The key that hands over.
    pub old: Authority,
    /// The key that takes over.
    pub new: Authority,
}

impl Succession {
    /// Length of the item's value in bytes.
    pub const VALUE_LEN: usize = 96;

    /// Signs the item to publish, with both keys.
    ///
    /// `salt` is that of the stream; the item is signed under [`Salt::next`].
    ///
    /// # Errors
    ///
    /// [`Refusal::NotASuccession`] when both keys are the same or the salt has no room for `.next`,
    /// [`Refusal::ImplausibleSeq`] as for any item.
    pub fn sign(
        old: &SigningKey,
        new: &SigningKey,
        salt: &Salt,
        seq: Seq,
    ) -> Result<SignedItem, Refusal> {
        if old.authority() == new.authority() {
            return Err(Refusal::NotASuccession);
        }
        let salt = salt.next().map_err(|_| Refusal::NotASuccession)?;
        let mut value = new.authority().as_bytes().to_vec();
        value.extend_from_slice(&new.sign(old.authority().as_bytes()));
        SignedItem::sign(old, &salt, seq, &value)
    }

    /// Reads and verifies the statement in an item.
    ///
    /// # Errors
    ///
    /// [`Refusal::NotASuccession`] when the value has another length, names no key or the old key
    /// itself, or lacks a valid signature of the new key.
    pub fn from_item(item: &SignedItem) -> Result<Self, Refusal> {
        let old = *item.authority();
        let (key, agreement) = item
            .value()
            .split_first_chunk::<{ Authority::LEN }>()
            .ok_or(Refusal::NotASuccession)?;
        let agreement = agreement.try_into().map_err(|_| Refusal::NotASuccession)?;
        let new = Authority::from_bytes(key).map_err(|_| Refusal::NotASuccession)?;
        if new == old || !new.verifies(old.as_bytes(), agreement) {
            return Err(Refusal::NotASuccession);
        }
        Ok(Self { old, new })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> SigningKey {
        SigningKey::from_seed(&[n; 32])
    }

    #[test]
    fn a_succession_signed_by_both_keys_is_read_back() {
        let salt: Salt = "daily".parse().unwrap();
        let item = Succession::sign(&key(1), &key(2), &salt, Seq::FIRST).unwrap();
        assert_eq!(item.salt().as_bytes(), b"daily.next");
        assert_eq!(item.value().len(), Succession::VALUE_LEN);
        assert_eq!(
            Succession::from_item(&item),
            Ok(Succession {
                old: key(1).authority(),
                new: key(2).authority()
            })
        );
    }

    #[test]
    fn a_succession_without_consent_or_to_itself_is_refused() {
        let salt: Salt = "daily".parse().unwrap();
        assert_eq!(
            Succession::sign(&key(1), &key(1), &salt, Seq::FIRST),
            Err(Refusal::NotASuccession)
        );
        let long = Salt::new(&[b'x'; 60]).unwrap();
        assert_eq!(
            Succession::sign(&key(1), &key(2), &long, Seq::FIRST),
            Err(Refusal::NotASuccession)
        );

        let good = Succession::sign(&key(1), &key(2), &salt, Seq::FIRST).unwrap();
        let next = good.salt().clone();
        // The consent of key 2 was given to key 1, so key 3 cannot claim it.
        let stolen = SignedItem::sign(&key(3), &next, Seq::FIRST, good.value()).unwrap();
        assert_eq!(Succession::from_item(&stolen), Err(Refusal::NotASuccession));
        // The agreement of another key than the one named.
        let mut mixed = key(4).authority().as_bytes().to_vec();
        mixed.extend_from_slice(&good.value()[32..]);
        let own = {
            let mut value = key(1).authority().as_bytes().to_vec();
            value.extend_from_slice(&key(1).sign(key(1).authority().as_bytes()));
            value
        };
        for value in [
            mixed,
            own,
            good.value()[..95].to_vec(),
            [good.value(), &[0]].concat(),
            good.value()[..31].to_vec(),
            vec![],
        ] {
            let item = SignedItem::sign(&key(1), &next, Seq::FIRST, &value).unwrap();
            assert_eq!(
                Succession::from_item(&item),
                Err(Refusal::NotASuccession),
                "{} bytes",
                value.len()
            );
        }
    }
}
