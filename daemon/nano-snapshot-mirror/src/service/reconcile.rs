//! The service's state machine: from what is wanted, what is under way and what is held, to the
//! one thing to do now.
//!
//! [`decide`] is a pure function; the service calls it after every event (a look-up ended, a
//! download ended, the store was rescanned) and carries the answer out.
//!
//! *desired* is the snapshot the trusted pointer names: the last accepted one while look-ups
//! fail. *active* is the snapshot whose download runs. *current* is the one `current/<stream>`
//! points at. *holding* is what the store holds of the desired one.
//!
//! | desired | active | holding    | current | decision                                      |
//! |---------|--------|------------|---------|-----------------------------------------------|
//! | none    | none   | –          | none    | `Wait`: nothing to seed until a pointer comes |
//! | none    | none   | –          | some    | `Keep`: seed what is held                     |
//! | none    | some   | –          | any     | `Continue`: it was wanted when it began       |
//! | D       | none   | whole      | D       | `Keep`                                        |
//! | D       | none   | whole      | not D   | `Switch(D)`: held already, nothing to fetch   |
//! | D       | none   | unverified | any     | `Verify(D)`: all is here, nobody looked yet   |
//! | D       | none   | partial    | any     | `Fetch(D, resume)`                            |
//! | D       | none   | none       | any     | `Fetch(D)`                                    |
//! | D       | none   | refused    | any     | `Refuse(D)`: its ledger failed verification   |
//! | D       | D      | any        | any     | `Continue`                                    |
//! | D       | other  | any        | any     | `Abandon(other)`: then decide again           |
//!
//! Nothing here removes what is seeded: the current generation stays until another is whole and
//! current, and the one before it longer still (see [`snapshot_store::retention`]).

use bittorrent_protocol::InfoHashV2;

/// What the store holds of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holding {
    /// Nothing.
    None,
    /// Some of it: a download was interrupted.
    Partial,
    /// Everything, and its ledger may be used.
    Whole,
    /// Everything, but nobody looked into its ledger as deep as the policy wants.
    Unverified,
    /// Everything as published, but what was published is no sound ledger.
    Refused,
}

/// All that the decision depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Situation {
    /// The snapshot the trusted pointer names, if one was ever accepted.
    pub(crate) desired: Option<InfoHashV2>,
    /// The snapshot that is being downloaded.
    pub(crate) active: Option<InfoHashV2>,
    /// What the store holds of the desired snapshot.
    pub(crate) holding: Holding,
    /// The snapshot that `current/<stream>` points at.
    pub(crate) current: Option<InfoHashV2>,
}

/// The one thing to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Nothing is held and nothing is known to fetch: look again at the next poll.
    Wait,
    /// Seed what is held; nothing newer is wanted.
    Keep,
    /// Let the running download go on.
    Continue,
    /// Download this snapshot.
    Fetch {
        /// Which.
        snapshot: InfoHashV2,
        /// Whether part of it is on disk.
        resume: bool,
    },
    /// Look into the ledger of this snapshot, which is whole.
    Verify(InfoHashV2),
    /// Make this snapshot, which is whole, the current one.
    Switch(InfoHashV2),
    /// Stop this download: something else is wanted now. What it has stays on disk.
    Abandon(InfoHashV2),
    /// Stay where we are: the wanted snapshot was fetched before and is no sound ledger.
    Refuse(InfoHashV2),
}

/// Decides what to do: the table above, row by row.
pub(crate) fn decide(situation: Situation) -> Decision {
    let Situation {
        desired,
        active,
        holding,
        current,
    } = situation;
    match (desired, active) {
        (None, None) if current.is_none() => Decision::Wait,
        (None, None) => Decision::Keep,
        (None, Some(_)) => Decision::Continue,
        (Some(desired), Some(active)) if desired == active => Decision::Continue,
        (Some(_), Some(active)) => Decision::Abandon(active),
        (Some(desired), None) => match holding {
            Holding::Whole if current == Some(desired) => Decision::Keep,
            Holding::Whole => Decision::Switch(desired),
            Holding::Unverified => Decision::Verify(desired),
            Holding::Partial => Decision::Fetch {
                snapshot: desired,
                resume: true,
            },
            Holding::None => Decision::Fetch {
                snapshot: desired,
                resume: false,
            },
            Holding::Refused => Decision::Refuse(desired),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLDINGS: [Holding; 5] = [
        Holding::None,
        Holding::Partial,
        Holding::Whole,
        Holding::Unverified,
        Holding::Refused,
    ];

    fn id(byte: u8) -> InfoHashV2 {
        InfoHashV2::from_bytes([byte; 32])
    }

    fn case(
        desired: Option<u8>,
        active: Option<u8>,
        holding: Holding,
        current: Option<u8>,
    ) -> Decision {
        decide(Situation {
            desired: desired.map(id),
            active: active.map(id),
            holding,
            current: current.map(id),
        })
    }

    #[test]
    fn without_a_pointer_it_waits_or_keeps_or_continues() {
        for holding in HOLDINGS {
            assert_eq!(case(None, None, holding, None), Decision::Wait);
            assert_eq!(case(None, None, holding, Some(1)), Decision::Keep);
            for current in [None, Some(1), Some(2)] {
                assert_eq!(case(None, Some(1), holding, current), Decision::Continue);
            }
        }
    }

    #[test]
    fn a_whole_copy_is_kept_when_current_and_switched_to_when_not() {
        assert_eq!(case(Some(1), None, Holding::Whole, Some(1)), Decision::Keep);
        assert_eq!(
            case(Some(1), None, Holding::Whole, None),
            Decision::Switch(id(1))
        );
        assert_eq!(
            case(Some(1), None, Holding::Whole, Some(2)),
            Decision::Switch(id(1))
        );
    }

    #[test]
    fn what_is_missing_is_fetched_and_what_is_partial_resumed() {
        for current in [None, Some(1), Some(2)] {
            for (holding, resume) in [(Holding::None, false), (Holding::Partial, true)] {
                assert_eq!(
                    case(Some(1), None, holding, current),
                    Decision::Fetch {
                        snapshot: id(1),
                        resume
                    }
                );
            }
        }
    }

    #[test]
    fn nothing_becomes_current_before_it_was_looked_into() {
        for current in [None, Some(1), Some(2)] {
            assert_eq!(
                case(Some(1), None, Holding::Unverified, current),
                Decision::Verify(id(1))
            );
        }
    }

    #[test]
    fn an_unsound_ledger_is_not_fetched_again() {
        for current in [None, Some(1), Some(2)] {
            assert_eq!(
                case(Some(1), None, Holding::Refused, current),
                Decision::Refuse(id(1))
            );
        }
    }

    #[test]
    fn a_running_download_continues_while_it_is_wanted_and_only_then() {
        for holding in HOLDINGS {
            for current in [None, Some(1), Some(2)] {
                assert_eq!(case(Some(1), Some(1), holding, current), Decision::Continue);
                assert_eq!(
                    case(Some(1), Some(3), holding, current),
                    Decision::Abandon(id(3))
                );
            }
        }
    }

    #[test]
    fn abandoning_settles_in_one_more_step() {
        for holding in HOLDINGS {
            let mut situation = Situation {
                desired: Some(id(1)),
                active: Some(id(2)),
                holding,
                current: None,
            };
            assert_eq!(decide(situation), Decision::Abandon(id(2)));
            situation.active = None;
            assert!(!matches!(
                decide(situation),
                Decision::Abandon(_) | Decision::Continue
            ));
        }
    }
}
