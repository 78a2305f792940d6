//! Nodes, the messages between them, and time.

mod outputs;
mod reuse;
mod serving;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bittorrent_engine::{
    Config, Connected, Content, DialFailure, Direction, Link as LinkKind, PeerEvent, PeerKey,
    Scope, Source, WriteFailed,
};
use bittorrent_protocol::{BlockIndex, MerkleHash, PieceIndex};

use crate::node::{Habits, Link, Node, blocks_below};
use simulation::SyntheticTorrent;

/// Something that happens to a node.
#[derive(Debug)]
enum SimEvent {
    /// A dial reaches it.
    Dialled {
        from: usize,
        at: SocketAddr,
    },
    /// Its dial failed.
    DialFailed {
        addr: SocketAddr,
        failure: DialFailure,
    },
    Message {
        from: PeerKey,
        event: PeerEvent,
    },
    /// The other side asks for blocks, or no longer.
    Asked {
        from: PeerKey,
        blocks: Vec<BlockIndex>,
    },
    Unasked {
        from: PeerKey,
        blocks: Vec<BlockIndex>,
    },
    Block {
        from: PeerKey,
        block: BlockIndex,
        leaf: MerkleHash,
    },
    /// It may send the next block.
    Send {
        to: PeerKey,
    },
    Written {
        block: BlockIndex,
    },
    LookedUp {
        piece: PieceIndex,
        leaves: Option<Vec<MerkleHash>>,
    },
    Recalled {
        piece: PieceIndex,
    },
    Closed {
        link: PeerKey,
    },
    ChokingEnds,
}

