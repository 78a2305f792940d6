//! The engine under sequences of calls, sensible or not.

mod swarm;
mod truth;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bittorrent_engine::{
    Config, Connected, DialFailure, Direction, Engine, Link, Output, PeerEvent, PeerKey, Scope,
    Source, TorrentKey, TorrentPhase, WriteFailed,
};
use bittorrent_protocol::PeerId;
use bittorrent_protocol::wire::{ExtendedHandshake, UT_METADATA};

use self::swarm::{Peer, Swarm};
use crate::input::Input;

/// More calls prove nothing more and take long.
const MAX_STEPS: usize = 1_000;

/// Two torrents in one engine, and calls on them. Whatever happens, outputs and timeouts come to an
/// end; no block is written twice at a time or after it was proven; only what is true and on disk is
/// proven; only liars are banned; and in the end a good peer completes every torrent.
pub fn engine(data: &[u8]) {
    let mut input = Input(data);
    let mut world = World::new(&mut input);
    world.drain();
    for _ in 0..MAX_STEPS {
        if input.is_empty() {
            break;
        }
        world.step(&mut input);
        world.drain();
    }
    world.finish();
}

struct World {
    engine: Engine,
    now: Instant,
    swarms: Vec<Swarm>,
}

/// An address for each of a few hosts.
fn address(host: u8, port: u16) -> SocketAddr {
    (Ipv4Addr::new(198, 51, 100, host), port).into()
}

impl World {
    fn new(input: &mut Input<'_>) -> Self {
        let now = Instant::now();
        let config = Config {
            peer_id: Some(PeerId::from_bytes([250; 20])),
            max_peers: 12,
            max_peers_per_torrent: 8,
            max_half_open: 4,
            max_candidates: 12,
            unchoke_slots: 3,
            optimistic_slots: 1,
            ban_time: Duration::from_secs(30),
            max_open_blocks: 32,
            ..Config::default()
        };
        let mut engine = Engine::new(config, [input.u8(); 32]);
        let mut swarms = Vec::new();
        for salt in [1, 2] {
            let mut swarm = Swarm::new(input, salt);
            let key = engine.add_torrent(swarm.truth.hashes(), now);
            swarm.key = Some(key);
            let shape = input.u8();
            if shape & 1 == 0 {
                // Some blocks are there already: those whose bits are set in a pattern.
                let pattern = if shape & 2 == 0 { 0 } else { input.u32() };
                let mut held = swarm.truth.blocks();
                held.retain(|block| {
                    pattern >> ((block.piece().get() * 5 + u32::from(block.in_piece())) % 32) & 1
                        == 1
                });
                swarm.hold(&held);
                let mut content = swarm.truth.content(shape & 4 == 0, &held);
                content.reuse = shape & 8 == 8;
                engine
                    .set_content(key, content, now)
                    .expect("the torrent waits for its content");
            }
            swarm.reuses = shape & 8 == 8;
            swarms.push(swarm);
        }
        Self {
            engine,
            now,
            swarms,
        }
    }

