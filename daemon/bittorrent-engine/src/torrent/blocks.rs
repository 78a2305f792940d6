//! Blocks that arrive, are written and are proven.

use std::time::Instant;

use bittorrent_protocol::{BlockIndex, MerkleHash, PieceIndex, merkle};

use super::Torrent;
use crate::download::run_size;
use crate::input::{HeldLeaves, WriteFailed};
use crate::keys::PeerKey;
use crate::output::{Blame, Discard, Output, StopReason, Verdict};
use crate::partial::{Stage, State};
use crate::shared::Shared;

impl Torrent {
    pub(crate) fn handle_block(
        &mut self,
        key: PeerKey,
        block: BlockIndex,
        leaf: MerkleHash,
        shared: &mut Shared,
        now: Instant,
    ) -> Verdict {
        self.wake(key);
        let verdict = self.judge_block(key, block, leaf, shared, now);
        if let Some(download) = &self.download {
            let size = u64::from(download.layout.block_size(block));
            self.down.add(size);
            if verdict != Verdict::Write {
                self.wasted += size;
            }
        }
        verdict
    }

    fn judge_block(
        &mut self,
        key: PeerKey,
        block: BlockIndex,
        leaf: MerkleHash,
        shared: &mut Shared,
        now: Instant,
    ) -> Verdict {
        let Some(download) = &mut self.download else {
            return Verdict::Discard(Discard::Unrequested);
        };
        let Some(peer) = self.peers.get_mut(&key) else {
            return Verdict::Discard(Discard::UnknownPeer);
        };
        let piece = block.piece();
        let size = u64::from(download.layout.block_size(block));
        peer.down.add(size);
        let asked = peer.pipeline.arrive(block, now);
        let addr = peer.addr;
        let Some(waited) = asked else {
            return Verdict::Discard(Discard::Unrequested);
        };
        peer.delivered();
        if download.have.contains(piece) {
            return Verdict::Discard(Discard::Duplicate);
        }
        let Some(partial) = download.partials.get_mut(&piece) else {
            return Verdict::Discard(Discard::Unrequested);
        };
        let state = partial.slot(block.in_piece()).state;
        if partial.is_looked_for() && state == State::Missing {
            // Late: what is at its place may be found elsewhere at this moment.
            return Verdict::Discard(Discard::Unrequested);
        }
        match state {
            State::Missing | State::Requested => {}
            State::Arrived | State::Written | State::Verified => {
                return Verdict::Discard(Discard::Duplicate);
            }
        }
        if self.stopped.is_some() {
            if waited {
                self.release_block(block);
            }
            return Verdict::Discard(Discard::Stopped);
        }
        if partial.solo && partial.exclusive != Some(key) {
            // Two senders in a piece that is to show whether one of them lies.
            if waited {
                self.release_block(block);
            }
            return Verdict::Discard(Discard::Unrequested);
        }
        let is_false = if partial.is_proven() {
            partial.slot(block.in_piece()).leaf != leaf
        } else if partial.blocks() == 1 {
            // The hash of such a piece follows from its one leaf.
            download
                .layers
                .piece_hash(&download.layout, piece)
                .is_some_and(|hash| hash != merkle::piece_hash(&[leaf], &download.layout, piece))
        } else {
            false
        };
        if is_false {
            if waited {
                self.release_block(block);
            }
            self.ban(addr, Blame::Block(block), shared, now);
            return Verdict::Discard(Discard::False);
        }
        let sender = *peer
            .sender
            .get_or_insert_with(|| download.senders.name(addr));
        peer.last_use = now;
        let requests = partial.arrive(block.in_piece(), leaf, sender);
        let collected = partial.is_collected();
        if partial.missing() == 0 {
            download.open.remove(&piece);
        }
        if requests > u8::from(waited) {
            self.cancel_others(block, shared);
        }
        if collected {
            self.collected(piece, shared, now);
        }
        Verdict::Write
    }

    /// Every block of a piece is here: is it the piece?
    pub(super) fn collected(&mut self, piece: PieceIndex, shared: &mut Shared, now: Instant) {
        let Some(download) = &mut self.download else {
            return;
        };
        let Some(partial) = download.partials.get_mut(&piece) else {
            return;
        };
        if !partial.is_proven() {
            let was_unproven = matches!(partial.stage, Stage::Unproven);
            let hash = download.layers.piece_hash(&download.layout, piece);
            let found = merkle::piece_hash(&partial.leaves(), &download.layout, piece);
            partial.stage = match hash {
                None => Stage::Unproven,
                Some(hash) if hash == found => {
                    partial.accept_leaves();
                    Stage::Collecting
                }
                Some(_) => Stage::False,
            };
            let is_unproven = matches!(partial.stage, Stage::Unproven);
            if is_unproven != was_unproven {
                download.count_unproven(piece, is_unproven);
            }
            self.convict_suspects(piece, shared, now);
        }
        self.advance(piece, shared, now);
    }

