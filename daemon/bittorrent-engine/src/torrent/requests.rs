//! Which blocks are requested from which peer.

use std::time::Duration;

use bittorrent_protocol::wire::Request;
use bittorrent_protocol::{BlockIndex, PieceIndex};

use super::context::Context;
use crate::api::keys::PeerKey;
use crate::api::output::Command;
use crate::peer::Peer;
use crate::pieces::open_piece::{BlockState, PieceStage};
use crate::pieces::transfer::Transfer;
use crate::rng::Rng;

/// Peers join open pieces instead of opening new ones once this many blocks of those can be requested: whole
/// pieces are worth more to a swarm than many half ones.
const ENOUGH_OPEN: u32 = 4_096;
/// How many blocks that other peers were asked for are requested from a peer in the end game.
const MOST_DOUBLE: usize = 16;
/// In the end game, a block that is expected within this time is not requested again, in seconds: most such
/// blocks would arrive twice.
const SOON: f64 = 0.5;
/// In the end game, a block is requested from at most this many peers.
const MOST_PEERS_PER_BLOCK: u8 = 3;
/// The last of these requests is reserved for a peer that has sent something: other peers may be as slow as
/// those that were asked already.
const MOST_UNTRIED_PER_BLOCK: u8 = MOST_PEERS_PER_BLOCK - 1;
/// A peer that has not sent a block yet must answer within this fraction of the time-out.
const UNTRIED: u32 = 4;
/// How long we stay interested in a peer without requesting anything: seeds close connections that are idle
/// for 60 s.
const IDLE: Duration = Duration::from_secs(40);
/// How long a peer that rejects a block of a piece is not asked for that piece.
const REFUSAL_TIME: Duration = Duration::from_secs(10);

/// Requests blocks from peers, cancels them and handles time-outs.
pub(super) struct Requests<'c, 'a> {
    cx: &'c mut Context<'a>,
}

impl<'c, 'a> Requests<'c, 'a> {
    pub(super) fn new(cx: &'c mut Context<'a>) -> Self {
        Self { cx }
    }

    /// Gives requests to every peer that may have room for them.
    pub(super) fn refill_awake(&mut self) {
        let now = self.cx.now;
        if std::mem::take(&mut self.cx.swarm.wake_starved) {
            let starved: Vec<_> = self
                .cx
                .swarm
                .peers
                .values()
                .filter(|peer| peer.starved.is_some())
                .map(|peer| peer.key)
                .collect();
            for key in starved {
                if let Some(peer) = self.cx.swarm.peers.get_mut(&key)
                    && std::mem::take(&mut peer.parked)
                {
                    // Its idle time starts again, so that it can take what is free now.
                    peer.starved = Some(now);
                }
                self.cx.interest().update_interest(key);
                self.cx.swarm.wake(key);
            }
        }
        // A refill may wake others; they are served at the next opportunity.
        for key in std::mem::take(&mut self.cx.swarm.awake) {
            if let Some(peer) = self.cx.swarm.peers.get_mut(&key) {
                peer.wake = false;
                self.refill(key);
            }
        }
    }

    fn refill(&mut self, key: PeerKey) {
        let now = self.cx.now;
        let at_rest = self.cx.is_at_rest();
        let probes = self.cx.reuse().choose_probes(key);
        let transfer = &mut *self.cx.transfer;
        let Some(peer) = self.cx.swarm.peers.get_mut(&key) else {
            return;
        };
        if at_rest || !peer.wanted || (peer.choking_us && peer.allowed_fast.is_empty()) {
            return;
        }
        if peer.paused_until.is_some_and(|until| until > now) {
            // Time wakes it up again.
            peer.starved.get_or_insert(now);
            return;
        }
        let mut room = peer.pipeline.room();
        let mut batch = Vec::new();
        let was_end_game = transfer.is_end_game();
        for piece in probes.into_iter().take(room) {
            if let Some(block) = transfer.probe(piece, key) {
                peer.pipeline.push(block, now);
                batch.push(block);
                room -= 1;
            }
        }
        while room > 0 {
            let limits = Limits {
                open_blocks: self.cx.shared.config.max_open_blocks,
                unproven_blocks: self.cx.shared.config.max_unproven_blocks,
            };
            let Some(piece) = choose_piece(transfer, peer, &limits, &mut self.cx.shared.rng) else {
                break;
            };
            let Some(open_piece) = transfer.open_pieces.get_mut(&piece) else {
                break;
            };
            while room > 0 {
                let Some(block) = open_piece.request_next(&transfer.layout) else {
                    break;
                };
                peer.pipeline.push(block, now);
                batch.push(block);
                room -= 1;
            }
            if open_piece.missing() == 0 {
                transfer.requestable.remove(&piece);
            }
        }
        peer.starved = (room > 0).then(|| peer.starved.unwrap_or(now));
        if !was_end_game && transfer.is_end_game() {
            self.cx.swarm.wake_starved = true;
        }
        if room > 0 && !peer.choking_us && transfer.is_end_game() {
            self.double(key, room, &mut batch);
        }
        if !batch.is_empty() {
            self.cx.shared.send(key, Command::Request(batch));
        }
    }

