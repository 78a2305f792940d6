//! Requests leaves below coarse nodes that differ from older content. See [`crate::pieces::descent`].

use bittorrent_protocol::merkle::{self, CheckedRequest, HashRequest, ProofFault};
use bittorrent_protocol::{BlockIndex, Layout, MerkleHash, PieceIndex};

use super::context::Context;
use super::reuse::piece_run;
use crate::api::keys::PeerKey;
use crate::api::output::Output;
use crate::peer::{HashPurpose, Peer};
use crate::pieces::descent::{Descent, GROUP, LAYER, LeafRange};
use crate::pieces::open_piece::PieceStage;

/// Requests leaves below coarse nodes that differ from older content.
pub(super) struct Descending<'c, 'a> {
    cx: &'c mut Context<'a>,
}

impl<'c, 'a> Descending<'c, 'a> {
    pub(super) fn new(cx: &'c mut Context<'a>) -> Self {
        Self { cx }
    }

    /// Handles a peer's answer to a request for coarse nodes; its proof is still unchecked.
    pub(super) fn nodes_learnt(
        &mut self,
        key: PeerKey,
        request: &CheckedRequest,
        (first, pieces): (PieceIndex, u32),
        hashes: &[MerkleHash],
    ) -> Result<(), ProofFault> {
        let now = self.cx.now;
        let nodes = self
            .cx
            .reuse()
            .proven_below(key, request, (first, pieces), hashes)?;
        let transfer = &mut *self.cx.transfer;
        let low = merkle::piece_height(&transfer.layout, first);
        let run = piece_run(transfer, first, pieces);
        for (piece, nodes) in run.into_iter().zip(nodes.chunks(1 << (low - LAYER))) {
            let (Some(reuse), Some(open_piece)) =
                (&mut transfer.reuse, transfer.open_pieces.get_mut(&piece))
            else {
                continue;
            };
            if !matches!(open_piece.stage, PieceStage::RequestingLeaves(_)) {
                continue;
            }
            let blocks = transfer.layout.block_count(piece);
            let count = (blocks as usize).div_ceil(GROUP);
            let nodes = nodes.get(..count).unwrap_or(nodes).to_vec();
            open_piece.stage =
                PieceStage::LookingUpLeaves(Box::new(Descent::new(nodes.clone(), blocks)));
            reuse.asked(now);
            self.cx.shared.emit(Output::LookupLeaves {
                torrent: self.cx.swarm.key,
                piece,
                nodes,
            });
        }
        Ok(())
    }

    pub(super) fn handle_leaves_looked_up(
        &mut self,
        piece: PieceIndex,
        held: &[(BlockIndex, MerkleHash)],
    ) {
        let now = self.cx.now;
        let transfer = &mut *self.cx.transfer;
        let (Some(reuse), Some(open_piece)) =
            (&mut transfer.reuse, transfer.open_pieces.get_mut(&piece))
        else {
            return;
        };
        match std::mem::take(&mut open_piece.stage) {
            PieceStage::LookingUpLeaves(mut descent) => {
                reuse.answered(now);
                let held = held.iter().filter(|(block, _)| block.piece() == piece);
                let (differ, of) =
                    descent.recall(held.map(|(block, leaf)| (block.in_piece(), *leaf)));
                reuse.count_differing(differ, of);
                reuse.descending.insert(piece);
                open_piece.stage = PieceStage::Descending(descent);
                self.cx.swarm.ask_hashes = true;
                self.end_descent(piece);
            }
            other => open_piece.stage = other,
        }
    }

