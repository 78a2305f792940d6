//! Who is dialled, who is accepted, and who has to go.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bittorrent_engine::{
    Command, Config, Connected, ConnectionLimits, DialFailure, Direction, DisconnectReason, Engine,
    Link, Output, PeerEvent, PeerKey, Refusal, Scope, Source, TorrentKey,
};
use bittorrent_protocol::PeerId;
use bittorrent_protocol::wire::ExtendedHandshake;

use simulation::{BLOCK, SyntheticTorrent};

use crate::node::Habits;
use crate::world::World;

fn addr(n: u16) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 1], n))
}

struct Fixture {
    engine: Engine,
    torrent: TorrentKey,
    now: Instant,
}

impl Fixture {
    /// A torrent of 10 pieces, of which the first `has` are here.
    fn new(config: Config, has: u32) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "the virtual clock starts somewhere"
        )]
        let now = Instant::now();
        let truth = SyntheticTorrent::new(1, &[10 * BLOCK]).unwrap();
        let mut engine = Engine::new(config, [1; 32]);
        let torrent = engine.add_torrent(truth.hashes(), now);
        let content = truth.content(true, |block| block.piece().get() < has);
        engine.set_content(torrent, content, now).unwrap();
        Self {
            engine,
            torrent,
            now,
        }
    }

    fn add(&mut self, ports: impl IntoIterator<Item = u16>) {
        let addrs: Vec<_> = ports.into_iter().map(addr).collect();
        self.engine.add_candidates(
            self.torrent,
            &addrs,
            Source::Tracker,
            Scope::Machine,
            self.now,
        );
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.engine.poll_output()).collect()
    }

    fn dials(&mut self) -> Vec<u16> {
        self.outputs()
            .into_iter()
            .filter_map(|output| match output {
                Output::Dial { addr, .. } => Some(addr.port()),
                _ => None,
            })
            .collect()
    }

    fn connect(&mut self, n: u16, direction: Direction) -> Result<PeerKey, Refusal> {
        let connected = Connected {
            addr: addr(n),
            direction,
            peer_id: PeerId::from_bytes([n as u8; 20]),
            fast: true,
            extended: true,
            link: Link::V2,
            local: false,
        };
        self.engine
            .handle_connected(self.torrent, connected, self.now)
    }

    fn fail(&mut self, n: u16) {
        let failure = DialFailure::Unreachable;
        self.engine
            .handle_dial_failed(self.torrent, addr(n), failure, self.now);
    }

    fn wait(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
        self.engine.handle_timeout(self.now);
    }

    fn dialling(&self) -> usize {
        self.engine.status(self.torrent).unwrap().dialling
    }
}

#[test]
fn no_more_dials_are_under_way_than_allowed() {
    let config = Config {
        max_half_open: 4,
        max_peers_per_torrent: 6,
        ..Config::default()
    };
    let mut f = Fixture::new(config, 0);
    f.add(1..=20);
    assert_eq!(f.dials(), [1, 2, 3, 4]);
    assert!(f.dials().is_empty());
    // One fails, one leads to a connection: two more.
    f.fail(1);
    f.connect(2, Direction::Outgoing).unwrap();
    assert_eq!(f.dials(), [5, 6]);
    for n in 3..=5 {
        f.connect(n, Direction::Outgoing).unwrap();
        f.dials();
    }
    assert_eq!(f.dialling(), 2);
    assert_eq!(f.engine.peers(f.torrent).len() + f.dialling(), 6);
    // Everything fails; each address waits before it is tried again, and none is forgotten.
    for n in 6..=20 {
        f.fail(n);
        f.dials();
    }
    f.fail(1);
    assert_eq!(f.dialling(), 0);
    f.engine.handle_timeout(f.now);
    let next = f.engine.poll_timeout().unwrap();
    assert!(next > f.now && next <= f.now + Duration::from_secs(1));
    f.wait(30);
    assert_eq!(f.dials().len(), 2);
}

