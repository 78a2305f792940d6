//! Peer exchange (BEP 11): peers send each other the addresses of their peers.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bittorrent_protocol::wire::{PexFlags, PexMessage, PexPeer};

/// How often a peer is sent changes: at most once a minute (BEP 11).
const EVERY: Duration = Duration::from_secs(60);
/// When the first message is sent: by then most peers have sent their listening port.
const FIRST: Duration = Duration::from_secs(5);
/// Addresses in one list of a message, as BEP 11 bounds it.
const MAX_SENT: usize = 50;
/// Addresses that are read of one message.
const MAX_READ: usize = 200;
/// Messages that arrive sooner after the last one are ignored.
const MIN_INTERVAL: Duration = Duration::from_secs(30);
/// Addresses taken from one connection, ever: one peer must not fill the table of addresses.
const MAX_ACCEPTED: usize = 500;

/// The state of peer exchange on one connection.
#[derive(Debug)]
pub(crate) struct Exchange {
    /// It takes messages.
    pub(crate) supported: bool,
    announced: BTreeSet<SocketAddr>,
    next: Instant,
    last_received: Option<Instant>,
    accepted: usize,
}

impl Exchange {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            supported: false,
            announced: BTreeSet::new(),
            next: now + FIRST,
            last_received: None,
            accepted: 0,
        }
    }

    /// Returns whether a message is due.
    pub(crate) fn is_due(&self, now: Instant) -> bool {
        self.supported && self.next <= now
    }

    /// Returns the changes since the last message; `None` when there are none.
    pub(crate) fn next_message(
        &mut self,
        connected: impl Iterator<Item = (SocketAddr, PexFlags)>,
        now: Instant,
    ) -> Option<PexMessage> {
        self.next = now + EVERY;
        let mut gone = self.announced.clone();
        let mut message = PexMessage::default();
        for (addr, flags) in connected {
            gone.remove(&addr);
            if message.added.len() < MAX_SENT && self.announced.insert(addr) {
                message.added.push(PexPeer { addr, flags });
            }
        }
        message.dropped = gone.into_iter().take(MAX_SENT).collect();
        for addr in &message.dropped {
            self.announced.remove(addr);
        }
        (!message.is_empty()).then_some(message)
    }

    /// Returns the useful addresses of a message, or none if messages arrive too often.
    pub(crate) fn accept(
        &mut self,
        message: &PexMessage,
        is_welcome: impl Fn(&PexPeer) -> bool,
        now: Instant,
    ) -> Vec<SocketAddr> {
        if self
            .last_received
            .is_some_and(|last| last + MIN_INTERVAL > now)
        {
            return Vec::new();
        }
        self.last_received = Some(now);
        let addrs: Vec<_> = message
            .added
            .iter()
            .take(MAX_READ)
            .filter(|peer| is_welcome(peer))
            .map(|peer| peer.addr)
            .take(MAX_ACCEPTED - self.accepted)
            .collect();
        self.accepted += addrs.len();
        addrs
    }
}

#[cfg(test)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test needs some instant to start from"
)]
mod tests {
    use super::*;

    fn addr(n: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], n))
    }

    fn send_counts(
        exchange: &mut Exchange,
        ports: std::ops::Range<u16>,
        now: Instant,
    ) -> (usize, usize) {
        let connected = ports.map(|n| (addr(n), PexFlags::default()));
        exchange
            .next_message(connected, now)
            .map_or((0, 0), |message| {
                (message.added.len(), message.dropped.len())
            })
    }

    #[test]
    fn only_changes_are_told_and_not_too_many_at_once() {
        let mut now = Instant::now();
        let mut exchange = Exchange::new(now);
        assert!(!exchange.is_due(now + FIRST), "it takes none");
        exchange.supported = true;
        assert!(!exchange.is_due(now) && exchange.is_due(now + FIRST));
        let mut sent = Vec::new();
        for ports in [
            1..4,
            1..4,
            3..6,
            1..121,
            1..121,
            1..121,
            1..1,
            1..1,
            1..1,
            1..1,
        ] {
            sent.push(send_counts(&mut exchange, ports, now));
            assert!(!exchange.is_due(now) && exchange.is_due(now + EVERY));
            now += EVERY;
        }
        assert_eq!(
            sent,
            [
                (3, 0),
                (0, 0),
                (2, 2),
                (50, 0),
                (50, 0),
                (17, 0),
                (0, 50),
                (0, 50),
                (0, 20),
                (0, 0)
            ]
        );
    }

    #[test]
    fn what_comes_too_often_or_is_too_much_is_not_heard() {
        let mut now = Instant::now();
        let mut exchange = Exchange::new(now);
        let message = |from: u16| PexMessage {
            added: (from..from + 300)
                .map(|n| PexPeer {
                    addr: addr(n),
                    flags: PexFlags::default(),
                })
                .collect(),
            dropped: Vec::new(),
        };
        let mut accepted = |from, wait: u64| {
            now += Duration::from_secs(wait);
            exchange
                .accept(&message(from), |peer| peer.addr.port() % 2 == 0, now)
                .len()
        };
        assert_eq!(accepted(1, 0), 100);
        assert_eq!(accepted(1_000, 29), 0);
        assert_eq!(accepted(1_000, 1), 100);
        let rest: usize = (0..10).map(|_| accepted(2_000, 60)).sum();
        assert_eq!(rest, 300);
    }
}
