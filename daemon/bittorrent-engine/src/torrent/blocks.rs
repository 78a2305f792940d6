//! Blocks that arrive, are written and are proven.

use std::time::Instant;

use bittorrent_protocol::{BlockIndex, MerkleHash, PieceIndex, merkle};

use super::Torrent;
use crate::api::input::{PieceLeaves, WriteFailed};
use crate::api::keys::PeerKey;
use crate::api::output::{Blame, BlockVerdict, Discard, Output, StopReason};
use crate::pieces::open_piece::{BlockState, PieceStage};
use crate::pieces::transfer::run_size;
use crate::shared::Shared;

impl Torrent {
    pub(crate) fn handle_block(
        &mut self,
        key: PeerKey,
        block: BlockIndex,
        leaf: MerkleHash,
        shared: &mut Shared,
        now: Instant,
    ) -> BlockVerdict {
        self.wake(key);
        let verdict = self.decide_block(key, block, leaf, shared, now);
        if let Some(transfer) = &self.transfer {
            let size = u64::from(transfer.layout.block_size(block));
            self.down.add(size);
            if verdict != BlockVerdict::Write {
                self.wasted += size;
            }
        }
        verdict
    }

    fn decide_block(
        &mut self,
        key: PeerKey,
        block: BlockIndex,
        leaf: MerkleHash,
        shared: &mut Shared,
        now: Instant,
    ) -> BlockVerdict {
        let Some(transfer) = &mut self.transfer else {
            return BlockVerdict::Discard(Discard::Unrequested);
        };
        let Some(peer) = self.peers.get_mut(&key) else {
            return BlockVerdict::Discard(Discard::UnknownPeer);
        };
        let piece = block.piece();
        let size = u64::from(transfer.layout.block_size(block));
        peer.down.add(size);
        let asked = peer.pipeline.arrive(block, now);
        let addr = peer.addr;
        let Some(waited) = asked else {
            return BlockVerdict::Discard(Discard::Unrequested);
        };
        peer.delivered();
        if transfer.have.contains(piece) {
            return BlockVerdict::Discard(Discard::Duplicate);
        }
        let Some(open_piece) = transfer.open_pieces.get_mut(&piece) else {
            return BlockVerdict::Discard(Discard::Unrequested);
        };
        let state = open_piece.slot(block.in_piece()).state;
        if open_piece.is_looked_for() && state == BlockState::Missing {
            // Late: what is at its place may be found elsewhere at this moment.
            return BlockVerdict::Discard(Discard::Unrequested);
        }
        match state {
            BlockState::Missing | BlockState::Requested => {}
            BlockState::Arrived | BlockState::Written | BlockState::Verified => {
                return BlockVerdict::Discard(Discard::Duplicate);
            }
        }
        if self.stopped.is_some() {
            if waited {
                self.release_block(block);
            }
            return BlockVerdict::Discard(Discard::Stopped);
        }
        if open_piece.solo && open_piece.exclusive != Some(key) {
            // Two senders in a piece that is to show whether one of them lies.
            if waited {
                self.release_block(block);
            }
            return BlockVerdict::Discard(Discard::Unrequested);
        }
        let is_false = if open_piece.is_proven() {
            open_piece.slot(block.in_piece()).leaf != leaf
        } else if open_piece.blocks() == 1 {
            // The hash of such a piece follows from its one leaf.
            transfer
                .layers
                .piece_hash(&transfer.layout, piece)
                .is_some_and(|hash| hash != merkle::piece_hash(&[leaf], &transfer.layout, piece))
        } else {
            false
        };
        if is_false {
            if waited {
                self.release_block(block);
            }
            self.ban(addr, Blame::Block(block), shared, now);
            return BlockVerdict::Discard(Discard::False);
        }
        let sender = *peer
            .sender
            .get_or_insert_with(|| transfer.senders.name(addr));
        peer.last_use = now;
        let requests = open_piece.arrive(block.in_piece(), leaf, sender);
        let collected = open_piece.is_collected();
        if open_piece.missing() == 0 {
            transfer.requestable.remove(&piece);
        }
        if requests > u8::from(waited) {
            self.cancel_others(block, shared);
        }
        if collected {
            self.collected(piece, shared, now);
        }
        BlockVerdict::Write
    }

