//! One engine, step by step: what exactly is asked of whom, and who is blamed for what.

mod hedges;
mod rejects;
mod silent;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bittorrent_engine::{
    Blame, BlockVerdict, Command, Config, Connected, Content, Direction, Discard, Engine, Link,
    Output, PeerEvent, PeerKey, PieceLeaves, TorrentKey,
};
use bittorrent_protocol::merkle::{self, HashRequest};
use bittorrent_protocol::wire::ExtendedHandshake;
use bittorrent_protocol::{BlockIndex, PeerId};

use simulation::{BLOCK, SyntheticTorrent};

struct Direct {
    truth: Arc<SyntheticTorrent>,
    engine: Engine,
    torrent: TorrentKey,
    now: Instant,
    asked: BTreeMap<PeerKey, BTreeSet<BlockIndex>>,
    cancelled: BTreeMap<PeerKey, BTreeSet<BlockIndex>>,
    hash_requests: Vec<(PeerKey, HashRequest)>,
    haves: Vec<(PeerKey, u32)>,
    banned: Vec<(SocketAddr, Blame)>,
    proven: usize,
    revoked: Vec<BlockIndex>,
}

impl Direct {
    fn new(config: Config, piece_blocks: u64, blocks: u64) -> Self {
        Self::holding(config, piece_blocks, blocks, &[])
    }

    /// Blocks of the first piece are there from a former run.
    fn holding(config: Config, piece_blocks: u64, blocks: u64, held: &[u16]) -> Self {
        let truth = SyntheticTorrent::new(piece_blocks, &[blocks * BLOCK]).unwrap();
        let content = truth.content(true, |block| {
            block.piece().get() == 0 && held.contains(&block.in_piece())
        });
        Self::with_content(config, truth, content, held)
    }

    fn with_content(
        config: Config,
        truth: Arc<SyntheticTorrent>,
        mut content: Content,
        held: &[u16],
    ) -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "the virtual clock starts somewhere"
        )]
        let now = Instant::now();
        let mut engine = Engine::new(config, [9; 32]);
        let torrent = engine.add_torrent(truth.hashes(), now);
        let first = truth.layout.piece(0).unwrap();
        content.leaves.push(PieceLeaves {
            piece: first,
            leaves: truth
                .layout
                .blocks(first)
                .filter(|block| held.contains(&block.in_piece()))
                .map(|block| (block.in_piece(), truth.leaf(block)))
                .collect(),
        });
        engine.set_content(torrent, content, now).unwrap();
        Self {
            truth,
            engine,
            torrent,
            now,
            asked: BTreeMap::new(),
            cancelled: BTreeMap::new(),
            hash_requests: Vec::new(),
            haves: Vec::new(),
            banned: Vec::new(),
            proven: 0,
            revoked: Vec::new(),
        }
    }

    /// A seed that takes so many requests at a time; it chokes still.
    fn seed(&mut self, n: u8, link: Link, fast: bool, reqq: u32) -> PeerKey {
        self.seed_at(addr(n), n, link, fast, reqq)
    }

    fn seed_at(&mut self, addr: SocketAddr, id: u8, link: Link, fast: bool, reqq: u32) -> PeerKey {
        let connected = Connected {
            addr,
            direction: Direction::Incoming,
            peer_id: PeerId::from_bytes([id; 20]),
            fast,
            extended: true,
            link,
            local: false,
        };
        let peer = self
            .engine
            .handle_connected(self.torrent, connected, self.now)
            .unwrap();
        self.event(
            peer,
            PeerEvent::Extensions(ExtendedHandshake {
                reqq: Some(reqq),
                ..ExtendedHandshake::default()
            }),
        );
        self.event(peer, PeerEvent::HaveAll);
        peer
    }

    fn event(&mut self, peer: PeerKey, event: PeerEvent) {
        self.engine.handle_event(peer, event, self.now).unwrap();
        self.drain();
    }

    fn wait(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            self.engine.handle_timeout(self.now);
            self.drain();
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            match output {
                Output::Send { peer, command } => match command {
                    Command::Request(blocks) => {
                        self.asked.entry(peer).or_default().extend(blocks);
                    }
                    Command::Cancel(blocks) => {
                        for block in &blocks {
                            self.asked.entry(peer).or_default().remove(block);
                        }
                        self.cancelled.entry(peer).or_default().extend(blocks);
                    }
                    Command::Have(pieces) => self
                        .haves
                        .extend(pieces.into_iter().map(|piece| (peer, piece.get()))),
                    Command::HashRequest(request) => self.hash_requests.push((peer, request)),
                    _ => {}
                },
                Output::Banned { addr, blame, .. } => self.banned.push((addr, blame)),
                Output::Proven { leaves, .. } => self.proven += leaves.len(),
                Output::Revoke { blocks, .. } => self.revoked.extend(blocks),
                _ => {}
            }
        }
    }

    fn asked(&self, peer: PeerKey) -> Vec<BlockIndex> {
        self.asked
            .get(&peer)
            .into_iter()
            .flatten()
            .copied()
            .collect()
    }

    /// Delivers a block; it is written at once.
    fn deliver(&mut self, peer: PeerKey, block: BlockIndex, lie: bool) -> BlockVerdict {
        let leaf = if lie {
            merkle::leaf(b"lie")
        } else {
            self.truth.leaf(block)
        };
        self.asked.entry(peer).or_default().remove(&block);
        let verdict = self.engine.handle_block(peer, block, leaf, self.now);
        if verdict == BlockVerdict::Write {
            self.engine
                .handle_written(self.torrent, block, Ok(()), self.now);
        }
        self.drain();
        verdict
    }

    fn deliver_all(&mut self, peer: PeerKey, lie: bool) {
        for block in self.asked(peer) {
            self.deliver(peer, block, lie);
        }
    }
}