    /// Requests the leaves below nodes that differ.
    pub(super) fn ask_below(&mut self) {
        let now = self.cx.now;
        let transfer = &mut *self.cx.transfer;
        let Some(reuse) = &mut transfer.reuse else {
            return;
        };
        let mut stranded = Vec::new();
        let mut asked = Vec::new();
        for piece in &reuse.descending {
            if !self.cx.swarm.peers.values().any(Peer::can_give_below) {
                break;
            }
            let Some(open_piece) = transfer.open_pieces.get_mut(piece) else {
                asked.push(*piece);
                continue;
            };
            let PieceStage::Descending(descent) = &mut open_piece.stage else {
                asked.push(*piece);
                continue;
            };
            let able = |peer: &&mut Peer| peer.may_give_leaves() && peer.has(*piece);
            let mut able: Vec<&mut Peer> = self.cx.swarm.peers.values_mut().filter(able).collect();
            if able.is_empty() {
                stranded.push(*piece);
                continue;
            }
            while descent.has_wanted() {
                let free = able.iter_mut().filter(|peer| peer.can_give_below());
                let Some(peer) = free.min_by_key(|peer| peer.hash_waits.len()) else {
                    break;
                };
                let Some((range, request)) = descent
                    .ask()
                    .and_then(|range| Some((range, request(&transfer.layout, *piece, range)?)))
                else {
                    debug_assert!(false, "leaves that cannot be asked for");
                    stranded.push(*piece);
                    break;
                };
                peer.request_hashes(
                    request,
                    HashPurpose::Below(*piece, range),
                    self.cx.shared,
                    now,
                );
            }
            if !descent.has_wanted() {
                asked.push(*piece);
            }
        }
        for piece in asked {
            reuse.descending.remove(&piece);
        }
        for piece in stranded {
            self.descent_failed(piece);
        }
    }

    /// Handles a peer's answer to a request for leaves below nodes; its proof is still unchecked.
    pub(super) fn below_learnt(
        &mut self,
        key: PeerKey,
        request: &CheckedRequest,
        (piece, range): (PieceIndex, LeafRange),
        hashes: &[MerkleHash],
    ) -> Result<(), ProofFault> {
        let Some(open_piece) = self.cx.transfer.open_pieces.get_mut(&piece) else {
            return Ok(());
        };
        // If the descent was given up meanwhile, the leaves are not needed any more.
        let PieceStage::Descending(descent) = &mut open_piece.stage else {
            return Ok(());
        };
        let node = descent.node(range);
        let leaves = match request.verify(hashes, |_, _| node) {
            Ok(leaves) => leaves,
            Err(fault) => {
                self.descent_failed(piece);
                return Err(fault);
            }
        };
        descent.learn(range, leaves);
        if let Some(peer) = self.cx.swarm.peers.get_mut(&key) {
            peer.leaves_given();
        }
        self.end_descent(piece);
        Ok(())
    }

    /// Looks up the blocks of a piece once all its leaves are known.
    fn end_descent(&mut self, piece: PieceIndex) {
        let Some(open_piece) = self.cx.transfer.open_pieces.get(&piece) else {
            return;
        };
        let PieceStage::Descending(descent) = &open_piece.stage else {
            return;
        };
        if let Some(leaves) = descent.leaves() {
            self.cx.false_data().apply_leaves(piece, &leaves);
            self.cx.reuse().look_for_blocks(piece, &leaves);
        }
    }

    /// Starts a piece again whose leaves below nodes no peer sends.
    pub(super) fn descent_failed(&mut self, piece: PieceIndex) {
        let transfer = &mut *self.cx.transfer;
        let descends = transfer
            .open_pieces
            .get(&piece)
            .is_some_and(|open_piece| matches!(open_piece.stage, PieceStage::Descending(_)));
        if descends {
            transfer.return_to_search(piece);
        }
        self.cx.swarm.ask_hashes = true;
        self.cx.swarm.wake_starved = true;
    }
}

/// The request for some leaves of a piece; it needs no uncles.
fn request(layout: &Layout, piece: PieceIndex, range: LeafRange) -> Option<CheckedRequest> {
    let file = layout.file(layout.file_of(piece));
    let before = piece.get() - file.piece_indices().next()?.get();
    let index = before.checked_mul(1 << merkle::piece_height(layout, piece))?;
    let index = index.checked_add(range.first.into())?;
    let height = range.width.checked_ilog2()? as u8;
    HashRequest::anchored(file, 0, index, range.width.into(), height).ok()
}
