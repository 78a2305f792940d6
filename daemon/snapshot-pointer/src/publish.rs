//! Publishing a pointer.
//!
//! The order matters, and the steps are apart because they run in different places and the key is
//! to be in memory for one of them only:
//!
//! 1. [`next_seq`], from [`Seen`] (the network) and the producer's own record (the disk);
//! 2. load the key, [`SignedItem::sign_pointer`], drop the key;
//! 3. [`keep`] the item on disk, so that after any crash its `seq` is not used for another value;
//! 4. [`put_and_read_back`], which anybody can do and repeat.

use std::time::SystemTime;

use crate::dht::{Dht, LookupError, PutError};
use crate::gather::Found;
use crate::item::{Seq, SignedItem};
use crate::judge::{Kind, Refusal, Verdict};
use crate::record::{Record, RecordError, RecordStore};

/// What a look-up says of the `seq` in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Nothing: it failed, or it did not settle.
    Unknown,
    /// It settled, and there is no item.
    Nothing,
    /// It settled, and this is the greatest.
    Highest(Seq),
}

impl Seen {
    /// Reads the result of [`Dht::get_item`].
    pub fn of(lookup: &Result<Found, LookupError>) -> Self {
        match lookup {
            Ok(found) if found.settled => found.seq().map_or(Self::Nothing, Self::Highest),
            _ => Self::Unknown,
        }
    }
}

/// There is no number to publish with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoSeq {
    /// A number already in use could be taken again.
    #[error("the look-up failed, so the seq in use is unknown: try again when the DHT answers")]
    Unknown,
    /// Nothing was ever published here, it seems, and that was not expected.
    #[error(
        "neither the DHT nor this disk knows an earlier item: if this is the first publication of \
         this key and salt, say so"
    )]
    NeverPublished,
    /// The first publication was asked for, and there is an earlier one.
    #[error("this is not the first publication: seq {seq} is in use")]
    NotFirst {
        /// The greatest known.
        seq: Seq,
    },
    /// See [`Seq::MAX_PLAUSIBLE`].
    #[error("seq {seq} has no successor that mirrors would accept: publish under a new key")]
    Exhausted {
        /// The greatest known.
        seq: Seq,
    },
}

/// Whether something was published before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publication {
    /// It should have been: knowing no earlier item is an error.
    Following,
    /// The operator says that it was not. Only this works without any other node in reach, as when
    /// the publishing node is the first of its network.
    First,
}

/// The number to sign with: one more than the greatest known, 1 for the first.
///
/// # Errors
///
/// When a number already in use could be the result; see [`NoSeq`].
pub fn next_seq(network: Seen, disk: Option<Seq>, publication: Publication) -> Result<Seq, NoSeq> {
    let highest = match network {
        Seen::Highest(seq) => disk.max(Some(seq)),
        Seen::Nothing | Seen::Unknown => disk,
    };
    match (publication, highest) {
        (Publication::First, Some(seq)) => Err(NoSeq::NotFirst { seq }),
        (Publication::First, None) => Ok(Seq::FIRST),
        (Publication::Following, _) if network == Seen::Unknown => Err(NoSeq::Unknown),
        (Publication::Following, None) => Err(NoSeq::NeverPublished),
        (Publication::Following, Some(seq)) => seq.next().ok_or(NoSeq::Exhausted { seq }),
    }
}

/// Makes a freshly signed item durable in the producer's own record, before anybody else sees it.
///
/// # Errors
///
/// [`KeepError::Refused`] when the record does not accept the item, [`KeepError::Record`] when it
/// cannot be read or written. In both cases the item must not be published.
pub fn keep(
    records: &RecordStore,
    item: &SignedItem,
    kind: Kind,
    now: SystemTime,
) -> Result<Record, KeepError> {
    let (verdicts, record) = records
        .update(item.authority(), item.salt(), kind, |record| {
            record.take(std::slice::from_ref(item), now)
        })
        .map_err(KeepError::Record)?;
    match verdicts.into_iter().next() {
        Some(Err(refusal)) => Err(KeepError::Refused(refusal)),
        Some(Ok(Verdict::Newer | Verdict::Same)) | None => Ok(record),
    }
}

