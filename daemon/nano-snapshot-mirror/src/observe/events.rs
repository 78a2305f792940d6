//! Events for operators, found by comparing each report with the one before. Each event is sent once to the log, with its own message id, and to the
//! hooks.

use serde::Serialize;
use tracing::{error, info, warn};

use crate::observe::report::{ProblemCode, Report, StreamReport};

/// Message ids of systemd.journal-fields(7). They never change; `docs/operating.md` lists them.
pub(crate) mod message_id {
    pub(super) const DISCOVERED: &str = "36d1c0b02362428b91548f34e2aeb44d";
    pub(super) const READY: &str = "98a9d6acb03042a9a684a9b06cc74249";
    pub(super) const REFUSED: &str = "7d23adad6a074686a9ad1c668ed639bd";
    pub(super) const STALE: &str = "27974dbabe4f4234b114a0cb365a0639";
    pub(super) const PROBLEM: &str = "195c588ea5c64685abecebb2a7038567";
    pub(crate) const DAMAGED: &str = "f1d25a1edce04fb4a6e5ac0e5ee6d0b7";
    pub(super) const SOLVED: &str = "29d68f804be84042840cb870361dd3d3";
}

/// An event for operators.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub(crate) enum OperatorEvent {
    /// The authorities of a stream name another snapshot.
    Discovered {
        stream: String,
        snapshot: String,
        seq: Option<i64>,
    },
    /// A snapshot is complete, verified and current.
    Ready {
        stream: String,
        snapshot: String,
        seq: Option<i64>,
    },
    /// A signed item was found and not accepted.
    Refused {
        stream: String,
        authority: String,
        seq: i64,
        reason: String,
        text: String,
    },
    /// The authorities of a stream have published nothing newer for longer than its `max-age`.
    Stale {
        stream: String,
        snapshot: Option<String>,
        seq: Option<i64>,
    },
    /// A problem appeared.
    Problem { code: ProblemCode, text: String },
    /// A problem was solved.
    Solved { code: ProblemCode },
}

/// Returns the events between two reports.
pub(crate) fn between(before: &Report, after: &Report) -> Vec<OperatorEvent> {
    let mut found = Vec::new();
    for stream in &after.streams {
        let same = |one: &&StreamReport| one.name == stream.name;
        // A stream that only the second report has was just added: its state is no event.
        if let Some(old) = before.streams.iter().find(same) {
            in_stream(old, stream, &mut found);
        }
    }
    // Texts contain numbers that change, so problems are compared by code alone.
    for problem in &after.problems {
        if before.problems.iter().all(|old| old.code != problem.code) {
            found.push(OperatorEvent::Problem {
                code: problem.code,
                text: problem.text.clone(),
            });
        }
    }
    for old in &before.problems {
        if after
            .problems
            .iter()
            .all(|problem| problem.code != old.code)
        {
            found.push(OperatorEvent::Solved { code: old.code });
        }
    }
    found.dedup();
    found
}

fn in_stream(before: &StreamReport, after: &StreamReport, found: &mut Vec<OperatorEvent>) {
    let stream = || after.name.clone();
    if let Some(snapshot) = &after.desired
        && before.desired.as_ref() != Some(snapshot)
    {
        found.push(OperatorEvent::Discovered {
            stream: stream(),
            snapshot: snapshot.clone(),
            seq: after.seq,
        });
    }
    if let Some(snapshot) = &after.current
        && before.current.as_ref() != Some(snapshot)
    {
        found.push(OperatorEvent::Ready {
            stream: stream(),
            snapshot: snapshot.clone(),
            seq: after
                .seq
                .filter(|_| after.desired.as_ref() == Some(snapshot)),
        });
    }
    for authority in &after.authorities {
        let mut old = before.authorities.iter();
        let old = old.find(|one| one.authority == authority.authority);
        for refused in &authority.refused {
            let known = old.is_some_and(|old| {
                let mut known = old.refused.iter();
                known.any(|one| (one.seq, &one.reason) == (refused.seq, &refused.reason))
            });
            if !known {
                found.push(OperatorEvent::Refused {
                    stream: stream(),
                    authority: authority.authority.clone(),
                    seq: refused.seq,
                    reason: refused.reason.clone(),
                    text: refused.text.clone(),
                });
            }
        }
    }
    if after.stale && !before.stale {
        found.push(OperatorEvent::Stale {
            stream: stream(),
            snapshot: after.desired.clone(),
            seq: after.seq,
        });
    }
}

