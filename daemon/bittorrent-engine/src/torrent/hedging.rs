//! Hash requests that are sent a second time. See [`crate::hedge`].

use std::collections::BTreeMap;
use std::time::Instant;

use bittorrent_protocol::PieceIndex;

use super::context::Context;
use super::hashes::PER_PEER;
use super::reuse::piece_run;
use crate::api::addresses::Host;
use crate::api::input::Link;
use crate::api::keys::PeerKey;
use crate::hedge::{Hedge, MOST_HEDGES};
use crate::peer::{HashPurpose, HashWait, Peer};
use crate::pieces::open_piece::PieceStage;
use crate::pieces::transfer::Transfer;

/// Sends overdue hash requests to a second host.
pub(super) struct Hedging<'c, 'a> {
    cx: &'c mut Context<'a>,
}

impl<'c, 'a> Hedging<'c, 'a> {
    pub(super) fn new(cx: &'c mut Context<'a>) -> Self {
        Self { cx }
    }

    /// Returns whether a hash request is unanswered for longer than answers take.
    fn is_overdue(&self, wait: &HashWait) -> bool {
        let now = self.cx.now;
        self.cx
            .swarm
            .answer_time
            .is_overdue(wait.asked, self.cx.shared.config.hedge_after, now)
    }

    /// Counts the hash requests that each host left unanswered.
    pub(super) fn unanswered(&self) -> BTreeMap<Host, u32> {
        let mut unanswered: BTreeMap<Host, u32> = BTreeMap::new();
        for peer in self.cx.swarm.peers.values() {
            let overdue = peer.hash_waits.iter();
            let overdue = overdue.filter(|wait| self.is_overdue(wait));
            *unanswered.entry(peer.host()).or_default() +=
                peer.hash_failures + overdue.count() as u32;
        }
        unanswered
    }

    /// Requests overdue hashes from other hosts.
    pub(super) fn hedge_hashes(&mut self) {
        let now = self.cx.now;
        let mut under_way = 0;
        let mut overdue = Vec::new();
        for peer in self.cx.swarm.peers.values() {
            for wait in &peer.hash_waits {
                match wait.hedge {
                    Hedge::Duplicate => under_way += 1,
                    Hedge::None if self.is_overdue(wait) => {
                        overdue.push((wait.asked, peer.key, wait.request, wait.purpose));
                    }
                    Hedge::None | Hedge::Sent => {}
                }
            }
        }
        if overdue.is_empty() {
            return;
        }
        overdue.sort_unstable_by_key(|(asked, key, ..)| (*asked, *key));
        let unanswered = self.unanswered();
        for (_, asked, request, purpose) in overdue {
            if under_way >= MOST_HEDGES {
                return;
            }
            let Some(other) = self.other_peer_for(asked, purpose, &unanswered) else {
                continue;
            };
            let first = self.cx.swarm.peers.get_mut(&asked);
            let waits = first.map(|peer| peer.hash_waits.iter_mut());
            if let Some(wait) = waits.and_then(|mut waits| waits.find(|w| w.purpose == purpose)) {
                wait.hedge = Hedge::Sent;
            }
            if let Some(query) = self.leaf_query(purpose) {
                query.ask(other);
            }
            if let Some(peer) = self.cx.swarm.peers.get_mut(&other) {
                peer.request_hashes_too(request, purpose, self.cx.shared, now);
                under_way += 1;
            }
        }
    }

    /// Returns another peer to ask: the least busy one of hosts that answered everything. `None` also when
    /// the hashes are not wanted any more.
    fn other_peer_for(
        &self,
        asked: PeerKey,
        purpose: HashPurpose,
        unanswered: &BTreeMap<Host, u32>,
    ) -> Option<PeerKey> {
        let now = self.cx.now;
        let transfer = &*self.cx.transfer;
        // The host that was asked is among those that leave something unanswered.
        let answers = |peer: &&Peer| unanswered.get(&peer.host()) == Some(&0);
        self.cx
            .swarm
            .peers
            .values()
            .filter(answers)
            .filter(|peer| can_answer(transfer, peer, asked, purpose, now))
            .min_by_key(|peer| peer.hash_waits.len())
            .map(|peer| peer.key)
    }

