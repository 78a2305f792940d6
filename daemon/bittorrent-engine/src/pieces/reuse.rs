//! Pieces to look up in older content before they are requested from peers.
//!
//! The steps of a missing piece:
//!
//! 1. It is looked up as a whole, by its hash. These look-ups run in the order of the torrent from
//!    a random piece on, so that disks read in order and swarms of updating peers do not all ask
//!    their seed for the same pieces at the same time.
//! 2. If it is not found, its leaves are requested from a peer, together with those of as many neighbouring
//!    pieces as one request takes. Where most of a piece is in older content, nodes of 64 KiB are requested first
//!    ([`crate::pieces::descent`]), and then the leaves below those that differ. A peer that rejects that may be one that learns a piece's leaves
//!    only when it sends a block of it (libtorrent in its seed mode): where no other peer can help, a
//!    block is requested of it first, and the leaves again when that block is here.
//! 3. Each block is looked up by its leaf. What is found is proven by that; the rest is requested
//!    block by block.
//!
//! Where no peer sends leaves, the piece is downloaded as if there were no older content.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bittorrent_protocol::{Layout, PieceIndex};

use crate::pieces::piece_set::PieceSet;

/// How much a piece counts in [`Reuse::differing`].
const DIFFERING_WEIGHT: f64 = 0.125;
/// Above this share, hashes of coarse nodes and further requests cost more than they save.
const MOST_DIFFERING: f64 = 0.4;

/// The pieces of a torrent that are still looked up, except open ones.
#[derive(Debug)]
pub(crate) struct Reuse {
    /// Not looked up yet.
    unsearched: PieceSet,
    /// Not found as a whole; their leaves must be requested.
    unlike: PieceSet,
    /// The piece at which the search for whole pieces continues.
    cursor: u32,
    /// The piece at which requests for leaves continue.
    leaf_cursor: u32,
    /// Being looked up as a whole.
    looking: BTreeSet<PieceIndex>,
    /// Pieces in [`PieceStage::Probing`](crate::pieces::open_piece::PieceStage::Probing), and some that were.
    pub(crate) probing: BTreeSet<PieceIndex>,
    /// Pieces in [`PieceStage::Descending`](crate::pieces::open_piece::PieceStage::Descending) with something to be asked
    /// for, and some that were.
    pub(crate) descending: BTreeSet<PieceIndex>,
    /// Smoothed share of coarse nodes that differ, over pieces that differ.
    differing: f64,
    /// Unanswered look-ups.
    lookups: usize,
    /// When a look-up was answered last, or the first one was emitted after a pause.
    last_answer: Option<Instant>,
    /// Since when no peer can send the leaves that are wanted.
    pub(crate) no_leaves_since: Option<Instant>,
}

impl Reuse {
    pub(crate) fn new(pieces: u32) -> Self {
        Self {
            unsearched: PieceSet::new(pieces),
            unlike: PieceSet::new(pieces),
            cursor: 0,
            leaf_cursor: 0,
            looking: BTreeSet::new(),
            probing: BTreeSet::new(),
            descending: BTreeSet::new(),
            differing: 0.0,
            lookups: 0,
            last_answer: None,
            no_leaves_since: None,
        }
    }

    /// Starts the search at this piece.
    pub(crate) fn start_at(&mut self, piece: u32) {
        (self.cursor, self.leaf_cursor) = (piece, piece);
    }

    /// Queues the look-up of a piece, as a whole first unless parts of it are stored.
    pub(crate) fn insert(&mut self, piece: PieceIndex, begun: bool) {
        if begun {
            self.unlike.insert(piece);
        } else {
            self.unsearched.insert(piece);
        }
    }

    /// Returns the next piece to look up as a whole, unless enough look-ups are under way.
    pub(crate) fn look_up_next(
        &mut self,
        layout: &Layout,
        most_blocks: u64,
        now: Instant,
    ) -> Option<PieceIndex> {
        let under_way = self.looking.len() as u64 * u64::from(layout.piece_length().blocks());
        if under_way > 0 && under_way >= most_blocks {
            return None;
        }
        let piece = self.unsearched.next_from(self.cursor, layout)?;
        self.unsearched.remove(piece);
        self.cursor = (piece.get() + 1) % layout.piece_count();
        self.looking.insert(piece);
        self.asked(now);
        Some(piece)
    }

    /// Counts a look-up that was emitted.
    pub(crate) fn asked(&mut self, now: Instant) {
        if self.lookups == 0 {
            self.last_answer = Some(now);
        }
        self.lookups += 1;
    }

    /// Counts a look-up that was answered.
    pub(crate) fn answered(&mut self, now: Instant) {
        self.lookups = self.lookups.saturating_sub(1);
        self.last_answer = Some(now);
    }

    /// Ends the look-up of a whole piece. `false` when none was under way.
    pub(crate) fn answered_whole(&mut self, piece: PieceIndex) -> bool {
        self.looking.remove(&piece)
    }

    /// Look-ups are under way.
    pub(crate) fn is_looking(&self) -> bool {
        self.lookups > 0
    }

    /// Returns whether look-ups are under way and none has been answered for `timeout`.
    pub(crate) fn is_overdue(&self, timeout: Duration, now: Instant) -> bool {
        self.lookups > 0 && self.last_answer.is_some_and(|last| last + timeout <= now)
    }

    /// Returns the pieces in `have` whose leaves must be requested, nearly in order.
    pub(crate) fn unlike_in<'a>(
        &'a self,
        have: &'a PieceSet,
        layout: &'a Layout,
    ) -> impl Iterator<Item = PieceIndex> + 'a {
        self.unlike.common_from(have, self.leaf_cursor, layout)
    }

    /// Records how many coarse nodes of a piece differ from older content.
    pub(crate) fn count_differing(&mut self, differ: usize, of: usize) {
        let share = differ as f64 / of.max(1) as f64;
        self.differing += (share - self.differing) * DIFFERING_WEIGHT;
    }

    /// Returns whether requesting coarse nodes first costs less than requesting all leaves.
    pub(crate) fn descends(&self) -> bool {
        self.differing < MOST_DIFFERING
    }

    /// Returns whether a piece is looked up and not open.
    pub(crate) fn contains(&self, piece: PieceIndex) -> bool {
        self.unsearched.contains(piece)
            || self.unlike.contains(piece)
            || self.looking.contains(&piece)
    }

    pub(crate) fn is_unlike(&self, piece: PieceIndex) -> bool {
        self.unlike.contains(piece)
    }

    /// Removes a piece whose leaves are being requested.
    pub(crate) fn take_unlike(&mut self, piece: PieceIndex) {
        if self.unlike.remove(piece) {
            self.leaf_cursor = piece.get();
        }
    }

    /// Returns whether nothing is left to look up, except open pieces.
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces() == 0
    }

    pub(crate) fn has_unlike(&self) -> bool {
        !self.unlike.is_empty()
    }

    /// Returns how many pieces are looked up, except open ones.
    pub(crate) fn pieces(&self) -> u32 {
        // At most as many as there are pieces.
        self.unsearched.len() + self.unlike.len() + self.looking.len() as u32
    }

    /// Returns every piece that is looked up and not open.
    pub(crate) fn into_pieces(self, layout: &Layout) -> Vec<PieceIndex> {
        let waiting = self.unsearched.iter(layout).chain(self.unlike.iter(layout));
        waiting.chain(self.looking.iter().copied()).collect()
    }
}
