//! Which hashes are asked of whom (BEP 52, "hash request").

use std::time::{Duration, Instant};

use bittorrent_protocol::MerkleHash;
use bittorrent_protocol::merkle::HashRequest;

use super::Torrent;
use crate::api::input::{Link, PeerFault};
use crate::api::keys::PeerKey;
use crate::api::output::Output;
use crate::peer::{HashPurpose, HashWait, Peer};
use crate::pieces::layers::{LayerProgress, Layers};
use crate::pieces::leaves::{content_leaves, leaf_request};
use crate::pieces::open_piece::PieceStage;
use crate::shared::Shared;

/// What a message with hashes has besides them, in bytes: length, kind and the request.
const HASHES_HEADER: u64 = 4 + 1 + 48;
/// Hash requests under way to one peer, short ones apart.
pub(super) const PER_PEER: usize = 2;
/// How long a peer that rejects or forgets a hash request is left alone; doubles each time.
const BACKOFF: Duration = Duration::from_secs(5);
/// A peer that failed this often in a row is not counted on for hashes.
const HOPELESS: u32 = 3;
/// How long nobody must be able to give piece layers before pieces are begun without.
pub(super) const PATIENCE: Duration = Duration::from_secs(4);

impl Torrent {
    /// Sends the hash requests that can be sent now.
    pub(super) fn ask_for_hashes(&mut self, shared: &mut Shared, now: Instant) {
        if self.is_at_rest() {
            return;
        }
        // What others wait for goes first.
        self.hedge_hashes(shared, now);
        self.ask_for_leaves(shared, now);
        self.learn_leaves(shared, now);
        let layers = self.transfer.as_ref().map(|transfer| &transfer.layers);
        if layers.is_none_or(Layers::is_complete) {
            return;
        }
        // A host that left requests unanswered is asked when nobody else has anything to do: it may have
        // several connections, and each would cost a time-out.
        let unanswered = self.unanswered(shared, now);
        let of_host = |peer: &Peer| unanswered.get(&peer.host()).copied();
        let mut order: Vec<_> = self
            .peers
            .values()
            .map(|peer| (of_host(peer).unwrap_or(0), peer.key))
            .collect();
        order.sort_unstable();
        let silent = order.partition_point(|(unanswered, _)| *unanswered == 0);
        let (answering, silent) = order.split_at(silent);
        self.ask_for_layers(answering, shared, now);
        let is_chunk = |wait: &HashWait| matches!(wait.purpose, HashPurpose::Chunk(_));
        let is_busy = |peer: &Peer| peer.hash_waits.iter().any(is_chunk);
        let mut busy = answering.iter().filter_map(|(_, key)| self.peers.get(key));
        if !busy.any(is_busy) {
            self.ask_for_layers(silent, shared, now);
        }
    }

    /// Asks these peers for piece layers, one chunk each in turn, so that the chunks spread over them.
    fn ask_for_layers(&mut self, peers: &[(u32, PeerKey)], shared: &mut Shared, now: Instant) {
        let Some(transfer) = &mut self.transfer else {
            return;
        };
        let mut asked = true;
        while asked {
            asked = false;
            for (_, key) in peers {
                let Some(peer) = self.peers.get_mut(key) else {
                    continue;
                };
                if !peer.can_give_hashes(PER_PEER, now) {
                    continue;
                }
                let Some(have) = peer.pieces() else {
                    continue;
                };
                if let Some((chunk, request)) = transfer.layers.ask(&transfer.layout, have, now) {
                    peer.request_hashes(request, HashPurpose::Chunk(chunk), shared, now);
                    asked = true;
                }
            }
        }
    }

