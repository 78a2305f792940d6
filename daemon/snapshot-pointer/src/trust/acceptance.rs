//! Which items of an authority are accepted.

use crate::item::{Authority, Pointer, Refusal, Salt, Seq, SignedItem, Succession};

/// What the value of an item must contain to be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemKind {
    /// The 32 bytes of a v2 info-hash.
    Pointer,
    /// A consenting successor, see [`Succession`].
    Succession,
}

impl ItemKind {
    fn check(self, item: &SignedItem) -> Result<(), Refusal> {
        match self {
            Self::Pointer => item.pointer().map(drop),
            Self::Succession => Succession::from_item(item).map(drop),
        }
    }
}

/// An item was accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acceptance {
    /// It is the item that was accepted before.
    Same,
    /// It raises the high-water mark.
    Newer,
}

/// The accepted item of one authority under one salt, and the proof of any double signing. Pure;
/// [`Record`](crate::Record) adds times and durability.
///
/// # Invariants
///
/// The high-water mark, [`Self::high_water`], never falls, for any items in any order. An accepted
/// item is only replaced by one with a greater `seq`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthorityState {
    authority: Authority,
    salt: Salt,
    kind: ItemKind,
    accepted: Option<SignedItem>,
    evidence: Vec<SignedItem>,
}

/// Double signings kept per record: two items of each of the latest four.
const MAX_EVIDENCE: usize = 8;

impl AuthorityState {
    /// Makes the state of an authority that was never seen.
    pub fn new(authority: Authority, salt: Salt, kind: ItemKind) -> Self {
        Self {
            authority,
            salt,
            kind,
            accepted: None,
            evidence: Vec::new(),
        }
    }

    /// Returns the authority.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Returns the salt.
    pub fn salt(&self) -> &Salt {
        &self.salt
    }

    /// Returns what the items must contain.
    pub fn kind(&self) -> ItemKind {
        self.kind
    }

    /// Returns the accepted item, the one with the greatest `seq`.
    pub fn accepted(&self) -> Option<&SignedItem> {
        self.accepted.as_ref()
    }

    /// Returns the pointer in the accepted item; `None` without one, and for successions.
    pub fn pointer(&self) -> Option<Pointer> {
        self.accepted.as_ref().and_then(|item| item.pointer().ok())
    }

    /// Returns the items that prove double signing: pairs with one `seq` and different values, in
    /// ascending order.
    pub fn evidence(&self) -> &[SignedItem] {
        &self.evidence
    }

    /// Returns the `seq` below which no item is accepted.
    pub fn high_water(&self) -> Option<Seq> {
        let contested = self.evidence.last().map(SignedItem::seq);
        self.accepted.as_ref().map(SignedItem::seq).max(contested)
    }

    /// Returns whether the authority signed two values with its latest `seq`. It has no vote until
    /// it signs a greater one, because which value it means is unknown.
    pub fn is_contested(&self) -> bool {
        self.evidence
            .last()
            .is_some_and(|latest| Some(latest.seq()) == self.high_water())
    }

    /// Returns what [`Self::take`] would return for this item alone, without changing the state.
    ///
    /// # Errors
    ///
    /// The reason why the item is not accepted.
    pub fn judge(&self, item: &SignedItem) -> Result<Acceptance, Refusal> {
        if item.authority() != &self.authority || item.salt() != &self.salt {
            return Err(Refusal::Foreign);
        }
        self.kind.check(item)?;
        let seen = item.seq();
        if seen > Seq::MAX_PLAUSIBLE {
            return Err(Refusal::ImplausibleSeq { seq: seen });
        }
        match self.high_water() {
            None => Ok(Acceptance::Newer),
            Some(high) if seen > high => Ok(Acceptance::Newer),
            Some(high) if seen < high => Err(Refusal::LowerSeq { seen, high }),
            Some(_) if self.holds(item) => Ok(Acceptance::Same),
            Some(_) => Err(Refusal::Equivocation { seq: seen }),
        }
    }