    /// One call.
    fn step(&mut self, input: &mut Input<'_>) {
        let (op, which) = (input.u8(), input.u8());
        let at = usize::from(which >> 7);
        let host = which & 15;
        match op {
            0..24 => self.connect(at, host, input.u8()),
            24..32 => {
                if let Some(peer) = self.swarms[at].peer(which) {
                    let key = peer.key;
                    peer.leave();
                    self.engine.handle_disconnected(key, self.now);
                }
            }
            32..104 => {
                if let Some((peer, event)) = self.swarms[at].event(which, input) {
                    self.event(at, peer, event);
                }
            }
            104..176 => self.block(at, which, true, input),
            176..184 => self.block(at, which, false, input),
            184..192 => {
                let found = input.u32();
                self.looked_up(at, which, found, found & input.u32());
            }
            192..220 => {
                let result = match input.u8() {
                    0..=254 => Ok(()),
                    _ => Err(WriteFailed),
                };
                let n = input.u8();
                self.written(at, usize::from(n), result);
            }
            220..232 => {
                if let Some((peer, event)) = self.swarms[at].hashes(input.u8()) {
                    self.event(at, peer, event);
                }
            }
            232..238 => {
                if let Some((peer, event)) = self.swarms[at].metadata(input.u8()) {
                    self.event(at, peer, event);
                }
            }
            238..244 => self.wait(Duration::from_millis(u64::from(input.u16()) * 2)),
            244..247 => self.candidate(at, host, which),
            247..249 => self.dial_failed(at, which),
            249 => {
                if let Some(peer) = self.swarms[at].peer(which) {
                    let key = peer.key;
                    self.engine
                        .handle_uploaded(key, input.u32().into(), self.now);
                }
            }
            250 => {
                let lost = self.swarms[at].lose(input.u16());
                if let Some(key) = self.swarms[at].key {
                    self.engine.handle_lost(key, &lost, self.now);
                }
            }
            251 => {
                if let Some(peer) = self.swarms[at].peer(which) {
                    let key = peer.key;
                    self.engine.handle_upload_requested(key, self.now);
                }
            }
            // Removed, the torrent's keys must be dead.
            252 => {
                if let Some(key) = self.swarms[1].key.take() {
                    self.engine.remove_torrent(key, self.now);
                    assert_eq!(self.engine.status(key), None);
                }
            }
            253 => self.engine.add_own_address(address(host, 6881)),
            254 => {
                // A clock that was set back, and one call with it.
                let back = self.now.checked_sub(Duration::from_secs(5));
                self.engine.handle_timeout(back.unwrap_or(self.now));
            }
            255 => {
                if let Some(key) = self.swarms[at].key {
                    let _ = self.engine.may_accept(key, address(host, 1), self.now);
                    self.engine.peers(key);
                }
            }
        }
    }

    fn connect(&mut self, at: usize, host: u8, shape: u8) {
        let swarm = &mut self.swarms[at];
        let Some(torrent) = swarm.key else {
            return;
        };
        let (direction, addr) = match swarm.dialling.pop() {
            Some(addr) if shape & 1 == 1 => (Direction::Outgoing, addr),
            dialled => {
                swarm.dialling.extend(dialled);
                (Direction::Incoming, address(host, 1000 + u16::from(shape)))
            }
        };
        let connected = Connected {
            addr,
            direction,
            peer_id: PeerId::from_bytes([host; 20]),
            fast: shape & 2 == 0,
            extended: shape & 4 == 0,
            link: if shape & 8 == 0 { Link::V2 } else { Link::V1 },
            local: shape & 16 != 0,
        };
        if let Ok(key) = self.engine.handle_connected(torrent, connected, self.now) {
            assert_eq!(key.torrent(), torrent);
            swarm.add_peer(Peer::new(key, addr, connected.fast));
        }
    }

    fn event(&mut self, at: usize, key: PeerKey, event: PeerEvent) {
        let choked = matches!(event, PeerEvent::Choke);
        let result = self.engine.handle_event(key, event, self.now);
        let Some(peer) = self.swarms[at].by_key(key) else {
            return;
        };
        if result.is_err() {
            peer.leave();
        } else if choked && !peer.fast {
            // Without the fast extension a choke ends all requests (BEP 3).
            peer.asked.clear();
        }
    }

    /// A block that was asked for, or any.
    fn block(&mut self, at: usize, which: u8, asked: bool, input: &mut Input<'_>) {
        let (n, lie) = (usize::from(input.u8()), input.u8() >= 230);
        let Some((key, block, leaf)) = self.swarms[at].arrive(which, asked, n, lie) else {
            return;
        };
        let verdict = self.engine.handle_block(key, block, leaf, self.now);
        self.swarms[at].judged(key, block, leaf, verdict);
    }

    fn written(&mut self, at: usize, n: usize, result: Result<(), WriteFailed>) {
        let swarm = &mut self.swarms[at];
        let Some((block, _)) = swarm.writing.iter().nth(n % swarm.writing.len().max(1)) else {
            return;
        };
        let block = *block;
        let leaf = swarm.writing.remove(&block).expect("just seen");
        if result.is_ok() {
            swarm.disk.insert(block, leaf);
        }
        if let Some(key) = swarm.key {
            self.engine.handle_written(key, block, result, self.now);
        }
    }