    /// Asks for the leaves of false pieces; gives up on those nobody can help with.
    fn ask_for_leaves(&mut self, shared: &mut Shared, now: Instant) {
        let Some(transfer) = &mut self.transfer else {
            return;
        };
        let mut hopeless = Vec::new();
        for (piece, open_piece) in &mut transfer.open_pieces {
            let PieceStage::FindingFalseBlocks(query) = &mut open_piece.stage else {
                continue;
            };
            if query.is_waiting() {
                continue;
            }
            let request = leaf_request(&transfer.layout, *piece).filter(|_| !query.is_exhausted());
            let mut able = self.peers.values_mut().filter(|peer| {
                peer.link == Link::V2 && peer.has(*piece) && !query.was_asked(peer.key)
            });
            let (Some(request), Some(first)) = (request, able.next()) else {
                hopeless.push(*piece);
                continue;
            };
            // Somebody can be asked, if not at this moment.
            let Some(peer) = std::iter::once(first)
                .chain(able)
                .find(|peer| peer.hash_waits.len() < PER_PEER)
            else {
                continue;
            };
            query.ask(peer.key);
            peer.request_hashes(request, HashPurpose::Leaves(*piece), shared, now);
        }
        for piece in hopeless {
            self.retry_solo(piece, shared);
        }
    }

    pub(super) fn handle_hashes(
        &mut self,
        key: PeerKey,
        request: &HashRequest,
        hashes: &[MerkleHash],
        shared: &mut Shared,
        now: Instant,
    ) -> Result<(), PeerFault> {
        self.hash_bytes += HASHES_HEADER + hashes.len() as u64 * 32;
        let (Some(transfer), Some(peer)) = (&mut self.transfer, self.peers.get_mut(&key)) else {
            return Ok(());
        };
        let wait = match peer.take_hash_wait(request) {
            None => return Err(PeerFault::UnrequestedHashes),
            // Too late: somebody else was asked.
            Some(None) => {
                self.answer_time.add(shared.config.hash_timeout);
                return Ok(());
            }
            Some(Some(wait)) => wait,
        };
        self.answer_time
            .add(now.saturating_duration_since(wait.asked));
        self.ask_hashes = true;
        let piece = match wait.purpose {
            HashPurpose::Leaves(piece) => piece,
            HashPurpose::Reuse(first, pieces) => {
                return self
                    .leaves_learnt(key, &wait.request, (first, pieces), hashes, shared, now)
                    .map_err(PeerFault::FalseHashes);
            }
            HashPurpose::Nodes(first, pieces) => {
                return self
                    .nodes_learnt(key, &wait.request, (first, pieces), hashes, shared, now)
                    .map_err(PeerFault::FalseHashes);
            }
            HashPurpose::Below(piece, range) => {
                return self
                    .below_learnt(key, &wait.request, (piece, range), hashes, shared, now)
                    .map_err(PeerFault::FalseHashes);
            }
            HashPurpose::Chunk(id) => {
                let answer = transfer
                    .layers
                    .answer(&transfer.layout, id, &wait.request, hashes);
                match answer {
                    Ok(progress) => {
                        peer.hash_failures = 0;
                        self.hashes_arrived(id.file, progress, shared, now);
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
                    self.apply_leaves(piece, &leaves, shared, now);
                }
                Ok(())
            }
            Err(fault) => {
                self.ask_others(key, &wait);
                Err(PeerFault::FalseHashes(fault))
            }
        }
    }

    /// Some pieces' hashes are known now.
    fn hashes_arrived(
        &mut self,
        file: bittorrent_protocol::FileIndex,
        progress: LayerProgress,
        shared: &mut Shared,
        now: Instant,
    ) {
        let pieces = match progress {
            LayerProgress::Nothing => return,
            LayerProgress::Chunk(pieces) => pieces,
            LayerProgress::Layer(pieces, layer) => {
                shared.emit(Output::Layer {
                    torrent: self.key,
                    file,
                    layer,
                });
                pieces
            }
        };
        for number in pieces {
            let Some(transfer) = &mut self.transfer else {
                return;
            };
            let Some(piece) = transfer.layout.piece(number) else {
                continue;
            };
            match transfer.open_pieces.get(&piece) {
                Some(open_piece) if matches!(open_piece.stage, PieceStage::Unproven) => {
                    self.collected(piece, shared, now);
                }
                Some(_) => {}
                None => transfer.announce(piece),
            }
        }
        self.wake_starved = true;
    }

    pub(super) fn handle_hash_reject(&mut self, key: PeerKey, request: &HashRequest, now: Instant) {
        let wait = self
            .peers
            .get_mut(&key)
            .and_then(|peer| peer.take_hash_wait(request));
        if let Some(Some(wait)) = wait {
            if let Some(peer) = self.peers.get_mut(&key) {
                match wait.purpose {
                    HashPurpose::Reuse(..) | HashPurpose::Below(..) => peer.leaves_rejected(),
                    // It need not have them: it is asked for leaves.
                    HashPurpose::Nodes(..) => peer.answers_nodes = false,
                    HashPurpose::Chunk(_) | HashPurpose::Leaves(_) => {}
                }
            }
            self.hashes_failed(key, &wait, now);
        }
    }

    /// A hash request came to nothing: ask someone else, and this peer not so soon again.
    fn hashes_failed(&mut self, key: PeerKey, wait: &HashWait, now: Instant) {
        // Not having leaves at hand says nothing about piece layers.
        if let HashPurpose::Chunk(_) = wait.purpose
            && let Some(peer) = self.peers.get_mut(&key)
        {
            peer.hashes_not_before = now + BACKOFF.saturating_mul(1 << peer.hash_failures.min(6));
            peer.hash_failures += 1;
        }
        self.ask_others(key, wait);
    }

    /// A hash request will not be answered by this peer.
    fn ask_others(&mut self, key: PeerKey, wait: &HashWait) {
        self.ask_hashes = true;
        if self.hand_over(key, wait) {
            return;
        }
        match wait.purpose {
            HashPurpose::Chunk(id) => {
                if let Some(transfer) = &mut self.transfer {
                    transfer.layers.give_up(id, None);
                }
            }
            HashPurpose::Leaves(_) => self.leaves_refused(key, wait),
            HashPurpose::Reuse(first, pieces) | HashPurpose::Nodes(first, pieces) => {
                self.leaves_not_learnt(key, first, pieces);
            }
            HashPurpose::Below(piece, _) => self.descent_failed(piece),
        }
    }

    fn leaves_refused(&mut self, key: PeerKey, wait: &HashWait) {
        if let HashPurpose::Leaves(piece) = wait.purpose
            && let Some(transfer) = &mut self.transfer
            && let Some(open_piece) = transfer.open_pieces.get_mut(&piece)
            && let PieceStage::FindingFalseBlocks(query) = &mut open_piece.stage
            && query.is_waiting_for(key)
        {
            query.give_up();
            self.ask_hashes = true;
        }
    }

    /// A peer is going: what it was asked for is asked of others.
    pub(super) fn drop_hash_waits(&mut self, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&key) else {
            return;
        };
        for wait in std::mem::take(&mut peer.hash_waits) {
            self.ask_others(key, &wait);
        }
    }