    /// Every block of a piece is here: is it the piece?
    pub(super) fn collected(&mut self, piece: PieceIndex, shared: &mut Shared, now: Instant) {
        let Some(transfer) = &mut self.transfer else {
            return;
        };
        let Some(open_piece) = transfer.open_pieces.get_mut(&piece) else {
            return;
        };
        if !open_piece.is_proven() {
            let was_unproven = matches!(open_piece.stage, PieceStage::Unproven);
            let hash = transfer.layers.piece_hash(&transfer.layout, piece);
            let found = merkle::piece_hash(&open_piece.leaves(), &transfer.layout, piece);
            open_piece.stage = match hash {
                None => PieceStage::Unproven,
                Some(hash) if hash == found => {
                    open_piece.accept_leaves();
                    PieceStage::Collecting
                }
                Some(_) => PieceStage::False,
            };
            let is_unproven = matches!(open_piece.stage, PieceStage::Unproven);
            if is_unproven != was_unproven {
                transfer.count_unproven(piece, is_unproven);
            }
            self.convict_suspects(piece, shared, now);
        }
        self.advance(piece, shared, now);
    }

    /// Takes the next step with a piece all of whose blocks are here, once no write is under way.
    pub(super) fn advance(&mut self, piece: PieceIndex, shared: &mut Shared, now: Instant) {
        let Some(transfer) = &mut self.transfer else {
            return;
        };
        let Some(open_piece) = transfer.open_pieces.get(&piece) else {
            return;
        };
        if !open_piece.is_collected() || !open_piece.is_settled() {
            return;
        }
        match open_piece.stage {
            PieceStage::Collecting => {
                if open_piece.is_proven() {
                    self.prove(piece, shared, now);
                }
            }
            PieceStage::Unproven => self.fold_file(piece, shared, now),
            PieceStage::False => self.judge_piece(piece, shared, now),
            PieceStage::FindingFalseBlocks(_)
            | PieceStage::Probing(_)
            | PieceStage::RequestingLeaves(_)
            | PieceStage::LookingUpLeaves(_)
            | PieceStage::Descending(_)
            | PieceStage::LookingUpBlocks => {}
        }
    }

    /// Reports the written blocks of a piece whose leaves are proven.
    pub(super) fn prove(&mut self, piece: PieceIndex, shared: &mut Shared, now: Instant) {
        let Some(transfer) = &mut self.transfer else {
            return;
        };
        let Some(open_piece) = transfer.open_pieces.get_mut(&piece) else {
            return;
        };
        for (first_block, leaves) in open_piece.verify() {
            let layout = &transfer.layout;
            let size = run_size(layout, piece, first_block, leaves.len());
            transfer.bytes_verified += size;
            transfer.bytes_proven += size;
            shared.emit(Output::Proven {
                torrent: self.key,
                piece,
                first_block,
                leaves,
            });
        }
        if open_piece.is_verified() {
            self.finish(piece, shared, now);
        }
    }

    /// A piece is whole.
    pub(super) fn finish(&mut self, piece: PieceIndex, shared: &mut Shared, now: Instant) {
        let Some(transfer) = &mut self.transfer else {
            return;
        };
        let first = transfer.have.is_empty();
        transfer.finish(piece);
        self.unannounced.push(piece);
        let complete = transfer.is_complete();
        let keys: Vec<_> = self
            .peers
            .values_mut()
            .filter_map(|peer| {
                let has = peer.has(piece);
                if has {
                    peer.offers = peer.offers.saturating_sub(1);
                }
                (has && peer.offers == 0).then_some(peer.key)
            })
            .collect();
        for key in keys {
            self.update_interest(key, shared);
        }
        if first {
            // From here on there is something to upload.
            shared.slots_changed = true;
        }
        if complete {
            shared.emit(Output::Complete { torrent: self.key });
            let keys: Vec<_> = self.peers.keys().copied().collect();
            for key in keys {
                self.drop_if_redundant(key, shared, now);
            }
        }
    }

