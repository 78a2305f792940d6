//! What is known outside the engine about one of its torrents.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bittorrent_engine::{BlockVerdict, Command, PeerEvent, PeerKey, TorrentKey, TorrentStatus};
use bittorrent_protocol::merkle::{HashRequest, fold_layer, leaf};
use bittorrent_protocol::wire::{
    ExtendedHandshake, METADATA_PIECE_LEN, OwnedMetadataMessage, Request, UT_METADATA,
    metadata_piece_size,
};
use bittorrent_protocol::{BlockIndex, MerkleHash, PieceIndex};

use super::truth::Truth;
use crate::input::Input;

/// A connection, while it lasts and after.
pub(super) struct Peer {
    pub(super) key: PeerKey,
    pub(super) fast: bool,
    /// Blocks asked of it and not answered.
    pub(super) asked: BTreeSet<BlockIndex>,
    addr: SocketAddr,
    gone: bool,
}

impl Peer {
    pub(super) fn new(key: PeerKey, addr: SocketAddr, fast: bool) -> Self {
        Self {
            key,
            fast,
            asked: BTreeSet::new(),
            addr,
            gone: false,
        }
    }

    pub(super) fn leave(&mut self) {
        self.gone = true;
        self.asked.clear();
    }
}

pub(super) struct Swarm {
    pub(super) truth: Truth,
    /// `None` once it was removed.
    pub(super) key: Option<TorrentKey>,
    pub(super) has_content: bool,
    /// All there ever were, in the order of their connections.
    pub(super) peers: Vec<Peer>,
    pub(super) dialling: Vec<SocketAddr>,
    pub(super) writing: BTreeMap<BlockIndex, MerkleHash>,
    pub(super) disk: BTreeMap<BlockIndex, MerkleHash>,
    pub(super) liars: BTreeSet<IpAddr>,
    /// Something is held that may be reused.
    pub(super) reuses: bool,
    /// Pieces that are looked for.
    lookups: Vec<PieceIndex>,
    recalls: Vec<PieceIndex>,
    /// When a look-up ended last, or the first one began.
    last_lookup: Option<Instant>,
    proven: BTreeSet<BlockIndex>,
    hash_requests: Vec<(PeerKey, HashRequest)>,
    metadata_requests: Vec<(PeerKey, u32)>,
}

impl Swarm {
    pub(super) fn new(input: &mut Input<'_>, salt: u8) -> Self {
        Self {
            truth: Truth::new(input, salt),
            key: None,
            has_content: false,
            peers: Vec::new(),
            dialling: Vec::new(),
            writing: BTreeMap::new(),
            disk: BTreeMap::new(),
            liars: BTreeSet::new(),
            reuses: false,
            lookups: Vec::new(),
            recalls: Vec::new(),
            last_lookup: None,
            proven: BTreeSet::new(),
            hash_requests: Vec::new(),
            metadata_requests: Vec::new(),
        }
    }

    /// Records that the engine has the content, with these blocks on disk.
    pub(super) fn hold(&mut self, held: &[BlockIndex]) {
        self.has_content = true;
        for block in held {
            self.disk.insert(*block, self.truth.leaf(*block));
            self.proven.insert(*block);
        }
    }

    pub(super) fn add_peer(&mut self, peer: Peer) {
        assert!(self.by_key(peer.key).is_none(), "a key is given out twice");
        self.peers.push(peer);
    }

    /// One of the peers there ever were, some of them gone.
    pub(super) fn peer(&mut self, which: u8) -> Option<&mut Peer> {
        let at = usize::from(which & 0x7f) % self.peers.len().max(1);
        self.peers.get_mut(at)
    }

    pub(super) fn by_key(&mut self, key: PeerKey) -> Option<&mut Peer> {
        self.peers.iter_mut().find(|peer| peer.key == key)
    }