    /// Takes all items of one look-up together. Of two unknown items with one `seq` and different
    /// values neither is accepted, whatever their order.
    ///
    /// Returns the outcome for each item, in their order.
    pub fn take(&mut self, items: &[SignedItem]) -> Vec<Result<Acceptance, Refusal>> {
        let mut verdicts: Vec<_> = items.iter().map(|item| self.judge(item)).collect();
        let newest = items
            .iter()
            .zip(&verdicts)
            .filter(|(_, verdict)| matches!(verdict, Ok(Acceptance::Newer)))
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
                Ok(Acceptance::Newer) if item.value() != newest.value() => rivals.push(item),
                Err(Refusal::Equivocation { .. }) => self.keep_evidence(item),
                _ => {}
            }
        }
        if rivals.is_empty() {
            self.accepted = Some(newest.clone());
            return verdicts;
        }
        self.keep_evidence(newest);
        for rival in rivals {
            self.keep_evidence(rival);
        }
        for (item, verdict) in items.iter().zip(&mut verdicts) {
            if item.seq() == seq && *verdict == Ok(Acceptance::Newer) {
                *verdict = Err(Refusal::Equivocation { seq });
            }
        }
        verdicts
    }

    fn holds(&self, item: &SignedItem) -> bool {
        self.accepted.as_ref().is_some_and(|accepted| {
            accepted.seq() == item.seq() && accepted.value() == item.value()
        })
    }

    /// Keeps two items of one `seq` as proof of double signing; a third would add nothing.
    fn keep_evidence(&mut self, item: &SignedItem) {
        if let Some(accepted) = self
            .accepted
            .clone()
            .filter(|accepted| accepted.seq() == item.seq())
        {
            self.insert_evidence(accepted);
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
        let index = self
            .evidence
            .partition_point(|kept| kept.seq() <= item.seq());
        self.evidence.insert(index, item);
        if self.evidence.len() > MAX_EVIDENCE {
            // The oldest pair; the latest one may be the high-water mark.
            self.evidence.drain(..2);
        }
    }

    /// Restores a saved state. Returns `None` when the parts contradict each other.
    pub(crate) fn restore(
        authority: Authority,
        salt: Salt,
        kind: ItemKind,
        accepted: Option<SignedItem>,
        evidence: &[SignedItem],
    ) -> Option<Self> {
        let mut state = Self::new(authority, salt, kind);
        for pair in evidence.chunks(2) {
            let [a, b] = pair else { return None };
            for item in pair {
                if !matches!(state.judge(item), Ok(Acceptance::Newer)) {
                    return None;
                }
            }
            if a.seq() != b.seq() || a.value() == b.value() {
                return None;
            }
            state.evidence.extend_from_slice(pair);
        }
        if let Some(item) = accepted {
            state.kind.check(&item).ok()?;
            if item.authority() != &authority
                || item.salt() != &state.salt
                || item.seq() > Seq::MAX_PLAUSIBLE
            {
                return None;
            }
            state.accepted = Some(item);
        }
        (state.evidence.len() <= MAX_EVIDENCE).then_some(state)
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

    fn state() -> AuthorityState {
        AuthorityState::new(authority(1), salt(), ItemKind::Pointer)
    }

    fn after(items: &[SignedItem]) -> AuthorityState {
        let mut state = state();
        for item in items {
            state.take(std::slice::from_ref(item));
        }
        state
    }

    #[test]
    fn one_item_at_a_time() {
        let accepted = after(&[item(1, 5, 0xaa)]);
        let other_salt = SignedItem::sign(&key(1), &Salt::default(), seq(9), &[0xbb; 32]).unwrap();
        let v1 = SignedItem::sign(&key(1), &salt(), seq(9), &[0xbb; 20]).unwrap();
        let low = |seen| {
            Err(Refusal::LowerSeq {
                seen: seq(seen),
                high: seq(5),
            })
        };
        let cases = [
            (item(1, 6, 0xbb), Ok(Acceptance::Newer)),
            (item(1, 6, 0xaa), Ok(Acceptance::Newer)),
            (item(1, 1 << 40, 0xbb), Ok(Acceptance::Newer)),
            (item(1, 5, 0xaa), Ok(Acceptance::Same)),
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
            assert_eq!(accepted.judge(&item), verdict, "{item:?}");
            // Taking a refused item changes nothing but, perhaps, the evidence.
            if verdict.is_err() {
                let mut then = accepted.clone();
                then.take(&[item]);
                assert_eq!(then.accepted(), accepted.accepted());
                assert_eq!(then.high_water(), accepted.high_water());
            }
        }
        assert_eq!(state().judge(&item(1, 0, 0xaa)), Ok(Acceptance::Newer));
    }

    #[test]
    fn two_new_values_of_one_seq_are_both_refused() {
        for first in [state(), after(&[item(1, 5, 0x11)])] {
            let mut state = first.clone();
            let refused = Err(Refusal::Equivocation { seq: seq(7) });
            let pair = [item(1, 7, 0xaa), item(1, 7, 0xbb)];
            assert_eq!(state.take(&pair), [refused.clone(), refused.clone()]);
            assert_eq!(state.accepted(), first.accepted());
            assert_eq!(state.evidence(), pair);
            assert!(state.is_contested());
            assert_eq!(state.high_water(), Some(seq(7)));
            // Neither is accepted later on its own, nor is anything older.
            for again in &pair {
                assert_eq!(state.judge(again), refused);
            }
            assert!(matches!(
                state.judge(&item(1, 6, 0xaa)),
                Err(Refusal::LowerSeq { .. })
            ));
            // A greater number ends the dispute; the evidence stays.
            assert_eq!(state.take(&[item(1, 8, 0xcc)]), [Ok(Acceptance::Newer)]);
            assert!(!state.is_contested());
            assert_eq!(state.evidence(), pair);
        }
    }

    #[test]
    fn the_held_item_and_its_contradiction_are_both_evidence() {
        let mut state = after(&[item(1, 5, 0xaa)]);
        assert_eq!(
            state.take(&[item(1, 5, 0xbb), item(1, 5, 0xaa)]),
            [
                Err(Refusal::Equivocation { seq: seq(5) }),
                Ok(Acceptance::Same)
            ]
        );
        assert_eq!(state.accepted(), Some(&item(1, 5, 0xaa)));
        assert_eq!(state.evidence(), [item(1, 5, 0xaa), item(1, 5, 0xbb)]);
        assert!(state.is_contested());
        // A third value proves nothing more.
        state.take(&[item(1, 5, 0xcc)]);
        assert_eq!(state.evidence().len(), 2);
    }

    #[test]
    fn of_several_new_items_the_newest_is_held() {
        let mut state = state();
        let verdicts = state.take(&[item(1, 3, 1), item(1, 9, 2), item(1, 5, 3), item(1, 9, 2)]);
        assert_eq!(verdicts[1], Ok(Acceptance::Newer));
        assert_eq!(verdicts[3], Ok(Acceptance::Newer));
        for lower in [0, 2] {
            assert!(
                matches!(verdicts[lower], Err(Refusal::LowerSeq { high, .. }) if high == seq(9))
            );
        }
        assert_eq!(state.accepted(), Some(&item(1, 9, 2)));
        assert!(state.evidence().is_empty());
    }

    #[test]
    fn the_held_item_is_old_beside_a_newer_one() {
        let mut state = after(&[item(1, 5, 0xaa)]);
        let verdicts = state.take(&[item(1, 5, 0xaa), item(1, 6, 0xbb)]);
        assert_eq!(verdicts[1], Ok(Acceptance::Newer));
        assert!(matches!(verdicts[0], Err(Refusal::LowerSeq { .. })));
        assert_eq!(state.accepted(), Some(&item(1, 6, 0xbb)));
    }

    #[test]
    fn the_latest_evidence_is_kept() {
        let mut state = state();
        for n in 1..=20 {
            state.take(&[item(1, n, 0xaa), item(1, n, 0xbb)]);
            assert!(state.evidence().len() <= MAX_EVIDENCE);
            assert_eq!(state.high_water(), Some(seq(n)));
        }
        let kept: Vec<_> = state.evidence().iter().map(|i| i.seq().get()).collect();
        assert_eq!(kept, [17, 17, 18, 18, 19, 19, 20, 20]);
    }

    #[test]
    fn successions_need_the_salt_and_the_form() {
        let next = salt().next().unwrap();
        let mut state = AuthorityState::new(authority(1), next.clone(), ItemKind::Succession);
        let hash = SignedItem::sign(&key(1), &next, seq(1), &[0xaa; 32]).unwrap();
        assert_eq!(state.take(&[hash]), [Err(Refusal::NotASuccession)]);
        let good = Succession::sign(&key(1), &key(2), &salt(), seq(1)).unwrap();
        assert_eq!(state.take(&[good]), [Ok(Acceptance::Newer)]);
        assert_eq!(state.pointer(), None);
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
            let mut state = state();
            for batch in batches {
                let before = state.clone();
                let verdicts = state.take(&batch);
                prop_assert_eq!(verdicts.len(), batch.len());
                prop_assert!(state.high_water() >= before.high_water());
                if state.accepted() != before.accepted() {
                    let accepted = state.accepted().unwrap();
                    prop_assert!(Some(accepted.seq()) > before.high_water());
                    prop_assert!(batch.contains(accepted));
                    prop_assert_eq!(accepted.authority(), &authority(1));
                    // Nothing in the batch contradicted it.
                    let agrees = |other: &SignedItem| {
                        other.authority() != accepted.authority() || other.seq() != accepted.seq()
                            || other.value() == accepted.value() || other.pointer().is_err()
                    };
                    prop_assert!(batch.iter().all(agrees));
                }
                for (item, verdict) in batch.iter().zip(&verdicts) {
                    if verdict.is_ok() {
                        prop_assert_eq!(state.accepted().map(SignedItem::value), Some(item.value()));
                    }
                }
                prop_assert!(state.evidence().len() <= MAX_EVIDENCE);
                for pair in state.evidence().chunks(2) {
                    prop_assert_eq!(pair[0].seq(), pair[1].seq());
                    prop_assert_ne!(pair[0].value(), pair[1].value());
                }
                let restored = AuthorityState::restore(
                    authority(1), salt(), ItemKind::Pointer,
                    state.accepted().cloned(), state.evidence(),
                );
                prop_assert_eq!(restored.as_ref(), Some(&state));
            }
        }
    }
}
