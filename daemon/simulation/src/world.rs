//! Hosts, what goes between them, and time.

mod lines;
mod messages;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bittorrent_engine::{
    BlockVerdict, Connected, DialFailure, Direction, Engine, Link, PeerEvent, Refusal, Scope,
    Source,
};
use bittorrent_protocol::wire::Request;
use bittorrent_protocol::{BlockIndex, BlockSet, MerkleHash, merkle};

use crate::host::{End, Node, Role, address};
use crate::outcome::{Counts, Outcome};
use crate::plan::Plan;
use crate::queue::{Life, Queue, SimEvent};
use crate::random::{Random, mix};
use crate::torrent::{SyntheticTorrent, TorrentError};

/// More events than this without time going on are a loop.
const MOST_AT_ONCE: u64 = 10_000_000;

/// A swarm under a virtual clock.
#[derive(Debug)]
pub struct World {
    plan: Plan,
    torrent: Arc<SyntheticTorrent>,
    /// The leaf hash of every lie.
    lie: MerkleHash,
    random: Random,
    start: Instant,
    now: Duration,
    queue: Queue,
    nodes: Vec<Node>,
    ends: Vec<End>,
    /// Mirrors that are not complete.
    lacking: usize,
    counts: Counts,
}

impl World {
    /// A world in which nothing has happened yet.
    pub fn new(plan: Plan) -> Result<Self, TorrentError> {
        let torrent = SyntheticTorrent::new(plan.piece_blocks, &plan.files)?;
        Ok(Self::around(plan, torrent))
    }

    fn around(plan: Plan, torrent: Arc<SyntheticTorrent>) -> Self {
        // The virtual clock starts somewhere; nothing reads the real one again.
        let start = Instant::now();
        let mut world = Self {
            random: Random::new(plan.seed),
            lie: merkle::leaf(b"a lie"),
            start,
            now: Duration::ZERO,
            queue: Queue::default(),
            nodes: Vec::new(),
            ends: Vec::new(),
            lacking: plan.mirrors,
            counts: Counts::default(),
            torrent,
            plan,
        };
        let roles = [
            (Role::Producer, 1),
            (Role::Mirror, world.plan.mirrors),
            (Role::Liar, world.plan.liars),
        ];
        for (role, count) in roles {
            for _ in 0..count {
                world.add(role);
            }
        }
        world
    }

    fn add(&mut self, role: Role) {
        let number = self.nodes.len();
        let layout = &self.torrent.layout;
        let empty = || BlockSet::new(layout);
        let everything = || BlockSet::full(layout);
        let has_all = role != Role::Mirror;
        let (least, most) = self.plan.up;
        let mut engine = Engine::new(self.plan.config.clone(), [0; 32]);
        let up = match role {
            Role::Producer => least,
            Role::Mirror | Role::Liar => least + self.random.below(most.saturating_sub(least) + 1),
        };
        let came = match role {
            Role::Mirror => self.random.between(Duration::ZERO, self.plan.arrivals),
            Role::Producer | Role::Liar => Duration::ZERO,
        };
        self.nodes.push(Node {
            number,
            role,
            torrent: engine.add_torrent(self.torrent.hashes(), self.start),
            engine,
            online: false,
            lives: 0,
            knows_content: has_all,
            layers_lacking: match has_all {
                true => 0,
                false => self.torrent.layers.iter().flatten().count(),
            },
            disk: empty(),
            proven: if has_all { everything() } else { empty() },
            ends: Default::default(),
            up: up.max(1),
            turns: Default::default(),
            sends: false,
            receives_until: Duration::ZERO,
            timeout: None,
            came,
            completed: has_all.then_some(Duration::ZERO),
        });
        self.queue.put(came, SimEvent::Starts { node: number });
    }

