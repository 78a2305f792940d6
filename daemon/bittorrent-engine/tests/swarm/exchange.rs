//! Peers that hear of each other from peers.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bittorrent_engine::{
    Command, Config, Connected, Direction, Engine, Link, Output, PeerEvent, PeerKey, TorrentKey,
};
use bittorrent_protocol::PeerId;
use bittorrent_protocol::wire::{ExtendedHandshake, PexFlags, PexMessage, PexPeer};

use crate::node::Habits;
use crate::world::World;
use simulation::{BLOCK, SyntheticTorrent};

/// Leeches that know no peer but a slow seed.
fn star(exchanges: bool) -> Duration {
    let torrent = SyntheticTorrent::new(16, &[2_000 * BLOCK]).unwrap();
    let mut world = World::new(5);
    let habits = Habits {
        exchanges,
        upload_rate: 1_000_000,
        ..Habits::default()
    };
    let seed = world.add_seed(&torrent, habits.clone());
    let leeches: Vec<_> = (0..5)
        .map(|_| world.add_leech(&torrent, habits.clone()))
        .collect();
    for leech in &leeches {
        world.introduce(*leech, seed);
    }
    world.run_until_complete(&leeches, Duration::from_secs(600))
}

#[test]
fn a_swarm_around_one_seed_becomes_a_swarm_of_all() {
    // 32 MB at 1 MB/s: 160 s when all come from the seed.
    let (alone, together) = (star(false), star(true));
    assert!(alone > Duration::from_secs(150), "{alone:?}");
    assert!(together < Duration::from_secs(80), "{together:?}");
}

struct Fixture {
    engine: Engine,
    torrent: TorrentKey,
    now: Instant,
    peers: u8,
}

impl Fixture {
    fn new(has: bool) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "the virtual clock starts somewhere"
        )]
        let now = Instant::now();
        let truth = SyntheticTorrent::new(1, &[10 * BLOCK]).unwrap();
        let mut engine = Engine::new(Config::default(), [1; 32]);
        let torrent = engine.add_torrent(truth.hashes(), now);
        let content = truth.content(true, |_| has);
        engine.set_content(torrent, content, now).unwrap();
        Self {
            engine,
            torrent,
            now,
            peers: 0,
        }
    }

    fn connect(&mut self, addr: &str, direction: Direction, port: Option<u16>) -> PeerKey {
        self.peers += 1;
        let connected = Connected {
            addr: addr.parse().unwrap(),
            direction,
            peer_id: PeerId::from_bytes([self.peers; 20]),
            fast: true,
            extended: true,
            link: Link::V2,
            local: false,
        };
        let peer = self
            .engine
            .handle_connected(self.torrent, connected, self.now)
            .unwrap();
        let handshake = ExtendedHandshake {
            ut_pex: Some(1),
            port,
            ..ExtendedHandshake::default()
        };
        self.engine
            .handle_event(peer, PeerEvent::Extensions(handshake), self.now)
            .unwrap();
        peer
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.engine.poll_output()).collect()
    }

    fn messages_after(&mut self, seconds: u64) -> Vec<(PeerKey, PexMessage)> {
        self.now += Duration::from_secs(seconds);
        self.engine.handle_timeout(self.now);
        self.outputs()
            .into_iter()
            .filter_map(|output| match output {
                Output::Send {
                    peer,
                    command: Command::Exchange(message),
                } => Some((peer, message)),
                _ => None,
            })
            .collect()
    }

    fn hear(&mut self, from: PeerKey, addrs: &[&str], seed: bool) -> Vec<SocketAddr> {
        let added = addrs.iter().map(|addr| PexPeer {
            addr: addr.parse().unwrap(),
            flags: PexFlags {
                seed,
                reachable: false,
            },
        });
        let message = PexMessage {
            added: added.collect(),
            dropped: Vec::new(),
        };
        self.engine
            .handle_event(from, PeerEvent::Exchange(message), self.now)
            .unwrap();
        let dials = self
            .outputs()
            .into_iter()
            .filter_map(|output| match output {
                Output::Dial { addr, .. } => Some(addr),
                _ => None,
            });
        dials.collect()
    }
}

#[test]
fn peers_hear_of_those_that_can_be_reached_once_and_when_they_go() {
    let mut f = Fixture::new(false);
    let dialled = f.connect("203.0.113.1:6881", Direction::Outgoing, None);
    let with_port = f.connect("203.0.113.2:50000", Direction::Incoming, Some(6882));
    let silent = f.connect("203.0.113.3:50000", Direction::Incoming, None);
    let near = f.connect("192.168.0.4:6884", Direction::Outgoing, None);
    let messages = f.messages_after(6);
    let addr = |text: &str| text.parse::<SocketAddr>().unwrap();
    let expected = [
        (dialled, vec!["203.0.113.2:6882"]),
        (with_port, vec!["203.0.113.1:6881"]),
        (silent, vec!["203.0.113.1:6881", "203.0.113.2:6882"]),
        (near, vec!["203.0.113.1:6881", "203.0.113.2:6882"]),
    ];
    assert_eq!(messages.len(), expected.len());
    for ((peer, message), (expected, addrs)) in messages.iter().zip(&expected) {
        assert_eq!(peer, expected);
        let received: Vec<_> = message.added.iter().map(|peer| peer.addr).collect();
        assert_eq!(
            received,
            addrs.iter().map(|text| addr(text)).collect::<Vec<_>>()
        );
        for peer in &message.added {
            assert_eq!(peer.flags.reachable, peer.addr == addr("203.0.113.1:6881"));
        }
        assert!(message.dropped.is_empty());
    }
    assert!(f.messages_after(30).is_empty());
    f.engine.handle_disconnected(with_port, f.now);
    let messages = f.messages_after(40);
    assert_eq!(messages.len(), 3);
    for (_, message) in messages {
        assert!(message.added.is_empty());
        assert_eq!(message.dropped, [addr("203.0.113.2:6882")]);
    }
}

#[test]
fn what_peers_name_is_dialled_unless_it_is_of_no_use_or_a_trap() {
    let named = [
        "203.0.113.9:1",
        "127.0.0.1:2",
        "10.0.0.1:3",
        "203.0.113.8:0",
    ];
    for (from, has, seed, dialled) in [
        ("203.0.113.1:6881", false, false, &["203.0.113.9:1"][..]),
        ("203.0.113.1:6881", true, false, &["203.0.113.9:1"]),
        ("203.0.113.1:6881", true, true, &[]),
        (
            "10.0.0.2:6881",
            false,
            false,
            &["10.0.0.1:3", "203.0.113.9:1"],
        ),
        (
            "127.0.0.1:6881",
            false,
            true,
            &["10.0.0.1:3", "127.0.0.1:2", "203.0.113.9:1"],
        ),
    ] {
        let mut f = Fixture::new(has);
        let peer = f.connect(from, Direction::Outgoing, None);
        let mut dials = f.hear(peer, &named, seed);
        dials.sort();
        let expected: Vec<SocketAddr> = dialled.iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(dials, expected, "{from}");
        assert!(
            f.hear(peer, &["203.0.113.7:1"], false).is_empty(),
            "too soon"
        );
    }
}