fn addr(n: u8) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, n], 6_881))
}

/// A piece of four blocks, of which an honest peer and a liar sent two each. Returns both.
fn false_piece(link: Link) -> (Direct, PeerKey, PeerKey) {
    let mut d = Direct::new(Config::default(), 4, 4);
    let honest = d.seed(1, link, true, 2);
    let liar = d.seed(2, link, true, 2);
    d.event(honest, PeerEvent::Unchoke);
    d.event(liar, PeerEvent::Unchoke);
    assert_eq!((d.asked(honest).len(), d.asked(liar).len()), (2, 2));
    // Whatever comes next is not the liar's.
    d.event(liar, PeerEvent::Choke);
    d.deliver_all(honest, false);
    d.deliver_all(liar, true);
    (d, honest, liar)
}

#[test]
fn without_leaves_the_second_download_names_the_liar() {
    let (mut d, honest, _) = false_piece(Link::V1);
    assert!(d.banned.is_empty() && d.proven == 0 && d.hash_requests.is_empty());
    for _ in 0..2 {
        assert_eq!(d.asked(honest).len(), 2);
        d.deliver_all(honest, false);
    }
    assert_eq!(d.proven, 4);
    assert_eq!(d.banned.len(), 1);
    assert_eq!(d.banned[0].0, addr(2));
    assert!(matches!(d.banned[0].1, Blame::Block(_)));
}

#[test]
fn held_blocks_of_a_piece_that_stays_false_are_taken_back_before_they_are_written() {
    let mut d = Direct::holding(Config::default(), 4, 4, &[0]);
    let liar = d.seed(2, Link::V1, true, 4);
    d.event(liar, PeerEvent::Unchoke);
    assert_eq!(d.asked(liar).len(), 3, "what is held is not asked for");
    d.deliver_all(liar, true);
    // The held block may be the false one, and no peer can prove it: the whole piece is downloaded again.
    let first = d
        .truth
        .layout
        .block(d.truth.layout.piece(0).unwrap(), 0)
        .unwrap();
    assert_eq!(d.revoked, [first]);
    assert_eq!(d.engine.status(d.torrent).unwrap().bytes_verified, 0);
    d.engine.handle_disconnected(liar, d.now);
    let honest = d.seed(1, Link::V1, true, 4);
    d.event(honest, PeerEvent::Unchoke);
    d.deliver_all(honest, false);
    assert_eq!(d.proven, 4);
    assert_eq!(
        d.banned.iter().map(|(addr, _)| *addr).collect::<Vec<_>>(),
        [addr(2)]
    );
}

#[test]
fn leaves_name_the_liar_and_spare_the_good_blocks() {
    let (mut d, honest, liar) = false_piece(Link::V2);
    let (peer, request) = d.hash_requests[0];
    assert_eq!((request.base, request.count), (0, 4));
    let hashes = d.truth.hashes_for(&request).unwrap();
    d.event(peer, PeerEvent::Hashes { request, hashes });
    assert_eq!(d.banned.len(), 1);
    assert_eq!(d.banned[0].0, addr(2));
    assert_eq!(d.proven, 2);
    assert!(d.asked(liar).is_empty());
    assert_eq!(d.asked(honest).len(), 2);
    d.deliver_all(honest, false);
    assert_eq!(d.proven, 4);
}

