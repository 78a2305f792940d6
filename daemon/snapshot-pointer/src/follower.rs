//! Following a stream: look up, judge, remember, decide, and keep the items alive.

use std::time::{Duration, SystemTime};

use futures_util::future::join_all;

use crate::dht::{Dht, LookupError, PutError, Stored};
use crate::gather::{Counts, Found};
use crate::item::{Salt, SaltTooLong, SignedItem};
use crate::judge::{Kind, Refusal, Verdict};
use crate::key::Authority;
use crate::quorum::{Decision, StreamPolicy, Vote, decide};
use crate::record::{Record, RecordError, RecordStore};
use crate::rotation::Succession;

/// How often an item should be put again. Nodes forget items after two hours or more (BEP 44).
pub const REPUBLISH_INTERVAL: Duration = Duration::from_secs(30 * 60);

/// Follows one stream.
///
/// Holds no state of its own: everything is in the records, so that several processes may follow
/// the same stream and a restart changes nothing. Nothing happens by itself; the caller calls
/// [`Self::poll`] and [`Self::republish`] when it sees fit.
#[derive(Debug, Clone)]
pub struct Follower {
    policy: StreamPolicy,
    records: RecordStore,
}

/// What one poll of a stream gave.
#[derive(Debug)]
pub struct Poll {
    /// What to do.
    pub decision: Decision,
    /// How each authority stands, in the policy's order.
    pub authorities: Vec<AuthorityPoll>,
}

/// What one poll gave of one authority.
#[derive(Debug)]
pub struct AuthorityPoll {
    /// Who.
    pub authority: Authority,
    /// The look-up.
    pub lookup: Result<LookupSummary, LookupError>,
    /// What is known now, with what was known before.
    pub record: Record,
}

/// What a look-up brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookupSummary {
    /// How the nodes answered.
    pub counts: Counts,
    /// Whether all of them had answered or timed out.
    pub settled: bool,
    /// Whether the authority moved on.
    pub newer: bool,
    /// Items that were found and not accepted, each with the reason.
    pub refused: Vec<(SignedItem, Refusal)>,
}

impl Follower {
    /// Follows what `policy` says, with its memory in `records`.
    pub fn new(policy: StreamPolicy, records: RecordStore) -> Self {
        Self { policy, records }
    }

    /// The policy.
    pub fn policy(&self) -> &StreamPolicy {
        &self.policy
    }