    pub(crate) fn handle_written(
        &mut self,
        block: BlockIndex,
        result: Result<(), WriteFailed>,
        shared: &mut Shared,
        now: Instant,
    ) {
        match result {
            Ok(()) => self.block_written(block, shared, now),
            Err(WriteFailed) => self.write_failed(block, shared),
        }
    }

    fn block_written(&mut self, block: BlockIndex, shared: &mut Shared, now: Instant) {
        let Some(transfer) = &mut self.transfer else {
            return;
        };
        let piece = block.piece();
        let Some(open_piece) = transfer.open_pieces.get_mut(&piece) else {
            return;
        };
        if !open_piece.written(block.in_piece()) {
            return;
        }
        if matches!(open_piece.stage, PieceStage::Probing(_)) {
            self.ask_hashes = true;
        }
        if open_piece.is_collected() {
            self.advance(piece, shared, now);
        } else if let Some(leaf) = open_piece.verify_one(block.in_piece()) {
            // Its leaf was known beforehand, so it counts at once.
            let size = u64::from(transfer.layout.block_size(block));
            transfer.bytes_verified += size;
            transfer.bytes_proven += size;
            shared.emit(Output::Proven {
                torrent: self.key,
                piece,
                first_block: block.in_piece(),
                leaves: vec![leaf],
            });
        }
    }

    fn write_failed(&mut self, block: BlockIndex, shared: &mut Shared) {
        let piece = block.piece();
        if let Some(transfer) = &mut self.transfer
            && let Some(open_piece) = transfer.open_pieces.get_mut(&piece)
            && open_piece.write_failed(block.in_piece())
        {
            let was_unproven = matches!(open_piece.stage, PieceStage::Unproven);
            open_piece.stage = PieceStage::Collecting;
            if was_unproven {
                transfer.count_unproven(piece, false);
            }
            transfer.reopen(piece);
            self.wake_starved = true;
        }
        self.stop(StopReason::WritesFail, shared);
    }

    /// Blocks that were verified are damaged on disk, the others of their pieces are not.
    pub(crate) fn handle_damaged(
        &mut self,
        blocks: &[BlockIndex],
        held: Vec<PieceLeaves>,
        shared: &mut Shared,
    ) {
        if let Some(transfer) = &mut self.transfer {
            for piece in held {
                let damaged = |in_piece| {
                    let of = |block: &BlockIndex| (block.piece(), block.in_piece());
                    blocks
                        .iter()
                        .map(of)
                        .any(|block| block == (piece.piece, in_piece))
                };
                let good = piece.leaves.iter().filter(|(block, _)| !damaged(*block));
                transfer.lose_all_but(piece.piece, good.copied().collect());
            }
        }
        self.handle_lost(blocks, shared);
    }

    /// Blocks that were verified are not on disk any more.
    pub(crate) fn handle_lost(&mut self, blocks: &[BlockIndex], shared: &mut Shared) {
        let Some(transfer) = &mut self.transfer else {
            return;
        };
        for block in blocks {
            transfer.lose(*block);
        }
        for peer in self.peers.values_mut() {
            if let Some(set) = peer.pieces() {
                peer.offers = set.count_without(&transfer.have);
            }
        }
        let keys: Vec<_> = self.peers.keys().copied().collect();
        for key in keys {
            self.update_interest(key, shared);
        }
        self.wake_starved = true;
        self.dial_changed = true;
    }
}
