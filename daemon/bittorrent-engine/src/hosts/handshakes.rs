//! Limits on the handshakes of incoming connections.
//!
//! A peer that connects takes a slot until its handshake ends, and may stay silent until the time-out. So no
//! connection waits for a slot: when a host has used up its slots, or all slots are taken, one handshake is
//! closed for the new connection. Honest peers send their handshake at once and free their slot within a
//! round trip or two.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::api::addresses::Host;

/// Most slots of one host, this machine apart.
const MOST_PER_HOST: usize = 8;
/// Encrypted handshakes that one host may begin at once; each costs a key exchange, about 0.2 ms of a
/// processor.
const ENCRYPTED_AT_ONCE: u32 = 16;
/// How long it takes until one host may begin one more.
const ENCRYPTED_EVERY: Duration = Duration::from_millis(500);
/// How many hosts are remembered that began encrypted handshakes lately, about 60 bytes each.
const MOST_HOSTS: usize = 4_096;

/// Names one handshake; never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HandshakeKey(u64);

/// How far a handshake is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum HandshakeStage {
    /// The peer has not named a torrent of ours.
    Silent,
    /// The peer has named a torrent of ours.
    Named,
}

#[derive(Debug, Clone, Copy)]
struct Handshake {
    host: Host,
    stage: HandshakeStage,
}

/// The slots for incoming handshakes.
///
/// ```
/// # use std::net::IpAddr;
/// # use bittorrent_engine::Handshakes;
/// let mut handshakes = Handshakes::new(1);
/// let (first, closed) = handshakes.begin(IpAddr::from([192, 0, 2, 1]));
/// assert_eq!(closed, None);
/// let (_, closed) = handshakes.begin(IpAddr::from([192, 0, 2, 2]));
/// assert_eq!(closed, Some(first));
/// ```
#[derive(Debug)]
pub struct Handshakes {
    most: usize,
    next: u64,
    /// By key, so the oldest are first.
    under_way: BTreeMap<HandshakeKey, Handshake>,
    encrypted: EncryptedRate,
}

impl Handshakes {
    /// Creates so many slots, at least one.
    pub fn new(most: usize) -> Self {
        Self {
            most: most.max(1),
            next: 0,
            under_way: BTreeMap::new(),
            encrypted: EncryptedRate::default(),
        }
    }

    /// Assigns a slot to a peer that connected. Returns its handshake, and the one to close for it, if any:
    /// of the same host when that has all of its slots, of the host with most slots when all are taken.
    /// Of those, the oldest one that has not named a torrent of ours; else the oldest.
    pub fn begin(&mut self, ip: IpAddr) -> (HandshakeKey, Option<HandshakeKey>) {
        let host = Host::of(ip);
        let closed = self.to_close(host);
        if let Some(key) = closed {
            self.end(key);
        }
        let key = HandshakeKey(self.next);
        self.next += 1;
        let stage = HandshakeStage::Silent;
        self.under_way.insert(key, Handshake { host, stage });
        (key, closed)
    }

    /// Returns whether a handshake has its slot still.
    pub fn is_under_way(&self, key: HandshakeKey) -> bool {
        self.under_way.contains_key(&key)
    }

    /// Records that the peer named a torrent of ours.
    pub fn named(&mut self, key: HandshakeKey) {
        if let Some(handshake) = self.under_way.get_mut(&key) {
            handshake.stage = HandshakeStage::Named;
        }
    }

    /// Frees the slot of a handshake that has ended.
    pub fn end(&mut self, key: HandshakeKey) {
        self.under_way.remove(&key);
    }

    /// Returns whether the host of this address may begin one more encrypted handshake now, which then counts.
    pub fn may_encrypt(&mut self, ip: IpAddr, now: Instant) -> bool {
        let host = Host::of(ip);
        !host.is_bounded() || self.encrypted.take(host, now)
    }

    fn to_close(&self, newcomer: Host) -> Option<HandshakeKey> {
        let crowd = self.of(newcomer).count();
        if newcomer.is_bounded() && crowd >= MOST_PER_HOST {
            return oldest(self.of(newcomer));
        }
        if self.under_way.len() < self.most {
            return None;
        }
        let mut crowds: BTreeMap<Host, usize> = BTreeMap::new();
        for handshake in self.under_way.values().filter(|one| one.host.is_bounded()) {
            *crowds.entry(handshake.host).or_default() += 1;
        }
        // Many behind a proxy on this machine count as hosts of their own.
        let crowd = |handshake: &Handshake| crowds.get(&handshake.host).copied().unwrap_or(1);
        let most = self.under_way.values().map(crowd).max()?;
        let all = self.under_way.iter();
        oldest(all.filter(|(_, handshake)| crowd(handshake) == most))
    }

    fn of(&self, host: Host) -> impl Iterator<Item = (&HandshakeKey, &Handshake)> {
        self.under_way
            .iter()
            .filter(move |(_, one)| one.host == host)
    }
}

/// The oldest handshake, silent ones first.
fn oldest<'a>(
    handshakes: impl Iterator<Item = (&'a HandshakeKey, &'a Handshake)>,
) -> Option<HandshakeKey> {
    let order = |(key, handshake): &(&HandshakeKey, &Handshake)| (handshake.stage, **key);
    handshakes.min_by_key(order).map(|(key, _)| *key)
}

/// Counts the encrypted handshakes of each host.
#[derive(Debug, Default)]
struct EncryptedRate {
    /// When a host will have its whole allowance again.
    whole_at: BTreeMap<Host, Instant>,
    /// Hosts in the order of their first handshake.
    order: VecDeque<Host>,
}