#[test]
fn who_does_not_answer_about_leaves_is_not_waited_for() {
    let (mut d, honest, _) = false_piece(Link::V2);
    assert_eq!(d.hash_requests.len(), 1);
    let (peer, request) = d.hash_requests[0];
    d.event(peer, PeerEvent::HashReject(request));
    assert_eq!(d.hash_requests.len(), 2);
    assert_ne!(d.hash_requests[1].0, peer);
    d.wait(5);
    // Both were asked; now the piece comes again from one peer.
    assert_eq!(d.hash_requests.len(), 2);
    d.deliver_all(honest, false);
    d.deliver_all(honest, false);
    assert_eq!((d.proven, d.banned.len()), (4, 1));
}

#[test]
fn a_piece_on_trial_is_taken_from_one_peer_only() {
    let (mut d, honest, liar) = false_piece(Link::V1);
    let third = d.seed(3, Link::V1, true, 10);
    d.event(third, PeerEvent::Unchoke);
    d.event(liar, PeerEvent::Unchoke);
    assert_eq!(d.asked(honest).len(), 2);
    assert!(d.asked(third).is_empty() && d.asked(liar).is_empty());
    // The one peer chokes, after it has sent what it was asked for: another one starts over.
    let first = d.asked(honest)[0];
    d.deliver(honest, first, false);
    d.event(honest, PeerEvent::Choke);
    d.deliver_all(honest, false);
    let other = if d.asked(third).is_empty() {
        liar
    } else {
        third
    };
    assert_eq!(d.asked(other).len(), if other == third { 4 } else { 2 });
}

#[test]
fn a_late_block_does_not_disturb_a_piece_on_trial() {
    let mut d = Direct::new(Config::default(), 4, 4);
    let late = d.seed(3, Link::V1, false, 1);
    d.event(late, PeerEvent::Unchoke);
    let block = d.asked(late)[0];
    // Without the fast extension the request is void now; its answer is on the way all the same.
    d.event(late, PeerEvent::Choke);
    let honest = d.seed(1, Link::V1, true, 2);
    let liar = d.seed(2, Link::V1, true, 2);
    d.event(honest, PeerEvent::Unchoke);
    d.event(liar, PeerEvent::Unchoke);
    d.event(liar, PeerEvent::Choke);
    d.deliver_all(honest, false);
    d.deliver_all(liar, true);
    assert_eq!(d.asked(honest).len(), 2);
    let verdict = d.deliver(late, block, true);
    assert_eq!(verdict, BlockVerdict::Discard(Discard::Unrequested));
    d.deliver_all(honest, false);
    d.deliver_all(honest, false);
    assert_eq!(d.proven, 4);
    let banned: Vec<_> = d.banned.iter().map(|(addr, _)| *addr).collect();
    assert_eq!(banned, [addr(2)]);
}

#[test]
fn requests_left_unanswered_go_to_others_and_late_answers_still_count() {
    let mut d = Direct::new(Config::default(), 4, 40);
    let silent = d.seed(1, Link::V2, true, 40);
    d.event(silent, PeerEvent::Unchoke);
    let asked = d.asked(silent);
    assert_eq!(asked.len(), 40);
    d.wait(21);
    let cancelled: Vec<_> = d.cancelled[&silent].iter().copied().collect();
    assert_eq!(cancelled, asked);
    // It gets one request at a time from now on.
    assert_eq!(d.asked(silent).len(), 1);
    let probe = d.asked(silent)[0];
    let other = d.seed(2, Link::V2, true, 500);
    d.event(other, PeerEvent::Unchoke);
    let taken = d.asked(other);
    assert!(
        asked
            .iter()
            .all(|block| *block == probe || taken.contains(block))
    );
    // One block that is late comes before its second copy.
    let late = *asked.iter().find(|block| **block != probe).unwrap();
    assert_eq!(d.deliver(silent, late, false), BlockVerdict::Write);
    assert!(d.cancelled[&other].contains(&late));
    let copy = d.deliver(other, late, false);
    assert_eq!(copy, BlockVerdict::Discard(Discard::Duplicate));
}

