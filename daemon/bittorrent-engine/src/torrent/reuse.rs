//! Looking for what is missing in what is held already. See [`crate::reuse`] for the way of a piece.

use std::time::Instant;

use bittorrent_protocol::merkle::{self, CheckedRequest, HashRequest, ProofFault};
use bittorrent_protocol::{BlockIndex, MerkleHash, PieceIndex};

use super::Torrent;
use super::hashes::{PATIENCE, PER_PEER};
use crate::bits::PieceSet;
use crate::config::Config;
use crate::descent::{GROUP, LAYER};
use crate::download::Download;
use crate::input::Link;
use crate::keys::PeerKey;
use crate::layers::piece_range;
use crate::output::Output;
use crate::partial::{Stage, State};
use crate::peer::{GivesLeaves, HashPurpose};
use crate::reuse::Reuse;
use crate::shared::Shared;

/// Leaves in one request for those of several pieces; a single long piece may have more. What BEP
/// 52 advises.
const LEAVES_AT_ONCE: u32 = 512;
/// The least layers between leaves and piece for coarser nodes to be asked for first.
const LEAST_HEIGHT: u8 = LAYER + 2;
/// Pieces begun so that their leaves can be learnt: more would only make them slow to search.
const MOST_PIECES: usize = 1_024;
/// Pieces of which one peer is asked for a block, or for leaves after that.
const MOST_PROBES: usize = 16;
/// How many pieces are looked at to find those a peer must be asked a block of.
const PROBE_SEARCH: usize = 256;
/// Where nobody gives leaves, this many blocks are made ready to be requested: when someone comes who
/// gives them, the rest can still be looked for.
const READY_AHEAD: u32 = 1 << 14;

impl Torrent {
    /// Look-ups are under way.
    pub(crate) fn is_looking(&self) -> bool {
        let reuse = self.download.as_ref().and_then(|dl| dl.reuse.as_ref());
        reuse.is_some_and(Reuse::is_looking)
    }

    /// Asks for the look-ups of whole pieces that can be asked for now.
    pub(super) fn look_up(&mut self, shared: &mut Shared, now: Instant) {
        if self.is_at_rest() {
            return;
        }
        let Some(download) = &mut self.download else {
            return;
        };
        let most = shared.config.max_lookup_blocks;
        while let Some(reuse) = &mut download.reuse
            && let Some(piece) = reuse.look_up_next(&download.layout, most, now)
        {
            shared.emit(Output::Lookup {
                torrent: self.key,
                piece,
                leaves: None,
            });
        }
    }

    pub(crate) fn handle_looked_up(
        &mut self,
        piece: PieceIndex,
        adopted: &[(BlockIndex, MerkleHash)],
        shared: &mut Shared,
        now: Instant,
    ) {
        let Some(download) = &mut self.download else {
            return;
        };
        let Some(reuse) = &mut download.reuse else {
            return;
        };
        if reuse.answered_whole(piece) {
            reuse.answered(now);
            self.whole_looked_up(piece, adopted, shared, now);
        } else if let Some(partial) = download.partials.get_mut(&piece)
            && matches!(partial.stage, Stage::Looking)
        {
            reuse.answered(now);
            partial.stage = Stage::Collecting;
            for (block, leaf) in adopted {
                if block.piece() == piece && partial.adopt(block.in_piece(), *leaf) {
                    download.bytes_reused += u64::from(download.layout.block_size(*block));
                }
            }
            if !reuse.descends() {
                // So that it is noticed when most is held again.
                let (differ, of) = partial.groups_missing(GROUP);
                reuse.count_differing(differ, of);
            }
            download.reopen(piece);
            self.wake_starved = true;
            self.ask_hashes = true;
            self.prove(piece, shared, now);
        }
    }