    /// A message from a peer, which may make sense.
    pub(super) fn event(
        &mut self,
        which: u8,
        input: &mut Input<'_>,
    ) -> Option<(PeerKey, PeerEvent)> {
        let kind = input.u8();
        let pieces = self.truth.layout.piece_count();
        let number = match kind & 0xc0 {
            // Now and then one too many, or anything.
            0xc0 => input.u32(),
            _ => u32::from(input.u8()) % (pieces + u32::from(kind & 0x80 != 0)),
        };
        let hash_request = self.hash_requests.first().map(|(_, request)| *request);
        let layout = Arc::clone(&self.truth.layout);
        let root = layout.files()[0].root().unwrap_or(MerkleHash::ZERO);
        let info_len = self.truth.info.len() as u32;
        let peer = self.peer(which)?;
        let event = match kind & 0x3f {
            0..2 => PeerEvent::Choke,
            2..16 => PeerEvent::Unchoke,
            16..18 => PeerEvent::Interested,
            18..20 => PeerEvent::NotInterested,
            20..28 => PeerEvent::Have(number),
            28..34 => {
                let extra = usize::from(kind & 0xc0 == 0xc0);
                let mut bits: Vec<u8> = (0..pieces.div_ceil(8) as usize + extra)
                    .map(|_| input.u8())
                    .collect();
                let spare = (8 - pieces % 8) % 8;
                if let Some(last) = bits.last_mut()
                    && kind & 0x80 == 0
                {
                    *last = *last >> spare << spare;
                }
                PeerEvent::Bitfield(bits)
            }
            34..42 => PeerEvent::HaveAll,
            42 => PeerEvent::HaveNone,
            43..47 => {
                let asked = peer
                    .asked
                    .iter()
                    .nth(number as usize % peer.asked.len().max(1));
                match asked.copied() {
                    Some(block) => {
                        peer.asked.remove(&block);
                        PeerEvent::Reject(Request::for_block(&layout, block))
                    }
                    None => PeerEvent::Reject(Request {
                        index: number,
                        begin: input.u32(),
                        length: input.u32(),
                    }),
                }
            }
            47 => PeerEvent::Suggest(number),
            48..50 => PeerEvent::AllowedFast(number),
            50..55 => PeerEvent::Extensions(ExtendedHandshake {
                ut_metadata: (kind & 0x80 == 0).then_some(UT_METADATA),
                metadata_size: match kind & 0xc0 {
                    0xc0 => Some(number),
                    _ => Some(info_len),
                },
                reqq: (number > 0).then_some(number),
                port: Some(1 + input.u16() % 9000),
                upload_only: Some(kind & 0x40 != 0),
                ..ExtendedHandshake::default()
            }),
            55..57 => PeerEvent::HashReject(hash_request.unwrap_or(HashRequest {
                root,
                base: 0,
                index: number,
                count: 2,
                proof_layers: 0,
            })),
            // False hashes, requested from this peer or not.
            57..59 => {
                let (key, ip) = (peer.key, peer.addr.ip());
                self.liars.insert(ip);
                let request = hash_request.unwrap_or(HashRequest {
                    root,
                    base: input.u8().into(),
                    index: number,
                    count: input.u8().into(),
                    proof_layers: input.u8().into(),
                });
                let hashes = vec![MerkleHash::ZERO; usize::from(input.u8())];
                return Some((key, PeerEvent::Hashes { request, hashes }));
            }
            59..61 => PeerEvent::Metadata(OwnedMetadataMessage::Reject { piece: number }),
            _ => {
                let (key, ip) = (peer.key, peer.addr.ip());
                self.liars.insert(ip);
                let message = OwnedMetadataMessage::Data {
                    piece: number,
                    total_size: input.u32(),
                    payload: vec![input.u8(); usize::from(input.u16())].into(),
                };
                return Some((key, PeerEvent::Metadata(message)));
            }
        };
        Some((peer.key, event))
    }

    /// The answer to a hash request, true unless `how` is great.
    pub(super) fn hashes(&mut self, how: u8) -> Option<(PeerKey, PeerEvent)> {
        if self.hash_requests.is_empty() {
            return None;
        }
        let at = usize::from(how) % self.hash_requests.len();
        let (key, request) = self.hash_requests.remove(at);
        let answer = self.truth.answer(&request);
        let mut hashes = answer.expect("the engine asks for hashes there are");
        if how >= 220 {
            let liar = self.by_key(key)?.addr.ip();
            self.liars.insert(liar);
            hashes[usize::from(how) % 2] = leaf(b"a lie");
        }
        Some((key, PeerEvent::Hashes { request, hashes }))
    }

    /// The answer to a metadata request, true unless `how` is great.
    pub(super) fn metadata(&mut self, how: u8) -> Option<(PeerKey, PeerEvent)> {
        if self.metadata_requests.is_empty() {
            return None;
        }
        let at = usize::from(how) % self.metadata_requests.len();
        let (key, piece) = self.metadata_requests.remove(at);
        let total_size = self.truth.info.len() as u32;
        let answer = metadata_piece_size(total_size, piece).filter(|_| how < 240);
        let message = match answer {
            None => OwnedMetadataMessage::Reject { piece },
            Some(len) => {
                let begin = (piece * METADATA_PIECE_LEN) as usize;
                let mut payload = self.truth.info[begin..begin + len as usize].to_vec();
                if how >= 200 {
                    payload[0] ^= 1;
                    let liar = self.by_key(key)?.addr.ip();
                    self.liars.insert(liar);
                }
                OwnedMetadataMessage::Data {
                    piece,
                    total_size,
                    payload: payload.into(),
                }
            }
        };
        Some((key, PeerEvent::Metadata(message)))
    }