    /// Takes the next step with a piece all of whose blocks are here, once no write is under way.
    pub(super) fn advance(&mut self, piece: PieceIndex, shared: &mut Shared, now: Instant) {
        let Some(download) = &mut self.download else {
            return;
        };
        let Some(partial) = download.partials.get(&piece) else {
            return;
        };
        if !partial.is_collected() || !partial.is_settled() {
            return;
        }
        match partial.stage {
            Stage::Collecting => {
                if partial.is_proven() {
                    self.prove(piece, shared, now);
                }
            }
            Stage::Unproven => self.fold_file(piece, shared, now),
            Stage::False => self.judge_piece(piece, shared, now),
            Stage::Asking(_)
            | Stage::Probing(_)
            | Stage::Learning(_)
            | Stage::Recalling(_)
            | Stage::Descending(_)
            | Stage::Looking => {}
        }
    }

    /// Reports the written blocks of a piece whose leaves are proven.
    pub(super) fn prove(&mut self, piece: PieceIndex, shared: &mut Shared, now: Instant) {
        let Some(download) = &mut self.download else {
            return;
        };
        let Some(partial) = download.partials.get_mut(&piece) else {
            return;
        };
        for (first_block, leaves) in partial.verify() {
            let layout = &download.layout;
            let size = run_size(layout, piece, first_block, leaves.len());
            download.bytes_verified += size;
            download.bytes_proven += size;
            shared.emit(Output::Proven {
                torrent: self.key,
                piece,
                first_block,
                leaves,
            });
        }
        if partial.is_verified() {
            self.finish(piece, shared, now);
        }
    }

    /// A piece is whole.
    pub(super) fn finish(&mut self, piece: PieceIndex, shared: &mut Shared, now: Instant) {
        let Some(download) = &mut self.download else {
            return;
        };
        let first = download.have.is_empty();
        download.finish(piece);
        self.news.push(piece);
        let complete = download.is_complete();
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
            Ok(()) => {
                self.write_failures = 0;
                self.block_written(block, shared, now);
            }
            Err(failure) => self.write_failed(block, failure, shared),
        }
    }

    fn block_written(&mut self, block: BlockIndex, shared: &mut Shared, now: Instant) {
        let Some(download) = &mut self.download else {
            return;
        };
        let piece = block.piece();
        let Some(partial) = download.partials.get_mut(&piece) else {
            return;
        };
        if !partial.written(block.in_piece()) {
            return;
        }
        if matches!(partial.stage, Stage::Probing(_)) {
            self.ask_hashes = true;
        }
        if partial.is_collected() {
            self.advance(piece, shared, now);
        } else if let Some(leaf) = partial.verify_one(block.in_piece()) {
            // Its leaf was known beforehand, so it counts at once.
            let size = u64::from(download.layout.block_size(block));
            download.bytes_verified += size;
            download.bytes_proven += size;
            shared.emit(Output::Proven {
                torrent: self.key,
                piece,
                first_block: block.in_piece(),
                leaves: vec![leaf],
            });
        }
    }

    fn write_failed(&mut self, block: BlockIndex, failure: WriteFailed, shared: &mut Shared) {
        let piece = block.piece();
        if let Some(download) = &mut self.download
            && let Some(partial) = download.partials.get_mut(&piece)
            && partial.write_failed(block.in_piece())
        {
            let was_unproven = matches!(partial.stage, Stage::Unproven);
            partial.stage = Stage::Collecting;
            if was_unproven {
                download.count_unproven(piece, false);
            }
            download.reopen(piece);
            self.wake_starved = true;
        }
        self.write_failures += 1;
        if failure == WriteFailed::Permanent
            || self.write_failures > shared.config.max_write_failures
        {
            self.stop(StopReason::WritesFail, shared);
        }
    }

    /// Blocks that were verified are damaged on disk, the others of their pieces are not.
    pub(crate) fn handle_damaged(
        &mut self,
        blocks: &[BlockIndex],
        held: Vec<HeldLeaves>,
        shared: &mut Shared,
    ) {
        if let Some(download) = &mut self.download {
            for piece in held {
                let damaged = |in_piece| {
                    let of = |block: &BlockIndex| (block.piece(), block.in_piece());
                    blocks
                        .iter()
                        .map(of)
                        .any(|block| block == (piece.piece, in_piece))
                };
                let good = piece.leaves.iter().filter(|(block, _)| !damaged(*block));
                download.lose_all_but(piece.piece, good.copied().collect());
            }
        }
        self.handle_lost(blocks, shared);
    }

    /// Blocks that were verified are not on disk any more.
    pub(crate) fn handle_lost(&mut self, blocks: &[BlockIndex], shared: &mut Shared) {
        let Some(download) = &mut self.download else {
            return;
        };
        for block in blocks {
            download.lose(*block);
        }
        for peer in self.peers.values_mut() {
            if let Some(set) = peer.pieces() {
                peer.offers = set.count_without(&download.have);
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