    /// A piece counts as found when all of it is there and folds to its hash.
    fn whole_looked_up(
        &mut self,
        piece: PieceIndex,
        adopted: &[(BlockIndex, MerkleHash)],
        shared: &mut Shared,
        now: Instant,
    ) {
        let Some(download) = &mut self.download else {
            return;
        };
        let blocks = download.layout.block_count(piece);
        let mut leaves = vec![None; blocks as usize];
        for (block, leaf) in adopted.iter().filter(|(block, _)| block.piece() == piece) {
            if let Some(slot) = leaves.get_mut(usize::from(block.in_piece())) {
                *slot = Some(*leaf);
            }
        }
        let leaves: Option<Vec<MerkleHash>> = leaves.into_iter().collect();
        let hash = download.layers.piece_hash(&download.layout, piece);
        let found = leaves.filter(|leaves| {
            hash.is_some_and(|hash| hash == merkle::piece_hash(leaves, &download.layout, piece))
        });
        if let Some(leaves) = found {
            let size = u64::from(download.layout.piece_size(piece));
            download.bytes_verified += size;
            download.bytes_proven += size;
            download.bytes_reused += size;
            shared.emit(Output::Proven {
                torrent: self.key,
                piece,
                first_block: 0,
                leaves,
            });
            self.finish(piece, shared, now);
        } else if blocks == 1 {
            // Its one leaf is its hash: there is nothing more to look for.
            download.offer(piece);
            self.wake_starved = true;
        } else {
            if let Some(reuse) = &mut download.reuse {
                reuse.insert(piece, true);
            }
            self.ask_hashes = true;
            // Those who must be asked for a block first.
            self.wake_starved = true;
        }
    }

    /// Asks for the leaves of pieces that are not there as a whole.
    pub(super) fn learn_leaves(&mut self, shared: &mut Shared, now: Instant) {
        self.ask_probed(shared, now);
        self.ask_below(shared, now);
        let Some(download) = &mut self.download else {
            return;
        };
        // One each in turn, so that the requests spread over the peers.
        let mut asked = true;
        while asked {
            asked = false;
            for peer in self.peers.values_mut() {
                if download
                    .reuse
                    .as_ref()
                    .is_none_or(|reuse| !reuse.has_unlike())
                {
                    return;
                }
                if peer.gives_leaves != GivesLeaves::Yes
                    || !peer.can_give_hashes(PER_PEER, now)
                    || !may_begin(download, &shared.config, peer.pipeline.is_empty())
                {
                    continue;
                }
                let Some(have) = peer.pieces() else {
                    continue;
                };
                let Some((first, pieces, request)) = next_batch(download, have, peer.gives_nodes)
                else {
                    continue;
                };
                let purpose = match request.base() {
                    0 => HashPurpose::Reuse(first, pieces),
                    _ => HashPurpose::Nodes(first, pieces),
                };
                for piece in piece_run(download, first, pieces) {
                    download.begin_reuse(piece, Stage::Learning(peer.key));
                }
                peer.request_hashes(request, purpose, shared, now);
                asked = true;
            }
        }
    }

    /// Asks those who have sent a block of a piece for its leaves.
    fn ask_probed(&mut self, shared: &mut Shared, now: Instant) {
        let Some(download) = &mut self.download else {
            return;
        };
        let Some(reuse) = &mut download.reuse else {
            return;
        };
        let mut stranded = Vec::new();
        reuse.probing.retain(|piece| {
            let Some(partial) = download.partials.get_mut(piece) else {
                return false;
            };
            let Stage::Probing(key) = partial.stage else {
                return false;
            };
            if !partial.is_settled() || partial.slots().any(|(_, s)| s.state == State::Requested) {
                return true;
            }
            let Some(peer) = self.peers.get_mut(&key) else {
                stranded.push(*piece);
                return false;
            };
            if peer.hash_waits.len() >= PER_PEER {
                return true;
            }
            match crate::leaves::leaf_request(&download.layout, *piece) {
                Some(request) => {
                    partial.stage = Stage::Learning(key);
                    peer.request_hashes(request, HashPurpose::Reuse(*piece, 1), shared, now);
                }
                None => stranded.push(*piece),
            }
            false
        });
        for piece in stranded {
            download.shelve(piece);
        }
    }