#[test]
fn no_more_is_begun_than_allowed() {
    let config = Config {
        max_open_blocks: 8,
        ..Config::default()
    };
    let mut d = Direct::new(config, 4, 1_000);
    let first = d.seed(1, Link::V2, true, 500);
    d.event(first, PeerEvent::Unchoke);
    let first = d.asked(first);
    assert_eq!(first.len(), 8);
    // A peer with nothing else to do may begin one more piece all the same.
    let second = d.seed(2, Link::V2, true, 500);
    d.event(second, PeerEvent::Unchoke);
    let second = d.asked(second);
    assert_eq!(second.len(), 4);
    let pieces: std::collections::BTreeSet<_> = first
        .iter()
        .chain(&second)
        .map(|block| block.piece())
        .collect();
    assert_eq!(pieces.len(), 3);
}

#[test]
fn a_rejected_block_is_not_asked_of_the_same_peer_at_once() {
    let mut d = Direct::new(Config::default(), 1, 3);
    let peer = d.seed(1, Link::V2, true, 10);
    d.event(peer, PeerEvent::Unchoke);
    assert_eq!(d.asked(peer).len(), 3);
    // It has answered once: an untried peer would be given up sooner.
    d.deliver(peer, d.asked(peer)[2], false);
    let block = d.asked(peer)[0];
    d.asked.get_mut(&peer).unwrap().remove(&block);
    let request = bittorrent_protocol::wire::Request::for_block(&d.truth.layout, block);
    d.event(peer, PeerEvent::Reject(request));
    d.wait(5);
    assert!(!d.asked(peer).contains(&block));
    let other = d.seed(2, Link::V2, true, 10);
    d.event(other, PeerEvent::Unchoke);
    assert!(d.asked(other).contains(&block));
    d.engine.handle_disconnected(other, d.now);
    d.wait(10);
    assert!(d.asked(peer).contains(&block));
}

#[test]
fn a_choking_peer_is_asked_for_what_it_allows_only() {
    let mut d = Direct::new(Config::default(), 4, 40);
    // Without the fast extension there is no such thing.
    let slow = d.seed(2, Link::V2, false, 100);
    d.event(slow, PeerEvent::AllowedFast(6));
    assert!(d.asked(slow).is_empty());
    let peer = d.seed(1, Link::V2, true, 100);
    d.event(peer, PeerEvent::AllowedFast(7));
    let pieces: Vec<_> = d.asked(peer).iter().map(|b| b.piece().get()).collect();
    assert_eq!(pieces, [7; 4]);
    d.deliver_all(peer, false);
    assert_eq!(d.proven, 4);
    assert!(d.asked(peer).is_empty());
}

#[test]
fn at_the_end_an_idle_peer_is_asked_for_what_a_silent_one_leaves() {
    let mut d = Direct::new(Config::default(), 4, 8);
    // Two peers have the first piece only, and one of them is asked for all of it.
    let first = d.seed(1, Link::V2, true, 4);
    let idle = d.seed(2, Link::V2, true, 4);
    for peer in [first, idle] {
        d.event(peer, PeerEvent::Bitfield(vec![0x80]));
        d.event(peer, PeerEvent::Unchoke);
    }
    assert_eq!(d.asked(first).len(), 4);
    assert!(d.asked(idle).is_empty());
    // While some block was not requested at all, waiting is not the end game.
    d.wait(2);
    assert!(d.asked(idle).is_empty());
    // Once the rest is asked of a third one, the idle one helps out with what is long due.
    let third = d.seed(3, Link::V2, true, 4);
    d.event(third, PeerEvent::Unchoke);
    assert_eq!(d.asked(third).len(), 4);
    assert_eq!(d.asked(idle).len(), 4);
    // The third one has been asked only now.
    let fourth = d.seed(4, Link::V2, true, 4);
    d.event(fourth, PeerEvent::Unchoke);
    let of_second = |blocks: &[BlockIndex]| blocks.iter().any(|block| block.piece().get() == 1);
    assert!(!of_second(&d.asked(fourth)));
}

#[test]
fn only_peers_that_lack_a_piece_hear_of_it() {
    let mut d = Direct::new(Config::default(), 1, 16);
    let seed = d.seed(1, Link::V2, true, 4);
    let half = d.seed(2, Link::V2, true, 4);
    d.event(half, PeerEvent::Bitfield(vec![0xff, 0]));
    d.event(seed, PeerEvent::Unchoke);
    while d.proven < 16 {
        d.deliver_all(seed, false);
    }
    let mut heard = d.haves.clone();
    heard.sort_unstable();
    let expected: Vec<_> = (8..16).map(|piece| (half, piece)).collect();
    assert_eq!(heard, expected);
}
