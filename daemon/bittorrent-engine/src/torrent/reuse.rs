//! Finds missing pieces in older content. See [`crate::pieces::reuse`] for the steps of a piece.

use bittorrent_protocol::merkle::{self, CheckedRequest, HashRequest, ProofFault};
use bittorrent_protocol::{BlockIndex, MerkleHash, PieceIndex};

use super::context::Context;
use super::hashes::{PATIENCE, PER_PEER};
use crate::api::config::Config;
use crate::api::input::Link;
use crate::api::keys::PeerKey;
use crate::api::output::Output;
use crate::peer::{HashPurpose, LeafSupport};
use crate::pieces::descent::{GROUP, LAYER};
use crate::pieces::layers::piece_range;
use crate::pieces::open_piece::{BlockState, PieceStage};
use crate::pieces::piece_set::PieceSet;
use crate::pieces::transfer::Transfer;

/// Leaves in one request for those of several pieces; a single long piece may have more. What BEP
/// 52 advises.
const LEAVES_AT_ONCE: u32 = 512;
/// The least layers between leaves and piece for which coarser nodes are requested first.
const LEAST_HEIGHT: u8 = LAYER + 2;
/// Most open pieces whose leaves are requested: more would only make them slow to search.
const MOST_PIECES: usize = 1_024;
/// Most pieces of which one peer is asked for a block, or for leaves after that.
const MOST_PROBES: usize = 16;
/// How many pieces are looked at to find those a peer must be asked a block of.
const PROBE_SEARCH: usize = 256;
/// Where no peer sends leaves, this many blocks are made ready to request. If a peer that sends them connects
/// later, the rest can still be looked up.
const READY_AHEAD: u32 = 1 << 14;

/// Looks up pieces and blocks in older content.
pub(super) struct ReuseSearch<'c, 'a> {
    cx: &'c mut Context<'a>,
}

impl<'c, 'a> ReuseSearch<'c, 'a> {
    pub(super) fn new(cx: &'c mut Context<'a>) -> Self {
        Self { cx }
    }

    /// Emits the look-ups of whole pieces that can start now.
    pub(super) fn look_up(&mut self) {
        let now = self.cx.now;
        if self.cx.is_at_rest() {
            return;
        }
        let transfer = &mut *self.cx.transfer;
        let most = self.cx.shared.config.max_lookup_blocks;
        while let Some(reuse) = &mut transfer.reuse
            && let Some(piece) = reuse.look_up_next(&transfer.layout, most, now)
        {
            self.cx.shared.emit(Output::Lookup {
                torrent: self.cx.swarm.key,
                piece,
                leaves: None,
            });
        }
    }

    pub(super) fn handle_looked_up(
        &mut self,
        piece: PieceIndex,
        adopted: &[(BlockIndex, MerkleHash)],
    ) {
        let now = self.cx.now;
        let transfer = &mut *self.cx.transfer;
        let Some(reuse) = &mut transfer.reuse else {
            return;
        };
        if reuse.answered_whole(piece) {
            reuse.answered(now);
            self.whole_looked_up(piece, adopted);
        } else if let Some(open_piece) = transfer.open_pieces.get_mut(&piece)
            && matches!(open_piece.stage, PieceStage::LookingUpBlocks)
        {
            reuse.answered(now);
            open_piece.stage = PieceStage::Collecting;
            for (block, leaf) in adopted {
                if block.piece() == piece && open_piece.adopt(block.in_piece(), *leaf) {
                    transfer.bytes_reused += u64::from(transfer.layout.block_size(*block));
                }
            }
            if !reuse.descends() {
                // Shows when most of the content is in older content again.
                let (differ, of) = open_piece.groups_missing(GROUP);
                reuse.count_differing(differ, of);
            }
            transfer.reopen(piece);
            self.cx.swarm.wake_starved = true;
            self.cx.swarm.ask_hashes = true;
            self.cx.blocks().prove(piece);
        }
    }