    /// Decides on what is on disk alone, as before the first look-up.
    ///
    /// # Errors
    ///
    /// When a record cannot be read.
    pub fn recall(&self) -> Result<(Decision, Vec<Record>), RecordError> {
        let records = self
            .policy
            .authorities()
            .iter()
            .map(|authority| {
                self.records
                    .load(authority, self.policy.salt(), Kind::Pointer)
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok((self.decide(&records), records))
    }

    /// Takes items that came another way than through the DHT, and remembers what is newer. What is
    /// known already, or older, changes nothing.
    ///
    /// # Errors
    ///
    /// When a record cannot be read or written.
    pub async fn take(&self, items: &[SignedItem], now: SystemTime) -> Result<(), RecordError> {
        if items.is_empty() {
            return Ok(());
        }
        let (_, known) = self.recall()?;
        for item in items {
            let of_authority = |record: &&Record| record.standing().authority() == item.authority();
            let verdict = match known.iter().find(of_authority) {
                Some(record) => record.standing().judge(item),
                None => Err(Refusal::Foreign),
            };
            match verdict {
                // A copy grows old while the DHT goes on.
                Ok(Verdict::Same) | Err(Refusal::LowerSeq { .. }) => {}
                Ok(Verdict::Newer) | Err(Refusal::Equivocation { .. }) => {
                    let (authority, salt) = (*item.authority(), self.policy.salt().clone());
                    let taken = item.clone();
                    self.update(authority, salt, Kind::Pointer, move |record| {
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

    /// Looks up all authorities at once, judges and remembers what they say, and decides.
    ///
    /// `early` is called with items that the records would accept, as soon as they are found, which
    /// is seconds before the look-ups settle. They are neither remembered nor final: good for going
    /// to look for peers, not for leaving a snapshot.
    ///
    /// Failed look-ups are no error; the decision is then made on what is known.
    ///
    /// # Errors
    ///
    /// When a record cannot be read or written: then nothing may be followed, as nothing protects
    /// against rollback.
    pub async fn poll(
        &self,
        dht: &dyn Dht,
        now: SystemTime,
        early: &(dyn Fn(&SignedItem) + Sync),
    ) -> Result<Poll, RecordError> {
        let salt = self.policy.salt();
        let (_, known) = self.recall()?;
        let found = join_all(known.iter().map(|record| async move {
            let standing = record.standing();
            let mut better = |item: &SignedItem| {
                if standing.judge(item) == Ok(Verdict::Newer) {
                    early(item);
                }
            };
            dht.get_item(standing.authority(), salt, &mut better).await
        }))
        .await;

        let mut authorities = Vec::new();
        for (before, found) in known.into_iter().zip(found) {
            let authority = *before.standing().authority();
            let (lookup, record) = match found {
                Ok(found) => {
                    let (summary, record) = self
                        .remember(authority, salt, Kind::Pointer, found, now)
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

    /// Puts again every held item that nobody is known to have put for `every`, whoever signed it, so
    /// that pointers and successions outlive those who published them. Zero means all of them;
    /// see [`REPUBLISH_INTERVAL`]. Each is looked up first, and a newer one is never written over.
    ///
    /// An item whose authority signed another value with the same number is not put: the evidence in
    /// the DHT shall stay as it is.
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
            due.extend(self.due(authority, self.policy.salt(), Kind::Pointer, now, every)?);
            if let Ok(next) = self.policy.salt().next() {
                due.extend(self.due(authority, &next, Kind::Succession, now, every)?);
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
                        if put && record.standing().held() == Some(&noted) {
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

    /// Asks every authority for its successor (`<salt>.next`) and gives those found or remembered.
    /// Costs a look-up per authority; every [`REPUBLISH_INTERVAL`] is plenty.
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
                .remember(*authority, &salt, Kind::Succession, found, now)
                .await
                .map_err(SuccessionError::Record)?;
            successions.extend(succession_in(&record));
        }
        Ok(successions)
    }

    /// The successors that were found before, from the disk alone.
    ///
    /// # Errors
    ///
    /// When a record cannot be read.
    pub fn recall_successions(&self) -> Result<Vec<Succession>, RecordError> {
        // A salt without room for `.next` has none.
        let Ok(salt) = self.policy.salt().next() else {
            return Ok(Vec::new());
        };
        let mut successions = Vec::new();
        for authority in self.policy.authorities() {
            let record = self.records.load(authority, &salt, Kind::Succession)?;
            successions.extend(succession_in(&record));
        }
        Ok(successions)
    }

    fn decide(&self, records: &[Record]) -> Decision {
        let votes: Vec<_> = records
            .iter()
            .map(|record| Vote {
                authority: *record.standing().authority(),
                names: record
                    .standing()
                    .pointer()
                    .map(|pointer| pointer.snapshot)
                    .zip(record.first_seen()),
                contested: record.standing().is_contested(),
            })
            .collect();
        decide(&self.policy, &votes)
    }

    fn due(
        &self,
        authority: &Authority,
        salt: &Salt,
        kind: Kind,
        now: SystemTime,
        every: Duration,
    ) -> Result<Option<(Kind, SignedItem)>, RecordError> {
        let record = self.records.load(authority, salt, kind)?;
        if record.standing().is_contested() || !record.is_put_due(now, every) {
            return Ok(None);
        }
        Ok(record.standing().held().map(|item| (kind, item.clone())))
    }

    async fn remember(
        &self,
        authority: Authority,
        salt: &Salt,
        kind: Kind,
        found: Found,
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
                Ok(verdict) => summary.newer |= verdict == Verdict::Newer,
                Err(refusal) => {
                    // The caller has it in the summary.
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

    /// [`RecordStore::update`] on a thread that may block.
    async fn update<T: Send + 'static>(
        &self,
        authority: Authority,
        salt: Salt,
        kind: Kind,
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

/// The successor that an authority names, unless it named two at once.
fn succession_in(record: &Record) -> Option<Succession> {
    let standing = record.standing();
    let item = standing.held().filter(|_| !standing.is_contested())?;
    Succession::from_item(item).ok()
}

/// What became of one item that was due.
#[derive(Debug)]
pub struct Republished {
    /// The item.
    pub item: SignedItem,
    /// Whether it was stored. [`PutError::Superseded`] means that the next poll brings a newer one.
    pub result: Result<Stored, PutError>,
}

/// Successors could not be asked for.
#[derive(Debug, thiserror::Error)]
pub enum SuccessionError {
    /// The salt is too long.
    #[error("the stream's salt has no room for `.next`")]
    Salt(#[source] SaltTooLong),
    /// A record failed.
    #[error("a record of successions cannot be used")]
    Record(#[source] RecordError),
}