    /// The pieces of which this peer is to be asked for a block before it gives their leaves, nobody
    /// else being able to.
    pub(super) fn choose_probes(&self, key: PeerKey, shared: &Shared) -> Vec<PieceIndex> {
        let (Some(download), Some(peer)) = (&self.download, self.peers.get(&key)) else {
            return Vec::new();
        };
        let (Some(reuse), Some(have)) = (&download.reuse, peer.pieces()) else {
            return Vec::new();
        };
        if peer.gives_leaves != GivesLeaves::AfterBlock
            || peer.chokes
            || !reuse.has_unlike()
            || !may_begin(download, &shared.config, peer.pipeline.is_empty())
        {
            return Vec::new();
        }
        let is_its = |partial: &&crate::partial::Partial| match partial.stage {
            Stage::Probing(of) | Stage::Learning(of) => of == key,
            _ => false,
        };
        let under_way = download.partials.values().filter(is_its).count();
        let others: Vec<&PieceSet> = self
            .peers
            .values()
            .filter(|peer| peer.link == Link::V2 && peer.gives_leaves == GivesLeaves::Yes)
            .filter_map(|peer| peer.pieces())
            .collect();
        reuse
            .unlike_in(have, &download.layout)
            .take(PROBE_SEARCH)
            .filter(|piece| !peer.refuses(*piece))
            .filter(|piece| !others.iter().any(|have| have.contains(*piece)))
            .take(MOST_PROBES.saturating_sub(under_way))
            .collect()
    }

