//! Blocks that arrive, are written and are proven.

use bittorrent_protocol::{BlockIndex, MerkleHash, PieceIndex, merkle};

use super::context::Context;
use crate::api::input::{PieceLeaves, WriteFailed};
use crate::api::keys::PeerKey;
use crate::api::output::{Blame, BlockVerdict, Discard, Output, StopReason};
use crate::pieces::open_piece::{BlockState, PieceStage};
use crate::pieces::transfer::run_size;

/// Handles blocks from their arrival to their proof.
pub(super) struct Blocks<'c, 'a> {
    cx: &'c mut Context<'a>,
}

impl<'c, 'a> Blocks<'c, 'a> {
    pub(super) fn new(cx: &'c mut Context<'a>) -> Self {
        Self { cx }
    }

    pub(super) fn handle_block(
        &mut self,
        key: PeerKey,
        block: BlockIndex,
        leaf: MerkleHash,
    ) -> BlockVerdict {
        self.cx.swarm.wake(key);
        let verdict = self.decide_block(key, block, leaf);
        let size = u64::from(self.cx.transfer.layout.block_size(block));
        self.cx.swarm.down.add(size);
        if verdict != BlockVerdict::Write {
            self.cx.swarm.wasted += size;
        }
        verdict
    }

    fn decide_block(&mut self, key: PeerKey, block: BlockIndex, leaf: MerkleHash) -> BlockVerdict {
        let now = self.cx.now;
        let transfer = &mut *self.cx.transfer;
        let Some(peer) = self.cx.swarm.peers.get_mut(&key) else {
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
            // Late: the block may be written by a look-up at this moment.
            return BlockVerdict::Discard(Discard::Unrequested);
        }
        match state {
            BlockState::Missing | BlockState::Requested => {}
            BlockState::Arrived | BlockState::Written | BlockState::Verified => {
                return BlockVerdict::Discard(Discard::Duplicate);
            }
        }
        if transfer.stopped.is_some() {
            if waited {
                self.cx.requests().release_block(block);
            }
            return BlockVerdict::Discard(Discard::Stopped);
        }
        if open_piece.solo && open_piece.exclusive != Some(key) {
            // This piece must come from a single sender, to show whether that one lies.
            if waited {
                self.cx.requests().release_block(block);
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
                self.cx.requests().release_block(block);
            }
            self.cx.ban(addr, Blame::Block(block));
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
            self.cx.requests().cancel_others(block);
        }
        if collected {
            self.collected(piece);
        }
        BlockVerdict::Write
    }

