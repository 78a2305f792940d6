//! Which hashes are requested from which peer (BEP 52, "hash request").

use std::time::Duration;

use bittorrent_protocol::MerkleHash;
use bittorrent_protocol::merkle::HashRequest;

use super::context::Context;
use crate::api::input::{Link, PeerFault};
use crate::api::keys::PeerKey;
use crate::api::output::Output;
use crate::peer::{HashPurpose, HashWait, Peer};
use crate::pieces::layers::LayerProgress;
use crate::pieces::leaves::{content_leaves, leaf_request};
use crate::pieces::open_piece::PieceStage;

/// What a message with hashes has besides them, in bytes: length, kind and the request.
const HASHES_HEADER: u64 = 4 + 1 + 48;
/// Hash requests under way to one peer, short ones apart.
pub(super) const PER_PEER: usize = 2;
/// How long a peer that rejects or ignores a hash request gets no further one; doubles each time.
const BACKOFF: Duration = Duration::from_secs(5);
/// A peer that failed this often in a row is not expected to send hashes.
const HOPELESS: u32 = 3;
/// How long no peer can send piece layers before pieces are picked without.
pub(super) const PATIENCE: Duration = Duration::from_secs(4);

/// Requests piece layers and leaves, and handles the answers.
pub(super) struct Hashes<'c, 'a> {
    cx: &'c mut Context<'a>,
}

impl<'c, 'a> Hashes<'c, 'a> {
    pub(super) fn new(cx: &'c mut Context<'a>) -> Self {
        Self { cx }
    }

    /// Sends the hash requests that can be sent now.
    pub(super) fn ask_for_hashes(&mut self) {
        if self.cx.is_at_rest() {
            return;
        }
        // Overdue requests go first.
        self.cx.hedging().hedge_hashes();
        self.ask_for_leaves();
        self.cx.reuse().learn_leaves();
        if self.cx.transfer.layers.is_complete() {
            return;
        }
        // A host that left requests unanswered is asked only when no other host is being asked: it may have
        // several connections, and each would cost a time-out.
        let unanswered = self.cx.hedging().unanswered();
        let of_host = |peer: &Peer| unanswered.get(&peer.host()).copied();
        let mut order: Vec<_> = self
            .cx
            .swarm
            .peers
            .values()
            .map(|peer| (of_host(peer).unwrap_or(0), peer.key))
            .collect();
        order.sort_unstable();
        let silent = order.partition_point(|(unanswered, _)| *unanswered == 0);
        let (answering, silent) = order.split_at(silent);
        self.ask_for_layers(answering);
        let is_chunk = |wait: &HashWait| matches!(wait.purpose, HashPurpose::Chunk(_));
        let is_busy = |peer: &Peer| peer.hash_waits.iter().any(is_chunk);
        let mut busy = answering
            .iter()
            .filter_map(|(_, key)| self.cx.swarm.peers.get(key));
        if !busy.any(is_busy) {
            self.ask_for_layers(silent);
        }
    }

    /// Requests piece layers from these peers, one chunk each in turn, so that the chunks spread over them.
    fn ask_for_layers(&mut self, peers: &[(u32, PeerKey)]) {
        let now = self.cx.now;
        let transfer = &mut *self.cx.transfer;
        let mut asked = true;
        while asked {
            asked = false;
            for (_, key) in peers {
                let Some(peer) = self.cx.swarm.peers.get_mut(key) else {
                    continue;
                };
                if !peer.can_give_hashes(PER_PEER, now) {
                    continue;
                }
                let Some(have) = peer.pieces() else {
                    continue;
                };
                if let Some((chunk, request)) = transfer.layers.ask(&transfer.layout, have, now) {
                    peer.request_hashes(request, HashPurpose::Chunk(chunk), self.cx.shared, now);
                    asked = true;
                }
            }
        }
    }

    /// Requests the leaves of false pieces; gives up on pieces for which no peer can send them.
    fn ask_for_leaves(&mut self) {
        let now = self.cx.now;
        let transfer = &mut *self.cx.transfer;
        let mut hopeless = Vec::new();
        for (piece, open_piece) in &mut transfer.open_pieces {
            let PieceStage::FindingFalseBlocks(query) = &mut open_piece.stage else {
                continue;
            };
            if query.is_waiting() {
                continue;
            }
            let request = leaf_request(&transfer.layout, *piece).filter(|_| !query.is_exhausted());
            let mut able = self.cx.swarm.peers.values_mut().filter(|peer| {
                peer.link == Link::V2 && peer.has(*piece) && !query.was_asked(peer.key)
            });
            let (Some(request), Some(first)) = (request, able.next()) else {
                hopeless.push(*piece);
                continue;
            };
            // There is a peer that can be asked, if not at this moment.
            let Some(peer) = std::iter::once(first)
                .chain(able)
                .find(|peer| peer.hash_waits.len() < PER_PEER)
            else {
                continue;
            };
            query.ask(peer.key);
            peer.request_hashes(request, HashPurpose::Leaves(*piece), self.cx.shared, now);
        }
        for piece in hopeless {
            self.cx.false_data().retry_solo(piece);
        }
    }