    /// End game: requests blocks that a slower peer is not likely to send soon.
    fn double(&mut self, key: PeerKey, room: usize, batch: &mut Vec<BlockIndex>) {
        let now = self.cx.now;
        let transfer = &mut *self.cx.transfer;
        let Some(peer) = self.cx.swarm.peers.get(&key) else {
            return;
        };
        let room = room.min(MOST_DOUBLE.saturating_sub(peer.pipeline.len()));
        let most = if peer.down.total() > 0 {
            MOST_PEERS_PER_BLOCK
        } else {
            MOST_UNTRIED_PER_BLOCK
        };
        let own_wait = peer.pipeline.expected_wait(peer.pipeline.len(), now);
        let last_wait = |other: &Peer| {
            let before = other.pipeline.len().saturating_sub(1);
            other.pipeline.expected_wait(before, now)
        };
        let mut slowest: Vec<(f64, &Peer)> = self
            .cx
            .swarm
            .peers
            .values()
            .filter(|other| other.key != key && !other.pipeline.is_empty())
            .map(|other| (last_wait(other), other))
            .collect();
        slowest.sort_by(|(a, _), (b, _)| b.total_cmp(a));
        let mut chosen = Vec::new();
        for (_, other) in slowest {
            let before = (0..other.pipeline.len()).rev();
            for (before, block) in before.zip(other.pipeline.newest_first()) {
                // Those before it are here sooner still.
                let wait = other.pipeline.expected_wait(before, now);
                if chosen.len() >= room || wait < SOON + 2.0 * own_wait {
                    break;
                }
                let free = transfer
                    .open_pieces
                    .get(&block.piece())
                    .is_some_and(|open_piece| {
                        let slot = open_piece.slot(block.in_piece());
                        slot.state == BlockState::Requested
                            && slot.requests < most
                            && !open_piece.solo
                    });
                if free
                    && peer.has(block.piece())
                    && !peer.refuses(block.piece())
                    && !peer.pipeline.is_waiting_for(block)
                    && !chosen.contains(&block)
                {
                    chosen.push(block);
                }
            }
        }
        for block in chosen {
            if let Some(open_piece) = transfer.open_pieces.get_mut(&block.piece())
                && let Some(peer) = self.cx.swarm.peers.get_mut(&key)
            {
                open_piece.request(block.in_piece());
                peer.pipeline.push(block, now);
                batch.push(block);
            }
        }
    }

    /// Releases a block whose request ended without it.
    pub(super) fn release_block(&mut self, block: BlockIndex) {
        {
            let transfer = &mut *self.cx.transfer;
            transfer.release(block);
            self.cx.swarm.wake_starved = true;
        }
    }

    /// Ends a peer's work on its current piece, so that others may take it over.
    pub(super) fn leave_piece(&mut self, key: PeerKey) {
        let transfer = &mut *self.cx.transfer;
        let Some(peer) = self.cx.swarm.peers.get_mut(&key) else {
            return;
        };
        if let Some(piece) = peer.current.take()
            && let Some(open_piece) = transfer.open_pieces.get_mut(&piece)
            && open_piece.worker == Some(key)
        {
            open_piece.worker = None;
            self.cx.swarm.wake_starved = true;
        }
    }

