//! Peers that take places and slots and do nothing with them, and hosts that have many addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use bittorrent_engine::{
    Command, Config, Connected, Direction, DisconnectReason, Engine, Link, Output, PeerEvent,
    PeerKey, Refusal, TorrentKey,
};
use bittorrent_protocol::PeerId;

use simulation::{BLOCK, SyntheticTorrent};

const TICK: Duration = Duration::from_millis(500);

/// A seed under a clock of its own.
struct Seed {
    engine: Engine,
    torrents: Vec<TorrentKey>,
    now: Instant,
    next_port: u16,
    unchoked: Vec<PeerKey>,
    closed: Vec<(PeerKey, DisconnectReason)>,
}

impl Seed {
    fn new(config: Config, torrents: u64) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "the virtual clock starts somewhere"
        )]
        let now = Instant::now();
        let mut engine = Engine::new(config, [1; 32]);
        let torrents = (1..=torrents)
            .map(|pieces| {
                let truth = SyntheticTorrent::new(1, &[pieces * BLOCK]).unwrap();
                let key = engine.add_torrent(truth.hashes(), now);
                let content = truth.content(true, |_| true);
                engine.set_content(key, content, now).unwrap();
                key
            })
            .collect();
        Self {
            engine,
            torrents,
            now,
            next_port: 1_024,
            unchoked: Vec::new(),
            closed: Vec::new(),
        }
    }

    fn outputs(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Send { peer, command } => match command {
                    Command::Unchoke => self.unchoked.push(peer),
                    Command::Choke => self.unchoked.retain(|other| *other != peer),
                    _ => {}
                },
                Output::Disconnect { peer, reason } => {
                    self.unchoked.retain(|other| *other != peer);
                    self.closed.push((peer, reason));
                }
                _ => {}
            }
        }
    }

    /// A connection from this address, from a port of its own, by a peer that wants everything.
    fn join(&mut self, torrent: usize, ip: impl Into<IpAddr>) -> Result<PeerKey, Refusal> {
        let mut id = [7; 20];
        id[..2].copy_from_slice(&self.next_port.to_be_bytes());
        self.join_as(torrent, ip, id)
    }

    fn join_as(
        &mut self,
        torrent: usize,
        ip: impl Into<IpAddr>,
        id: [u8; 20],
    ) -> Result<PeerKey, Refusal> {
        self.next_port += 1;
        let connected = Connected {
            addr: SocketAddr::new(ip.into(), self.next_port),
            direction: Direction::Incoming,
            peer_id: PeerId::from_bytes(id),
            fast: true,
            extended: true,
            link: Link::V2,
            local: false,
        };
        let torrent = self.torrents[torrent];
        let may = self.engine.may_accept(torrent, connected.addr, self.now);
        let peer = self.engine.handle_connected(torrent, connected, self.now);
        if let Err(refusal) = may {
            assert_eq!(peer, Err(refusal));
        }
        if let Ok(peer) = peer {
            self.engine
                .handle_event(peer, PeerEvent::Interested, self.now)
                .unwrap();
        }
        self.outputs();
        peer
    }

    /// Lets time pass; these peers ask for blocks whenever they may.
    fn wait(&mut self, time: Duration, asking: &[PeerKey]) {
        let end = self.now + time;
        while self.now < end {
            self.now += TICK;
            for peer in asking.iter().filter(|peer| self.unchoked.contains(peer)) {
                self.engine.handle_upload_requested(*peer, self.now);
            }
            self.engine.handle_timeout(self.now);
            self.outputs();
        }
    }

    fn connections(&self) -> usize {
        let torrents = self.torrents.iter();
        torrents.map(|key| self.engine.peers(*key).len()).sum()
    }
}

fn stranger(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(203, 0, 113, n)
}

fn limits() -> Config {
    Config {
        max_peers_per_host: 4,
        ..Config::default()
    }
}

#[test]
fn a_newcomer_gets_a_place_and_a_slot_among_hosts_that_ask_for_nothing() {
    // Hosts, connections of each, and how long they have been there.
    for (hosts, each, before) in [
        (26, 4, 5),
        (26, 4, 3_600),
        (50, 2, 15),
        (100, 1, 40),
        (200, 1, 600),
    ] {
        let case = format!("{hosts} x {each}, {before} s");
        let mut seed = Seed::new(limits(), 1);
        for n in 0..hosts {
            for _ in 0..each {
                // The last of them find no place.
                let _ = seed.join(0, stranger(n));
            }
        }
        assert_eq!(seed.connections(), 100, "{case}");
        seed.wait(Duration::from_secs(before), &[]);
        let newcomer = seed
            .join(0, [198, 51, 100, 1])
            .unwrap_or_else(|why| panic!("{case}: {why}"));
        assert_eq!(seed.connections(), 100, "{case}");
        assert_eq!(
            seed.closed.last().map(|(_, why)| *why),
            Some(DisconnectReason::Idle)
        );
        seed.wait(4 * TICK, &[newcomer]);
        assert!(seed.unchoked.contains(&newcomer), "{case}");
        // It keeps both, however often the others come back.
        for _ in 0..120 {
            for n in 0..hosts {
                let _ = seed.join(0, stranger(n));
            }
            seed.wait(Duration::from_secs(1), &[newcomer]);
            assert!(seed.unchoked.contains(&newcomer), "{case}");
        }
    }
}