    /// A look-up ends: the bits say for each block whether something was found, and whether that is
    /// wrong.
    fn looked_up(&mut self, at: usize, which: u8, found: u32, wrong: u32) {
        let swarm = &mut self.swarms[at];
        if let Some((piece, adopted)) = swarm.look(which, found, wrong, self.now)
            && let Some(key) = swarm.key
        {
            self.engine.handle_looked_up(key, piece, &adopted, self.now);
        }
        let swarm = &mut self.swarms[at];
        if let Some((piece, held)) = swarm.remember(which, found, wrong, self.now)
            && let Some(key) = swarm.key
        {
            self.engine
                .handle_leaves_looked_up(key, piece, &held, self.now);
        }
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.engine.handle_timeout(self.now);
        self.drain();
        if let Some(due) = self.engine.poll_timeout() {
            assert!(
                due > self.now,
                "a timeout that has just been handled is due again"
            );
        }
    }

    fn candidate(&mut self, at: usize, host: u8, which: u8) {
        let source = match which >> 4 & 3 {
            0 => Source::Static,
            1 => Source::Dht,
            2 => Source::Tracker,
            _ => Source::Incoming,
        };
        if let Some(key) = self.swarms[at].key {
            let addrs = [
                address(host, 6881),
                address(host, 0),
                address(host ^ 1, 6881),
            ];
            let scope = match which >> 6 {
                0 => Scope::World,
                1 => Scope::Network,
                _ => Scope::Machine,
            };
            self.engine
                .add_candidates(key, &addrs, source, scope, self.now);
        }
    }

    fn dial_failed(&mut self, at: usize, which: u8) {
        let failure = match which & 3 {
            0 => DialFailure::Unreachable,
            1 => DialFailure::ClosedEarly,
            2 => DialFailure::Refused,
            _ => DialFailure::Ourselves,
        };
        let swarm = &mut self.swarms[at];
        if let (Some(key), Some(addr)) = (swarm.key, swarm.dialling.pop()) {
            self.engine.handle_dial_failed(key, addr, failure, self.now);
        }
    }

    /// Does what the engine says, and checks that it may be said.
    fn drain(&mut self) {
        let mut outputs = 0;
        while let Some(output) = self.engine.poll_output() {
            outputs += 1;
            assert!(outputs < 10_000, "outputs without end: {output:?}");
            self.handle(output);
        }
        for swarm in &self.swarms {
            swarm.check(swarm.key.and_then(|key| self.engine.status(key)));
        }
    }

    fn swarm(&mut self, key: TorrentKey) -> Option<&mut Swarm> {
        self.swarms.iter_mut().find(|swarm| swarm.key == Some(key))
    }

