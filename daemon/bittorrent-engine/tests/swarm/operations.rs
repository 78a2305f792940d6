//! Random sequences of calls, sensible or not: nothing panics, and no slot is ever written twice
//! at a time or after it was proven. In the end a good seed completes what is left.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bittorrent_engine::{
    BlockVerdict, Command, Config, Connected, DialFailure, Direction, Engine, Link, Output,
    PeerEvent, PeerKey, Scope, Source, StopReason, TorrentKey, TorrentPhase, WriteFailed,
};
use bittorrent_protocol::merkle::{self, HashRequest};
use bittorrent_protocol::wire::{ExtendedHandshake, OwnedMetadataMessage, Request};
use bittorrent_protocol::{BlockIndex, MerkleHash, PeerId};
use proptest::prelude::*;

use simulation::{BLOCK, SyntheticTorrent};

#[derive(Debug, Clone)]
enum Op {
    Connect(u8, bool, bool, bool),
    Disconnect(u8),
    Event(u8, Event),
    /// Answers a request that was made, truly or falsely.
    Block(u8, u16, bool),
    /// A block out of the blue.
    Stray(u8, u16, bool),
    Written(u16, bool),
    AnswerHashes(u8, bool),
    Wait(u16),
    Candidate(u8),
    DialFailed(u8),
    Uploaded(u8),
    Lost(u16),
}

#[derive(Debug, Clone)]
enum Event {
    Choke,
    Unchoke,
    Interested,
    NotInterested,
    Have(u8),
    Bits(u16),
    All,
    None,
    Reject(u16),
    AllowedFast(u8),
    Extensions(u8, u16),
    HashReject,
    Metadata(u8),
}

fn events() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => Just(Event::Choke),
        6 => Just(Event::Unchoke),
        1 => Just(Event::Interested),
        1 => Just(Event::NotInterested),
        4 => any::<u8>().prop_map(Event::Have),
        2 => any::<u16>().prop_map(Event::Bits),
        3 => Just(Event::All),
        1 => Just(Event::None),
        2 => any::<u16>().prop_map(Event::Reject),
        1 => any::<u8>().prop_map(Event::AllowedFast),
        1 => (any::<u8>(), any::<u16>()).prop_map(|(a, b)| Event::Extensions(a, b)),
        1 => Just(Event::HashReject),
        1 => any::<u8>().prop_map(Event::Metadata),
    ]
}

fn ops() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => any::<(u8, bool, bool, bool)>().prop_map(|(a, b, c, d)| Op::Connect(a, b, c, d)),
        1 => any::<u8>().prop_map(Op::Disconnect),
        12 => (any::<u8>(), events()).prop_map(|(peer, event)| Op::Event(peer, event)),
        20 => (any::<u8>(), any::<u16>(), prop::bool::weighted(0.1))
            .prop_map(|(peer, n, lie)| Op::Block(peer, n, lie)),
        2 => any::<(u8, u16, bool)>().prop_map(|(peer, n, lie)| Op::Stray(peer, n, lie)),
        15 => (any::<u16>(), prop::bool::weighted(0.002)).prop_map(|(n, bad)| Op::Written(n, bad)),
        3 => (any::<u8>(), prop::bool::weighted(0.2)).prop_map(|(n, lie)| Op::AnswerHashes(n, lie)),
        4 => any::<u16>().prop_map(Op::Wait),
        1 => any::<u8>().prop_map(Op::Candidate),
        1 => any::<u8>().prop_map(Op::DialFailed),
        1 => any::<u8>().prop_map(Op::Uploaded),
        1 => any::<u16>().prop_map(Op::Lost),
    ]
}

struct Fixture {
    truth: Arc<SyntheticTorrent>,
    engine: Engine,
    torrent: TorrentKey,
    now: Instant,
    peers: Vec<PeerKey>,
    asked: BTreeMap<PeerKey, BTreeSet<BlockIndex>>,
    hashes: Vec<(PeerKey, HashRequest)>,
    writing: BTreeMap<BlockIndex, MerkleHash>,
    disk: BTreeMap<BlockIndex, MerkleHash>,
    proven: BTreeSet<BlockIndex>,
    dialled: Vec<SocketAddr>,
    slow: BTreeSet<PeerKey>,
}