    /// A block from a peer: one it was asked for, or any; true or a lie.
    pub(super) fn arrive(
        &mut self,
        which: u8,
        asked: bool,
        n: usize,
        lie: bool,
    ) -> Option<(PeerKey, BlockIndex, MerkleHash)> {
        let all = self.truth.blocks();
        let peer = self.peer(which)?;
        let block = match asked {
            true => *peer.asked.iter().nth(n % peer.asked.len().max(1))?,
            false => all[n % all.len()],
        };
        peer.asked.remove(&block);
        let (key, ip) = (peer.key, peer.addr.ip());
        if lie {
            self.liars.insert(ip);
            return Some((key, block, leaf(b"a lie")));
        }
        Some((key, block, self.truth.leaf(block)))
    }

    /// A piece is to be looked for.
    pub(super) fn look_up(
        &mut self,
        piece: PieceIndex,
        leaves: Option<Vec<MerkleHash>>,
        now: Instant,
    ) {
        assert!(self.reuses, "nothing is held that could be looked through");
        let blocks: Vec<_> = self.truth.layout.blocks(piece).collect();
        for block in &blocks {
            assert!(
                !self.writing.contains_key(block),
                "{block} is being written"
            );
            for peer in &self.peers {
                assert!(!peer.asked.contains(block), "{block} is asked for as well");
            }
        }
        if let Some(leaves) = leaves {
            let truth: Vec<_> = blocks.iter().map(|b| self.truth.leaf(*b)).collect();
            assert_eq!(leaves, truth, "false leaves of {piece}");
        }
        if !self.is_looking() {
            self.last_lookup = Some(now);
        }
        self.lookups.push(piece);
    }

    /// The leaves of what stood at the place of a piece before are to be looked for.
    pub(super) fn recall(&mut self, piece: PieceIndex, nodes: &[MerkleHash], now: Instant) {
        assert!(self.reuses, "nothing is held that could be looked through");
        let blocks = self.truth.layout.blocks(piece);
        let truth: Vec<_> = blocks.map(|block| self.truth.leaf(block)).collect();
        assert_eq!(nodes, fold_layer(&truth, 0, 2), "false nodes of {piece}");
        if !self.is_looking() {
            self.last_lookup = Some(now);
        }
        self.recalls.push(piece);
    }

    pub(super) fn is_looking(&self) -> bool {
        !self.lookups.is_empty() || !self.recalls.is_empty()
    }

    /// The leaves that are held of a piece: the bits say of which blocks, and which are wrong.
    pub(super) fn remember(
        &mut self,
        which: u8,
        found: u32,
        wrong: u32,
        now: Instant,
    ) -> Option<(PieceIndex, Vec<(BlockIndex, MerkleHash)>)> {
        self.give_up_late_lookups(now)?;
        let piece = take(&mut self.recalls, which)?;
        self.last_lookup = Some(now);
        let blocks = self.truth.layout.blocks(piece);
        let held = blocks.filter(|block| bit(found, *block)).map(|block| {
            let is_wrong = bit(wrong, block);
            let held = if is_wrong {
                leaf(b"another block")
            } else {
                self.truth.leaf(block)
            };
            (block, held)
        });
        Some((piece, held.collect()))
    }

    /// After a while without any answer the engine stops looking up. `None` before anything was asked.
    fn give_up_late_lookups(&mut self, now: Instant) -> Option<()> {
        if now >= self.last_lookup? + Duration::from_secs(300) {
            self.lookups.clear();
            self.recalls.clear();
        }
        Some(())
    }

    /// Looks for a piece and puts what it finds at its place.
    pub(super) fn look(
        &mut self,
        which: u8,
        found: u32,
        wrong: u32,
        now: Instant,
    ) -> Option<(PieceIndex, Vec<(BlockIndex, MerkleHash)>)> {
        self.give_up_late_lookups(now)?;
        let piece = take(&mut self.lookups, which)?;
        self.last_lookup = Some(now);
        let adopted: Vec<_> = self
            .truth
            .layout
            .blocks(piece)
            .filter(|block| bit(found, *block) && !self.proven.contains(block))
            .map(|block| match bit(wrong, block) {
                true => (block, leaf(b"a spoilt block")),
                false => (block, self.truth.leaf(block)),
            })
            .collect();
        self.disk.extend(adopted.iter().copied());
        Some((piece, adopted))
    }