    pub(super) fn handle_hashes(
        &mut self,
        key: PeerKey,
        request: &HashRequest,
        hashes: &[MerkleHash],
    ) -> Result<(), PeerFault> {
        let now = self.cx.now;
        self.cx.swarm.hash_bytes += HASHES_HEADER + hashes.len() as u64 * 32;
        let transfer = &mut *self.cx.transfer;
        let Some(peer) = self.cx.swarm.peers.get_mut(&key) else {
            return Ok(());
        };
        let wait = match peer.take_hash_wait(request) {
            None => return Err(PeerFault::UnrequestedHashes),
            // Too late: another peer was asked.
            Some(None) => {
                self.cx
                    .swarm
                    .answer_time
                    .add(self.cx.shared.config.hash_timeout);
                return Ok(());
            }
            Some(Some(wait)) => wait,
        };
        self.cx
            .swarm
            .answer_time
            .add(now.saturating_duration_since(wait.asked));
        self.cx.swarm.ask_hashes = true;
        let piece = match wait.purpose {
            HashPurpose::Leaves(piece) => piece,
            HashPurpose::Reuse(first, pieces) => {
                return self
                    .cx
                    .reuse()
                    .leaves_learnt(key, &wait.request, (first, pieces), hashes)
                    .map_err(PeerFault::FalseHashes);
            }
            HashPurpose::Nodes(first, pieces) => {
                return self
                    .cx
                    .descent()
                    .nodes_learnt(key, &wait.request, (first, pieces), hashes)
                    .map_err(PeerFault::FalseHashes);
            }
            HashPurpose::Below(piece, range) => {
                return self
                    .cx
                    .descent()
                    .below_learnt(key, &wait.request, (piece, range), hashes)
                    .map_err(PeerFault::FalseHashes);
            }
            HashPurpose::Chunk(id) => {
                let answer = transfer
                    .layers
                    .answer(&transfer.layout, id, &wait.request, hashes);
                match answer {
                    Ok(progress) => {
                        peer.hash_failures = 0;
                        self.hashes_arrived(id.file, progress);
                        return Ok(());
                    }
                    Err(fault) => {
                        self.ask_others(key, &wait);
                        return Err(PeerFault::FalseHashes(fault));
                    }
                }
            }
        };
        let hash = transfer.layers.piece_hash(&transfer.layout, piece);
        // The leaves alone lead to the piece's node, and it is the only one asked about.
        let verified = wait.request.verify(hashes, |_, _| hash);
        match verified {
            Ok(leaves) => {
                peer.hash_failures = 0;
                let leaves = content_leaves(&transfer.layout, piece, leaves).to_vec();
                let waiting = transfer.open_pieces.get(&piece).is_some_and(
                    |open_piece| matches!(&open_piece.stage, PieceStage::FindingFalseBlocks(query) if query.is_waiting()),
                );
                if waiting {
                    self.cx.false_data().apply_leaves(piece, &leaves);
                }
                Ok(())
            }
            Err(fault) => {
                self.ask_others(key, &wait);
                Err(PeerFault::FalseHashes(fault))
            }
        }
    }

    /// Continues with pieces whose hashes are known now.
    fn hashes_arrived(&mut self, file: bittorrent_protocol::FileIndex, progress: LayerProgress) {
        let pieces = match progress {
            LayerProgress::Nothing => return,
            LayerProgress::Chunk(pieces) => pieces,
            LayerProgress::Layer(pieces, layer) => {
                self.cx.shared.emit(Output::Layer {
                    torrent: self.cx.swarm.key,
                    file,
                    layer,
                });
                pieces
            }
        };
        for number in pieces {
            let transfer = &mut *self.cx.transfer;
            let Some(piece) = transfer.layout.piece(number) else {
                continue;
            };
            match transfer.open_pieces.get(&piece) {
                Some(open_piece) if matches!(open_piece.stage, PieceStage::Unproven) => {
                    self.cx.blocks().collected(piece);
                }
                Some(_) => {}
                None => transfer.announce(piece),
            }
        }
        self.cx.swarm.wake_starved = true;
    }