#[test]
fn a_removed_torrent_gives_back_its_dials() {
    let config = Config {
        max_half_open: 2,
        ..Config::default()
    };
    let mut f = Fixture::new(config, 0);
    f.add([1, 2]);
    assert_eq!(f.dials(), [1, 2]);
    let truth = SyntheticTorrent::new(1, &[BLOCK]).unwrap();
    let other = f.engine.add_torrent(truth.hashes(), f.now);
    f.engine
        .add_candidates(other, &[addr(9)], Source::Static, Scope::Machine, f.now);
    assert!(f.dials().is_empty());
    f.engine.remove_torrent(f.torrent, f.now);
    assert_eq!(f.dials(), [9]);
    f.engine
        .handle_dial_failed(f.torrent, addr(1), DialFailure::Refused, f.now);
    assert_eq!(f.connect(2, Direction::Outgoing), Err(Refusal::NoTorrent));
}

#[test]
fn our_own_address_is_never_dialled_again() {
    let config = Config {
        peer_id: Some(PeerId::from_bytes([7; 20])),
        ..Config::default()
    };
    let mut f = Fixture::new(config, 0);
    f.engine.add_own_address(addr(8));
    f.add([7, 8]);
    assert_eq!(f.dials(), [7]);
    assert_eq!(f.connect(7, Direction::Outgoing), Err(Refusal::Ourselves));
    f.wait(100_000);
    assert!(f.dials().is_empty());
    assert_eq!(f.dialling(), 0);
}

#[test]
fn second_connections_and_too_many_are_refused() {
    let config = Config {
        max_peers: 2,
        ..Config::default()
    };
    let mut f = Fixture::new(config, 0);
    f.connect(1, Direction::Incoming).unwrap();
    assert_eq!(f.connect(1, Direction::Incoming), Err(Refusal::Duplicate));
    let second = f.connect(2, Direction::Incoming).unwrap();
    let accept = f.engine.may_accept(f.torrent, addr(3), f.now);
    assert_eq!(accept, Err(Refusal::Full));
    assert_eq!(f.connect(3, Direction::Incoming), Err(Refusal::Full));
    f.engine.handle_disconnected(second, f.now);
    f.connect(3, Direction::Incoming).unwrap();
    // One that wants nothing and has nothing for minutes makes room.
    f.wait(130);
    f.outputs();
    f.connect(4, Direction::Incoming).unwrap();
    assert!(f.outputs().iter().any(|output| matches!(
        output,
        Output::Disconnect {
            reason: DisconnectReason::Idle,
            ..
        }
    )));
    assert_eq!(f.engine.peers(f.torrent).len(), 2);
}

#[test]
fn a_peer_that_dialled_us_is_not_dialled_back() {
    let mut f = Fixture::new(Config::default(), 0);
    let peer = f.connect(50_000, Direction::Incoming).unwrap();
    let handshake = ExtendedHandshake {
        port: Some(6_881),
        ..ExtendedHandshake::default()
    };
    f.engine
        .handle_event(peer, PeerEvent::Extensions(handshake), f.now)
        .unwrap();
    f.add([6_881]);
    assert!(f.dials().is_empty());
    f.engine.handle_disconnected(peer, f.now);
    f.wait(20);
    assert_eq!(f.dials(), [6_881]);
}

#[test]
fn a_seed_keeps_no_seeds_and_does_not_come_back_to_them() {
    let mut f = Fixture::new(Config::default(), 10);
    f.add([1, 2]);
    assert_eq!(f.dials(), [1, 2]);
    for (n, says) in [
        (1, PeerEvent::HaveAll),
        (
            2,
            PeerEvent::Extensions(ExtendedHandshake {
                upload_only: Some(true),
                ..ExtendedHandshake::default()
            }),
        ),
    ] {
        let peer = f.connect(n, Direction::Outgoing).unwrap();
        f.engine.handle_event(peer, says, f.now).unwrap();
        let outputs = f.outputs();
        assert!(outputs.contains(&Output::Send {
            peer,
            command: Command::HaveAll
        }));
        assert!(outputs.contains(&Output::Disconnect {
            peer,
            reason: DisconnectReason::Redundant
        }));
    }
    f.wait(100_000);
    assert!(f.dials().is_empty());
    assert_eq!(f.engine.poll_timeout(), None);
}