impl Fixture {
    fn new(truth: Arc<SyntheticTorrent>, with_layers: bool) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "the virtual clock starts somewhere"
        )]
        let now = Instant::now();
        let config = Config {
            ban_time: Duration::from_secs(30),
            max_open_blocks: 64,
            ..Config::default()
        };
        let mut engine = Engine::new(config, [5; 32]);
        let torrent = engine.add_torrent(truth.hashes(), now);
        let content = truth.content(with_layers, |_| false);
        engine.set_content(torrent, content, now).unwrap();
        Self {
            truth,
            engine,
            torrent,
            now,
            peers: Vec::new(),
            asked: BTreeMap::new(),
            hashes: Vec::new(),
            writing: BTreeMap::new(),
            disk: BTreeMap::new(),
            proven: BTreeSet::new(),
            dialled: Vec::new(),
            slow: BTreeSet::new(),
        }
    }

    /// A failed write stopped the torrent: it requests nothing more.
    fn is_stopped(&self) -> bool {
        let status = self.engine.status(self.torrent).unwrap();
        status.phase == TorrentPhase::Stopped(StopReason::WritesFail)
    }

    /// One of the peers that ever were; some of them are gone.
    fn peer(&self, n: u8) -> Option<PeerKey> {
        self.peers
            .get(usize::from(n) % self.peers.len().max(1))
            .copied()
    }

    fn connect(&mut self, n: u8, fast: bool, v2: bool, local: bool) {
        let addr = SocketAddr::from(([198, 51, 100, n], 1_000 + n as u16));
        let connected = Connected {
            addr,
            direction: Direction::Incoming,
            peer_id: PeerId::from_bytes([n; 20]),
            fast,
            extended: true,
            link: if v2 { Link::V2 } else { Link::V1 },
            local,
        };
        if let Ok(key) = self
            .engine
            .handle_connected(self.torrent, connected, self.now)
        {
            assert!(!self.peers.contains(&key), "a key was given out twice");
            self.peers.push(key);
            self.asked.insert(key, BTreeSet::new());
            if !fast {
                self.slow.insert(key);
            }
        }
    }

    fn gone(&mut self, peer: PeerKey) {
        self.asked.remove(&peer);
        self.hashes.retain(|(other, _)| *other != peer);
    }

    fn block(&mut self, peer: PeerKey, block: BlockIndex, lie: bool) {
        let leaf = if lie {
            merkle::leaf(b"lie")
        } else {
            self.truth.leaf(block)
        };
        if let Some(asked) = self.asked.get_mut(&peer) {
            asked.remove(&block);
        }
        if self.engine.handle_block(peer, block, leaf, self.now) == BlockVerdict::Write {
            assert!(
                self.asked.contains_key(&peer),
                "a forgotten peer's block is written"
            );
            assert!(!self.proven.contains(&block), "{block} is proven");
            assert!(
                self.writing.insert(block, leaf).is_none(),
                "{block} is written at once"
            );
        }
    }

    fn written(&mut self, n: usize, bad: bool) {
        let Some(block) = self.writing.keys().nth(n).copied() else {
            return;
        };
        let leaf = self.writing.remove(&block).unwrap();
        let result = if bad {
            Err(WriteFailed)
        } else {
            self.disk.insert(block, leaf);
            Ok(())
        };
        self.engine
            .handle_written(self.torrent, block, result, self.now);
    }

    fn answer_hashes(&mut self, n: usize, lie: bool) {
        if n >= self.hashes.len() {
            return;
        }
        let (peer, request) = self.hashes.remove(n);
        let mut hashes = self.truth.hashes_for(&request).unwrap();
        if lie {
            hashes[0] = merkle::leaf(b"lie");
        }
        self.event(peer, PeerEvent::Hashes { request, hashes });
    }

    fn event(&mut self, peer: PeerKey, event: PeerEvent) {
        if matches!(event, PeerEvent::Choke)
            && self.slow.contains(&peer)
            && let Some(asked) = self.asked.get_mut(&peer)
        {
            // Without the fast extension a choke ends all requests.
            asked.clear();
        }
        if self.engine.handle_event(peer, event, self.now).is_err() {
            self.gone(peer);
        }
    }

    fn make_event(&self, event: &Event) -> PeerEvent {
        let pieces = self.truth.layout.piece_count();
        match event {
            Event::Choke => PeerEvent::Choke,
            Event::Unchoke => PeerEvent::Unchoke,
            Event::Interested => PeerEvent::Interested,
            Event::NotInterested => PeerEvent::NotInterested,
            // Now and then one too many.
            Event::Have(n) => PeerEvent::Have(u32::from(*n) % (pieces + 1)),
            Event::Bits(bits) => {
                let mut bytes = vec![0; pieces.div_ceil(8) as usize];
                for (byte, bits) in bytes.iter_mut().zip(bits.to_be_bytes()) {
                    *byte = bits;
                }
                let spare = bytes.len() as u32 * 8 - pieces;
                if let Some(last) = bytes.last_mut() {
                    *last = *last >> spare << spare;
                }
                PeerEvent::Bitfield(bytes)
            }
            Event::All => PeerEvent::HaveAll,
            Event::None => PeerEvent::HaveNone,
            Event::Reject(n) => {
                let blocks: Vec<_> = self.truth.blocks().collect();
                let block = blocks[usize::from(*n) % blocks.len()];
                PeerEvent::Reject(Request::for_block(&self.truth.layout, block))
            }
            Event::AllowedFast(n) => PeerEvent::AllowedFast(u32::from(*n) % pieces),
            Event::Extensions(reqq, port) => PeerEvent::Extensions(ExtendedHandshake {
                reqq: Some(u32::from(*reqq)),
                port: Some(*port),
                upload_only: Some(reqq % 5 == 0),
                ut_metadata: Some(1),
                metadata_size: Some(u32::from(*port)),
                ..ExtendedHandshake::default()
            }),
            Event::HashReject => PeerEvent::HashReject(match self.hashes.first() {
                Some((_, request)) => *request,
                None => HashRequest {
                    root: MerkleHash::ZERO,
                    base: 0,
                    index: 0,
                    count: 0,
                    proof_layers: 0,
                },
            }),
            Event::Metadata(n) => PeerEvent::Metadata(OwnedMetadataMessage::Data {
                piece: u32::from(*n),
                total_size: 1_000,
                payload: vec![*n; 1_000].into(),
            }),
        }
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Connect(n, fast, v2, local) => self.connect(n % 12, *fast, *v2, *local),
            Op::Disconnect(n) => {
                if let Some(peer) = self.peer(*n) {
                    self.engine.handle_disconnected(peer, self.now);
                    self.gone(peer);
                }
            }
            Op::Event(n, event) => {
                if let Some(peer) = self.peer(*n) {
                    if let Event::Reject(_) = event {
                        let event = self.make_event(event);
                        if let PeerEvent::Reject(request) = &event
                            && let Some(asked) = self.asked.get_mut(&peer)
                        {
                            let layout = &self.truth.layout;
                            let block = layout.block_at(request.index, request.begin).unwrap();
                            asked.remove(&block);
                        }
                        self.event(peer, event);
                        return;
                    }
                    let event = self.make_event(event);
                    self.event(peer, event);
                }
            }
            Op::Block(n, which, lie) => {
                if let Some(peer) = self.peer(*n)
                    && let Some(asked) = self.asked.get(&peer)
                    && let Some(block) = asked.iter().nth(usize::from(*which) % asked.len().max(1))
                {
                    self.block(peer, *block, *lie);
                }
            }
            Op::Stray(n, which, lie) => {
                let blocks: Vec<_> = self.truth.blocks().collect();
                let block = blocks[usize::from(*which) % blocks.len()];
                if let Some(peer) = self.peer(*n) {
                    self.block(peer, block, *lie);
                }
            }
            Op::Written(n, bad) => {
                let n = usize::from(*n) % self.writing.len().max(1);
                self.written(n, *bad);
            }
            Op::AnswerHashes(n, lie) => {
                let n = usize::from(*n) % self.hashes.len().max(1);
                self.answer_hashes(n, *lie);
            }
            Op::Wait(millis) => {
                self.now += Duration::from_millis(u64::from(*millis));
                self.engine.handle_timeout(self.now);
            }
            Op::Candidate(n) => {
                let addr = SocketAddr::from(([198, 51, 100, *n], 6_881));
                self.engine.add_candidates(
                    self.torrent,
                    &[addr],
                    Source::Dht,
                    Scope::Machine,
                    self.now,
                );
            }
            Op::DialFailed(n) => {
                if !self.dialled.is_empty() {
                    let addr = self.dialled.remove(usize::from(*n) % self.dialled.len());
                    let failure = match n % 3 {
                        0 => DialFailure::Unreachable,
                        1 => DialFailure::ClosedEarly,
                        _ => DialFailure::Refused,
                    };
                    self.engine
                        .handle_dial_failed(self.torrent, addr, failure, self.now);
                }
            }
            Op::Uploaded(n) => {
                if let Some(peer) = self.peer(*n) {
                    self.engine.handle_uploaded(peer, 16_384, self.now);
                }
            }
            Op::Lost(n) => {
                let proven = self.proven.len().max(1);
                if let Some(block) = self.proven.iter().nth(usize::from(*n) % proven).copied() {
                    let blocks: Vec<_> = self.truth.layout.blocks(block.piece()).collect();
                    for block in &blocks {
                        self.proven.remove(block);
                    }
                    self.engine.handle_lost(self.torrent, &blocks, self.now);
                }
            }
        }
    }

    fn drain(&mut self) {
        let mut steps = 0;
        while let Some(output) = self.engine.poll_output() {
            steps += 1;
            assert!(steps < 10_000, "outputs without end: {output:?}");
            match output {
                Output::Send { peer, command } => {
                    let Some(asked) = self.asked.get_mut(&peer) else {
                        // Sent before the peer was found gone.
                        continue;
                    };
                    match command {
                        Command::Request(blocks) => {
                            for block in blocks {
                                assert!(asked.insert(block), "{block} is asked twice of {peer}");
                                assert!(!self.proven.contains(&block), "{block} is here");
                                assert!(!self.writing.contains_key(&block), "{block} came");
                            }
                            assert!(asked.len() <= 1_500);
                        }
                        Command::Cancel(blocks) => {
                            for block in blocks {
                                asked.remove(&block);
                            }
                        }
                        Command::HashRequest(request) => self.hashes.push((peer, request)),
                        _ => {}
                    }
                }
                Output::Disconnect { peer, .. } => self.gone(peer),
                Output::Proven {
                    piece,
                    first_block,
                    leaves,
                    ..
                } => {
                    for (n, leaf) in (u32::from(first_block)..).zip(leaves) {
                        let block = self.truth.layout.block(piece, n).unwrap();
                        assert_eq!(leaf, self.truth.leaf(block));
                        assert_eq!(self.disk.get(&block), Some(&leaf));
                        self.proven.insert(block);
                    }
                }
                Output::Dial { addr, .. } => self.dialled.push(addr),
                _ => {}
            }
        }
        let status = self.engine.status(self.torrent).unwrap();
        let proven: u64 = self
            .proven
            .iter()
            .map(|block| u64::from(self.truth.layout.block_size(*block)))
            .sum();
        assert_eq!(status.bytes_verified, proven);
    }

    /// Everyone else leaves; a seed answers everything until nothing lacks.
    fn finish(&mut self) {
        for peer in self.peers.clone() {
            self.engine.handle_disconnected(peer, self.now);
            self.gone(peer);
        }
        self.now += Duration::from_secs(300);
        self.engine.handle_timeout(self.now);
        while !self.writing.is_empty() {
            self.written(0, false);
        }
        self.drain();
        self.connect(200, true, true, false);
        let seed = *self.peers.last().unwrap();
        self.event(seed, PeerEvent::HaveAll);
        self.event(seed, PeerEvent::Unchoke);
        let all = self.truth.blocks().count();
        for _ in 0..2_000 {
            self.drain();
            while !self.hashes.is_empty() {
                self.answer_hashes(0, false);
            }
            let asked: Vec<_> = self
                .asked
                .get(&seed)
                .into_iter()
                .flatten()
                .copied()
                .collect();
            for block in asked {
                self.block(seed, block, false);
            }
            while !self.writing.is_empty() {
                self.written(0, false);
            }
            self.drain();
            if self.proven.len() == all || self.is_stopped() {
                return;
            }
            self.now += Duration::from_millis(250);
            self.engine.handle_timeout(self.now);
        }
        panic!(
            "{} of {all} blocks: {:?} {:?}",
            self.proven.len(),
            self.engine.status(self.torrent),
            self.engine.peers(self.torrent)
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn no_sequence_of_calls_breaks_the_rules(
        ops in prop::collection::vec(ops(), 0..400),
        piece_blocks in prop::sample::select(vec![1_u64, 2, 4, 8]),
        files in prop::collection::vec(1..30 * BLOCK, 1..3),
        with_layers in any::<bool>(),
    ) {
        let mut fixture = Fixture::new(SyntheticTorrent::new(piece_blocks, &files).unwrap(), with_layers);
        for op in &ops {
            fixture.apply(op);
            fixture.drain();
        }
        fixture.finish();
    }
}