    /// Returns the query for the leaves of a false piece.
    fn leaf_query(
        &mut self,
        purpose: HashPurpose,
    ) -> Option<&mut crate::pieces::leaves::LeafQuery> {
        let HashPurpose::Leaves(piece) = purpose else {
            return None;
        };
        let open_piece = self.cx.transfer.open_pieces.get_mut(&piece)?;
        match &mut open_piece.stage {
            PieceStage::FindingFalseBlocks(query) => Some(query),
            _ => None,
        }
    }

    /// Returns whether another peer was sent the same request; that one is waited for then.
    pub(super) fn hand_over(&mut self, key: PeerKey, wait: &HashWait) -> bool {
        if wait.hedge == Hedge::None {
            return false;
        }
        let asked = |peer: &&Peer| {
            let mut waits = peer.hash_waits.iter();
            peer.key != key && waits.any(|other| other.purpose == wait.purpose)
        };
        let Some(other) = self
            .cx
            .swarm
            .peers
            .values()
            .find(asked)
            .map(|peer| peer.key)
        else {
            return false;
        };
        match wait.purpose {
            HashPurpose::Leaves(_) => {
                if let Some(query) = self.leaf_query(wait.purpose) {
                    query.count_on(other);
                }
            }
            HashPurpose::Reuse(first, pieces) | HashPurpose::Nodes(first, pieces) => {
                let transfer = &mut *self.cx.transfer;
                for piece in piece_run(transfer, first, pieces) {
                    if let Some(open_piece) = transfer.open_pieces.get_mut(&piece)
                        && is_learning_of(&open_piece.stage, key)
                    {
                        open_piece.stage = PieceStage::RequestingLeaves(other);
                    }
                }
            }
            HashPurpose::Chunk(_) | HashPurpose::Below(..) => {}
        }
        true
    }
}

fn is_learning_of(stage: &PieceStage, key: PeerKey) -> bool {
    matches!(stage, PieceStage::RequestingLeaves(of) if *of == key)
}

/// Returns whether this peer can be asked for what another one was asked for, and it is wanted still.
fn can_answer(
    transfer: &Transfer,
    peer: &Peer,
    asked: PeerKey,
    purpose: HashPurpose,
    now: Instant,
) -> bool {
    let stage = |piece: PieceIndex| {
        transfer
            .open_pieces
            .get(&piece)
            .map(|open_piece| &open_piece.stage)
    };
    let leaf_support = peer.may_give_leaves();
    match purpose {
        HashPurpose::Chunk(id) => {
            peer.can_give_hashes(PER_PEER, now)
                && peer
                    .pieces()
                    .is_some_and(|have| transfer.layers.is_asked(&transfer.layout, id, have))
        }
        HashPurpose::Leaves(piece) => {
            let may = |query: &crate::pieces::leaves::LeafQuery| {
                query.is_waiting_for(asked) && !query.is_exhausted() && !query.was_asked(peer.key)
            };
            peer.link == Link::V2
                && peer.hash_waits.len() < PER_PEER
                && peer.has(piece)
                && matches!(stage(piece), Some(PieceStage::FindingFalseBlocks(query)) if may(query))
        }
        HashPurpose::Reuse(first, pieces) | HashPurpose::Nodes(first, pieces) => {
            let run = piece_run(transfer, first, pieces);
            leaf_support
                && peer.can_give_hashes(PER_PEER, now)
                && (peer.answers_nodes || !matches!(purpose, HashPurpose::Nodes(..)))
                && run.iter().all(|piece| peer.has(*piece))
                && run
                    .iter()
                    .any(|piece| stage(*piece).is_some_and(|stage| is_learning_of(stage, asked)))
        }
        HashPurpose::Below(piece, _) => {
            leaf_support
                && peer.can_give_below()
                && peer.has(piece)
                && matches!(stage(piece), Some(PieceStage::Descending(_)))
        }
    }
}
