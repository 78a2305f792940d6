//! Decides who may download from us: upload slots over all torrents.
//!
//! Slots are assigned in this order:
//!
//! 1. Peers that send us data, the fastest first.
//! 2. Peers that have had a slot for less than a minute, so that a slot is worth having.
//! 3. Peers that waited longest, one peer of each host before two of any.
//! 4. Peers whose minute is over.
//! 5. Peers of hosts that have slots and request nothing.
//!
//! A few optimistic slots rotate among waiting peers, so that they can show what they send. Peers on this
//! machine or network need no slot.

use std::time::{Duration, Instant};

use crate::api::keys::PeerKey;
use crate::rng::Rng;

/// How long a slot stays with a peer that sends nothing, while others wait.
const QUANTUM: Duration = Duration::from_secs(60);

/// A peer that wants to download.
#[derive(Debug, Clone)]
pub(crate) struct Applicant {
    pub(crate) key: PeerKey,
    pub(crate) choked: bool,
    /// Since when it is choked, or not.
    pub(crate) since: Instant,
    /// Bytes per second it sends us.
    pub(crate) gives: u64,
    /// Bytes per second we send it.
    pub(crate) takes: u64,
    /// How many peers of its host have a slot or waited longer.
    pub(crate) turn: usize,
    /// It requests nothing although it may, or another peer of its host does not.
    pub(crate) idle: bool,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Gives(std::cmp::Reverse<u64>),
    Served(std::cmp::Reverse<u64>),
    /// One of each host before two of any.
    Waits(usize, Instant),
    HadItsTurn(std::cmp::Reverse<u64>),
    /// Those that wait first, so that such slots change hands as well.
    Idle(bool, Instant),
}

impl Applicant {
    fn rank(&self, now: Instant) -> Rank {
        use std::cmp::Reverse;
        // A trickle is no contribution.
        if self.gives >= 1_024 {
            Rank::Gives(Reverse(self.gives))
        } else if self.idle {
            Rank::Idle(!self.choked, self.since)
        } else if self.choked {
            Rank::Waits(self.turn, self.since)
        } else if self.since + QUANTUM > now {
            Rank::Served(Reverse(self.takes))
        } else {
            Rank::HadItsTurn(Reverse(self.takes))
        }
    }
}

/// Assigns upload slots.
#[derive(Debug, Default)]
pub(crate) struct Choker {
    next_round: Option<Instant>,
    next_optimistic: Option<Instant>,
    optimistic: Vec<PeerKey>,
}

impl Choker {
    /// Returns when slots are assigned again.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.next_round
    }

    /// Assigns all slots and returns the peers that have one.
    pub(crate) fn round(
        &mut self,
        mut applicants: Vec<Applicant>,
        slots: usize,
        optimistic_slots: usize,
        times: (Duration, Duration),
        rng: &mut Rng,
        now: Instant,
    ) -> Vec<PeerKey> {
        let (interval, optimistic_interval) = times;
        self.next_round = Some(now + interval);
        applicants.sort_by_key(|applicant| (applicant.rank(now), applicant.key));
        let optimistic_slots = optimistic_slots.min(slots);
        if self.next_optimistic.is_none_or(|at| at <= now) {
            self.next_optimistic = Some(now + optimistic_interval);
            self.optimistic.clear();
        }
        self.optimistic
            .retain(|key| applicants.iter().any(|one| one.key == *key && !one.idle));
        let mut winners: Vec<PeerKey> = applicants
            .iter()
            .map(|applicant| applicant.key)
            .filter(|key| !self.optimistic.contains(key))
            .take(slots - optimistic_slots)
            .collect();
        let mut rest: Vec<PeerKey> = applicants
            .iter()
            .map(|applicant| applicant.key)
            .filter(|key| !winners.contains(key) && !self.optimistic.contains(key))
            .collect();
        // Idle peers are last.
        let is_idle = |one: &Applicant| matches!(one.rank(now), Rank::Idle(..));
        let idle = |key: &PeerKey| applicants.iter().any(|one| one.key == *key && is_idle(one));
        while self.optimistic.len() < optimistic_slots && !rest.is_empty() {
            let active = rest.iter().position(idle).unwrap_or(rest.len());
            let among = if active > 0 { active } else { rest.len() };
            let chosen = rest.remove(rng.below(among));
            self.optimistic.push(chosen);
        }
        winners.extend(&self.optimistic);
        // Fewer applicants than slots: the rest get one too.
        winners.extend(rest.into_iter().take(slots - winners.len()));
        winners
    }

    /// Returns the peers that get the slots that became free between rounds.
    pub(crate) fn fill(
        &self,
        mut applicants: Vec<Applicant>,
        slots: usize,
        now: Instant,
    ) -> Vec<PeerKey> {
        let used = applicants.iter().filter(|a| !a.choked).count();
        applicants.retain(|applicant| applicant.choked);
        applicants.sort_by_key(|applicant| (applicant.rank(now), applicant.key));
        applicants
            .into_iter()
            .take(slots.saturating_sub(used))
            .map(|applicant| applicant.key)
            .collect()
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to start from"
)]
mod tests {
    use super::*;
    use crate::api::keys::Keys;

    fn applicants(count: usize, now: Instant) -> Vec<Applicant> {
        let mut keys = Keys::default();
        let torrent = keys.torrent();
        (0..count)
            .map(|_| Applicant {
                key: keys.peer(torrent),
                choked: true,
                since: now,
                gives: 0,
                takes: 0,
                turn: 0,
                idle: false,
            })
            .collect()
    }