    /// Runs until every mirror has everything, or for `most`. Panics if two engines call each other without
    /// end, or if an engine proves a false block.
    pub fn run(&mut self, most: Duration) -> Outcome {
        let mut at_once = 0;
        while self.lacking > 0 {
            let Some((at, event)) = self.queue.take(most) else {
                break;
            };
            at_once = if at > self.now { 0 } else { at_once + 1 };
            assert!(at_once < MOST_AT_ONCE, "time stands still");
            self.now = at;
            self.counts.events += 1;
            self.apply(event);
        }
        let mirrors = || self.nodes.iter().filter(|node| node.role == Role::Mirror);
        let mut times: Vec<Duration> = mirrors()
            .filter_map(|node| Some(node.completed? - node.came))
            .collect();
        times.sort_unstable();
        Outcome {
            once: self.plan.once(),
            unfinished: mirrors().count() - times.len(),
            times,
            lasted: self.now,
            counts: self.counts,
        }
    }

    /// Returns the state of mirrors that are not complete.
    pub fn stuck(&self) -> Vec<String> {
        let mirrors = self.nodes.iter().filter(|node| node.completed.is_none());
        mirrors
            .map(|node| {
                let (status, peers) = (
                    node.engine.status(node.torrent),
                    node.engine.peers(node.torrent),
                );
                format!("{}: {status:?}, {peers:?}", node.number)
            })
            .collect()
    }

    fn instant(&self) -> Instant {
        self.start + self.now
    }

    fn after(&mut self, wait: Duration, event: SimEvent) {
        self.queue.put(self.now + wait, event);
    }

    /// Along a connection: messages keep their order.
    fn send(&mut self, end: usize, make: impl FnOnce(usize) -> SimEvent) {
        let end = &mut self.ends[end];
        let at = end.no_sooner.max(self.now + end.latency);
        end.no_sooner = at;
        self.queue.put(at, make(end.far));
    }

    fn send_event(&mut self, end: usize, event: PeerEvent) {
        let event = Box::new(event);
        self.send(end, |end| SimEvent::Event { end, event });
    }

    fn apply(&mut self, event: SimEvent) {
        let now = self.instant();
        match event {
            SimEvent::Timeout { node } => {
                let number = node;
                let node = &mut self.nodes[number];
                // One that was put off is asked for again by `settle`.
                if node.timeout == Some(self.now) {
                    node.timeout = None;
                    if node.engine.poll_timeout().is_some_and(|at| at <= now) {
                        node.engine.handle_timeout(now);
                    }
                    self.settle(number);
                }
            }
            SimEvent::Dialled { from, to } => self.meet(from, to),
            SimEvent::DialFailed { of, addr, failure } => {
                let node = &mut self.nodes[of.node];
                if node.is(of) {
                    node.engine
                        .handle_dial_failed(node.torrent, addr, failure, now);
                    self.settle(of.node);
                }
            }
            SimEvent::Starts { node } => self.start(node),
            SimEvent::Leaves { of } => {
                if self.nodes[of.node].is(of) {
                    self.leave(of.node);
                }
            }
            SimEvent::Sent { of, end, blocks } => {
                if self.nodes[of.node].is(of) {
                    self.sent(of.node, end, blocks);
                }
            }
            SimEvent::Written { of, blocks } => {
                let node = &mut self.nodes[of.node];
                if node.is(of) {
                    for block in blocks {
                        node.disk.insert(block);
                        node.engine.handle_written(node.torrent, block, Ok(()), now);
                    }
                    self.settle(of.node);
                }
            }
            SimEvent::Event { end, .. }
            | SimEvent::Haves { end, .. }
            | SimEvent::Asked { end, .. }
            | SimEvent::Unasked { end, .. }
            | SimEvent::Rejected { end, .. }
            | SimEvent::Arrived { end, .. }
            | SimEvent::Received { end, .. }
            | SimEvent::Closed { end } => {
                if self.ends[end].open {
                    self.apply_to_end(end, event);
                }
            }
        }
    }