    /// Accepts a piece that was looked up as a whole if all of it was found and folds to its hash.
    fn whole_looked_up(&mut self, piece: PieceIndex, adopted: &[(BlockIndex, MerkleHash)]) {
        let transfer = &mut *self.cx.transfer;
        let blocks = transfer.layout.block_count(piece);
        let mut leaves = vec![None; blocks as usize];
        for (block, leaf) in adopted.iter().filter(|(block, _)| block.piece() == piece) {
            if let Some(slot) = leaves.get_mut(usize::from(block.in_piece())) {
                *slot = Some(*leaf);
            }
        }
        let leaves: Option<Vec<MerkleHash>> = leaves.into_iter().collect();
        let hash = transfer.layers.piece_hash(&transfer.layout, piece);
        let found = leaves.filter(|leaves| {
            hash.is_some_and(|hash| hash == merkle::piece_hash(leaves, &transfer.layout, piece))
        });
        if let Some(leaves) = found {
            let size = u64::from(transfer.layout.piece_size(piece));
            transfer.bytes_verified += size;
            transfer.bytes_proven += size;
            transfer.bytes_reused += size;
            self.cx.shared.emit(Output::Proven {
                torrent: self.cx.swarm.key,
                piece,
                first_block: 0,
                leaves,
            });
            self.cx.blocks().finish(piece);
        } else if blocks == 1 {
            // Its one leaf is its hash: there is nothing more to look up.
            transfer.offer(piece);
            self.cx.swarm.wake_starved = true;
        } else {
            if let Some(reuse) = &mut transfer.reuse {
                reuse.insert(piece, true);
            }
            self.cx.swarm.ask_hashes = true;
            // Peers that must be asked for a block first.
            self.cx.swarm.wake_starved = true;
        }
    }

    /// Requests the leaves of pieces that were not found as a whole.
    pub(super) fn learn_leaves(&mut self) {
        let now = self.cx.now;
        self.ask_probed();
        self.cx.descent().ask_below();
        let transfer = &mut *self.cx.transfer;
        // One each in turn, so that the requests spread over the peers.
        let mut asked = true;
        while asked {
            asked = false;
            for peer in self.cx.swarm.peers.values_mut() {
                if transfer
                    .reuse
                    .as_ref()
                    .is_none_or(|reuse| !reuse.has_unlike())
                {
                    return;
                }
                if peer.leaf_support != LeafSupport::Yes
                    || !peer.can_give_hashes(PER_PEER, now)
                    || !may_begin(transfer, &self.cx.shared.config, peer.pipeline.is_empty())
                {
                    continue;
                }
                let Some(have) = peer.pieces() else {
                    continue;
                };
                let Some((first, pieces, request)) = next_batch(transfer, have, peer.answers_nodes)
                else {
                    continue;
                };
                let purpose = match request.base() {
                    0 => HashPurpose::Reuse(first, pieces),
                    _ => HashPurpose::Nodes(first, pieces),
                };
                for piece in piece_run(transfer, first, pieces) {
                    transfer.begin_reuse(piece, PieceStage::RequestingLeaves(peer.key));
                }
                peer.request_hashes(request, purpose, self.cx.shared, now);
                asked = true;
            }
        }
    }

    /// Requests the leaves of pieces from peers that have sent a block of them.
    fn ask_probed(&mut self) {
        let now = self.cx.now;
        let transfer = &mut *self.cx.transfer;
        let Some(reuse) = &mut transfer.reuse else {
            return;
        };
        let mut stranded = Vec::new();
        reuse.probing.retain(|piece| {
            let Some(open_piece) = transfer.open_pieces.get_mut(piece) else {
                return false;
            };
            let PieceStage::Probing(key) = open_piece.stage else {
                return false;
            };
            if !open_piece.is_settled()
                || open_piece
                    .slots()
                    .any(|(_, s)| s.state == BlockState::Requested)
            {
                return true;
            }
            let Some(peer) = self.cx.swarm.peers.get_mut(&key) else {
                stranded.push(*piece);
                return false;
            };
            if peer.hash_waits.len() >= PER_PEER {
                return true;
            }
            match crate::pieces::leaves::leaf_request(&transfer.layout, *piece) {
                Some(request) => {
                    open_piece.stage = PieceStage::RequestingLeaves(key);
                    peer.request_hashes(
                        request,
                        HashPurpose::Reuse(*piece, 1),
                        self.cx.shared,
                        now,
                    );
                }
                None => stranded.push(*piece),
            }
            false
        });
        for piece in stranded {
            transfer.return_to_search(piece);
        }
    }

    /// Returns the pieces of which this peer must be asked for a block before it sends their leaves, because
    /// no other peer can.
    pub(super) fn choose_probes(&self, key: PeerKey) -> Vec<PieceIndex> {
        let transfer = &*self.cx.transfer;
        let Some(peer) = self.cx.swarm.peers.get(&key) else {
            return Vec::new();
        };
        let (Some(reuse), Some(have)) = (&transfer.reuse, peer.pieces()) else {
            return Vec::new();
        };
        if peer.leaf_support != LeafSupport::AfterBlock
            || peer.choking_us
            || !reuse.has_unlike()
            || !may_begin(transfer, &self.cx.shared.config, peer.pipeline.is_empty())
        {
            return Vec::new();
        }
        let is_its = |open_piece: &&crate::pieces::open_piece::OpenPiece| match open_piece.stage {
            PieceStage::Probing(of) | PieceStage::RequestingLeaves(of) => of == key,
            _ => false,
        };
        let under_way = transfer.open_pieces.values().filter(is_its).count();
        let others: Vec<&PieceSet> = self
            .cx
            .swarm
            .peers
            .values()
            .filter(|peer| peer.link == Link::V2 && peer.leaf_support == LeafSupport::Yes)
            .filter_map(|peer| peer.pieces())
            .collect();
        reuse
            .unlike_in(have, &transfer.layout)
            .take(PROBE_SEARCH)
            .filter(|piece| !peer.refuses(*piece))
            .filter(|piece| !others.iter().any(|have| have.contains(*piece)))
            .take(MOST_PROBES.saturating_sub(under_way))
            .collect()
    }

