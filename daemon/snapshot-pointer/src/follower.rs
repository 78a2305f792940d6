//! Follows a stream: looks items up, accepts and records them, decides, and republishes them.

use std::time::{Duration, SystemTime};

use futures_util::future::join_all;

use crate::dht::{Dht, LookupError, PutError, Stored};
use crate::item::{Authority, Refusal, Salt, SaltTooLong, SignedItem, Succession};
use crate::lookup_result::{AnswerCounts, LookupResult};
use crate::trust::{
    Acceptance, Decision, ItemKind, Record, RecordError, RecordStore, StreamPolicy, Vote, decide,
};

/// How often an item should be put again. Nodes forget items after two hours or more (BEP 44).
pub const REPUBLISH_INTERVAL: Duration = Duration::from_secs(30 * 60);

/// Follows one stream.
///
/// Has no state of its own: all state is in the records. So several processes may follow the same
/// stream, and a restart changes nothing. It starts no task; the caller decides when to call
/// [`Self::poll`] and [`Self::republish`].
#[derive(Debug, Clone)]
pub struct Follower {
    policy: StreamPolicy,
    records: RecordStore,
}

/// The result of one poll of a stream.
#[derive(Debug)]
pub struct Poll {
    /// The decision.
    pub decision: Decision,
    /// The result for each authority, in the policy's order.
    pub authorities: Vec<AuthorityPoll>,
}

/// The result of one poll for one authority.
#[derive(Debug)]
pub struct AuthorityPoll {
    /// The authority.
    pub authority: Authority,
    /// The outcome of the look-up.
    pub lookup: Result<LookupSummary, LookupError>,
    /// The record after the look-up.
    pub record: Record,
}

/// A summary of a look-up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookupSummary {
    /// The counts of answers.
    pub counts: AnswerCounts,
    /// Whether all queried nodes answered or timed out.
    pub settled: bool,
    /// Whether a newer item was accepted.
    pub newer: bool,
    /// The items that were refused, with the reasons.
    pub refused: Vec<(SignedItem, Refusal)>,
}

impl Follower {
    /// Makes a follower of `policy` that keeps its state in `records`.
    pub fn new(policy: StreamPolicy, records: RecordStore) -> Self {
        Self { policy, records }
    }

    /// Returns the policy.
    pub fn policy(&self) -> &StreamPolicy {
        &self.policy
    }

