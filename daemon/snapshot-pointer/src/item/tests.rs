use proptest::prelude::*;

use bittorrent_protocol::InfoHashV2;
use data_encoding::HEXLOWER;

use super::signed::sign_buffer;
use super::*;
use crate::testing::{authority, item, key, salt};

fn bytes<const N: usize>(hex: &str) -> [u8; N] {
    HEXLOWER.decode(hex.as_bytes()).unwrap().try_into().unwrap()
}

/// BEP 44, "Test vectors", test 1 and test 2.
#[test]
fn the_vectors_of_bep_44_verify() {
    let authority: Authority = "77ff84905a91936367c01360803104f92432fcd904a43511876df5cdf3e7e548"
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
