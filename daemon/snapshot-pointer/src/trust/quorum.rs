//! Counts the votes of authorities, and decides when enough agree.

use std::time::{Duration, SystemTime};

use bittorrent_protocol::InfoHashV2;

use crate::item::{Authority, Salt};

/// What a mirror follows: the authorities, how many of them must agree, the salt, and the age at
/// which a choice is stale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamPolicy {
    authorities: Vec<Authority>,
    threshold: usize,
    salt: Salt,
    max_age: Option<Duration>,
}

/// A policy is invalid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPolicy {
    /// There is no authority.
    #[error("a stream needs at least one authority")]
    NoAuthority,
    /// There are too many authorities.
    #[error(
        "a stream has at most {} authorities, not {count}",
        StreamPolicy::MAX_AUTHORITIES
    )]
    TooMany {
        /// The number of authorities.
        count: usize,
    },
    /// An authority is named twice, and would have two votes.
    #[error("authority {authority} is named twice")]
    Duplicate {
        /// The authority.
        authority: Authority,
    },
    /// The threshold can never be reached, or always is.
    #[error("threshold {threshold} must be between 1 and the number of authorities, {authorities}")]
    Threshold {
        /// The threshold.
        threshold: usize,
        /// The number of authorities.
        authorities: usize,
    },
}

impl StreamPolicy {
    /// The most authorities of one stream. Each costs a DHT look-up per poll.
    pub const MAX_AUTHORITIES: usize = 16;

    /// Makes a policy that follows the snapshot named by at least `threshold` of `authorities`.
    ///
    /// With `max_age`, a choice that this mirror first saw longer ago is reported as stale. It is
    /// still followed.
    ///
    /// # Errors
    ///
    /// When there is no authority, one twice, too many, or the threshold cannot be met or is 0.
    pub fn new(
        authorities: Vec<Authority>,
        threshold: usize,
        salt: Salt,
        max_age: Option<Duration>,
    ) -> Result<Self, InvalidPolicy> {
        if authorities.is_empty() {
            return Err(InvalidPolicy::NoAuthority);
        }
        if authorities.len() > Self::MAX_AUTHORITIES {
            return Err(InvalidPolicy::TooMany {
                count: authorities.len(),
            });
        }
        for (i, authority) in authorities.iter().enumerate() {
            if authorities.iter().take(i).any(|other| other == authority) {
                return Err(InvalidPolicy::Duplicate {
                    authority: *authority,
                });
            }
        }
        if threshold == 0 || threshold > authorities.len() {
            return Err(InvalidPolicy::Threshold {
                threshold,
                authorities: authorities.len(),
            });
        }
        Ok(Self {
            authorities,
            threshold,
            salt,
            max_age,
        })
    }

    /// Returns the authorities in the configured order.
    pub fn authorities(&self) -> &[Authority] {
        &self.authorities
    }

    /// Returns how many authorities must agree.
    pub fn threshold(&self) -> usize {
        self.threshold
    }

    /// Returns the salt of the items.
    pub fn salt(&self) -> &Salt {
        &self.salt
    }

    /// Returns the age after which a choice is stale.
    pub fn max_age(&self) -> Option<Duration> {
        self.max_age
    }

    /// Returns whether at most one snapshot can have enough votes. If `false`, and authorities
    /// publish different snapshots, mirrors switch whenever either publishes.
    pub fn is_majority(&self) -> bool {
        2 * self.threshold > self.authorities.len()
    }
}

/// The vote of one authority, as far as this mirror knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vote {
    /// The authority.
    pub authority: Authority,
    /// The snapshot that the authority names, and when this mirror first saw it; `None` if no item
    /// was ever accepted.
    pub names: Option<(InfoHashV2, SystemTime)>,
    /// Whether the authority signed two values with its latest sequence number. It has no vote
    /// then.
    pub contested: bool,
}

/// The outcome of a count of votes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Enough authorities agree.
    Follow(Choice),
    /// Not enough authorities agree. A mirror keeps its current snapshot.
    Undecided(Tally),
}

/// A snapshot that enough authorities name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The snapshot.
    pub snapshot: InfoHashV2,
    /// The authorities that name it, in the policy's order.
    pub supporters: Vec<Authority>,
    /// When this mirror first saw enough of them name it.
    pub since: SystemTime,
}

/// Why there is no choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    /// The snapshot with the most votes, and their number.
    pub leading: Option<(InfoHashV2, usize)>,
    /// The number of votes needed.
    pub threshold: usize,
    /// The number of authorities without an accepted item.
    pub silent: usize,
    /// The number of authorities that signed two values with one sequence number.
    pub contested: usize,
}