    /// Decides from the records on disk, without a look-up.
    ///
    /// # Errors
    ///
    /// When a record cannot be read.
    pub fn decide_from_records(&self) -> Result<(Decision, Vec<Record>), RecordError> {
        let records = self
            .policy
            .authorities()
            .iter()
            .map(|authority| {
                self.records
                    .load(authority, self.policy.salt(), ItemKind::Pointer)
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok((self.decide(&records), records))
    }

    /// Takes items that came from elsewhere than the DHT, and records the newer ones. Known and
    /// older items change nothing.
    ///
    /// # Errors
    ///
    /// When a record cannot be read or written.
    pub async fn take(&self, items: &[SignedItem], now: SystemTime) -> Result<(), RecordError> {
        if items.is_empty() {
            return Ok(());
        }
        let (_, known) = self.decide_from_records()?;
        for item in items {
            let of_authority = |record: &&Record| record.state().authority() == item.authority();
            let verdict = match known.iter().find(of_authority) {
                Some(record) => record.state().judge(item),
                None => Err(Refusal::Foreign),
            };
            match verdict {
                // Expected: the DHT moves on after the copy was made.
                Ok(Acceptance::Same) | Err(Refusal::LowerSeq { .. }) => {}
                Ok(Acceptance::Newer) | Err(Refusal::Equivocation { .. }) => {
                    let (authority, salt) = (*item.authority(), self.policy.salt().clone());
                    let taken = item.clone();
                    self.update(authority, salt, ItemKind::Pointer, move |record| {
                        record.take(&[taken], now)
                    })
                    .await?;
                    tracing::info!(%authority, seq = item.seq().get(), "item taken from a file");
                }
                Err(refusal) => tracing::warn!(
                    authority = %item.authority(), salt = %item.salt(), seq = item.seq().get(), %refusal,
                    "item of a file refused"
                ),
            }
        }
        Ok(())
    }

    /// Looks up the items of all authorities at once, records the accepted ones, and decides.
    ///
    /// Calls `early` with each item that would be accepted as soon as it is found, seconds before
    /// the look-ups settle. Such an item is neither recorded nor final. It is good enough for
    /// starting a search for peers, not for leaving a snapshot.
    ///
    /// A failed look-up is no error; the decision then uses the record.
    ///
    /// # Errors
    ///
    /// When a record cannot be read or written. The stream must not be followed then, because
    /// nothing protects against rollback.
    pub async fn poll(
        &self,
        dht: &dyn Dht,
        now: SystemTime,
        early: &(dyn Fn(&SignedItem) + Sync),
    ) -> Result<Poll, RecordError> {
        let salt = self.policy.salt();
        let (_, known) = self.decide_from_records()?;
        let found = join_all(known.iter().map(|record| async move {
            let state = record.state();
            let mut better = |item: &SignedItem| {
                if state.judge(item) == Ok(Acceptance::Newer) {
                    early(item);
                }
            };
            dht.get_item(state.authority(), salt, &mut better).await
        }))
        .await;

        let mut authorities = Vec::new();
        for (before, found) in known.into_iter().zip(found) {
            let authority = *before.state().authority();
            let (lookup, record) = match found {
                Ok(found) => {
                    let (summary, record) = self
                        .remember(authority, salt, ItemKind::Pointer, found, now)
                        .await?;
                    (Ok(summary), record)
                }
                Err(error) => (Err(error), before),
            };
            authorities.push(AuthorityPoll {
                authority,
                lookup,
                record,
            });
        }
        let records: Vec<_> = authorities.iter().map(|a| a.record.clone()).collect();
        Ok(Poll {
            decision: self.decide(&records),
            authorities,
        })
    }

    /// Puts each accepted item that was not put for `every` again, so that pointers and successions
    /// outlive their publishers. `Duration::ZERO` means all items; see [`REPUBLISH_INTERVAL`]. Each
    /// item is looked up first, and a newer one is never overwritten.
    ///
    /// An item whose authority signed another value with the same number is not put, so that the
    /// evidence stays in the DHT.
    ///
    /// # Errors
    ///
    /// When a record cannot be read or written. Failed puts are in the result.
    pub async fn republish(
        &self,
        dht: &dyn Dht,
        now: SystemTime,
        every: Duration,
    ) -> Result<Vec<Republished>, RecordError> {
        let mut due = Vec::new();
        for authority in self.policy.authorities() {
            due.extend(self.due(authority, self.policy.salt(), ItemKind::Pointer, now, every)?);
            if let Ok(next) = self.policy.salt().next() {
                due.extend(self.due(authority, &next, ItemKind::Succession, now, every)?);
            }
        }
        let results = join_all(due.iter().map(|(_, item)| dht.put_item(item))).await;
        let mut republished = Vec::new();
        for ((kind, item), result) in due.into_iter().zip(results) {
            let (put, news) = match &result {
                Ok(stored) => (true, Some(stored.before.items())),
                Err(PutError::Conflict { other, .. }) => (false, Some(vec![(**other).clone()])),
                Err(_) => (false, None),
            };
            if put || news.is_some() {
                let noted = item.clone();
                self.update(
                    *item.authority(),
                    item.salt().clone(),
                    kind,
                    move |record| {
                        record.take(&news.unwrap_or_default(), now);
                        if put && record.state().accepted() == Some(&noted) {
                            record.note_put(now);
                        }
                    },
                )
                .await?;
            }
            republished.push(Republished { item, result });
        }
        Ok(republished)
    }

    /// Looks up the successor of each authority (`<salt>.next`) and returns those found now or
    /// before. Costs a look-up per authority; once per [`REPUBLISH_INTERVAL`] is enough.
    ///
    /// # Errors
    ///
    /// [`SuccessionError::Salt`] when the stream's salt has no room for `.next`, and
    /// [`SuccessionError::Record`] as for [`Self::poll`]. Failed look-ups are no error.
    pub async fn successions(
        &self,
        dht: &dyn Dht,
        now: SystemTime,
    ) -> Result<Vec<Succession>, SuccessionError> {
        let salt = self.policy.salt().next().map_err(SuccessionError::Salt)?;
        let authorities = self.policy.authorities();
        let found = join_all(authorities.iter().map(|authority| {
            let salt = &salt;
            async move { dht.get_item(authority, salt, &mut |_| {}).await }
        }))
        .await;
        let mut successions = Vec::new();
        for (authority, found) in authorities.iter().zip(found) {
            let found = found.unwrap_or_default();
            let (_, record) = self
                .remember(*authority, &salt, ItemKind::Succession, found, now)
                .await
                .map_err(SuccessionError::Record)?;
            successions.extend(succession_in(&record));
        }
        Ok(successions)
    }

    /// Returns the successors in the records, without a look-up.
    ///
    /// # Errors
    ///
    /// When a record cannot be read.
    pub fn stored_successions(&self) -> Result<Vec<Succession>, RecordError> {
        // A salt without room for `.next` has none.
        let Ok(salt) = self.policy.salt().next() else {
            return Ok(Vec::new());
        };
        let mut successions = Vec::new();
        for authority in self.policy.authorities() {
            let record = self.records.load(authority, &salt, ItemKind::Succession)?;
            successions.extend(succession_in(&record));
        }
        Ok(successions)
    }

    fn decide(&self, records: &[Record]) -> Decision {
        let votes: Vec<_> = records
            .iter()
            .map(|record| Vote {
                authority: *record.state().authority(),
                names: record
                    .state()
                    .pointer()
                    .map(|pointer| pointer.snapshot)
                    .zip(record.first_seen()),
                contested: record.state().is_contested(),
            })
            .collect();
        decide(&self.policy, &votes)
    }

    fn due(
        &self,
        authority: &Authority,
        salt: &Salt,
        kind: ItemKind,
        now: SystemTime,
        every: Duration,
    ) -> Result<Option<(ItemKind, SignedItem)>, RecordError> {
        let record = self.records.load(authority, salt, kind)?;
        if record.state().is_contested() || !record.is_put_due(now, every) {
            return Ok(None);
        }
        Ok(record.state().accepted().map(|item| (kind, item.clone())))
    }

    async fn remember(
        &self,
        authority: Authority,
        salt: &Salt,
        kind: ItemKind,
        found: LookupResult,
        now: SystemTime,
    ) -> Result<(LookupSummary, Record), RecordError> {
        let (counts, settled, items) = (found.counts, found.settled, found.items());
        let (verdicts, record) = self
            .update(authority, salt.clone(), kind, move |record| {
                record.take_found(&found, now)
            })
            .await?;
        let mut summary = LookupSummary {
            counts,
            settled,
            newer: false,
            refused: Vec::new(),
        };
        for (item, verdict) in items.into_iter().zip(verdicts) {
            match verdict {
                Ok(verdict) => summary.newer |= verdict == Acceptance::Newer,
                Err(refusal) => {
                    // Not logged here: the summary has it.
                    tracing::debug!(
                        authority = %authority, salt = %item.salt(), seq = item.seq().get(), %refusal,
                        "item refused"
                    );
                    summary.refused.push((item, refusal));
                }
            }
        }
        Ok((summary, record))
    }

    /// Runs [`RecordStore::update`] on a thread for blocking work.
    async fn update<T: Send + 'static>(
        &self,
        authority: Authority,
        salt: Salt,
        kind: ItemKind,
        change: impl FnOnce(&mut Record) -> T + Send + 'static,
    ) -> Result<(T, Record), RecordError> {
        let records = self.records.clone();
        let update = move || records.update(&authority, &salt, kind, change);
        match tokio::task::spawn_blocking(update).await {
            Ok(result) => result,
            // The task is never aborted, so it panicked.
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }
}

/// Returns the successor that an authority names, unless it named two with one number.
fn succession_in(record: &Record) -> Option<Succession> {
    let state = record.state();
    let item = state.accepted().filter(|_| !state.is_contested())?;
    Succession::from_item(item).ok()
}

/// The outcome of republishing one item.
#[derive(Debug)]
pub struct Republished {
    /// The item.
    pub item: SignedItem,
    /// The outcome. [`PutError::Superseded`] means that the next poll finds a newer item.
    pub result: Result<Stored, PutError>,
}

/// Successors could not be looked up.
#[derive(Debug, thiserror::Error)]
pub enum SuccessionError {
    /// The salt of the stream is too long.
    #[error("the stream's salt has no room for `.next`")]
    Salt(#[source] SaltTooLong),
    /// A record could not be read or written.
    #[error("a record of successions cannot be used")]
    Record(#[source] RecordError),
}