    /// What the engine said to a block.
    pub(super) fn judged(
        &mut self,
        key: PeerKey,
        block: BlockIndex,
        leaf: MerkleHash,
        verdict: BlockVerdict,
    ) {
        if verdict == BlockVerdict::Write {
            assert!(self.key.is_some(), "the torrent is removed");
            let gone = self.by_key(key).is_none_or(|peer| peer.gone);
            assert!(!gone, "a block of a peer that has gone is written");
            assert!(!self.proven.contains(&block), "{block} is proven");
            let before = self.writing.insert(block, leaf);
            assert_eq!(before, None, "{block} is being written");
        }
    }

    /// Makes the proven blocks of a piece unproven.
    pub(super) fn lose(&mut self, n: u16) -> Vec<BlockIndex> {
        let piece = self
            .proven
            .iter()
            .nth(usize::from(n) % self.proven.len().max(1))
            .map(|block| block.piece());
        let lost: Vec<_> = self
            .proven
            .iter()
            .copied()
            .filter(|block| Some(block.piece()) == piece)
            .collect();
        for block in &lost {
            self.proven.remove(block);
            self.disk.remove(block);
        }
        lost
    }

    /// A message to a peer.
    pub(super) fn sent(&mut self, key: PeerKey, command: Command) {
        let Some(peer) = self.peers.iter_mut().find(|peer| peer.key == key) else {
            panic!("a message to an unknown peer");
        };
        if peer.gone {
            // Said before the peer was found to be gone.
            return;
        }
        match command {
            Command::Request(blocks) => {
                for block in blocks {
                    assert!(!self.proven.contains(&block), "{block} is proven");
                    assert!(
                        !self.writing.contains_key(&block),
                        "{block} is being written"
                    );
                    assert!(peer.asked.insert(block), "{block} is asked for twice");
                }
            }
            Command::Cancel(blocks) => {
                for block in blocks {
                    peer.asked.remove(&block);
                }
            }
            Command::HashRequest(request) => self.hash_requests.push((key, request)),
            Command::Metadata(OwnedMetadataMessage::Request { piece }) => {
                self.metadata_requests.push((key, piece));
            }
            Command::Have(pieces) => {
                for piece in pieces {
                    for block in self.truth.layout.blocks(piece) {
                        assert!(self.proven.contains(&block), "{block} is not here");
                    }
                }
            }
            _ => {}
        }
    }

    /// Blocks the engine calls proven.
    pub(super) fn prove(&mut self, piece: PieceIndex, first_block: u16, leaves: &[MerkleHash]) {
        assert!(!leaves.is_empty());
        for (n, leaf) in (u32::from(first_block)..).zip(leaves) {
            let block = self
                .truth
                .layout
                .block(piece, n)
                .expect("a block with content");
            assert_eq!(*leaf, self.truth.leaf(block), "{block} is false");
            assert_eq!(self.disk.get(&block), Some(leaf), "{block} is not on disk");
            assert!(self.proven.insert(block), "{block} is proven twice");
        }
    }

    /// The engine takes back what was proven.
    pub(super) fn revoke(&mut self, blocks: &[BlockIndex]) {
        assert!(!blocks.is_empty());
        for block in blocks {
            assert!(self.proven.remove(block), "{block} was not proven");
        }
    }

    pub(super) fn is_complete(&self) -> bool {
        self.truth
            .blocks()
            .iter()
            .all(|block| self.proven.contains(block))
    }

    /// Holds the engine's numbers against what is known here.
    pub(super) fn check(&self, status: Option<TorrentStatus>) {
        assert_eq!(status.is_some(), self.key.is_some());
        let Some(status) = status else {
            return;
        };
        let layout = &self.truth.layout;
        let verified: u64 = self
            .proven
            .iter()
            .map(|block| u64::from(layout.block_size(*block)))
            .sum();
        assert_eq!(status.bytes_verified, verified);
        let connected = self.peers.iter().filter(|peer| !peer.gone).count();
        assert_eq!(status.peers, connected);
        // A dial does not count any more when the peer connected meanwhile.
        assert!(status.dialling <= self.dialling.len());
        assert!(status.wasted <= status.downloaded);
    }
}

/// Returns whether the bits say this block.
fn bit(bits: u32, block: BlockIndex) -> bool {
    bits >> (block.in_piece() % 32) & 1 == 1
}

/// One of them, whichever the number says.
fn take(pieces: &mut Vec<PieceIndex>, which: u8) -> Option<PieceIndex> {
    let at = usize::from(which).checked_rem(pieces.len())?;
    Some(pieces.swap_remove(at))
}
