//! Results of the look-ups of one stream, kept for the report.

use std::collections::BTreeMap;
use std::time::SystemTime;

use bittorrent_protocol::InfoHashV2;
use file_kit::recorded_time::unix_seconds;
use snapshot_pointer::{Choice, Decision, Poll, Record, Refusal};

use super::{AuthorityReport, RefusedItem, VoteState};
use crate::pointers::stream;
use crate::text::Causes;

/// The most refused items to list for an authority.
const MAX_REFUSED: usize = 8;

/// The results of the look-ups of one stream.
#[derive(Debug, Default)]
pub(super) struct StreamNotes {
    pub(super) choice: Option<Choice>,
    pub(super) authorities: Vec<AuthorityNotes>,
    pub(super) answered: Option<SystemTime>,
    /// Why the last answered look-up named no snapshot.
    pub(super) nothing: Option<String>,
}

#[derive(Debug)]
pub(super) struct AuthorityNotes {
    pub(super) record: Record,
    answers: u32,
    failure: Option<String>,
    refused: Vec<RefusedItem>,
}

impl StreamNotes {
    pub(super) fn decided(&mut self, decision: &Decision) {
        self.choice = match decision {
            Decision::Follow(choice) => Some(choice.clone()),
            // The previous choice remains.
            Decision::Undecided(_) => self.choice.take(),
        };
    }

    /// Records the result of a poll. Adds its refused items to `refusals`, by reason.
    pub(super) fn heard(
        &mut self,
        poll: &Poll,
        now: SystemTime,
        refusals: &mut BTreeMap<String, u64>,
    ) {
        self.decided(&poll.decision);
        self.nothing = match &poll.decision {
            Decision::Follow(_) => None,
            Decision::Undecided(tally) if stream::was_answered(poll) => {
                Some(stream::why_not(poll, tally))
            }
            // A look-up without an answer proves nothing.
            Decision::Undecided(_) => self.nothing.take(),
        };
        if stream::was_answered(poll) {
            self.answered = Some(now);
        }
        let mut before = std::mem::take(&mut self.authorities);
        for polled in &poll.authorities {
            let refused = before
                .iter_mut()
                .find(|old| old.record.state().authority() == &polled.authority)
                .map(|old| std::mem::take(&mut old.refused));
            let mut authority = AuthorityNotes::new(polled.record.clone());
            authority.refused = refused.unwrap_or_default();
            match &polled.lookup {
                Ok(summary) => {
                    authority.answers = summary.counts.answered();
                    for (item, refusal) in &summary.refused {
                        let reason = reason(refusal);
                        *refusals.entry(reason.to_owned()).or_default() += 1;
                        authority.refuse(RefusedItem {
                            seq: item.seq().get(),
                            reason: reason.to_owned(),
                            text: refusal.to_string(),
                            at: unix_seconds(now),
                            times: 1,
                        });
                    }
                }
                Err(error) => authority.failure = Some(Causes(error).to_string()),
            }
            self.authorities.push(authority);
        }
    }
}

impl AuthorityNotes {
    pub(super) fn new(record: Record) -> Self {
        Self {
            record,
            answers: 0,
            failure: None,
            refused: Vec::new(),
        }
    }

    /// Records a refused item, or counts it again if it is already listed.
    fn refuse(&mut self, refused: RefusedItem) {
        let same =
            |known: &&mut RefusedItem| (known.seq, &known.reason) == (refused.seq, &refused.reason);
        match self.refused.iter_mut().find(same) {
            Some(known) => {
                known.at = refused.at;
                known.times += 1;
            }
            None => {
                if self.refused.len() == MAX_REFUSED {
                    self.refused.remove(0);
                }
                self.refused.push(refused);
            }
        }
    }

    pub(super) fn report(&self, desired: Option<InfoHashV2>) -> AuthorityReport {
        let known = self.record.state();
        let pointer = known.pointer();
        let state = match pointer {
            _ if known.is_contested() => VoteState::Contested,
            None => VoteState::Silent,
            Some(pointer) if Some(pointer.snapshot) == desired => VoteState::Agrees,
            Some(_) => VoteState::Differs,
        };
        AuthorityReport {
            authority: known.authority().to_string(),
            state,
            seq: pointer.map(|pointer| pointer.seq.get()),
            snapshot: pointer.map(|pointer| pointer.snapshot.to_string()),
            first_seen: self.record.first_seen().map(unix_seconds),
            last_seen: self.record.last_seen().map(unix_seconds),
            answers: self.answers,
            failure: self.failure.clone(),
            refused: self.refused.clone(),
        }
    }
}

/// Returns the name of a reason, for programs. Names never change.
const fn reason(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::BadSignature => "bad-signature",
        Refusal::ValueTooLong { .. } => "too-long",
        Refusal::Foreign => "foreign",
        Refusal::LowerSeq { .. } => "lower-seq",
        Refusal::Equivocation { .. } => "equivocation",
        Refusal::ImplausibleSeq { .. } => "implausible-seq",
        Refusal::V1Hash => "v1-hash",
        Refusal::Dictionary => "dictionary",
        Refusal::NotAHash { .. } => "not-a-hash",
        Refusal::NotASuccession => "no-succession",
    }
}