    pub(super) fn handle_hash_reject(&mut self, key: PeerKey, request: &HashRequest) {
        let wait = self
            .cx
            .swarm
            .peers
            .get_mut(&key)
            .and_then(|peer| peer.take_hash_wait(request));
        if let Some(Some(wait)) = wait {
            if let Some(peer) = self.cx.swarm.peers.get_mut(&key) {
                match wait.purpose {
                    HashPurpose::Reuse(..) | HashPurpose::Below(..) => peer.leaves_rejected(),
                    // Nodes are optional: leaves are requested from it instead.
                    HashPurpose::Nodes(..) => peer.answers_nodes = false,
                    HashPurpose::Chunk(_) | HashPurpose::Leaves(_) => {}
                }
            }
            self.hashes_failed(key, &wait);
        }
    }

    /// Handles a hash request without an answer: asks another peer, and this one only after a pause.
    fn hashes_failed(&mut self, key: PeerKey, wait: &HashWait) {
        let now = self.cx.now;
        // A peer without leaves may still have piece layers.
        if let HashPurpose::Chunk(_) = wait.purpose
            && let Some(peer) = self.cx.swarm.peers.get_mut(&key)
        {
            peer.hashes_not_before = now + BACKOFF.saturating_mul(1 << peer.hash_failures.min(6));
            peer.hash_failures += 1;
        }
        self.ask_others(key, wait);
    }

    /// Hands over a hash request that this peer will not answer.
    fn ask_others(&mut self, key: PeerKey, wait: &HashWait) {
        self.cx.swarm.ask_hashes = true;
        if self.cx.hedging().hand_over(key, wait) {
            return;
        }
        match wait.purpose {
            HashPurpose::Chunk(id) => {
                self.cx.transfer.layers.give_up(id, None);
            }
            HashPurpose::Leaves(_) => self.leaves_refused(key, wait),
            HashPurpose::Reuse(first, pieces) | HashPurpose::Nodes(first, pieces) => {
                self.cx.reuse().leaves_not_learnt(key, first, pieces);
            }
            HashPurpose::Below(piece, _) => self.cx.descent().descent_failed(piece),
        }
    }

    fn leaves_refused(&mut self, key: PeerKey, wait: &HashWait) {
        if let HashPurpose::Leaves(piece) = wait.purpose
            && let Some(open_piece) = self.cx.transfer.open_pieces.get_mut(&piece)
            && let PieceStage::FindingFalseBlocks(query) = &mut open_piece.stage
            && query.is_waiting_for(key)
        {
            query.give_up();
            self.cx.swarm.ask_hashes = true;
        }
    }

    /// Gives up the hash requests of a peer that is removed, so that others are asked.
    pub(super) fn drop_hash_waits(&mut self, key: PeerKey) {
        let Some(peer) = self.cx.swarm.peers.get_mut(&key) else {
            return;
        };
        for wait in std::mem::take(&mut peer.hash_waits) {
            self.ask_others(key, &wait);
        }
    }

    /// Handles time-outs, and decides whether pieces must be picked without their hashes.
    pub(super) fn tick_hashes(&mut self) {
        let now = self.cx.now;
        let keys: Vec<_> = self.cx.swarm.peers.keys().copied().collect();
        for key in keys {
            let expired = self
                .cx
                .swarm
                .peers
                .get_mut(&key)
                .map(|peer| peer.expire_hash_waits(now))
                .unwrap_or_default();
            for wait in expired {
                let for_reuse = matches!(
                    wait.purpose,
                    HashPurpose::Reuse(..) | HashPurpose::Nodes(..) | HashPurpose::Below(..)
                );
                if let Some(peer) = self.cx.swarm.peers.get_mut(&key).filter(|_| for_reuse) {
                    peer.leaves_failed();
                }
                self.hashes_failed(key, &wait);
            }
        }
        let transfer = &mut *self.cx.transfer;
        self.cx.swarm.ask_hashes = true;
        if transfer.layers.is_complete() {
            return;
        }
        let could_give = |peer: &Peer| {
            peer.link == Link::V2
                && peer.hash_failures < HOPELESS
                && peer
                    .pieces()
                    .is_some_and(|have| transfer.layers.could_use(&transfer.layout, have))
        };
        let someone_has = self.cx.swarm.peers.values().any(|peer| peer.offers > 0);
        if !someone_has || self.cx.swarm.peers.values().any(could_give) {
            transfer.no_layers_since = None;
            return;
        }
        let since = *transfer.no_layers_since.get_or_insert(now);
        if since + PATIENCE <= now
            && !transfer.unproven_mode
            && transfer.unproven_blocks < self.cx.shared.config.max_unproven_blocks
        {
            transfer.set_unproven_mode(true);
            self.cx.swarm.wake_starved = true;
        }
    }
}