    /// Time-outs, and whether pieces must be begun without their hashes.
    pub(super) fn tick_hashes(&mut self, shared: &Shared, now: Instant) {
        let keys: Vec<_> = self.peers.keys().copied().collect();
        for key in keys {
            let expired = self
                .peers
                .get_mut(&key)
                .map(|peer| peer.expire_hash_waits(now))
                .unwrap_or_default();
            for wait in expired {
                let for_reuse = matches!(
                    wait.purpose,
                    HashPurpose::Reuse(..) | HashPurpose::Nodes(..) | HashPurpose::Below(..)
                );
                if let Some(peer) = self.peers.get_mut(&key).filter(|_| for_reuse) {
                    peer.leaves_failed();
                }
                self.hashes_failed(key, &wait, now);
            }
        }
        let Some(transfer) = &mut self.transfer else {
            return;
        };
        self.ask_hashes = true;
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
        let someone_has = self.peers.values().any(|peer| peer.offers > 0);
        if !someone_has || self.peers.values().any(could_give) {
            transfer.no_layers_since = None;
            return;
        }
        let since = *transfer.no_layers_since.get_or_insert(now);
        if since + PATIENCE <= now
            && !transfer.unproven_mode
            && transfer.unproven_blocks < shared.config.max_unproven_blocks
        {
            transfer.set_unproven_mode(true);
            self.wake_starved = true;
        }
    }
}