impl EncryptedRate {
    fn take(&mut self, host: Host, now: Instant) -> bool {
        let whole_at = self.whole_at.get(&host).copied();
        let from = whole_at.map_or(now, |at| at.max(now));
        let until = from + ENCRYPTED_EVERY;
        if until > now + ENCRYPTED_EVERY * ENCRYPTED_AT_ONCE {
            return false;
        }
        if self.whole_at.insert(host, until).is_none() {
            self.order.push_back(host);
        }
        self.forget(now);
        true
    }

    /// Forgets hosts that have their whole allowance, and the one that came first when there are too
    /// many.
    fn forget(&mut self, now: Instant) {
        while let Some(first) = self.order.front().copied() {
            let spent = self.whole_at.get(&first).is_some_and(|at| *at > now);
            if spent && self.order.len() <= MOST_HOSTS {
                return;
            }
            self.order.pop_front();
            self.whole_at.remove(&first);
        }
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to start from"
)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_host_takes_its_own_slots_only() {
        for (host, other, most) in [
            ("192.0.2.1", "192.0.2.2", MOST_PER_HOST),
            ("::ffff:192.0.2.1", "192.0.2.2", MOST_PER_HOST),
            ("2001:db8::1", "2001:db8:0:1::1", MOST_PER_HOST),
            // This machine may take all, and still makes room.
            ("127.0.0.1", "192.0.2.2", 64),
        ] {
            let mut handshakes = Handshakes::new(64);
            let honest = handshakes.begin(ip(other)).0;
            let mut keys = Vec::new();
            let mut closed = Vec::new();
            for _ in 0..400 {
                let (key, old) = handshakes.begin(ip(host));
                keys.push(key);
                closed.extend(old);
            }
            if most == MOST_PER_HOST {
                assert_eq!(closed, keys[..400 - most], "{host}: its oldest, one by one");
                assert!(handshakes.under_way.contains_key(&honest), "{host}");
                assert_eq!(handshakes.begin(ip(other)).1, None);
            } else {
                assert_eq!(handshakes.under_way.len(), most, "{host}");
            }
        }
    }

    #[test]
    fn addresses_of_one_network_share_their_slots() {
        let mut handshakes = Handshakes::new(64);
        for n in 0..MOST_PER_HOST {
            assert_eq!(handshakes.begin(ip(&format!("2001:db8::{n}"))).1, None);
        }
        assert!(handshakes.begin(ip("2001:db8::ffff")).1.is_some());
        assert_eq!(handshakes.under_way.len(), MOST_PER_HOST);
    }

    #[test]
    fn when_all_slots_are_taken_the_oldest_silent_one_of_the_greatest_crowd_is_closed() {
        let mut handshakes = Handshakes::new(6);
        let alone = handshakes.begin(ip("192.0.2.1")).0;
        let crowd: Vec<_> = (0..3)
            .map(|_| handshakes.begin(ip("192.0.2.2")).0)
            .collect();
        let pair: Vec<_> = (0..2)
            .map(|_| handshakes.begin(ip("192.0.2.3")).0)
            .collect();
        handshakes.named(crowd[0]);
        // The oldest of three named a torrent; then there are two crowds of two, and the second
        // newcomer closes the oldest silent one of both.
        assert_eq!(handshakes.begin(ip("192.0.2.4")).1, Some(crowd[1]));
        assert_eq!(handshakes.begin(ip("192.0.2.5")).1, Some(crowd[2]));
        assert_eq!(handshakes.begin(ip("192.0.2.6")).1, Some(pair[0]));
        // One slot each: the oldest silent one goes, then the oldest that is left.
        assert_eq!(handshakes.begin(ip("192.0.2.7")).1, Some(alone));
        handshakes.end(pair[1]);
        assert_eq!(handshakes.begin(ip("192.0.2.8")).1, None);
        let left: Vec<_> = handshakes.under_way.keys().copied().collect();
        for key in left {
            handshakes.named(key);
        }
        assert_eq!(handshakes.begin(ip("192.0.2.9")).1, Some(crowd[0]));
    }

    #[test]
    fn encrypted_handshakes_of_one_host_are_bounded_and_come_back_with_time() {
        let now = Instant::now();
        let mut handshakes = Handshakes::new(64);
        let mut begun = |from: &str, now| {
            (0..1_000)
                .filter(|_| handshakes.may_encrypt(ip(from), now))
                .count() as u32
        };
        assert_eq!(begun("192.0.2.1", now), ENCRYPTED_AT_ONCE);
        assert_eq!(begun("2001:db8::1", now), ENCRYPTED_AT_ONCE);
        assert_eq!(begun("2001:db8::2", now), 0, "the same network");
        assert_eq!(begun("127.0.0.1", now), 1_000);
        assert_eq!(begun("192.0.2.1", now + ENCRYPTED_EVERY * 3), 3);
        let later = now + ENCRYPTED_EVERY * 100;
        assert_eq!(begun("192.0.2.1", later), ENCRYPTED_AT_ONCE);
    }

    #[test]
    fn the_memory_of_encrypted_handshakes_is_bounded() {
        let now = Instant::now();
        let mut rate = EncryptedRate::default();
        for n in 0..MOST_HOSTS as u32 + 100 {
            assert!(rate.take(Host::of(IpAddr::from(n.to_be_bytes())), now));
        }
        assert_eq!(rate.order.len(), MOST_HOSTS);
        assert_eq!(rate.whole_at.len(), MOST_HOSTS);
        assert!(rate.take(Host::of(ip("192.0.2.1")), now + ENCRYPTED_EVERY * 2));
        assert_eq!(
            rate.order.len(),
            1,
            "a host with its whole allowance is forgotten"
        );
    }
}