    fn apply_to_end(&mut self, end: usize, event: SimEvent) {
        let now = self.instant();
        let (number, key) = (self.ends[end].node, self.ends[end].key);
        match event {
            SimEvent::Event { event, .. } => self.deliver(end, [*event]),
            SimEvent::Haves { pieces, .. } => {
                let haves = pieces.iter().map(|piece| PeerEvent::Have(piece.get()));
                self.deliver(end, haves);
            }
            SimEvent::Rejected { blocks, .. } => {
                let layout = Arc::clone(&self.torrent.layout);
                let request = |block| PeerEvent::Reject(Request::for_block(&layout, block));
                self.deliver(end, blocks.into_iter().map(request));
            }
            SimEvent::Asked { blocks, .. } => self.asked(end, blocks),
            SimEvent::Unasked { blocks, .. } => {
                self.ends[end].queue.retain(|block| !blocks.contains(block));
            }
            SimEvent::Arrived { blocks, .. } => self.arrived(end, blocks),
            SimEvent::Received { blocks, .. } => self.received(end, blocks),
            SimEvent::Closed { .. } => {
                self.ends[end].open = false;
                let node = &mut self.nodes[number];
                node.ends.remove(&key);
                node.engine.handle_disconnected(key, now);
                self.settle(number);
            }
            // The rest happens to nodes.
            _ => {}
        }
    }

    /// Delivers messages of a peer to an engine.
    fn deliver(&mut self, end: usize, events: impl IntoIterator<Item = PeerEvent>) {
        let now = self.instant();
        let (number, key) = (self.ends[end].node, self.ends[end].key);
        for event in events {
            let engine = &mut self.nodes[number].engine;
            if engine.handle_event(key, event, now).is_err() {
                self.counts.faults += 1;
                self.close(end);
                break;
            }
        }
        self.settle(number);
    }

    /// Blocks are here.
    fn received(&mut self, end: usize, blocks: Vec<BlockIndex>) {
        let now = self.instant();
        let (number, key) = (self.ends[end].node, self.ends[end].key);
        let sender = self.ends[self.ends[end].far].node;
        let mut writes = Vec::with_capacity(blocks.len());
        for block in blocks {
            let leaf = match self.nodes[sender].lies(block, self.plan.lies_in) {
                true => self.lie,
                false => self.torrent.leaf(block),
            };
            self.counts.blocks += 1;
            let node = &mut self.nodes[number];
            match node.engine.handle_block(key, block, leaf, now) {
                BlockVerdict::Write => {
                    assert!(!node.proven.contains(block), "{block} is proven already");
                    writes.push(block);
                }
                BlockVerdict::Discard(_) => self.counts.discarded += 1,
            }
        }
        if !writes.is_empty() {
            let of = self.nodes[number].life();
            let blocks = writes;
            self.after(self.plan.disk, SimEvent::Written { of, blocks });
        }
        self.settle(number);
    }

    /// Handles a dial: both engines accept or refuse the connection.
    fn meet(&mut self, from: Life, to: usize) {
        if !self.nodes[from.node].is(from) {
            return;
        }
        let now = self.instant();
        let connected = |node: &Node, direction| Connected {
            addr: address(node.number),
            direction,
            peer_id: node.peer_id(),
            fast: true,
            extended: true,
            link: Link::V2,
            local: false,
        };
        let mut dialler = connected(&self.nodes[from.node], Direction::Incoming);
        // Ports of outgoing connections are any.
        dialler
            .addr
            .set_port(40_000 + (self.counts.connections % 20_000) as u16);
        let node = &mut self.nodes[to];
        let theirs = match node.online {
            true => node.engine.handle_connected(node.torrent, dialler, now),
            false => Err(Refusal::NoTorrent),
        };
        let Ok(theirs) = theirs else {
            let failure = match self.nodes[to].online {
                true => DialFailure::ClosedEarly,
                false => DialFailure::Unreachable,
            };
            let addr = address(to);
            let of = from;
            self.after(
                self.latency(from.node, to),
                SimEvent::DialFailed { of, addr, failure },
            );
            return;
        };
        let listener = connected(&self.nodes[to], Direction::Outgoing);
        let node = &mut self.nodes[from.node];
        let Ok(ours) = node.engine.handle_connected(node.torrent, listener, now) else {
            let node = &mut self.nodes[to];
            node.engine.handle_disconnected(theirs, now);
            self.settle(to);
            self.settle(from.node);
            return;
        };
        self.counts.connections += 1;
        let latency = self.latency(from.node, to);
        let first = self.ends.len();
        for (node, key, far) in [(from.node, ours, first + 1), (to, theirs, first)] {
            self.ends.push(End {
                node,
                key,
                far,
                open: true,
                serves: false,
                queue: Default::default(),
                waits: false,
                latency,
                no_sooner: Duration::ZERO,
            });
            self.nodes[node].ends.insert(key, self.ends.len() - 1);
        }
        for end in [first, first + 1] {
            let event = self.extensions(self.ends[end].node);
            self.send_event(end, event);
        }
        self.settle(from.node);
        self.settle(to);
    }

