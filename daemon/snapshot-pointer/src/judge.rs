//! Whether an item may move a mirror forward.

use crate::item::{Pointer, Salt, Seq, SignedItem};
use crate::key::Authority;
use crate::rotation::Succession;

/// Why an item is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The authority did not sign this.
    #[error("the signature is not the authority's")]
    BadSignature,
    /// More than the DHT stores.
    #[error("the value has {len} bytes, more than {}", SignedItem::MAX_VALUE_LEN)]
    ValueTooLong {
        /// Its length.
        len: usize,
    },
    /// An item of another authority or under another salt.
    #[error("the item belongs to another authority or salt")]
    Foreign,
    /// Older than what was seen before: a node that missed an update, or a rollback.
    #[error("seq {seen} is below {high}, which was seen before")]
    LowerSeq {
        /// The item's.
        seen: Seq,
        /// The high-water mark.
        high: Seq,
    },
    /// The authority signed two different values with one sequence number. Both are kept as
    /// evidence, and the authority has no vote before it signs a greater number.
    #[error("the authority signed two different values with seq {seq}")]
    Equivocation {
        /// The number.
        seq: Seq,
    },
    /// See [`Seq::MAX_PLAUSIBLE`].
    #[error("seq {seq} leaves no room for a successor")]
    ImplausibleSeq {
        /// The number.
        seq: Seq,
    },
    /// 20 bytes: a v1 info-hash, whose SHA-1 does not protect what it names.
    #[error("the value is a 20-byte v1 info-hash; only 32-byte v2 info-hashes are followed")]
    V1Hash,
    /// A bencoded dictionary, as BEP 46 describes.
    #[error("the value is a dictionary (BEP 46), not the 32 bytes of a v2 info-hash")]
    Dictionary,
    /// Anything else that is not 32 bytes.
    #[error("the value has {len} bytes and is not a v2 info-hash")]
    NotAHash {
        /// Its length.
        len: usize,
    },
    /// An item under `<salt>.next` that does not name a consenting successor.
    #[error("the value does not name a successor that agreed to be one")]
    NotASuccession,
}

/// What an item must hold to be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The 32 bytes of a v2 info-hash.
    Pointer,
    /// A consenting successor, see [`Succession`].
    Succession,
}

impl Kind {
    fn check(self, item: &SignedItem) -> Result<(), Refusal> {
        match self {
            Self::Pointer => item.pointer().map(drop),
            Self::Succession => Succession::from_item(item).map(drop),
        }
    }
}

/// An item was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the item that is held already.
    Same,
    /// It moves the high-water mark up.
    Newer,
}

/// What is known of one authority under one salt: the item it stands by, and the proof of any double
/// signing. Pure; [`Record`](crate::Record) adds times and durability.
///
/// # Invariants
///
/// The high-water mark, [`Self::high_water`], never falls, whatever items are taken in whatever
/// order. The held item, once there, is only ever replaced by one with a greater `seq`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    authority: Authority,
    salt: Salt,
    kind: Kind,
    held: Option<SignedItem>,
    evidence: Vec<SignedItem>,
}

/// Double signings kept per record: two items of each of the latest four.
const MAX_EVIDENCE: usize = 8;

impl Standing {
    /// Nothing is known yet.
    pub fn new(authority: Authority, salt: Salt, kind: Kind) -> Self {
        Self {
            authority,
            salt,
            kind,
            held: None,
            evidence: Vec::new(),
        }
    }

    /// Whose items these are.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Under which salt.
    pub fn salt(&self) -> &Salt {
        &self.salt
    }

    /// What the items must hold.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The accepted item with the greatest `seq`.
    pub fn held(&self) -> Option<&SignedItem> {
        self.held.as_ref()
    }

    /// Where the held item points; `None` without one, and for successions.
    pub fn pointer(&self) -> Option<Pointer> {
        self.held.as_ref().and_then(|item| item.pointer().ok())
    }

    /// Items that prove double signing, in pairs of one `seq` with different values, ascending.
    pub fn evidence(&self) -> &[SignedItem] {
        &self.evidence
    }

    /// Below this `seq` nothing is accepted.
    pub fn high_water(&self) -> Option<Seq> {
        let contested = self.evidence.last().map(SignedItem::seq);
        self.held.as_ref().map(SignedItem::seq).max(contested)
    }

    /// Whether the authority signed two values with its latest `seq`. Until it signs a greater one,
    /// nobody can tell which it means, and it has no vote.
    pub fn is_contested(&self) -> bool {
        self.evidence
            .last()
            .is_some_and(|latest| Some(latest.seq()) == self.high_water())
    }