/// A signed item was not made durable.
#[derive(Debug, thiserror::Error)]
pub enum KeepError {
    /// The producer's own record contradicts it.
    #[error("the record of what was published before does not accept the new item")]
    Refused(#[source] Refusal),
    /// The record cannot be used.
    #[error("the record of what was published before cannot be used")]
    Record(#[source] RecordError),
}

/// An item is in the DHT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Nodes that said they stored it.
    pub stored: u32,
    /// Items that a new look-up then found, from as many nodes.
    pub read_back: u32,
}

/// Puts an item and reads it back with a new look-up. May be repeated.
///
/// # Errors
///
/// When it was not stored, or not found again.
pub async fn put_and_read_back(
    dht: &dyn Dht,
    item: &SignedItem,
) -> Result<Published, PublishError> {
    let stored = dht.put_item(item).await.map_err(PublishError::Put)?;
    let found = dht
        .get_item(item.authority(), item.salt(), &mut |_| {})
        .await
        .map_err(PublishError::ReadBack)?;
    match &found.best {
        Some(best) if best == item && found.conflicts.is_empty() => Ok(Published {
            stored: stored.nodes,
            read_back: found.counts.valid,
        }),
        other => Err(PublishError::Different {
            found: other.clone().map(Box::new),
        }),
    }
}

/// An item is not, or not surely, in the DHT.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// It was not stored.
    #[error("the item was not stored")]
    Put(#[source] PutError),
    /// It was stored and could not be looked up.
    #[error("the item was stored, but the look-up to confirm it failed")]
    ReadBack(#[source] LookupError),
    /// The look-up found something else.
    #[error(
        "the item was stored, but a look-up found {} instead",
        found.as_ref().map_or("nothing".to_owned(), |item| format!("seq {}", item.seq()))
    )]
    Different {
        /// What it found.
        found: Option<Box<SignedItem>>,
    },
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use bittorrent_protocol::SwarmHash;
    use futures_util::FutureExt as _;
    use futures_util::future::BoxFuture;

    use super::*;
    use crate::dht::Stored;
    use crate::item::Salt;
    use crate::key::Authority;
    use crate::testing::{authority, item, salt};

    fn seq(n: i64) -> Seq {
        Seq::new(n).unwrap()
    }

    #[test]
    fn table_of_next_seq() {
        use Publication::{First, Following};
        use Seen::{Highest, Nothing, Unknown};
        let some = |n| Some(seq(n));
        let max = Seq::MAX_PLAUSIBLE.get();
        let cases = [
            (Highest(seq(7)), None, Following, Ok(seq(8))),
            (Highest(seq(7)), some(7), Following, Ok(seq(8))),
            (Highest(seq(7)), some(9), Following, Ok(seq(10))),
            (Highest(seq(9)), some(7), Following, Ok(seq(10))),
            (Highest(seq(0)), None, Following, Ok(seq(1))),
            // The DHT forgot, the disk did not.
            (Nothing, some(7), Following, Ok(seq(8))),
            (Nothing, None, Following, Err(NoSeq::NeverPublished)),
            (Unknown, None, Following, Err(NoSeq::Unknown)),
            (Unknown, some(7), Following, Err(NoSeq::Unknown)),
            (Nothing, None, First, Ok(seq(1))),
            (Unknown, None, First, Ok(seq(1))),
            (
                Highest(seq(7)),
                None,
                First,
                Err(NoSeq::NotFirst { seq: seq(7) }),
            ),
            (
                Unknown,
                some(3),
                First,
                Err(NoSeq::NotFirst { seq: seq(3) }),
            ),
            (
                Highest(seq(max)),
                None,
                Following,
                Err(NoSeq::Exhausted { seq: seq(max) }),
            ),
            (Highest(seq(max - 1)), None, Following, Ok(seq(max))),
        ];
        for (network, disk, publication, expected) in cases {
            assert_eq!(
                next_seq(network, disk, publication),
                expected,
                "{network:?} {disk:?} {publication:?}"
            );
        }
    }

