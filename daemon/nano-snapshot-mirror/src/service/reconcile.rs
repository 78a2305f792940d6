//! The state machine of the service: computes the one action to take now from the desired snapshots, the running work and the stored snapshots.
//!
//! [`decide`] is a pure function and decides alone. The service calls it for each stream after every
//! event (a look-up ended, a download ended, the store was rescanned), carries out the action and, unless
//! the action is to wait, calls it again.
//!
//! *desired* is the snapshot that the trusted pointer names: the last accepted one while look-ups fail.
//! *active* is the snapshot whose download the stream waits for. *current* is the one that
//! `current/<stream>` points at. *stored* is what the store has of the desired one. *session* says whether
//! the session has it: open, failed in this round, or not yet tried. *failed* is set if the download or
//! the verification of the desired snapshot failed since the last poll, *space* is not set while the
//! service waits for disk space.
//!
//! The first row that matches decides:
//!
//! | when                                                          | action       |
//! |---------------------------------------------------------------|--------------|
//! | no desired, active                                            | `Continue`: it was desired when it started |
//! | no desired, no active, no current                             | `Wait` for a pointer |
//! | no desired, no active, current                                | `Keep`       |
//! | active is desired D                                           | `Continue`   |
//! | active is another                                             | `Abandon(other)`, then decide again |
//! | D is downloaded for another stream                            | `Join(D)`    |
//! | D sound, unverified, damaged or unavailable; session not tried | `TakeUp(D)`, then decide again |
//! | D sound and current                                           | `Keep`       |
//! | D sound                                                       | `Switch(D)`, then decide again |
//! | D refused                                                     | `Refuse(D)`: its ledger failed verification |
//! | D failed, or no space                                         | `Retry` later |
//! | D unverified                                                  | `Verify(D)`  |
//! | D absent, partial, busy, damaged or unavailable               | `Fetch(D)`: it resumes, waits for the other process, or repairs |
//!
//! No action removes what is seeded: the current generation stays until another is complete and current,
//! and the one before it longer still (see [`snapshot_store::retention`]).

use bittorrent_protocol::InfoHashV2;

/// The state of a snapshot in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StoredState {
    /// The store has no such snapshot.
    Absent,
    /// A part of the content: a download was interrupted.
    Partial,
    /// Another process writes to it.
    Busy,
    /// The snapshot cannot be opened until it is repaired.
    Damaged,
    /// The snapshot cannot be opened at the moment, for a reason outside it.
    Unavailable,
    /// All content, but its ledger was not verified at the level that the policy demands.
    Unverified,
    /// All content, and its ledger is sound.
    Sound,
    /// Its ledger failed verification.
    Refused,
}

impl StoredState {
    /// Returns whether the session may be able to seed it.
    const fn may_be_seeded(self) -> bool {
        match self {
            Self::Damaged | Self::Unavailable | Self::Unverified | Self::Sound => true,
            Self::Absent | Self::Partial | Self::Busy | Self::Refused => false,
        }
    }
}

/// Whether the session has a stored snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InSession {
    /// Not yet, and it was not tried in this round.
    NotTried,
    /// The snapshot could not be opened or seeded in this round.
    Failed,
    /// The snapshot is seeded.
    Open,
}

/// All inputs of the decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Situation {
    /// The snapshot that the trusted pointer names, if one was ever accepted.
    pub(crate) desired: Option<InfoHashV2>,
    /// The snapshot whose download this stream waits for.
    pub(crate) active: Option<InfoHashV2>,
    /// The snapshot that `current/<stream>` points at.
    pub(crate) current: Option<InfoHashV2>,
    /// The state of the desired snapshot in the store.
    pub(crate) stored: StoredState,
    /// Whether the session has the desired snapshot.
    pub(crate) session: InSession,
    /// Whether the desired snapshot is being downloaded, for this stream or another.
    pub(crate) downloading: bool,
    /// Whether its download or verification failed since the last poll.
    pub(crate) failed: bool,
    /// Whether the service waits for disk space.
    pub(crate) no_space: bool,
}