    /// What [`Self::take`] would say to this item alone.
    ///
    /// # Errors
    ///
    /// The reason why the item is not accepted.
    pub fn judge(&self, item: &SignedItem) -> Result<Verdict, Refusal> {
        if item.authority() != &self.authority || item.salt() != &self.salt {
            return Err(Refusal::Foreign);
        }
        self.kind.check(item)?;
        let seen = item.seq();
        if seen > Seq::MAX_PLAUSIBLE {
            return Err(Refusal::ImplausibleSeq { seq: seen });
        }
        match self.high_water() {
            None => Ok(Verdict::Newer),
            Some(high) if seen > high => Ok(Verdict::Newer),
            Some(high) if seen < high => Err(Refusal::LowerSeq { seen, high }),
            Some(_) if self.holds(item) => Ok(Verdict::Same),
            Some(_) => Err(Refusal::Equivocation { seq: seen }),
        }
    }

    /// Takes what one look-up brought, all together: of two unknown items with one `seq` and
    /// different values neither is accepted, whichever came first.
    ///
    /// Gives the verdict on each item in turn.
    pub fn take(&mut self, items: &[SignedItem]) -> Vec<Result<Verdict, Refusal>> {
        let mut verdicts: Vec<_> = items.iter().map(|item| self.judge(item)).collect();
        let newest = items
            .iter()
            .zip(&verdicts)
            .filter(|(_, verdict)| matches!(verdict, Ok(Verdict::Newer)))
            .map(|(item, _)| item)
            .rev() // of equals the first
            .max_by_key(|item| item.seq());
        let Some(newest) = newest else {
            for (item, verdict) in items.iter().zip(&verdicts) {
                if matches!(verdict, Err(Refusal::Equivocation { .. })) {
                    self.keep_evidence(item);
                }
            }
            return verdicts;
        };
        let seq = newest.seq();
        let mut rivals = Vec::new();
        for (item, verdict) in items.iter().zip(&mut verdicts) {
            match verdict {
                Ok(_) if item.seq() < seq => {
                    *verdict = Err(Refusal::LowerSeq {
                        seen: item.seq(),
                        high: seq,
                    });
                }
                Ok(Verdict::Newer) if item.value() != newest.value() => rivals.push(item),
                Err(Refusal::Equivocation { .. }) => self.keep_evidence(item),
                _ => {}
            }
        }
        if rivals.is_empty() {
            self.held = Some(newest.clone());
            return verdicts;
        }
        self.keep_evidence(newest);
        for rival in rivals {
            self.keep_evidence(rival);
        }
        for (item, verdict) in items.iter().zip(&mut verdicts) {
            if item.seq() == seq && *verdict == Ok(Verdict::Newer) {
                *verdict = Err(Refusal::Equivocation { seq });
            }
        }
        verdicts
    }

    fn holds(&self, item: &SignedItem) -> bool {
        self.held
            .as_ref()
            .is_some_and(|held| held.seq() == item.seq() && held.value() == item.value())
    }

    /// Two items of one `seq` prove the double signing; more of them prove nothing more.
    fn keep_evidence(&mut self, item: &SignedItem) {
        if let Some(held) = self.held.clone().filter(|held| held.seq() == item.seq()) {
            self.insert_evidence(held);
        }
        self.insert_evidence(item.clone());
    }

    fn insert_evidence(&mut self, item: SignedItem) {
        let same_seq: Vec<_> = self
            .evidence
            .iter()
            .filter(|kept| kept.seq() == item.seq())
            .collect();
        if same_seq.len() >= 2 || same_seq.iter().any(|kept| kept.value() == item.value()) {
            return;
        }
        let place = self
            .evidence
            .partition_point(|kept| kept.seq() <= item.seq());
        self.evidence.insert(place, item);
        if self.evidence.len() > MAX_EVIDENCE {
            // The oldest pair; the latest one may be the high-water mark.
            self.evidence.drain(..2);
        }
    }