#[test]
fn peers_that_ask_or_wait_for_a_slot_are_not_displaced() {
    let config = Config {
        max_peers_per_torrent: 8,
        unchoke_slots: 4,
        ..limits()
    };
    let mut seed = Seed::new(config, 1);
    let peers: Vec<_> = (0..8).map(|n| seed.join(0, stranger(n)).unwrap()).collect();
    for n in 0..100 {
        seed.wait(Duration::from_secs(1), &peers);
        assert_eq!(seed.join(0, stranger(100 + n)), Err(Refusal::Full));
    }
    // All of them had a slot meanwhile, as none of them wasted one.
    seed.wait(Duration::from_secs(100), &peers);
    assert_eq!(seed.closed, []);
    // One of two connections of a host makes room unless it is in use.
    let mut seed = Seed::new(
        Config {
            max_peers_per_torrent: 4,
            ..limits()
        },
        1,
    );
    let peers: Vec<_> = [1, 1, 2, 2]
        .map(|n| seed.join(0, stranger(n)).unwrap())
        .into();
    seed.wait(Duration::from_secs(5), &peers);
    assert_eq!(seed.join(0, stranger(3)), Err(Refusal::Full));
    seed.wait(Duration::from_secs(3), &peers[1..]);
    seed.join(0, stranger(3)).unwrap();
    assert_eq!(seed.closed, [(peers[0], DisconnectReason::Idle)]);
}

#[test]
fn idle_peers_of_one_torrent_make_room_for_another() {
    let config = Config {
        max_peers: 20,
        max_peers_per_torrent: 10,
        ..limits()
    };
    let mut seed = Seed::new(config, 3);
    for torrent in 0..2 {
        for n in 0..10 {
            seed.join(torrent, stranger(n)).unwrap();
        }
    }
    assert_eq!(seed.join(2, stranger(99)), Err(Refusal::Full));
    seed.wait(Duration::from_secs(30), &[]);
    seed.join(2, stranger(99)).unwrap();
    assert_eq!(seed.connections(), 20);
}

#[test]
fn slots_of_peers_that_ask_for_nothing_are_taken_only_when_others_wait() {
    let config = Config {
        unchoke_slots: 2,
        optimistic_slots: 0,
        ..limits()
    };
    let mut seed = Seed::new(config, 1);
    let idle: Vec<_> = (1..=2)
        .map(|n| seed.join(0, stranger(n)).unwrap())
        .collect();
    seed.wait(Duration::from_secs(20), &[]);
    assert_eq!(seed.unchoked, idle);
    let third = seed.join(0, stranger(3)).unwrap();
    seed.wait(2 * TICK, &[third]);
    assert!(seed.unchoked.contains(&third));
    assert_eq!(seed.unchoked.len(), 2);
    // A peer that requests again is treated like the others.
    let kept = if seed.unchoked.contains(&idle[0]) {
        idle[0]
    } else {
        idle[1]
    };
    seed.wait(Duration::from_secs(5), &[third, kept]);
    let fourth = seed.join(0, stranger(4)).unwrap();
    seed.wait(Duration::from_secs(10), &[third, kept, fourth]);
    assert!(!seed.unchoked.contains(&fourth), "both are in use");
}

/// Anyone can read a peer's id and connect under it.
#[test]
fn a_copied_peer_id_neither_keeps_a_peer_out_nor_closes_its_connection() {
    let own = PeerId::from_bytes([7; 20]);
    for id in [[1; 20], [250; 20]] {
        for direction in [Direction::Incoming, Direction::Outgoing] {
            let config = Config {
                peer_id: Some(own),
                ..limits()
            };
            let mut seed = Seed::new(config, 1);
            let honest = Connected {
                addr: SocketAddr::from(([198, 51, 100, 2], 6_881)),
                direction,
                peer_id: PeerId::from_bytes(id),
                fast: true,
                extended: true,
                link: Link::V2,
                local: false,
            };
            let torrent = seed.torrents[0];
            // The copy comes first, or second; it prevents nothing.
            seed.join_as(0, stranger(1), id).unwrap();
            let peer = seed.engine.handle_connected(torrent, honest, seed.now);
            assert!(peer.is_ok(), "{peer:?}");
            seed.join_as(0, stranger(2), id).unwrap();
            assert_eq!(seed.closed, []);
            assert_eq!(seed.connections(), 3);
            // From one host it is the same peer.
            assert_eq!(seed.join_as(0, stranger(2), id), Err(Refusal::Duplicate));
        }
    }
}

#[test]
fn addresses_of_one_network_are_one_host() {
    let config = Config {
        max_peers_per_torrent: 20,
        ..limits()
    };
    let mut seed = Seed::new(config, 1);
    let address = |network: u16, n: u16| Ipv6Addr::new(0x2001, 0xdb8, 0, network, 0, 0, 0, n);
    for n in 0..4 {
        seed.join(0, address(1, n)).unwrap();
    }
    assert_eq!(seed.join(0, address(1, 99)), Err(Refusal::Crowded));
    seed.join(0, address(2, 1)).unwrap();
    // An id that another address of the network has already.
    seed.join_as(0, address(3, 1), [9; 20]).unwrap();
    assert_eq!(
        seed.join_as(0, address(3, 2), [9; 20]),
        Err(Refusal::Duplicate)
    );
}