    /// Returns the hashes that a peer sent, if they fold to what is known of these pieces.
    pub(super) fn proven_below<'h>(
        &mut self,
        key: PeerKey,
        request: &CheckedRequest,
        (first, pieces): (PieceIndex, u32),
        hashes: &'h [MerkleHash],
    ) -> Result<&'h [MerkleHash], ProofFault> {
        let node = known_above(self.cx.transfer, request, (first, pieces));
        let proven = request.verify(hashes, |_, _| node);
        if proven.is_err() {
            self.leaves_not_learnt(key, first, pieces);
        }
        proven
    }

    /// Handles a peer's answer to a request for leaves; its proof is still unchecked.
    pub(super) fn leaves_learnt(
        &mut self,
        key: PeerKey,
        request: &CheckedRequest,
        (first, pieces): (PieceIndex, u32),
        hashes: &[MerkleHash],
    ) -> Result<(), ProofFault> {
        let leaves = self.proven_below(key, request, (first, pieces), hashes)?;
        let transfer = &*self.cx.transfer;
        let run = piece_run(transfer, first, pieces);
        let low = merkle::piece_height(&transfer.layout, first);
        let counts: Vec<usize> = run
            .iter()
            .map(|piece| transfer.layout.block_count(*piece) as usize)
            .collect();
        if let Some(peer) = self.cx.swarm.peers.get_mut(&key) {
            peer.leaves_given();
        }
        for ((piece, leaves), count) in run.into_iter().zip(leaves.chunks(1 << low)).zip(counts) {
            let waiting = self
                .cx
                .transfer
                .open_pieces
                .get(&piece)
                .is_some_and(|open_piece| {
                    matches!(open_piece.stage, PieceStage::RequestingLeaves(_))
                });
            if waiting {
                let leaves = leaves.get(..count).unwrap_or(leaves);
                self.cx.false_data().apply_leaves(piece, leaves);
                self.look_for_blocks(piece, leaves);
            }
        }
        Ok(())
    }

    /// Looks up the missing blocks of a piece by its proven leaves.
    pub(super) fn look_for_blocks(&mut self, piece: PieceIndex, leaves: &[MerkleHash]) {
        let now = self.cx.now;
        let transfer = &mut *self.cx.transfer;
        if let (Some(reuse), Some(open_piece)) =
            (&mut transfer.reuse, transfer.open_pieces.get_mut(&piece))
        {
            open_piece.stage = PieceStage::LookingUpBlocks;
            reuse.asked(now);
            transfer.reopen(piece);
            self.cx.shared.emit(Output::Lookup {
                torrent: self.cx.swarm.key,
                piece,
                leaves: Some(leaves.to_vec()),
            });
        }
    }

    /// Handles pieces whose leaves a peer does not send.
    pub(super) fn leaves_not_learnt(&mut self, key: PeerKey, first: PieceIndex, pieces: u32) {
        let transfer = &mut *self.cx.transfer;
        for piece in piece_run(transfer, first, pieces) {
            let Some(open_piece) = transfer.open_pieces.get_mut(&piece) else {
                continue;
            };
            if !matches!(open_piece.stage, PieceStage::RequestingLeaves(of) if of == key) {
                continue;
            }
            if open_piece
                .slots()
                .any(|(_, slot)| slot.state == BlockState::Written)
            {
                // Not even after a block of it: the rest is requested as well.
                open_piece.stage = PieceStage::Collecting;
                transfer.reopen(piece);
            } else {
                transfer.return_to_search(piece);
            }
        }
        self.cx.swarm.ask_hashes = true;
        self.cx.swarm.wake_starved = true;
    }

    /// Gives up look-ups that the caller does not answer, and leaves that no peer sends.
    pub(super) fn tick_reuse(&mut self) {
        let now = self.cx.now;
        let transfer = &mut *self.cx.transfer;
        let Some(reuse) = &mut transfer.reuse else {
            return;
        };
        if reuse.is_overdue(self.cx.shared.config.lookup_timeout, now) {
            transfer.end_reuse();
            self.cx.swarm.wake_starved = true;
            return;
        }
        let layout = &transfer.layout;
        let with_some: Vec<_> = self
            .cx
            .swarm
            .peers
            .values()
            .filter(|peer| {
                peer.pieces()
                    .is_some_and(|have| reuse.unlike_in(have, layout).next().is_some())
            })
            .collect();
        let gives = with_some.iter().any(|peer| {
            peer.link == Link::V2
                && match peer.leaf_support {
                    LeafSupport::Yes => true,
                    LeafSupport::AfterBlock => !peer.choking_us,
                    LeafSupport::No => false,
                }
        });
        if gives || with_some.is_empty() {
            reuse.no_leaves_since = None;
            return;
        }
        if *reuse.no_leaves_since.get_or_insert(now) + PATIENCE > now {
            return;
        }
        let most = (READY_AHEAD / layout.piece_length().blocks()).max(1);
        let room = most.saturating_sub(transfer.picker.ready()) as usize;
        let pieces: Vec<_> = with_some
            .iter()
            .filter_map(|peer| peer.pieces())
            .flat_map(|have| reuse.unlike_in(have, layout).take(room))
            .take(room)
            .collect();
        for piece in pieces {
            if let Some(reuse) = &mut transfer.reuse {
                reuse.take_unlike(piece);
            }
            transfer.offer(piece);
            self.cx.swarm.wake_starved = true;
        }
    }
}

