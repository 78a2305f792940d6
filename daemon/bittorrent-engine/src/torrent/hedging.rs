//! Hash requests that are asked a second time. See [`crate::hedge`].

use std::collections::BTreeMap;
use std::time::Instant;

use bittorrent_protocol::PieceIndex;

use super::Torrent;
use super::hashes::PER_PEER;
use super::reuse::piece_run;
use crate::addresses::Host;
use crate::download::Download;
use crate::hedge::{Hedge, MOST_HEDGES};
use crate::input::Link;
use crate::keys::PeerKey;
use crate::partial::Stage;
use crate::peer::{HashPurpose, HashWait, Peer};
use crate::shared::Shared;

impl Torrent {
    /// Whether a hash request is unanswered for longer than answers take.
    fn is_overdue(&self, wait: &HashWait, shared: &Shared, now: Instant) -> bool {
        self.answer_time
            .is_overdue(wait.asked, shared.config.hedge_after, now)
    }

    /// How many hash requests each host left unanswered, as far as is known.
    pub(super) fn unanswered(&self, shared: &Shared, now: Instant) -> BTreeMap<Host, u32> {
        let mut unanswered: BTreeMap<Host, u32> = BTreeMap::new();
        for peer in self.peers.values() {
            let overdue = peer.hash_waits.iter();
            let overdue = overdue.filter(|wait| self.is_overdue(wait, shared, now));
            *unanswered.entry(peer.host()).or_default() +=
                peer.hash_failures + overdue.count() as u32;
        }
        unanswered
    }

    /// Asks other hosts for hashes that are overdue.
    pub(super) fn hedge_hashes(&mut self, shared: &mut Shared, now: Instant) {
        let mut under_way = 0;
        let mut overdue = Vec::new();
        for peer in self.peers.values() {
            for wait in &peer.hash_waits {
                match wait.hedge {
                    Hedge::Is => under_way += 1,
                    Hedge::None if self.is_overdue(wait, shared, now) => {
                        overdue.push((wait.asked, peer.key, wait.request, wait.purpose));
                    }
                    Hedge::None | Hedge::Has => {}
                }
            }
        }
        if overdue.is_empty() {
            return;
        }
        overdue.sort_unstable_by_key(|(asked, key, ..)| (*asked, *key));
        let unanswered = self.unanswered(shared, now);
        for (_, asked, request, purpose) in overdue {
            if under_way >= MOST_HEDGES {
                return;
            }
            let Some(other) = self.who_else(asked, purpose, &unanswered, now) else {
                continue;
            };
            let first = self.peers.get_mut(&asked);
            let waits = first.map(|peer| peer.hash_waits.iter_mut());
            if let Some(wait) = waits.and_then(|mut waits| waits.find(|w| w.purpose == purpose)) {
                wait.hedge = Hedge::Has;
            }
            if let Some(query) = self.leaf_query(purpose) {
                query.ask(other);
            }
            if let Some(peer) = self.peers.get_mut(&other) {
                peer.request_hashes_too(request, purpose, shared, now);
                under_way += 1;
            }
        }
    }

    /// Whom to ask as well: of the hosts that leave nothing unanswered, the least busy. `None` also
    /// when the hashes are not wanted any more.
    fn who_else(
        &self,
        asked: PeerKey,
        purpose: HashPurpose,
        unanswered: &BTreeMap<Host, u32>,
        now: Instant,
    ) -> Option<PeerKey> {
        let download = self.download.as_ref()?;
        // The host that was asked is among those that leave something unanswered.
        let answers = |peer: &&Peer| unanswered.get(&peer.host()) == Some(&0);
        self.peers
            .values()
            .filter(answers)
            .filter(|peer| can_answer(download, peer, asked, purpose, now))
            .min_by_key(|peer| peer.hash_waits.len())
            .map(|peer| peer.key)
    }

    /// Who is asked for the leaves of a false piece.
    fn leaf_query(&mut self, purpose: HashPurpose) -> Option<&mut crate::leaves::LeafQuery> {
        let HashPurpose::Leaves(piece) = purpose else {
            return None;
        };
        let partial = self.download.as_mut()?.partials.get_mut(&piece)?;
        match &mut partial.stage {
            Stage::Asking(query) => Some(query),
            _ => None,
        }
    }

    /// A peer will not answer: whether another one is asked for the same, who is counted on then.
    pub(super) fn hand_over(&mut self, key: PeerKey, wait: &HashWait) -> bool {
        if wait.hedge == Hedge::None {
            return false;
        }
        let asked = |peer: &&Peer| {
            let mut waits = peer.hash_waits.iter();
            peer.key != key && waits.any(|other| other.purpose == wait.purpose)
        };
        let Some(other) = self.peers.values().find(asked).map(|peer| peer.key) else {
            return false;
        };
        match wait.purpose {
            HashPurpose::Leaves(_) => {
                if let Some(query) = self.leaf_query(wait.purpose) {
                    query.count_on(other);
                }
            }
            HashPurpose::Reuse(first, pieces) | HashPurpose::Nodes(first, pieces) => {
                if let Some(download) = &mut self.download {
                    for piece in piece_run(download, first, pieces) {
                        if let Some(partial) = download.partials.get_mut(&piece)
                            && is_learning_of(&partial.stage, key)
                        {
                            partial.stage = Stage::Learning(other);
                        }
                    }
                }
            }
            HashPurpose::Chunk(_) | HashPurpose::Below(..) => {}
        }
        true
    }
}

fn is_learning_of(stage: &Stage, key: PeerKey) -> bool {
    matches!(stage, Stage::Learning(of) if *of == key)
}

/// Whether this peer can be asked for what another one was asked for, and it is wanted still.
fn can_answer(
    download: &Download,
    peer: &Peer,
    asked: PeerKey,
    purpose: HashPurpose,
    now: Instant,
) -> bool {
    let stage = |piece: PieceIndex| download.partials.get(&piece).map(|partial| &partial.stage);
    let gives_leaves = peer.may_give_leaves();
    match purpose {
        HashPurpose::Chunk(id) => {
            peer.can_give_hashes(PER_PEER, now)
                && peer
                    .pieces()
                    .is_some_and(|have| download.layers.is_asked(&download.layout, id, have))
        }
        HashPurpose::Leaves(piece) => {
            let may = |query: &crate::leaves::LeafQuery| {
                query.is_waiting_for(asked) && !query.is_exhausted() && !query.was_asked(peer.key)
            };
            peer.link == Link::V2
                && peer.hash_waits.len() < PER_PEER
                && peer.has(piece)
                && matches!(stage(piece), Some(Stage::Asking(query)) if may(query))
        }
        HashPurpose::Reuse(first, pieces) | HashPurpose::Nodes(first, pieces) => {
            let run = piece_run(download, first, pieces);
            gives_leaves
                && peer.can_give_hashes(PER_PEER, now)
                && (peer.gives_nodes || !matches!(purpose, HashPurpose::Nodes(..)))
                && run.iter().all(|piece| peer.has(*piece))
                && run
                    .iter()
                    .any(|piece| stage(*piece).is_some_and(|stage| is_learning_of(stage, asked)))
        }
        HashPurpose::Below(piece, _) => {
            gives_leaves
                && peer.can_give_below()
                && peer.has(piece)
                && matches!(stage(piece), Some(Stage::Descending(_)))
        }
    }
}