/// Counts the votes. Pure.
///
/// Ignores votes of authorities that are not in the policy, and a second vote of the same one.
/// Several snapshots can have enough votes only without [`StreamPolicy::is_majority`]. Then the one
/// with the most votes is chosen. Among equals, it is the one that got enough votes last, because
/// sequence numbers of different authorities cannot be compared. If these are equal too, the
/// policy's order decides.
pub fn decide(policy: &StreamPolicy, votes: &[Vote]) -> Decision {
    struct Candidate {
        snapshot: InfoHashV2,
        supporters: Vec<(Authority, SystemTime)>,
    }
    let mut candidates: Vec<Candidate> = Vec::new();
    let (mut silent, mut contested) = (0, 0);
    for authority in &policy.authorities {
        match votes.iter().find(|vote| vote.authority == *authority) {
            Some(vote) if vote.contested => contested += 1,
            Some(Vote {
                names: Some((snapshot, since)),
                ..
            }) => {
                let supporter = (*authority, *since);
                match candidates.iter_mut().find(|c| c.snapshot == *snapshot) {
                    Some(candidate) => candidate.supporters.push(supporter),
                    None => candidates.push(Candidate {
                        snapshot: *snapshot,
                        supporters: vec![supporter],
                    }),
                }
            }
            _ => silent += 1,
        }
    }

    let mut choice: Option<Choice> = None;
    for candidate in &candidates {
        let mut times: Vec<_> = candidate.supporters.iter().map(|(_, t)| *t).collect();
        times.sort_unstable();
        // `threshold` is at least 1.
        let Some(since) = times.get(policy.threshold - 1).copied() else {
            continue;
        };
        let rank = (candidate.supporters.len(), since);
        // Strictly greater: the policy's order decides among equals.
        if choice
            .as_ref()
            .is_none_or(|best| rank > (best.supporters.len(), best.since))
        {
            choice = Some(Choice {
                snapshot: candidate.snapshot,
                supporters: candidate.supporters.iter().map(|(a, _)| *a).collect(),
                since,
            });
        }
    }
    match choice {
        Some(choice) => Decision::Follow(choice),
        None => Decision::Undecided(Tally {
            leading: candidates
                .iter()
                .rev()
                .max_by_key(|c| c.supporters.len())
                .map(|c| (c.snapshot, c.supporters.len())),
            threshold: policy.threshold,
            silent,
            contested,
        }),
    }
}

/// The age of a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// Time since this mirror first saw the choice.
    pub age: Duration,
    /// Whether this exceeds the policy's `max_age`: the authorities may have stopped, or an
    /// attacker withholds their items.
    pub stale: bool,
}

