//! One engine that downloads from peers which answer every request at once.
//!
//! Every block has the same content, so that torrents of any size are made at once and the tree is as
//! deep as any. A share of the peers are seeds, the rest have random halves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bittorrent_engine::{
    BlockVerdict, Command, Config, Connected, Content, Direction, Engine, Link, Output, PeerEvent,
    PeerKey, TorrentKey,
};
use bittorrent_protocol::metainfo::PieceLayer;
use bittorrent_protocol::wire::ExtendedHandshake;
use bittorrent_protocol::{
    BlockIndex, BlockSet, InfoHashV2, InfoHashes, Layout, MerkleHash, PeerId, PieceLength, merkle,
};

/// Outputs are taken after this many blocks, as a session does.
const BATCH: usize = 16;

/// A torrent's shape.
pub(crate) struct Shape {
    pub(crate) layout: Arc<Layout>,
    layer: Arc<PieceLayer>,
    leaf: MerkleHash,
}

impl Shape {
    pub(crate) fn new(blocks: u64, piece_blocks: u64) -> Self {
        let piece_length = PieceLength::new(piece_blocks * 16_384).unwrap();
        let leaf = merkle::leaf(b"block");
        let piece = merkle::fold(&vec![leaf; piece_blocks as usize], 0, piece_length.layer());
        let blocks = blocks.next_multiple_of(piece_blocks);
        let hashes = vec![piece; (blocks / piece_blocks) as usize];
        let root = merkle::file_root_from_layer(&hashes, piece_length);
        let layout = Layout::new(piece_length, [(blocks * 16_384, Some(root))]).unwrap();
        let layer = PieceLayer::new(&layout.files()[0], piece_length, hashes).unwrap();
        Self {
            layout: Arc::new(layout),
            layer: Arc::new(layer),
            leaf,
        }
    }

    /// A random half of the pieces as a bitfield message, another one for each number.
    pub(crate) fn half(&self, number: usize) -> Vec<u8> {
        let bytes = self.layout.piece_count().div_ceil(8) as usize;
        let byte = |i: usize| (i.wrapping_mul(number + 1).wrapping_mul(0x9e37_79b9) >> 13) as u8;
        let mut bits: Vec<u8> = (0..bytes).map(byte).collect();
        let spare = bytes as u32 * 8 - self.layout.piece_count();
        if let Some(last) = bits.last_mut() {
            *last = *last >> spare << spare;
        }
        bits
    }
}

/// An engine in the middle of a download.
pub(crate) struct Download {
    pub(crate) engine: Engine,
    torrent: TorrentKey,
    leaf: MerkleHash,
    now: Instant,
    requests: std::collections::VecDeque<(PeerKey, BlockIndex)>,
    pub(crate) received: u64,
    pub(crate) complete: bool,
}

impl Download {
    /// An engine that knows a torrent and no peer.
    pub(crate) fn new(shape: &Shape, now: Instant) -> Self {
        let mut engine = Engine::new(Config::default(), [7; 32]);
        let hashes = InfoHashes {
            v2: InfoHashV2::of_info(b""),
            v1: None,
        };
        let torrent = engine.add_torrent(hashes, now);
        let content = Content {
            layout: Arc::clone(&shape.layout),
            layers: vec![Some(Arc::clone(&shape.layer))],
            verified: BlockSet::new(&shape.layout),
            leaves: Vec::new(),
            reuse: false,
        };
        engine.set_content(torrent, content, now).unwrap();
        Self {
            engine,
            torrent,
            leaf: shape.leaf,
            now,
            requests: std::collections::VecDeque::new(),
            received: 0,
            complete: false,
        }
    }

    /// An engine with so many seeds and so many peers with random halves. Without any seed, the last
    /// peer has everything.
    pub(crate) fn among(shape: &Shape, seeds: usize, others: usize, now: Instant) -> Self {
        let mut download = Self::new(shape, now);
        for number in 0..seeds + others {
            let is_last = number + 1 == seeds + others;
            let has = if number < seeds {
                PeerEvent::HaveAll
            } else if seeds == 0 && is_last {
                let all = vec![u8::MAX; shape.layout.piece_count() as usize / 8];
                PeerEvent::Bitfield(all)
            } else {
                PeerEvent::Bitfield(shape.half(number))
            };
            let peer = download.connect(number);
            download.event(peer, has);
            download.event(peer, PeerEvent::Unchoke);
        }
        download
    }

    /// One more peer, which has nothing yet.
    pub(crate) fn connect(&mut self, number: usize) -> PeerKey {
        let connected = Connected {
            addr: SocketAddr::from(([10, 0, (number >> 8) as u8, number as u8], 6881)),
            direction: Direction::Outgoing,
            peer_id: PeerId::from_bytes([number as u8; 20]),
            fast: true,
            extended: true,
            link: Link::V2,
            local: true,
        };
        let peer = self
            .engine
            .handle_connected(self.torrent, connected, self.now)
            .unwrap();
        let reqq = ExtendedHandshake {
            reqq: Some(500),
            ..ExtendedHandshake::default()
        };
        self.event(peer, PeerEvent::Extensions(reqq));
        peer
    }

    pub(crate) fn event(&mut self, peer: PeerKey, event: PeerEvent) {
        self.engine.handle_event(peer, event, self.now).unwrap();
    }

    pub(crate) fn disconnect(&mut self, peer: PeerKey) {
        self.engine.handle_disconnected(peer, self.now);
    }

    /// Takes what the engine says.
    pub(crate) fn drain(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Send {
                    peer,
                    command: Command::Request(blocks),
                } => self
                    .requests
                    .extend(blocks.into_iter().map(|block| (peer, block))),
                Output::Complete { .. } => self.complete = true,
                _ => {}
            }
        }
    }

    /// So many blocks are requested, arrive and are written, or as many as there are.
    pub(crate) fn run(&mut self, blocks: u64) {
        let end = self.received + blocks;
        while self.received < end && !self.complete {
            self.drain();
            if self.requests.is_empty() && !self.complete {
                self.now += Duration::from_millis(500);
            }
            for _ in 0..BATCH {
                let Some((peer, block)) = self.requests.pop_front() else {
                    break;
                };
                self.received += 1;
                let (leaf, now) = (self.leaf, self.now);
                if self.engine.handle_block(peer, block, leaf, now) == BlockVerdict::Write {
                    self.engine.handle_written(self.torrent, block, Ok(()), now);
                }
            }
            self.now += Duration::from_micros(500);
            self.engine.handle_timeout(self.now);
        }
    }
}