#[test]
fn what_we_have_is_said_first_and_as_the_peer_understands_it() {
    for (has, fast, expected) in [
        (0, true, Some(Command::HaveNone)),
        (0, false, None),
        (3, true, Some(Command::Bitfield(vec![0b1110_0000, 0]))),
        (3, false, Some(Command::Bitfield(vec![0b1110_0000, 0]))),
        (10, true, Some(Command::HaveAll)),
        (10, false, Some(Command::Bitfield(vec![0xff, 0b1100_0000]))),
    ] {
        let mut f = Fixture::new(Config::default(), has);
        let connected = Connected {
            addr: addr(1),
            direction: Direction::Incoming,
            peer_id: PeerId::from_bytes([1; 20]),
            fast,
            extended: false,
            link: Link::V1,
            local: true,
        };
        f.engine
            .handle_connected(f.torrent, connected, f.now)
            .unwrap();
        let mut commands = f.outputs().into_iter().filter_map(|output| match output {
            Output::Send { command, .. } => Some(command),
            _ => None,
        });
        if expected.is_some() {
            assert_eq!(commands.next(), expected, "{has} {fast}");
        }
        // A local peer needs no slot, once there is something to serve.
        assert_eq!(commands.next(), (has > 0).then_some(Command::Unchoke));
    }
}

#[test]
fn interest_ends_when_nothing_is_to_be_asked_for_long() {
    // Without piece layers and without room for unproven pieces, nothing can be requested.
    let truth = SyntheticTorrent::new(1, &[10 * BLOCK]).unwrap();
    let config = Config {
        max_unproven_blocks: 0,
        ..Config::default()
    };
    let mut f = Fixture::new(config, 0);
    let torrent = f.engine.add_torrent(truth.hashes(), f.now);
    let content = truth.content(false, |_| false);
    f.engine.set_content(torrent, content, f.now).unwrap();
    f.torrent = torrent;
    let peer = f.connect(1, Direction::Incoming).unwrap();
    for event in [PeerEvent::HaveAll, PeerEvent::Unchoke] {
        f.engine.handle_event(peer, event, f.now).unwrap();
    }
    let mut said = Vec::new();
    for _ in 0..120 {
        said.extend(f.outputs().into_iter().filter_map(|output| match output {
            Output::Send {
                command: command @ (Command::Interested | Command::NotInterested),
                ..
            } => Some(command),
            _ => None,
        }));
        f.wait(1);
    }
    assert_eq!(said, [Command::Interested, Command::NotInterested]);
}

#[test]
fn keys_are_never_used_again() {
    let mut f = Fixture::new(Config::default(), 0);
    let first = f.connect(1, Direction::Incoming).unwrap();
    f.engine.handle_disconnected(first, f.now);
    let second = f.connect(1, Direction::Incoming).unwrap();
    assert_ne!(first, second);
    // Late news about the first connection does not touch the second.
    f.engine.handle_disconnected(first, f.now);
    f.engine
        .handle_event(first, PeerEvent::Have(u32::MAX), f.now)
        .unwrap();
    assert_eq!(f.engine.peers(f.torrent).len(), 1);
}

fn from_host(f: &mut Fixture, host: [u8; 4], n: u16) -> Result<PeerKey, Refusal> {
    let mut id = [n as u8; 20];
    id[0] = host[3];
    let connected = Connected {
        addr: SocketAddr::from((host, n)),
        direction: Direction::Incoming,
        peer_id: PeerId::from_bytes(id),
        fast: true,
        extended: true,
        link: Link::V2,
        local: false,
    };
    f.engine.handle_connected(f.torrent, connected, f.now)
}