impl OperatorEvent {
    /// Logs the event. The names of the fields never change.
    pub(crate) fn log(&self) {
        match self {
            Self::Discovered {
                stream,
                snapshot,
                seq,
            } => info!(
                message_id = message_id::DISCOVERED,
                stream,
                info_hash = snapshot,
                snapshot_seq = seq,
                "the pointer names another snapshot"
            ),
            Self::Ready {
                stream,
                snapshot,
                seq,
            } => info!(
                message_id = message_id::READY,
                stream,
                info_hash = snapshot,
                snapshot_seq = seq,
                "the snapshot is complete, verified and current"
            ),
            Self::Refused {
                stream,
                authority,
                seq,
                reason,
                text,
            } => warn!(
                message_id = message_id::REFUSED,
                stream,
                authority,
                snapshot_seq = seq,
                reason,
                "a pointer is refused: {text}"
            ),
            Self::Stale {
                stream,
                snapshot,
                seq,
            } => warn!(
                message_id = message_id::STALE,
                stream,
                info_hash = snapshot,
                snapshot_seq = seq,
                "nothing newer was published for longer than max-age"
            ),
            Self::Problem { code, text } => {
                error!(
                    message_id = message_id::PROBLEM,
                    code = code.name(),
                    "problem: {text}"
                );
            }
            Self::Solved { code } => {
                info!(
                    message_id = message_id::SOLVED,
                    code = code.name(),
                    "problem resolved"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::report::testing::{NEW, OLD, report};
    use crate::observe::report::{Problem, RefusedItem};

    #[test]
    fn the_page_for_operators_has_the_message_ids() {
        let page = include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docs/operating.md"
        ));
        use message_id::*;
        let ids = [DISCOVERED, READY, REFUSED, STALE, PROBLEM, DAMAGED, SOLVED];
        for id in ids {
            assert!(page.contains(&format!("| `{id}` |")), "{id}");
        }
        // The page lists no message id that is not used. An id that is missing above is found here.
        let hexadecimal = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let source = include_str!("events.rs");
        let defined = source
            .split('"')
            .filter(|text| text.len() == 32 && hexadecimal(text));
        let listed = page
            .split('`')
            .filter(|text| text.len() == 32 && hexadecimal(text));
        assert_eq!((defined.count(), listed.count()), (ids.len(), ids.len()));
    }

    fn stream() -> String {
        "daily".to_owned()
    }

    #[test]
    fn what_was_so_before_did_not_happen() {
        assert_eq!(between(&report(), &report()), []);
        // The state at the start of the program causes no events either.
        let mut starting = report();
        starting.streams.clear();
        assert_eq!(between(&starting, &report()), []);
    }

    #[test]
    fn a_day_in_its_order() {
        let mut before = report();
        before.streams[0].desired = Some(OLD.to_owned());
        let after = report();
        let discovered = OperatorEvent::Discovered {
            stream: stream(),
            snapshot: NEW.to_owned(),
            seq: Some(7),
        };
        assert_eq!(between(&before, &after), [discovered]);
        let before = after;
        let mut after = report();
        after.streams[0].current = Some(NEW.to_owned());
        let ready = OperatorEvent::Ready {
            stream: stream(),
            snapshot: NEW.to_owned(),
            seq: Some(7),
        };
        assert_eq!(between(&before, &after), [ready]);
        let before = after.clone();
        after.streams[0].stale = true;
        let stale = OperatorEvent::Stale {
            stream: stream(),
            snapshot: Some(NEW.to_owned()),
            seq: Some(7),
        };
        assert_eq!(between(&before, &after), [stale]);
    }

    #[test]
    fn a_refusal_is_told_once_however_often_it_is_found() {
        let before = report();
        let mut after = report();
        let again: &mut RefusedItem = &mut after.streams[0].authorities[1].refused[0];
        again.times += 1;
        again.at += 10;
        assert_eq!(between(&before, &after), []);
        after.streams[0].authorities[1].refused[0].seq = 4;
        let happened = between(&before, &after);
        assert!(matches!(
            &happened[..],
            [OperatorEvent::Refused { seq: 4, .. }]
        ));
    }

    #[test]
    fn problems_come_and_go_by_their_kind() {
        let mut before = report();
        let mut after = report();
        after.problems[0].text = "no DHT node has answered for 6 min".to_owned();
        assert_eq!(between(&before, &after), []);
        before.problems.clear();
        let happened = between(&before, &after);
        assert!(
            matches!(&happened[..], [OperatorEvent::Problem { code, .. }] if *code == ProblemCode::DhtSilent)
        );
        let solved = OperatorEvent::Solved {
            code: ProblemCode::DhtSilent,
        };
        assert_eq!(between(&after, &before), [solved]);
        before.problems.push(Problem {
            code: ProblemCode::DiskFull,
            text: String::new(),
        });
        assert_eq!(between(&before, &after).len(), 2);
    }
}