    /// What a peer gave of these pieces, as far as it leads to what is known of them.
    pub(super) fn proven_below<'h>(
        &mut self,
        key: PeerKey,
        request: &CheckedRequest,
        (first, pieces): (PieceIndex, u32),
        hashes: &'h [MerkleHash],
    ) -> Result<&'h [MerkleHash], ProofFault> {
        let download = self.download.as_ref();
        let node = download.and_then(|download| known_above(download, request, (first, pieces)));
        let proven = request.verify(hashes, |_, _| node);
        if proven.is_err() {
            self.leaves_not_learnt(key, first, pieces);
        }
        proven
    }

    /// A peer gave the leaves of these pieces, or says so.
    pub(super) fn leaves_learnt(
        &mut self,
        key: PeerKey,
        request: &CheckedRequest,
        (first, pieces): (PieceIndex, u32),
        hashes: &[MerkleHash],
        shared: &mut Shared,
        now: Instant,
    ) -> Result<(), ProofFault> {
        let leaves = self.proven_below(key, request, (first, pieces), hashes)?;
        let Some(download) = &self.download else {
            return Ok(());
        };
        let run = piece_run(download, first, pieces);
        let low = merkle::piece_height(&download.layout, first);
        let counts: Vec<usize> = run
            .iter()
            .map(|piece| download.layout.block_count(*piece) as usize)
            .collect();
        if let Some(peer) = self.peers.get_mut(&key) {
            peer.leaves_given();
        }
        for ((piece, leaves), count) in run.into_iter().zip(leaves.chunks(1 << low)).zip(counts) {
            let waiting = self
                .download
                .as_ref()
                .and_then(|download| download.partials.get(&piece))
                .is_some_and(|partial| matches!(partial.stage, Stage::Learning(_)));
            if waiting {
                let leaves = leaves.get(..count).unwrap_or(leaves);
                self.apply_leaves(piece, leaves, shared, now);
                self.look_for_blocks(piece, leaves, shared, now);
            }
        }
        Ok(())
    }

    /// The leaves of a piece are proven: asks for the look-up of the blocks it lacks.
    pub(super) fn look_for_blocks(
        &mut self,
        piece: PieceIndex,
        leaves: &[MerkleHash],
        shared: &mut Shared,
        now: Instant,
    ) {
        let Some(download) = &mut self.download else {
            return;
        };
        if let (Some(reuse), Some(partial)) =
            (&mut download.reuse, download.partials.get_mut(&piece))
        {
            partial.stage = Stage::Looking;
            reuse.asked(now);
            download.reopen(piece);
            shared.emit(Output::Lookup {
                torrent: self.key,
                piece,
                leaves: Some(leaves.to_vec()),
            });
        }
    }

    /// A peer does not give the leaves of these pieces.
    pub(super) fn leaves_not_learnt(&mut self, key: PeerKey, first: PieceIndex, pieces: u32) {
        let Some(download) = &mut self.download else {
            return;
        };
        for piece in piece_run(download, first, pieces) {
            let Some(partial) = download.partials.get_mut(&piece) else {
                continue;
            };
            if !matches!(partial.stage, Stage::Learning(of) if of == key) {
                continue;
            }
            if partial
                .slots()
                .any(|(_, slot)| slot.state == State::Written)
            {
                // Not even after a block of it: the rest is requested as well.
                partial.stage = Stage::Collecting;
                download.reopen(piece);
            } else {
                download.shelve(piece);
            }
        }
        self.ask_hashes = true;
        self.wake_starved = true;
    }

    /// Gives up look-ups that nobody answers, and leaves that nobody gives.
    pub(super) fn tick_reuse(&mut self, shared: &Shared, now: Instant) {
        let Some(download) = &mut self.download else {
            return;
        };
        let Some(reuse) = &mut download.reuse else {
            return;
        };
        if reuse.is_overdue(shared.config.lookup_timeout, now) {
            download.end_reuse();
            self.wake_starved = true;
            return;
        }
        let layout = &download.layout;
        let with_some: Vec<_> = self
            .peers
            .values()
            .filter(|peer| {
                peer.pieces()
                    .is_some_and(|have| reuse.unlike_in(have, layout).next().is_some())
            })
            .collect();
        let gives = with_some.iter().any(|peer| {
            peer.link == Link::V2
                && match peer.gives_leaves {
                    GivesLeaves::Yes => true,
                    GivesLeaves::AfterBlock => !peer.chokes,
                    GivesLeaves::No => false,
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
        let room = most.saturating_sub(download.rarity.ready()) as usize;
        let pieces: Vec<_> = with_some
            .iter()
            .filter_map(|peer| peer.pieces())
            .flat_map(|have| reuse.unlike_in(have, layout).take(room))
            .take(room)
            .collect();
        for piece in pieces {
            if let Some(reuse) = &mut download.reuse {
                reuse.take_unlike(piece);
            }
            download.offer(piece);
            self.wake_starved = true;
        }
    }
}

/// Whether one more piece may be begun to learn its leaves, for a peer that has something else to do
/// or not.
fn may_begin(download: &Download, config: &Config, idle: bool) -> bool {
    let begun = download.begun_blocks - download.unproven_blocks;
    let few = begun < config.max_reuse_blocks && download.partials.len() < MOST_PIECES;
    // Pieces that only peers have who are gone must not keep an idle one idle.
    few || (idle
        && !download
            .partials
            .values()
            .any(|partial| partial.is_looked_for()))
}

/// The node above the hashes of these pieces. Without uncles, it is all that a request is about.
fn known_above(
    download: &Download,
    request: &CheckedRequest,
    (first, pieces): (PieceIndex, u32),
) -> Option<MerkleHash> {
    let known: Option<Vec<MerkleHash>> = piece_run(download, first, pieces)
        .iter()
        .map(|piece| download.layers.piece_hash(&download.layout, *piece))
        .collect();
    let low = merkle::piece_height(&download.layout, first);
    known.map(|known| merkle::fold(&known, low, request.anchor_layer().saturating_sub(low)))
}

/// So many pieces from one on.
pub(super) fn piece_run(download: &Download, first: PieceIndex, pieces: u32) -> Vec<PieceIndex> {
    (first.get()..)
        .take(pieces as usize)
        .filter_map(|number| download.layout.piece(number))
        .collect()
}

/// The next pieces whose leaves a peer with these pieces is asked for, as many neighbours as one
/// request takes; or coarser nodes above the leaves, where the peer gives them and that costs less.
fn next_batch(
    download: &mut Download,
    have: &PieceSet,
    gives_nodes: bool,
) -> Option<(PieceIndex, u32, CheckedRequest)> {
    loop {
        let layout = &download.layout;
        let reuse = download.reuse.as_ref()?;
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
        let coarse = gives_nodes && low >= LEAST_HEIGHT && reuse.descends();
        let base = if coarse { LAYER } else { 0 };
        let request = number.checked_mul(per_piece >> base).and_then(|index| {
            HashRequest::anchored(file, base, index, (width * per_piece) >> base, height).ok()
        });
        let Some(request) = request else {
            // More leaves than peers give: it is asked for as if nothing were held.
            if let Some(reuse) = &mut download.reuse {
                reuse.take_unlike(piece);
            }
            download.offer(piece);
            continue;
        };
        let first = layout.piece(in_file.start + number)?;
        return Some((first, width.min(file.pieces() - number), request));
    }
}
