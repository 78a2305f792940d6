//! Finds out whether peers outside this network can connect to the mirror.
//!
//! Only an incoming connection proves that. The lack of one is evidence only while outside peers know our address. So time counts only while the
//! torrent is announced and outgoing connections to outside peers exist: the clients of such peers try the addresses that they learn.

use std::time::{Duration, Instant};

use super::Reachable;
use crate::text::Time;

/// How long an incoming connection counts as proof.
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

/// After this time with outside peers and without an incoming connection the mirror counts as unreachable.
const PATIENCE: Duration = Duration::from_secs(2 * 3600);

/// The socket on which the mirror accepts peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PeerListener {
    /// The port that is announced.
    pub(super) port: u16,
    /// Whether the socket is bound to loopback.
    pub(super) only_here: bool,
}

/// One observation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Observation {
    /// There is an incoming connection from an outside peer.
    pub(super) came: bool,
    /// There is an outgoing connection to an outside peer.
    pub(super) met: bool,
    /// Other peers can learn our address from the DHT.
    pub(super) announced: bool,
}

/// The evidence from all observations.
#[derive(Debug, Clone, Default)]
pub(super) struct Reachability {
    /// When there was last an incoming connection from an outside peer.
    came: Option<Instant>,
    /// The time since `came` with outgoing connections to outside peers while announced.
    among_peers: Duration,
    looked: Option<Instant>,
}

impl Reachability {
    /// Records an observation.
    pub(super) fn look(&mut self, now: Instant, seen: Observation) {
        let before = self.looked.replace(now).unwrap_or(now);
        if seen.came {
            self.came = Some(now);
            self.among_peers = Duration::ZERO;
        } else if seen.met && seen.announced {
            self.among_peers += now.saturating_duration_since(before);
        }
    }

    /// Returns the verdict, with its reason for people.
    pub(super) fn verdict(
        &self,
        now: Instant,
        home: PeerListener,
        public_address: Option<&str>,
    ) -> (Reachable, String) {
        let since = self.came.map(|came| now.saturating_duration_since(came));
        if let Some(since) = since.filter(|since| *since <= REMEMBERED) {
            let text = match since.as_secs() {
                0..5 => "a peer outside this network is connected to us".to_owned(),
                _ => format!(
                    "a peer outside this network was connected to us {} ago",
                    Time(since)
                ),
            };
            return (Reachable::Yes, text);
        }
        if home.only_here {
            let text = "peers are accepted from this machine only, see peer.listen";
            return (Reachable::No, text.to_owned());
        }
        let among = Time(self.among_peers);
        if self.among_peers >= PATIENCE {
            let mut text = format!(
                "no peer outside this network connected to us in {among}: open TCP port {} in the \
                 firewall, and forward it on the router",
                home.port
            );
            if let Some(address) = public_address {
                text.push_str(&format!("; our address in the DHT is {address}"));
            }
            return (Reachable::No, text);
        }
        let text = if self.among_peers.is_zero() {
            "no connection to a peer outside this network yet".to_owned()
        } else {
            format!(
                "no peer outside this network connected to us in {among}; undecided until {}",
                Time(PATIENCE)
            )
        };
        (Reachable::Unknown, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: PeerListener = PeerListener {
        port: 6881,
        only_here: false,
    };
    const MINUTE: Duration = Duration::from_secs(60);

    /// Records an observation for each minute of the range.
    fn looks(
        reach: &mut Reachability,
        start: Instant,
        minutes: std::ops::Range<u32>,
        seen: Observation,
    ) {
        for minute in minutes {
            reach.look(start + MINUTE * minute, seen);
        }
    }

    #[test]
    fn only_what_came_shows_that_it_can() {
        let start = Instant::now();
        let at = |minute| start + MINUTE * minute;
        let says =
            |reach: &Reachability, minute| reach.verdict(at(minute), HOME, Some("192.0.2.1:6882"));
        let alone = Observation {
            announced: true,
            ..Observation::default()
        };
        let met = Observation { met: true, ..alone };
        let came = Observation { came: true, ..met };
        let mut reach = Reachability::default();

        // Time without peers is no evidence, nor is time with peers that do not know our address.
        looks(&mut reach, start, 0..300, alone);
        looks(
            &mut reach,
            start,
            300..600,
            Observation {
                announced: false,
                ..met
            },
        );
        let (reachable, why) = says(&reach, 600);
        assert_eq!(reachable, Reachable::Unknown);
        assert!(why.contains("no connection to a peer outside"), "{why}");

        looks(&mut reach, start, 600..700, met);
        let (reachable, why) = says(&reach, 700);
        assert_eq!(reachable, Reachable::Unknown);
        assert!(why.contains("in 1 h 40 min"), "{why}");

        looks(&mut reach, start, 700..721, met);
        let (reachable, why) = says(&reach, 721);
        assert_eq!(reachable, Reachable::No);
        for part in ["port 6881", "192.0.2.1:6882", "2 h 1 min"] {
            assert!(why.contains(part), "{why}");
        }

        looks(&mut reach, start, 721..722, came);
        assert_eq!(says(&reach, 721).0, Reachable::Yes);
        assert!(says(&reach, 724).1.contains("3 min 0 s ago"));
        assert_eq!(says(&reach, 721 + 24 * 60).0, Reachable::Yes);

        // After a day the proof has expired, and the time with peers starts from zero.
        let later = 722 + 24 * 60;
        assert_eq!(says(&reach, later).0, Reachable::Unknown);
        looks(&mut reach, start, later..later + 1, alone);
        looks(&mut reach, start, later + 1..later + 122, met);
        assert_eq!(says(&reach, later + 122).0, Reachable::No);
    }

    #[test]
    fn who_listens_here_only_is_not_reached() {
        let home = PeerListener {
            only_here: true,
            ..HOME
        };
        let (reachable, why) = Reachability::default().verdict(Instant::now(), home, None);
        assert_eq!(reachable, Reachable::No);
        assert!(why.contains("peer.listen"), "{why}");
    }
}
