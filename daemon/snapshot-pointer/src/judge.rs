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
                Ok(Verdict::Newer) if item.seq() < seq => {
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
        evidence: Vec<SignedItem>,
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