/// A swarm.
pub(crate) struct World {
    pub(crate) nodes: Vec<Node>,
    pub(crate) now: Instant,
    pub(crate) start: Instant,
    queue: BinaryHeap<Reverse<(Instant, u64, usize)>>,
    events: Vec<Option<SimEvent>>,
    latency: Duration,
    jitter: u64,
    random: u64,
    at_this_instant: u32,
    /// No node may write a block twice: no peer lies and no disk fails.
    pub(crate) strict: bool,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "the virtual clock starts somewhere"
        )]
        let now = Instant::now();
        Self {
            nodes: Vec::new(),
            now,
            start: now,
            queue: BinaryHeap::new(),
            events: Vec::new(),
            latency: Duration::from_millis(10),
            jitter: 5_000,
            random: seed.wrapping_mul(2).wrapping_add(1),
            at_this_instant: 0,
            strict: true,
        }
    }

    pub(crate) fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Adds a node that knows nothing but the info-hash.
    pub(crate) fn add(
        &mut self,
        truth: &Arc<SyntheticTorrent>,
        habits: Habits,
        config: Config,
    ) -> usize {
        let number = self.nodes.len();
        self.nodes
            .push(Node::new(number, truth, habits, &config, self.now));
        number
    }

    /// Adds a node that has these blocks.
    pub(crate) fn add_with(
        &mut self,
        truth: &Arc<SyntheticTorrent>,
        habits: Habits,
        has: impl Fn(BlockIndex) -> bool,
    ) -> usize {
        let number = self.add(truth, habits, Config::default());
        self.give_content(number, true, has);
        number
    }

    pub(crate) fn add_seed(&mut self, truth: &Arc<SyntheticTorrent>, habits: Habits) -> usize {
        self.add_with(truth, habits, |_| true)
    }

    pub(crate) fn add_leech(&mut self, truth: &Arc<SyntheticTorrent>, habits: Habits) -> usize {
        self.add_with(truth, habits, |_| false)
    }

    pub(crate) fn give_content(
        &mut self,
        number: usize,
        with_layers: bool,
        has: impl Fn(BlockIndex) -> bool,
    ) {
        let truth = Arc::clone(&self.nodes[number].truth);
        let content = truth.content(with_layers, &has);
        self.start(number, content, has);
    }

    /// Gives a node these blocks from a former run, with their leaves.
    pub(crate) fn resume_with(&mut self, number: usize, has: impl Fn(BlockIndex) -> bool) {
        let truth = Arc::clone(&self.nodes[number].truth);
        let mut content = truth.content(true, &has);
        content.leaves = truth.held_leaves(&has);
        self.start(number, content, has);
    }

    fn start(&mut self, number: usize, mut content: Content, has: impl Fn(BlockIndex) -> bool) {
        let node = &mut self.nodes[number];
        let truth = Arc::clone(&node.truth);
        for block in truth.blocks().filter(|block| has(*block)) {
            node.disk.insert(block, truth.leaf(block));
            node.proven.insert(block);
        }
        content.reuse = node.held.is_some();
        node.engine
            .set_content(node.torrent, content, self.now)
            .unwrap();
        node.knows_content = true;
    }

    /// Tells a node where another one is.
    pub(crate) fn introduce(&mut self, node: usize, to: usize) {
        let addr = self.nodes[to].addr;
        let node = &mut self.nodes[node];
        node.engine.add_candidates(
            node.torrent,
            &[addr],
            Source::Static,
            Scope::Machine,
            self.now,
        );
    }

    /// Runs until all of these are complete; panics when that takes longer than this.
    pub(crate) fn run_until_complete(&mut self, nodes: &[usize], most: Duration) -> Duration {
        let done = |world: &Self| nodes.iter().all(|n| world.nodes[*n].is_complete());
        assert!(
            self.run(most, done),
            "not complete after {most:?}: {:#?}",
            nodes
                .iter()
                .map(|n| {
                    let node = &self.nodes[*n];
                    (
                        node.engine.status(node.torrent),
                        node.engine.peers(node.torrent),
                        &node.faults,
                        &node.banned,
                    )
                })
                .collect::<Vec<_>>()
        );
        for n in nodes {
            self.nodes[*n].check_complete();
        }
        self.now - self.start
    }

    /// Runs for so long, or until `done`. Panics when time stands still for too many steps.
    pub(crate) fn run(&mut self, most: Duration, done: impl Fn(&Self) -> bool) -> bool {
        let end = self.now + most;
        for number in 0..self.nodes.len() {
            self.drain(number);
        }
        while !done(self) {
            let message = self.queue.peek().map(|Reverse((at, _, _))| *at);
            let timeout = (0..self.nodes.len())
                .filter(|n| self.nodes[*n].online)
                .filter_map(|n| Some((self.nodes[n].engine.poll_timeout()?, n)))
                .min();
            let next = match (message, timeout) {
                (Some(message), Some((timeout, _))) => message.min(timeout),
                (Some(at), None) | (None, Some((at, _))) => at,
                (None, None) => return false,
            };
            if next > end {
                self.now = end;
                return false;
            }
            if next > self.now {
                self.now = next;
                self.at_this_instant = 0;
            }
            self.at_this_instant += 1;
            assert!(self.at_this_instant < 200_000, "time stands still");
            if message == Some(next) {
                let Some(Reverse((_, event, node))) = self.queue.pop() else {
                    unreachable!("it was just looked at");
                };
                if let Some(event) = self.events[event as usize].take() {
                    self.apply(node, event);
                    self.drain(node);
                }
            } else if let Some((_, node)) = timeout {
                let now = self.now;
                self.nodes[node].engine.handle_timeout(now);
                self.drain(node);
                let again = self.nodes[node].engine.poll_timeout();
                assert!(
                    again.is_none_or(|at| at > now),
                    "a deadline stays in the past"
                );
            }
        }
        true
    }

    fn after(&mut self, wait: Duration, node: usize, event: SimEvent) {
        let number = self.events.len() as u64;
        self.events.push(Some(event));
        self.queue.push(Reverse((self.now + wait, number, node)));
    }

    /// Sends along a link: messages of one link keep their order.
    fn along_link(&mut self, node: usize, link: PeerKey, make: impl FnOnce(PeerKey) -> SimEvent) {
        let Some(link) = self.nodes[node].links.get(&link) else {
            return;
        };
        let (to, key) = (link.node, link.key);
        self.after(self.latency, to, make(key));
    }

    /// Does what a node's engine wants done.
    fn drain(&mut self, number: usize) {
        while let Some(output) = self.nodes[number].engine.poll_output() {
            if self.nodes[number].online {
                self.obey(number, output);
            }
        }
    }

    fn message(&mut self, number: usize, peer: PeerKey, event: PeerEvent) {
        self.along_link(number, peer, |from| SimEvent::Message { from, event });
    }

    fn close(&mut self, number: usize, link: PeerKey) {
        if let Some(link) = self.nodes[number].links.remove(&link) {
            let gone = SimEvent::Closed { link: link.key };
            self.after(self.latency, link.node, gone);
        }
    }

    /// A node is gone, its connections with it.
    pub(crate) fn vanish(&mut self, number: usize) {
        self.nodes[number].online = false;
        for (_, link) in std::mem::take(&mut self.nodes[number].links) {
            let gone = SimEvent::Closed { link: link.key };
            self.after(self.latency, link.node, gone);
        }
    }

    fn apply(&mut self, number: usize, event: SimEvent) {
        let now = self.now;
        let node = &mut self.nodes[number];
        if !node.online && !matches!(event, SimEvent::Dialled { .. }) {
            return;
        }
        match event {
            SimEvent::Dialled { from, at } => self.meet(from, number, at),
            SimEvent::DialFailed { addr, failure } => {
                node.engine
                    .handle_dial_failed(node.torrent, addr, failure, now);
            }
            SimEvent::Message { from, event } => {
                if !node.links.contains_key(&from) {
                    return;
                }
                if let PeerEvent::Hashes { request, .. } | PeerEvent::HashReject(request) = &event {
                    let blocks = blocks_below(&node.truth, request);
                    // Hostile peers answer what was not requested.
                    node.blocks_below_requests = node.blocks_below_requests.saturating_sub(blocks);
                }
                if let (PeerEvent::Reject(request), Some(link)) =
                    (&event, node.links.get_mut(&from))
                {
                    let block = node.truth.layout.block_at(request.index, request.begin);
                    block.map(|block| link.asked.remove(&block));
                }
                if let (PeerEvent::Choke, Some(link)) = (&event, node.links.get_mut(&from))
                    && !link.fast
                {
                    link.asked.clear();
                }
                if let Err(fault) = node.engine.handle_event(from, event, now) {
                    node.faults.push(fault.to_string());
                    self.close(number, from);
                }
            }
            SimEvent::Asked { from, blocks } => self.asked(number, from, &blocks),
            SimEvent::Unasked { from, blocks } => {
                let Some(link) = node.links.get_mut(&from) else {
                    return;
                };
                link.queue.retain(|block| !blocks.contains(block));
            }
            SimEvent::Send { to } => self.send_block(number, to),
            SimEvent::Block { from, block, leaf } => self.block(number, from, block, leaf),
            SimEvent::Written { block } => {
                let leaf = node.writing.remove(&block).unwrap();
                let result = if node.failed_writes < node.habits.failing_writes {
                    node.failed_writes += 1;
                    Err(WriteFailed)
                } else {
                    node.disk.insert(block, leaf);
                    Ok(())
                };
                node.engine.handle_written(node.torrent, block, result, now);
            }
            SimEvent::LookedUp { piece, leaves } => {
                self.looked_up(number, piece, leaves.as_deref());
            }
            SimEvent::Recalled { piece } => self.recalled(number, piece),
            SimEvent::Closed { link } => {
                if node.links.remove(&link).is_some() {
                    node.engine.handle_disconnected(link, now);
                }
            }
            SimEvent::ChokingEnds => {
                let keys: Vec<_> = node.links.keys().copied().collect();
                for key in keys {
                    if let Some(link) = self.nodes[number].links.get_mut(&key)
                        && std::mem::replace(&mut link.moody, false)
                        && !link.chokes
                    {
                        self.message(number, key, PeerEvent::Unchoke);
                    }
                }
            }
        }
    }

    /// Handles a dial: both engines accept or refuse the connection.
    fn meet(&mut self, from: usize, to: usize, at: SocketAddr) {
        let now = self.now;
        let addr = self.nodes[to].addr;
        let fast = self.nodes[from].habits.fast && self.nodes[to].habits.fast;
        let v1 = self.nodes[from].habits.v1 || self.nodes[to].habits.v1;
        let local = self.nodes[from].habits.local || self.nodes[to].habits.local;
        let connected = |peer_id, addr, direction| Connected {
            addr,
            direction,
            peer_id,
            fast,
            extended: true,
            link: if v1 { LinkKind::V1 } else { LinkKind::V2 },
            local,
        };
        let dialler = connected(self.nodes[from].peer_id, at, Direction::Incoming);
        let node = &mut self.nodes[to];
        let theirs = if node.online {
            node.engine
                .may_accept(node.torrent, at, now)
                .and_then(|()| node.engine.handle_connected(node.torrent, dialler, now))
        } else {
            Err(bittorrent_engine::Refusal::NoTorrent)
        };
        let Ok(theirs) = theirs else {
            let failure = DialFailure::ClosedEarly;
            self.after(self.latency, from, SimEvent::DialFailed { addr, failure });
            return;
        };
        let listener = connected(self.nodes[to].peer_id, addr, Direction::Outgoing);
        let node = &mut self.nodes[from];
        let ours = match node.engine.handle_connected(node.torrent, listener, now) {
            Ok(ours) => ours,
            Err(_) => {
                let node = &mut self.nodes[to];
                node.refused.insert(theirs);
                node.engine.handle_disconnected(theirs, now);
                return;
            }
        };
        let link = |node: usize, key, limit| Link {
            node,
            key,
            fast,
            chokes: true,
            moody: false,
            queue: Default::default(),
            asked: Default::default(),
            limit,
            sending: false,
        };
        let limits = (self.nodes[from].habits.reqq, self.nodes[to].habits.reqq);
        let to_from = link(from, ours, (limits.0 as usize).max(1));
        let to_to = link(to, theirs, (limits.1 as usize).max(1));
        self.nodes[to].links.insert(theirs, to_from);
        self.nodes[from].links.insert(ours, to_to);
        for (number, key) in [(to, theirs), (from, ours)] {
            let extensions = self.extensions(number);
            self.message(number, key, extensions);
        }
        self.drain(from);
    }

    /// Connects everyone to everyone.
    pub(crate) fn introduce_all(&mut self) {
        for a in 0..self.nodes.len() {
            for b in 0..a {
                self.introduce(a, b);
            }
        }
    }
}