    /// Puts back what was saved. `None` when the parts do not belong together.
    pub(crate) fn restore(
        authority: Authority,
        salt: Salt,
        kind: Kind,
        held: Option<SignedItem>,
        evidence: &[SignedItem],
    ) -> Option<Self> {
        let mut standing = Self::new(authority, salt, kind);
        for pair in evidence.chunks(2) {
            let [a, b] = pair else { return None };
            for item in pair {
                if !matches!(standing.judge(item), Ok(Verdict::Newer)) {
                    return None;
                }
            }
            if a.seq() != b.seq() || a.value() == b.value() {
                return None;
            }
            standing.evidence.extend_from_slice(pair);
        }
        if let Some(item) = held {
            standing.kind.check(&item).ok()?;
            if item.authority() != &authority
                || item.salt() != &standing.salt
                || item.seq() > Seq::MAX_PLAUSIBLE
            {
                return None;
            }
            standing.held = Some(item);
        }
        (standing.evidence.len() <= MAX_EVIDENCE).then_some(standing)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testing::{authority, item, key, oversized_seq_item, salt};

    fn seq(n: i64) -> Seq {
        Seq::new(n).unwrap()
    }

    fn standing() -> Standing {
        Standing::new(authority(1), salt(), Kind::Pointer)
    }

    fn after(items: &[SignedItem]) -> Standing {
        let mut standing = standing();
        for item in items {
            standing.take(std::slice::from_ref(item));
        }
        standing
    }

    #[test]
    fn one_item_at_a_time() {
        let held = after(&[item(1, 5, 0xaa)]);
        let other_salt = SignedItem::sign(&key(1), &Salt::default(), seq(9), &[0xbb; 32]).unwrap();
        let v1 = SignedItem::sign(&key(1), &salt(), seq(9), &[0xbb; 20]).unwrap();
        let low = |seen| {
            Err(Refusal::LowerSeq {
                seen: seq(seen),
                high: seq(5),
            })
        };
        let cases = [
            (item(1, 6, 0xbb), Ok(Verdict::Newer)),
            (item(1, 6, 0xaa), Ok(Verdict::Newer)),
            (item(1, 1 << 40, 0xbb), Ok(Verdict::Newer)),
            (item(1, 5, 0xaa), Ok(Verdict::Same)),
            (item(1, 5, 0xbb), Err(Refusal::Equivocation { seq: seq(5) })),
            (item(1, 4, 0xaa), low(4)),
            (item(1, 0, 0xbb), low(0)),
            (item(2, 6, 0xbb), Err(Refusal::Foreign)),
            (other_salt, Err(Refusal::Foreign)),
            (v1, Err(Refusal::V1Hash)),
            (
                oversized_seq_item(1),
                Err(Refusal::ImplausibleSeq { seq: seq(i64::MAX) }),
            ),
        ];
        for (item, verdict) in cases {
            assert_eq!(held.judge(&item), verdict, "{item:?}");
            // Taking a refused item changes nothing but, perhaps, the evidence.
            if verdict.is_err() {
                let mut then = held.clone();
                then.take(&[item]);
                assert_eq!(then.held(), held.held());
                assert_eq!(then.high_water(), held.high_water());
            }
        }
        assert_eq!(standing().judge(&item(1, 0, 0xaa)), Ok(Verdict::Newer));
    }

    #[test]
    fn two_new_values_of_one_seq_are_both_refused() {
        for first in [standing(), after(&[item(1, 5, 0x11)])] {
            let mut standing = first.clone();
            let refused = Err(Refusal::Equivocation { seq: seq(7) });
            let pair = [item(1, 7, 0xaa), item(1, 7, 0xbb)];
            assert_eq!(standing.take(&pair), [refused.clone(), refused.clone()]);
            assert_eq!(standing.held(), first.held());
            assert_eq!(standing.evidence(), pair);
            assert!(standing.is_contested());
            assert_eq!(standing.high_water(), Some(seq(7)));
            // Neither comes in later, alone, nor anything older.
            for again in &pair {
                assert_eq!(standing.judge(again), refused);
            }
            assert!(matches!(
                standing.judge(&item(1, 6, 0xaa)),
                Err(Refusal::LowerSeq { .. })
            ));
            // A greater number ends the dispute; the evidence stays.
            assert_eq!(standing.take(&[item(1, 8, 0xcc)]), [Ok(Verdict::Newer)]);
            assert!(!standing.is_contested());
            assert_eq!(standing.evidence(), pair);
        }
    }

    #[test]
    fn the_held_item_and_its_contradiction_are_both_evidence() {
        let mut standing = after(&[item(1, 5, 0xaa)]);
        assert_eq!(
            standing.take(&[item(1, 5, 0xbb), item(1, 5, 0xaa)]),
            [
                Err(Refusal::Equivocation { seq: seq(5) }),
                Ok(Verdict::Same)
            ]
        );
        assert_eq!(standing.held(), Some(&item(1, 5, 0xaa)));
        assert_eq!(standing.evidence(), [item(1, 5, 0xaa), item(1, 5, 0xbb)]);
        assert!(standing.is_contested());
        // A third value proves nothing more.
        standing.take(&[item(1, 5, 0xcc)]);
        assert_eq!(standing.evidence().len(), 2);
    }

    #[test]
    fn of_several_new_items_the_newest_is_held() {
        let mut standing = standing();
        let verdicts = standing.take(&[item(1, 3, 1), item(1, 9, 2), item(1, 5, 3), item(1, 9, 2)]);
        assert_eq!(verdicts[1], Ok(Verdict::Newer));
        assert_eq!(verdicts[3], Ok(Verdict::Newer));
        for lower in [0, 2] {
            assert!(
                matches!(verdicts[lower], Err(Refusal::LowerSeq { high, .. }) if high == seq(9))
            );
        }
        assert_eq!(standing.held(), Some(&item(1, 9, 2)));
        assert!(standing.evidence().is_empty());
    }

    #[test]
    fn the_held_item_is_old_beside_a_newer_one() {
        let mut standing = after(&[item(1, 5, 0xaa)]);
        let verdicts = standing.take(&[item(1, 5, 0xaa), item(1, 6, 0xbb)]);
        assert_eq!(verdicts[1], Ok(Verdict::Newer));
        assert!(matches!(verdicts[0], Err(Refusal::LowerSeq { .. })));
        assert_eq!(standing.held(), Some(&item(1, 6, 0xbb)));
    }

    #[test]
    fn the_latest_evidence_is_kept() {
        let mut standing = standing();
        for n in 1..=20 {
            standing.take(&[item(1, n, 0xaa), item(1, n, 0xbb)]);
            assert!(standing.evidence().len() <= MAX_EVIDENCE);
            assert_eq!(standing.high_water(), Some(seq(n)));
        }
        let kept: Vec<_> = standing.evidence().iter().map(|i| i.seq().get()).collect();
        assert_eq!(kept, [17, 17, 18, 18, 19, 19, 20, 20]);
    }

    #[test]
    fn successions_need_the_salt_and_the_form() {
        let next = salt().next().unwrap();
        let mut standing = Standing::new(authority(1), next.clone(), Kind::Succession);
        let hash = SignedItem::sign(&key(1), &next, seq(1), &[0xaa; 32]).unwrap();
        assert_eq!(standing.take(&[hash]), [Err(Refusal::NotASuccession)]);
        let good = Succession::sign(&key(1), &key(2), &salt(), seq(1)).unwrap();
        assert_eq!(standing.take(&[good]), [Ok(Verdict::Newer)]);
        assert_eq!(standing.pointer(), None);
    }

    /// Few values, so that every kind of meeting happens often.
    fn any_item() -> impl Strategy<Value = SignedItem> {
        (
            1..=2_u8,
            prop_oneof![0..6_i64, Just(i64::MAX)],
            0..3_u8,
            any::<bool>(),
        )
            .prop_map(|(who, seq, byte, whole)| {
                let value = if whole {
                    vec![byte; 32]
                } else {
                    vec![byte; 20]
                };
                SignedItem::sign_unbounded(&key(who), &salt(), Seq::new(seq).unwrap(), &value)
            })
    }

    proptest! {
        #[test]
        fn the_high_water_mark_never_falls(
            batches in prop::collection::vec(prop::collection::vec(any_item(), 0..4), 0..12),
        ) {
            let mut standing = standing();
            for batch in batches {
                let before = standing.clone();
                let verdicts = standing.take(&batch);
                prop_assert_eq!(verdicts.len(), batch.len());
                prop_assert!(standing.high_water() >= before.high_water());
                if standing.held() != before.held() {
                    let held = standing.held().unwrap();
                    prop_assert!(Some(held.seq()) > before.high_water());
                    prop_assert!(batch.contains(held));
                    prop_assert_eq!(held.authority(), &authority(1));
                    // Nothing in the batch contradicted it.
                    let agrees = |other: &SignedItem| {
                        other.authority() != held.authority() || other.seq() != held.seq()
                            || other.value() == held.value() || other.pointer().is_err()
                    };
                    prop_assert!(batch.iter().all(agrees));
                }
                for (item, verdict) in batch.iter().zip(&verdicts) {
                    if verdict.is_ok() {
                        prop_assert_eq!(standing.held().map(SignedItem::value), Some(item.value()));
                    }
                }
                prop_assert!(standing.evidence().len() <= MAX_EVIDENCE);
                for pair in standing.evidence().chunks(2) {
                    prop_assert_eq!(pair[0].seq(), pair[1].seq());
                    prop_assert_ne!(pair[0].value(), pair[1].value());
                }
                let restored = Standing::restore(
                    authority(1), salt(), Kind::Pointer,
                    standing.held().cloned(), standing.evidence(),
                );
                prop_assert_eq!(restored.as_ref(), Some(&standing));
            }
        }
    }
}