/// The one action to take now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Nothing is stored and no pointer is known: wait for the next poll.
    Wait,
    /// Seed the stored snapshots; no newer one is desired.
    Keep,
    /// Let the running download continue.
    Continue,
    /// Wait for the download that runs for another stream.
    Join(InfoHashV2),
    /// Open this stored snapshot, repair it if necessary, and seed it.
    TakeUp(InfoHashV2),
    /// Download this snapshot.
    Fetch(InfoHashV2),
    /// Verify the ledger of this complete snapshot.
    Verify(InfoHashV2),
    /// Make this complete snapshot the current one.
    Switch(InfoHashV2),
    /// Stop waiting for this download: another snapshot is desired. Its data stays on disk.
    Abandon(InfoHashV2),
    /// Stay with the current snapshot: the ledger of this one is not sound.
    Refuse(InfoHashV2),
    /// Try again after the next poll, or when there is disk space.
    Retry,
}

/// Decides what to do: the table above, row by row.
pub(crate) fn decide(situation: Situation) -> Action {
    let Situation {
        desired,
        active,
        current,
        stored,
        session,
        downloading,
        failed,
        no_space,
    } = situation;
    let desired = match (desired, active) {
        (None, Some(_)) => return Action::Continue,
        (None, None) if current.is_none() => return Action::Wait,
        (None, None) => return Action::Keep,
        (Some(desired), Some(active)) if desired == active => return Action::Continue,
        (Some(_), Some(active)) => return Action::Abandon(active),
        (Some(desired), None) => desired,
    };
    if downloading {
        return Action::Join(desired);
    }
    if session == InSession::NotTried && stored.may_be_seeded() {
        return Action::TakeUp(desired);
    }
    match stored {
        StoredState::Sound if current == Some(desired) => Action::Keep,
        StoredState::Sound => Action::Switch(desired),
        StoredState::Refused => Action::Refuse(desired),
        _ if failed || no_space => Action::Retry,
        StoredState::Unverified => Action::Verify(desired),
        StoredState::Absent
        | StoredState::Partial
        | StoredState::Busy
        | StoredState::Damaged
        | StoredState::Unavailable => Action::Fetch(desired),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [StoredState; 8] = [
        StoredState::Absent,
        StoredState::Partial,
        StoredState::Busy,
        StoredState::Damaged,
        StoredState::Unavailable,
        StoredState::Unverified,
        StoredState::Sound,
        StoredState::Refused,
    ];
    const SESSION: [InSession; 3] = [InSession::NotTried, InSession::Failed, InSession::Open];

    fn id(byte: u8) -> InfoHashV2 {
        InfoHashV2::from_bytes([byte; 32])
    }

    /// A situation in which snapshot 1 is desired and all other fields have their idle values.
    fn wanted(stored: StoredState, session: InSession) -> Situation {
        Situation {
            desired: Some(id(1)),
            active: None,
            current: None,
            stored,
            session,
            downloading: false,
            failed: false,
            no_space: false,
        }
    }

    /// Returns all situations that differ from `base` in the state of the store, the session and the service.
    fn variations(base: Situation) -> impl Iterator<Item = Situation> {
        let flags = (0..8).map(|bits| (bits & 1 != 0, bits & 2 != 0, bits & 4 != 0));
        flags.flat_map(move |(downloading, failed, no_space)| {
            ALL.into_iter().flat_map(move |stored| {
                SESSION.into_iter().map(move |session| Situation {
                    stored,
                    session,
                    downloading,
                    failed,
                    no_space,
                    ..base
                })
            })
        })
    }

    #[test]
    fn without_a_pointer_it_waits_or_keeps_or_continues() {
        let base = Situation {
            desired: None,
            ..wanted(StoredState::Absent, InSession::NotTried)
        };
        for situation in variations(base) {
            assert_eq!(decide(situation), Action::Wait);
            let current = Some(id(1));
            assert_eq!(
                decide(Situation {
                    current,
                    ..situation
                }),
                Action::Keep
            );
            for current in [None, Some(id(1)), Some(id(2))] {
                let active = Some(id(1));
                let running = Situation {
                    active,
                    current,
                    ..situation
                };
                assert_eq!(decide(running), Action::Continue);
            }
        }
    }

    #[test]
    fn a_running_download_continues_while_it_is_wanted_and_only_then() {
        for situation in variations(wanted(StoredState::Absent, InSession::NotTried)) {
            for current in [None, Some(id(1)), Some(id(2))] {
                let running = |active| Situation {
                    active: Some(id(active)),
                    current,
                    ..situation
                };
                assert_eq!(decide(running(1)), Action::Continue);
                assert_eq!(decide(running(3)), Action::Abandon(id(3)));
            }
            // Abandoning takes one step.
            assert!(!matches!(
                decide(situation),
                Action::Abandon(_) | Action::Continue
            ));
        }
    }

    #[test]
    fn a_download_of_another_stream_is_joined() {
        for situation in variations(wanted(StoredState::Absent, InSession::NotTried)) {
            let joins = decide(situation) == Action::Join(id(1));
            assert_eq!(joins, situation.downloading, "{situation:?}");
        }
    }

    #[test]
    fn what_may_be_seeded_is_taken_up_once_in_a_round() {
        let base = wanted(StoredState::Absent, InSession::NotTried);
        for situation in variations(base).filter(|one| !one.downloading) {
            let taken_up = decide(situation) == Action::TakeUp(id(1));
            let expected = situation.session == InSession::NotTried
                && matches!(
                    situation.stored,
                    StoredState::Sound
                        | StoredState::Unverified
                        | StoredState::Damaged
                        | StoredState::Unavailable
                );
            assert_eq!(taken_up, expected, "{situation:?}");
        }
    }

    #[test]
    fn a_sound_snapshot_is_kept_when_current_and_switched_to_when_not() {
        for session in [InSession::Failed, InSession::Open] {
            for (failed, no_space) in [(false, false), (true, true)] {
                let current = |current: Option<u8>| {
                    decide(Situation {
                        current: current.map(id),
                        failed,
                        no_space,
                        ..wanted(StoredState::Sound, session)
                    })
                };
                assert_eq!(current(Some(1)), Action::Keep);
                assert_eq!(current(None), Action::Switch(id(1)));
                assert_eq!(current(Some(2)), Action::Switch(id(1)));
            }
        }
    }

    #[test]
    fn nothing_becomes_current_before_it_was_verified() {
        for session in [InSession::Failed, InSession::Open] {
            let situation = wanted(StoredState::Unverified, session);
            assert_eq!(decide(situation), Action::Verify(id(1)));
        }
    }

    #[test]
    fn what_is_missing_partial_busy_or_beyond_repair_is_fetched() {
        for stored in [StoredState::Absent, StoredState::Partial, StoredState::Busy] {
            for session in SESSION {
                assert_eq!(decide(wanted(stored, session)), Action::Fetch(id(1)));
            }
        }
        for stored in [StoredState::Damaged, StoredState::Unavailable] {
            let situation = wanted(stored, InSession::Failed);
            assert_eq!(decide(situation), Action::Fetch(id(1)));
        }
    }

    #[test]
    fn an_unsound_ledger_is_not_fetched_again() {
        let base = wanted(StoredState::Absent, InSession::NotTried);
        for situation in variations(base).filter(|one| !one.downloading) {
            let refuses = decide(situation) == Action::Refuse(id(1));
            assert_eq!(refuses, situation.stored == StoredState::Refused);
        }
    }

    #[test]
    fn after_a_failure_and_without_space_nothing_is_fetched_or_verified() {
        for situation in variations(wanted(StoredState::Absent, InSession::NotTried)) {
            let starts = matches!(decide(situation), Action::Fetch(_) | Action::Verify(_));
            let held_up = situation.failed || situation.no_space;
            assert!(!(starts && held_up), "{situation:?}");
            let retries = decide(situation) == Action::Retry;
            assert!(!retries || held_up, "{situation:?}");
        }
    }
}
