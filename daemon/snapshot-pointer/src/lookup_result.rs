//! Combines the answers of many DHT nodes into one result.

use crate::item::{Seq, SignedItem};

/// How many nodes of one look-up answered what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AnswerCounts {
    /// Nodes that were queried.
    pub queried: u32,
    /// Items with a good signature.
    pub valid: u32,
    /// Nodes that answered that they have no item.
    pub empty: u32,
    /// Answers that were malformed, or whose item has an invalid signature.
    pub invalid: u32,
    /// Answers that were errors.
    pub errors: u32,
    /// Nodes that did not answer in time.
    pub timeouts: u32,
}

impl AnswerCounts {
    /// Returns the number of usable answers: an item, or none.
    pub fn answered(&self) -> u32 {
        self.valid.saturating_add(self.empty)
    }
}

/// The result of a look-up.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LookupResult {
    /// The item with the greatest plausible `seq`. Among items of that `seq` the first to arrive.
    pub best: Option<SignedItem>,
    /// Items with the same `seq` as [`Self::best`] and other values: proof of double signing. At
    /// most [`Self::MAX_CONFLICTS`].
    pub conflicts: Vec<SignedItem>,
    /// An item above [`Seq::MAX_PLAUSIBLE`], which does not hide [`Self::best`].
    pub implausible: Option<SignedItem>,
    /// The counts of answers. Only `valid` is filled in when the look-up did not settle.
    pub counts: AnswerCounts,
    /// Whether every queried node answered or timed out. If `false`, the time limit of the whole
    /// look-up passed first, and a newer item may exist.
    pub settled: bool,
}

impl LookupResult {
    /// The most conflicting items kept of one look-up. One is enough as proof.
    pub const MAX_CONFLICTS: usize = 4;

    /// Returns all items found, the best first, for
    /// [`AuthorityState::take`](crate::AuthorityState::take).
    pub fn items(&self) -> Vec<SignedItem> {
        self.best
            .iter()
            .chain(&self.conflicts)
            .chain(&self.implausible)
            .cloned()
            .collect()
    }

    /// Returns the greatest plausible `seq` found.
    pub fn seq(&self) -> Option<Seq> {
        self.best.as_ref().map(SignedItem::seq)
    }

    /// Adds an item. Returns whether it became the best one. The memory is bounded for any number
    /// of items.
    pub fn add(&mut self, item: SignedItem) -> bool {
        self.counts.valid = self.counts.valid.saturating_add(1);
        if item.seq() > Seq::MAX_PLAUSIBLE {
            self.implausible.get_or_insert(item);
            return false;
        }
        match &self.best {
            Some(best) if item.seq() < best.seq() => false,
            Some(best) if item.seq() == best.seq() => {
                let known = |other: &SignedItem| other.value() == item.value();
                if !known(best)
                    && !self.conflicts.iter().any(known)
                    && self.conflicts.len() < Self::MAX_CONFLICTS
                {
                    self.conflicts.push(item);
                }
                false
            }
            _ => {
                self.best = Some(item);
                self.conflicts.clear();
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{item, oversized_seq_item};

    fn gather(items: &[SignedItem]) -> LookupResult {
        let mut found = LookupResult::default();
        for item in items {
            found.add(item.clone());
        }
        found
    }

    #[test]
    fn the_greatest_seq_wins_in_any_order() {
        let (old, new) = (item(1, 5, 0xaa), item(1, 6, 0xbb));
        for order in [[&old, &new], [&new, &old]] {
            let found = gather(&order.map(Clone::clone));
            assert_eq!(found.best.as_ref(), Some(&new));
            assert!(found.conflicts.is_empty());
            assert_eq!(found.counts.valid, 2);
        }
        let mut found = LookupResult::default();
        assert!(found.add(old.clone()));
        assert!(!found.add(old));
        assert!(found.add(new));
    }

    #[test]
    fn conflicts_are_those_of_the_best_seq_and_bounded() {
        let found = gather(&[item(1, 5, 0xaa), item(1, 5, 0xbb), item(1, 5, 0xbb)]);
        assert_eq!(found.best, Some(item(1, 5, 0xaa)));
        assert_eq!(found.conflicts, [item(1, 5, 0xbb)]);

        let found = gather(&[item(1, 5, 0xaa), item(1, 5, 0xbb), item(1, 6, 0xcc)]);
        assert_eq!(found.best, Some(item(1, 6, 0xcc)));
        assert!(found.conflicts.is_empty());

        let many: Vec<_> = (0..100).map(|n| item(1, 5, n)).collect();
        assert_eq!(gather(&many).conflicts.len(), LookupResult::MAX_CONFLICTS);
    }

    #[test]
    fn an_implausible_seq_does_not_hide_a_plausible_one() {
        let huge = oversized_seq_item(1);
        for order in [
            [item(1, 5, 0xaa), huge.clone()],
            [huge.clone(), item(1, 5, 0xaa)],
        ] {
            let found = gather(&order);
            assert_eq!(found.best, Some(item(1, 5, 0xaa)));
            assert_eq!(found.implausible, Some(huge.clone()));
        }
    }
}
