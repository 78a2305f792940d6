//! Publishes a pointer in steps.
//!
//! The steps are separate because they run in different processes, and the key is in memory during
//! one of them only. Their order matters:
//!
//! 1. [`next_seq`] computes the number from [`Seen`] (the network) and the producer's own record
//!    (the disk);
//! 2. the caller loads the key, calls [`SignedItem::sign_pointer`], and drops the key;
//! 3. [`keep`] records the item on disk, so that after a crash its `seq` is not used for another
//!    value;
//! 4. [`put_and_read_back`] needs no key and may be repeated.

use std::time::SystemTime;

use crate::dht::{Dht, LookupError, PutError};
use crate::item::{Refusal, Seq, SignedItem};
use crate::lookup_result::LookupResult;
use crate::trust::{Acceptance, ItemKind, Record, RecordError, RecordStore};

/// The `seq` in use, as far as a look-up shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Unknown: the look-up failed or did not settle.
    Unknown,
    /// The look-up settled and found no item.
    Nothing,
    /// The look-up settled, and this is the greatest number.
    Highest(Seq),
}

impl Seen {
    /// Classifies the result of [`Dht::get_item`].
    pub fn of(lookup: &Result<LookupResult, LookupError>) -> Self {
        match lookup {
            Ok(found) if found.settled => found.seq().map_or(Self::Nothing, Self::Highest),
            _ => Self::Unknown,
        }
    }
}

/// There is no safe number to publish with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoSeq {
    /// A number in use might be used again.
    #[error("the look-up failed, so the seq in use is unknown: try again when the DHT answers")]
    Unknown,
    /// No earlier item is known, although one was expected.
    #[error(
        "neither the DHT nor this disk knows an earlier item: if this is the first publication of \
         this key and salt, say so"
    )]
    NeverPublished,
    /// A first publication was requested, and there is an earlier item.
    #[error("this is not the first publication: seq {seq} is in use")]
    NotFirst {
        /// The greatest known number.
        seq: Seq,
    },
    /// The next number would exceed [`Seq::MAX_PLAUSIBLE`].
    #[error("seq {seq} has no successor that mirrors would accept: publish under a new key")]
    Exhausted {
        /// The greatest known number.
        seq: Seq,
    },
}

/// Whether an item was published before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Publication {
    /// Yes: knowing no earlier item is an error.
    Following,
    /// No, according to the operator. Only this works while no other DHT node is reachable, as when
    /// the publishing node is the first of its network.
    First,
}

/// Returns the number to sign with: one more than the greatest known, 1 for the first.
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

/// Makes a new item durable in the producer's own record. Must be called before the item is sent
/// anywhere.
///
/// # Errors
///
/// [`KeepError::Refused`] when the record does not accept the item, [`KeepError::Record`] when it
/// cannot be read or written. In both cases the item must not be published.
pub fn keep(
    records: &RecordStore,
    item: &SignedItem,
    kind: ItemKind,
    now: SystemTime,
) -> Result<Record, KeepError> {
    let (verdicts, record) = records
        .update(item.authority(), item.salt(), kind, |record| {
            record.take(std::slice::from_ref(item), now)
        })
        .map_err(KeepError::Record)?;
    match verdicts.into_iter().next() {
        Some(Err(refusal)) => Err(KeepError::Refused(refusal)),
        Some(Ok(Acceptance::Newer | Acceptance::Same)) | None => Ok(record),
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

/// The confirmation that an item is in the DHT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The number of nodes that confirmed storing it.
    pub stored: u32,
    /// The number of nodes that returned it in a new look-up.
    pub read_back: u32,
}

/// Puts an item and reads it back with a new look-up. May be repeated.
///
/// # Errors
///
/// When the item was not stored, or was not found afterwards.
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

/// An item is not in the DHT, or its presence is unknown.
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
    use crate::item::{Authority, Salt};
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
            // The DHT has no item any more, the disk has.
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
        let mut found = LookupResult::default();
        found.add(item(1, 7, 0xaa));
        assert_eq!(Seen::of(&Ok(found.clone())), Seen::Unknown);
        found.settled = true;
        assert_eq!(Seen::of(&Ok(found)), Seen::Highest(seq(7)));
        let nothing = LookupResult {
            settled: true,
            ..LookupResult::default()
        };
        assert_eq!(Seen::of(&Ok(nothing)), Seen::Nothing);
        assert_eq!(Seen::of(&Err(LookupError::NotConnected)), Seen::Unknown);
    }

    #[test]
    fn an_item_that_contradicts_the_record_is_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let records = RecordStore::open(dir.path()).unwrap();
        let now = SystemTime::UNIX_EPOCH;
        keep(&records, &item(1, 7, 0xaa), ItemKind::Pointer, now).unwrap();
        keep(&records, &item(1, 7, 0xaa), ItemKind::Pointer, now).unwrap();
        assert!(matches!(
            keep(&records, &item(1, 7, 0xbb), ItemKind::Pointer, now),
            Err(KeepError::Refused(Refusal::Equivocation { .. }))
        ));
        assert!(matches!(
            keep(&records, &item(1, 6, 0xbb), ItemKind::Pointer, now),
            Err(KeepError::Refused(Refusal::LowerSeq { .. }))
        ));
        let record = keep(&records, &item(1, 8, 0xbb), ItemKind::Pointer, now).unwrap();
        assert_eq!(record.refreshed(), None, "it is not in the DHT yet");
        let kept = records
            .load(&authority(1), &salt(), ItemKind::Pointer)
            .unwrap();
        assert_eq!(kept.state().accepted(), Some(&item(1, 8, 0xbb)));
    }

    /// Confirms storing every item, and finds the configured result.
    struct Forgetful(Vec<SignedItem>);

    impl Dht for Forgetful {
        fn get_item<'a>(
            &'a self,
            _: &'a Authority,
            _: &'a Salt,
            _: &'a mut (dyn FnMut(&SignedItem) + Send),
        ) -> BoxFuture<'a, Result<LookupResult, LookupError>> {
            let mut found = LookupResult {
                settled: true,
                ..LookupResult::default()
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
                    before: LookupResult::default(),
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