    /// Checks a piece whose blocks have all arrived against its hash.
    pub(super) fn collected(&mut self, piece: PieceIndex) {
        let transfer = &mut *self.cx.transfer;
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
            self.cx.false_data().convict_suspects(piece);
        }
        self.advance(piece);
    }

    /// Takes the next step with a piece all of whose blocks are here, once no write is under way.
    pub(super) fn advance(&mut self, piece: PieceIndex) {
        let transfer = &mut *self.cx.transfer;
        let Some(open_piece) = transfer.open_pieces.get(&piece) else {
            return;
        };
        if !open_piece.is_collected() || !open_piece.is_settled() {
            return;
        }
        match open_piece.stage {
            PieceStage::Collecting => {
                if open_piece.is_proven() {
                    self.prove(piece);
                }
            }
            PieceStage::Unproven => self.cx.false_data().fold_file(piece),
            PieceStage::False => self.cx.false_data().judge_piece(piece),
            PieceStage::FindingFalseBlocks(_)
            | PieceStage::Probing(_)
            | PieceStage::RequestingLeaves(_)
            | PieceStage::LookingUpLeaves(_)
            | PieceStage::Descending(_)
            | PieceStage::LookingUpBlocks => {}
        }
    }

    /// Reports the written blocks of a piece whose leaves are proven.
    pub(super) fn prove(&mut self, piece: PieceIndex) {
        let transfer = &mut *self.cx.transfer;
        let Some(open_piece) = transfer.open_pieces.get_mut(&piece) else {
            return;
        };
        for (first_block, leaves) in open_piece.verify() {
            let layout = &transfer.layout;
            let size = run_size(layout, piece, first_block, leaves.len());
            transfer.bytes_verified += size;
            transfer.bytes_proven += size;
            self.cx.shared.emit(Output::Proven {
                torrent: self.cx.swarm.key,
                piece,
                first_block,
                leaves,
            });
        }
        if open_piece.is_verified() {
            self.finish(piece);
        }
    }

    /// Handles a piece that is verified as a whole.
    pub(super) fn finish(&mut self, piece: PieceIndex) {
        let transfer = &mut *self.cx.transfer;
        let first = transfer.have.is_empty();
        transfer.finish(piece);
        self.cx.swarm.unannounced.push(piece);
        let complete = transfer.is_complete();
        let keys: Vec<_> = self
            .cx
            .swarm
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
            self.cx.interest().update_interest(key);
        }
        if first {
            // This is the first piece that can be uploaded.
            self.cx.shared.slots_changed = true;
        }
        if complete {
            self.cx.shared.emit(Output::Complete {
                torrent: self.cx.swarm.key,
            });
            let keys: Vec<_> = self.cx.swarm.peers.keys().copied().collect();
            for key in keys {
                self.cx.interest().drop_if_redundant(key);
            }
        }
    }

    pub(super) fn handle_written(&mut self, block: BlockIndex, result: Result<(), WriteFailed>) {
        match result {
            Ok(()) => self.block_written(block),
            Err(WriteFailed) => self.write_failed(block),
        }
    }

    fn block_written(&mut self, block: BlockIndex) {
        let transfer = &mut *self.cx.transfer;
        let piece = block.piece();
        let Some(open_piece) = transfer.open_pieces.get_mut(&piece) else {
            return;
        };
        if !open_piece.written(block.in_piece()) {
            return;
        }
        if matches!(open_piece.stage, PieceStage::Probing(_)) {
            self.cx.swarm.ask_hashes = true;
        }
        if open_piece.is_collected() {
            self.advance(piece);
        } else if let Some(leaf) = open_piece.verify_one(block.in_piece()) {
            // Its leaf was known beforehand, so it counts at once.
            let size = u64::from(transfer.layout.block_size(block));
            transfer.bytes_verified += size;
            transfer.bytes_proven += size;
            self.cx.shared.emit(Output::Proven {
                torrent: self.cx.swarm.key,
                piece,
                first_block: block.in_piece(),
                leaves: vec![leaf],
            });
        }
    }

    fn write_failed(&mut self, block: BlockIndex) {
        let piece = block.piece();
        let transfer = &mut *self.cx.transfer;
        if let Some(open_piece) = transfer.open_pieces.get_mut(&piece)
            && open_piece.write_failed(block.in_piece())
        {
            let was_unproven = matches!(open_piece.stage, PieceStage::Unproven);
            open_piece.stage = PieceStage::Collecting;
            if was_unproven {
                transfer.count_unproven(piece, false);
            }
            transfer.reopen(piece);
            self.cx.swarm.wake_starved = true;
        }
        self.cx.stop(StopReason::WritesFail);
    }

    /// Handles verified blocks that are damaged on disk; the others of their pieces are not.
    pub(super) fn handle_damaged(&mut self, blocks: &[BlockIndex], held: Vec<PieceLeaves>) {
        for piece in held {
            let damaged = |in_piece| {
                let of = |block: &BlockIndex| (block.piece(), block.in_piece());
                blocks
                    .iter()
                    .map(of)
                    .any(|block| block == (piece.piece, in_piece))
            };
            let good = piece.leaves.iter().filter(|(block, _)| !damaged(*block));
            self.cx
                .transfer
                .lose_all_but(piece.piece, good.copied().collect());
        }
        self.handle_lost(blocks);
    }

    /// Handles verified blocks that are not on disk any more.
    pub(super) fn handle_lost(&mut self, blocks: &[BlockIndex]) {
        let transfer = &mut *self.cx.transfer;
        for block in blocks {
            transfer.lose(*block);
        }
        for peer in self.cx.swarm.peers.values_mut() {
            if let Some(set) = peer.pieces() {
                peer.offers = set.count_without(&transfer.have);
            }
        }
        let keys: Vec<_> = self.cx.swarm.peers.keys().copied().collect();
        for key in keys {
            self.cx.interest().update_interest(key);
        }
        self.cx.swarm.wake_starved = true;
        self.cx.swarm.dialler.look_again();
    }
}