    /// Handles a peer that chokes us: it works on no piece any more.
    pub(super) fn choked(&mut self, key: PeerKey) {
        let fast = self.cx.swarm.peers.get(&key).is_some_and(|peer| peer.fast);
        if fast {
            // The peer still answers each request, by the block or by a reject (BEP 6).
            self.leave_piece(key);
            self.cx.false_data().lose_exclusive(key, None);
        } else {
            self.release_all(key);
        }
    }

    /// Handles a peer's refusal to send a block.
    pub(super) fn handle_reject(&mut self, key: PeerKey, request: Request) {
        let now = self.cx.now;
        let transfer = &mut *self.cx.transfer;
        let Some(peer) = self.cx.swarm.peers.get_mut(&key) else {
            return;
        };
        let Some(block) = transfer.layout.block_at(request.index, request.begin) else {
            return;
        };
        if !peer.pipeline.reject(block) {
            return;
        }
        if !peer.choking_us {
            // The peer serves, but not this block: requesting it again at once could repeat for ever.
            if transfer.is_probed(block.piece()) {
                peer.leaves_failed();
            }
            peer.refuse(block.piece(), now + REFUSAL_TIME);
            peer.rejected(now);
            if peer.current == Some(block.piece()) {
                self.leave_piece(key);
            }
        }
        self.release_block(block);
        self.cx
            .false_data()
            .lose_exclusive(key, Some(block.piece()));
        self.cx.swarm.wake(key);
    }

    /// Gives up every request to a peer without sending cancels. Returns the blocks.
    pub(super) fn release_all(&mut self, key: PeerKey) -> Vec<BlockIndex> {
        let Some(peer) = self.cx.swarm.peers.get_mut(&key) else {
            return Vec::new();
        };
        let blocks = peer.pipeline.abandon_all();
        self.leave_piece(key);
        for block in &blocks {
            self.release_block(*block);
        }
        self.cx.false_data().lose_exclusive(key, None);
        blocks
    }

    /// Cancels every request to a peer.
    pub(super) fn cancel_all(&mut self, key: PeerKey) {
        let blocks = self.release_all(key);
        if !blocks.is_empty() {
            self.cx.shared.send(key, Command::Cancel(blocks));
        }
    }

    /// Cancels the requests to other peers for a block that has arrived.
    pub(super) fn cancel_others(&mut self, block: BlockIndex) {
        for peer in self.cx.swarm.peers.values_mut() {
            if peer.pipeline.abandon(block) {
                self.cx.shared.send(peer.key, Command::Cancel(vec![block]));
                if !peer.wake {
                    peer.wake = true;
                    self.cx.swarm.awake.push(peer.key);
                }
            }
        }
    }

    /// Handles peers that do not answer, and peers without requests.
    pub(super) fn tick_requests(&mut self) {
        let now = self.cx.now;
        let timeout = self.cx.shared.config.request_timeout;
        let keys: Vec<_> = self.cx.swarm.peers.keys().copied().collect();
        for key in keys {
            let Some(peer) = self.cx.swarm.peers.get_mut(&key) else {
                continue;
            };
            if peer.forgive(now) {
                self.cx.swarm.wake_starved = true;
            }
            // A peer that never answered times out sooner, so that many of them do not delay every piece.
            let timeout = if peer.down.total() == 0 {
                timeout / UNTRIED
            } else {
                timeout
            };
            let deadline = peer.pipeline.deadline(timeout);
            if deadline.is_some_and(|deadline| deadline <= now) {
                peer.pipeline.snub();
                let transfer = &*self.cx.transfer;
                if peer
                    .pipeline
                    .newest_first()
                    .any(|block| transfer.is_probed(block.piece()))
                {
                    peer.leaves_failed();
                }
                self.cancel_all(key);
                self.cx.swarm.wake(key);
                continue;
            }
            let idle = peer.wanted
                && !peer.choking_us
                && peer.pipeline.is_empty()
                && peer.starved.is_some_and(|since| since + IDLE <= now);
            if idle {
                peer.parked = true;
                self.cx.interest().update_interest(key);
            } else if peer.starved.is_some() && !peer.parked {
                // Starving peers are woken when work becomes free; this bounds the cost of a missed wake-up.
                self.cx.swarm.wake(key);
            }
        }
    }
}

struct Limits {
    open_blocks: u64,
    unproven_blocks: u64,
}