    /// The way between two hosts: the same each time.
    fn latency(&self, a: usize, b: usize) -> Duration {
        let (low, high) = (a.min(b) as u64, a.max(b) as u64);
        let (least, most) = self.plan.latency;
        let mut random = Random::new(mix(self.plan.seed) ^ mix(low << 32 | high));
        random.between(least, most)
    }

    /// Closes one end; the other one is closed a latency later.
    fn close(&mut self, end: usize) {
        if !std::mem::replace(&mut self.ends[end].open, false) {
            return;
        }
        let (number, key) = (self.ends[end].node, self.ends[end].key);
        self.ends[end].queue = Default::default();
        self.nodes[number].ends.remove(&key);
        self.send(end, |end| SimEvent::Closed { end });
    }

    /// A node starts with what it had proven before.
    fn start(&mut self, number: usize) {
        let now = self.instant();
        let mut seed = [0; 32];
        for part in seed.chunks_mut(8) {
            part.copy_from_slice(&self.random.next().to_le_bytes());
        }
        let node = &mut self.nodes[number];
        node.lives += 1;
        node.online = true;
        let mut config = self.plan.config.clone();
        config.peer_id = Some(node.peer_id());
        node.engine = Engine::new(config, seed);
        node.engine.add_own_address(address(number));
        node.torrent = node.engine.add_torrent(self.torrent.hashes(), now);
        if node.knows_content {
            self.give_content(number);
        }
        let all = self.nodes.len();
        let mut addresses: Vec<usize> = (0..all).filter(|other| *other != number).collect();
        while addresses.len() > self.plan.addresses.max(1) {
            let goes = self.random.below(addresses.len() as u64) as usize;
            addresses.swap_remove(goes);
        }
        let addresses: Vec<_> = addresses.into_iter().map(address).collect();
        let node = &mut self.nodes[number];
        node.engine.add_candidates(
            node.torrent,
            &addresses,
            Source::Tracker,
            Scope::Machine,
            now,
        );
        if let (Some(churn), Role::Mirror) = (self.plan.churn, node.role) {
            let of = node.life();
            let stays = self.random.wait(churn.stays);
            self.after(stays, SimEvent::Leaves { of });
        }
        self.settle(number);
    }

    fn give_content(&mut self, number: usize) {
        let now = self.instant();
        let node = &mut self.nodes[number];
        node.knows_content = true;
        node.disk = node.proven.clone();
        let layers = node.layers_lacking == 0;
        if !layers {
            // Those that a former life had got are asked for again.
            node.layers_lacking = self.torrent.layers.iter().flatten().count();
        }
        let mut content = self.torrent.content_of(layers, node.proven.clone());
        if node.proven.count() > 0 && node.completed.is_none() {
            content.leaves = self
                .torrent
                .held_leaves(|block| node.proven.contains(block));
        }
        let set = node.engine.set_content(node.torrent, content, now);
        assert!(set.is_ok(), "an engine takes its content once: {set:?}");
        if self.plan.in_order {
            node.engine.download_in_order(node.torrent);
        }
    }

    /// A node goes away, its connections with it.
    fn leave(&mut self, number: usize) {
        self.counts.departures += 1;
        let ends: Vec<usize> = self.nodes[number].ends.values().copied().collect();
        for end in ends {
            self.close(end);
        }
        let node = &mut self.nodes[number];
        node.online = false;
        node.turns.clear();
        node.sends = false;
        node.timeout = None;
        if let Some(churn) = self.plan.churn {
            let away = self.random.wait(churn.away);
            self.after(away, SimEvent::Starts { node: number });
        }
    }
}