    #[test]
    fn a_look_up_that_did_not_settle_says_nothing() {
        let mut found = Found::default();
        found.add(item(1, 7, 0xaa));
        assert_eq!(Seen::of(&Ok(found.clone())), Seen::Unknown);
        found.settled = true;
        assert_eq!(Seen::of(&Ok(found)), Seen::Highest(seq(7)));
        let nothing = Found {
            settled: true,
            ..Found::default()
        };
        assert_eq!(Seen::of(&Ok(nothing)), Seen::Nothing);
        assert_eq!(Seen::of(&Err(LookupError::NotConnected)), Seen::Unknown);
    }

    #[test]
    fn an_item_that_contradicts_the_record_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let records = RecordStore::open(dir.path()).unwrap();
        let now = SystemTime::UNIX_EPOCH;
        keep(&records, &item(1, 7, 0xaa), Kind::Pointer, now).unwrap();
        keep(&records, &item(1, 7, 0xaa), Kind::Pointer, now).unwrap();
        assert!(matches!(
            keep(&records, &item(1, 7, 0xbb), Kind::Pointer, now),
            Err(KeepError::Refused(Refusal::Equivocation { .. }))
        ));
        assert!(matches!(
            keep(&records, &item(1, 6, 0xbb), Kind::Pointer, now),
            Err(KeepError::Refused(Refusal::LowerSeq { .. }))
        ));
        let record = keep(&records, &item(1, 8, 0xbb), Kind::Pointer, now).unwrap();
        assert_eq!(record.refreshed(), None, "it is not in the DHT yet");
        let held = records.load(&authority(1), &salt(), Kind::Pointer).unwrap();
        assert_eq!(held.standing().held(), Some(&item(1, 8, 0xbb)));
    }

    /// Says that it stores whatever it is given, and finds what it was told to find.
    struct Forgetful(Vec<SignedItem>);

    impl Dht for Forgetful {
        fn get_item<'a>(
            &'a self,
            _: &'a Authority,
            _: &'a Salt,
            _: &'a mut (dyn FnMut(&SignedItem) + Send),
        ) -> BoxFuture<'a, Result<Found, LookupError>> {
            let mut found = Found {
                settled: true,
                ..Found::default()
            };
            for item in &self.0 {
                found.add(item.clone());
            }
            Box::pin(async move { Ok(found) })
        }

        fn put_item<'a>(&'a self, _: &'a SignedItem) -> BoxFuture<'a, Result<Stored, PutError>> {
            Box::pin(async {
                Ok(Stored {
                    nodes: 8,
                    before: Found::default(),
                })
            })
        }

        fn get_peers(&self, _: SwarmHash) -> BoxFuture<'_, Result<Vec<SocketAddr>, LookupError>> {
            Box::pin(async { Err(LookupError::NotConnected) })
        }

        fn announce(
            &self,
            _: SwarmHash,
            _: u16,
        ) -> BoxFuture<'_, Result<Vec<SocketAddr>, PutError>> {
            Box::pin(async { Err(LookupError::NotConnected.into()) })
        }

        fn contacts(&self) -> BoxFuture<'_, Vec<SocketAddr>> {
            Box::pin(async { Vec::new() })
        }

        fn bootstrapped(&self) -> BoxFuture<'_, bool> {
            Box::pin(async { true })
        }
    }

    #[test]
    fn what_is_read_back_must_be_what_was_put_and_nothing_else() {
        let ours = item(1, 5, 0xaa);
        let publish = |found: &[SignedItem]| {
            let dht = Forgetful(found.to_vec());
            // The double never waits.
            put_and_read_back(&dht, &ours).now_or_never().unwrap()
        };
        let published = publish(&[ours.clone(), item(1, 4, 0xbb), ours.clone()]).unwrap();
        assert_eq!((published.stored, published.read_back), (8, 3));
        for found in [
            vec![],
            vec![item(1, 4, 0xbb)],
            vec![item(1, 6, 0xaa)],
            vec![item(1, 5, 0xbb)],
            vec![ours.clone(), item(1, 5, 0xbb)],
        ] {
            assert!(
                matches!(publish(&found), Err(PublishError::Different { .. })),
                "{found:?}"
            );
        }
    }
}