impl StreamPolicy {
    /// Returns the age of a choice at `now`, counted from when this mirror first saw the
    /// *snapshot*. Sequence numbers are no measure, because some producers raise them at every
    /// republication. After the clock was set back the age is zero.
    pub fn freshness(&self, choice: &Choice, now: SystemTime) -> Freshness {
        let age = now.duration_since(choice.since).unwrap_or_default();
        Freshness {
            age,
            stale: self.max_age.is_some_and(|max| age > max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{authority, salt};

    fn hash(byte: u8) -> InfoHashV2 {
        InfoHashV2::from_bytes([byte; 32])
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn policy(n: u8, threshold: usize) -> StreamPolicy {
        let authorities = (1..=n).map(authority).collect();
        StreamPolicy::new(
            authorities,
            threshold,
            salt(),
            Some(Duration::from_secs(100)),
        )
        .unwrap()
    }

    /// Authority 1 and so on: `.` knows nothing, `!` is contested, `a5` names snapshot a since 5.
    fn votes(text: &str) -> Vec<Vote> {
        text.split_whitespace()
            .zip(1..)
            .map(|(vote, n)| Vote {
                authority: authority(n),
                names: vote
                    .strip_prefix(|c: char| c.is_ascii_lowercase())
                    .map(|since| (hash(vote.as_bytes()[0]), at(since.parse().unwrap()))),
                contested: vote.starts_with('!'),
            })
            .collect()
    }

    #[test]
    fn table_of_followed() {
        // n, k, votes: snapshot, supporters, since
        type Case = (u8, usize, &'static str, char, &'static [u8], u64);
        let cases: [Case; 14] = [
            (1, 1, "a5", 'a', &[1], 5),
            (3, 1, ". a5 .", 'a', &[2], 5),
            (3, 2, "a5 a9 .", 'a', &[1, 2], 9),
            (3, 2, "a9 b1 a5", 'a', &[1, 3], 9),
            (3, 2, "a5 a7 a9", 'a', &[1, 2, 3], 7),
            (3, 2, "a5 ! a9", 'a', &[1, 3], 9),
            (3, 3, "a5 a9 a7", 'a', &[1, 2, 3], 9),
            // One authority is ahead: the others still agree on yesterday's.
            (3, 2, "b9 a5 a5", 'a', &[2, 3], 5),
            // Two are ahead.
            (3, 2, "b9 b10 a5", 'b', &[1, 2], 10),
            // No majority needed: the most votes, then the latest, then the first in order.
            (3, 1, "a5 b9 a6", 'a', &[1, 3], 5),
            (2, 1, "a5 b9", 'b', &[2], 9),
            (2, 1, "a9 b5", 'a', &[1], 9),
            (2, 1, "b5 a5", 'b', &[1], 5),
            (4, 2, "a1 a2 b1 b3", 'b', &[3, 4], 3),
        ];
        for (n, k, text, snapshot, supporters, since) in cases {
            assert_eq!(
                decide(&policy(n, k), &votes(text)),
                Decision::Follow(Choice {
                    snapshot: hash(snapshot as u8),
                    supporters: supporters.iter().copied().map(authority).collect(),
                    since: at(since),
                }),
                "{k} of {n}: {text}"
            );
        }
    }

    #[test]
    fn table_of_undecided() {
        // n, k, votes: leading, silent, contested
        type Case = (u8, usize, &'static str, Option<(char, usize)>, usize, usize);
        let cases: [Case; 8] = [
            (1, 1, ".", None, 1, 0),
            (1, 1, "!", None, 0, 1),
            (3, 2, ". . .", None, 3, 0),
            (3, 2, "a5 . .", Some(('a', 1)), 2, 0),
            (3, 2, "a5 b5 c5", Some(('a', 1)), 0, 0),
            (3, 2, "a5 ! b5", Some(('a', 1)), 0, 1),
            (3, 3, "a5 a5 b5", Some(('a', 2)), 0, 0),
            (3, 2, "", None, 3, 0),
        ];
        for (n, k, text, leading, silent, contested) in cases {
            assert_eq!(
                decide(&policy(n, k), &votes(text)),
                Decision::Undecided(Tally {
                    leading: leading.map(|(c, count)| (hash(c as u8), count)),
                    threshold: k,
                    silent,
                    contested,
                }),
                "{k} of {n}: {text}"
            );
        }
    }

    #[test]
    fn strangers_and_second_votes_do_not_count() {
        let mut ballot = votes("a5 b5 b5");
        ballot[2].authority = authority(9);
        ballot.push(ballot[1]);
        assert!(matches!(
            decide(&policy(2, 2), &ballot),
            Decision::Undecided(Tally {
                leading: Some((_, 1)),
                ..
            })
        ));
    }

    #[test]
    fn a_contested_vote_does_not_count_even_if_something_is_held() {
        let mut ballot = votes("a5 a5");
        ballot[0].contested = true;
        assert!(matches!(
            decide(&policy(2, 2), &ballot),
            Decision::Undecided(Tally {
                contested: 1,
                leading: Some((_, 1)),
                ..
            })
        ));
    }

    #[test]
    fn senseless_policies_are_refused() {
        let new = |authorities: Vec<u8>, k| {
            let authorities = authorities.into_iter().map(authority).collect();
            StreamPolicy::new(authorities, k, salt(), None).map(drop)
        };
        assert_eq!(new(vec![], 1), Err(InvalidPolicy::NoAuthority));
        assert_eq!(
            new(vec![1, 2, 1], 1),
            Err(InvalidPolicy::Duplicate {
                authority: authority(1)
            })
        );
        for threshold in [0, 3] {
            assert_eq!(
                new(vec![1, 2], threshold),
                Err(InvalidPolicy::Threshold {
                    threshold,
                    authorities: 2
                })
            );
        }
        assert_eq!(new((1..=16).collect(), 9), Ok(()));
        assert_eq!(
            new((1..=17).collect(), 9),
            Err(InvalidPolicy::TooMany { count: 17 })
        );
        assert!(policy(3, 2).is_majority());
        assert!(!policy(2, 1).is_majority());
        assert!(!policy(4, 2).is_majority());
        assert!(policy(1, 1).is_majority());
    }

    #[test]
    fn freshness_counts_from_the_first_sight() {
        let choice = Choice {
            snapshot: hash(1),
            supporters: vec![authority(1)],
            since: at(1000),
        };
        for (now, age, stale) in [
            (1000, 0, false),
            (1100, 100, false),
            (1101, 101, true),
            (900, 0, false),
        ] {
            assert_eq!(
                policy(1, 1).freshness(&choice, at(now)),
                Freshness {
                    age: Duration::from_secs(age),
                    stale
                }
            );
        }
        let ageless = StreamPolicy::new(vec![authority(1)], 1, salt(), None).unwrap();
        assert!(!ageless.freshness(&choice, at(u32::MAX.into())).stale);
    }
}
