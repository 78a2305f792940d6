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
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{authority, item, key, salt};

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        HEXLOWER.decode(hex.as_bytes()).unwrap().try_into().unwrap()
    }

    /// BEP 44, "Test vectors", test 1 and test 2.
    #[test]
    fn the_vectors_of_bep_44_verify() {
        let authority: Authority =
            "77ff84905a91936367c01360803104f92432fcd904a43511876df5cdf3e7e548"
                .parse()
                .unwrap();
        let cases = [
            (
                "",
                "3:seqi1e1:v12:Hello World!",
                "305ac8aeb6c9c151fa120f120ea2cfb923564e11552d06a5d856091e5e853cff\
                 1260d3f39e4999684aa92eb73ffd136e6f4f3ecbfda0ce53a1608ecd7ae21f01",
            ),
            (
                "foobar",
                "4:salt6:foobar3:seqi1e1:v12:Hello World!",
                "6834284b6b24c3204eb2fea824d82f88883a3d95e8b4a21b8c0ded553d17d17d\
                 df9a8a7104b1258f30bed3787e6cb896fca78c58f8e03b5f18f14951a87d9a08",
            ),
        ];
        for (salt, buffer, signature) in cases {
            let salt: Salt = salt.parse().unwrap();
            let value = b"Hello World!";
            assert_eq!(sign_buffer(&salt, Seq::FIRST, value), buffer.as_bytes());
            let item =
                SignedItem::verified(authority, salt, Seq::FIRST, value, bytes(signature)).unwrap();
            assert_eq!(item.pointer(), Err(Refusal::NotAHash { len: 12 }));
        }
    }

    #[test]
    fn any_other_bit_makes_the_signature_bad() {
        let good = item(1, 7, 0xaa);
        let verify = |authority, salt: &str, seq, value: &[u8], signature| {
            let seq = Seq::new(seq).unwrap();
            SignedItem::verified(authority, salt.parse().unwrap(), seq, value, signature)
        };
        let (authority_1, signature) = (*good.authority(), *good.signature());
        assert_eq!(
            verify(authority_1, "daily", 7, &[0xaa; 32], signature),
            Ok(good.clone())
        );
        let mut flipped = signature;
        flipped[40] ^= 1;
        for bad in [
            verify(authority(2), "daily", 7, &[0xaa; 32], signature),
            verify(authority_1, "", 7, &[0xaa; 32], signature),
            verify(authority_1, "dailz", 7, &[0xaa; 32], signature),
            verify(authority_1, "daily", 8, &[0xaa; 32], signature),
            verify(authority_1, "daily", 7, &[0xab; 32], signature),
            verify(authority_1, "daily", 7, &[0xaa; 31], signature),
            verify(authority_1, "daily", 7, &[0xaa; 32], flipped),
        ] {
            assert_eq!(bad, Err(Refusal::BadSignature));
        }
    }

    #[test]
    fn values_other_than_a_v2_hash_are_told_apart() {
        let bep_46 = [b"d2:ih20:".as_slice(), &[0xcc; 20], b"e"].concat();
        let twice_encoded = [b"32:".as_slice(), &[0xaa; 32]].concat();
        let cases: [(&[u8], Refusal); 7] = [
            (&[0xaa; 20], Refusal::V1Hash),
            (&bep_46, Refusal::Dictionary),
            (&twice_encoded, Refusal::NotAHash { len: 35 }),
            (&[0xaa; 31], Refusal::NotAHash { len: 31 }),
            (&[0xaa; 33], Refusal::NotAHash { len: 33 }),
            (&[], Refusal::NotAHash { len: 0 }),
            (b"placeholder", Refusal::NotAHash { len: 11 }),
        ];
        for (value, refusal) in cases {
            let item = SignedItem::sign(&key(1), &salt(), Seq::FIRST, value).unwrap();
            assert_eq!(item.pointer(), Err(refusal));
        }
        // A hash is a hash, even if it looks like the ends of a dictionary.
        let mut hash = [b'd'; 32];
        hash[31] = b'e';
        let item = SignedItem::sign(&key(1), &salt(), Seq::FIRST, &hash).unwrap();
        assert_eq!(
            item.pointer(),
            Ok(Pointer {
                snapshot: InfoHashV2::from_bytes(hash),
                seq: Seq::FIRST
            })
        );
    }

    #[test]
    fn limits_of_what_is_signed() {
        let sign = |len, seq: Seq| SignedItem::sign(&key(1), &salt(), seq, &vec![0; len]);
        assert!(sign(SignedItem::MAX_VALUE_LEN, Seq::FIRST).is_ok());
        assert_eq!(
            sign(997, Seq::FIRST),
            Err(Refusal::ValueTooLong { len: 997 })
        );
        assert!(sign(32, Seq::MAX_PLAUSIBLE).is_ok());
        let above = Seq::new(Seq::MAX_PLAUSIBLE.get() + 1).unwrap();
        assert_eq!(sign(32, above), Err(Refusal::ImplausibleSeq { seq: above }));
        assert_eq!(Seq::MAX_PLAUSIBLE.next(), None);
        assert_eq!(Seq::new(-1), None);
        assert_eq!(Seq::new(0).and_then(Seq::next), Some(Seq::FIRST));

        assert!(Salt::new(&[0; 64]).is_ok());
        assert!(Salt::new(&[0; 65]).is_err());
        assert_eq!(
            Salt::new(&[b'x'; 59])
                .unwrap()
                .next()
                .unwrap()
                .as_bytes()
                .len(),
            64
        );
        assert!(Salt::new(&[b'x'; 60]).unwrap().next().is_err());
        assert_eq!(Salt::new(b"a\xffb").unwrap().to_string(), "a\\xffb");
    }

    #[test]
    fn written_items_are_verified_when_read() {
        let good = RawItem::from(&item(1, 7, 0xaa));
        assert_eq!(SignedItem::try_from(&good), Ok(item(1, 7, 0xaa)));
        let field = |field| Err(InvalidRawItem::Field { field });
        let cases = [
            (
                RawItem {
                    authority: "00".to_owned(),
                    ..good.clone()
                },
                field("authority"),
            ),
            (
                RawItem {
                    salt: "0".to_owned(),
                    ..good.clone()
                },
                field("salt"),
            ),
            (
                RawItem {
                    salt: "00".repeat(65),
                    ..good.clone()
                },
                field("salt"),
            ),
            (
                RawItem {
                    seq: -1,
                    ..good.clone()
                },
                field("seq"),
            ),
            (
                RawItem {
                    value: "zz".to_owned(),
                    ..good.clone()
                },
                field("value"),
            ),
            (
                RawItem {
                    signature: "00".repeat(63),
                    ..good.clone()
                },
                field("signature"),
            ),
            (
                RawItem {
                    seq: 8,
                    ..good.clone()
                },
                Err(InvalidRawItem::Refused {
                    source: Refusal::BadSignature,
                }),
            ),
        ];
        for (raw, error) in cases {
            assert_eq!(SignedItem::try_from(&raw), error);
        }
    }

    proptest! {
        #[test]
        fn what_is_signed_is_written_and_read_back(
            seed: [u8; 32],
            salt in prop::collection::vec(any::<u8>(), 0..=64),
            seq in 0..=Seq::MAX_PLAUSIBLE.get(),
            value in prop::collection::vec(any::<u8>(), 0..=SignedItem::MAX_VALUE_LEN),
        ) {
            let salt = Salt::new(&salt).unwrap();
            let item = SignedItem::sign(
                &SigningKey::from_seed(&seed), &salt, Seq::new(seq).unwrap(), &value,
            ).unwrap();
            let text = serde_json::to_string(&RawItem::from(&item)).unwrap();
            let raw: RawItem = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(SignedItem::try_from(&raw), Ok(item));
        }

        #[test]
        fn our_sign_buffer_is_that_of_other_implementations(
            salt in prop::collection::vec(any::<u8>(), 0..=64),
            seq in 0..=Seq::MAX_PLAUSIBLE.get(),
            value in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let salt = Salt::new(&salt).unwrap();
            let signed = mainline::MutableItem::new(
                mainline::SigningKey::from_bytes(&[1; 32]), &value, seq, salt.as_option(),
            );
            let ours = SignedItem::sign(&key(1), &salt, Seq::new(seq).unwrap(), &value).unwrap();
            prop_assert_eq!(ours.signature(), signed.signature());
        }

        #[test]
        fn reading_text_never_panics(text in ".{0,200}", seq: i64) {
            let _ = text.parse::<Authority>();
            let _ = text.parse::<Salt>();
            let _ = SigningKey::from_hex(&text);
            let raw = RawItem {
                authority: authority(1).to_string(),
                salt: text.clone(),
                seq,
                value: text.clone(),
                signature: text,
            };
            prop_assert!(SignedItem::try_from(&raw).is_err());
        }

        #[test]
        fn bytes_from_the_network_never_panic(
            key: [u8; 32], seq: i64, value in prop::collection::vec(any::<u8>(), 0..1100),
            signature: [u8; 64],
        ) {
            if let (Ok(authority), Some(seq)) = (Authority::from_bytes(&key), Seq::new(seq)) {
                prop_assert!(
                    SignedItem::verified(authority, salt(), seq, &value, signature).is_err()
                );
            }
            let signed = SignedItem::sign_unbounded(
                &crate::testing::key(1), &salt(), Seq::FIRST, &value,
            );
            let _ = signed.pointer();
            let _ = crate::Succession::from_item(&signed);
        }
    }
}