/// Chooses the piece that a peer works on. It is open and has blocks to request.
fn choose_piece(
    transfer: &mut Transfer,
    peer: &mut Peer,
    limits: &Limits,
    rng: &mut Rng,
) -> Option<PieceIndex> {
    if peer.choking_us {
        return choose_allowed(transfer, peer);
    }
    let last = peer.current;
    if let Some(current) = last
        && may_request(transfer, peer, current)
    {
        return Some(current);
    }
    if let Some(current) = peer.current.take()
        && let Some(open_piece) = transfer.open_pieces.get_mut(&current)
        && open_piece.worker == Some(peer.key)
    {
        open_piece.worker = None;
    }
    // The order is: pieces that no peer works on, then new ones, then those of other peers.
    let mut waiting = 0;
    let mut orphan = None;
    let mut other: Option<(u32, PieceIndex)> = None;
    for piece in &transfer.requestable {
        if !may_request(transfer, peer, *piece) {
            continue;
        }
        let Some(open_piece) = transfer.open_pieces.get(piece) else {
            continue;
        };
        if open_piece.worker.is_none() {
            orphan = Some(*piece);
            break;
        }
        waiting += open_piece.missing();
        if other.is_none_or(|(most, _)| open_piece.missing() > most) {
            other = Some((open_piece.missing(), *piece));
        }
    }
    let other = other.map(|(_, piece)| piece);
    let chosen = match orphan {
        Some(orphan) => orphan,
        None if waiting >= ENOUGH_OPEN => other?,
        None => begin_piece(transfer, peer, last, limits, rng).or(other)?,
    };
    peer.current = Some(chosen);
    if let Some(open_piece) = transfer.open_pieces.get_mut(&chosen) {
        open_piece.worker.get_or_insert(peer.key);
        if open_piece.solo {
            open_piece.exclusive = Some(peer.key);
        }
    }
    Some(chosen)
}

/// Returns whether missing blocks of an open piece may be requested from a peer.
fn may_request(transfer: &Transfer, peer: &Peer, piece: PieceIndex) -> bool {
    peer.has(piece)
        && !peer.refuses(piece)
        && transfer.open_pieces.get(&piece).is_some_and(|open_piece| {
            open_piece.missing() > 0
                && matches!(open_piece.stage, PieceStage::Collecting)
                && (!open_piece.solo || open_piece.exclusive.is_none_or(|only| only == peer.key))
        })
}

/// Chooses a piece that the peer serves although it chokes (BEP 6, "allowed fast").
fn choose_allowed(transfer: &mut Transfer, peer: &Peer) -> Option<PieceIndex> {
    let piece = peer.allowed_fast.iter().copied().find(|piece| {
        may_request(transfer, peer, *piece)
            || (peer.has(*piece) && !peer.refuses(*piece) && transfer.picker.is_ready(*piece))
    })?;
    if transfer.picker.is_ready(piece) {
        transfer.begin(piece);
    }
    let open_piece = transfer.open_pieces.get_mut(&piece)?;
    if open_piece.solo {
        open_piece.exclusive = Some(peer.key);
    }
    Some(piece)
}

/// Picks and opens a piece for a peer.
fn begin_piece(
    transfer: &mut Transfer,
    peer: &Peer,
    last: Option<PieceIndex>,
    limits: &Limits,
    rng: &mut Rng,
) -> Option<PieceIndex> {
    // Many open pieces that no peer can finish must not keep an idle peer idle.
    let full = transfer.begun_blocks - transfer.unproven_blocks >= limits.open_blocks;
    if full && !peer.pipeline.is_empty() {
        return None;
    }
    if transfer.unproven_mode && transfer.unproven_blocks >= limits.unproven_blocks {
        transfer.set_unproven_mode(false);
    }
    let have = peer.pieces()?;
    let refused = |piece: PieceIndex| peer.refused().iter().any(|(other, _)| *other == piece);
    let layout = std::sync::Arc::clone(&transfer.layout);
    let piece = if transfer.have.is_empty() && transfer.open_pieces.is_empty() {
        transfer.picker.pick_any(have, refused, &layout, rng)
    } else {
        transfer.picker.pick(have, last, refused, &layout, rng)
    }?;
    transfer.begin(piece);
    // A piece whose blocks were all stored by a former run has nothing to request.
    transfer.requestable.contains(&piece).then_some(piece)
}