    fn handle(&mut self, output: Output) {
        match output {
            Output::Dial { torrent, addr } => {
                if let Some(swarm) = self.swarm(torrent) {
                    swarm.dialling.push(addr);
                }
            }
            Output::Send { peer, command } => {
                if let Some(swarm) = self.swarm(peer.torrent()) {
                    swarm.sent(peer, command);
                }
            }
            Output::Disconnect { peer, .. } => {
                let peer = self
                    .swarms
                    .iter_mut()
                    .find_map(|swarm| swarm.by_key(peer))
                    .expect("a peer that was connected");
                peer.leave();
            }
            Output::Metadata { torrent, info } => {
                let Some(swarm) = self.swarm(torrent) else {
                    return;
                };
                assert_eq!(info, swarm.truth.info);
                assert!(!swarm.has_content, "metadata is asked for once");
                swarm.hold(&[]);
                let mut content = swarm.truth.content(false, &[]);
                content.reuse = swarm.reuses;
                self.engine
                    .set_content(torrent, content, self.now)
                    .expect("the torrent waits for its content");
            }
            Output::Layer {
                torrent,
                file,
                layer,
            } => {
                if let Some(swarm) = self.swarm(torrent) {
                    assert_eq!(swarm.truth.layers[file.as_usize()], Some(layer));
                }
            }
            Output::Proven {
                torrent,
                piece,
                first_block,
                leaves,
            } => {
                if let Some(swarm) = self.swarm(torrent) {
                    swarm.prove(piece, first_block, &leaves);
                }
            }
            Output::Revoke { torrent, blocks } => {
                if let Some(swarm) = self.swarm(torrent) {
                    swarm.revoke(&blocks);
                }
            }
            Output::Banned {
                torrent,
                addr,
                blame,
            } => {
                if let Some(swarm) = self.swarm(torrent) {
                    let lied = swarm.liars.contains(&addr.ip());
                    assert!(lied, "{addr} sent no false data and is banned: {blame}");
                }
            }
            Output::Complete { torrent } => {
                if let Some(swarm) = self.swarm(torrent) {
                    assert!(swarm.is_complete());
                }
            }
            Output::LookupLeaves {
                torrent,
                piece,
                nodes,
            } => {
                let now = self.now;
                if let Some(swarm) = self.swarm(torrent) {
                    swarm.recall(piece, &nodes, now);
                }
            }
            Output::Lookup {
                torrent,
                piece,
                leaves,
            } => {
                let now = self.now;
                if let Some(swarm) = self.swarm(torrent) {
                    swarm.look_up(piece, leaves, now);
                }
            }
            Output::Stopped { .. } => {}
        }
    }

    /// Everyone leaves and every write ends; then a good seed answers all it is asked.
    fn finish(&mut self) {
        for at in 0..self.swarms.len() {
            for peer in &mut self.swarms[at].peers {
                peer.leave();
                self.engine.handle_disconnected(peer.key, self.now);
            }
            while !self.swarms[at].writing.is_empty() {
                self.written(at, 0, Ok(()));
            }
        }
        self.drain();
        self.wait(Duration::from_secs(300));
        for (at, host) in [(0, 200), (1, 201)] {
            let status = self.swarms[at].key.and_then(|key| self.engine.status(key));
            // A failed write stops a torrent for good.
            if status.is_some_and(|status| !matches!(status.phase, TorrentPhase::Stopped(_))) {
                self.complete(at, host);
            }
        }
    }

    fn complete(&mut self, at: usize, host: u8) {
        self.connect(at, host, 0);
        let key = self.swarms[at]
            .peers
            .last()
            .expect("the seed is let in")
            .key;
        let extensions = ExtendedHandshake {
            ut_metadata: Some(UT_METADATA),
            metadata_size: Some(self.swarms[at].truth.info.len() as u32),
            ..ExtendedHandshake::default()
        };
        self.event(at, key, PeerEvent::Extensions(extensions));
        self.event(at, key, PeerEvent::HaveAll);
        self.event(at, key, PeerEvent::Unchoke);
        for _ in 0..2_000 {
            self.drain();
            if self.swarms[at].has_content && self.swarms[at].is_complete() {
                return;
            }
            while let Some((peer, event)) = self.swarms[at].metadata(0) {
                self.event(at, peer, event);
            }
            while self.swarms[at].is_looking() {
                self.looked_up(at, 0, 0, 0);
            }
            while let Some((peer, event)) = self.swarms[at].hashes(0) {
                self.event(at, peer, event);
            }
            let which = (self.swarms[at].peers.len() - 1) as u8;
            while let Some((key, block, leaf)) = self.swarms[at].arrive(which, true, 0, false) {
                let verdict = self.engine.handle_block(key, block, leaf, self.now);
                self.swarms[at].judged(key, block, leaf, verdict);
            }
            while !self.swarms[at].writing.is_empty() {
                self.written(at, 0, Ok(()));
            }
            self.wait(Duration::from_millis(250));
        }
        let status = self.swarms[at].key.and_then(|key| self.engine.status(key));
        panic!("a good seed cannot complete the torrent: {status:?}");
    }
}