#[test]
fn one_host_takes_no_more_places_than_allowed_and_this_machine_as_many_as_it_likes() {
    let config = Config {
        max_peers_per_host: 2,
        ..Config::default()
    };
    let mut f = Fixture::new(config, 0);
    let far = [203, 0, 113, 1];
    let first = from_host(&mut f, far, 1).unwrap();
    from_host(&mut f, far, 2).unwrap();
    assert_eq!(from_host(&mut f, far, 3), Err(Refusal::Crowded));
    let accept = f.engine.may_accept(f.torrent, addr(3), f.now);
    assert_eq!(accept, Err(Refusal::Crowded));
    from_host(&mut f, [203, 0, 113, 2], 4).unwrap();
    for n in 10..20 {
        from_host(&mut f, [127, 0, 0, 1], n).unwrap();
    }
    // Nor is it dialled, until there is a place again.
    f.add(40..=45);
    assert!(f.dials().is_empty());
    f.engine.handle_disconnected(first, f.now);
    f.wait(59);
    assert!(f.dials().is_empty());
    f.wait(2);
    assert_eq!(f.dials(), [40]);
}

#[test]
fn lower_limits_close_the_connections_that_carry_least() {
    let mut f = Fixture::new(Config::default(), 10);
    let peers: Vec<PeerKey> = (1..=6)
        .map(|n| from_host(&mut f, [203, 0, 113, n as u8], n).unwrap())
        .collect();
    // The last two are of use.
    for peer in &peers[4..] {
        f.engine
            .handle_event(*peer, PeerEvent::Interested, f.now)
            .unwrap();
    }
    f.outputs();
    let closed = |f: &mut Fixture, max_peers, max_peers_per_torrent| {
        let limits = ConnectionLimits {
            max_peers,
            max_peers_per_torrent,
            max_peers_per_host: 1,
            max_half_open: 1,
        };
        f.engine.limit_connections(limits, f.now);
        f.outputs()
            .into_iter()
            .filter_map(|output| match output {
                Output::Disconnect {
                    peer,
                    reason: DisconnectReason::Surplus,
                } => Some(peer),
                _ => None,
            })
            .collect::<Vec<_>>()
    };
    assert!(closed(&mut f, 6, 6).is_empty());
    assert_eq!(closed(&mut f, 6, 5), peers[..1]);
    assert_eq!(closed(&mut f, 2, 5), peers[1..4]);
    assert_eq!(from_host(&mut f, [203, 0, 113, 9], 9), Err(Refusal::Full));
    assert_eq!(f.engine.peers(f.torrent).len(), 2);
    assert!(closed(&mut f, 100, 100).is_empty());
    from_host(&mut f, [203, 0, 113, 9], 9).unwrap();
}

/// Three peers that lack everything take each other's every place before they hear of the seed.
#[test]
fn a_group_that_lacks_the_same_does_not_keep_to_itself() {
    for from_magnet in [false, true] {
        let truth = SyntheticTorrent::new(4, &[40 * BLOCK]).unwrap();
        let mut world = World::new(1);
        let seed = world.add_seed(&truth, Habits::default());
        let config = Config {
            max_peers_per_torrent: 2,
            ..Config::default()
        };
        let leeches: Vec<usize> = (0..3)
            .map(|_| world.add(&truth, Habits::default(), config.clone()))
            .collect();
        for leech in &leeches {
            if !from_magnet {
                world.give_content(*leech, true, |_| false);
            }
            for other in leeches.iter().filter(|other| **other < *leech) {
                world.introduce(*leech, *other);
            }
        }
        world.run(Duration::from_secs(5), |_| false);
        for leech in &leeches {
            let node = &world.nodes[*leech];
            assert_eq!(node.engine.peers(node.torrent).len(), 2);
            world.introduce(*leech, seed);
        }
        let took = world.run_until_complete(&leeches, Duration::from_secs(600));
        assert!(
            took > Duration::from_secs(20),
            "no peer was in the way: {took:?}"
        );
    }
}