    const TIMES: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(30));

    #[test]
    fn no_peer_waits_while_slots_are_free() {
        let now = Instant::now();
        let all = applicants(8, now);
        let mut choker = Choker::default();
        let winners = choker.round(all.clone(), 8, 2, TIMES, &mut Rng::new([0; 32]), now);
        assert_eq!(winners.len(), 8);
        assert!(all.iter().all(|a| winners.contains(&a.key)));
        assert_eq!(choker.fill(all, 8, now).len(), 8);
    }

    #[test]
    fn contributors_keep_their_slots_and_the_rest_take_turns() {
        let mut now = Instant::now();
        let mut all = applicants(10, now);
        all[9].gives = 1_000_000;
        let mut rng = Rng::new([1; 32]);
        let mut choker = Choker::default();
        let mut served = [0; 10];
        for _ in 0..200 {
            let winners = choker.round(all.clone(), 4, 1, TIMES, &mut rng, now);
            assert_eq!(winners.len(), 4);
            assert!(winners.contains(&all[9].key));
            for (applicant, served) in all.iter_mut().zip(&mut served) {
                let wins = winners.contains(&applicant.key);
                *served += i32::from(wins);
                if applicant.choked == wins {
                    applicant.choked = !wins;
                    applicant.since = now;
                }
            }
            now += TIMES.0;
        }
        assert_eq!(served[9], 200);
        // 3 slots for 9 peers: each about 67 rounds.
        assert!(
            served[..9].iter().all(|n| (40..95).contains(n)),
            "{served:?}"
        );
    }

    /// Plays rounds of 15 s and returns the applicants with a slot, round by round.
    fn rounds(
        all: &mut [Applicant],
        (slots, optimistic): (usize, usize),
        count: u32,
        mut now: Instant,
    ) -> Vec<Vec<usize>> {
        let mut rng = Rng::new([2; 32]);
        let mut choker = Choker::default();
        let round = |_| {
            let winners = choker.round(all.to_vec(), slots, optimistic, TIMES, &mut rng, now);
            for applicant in all.iter_mut() {
                let wins = winners.contains(&applicant.key);
                if applicant.choked == wins {
                    applicant.choked = !wins;
                    applicant.since = now;
                }
            }
            now += TIMES.0;
            (0..all.len()).filter(|n| !all[*n].choked).collect()
        };
        (0..count).map(round).collect()
    }

    #[test]
    fn optimistic_slots_go_to_those_who_could_not_give_yet() {
        let now = Instant::now();
        let mut all = applicants(8, now);
        for (n, applicant) in (1..).zip(&mut all[..5]) {
            applicant.gives = n * 100_000;
        }
        let served = rounds(&mut all, (4, 1), 400, now);
        // The fastest three, and one of the other five for 30 s at a time.
        for pair in served.chunks(2) {
            assert!(pair[0].len() == 4 && [2, 3, 4].iter().all(|n| pair[0].contains(n)));
            assert_eq!(pair[0], pair[1]);
        }
        for other in [0, 1, 5, 6, 7] {
            let rounds = served.iter().filter(|round| round.contains(&other)).count();
            assert!((40..130).contains(&rounds), "{other}: {rounds} of 400");
        }
    }

    #[test]
    fn who_gives_no_longer_loses_its_slot() {
        let now = Instant::now();
        let mut all = applicants(6, now);
        for applicant in &mut all[..4] {
            applicant.gives = 100_000;
        }
        all[0].gives = 900_000;
        assert_eq!(rounds(&mut all, (4, 0), 1, now), [[0, 1, 2, 3]]);
        all[0].gives = 0;
        all[5].gives = 50_000;
        assert_eq!(rounds(&mut all, (4, 0), 1, now + TIMES.0), [[1, 2, 3, 5]]);
    }

    #[test]
    fn a_seed_serves_the_fastest_longest_and_everybody_in_turn() {
        let now = Instant::now();
        let mut all = applicants(3, now);
        for (n, applicant) in (1..).zip(&mut all) {
            applicant.takes = n * 100_000;
            applicant.choked = false;
            applicant.since = now - QUANTUM;
        }
        // No peer waits: the fastest keep their slots.
        assert_eq!(rounds(&mut all.clone(), (2, 0), 1, now), [[1, 2]]);
        // One waits: the slower one makes room for it when its minute is over, not before.
        all[0].choked = true;
        all[0].since = now;
        assert_eq!(rounds(&mut all.clone(), (2, 0), 1, now), [[0, 2]]);
        all[1].since = now - QUANTUM / 2;
        all[2].since = now - QUANTUM / 2;
        let served = rounds(&mut all, (2, 0), 40, now);
        assert_eq!(served[0], [1, 2]);
        for n in 0..3 {
            let rounds = served.iter().filter(|round| round.contains(&n)).count();
            assert!(rounds > 20, "{n}: {rounds} of 40");
        }
    }

    #[test]
    fn a_free_slot_goes_to_who_waited_longest() {
        let now = Instant::now();
        let mut all = applicants(3, now);
        all[0].choked = false;
        all[2].since = now - Duration::from_secs(5);
        let key = all[2].key;
        let choker = Choker::default();
        assert_eq!(choker.fill(all.clone(), 2, now), [key]);
        assert!(choker.fill(all, 1, now).is_empty());
    }
}