/// Returns whether one more piece may be opened to request its leaves. `idle` is whether the peer has no
/// requests.
fn may_begin(transfer: &Transfer, config: &Config, idle: bool) -> bool {
    let begun = transfer.begun_blocks - transfer.unproven_blocks;
    let few = begun < config.max_reuse_blocks && transfer.open_pieces.len() < MOST_PIECES;
    // Pieces of peers that are gone must not keep an idle peer idle.
    few || (idle
        && !transfer
            .open_pieces
            .values()
            .any(|open_piece| open_piece.is_looked_for()))
}

/// The node above the hashes of these pieces. Without uncles, it is all that a request is about.
fn known_above(
    transfer: &Transfer,
    request: &CheckedRequest,
    (first, pieces): (PieceIndex, u32),
) -> Option<MerkleHash> {
    let known: Option<Vec<MerkleHash>> = piece_run(transfer, first, pieces)
        .iter()
        .map(|piece| transfer.layers.piece_hash(&transfer.layout, *piece))
        .collect();
    let low = merkle::piece_height(&transfer.layout, first);
    known.map(|known| merkle::fold(&known, low, request.anchor_layer().saturating_sub(low)))
}

/// So many pieces from one on.
pub(super) fn piece_run(transfer: &Transfer, first: PieceIndex, pieces: u32) -> Vec<PieceIndex> {
    (first.get()..)
        .take(pieces as usize)
        .filter_map(|number| transfer.layout.piece(number))
        .collect()
}

/// Returns the next request for leaves to a peer with these pieces: as many neighbouring pieces as one request
/// takes; or for coarser nodes above the leaves, where the peer sends them and that costs less.
fn next_batch(
    transfer: &mut Transfer,
    have: &PieceSet,
    answers_nodes: bool,
) -> Option<(PieceIndex, u32, CheckedRequest)> {
    loop {
        let layout = &transfer.layout;
        let reuse = transfer.reuse.as_ref()?;
        let piece = reuse.unlike_in(have, layout).next()?;
        let file = layout.file(layout.file_of(piece));
        let in_file = piece_range(file);
        let wanted = |number: u32| {
            layout
                .piece(number)
                .is_some_and(|piece| reuse.is_unlike(piece) && have.contains(piece))
        };
        let low = merkle::piece_height(layout, piece);
        // At most 2^14 blocks a piece.
        let per_piece = 1_u32 << low;
        let mut number = piece.get() - in_file.start;
        let mut width = 1;
        loop {
            let twice = width * 2;
            let first = number / twice * twice;
            let pieces = in_file.start + first..in_file.end.min(in_file.start + first + twice);
            if twice * per_piece > LEAVES_AT_ONCE
                || twice > file.pieces().next_power_of_two()
                || !pieces.into_iter().all(wanted)
            {
                break;
            }
            (number, width) = (first, twice);
        }
        let height = low + width.trailing_zeros() as u8;
        let coarse = answers_nodes && low >= LEAST_HEIGHT && reuse.descends();
        let base = if coarse { LAYER } else { 0 };
        let request = number.checked_mul(per_piece >> base).and_then(|index| {
            HashRequest::anchored(file, base, index, (width * per_piece) >> base, height).ok()
        });
        let Some(request) = request else {
            // More leaves than peers send: the piece is downloaded as if there were no older content.
            if let Some(reuse) = &mut transfer.reuse {
                reuse.take_unlike(piece);
            }
            transfer.offer(piece);
            continue;
        };
        let first = layout.piece(in_file.start + number)?;
        return Some((first, width.min(file.pieces() - number), request));
    }
}
