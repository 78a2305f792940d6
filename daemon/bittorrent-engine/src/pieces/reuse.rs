//! What is looked for in what is held already, before peers are asked for it.
//!
//! A piece that is missing goes this way:
//!
//! 1. It is looked for as a whole, by its hash. These look-ups run in the order of the torrent from
//!    a random piece on, so that disks read in order and swarms of updating peers do not all ask
//!    their seed for the same pieces at the same time.
//! 2. If it is not there, its leaves are asked of a peer, as those of many neighbouring pieces at a
//!    time as one request takes. Where most of a piece is held, nodes of 64 KiB are asked for first
//!    ([`crate::pieces::descent`]), and then the leaves below those that differ. A peer that rejects that may be one that learns a piece's leaves
//!    only when it sends a block of it (libtorrent in its seed mode): where nobody else can help, a
//!    block is requested of it first, and the leaves again when that block is here.
//! 3. Each block is looked for by its leaf. What is found is proven by that; the rest is requested
//!    block by block.
//!
//! Where no leaves can be had, the piece is downloaded as if nothing were held.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bittorrent_protocol::{Layout, PieceIndex};

use crate::pieces::piece_set::PieceSet;

/// How much a piece counts in [`Reuse::differing`].
const DIFFERING_WEIGHT: f64 = 0.125;
/// Where more of the coarse nodes differ, their hashes and further requests cost more than they spare.
const MOST_DIFFERING: f64 = 0.4;

/// The pieces of a torrent that are still looked for, apart from those that are begun.
#[derive(Debug)]
pub(crate) struct Reuse {
    /// Not looked for yet.
    unsearched: PieceSet,
    /// Not there as a whole; their leaves are to be asked for.
    unlike: PieceSet,
    /// Where the search for whole pieces goes on.
    cursor: u32,
    /// Where asking for leaves goes on.
    leaf_cursor: u32,
    /// Being looked for as a whole.
    looking: BTreeSet<PieceIndex>,
    /// Pieces in [`PieceStage::Probing`](crate::pieces::open_piece::PieceStage::Probing), and some that were.
    pub(crate) probing: BTreeSet<PieceIndex>,
    /// Pieces in [`PieceStage::Descending`](crate::pieces::open_piece::PieceStage::Descending) with something to be asked
    /// for, and some that were.
    pub(crate) descending: BTreeSet<PieceIndex>,
    /// Which share of the coarse nodes of pieces that differ has differed lately.
    differing: f64,
    /// Look-ups that are not answered.
    lookups: usize,
    /// When a look-up was answered last, or the first one was asked for after a pause.
    last_answer: Option<Instant>,
    /// Since when nobody can give the leaves that are to be asked for.
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

    /// Begins the search at this piece.
    pub(crate) fn start_at(&mut self, piece: u32) {
        (self.cursor, self.leaf_cursor) = (piece, piece);
    }

    /// A piece is to be looked for, as a whole first unless parts of it are here.
    pub(crate) fn insert(&mut self, piece: PieceIndex, begun: bool) {
        if begun {
            self.unlike.insert(piece);
        } else {
            self.unsearched.insert(piece);
        }
    }

    /// Asks for the next look-up of a whole piece, unless enough are under way.
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

    /// A look-up is asked for.
    pub(crate) fn asked(&mut self, now: Instant) {
        if self.lookups == 0 {
            self.last_answer = Some(now);
        }
        self.lookups += 1;
    }

    /// A look-up is answered.
    pub(crate) fn answered(&mut self, now: Instant) {
        self.lookups = self.lookups.saturating_sub(1);
        self.last_answer = Some(now);
    }

    /// The look-up of a whole piece is answered. `false` when none was under way.
    pub(crate) fn answered_whole(&mut self, piece: PieceIndex) -> bool {
        self.looking.remove(&piece)
    }

    /// Look-ups are under way.
    pub(crate) fn is_looking(&self) -> bool {
        self.lookups > 0
    }

    /// Look-ups are under way, and none has been answered for so long.
    pub(crate) fn is_overdue(&self, timeout: Duration, now: Instant) -> bool {
        self.lookups > 0 && self.last_answer.is_some_and(|last| last + timeout <= now)
    }

    /// The pieces whose leaves are to be asked for and that are in `have`, nearly in order.
    pub(crate) fn unlike_in<'a>(
        &'a self,
        have: &'a PieceSet,
        layout: &'a Layout,
    ) -> impl Iterator<Item = PieceIndex> + 'a {
        self.unlike.common_from(have, self.leaf_cursor, layout)
    }

    /// Of so many coarse nodes of a piece these differ from what is held.
    pub(crate) fn count_differing(&mut self, differ: usize, of: usize) {
        let share = differ as f64 / of.max(1) as f64;
        self.differing += (share - self.differing) * DIFFERING_WEIGHT;
    }

    /// Coarse nodes first make for less to be asked for than all leaves at once.
    pub(crate) fn descends(&self) -> bool {
        self.differing < MOST_DIFFERING
    }

    /// It is looked for and not begun.
    pub(crate) fn contains(&self, piece: PieceIndex) -> bool {
        self.unsearched.contains(piece)
            || self.unlike.contains(piece)
            || self.looking.contains(&piece)
    }

    pub(crate) fn is_unlike(&self, piece: PieceIndex) -> bool {
        self.unlike.contains(piece)
    }

    /// The leaves of a piece are being asked for.
    pub(crate) fn take_unlike(&mut self, piece: PieceIndex) {
        if self.unlike.remove(piece) {
            self.leaf_cursor = piece.get();
        }
    }

    /// Nothing is left that could be looked for, apart from pieces that are begun.
    pub(crate) fn is_empty(&self) -> bool {
        self.pieces() == 0
    }

    pub(crate) fn has_unlike(&self) -> bool {
        !self.unlike.is_empty()
    }

    /// How many pieces are looked for, apart from those that are begun.
    pub(crate) fn pieces(&self) -> u32 {
        // At most as many as there are pieces.
        self.unsearched.len() + self.unlike.len() + self.looking.len() as u32
    }

    /// Every piece that is looked for and not begun.
    pub(crate) fn into_pieces(self, layout: &Layout) -> Vec<PieceIndex> {
        let waiting = self.unsearched.iter(layout).chain(self.unlike.iter(layout));
        waiting.chain(self.looking.iter().copied()).collect()
    }
}
