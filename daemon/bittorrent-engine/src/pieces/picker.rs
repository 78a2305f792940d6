//! Picks the next piece for a peer: the rarest that it has, or the first.
//!
//! Pieces that are ready are in buckets by the number of peers that have them. Seeds have every piece and
//! are counted apart, so a seed that connects or leaves touches no bucket. A `have` moves one
//! piece by one bucket in constant time.

use bittorrent_protocol::{Layout, PieceIndex};

use crate::pieces::piece_set::PieceSet;
use crate::rng::Rng;

/// How many entries of the buckets are looked at before the peer's own pieces are searched.
const PROBES: usize = 48;
/// How many of the peer's pieces compete for being the rarest in that search.
const CONTENDERS: usize = 16;
/// Neighbouring pieces are picked one after the other within extents of this many bytes, so that
/// short pieces still make long writes.
const EXTENT: u32 = 4 << 20;
/// When a peer connects or leaves with at least one in so many of the pieces in buckets, all
/// buckets are rebuilt in one sweep: moving single pieces jumps about in memory.
const REBUILD_SHARE: u32 = 16;
/// A piece that is in no bucket.
const NOWHERE: u32 = u32::MAX;

/// Availability of all pieces, and the pieces that are ready, rarest first.
#[derive(Debug)]
pub(crate) struct PiecePicker {
    /// How many connected peers that are not seeds have each piece.
    copies: Vec<u16>,
    /// The index of each piece in its bucket, or [`NOWHERE`].
    position: Vec<u32>,
    /// By number of copies.
    buckets: Vec<Vec<PieceIndex>>,
    /// The pieces that are in a bucket.
    ready: PieceSet,
    seeds: usize,
    pieces_per_extent: u32,
    /// Sequential download: pieces are picked in the order of the content.
    in_order: bool,
}

impl PiecePicker {
    /// Creates a picker without available or ready pieces.
    pub(crate) fn new(layout: &Layout) -> Self {
        let pieces = layout.piece_count();
        Self {
            copies: vec![0; pieces as usize],
            position: vec![NOWHERE; pieces as usize],
            buckets: vec![Vec::new()],
            ready: PieceSet::new(pieces),
            seeds: 0,
            pieces_per_extent: (EXTENT / layout.piece_length().bytes()).max(1),
            in_order: false,
        }
    }

    /// Switches to sequential download.
    pub(crate) fn download_in_order(&mut self) {
        self.in_order = true;
    }

    pub(crate) fn add_seed(&mut self) {
        self.seeds += 1;
    }

    pub(crate) fn remove_seed(&mut self) {
        self.seeds = self.seeds.saturating_sub(1);
    }

    /// Counts a piece of a peer that is no seed.
    pub(crate) fn add_copy(&mut self, piece: PieceIndex) {
        self.recount(piece, self.copies[piece.as_usize()].saturating_add(1));
    }

    /// Uncounts a piece of a peer that is gone or has become a seed.
    pub(crate) fn remove_copy(&mut self, piece: PieceIndex) {
        self.recount(piece, self.copies[piece.as_usize()].saturating_sub(1));
    }

    /// Counts the pieces of a peer that is no seed.
    pub(crate) fn add_copies(&mut self, pieces: &PieceSet, layout: &Layout) {
        self.recount_all(pieces, layout, |copies| copies.saturating_add(1));
    }

    /// Uncounts the pieces of a peer that is gone or has become a seed.
    pub(crate) fn remove_copies(&mut self, pieces: &PieceSet, layout: &Layout) {
        self.recount_all(pieces, layout, |copies| copies.saturating_sub(1));
    }

    fn recount_all(&mut self, pieces: &PieceSet, layout: &Layout, new: impl Fn(u16) -> u16) {
        if pieces.len() < self.ready.len() / REBUILD_SHARE {
            for piece in pieces.iter(layout) {
                self.recount(piece, new(self.copies[piece.as_usize()]));
            }
            return;
        }
        for piece in pieces.iter(layout) {
            let copies = &mut self.copies[piece.as_usize()];
            *copies = new(*copies);
        }
        let mut sizes: Vec<usize> = Vec::new();
        for piece in self.ready.iter(layout) {
            let copies = usize::from(self.copies[piece.as_usize()]);
            if sizes.len() <= copies {
                sizes.resize(copies + 1, 0);
            }
            sizes[copies] += 1;
        }
        self.buckets = sizes.into_iter().map(Vec::with_capacity).collect();
        for piece in self.ready.iter(layout) {
            let bucket = &mut self.buckets[usize::from(self.copies[piece.as_usize()])];
            self.position[piece.as_usize()] = bucket.len() as u32;
            bucket.push(piece);
        }
    }

    fn recount(&mut self, piece: PieceIndex, copies: u16) {
        let ready = self.take(piece);
        self.copies[piece.as_usize()] = copies;
        if ready {
            self.put(piece);
        }
    }

    /// How many connected peers have a piece.
    #[cfg(test)]
    pub(crate) fn copies(&self, piece: PieceIndex) -> usize {
        usize::from(self.copies[piece.as_usize()]) + self.seeds
    }

    /// Makes a piece ready.
    pub(crate) fn insert(&mut self, piece: PieceIndex) {
        if self.ready.insert(piece) {
            self.put(piece);
        }
    }

    /// Makes a piece not ready. `false` when it was not before.
    pub(crate) fn remove(&mut self, piece: PieceIndex) -> bool {
        self.take(piece);
        self.ready.remove(piece)
    }

    pub(crate) fn is_ready(&self, piece: PieceIndex) -> bool {
        self.ready.contains(piece)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }

    /// Returns how many pieces are ready.
    pub(crate) fn ready(&self) -> u32 {
        self.ready.len()
    }

    fn put(&mut self, piece: PieceIndex) {
        let copies = usize::from(self.copies[piece.as_usize()]);
        if self.buckets.len() <= copies {
            self.buckets.resize_with(copies + 1, Vec::new);
        }
        let bucket = &mut self.buckets[copies];
        self.position[piece.as_usize()] = bucket.len() as u32;
        bucket.push(piece);
    }

    fn take(&mut self, piece: PieceIndex) -> bool {
        let position = std::mem::replace(&mut self.position[piece.as_usize()], NOWHERE);
        if position == NOWHERE {
            return false;
        }
        let bucket = &mut self.buckets[usize::from(self.copies[piece.as_usize()])];
        bucket.swap_remove(position as usize);
        if let Some(moved) = bucket.get(position as usize) {
            self.position[moved.as_usize()] = position;
        }
        if bucket.is_empty() {
            // A bitfield moves every piece up one bucket: do not keep the room in all of them.
            *bucket = Vec::new();
        }
        true
    }

    /// Picks a piece for a peer that has `have`, except those for which `refused` returns `true`.
    /// `last` is the piece that was picked for that peer before.
    pub(crate) fn pick(
        &self,
        have: &PieceSet,
        last: Option<PieceIndex>,
        refused: impl Fn(PieceIndex) -> bool,
        layout: &Layout,
        rng: &mut Rng,
    ) -> Option<PieceIndex> {
        if self.ready.is_empty() {
            return None;
        }
        if self.in_order {
            return self.first(have, refused, layout);
        }
        let fits = |piece: PieceIndex| have.contains(piece) && !refused(piece);
        if let Some(next) = last.and_then(|last| self.neighbour(last, layout))
            && fits(next)
        {
            return Some(next);
        }
        let mut probes = PROBES;
        for bucket in &self.buckets {
            let start = rng.below(bucket.len());
            let (before, from) = bucket.split_at(start);
            for piece in from.iter().chain(before).take(probes) {
                if fits(*piece) {
                    return Some(*piece);
                }
            }
            probes = probes.saturating_sub(bucket.len());
            if probes == 0 {
                break;
            }
        }
        if probes > 0 {
            // Every bucket was seen to its end.
            return None;
        }
        let start = rng.below(self.copies.len()) as u32;
        self.ready
            .common_from(have, start, layout)
            .filter(|piece| !refused(*piece))
            .take(CONTENDERS)
            .min_by_key(|piece| self.copies[piece.as_usize()])
    }

    /// Picks a random piece: for the first pieces of a leech, soon matters more than rare.
    pub(crate) fn pick_any(
        &self,
        have: &PieceSet,
        refused: impl Fn(PieceIndex) -> bool,
        layout: &Layout,
        rng: &mut Rng,
    ) -> Option<PieceIndex> {
        if self.in_order {
            return self.first(have, refused, layout);
        }
        let start = rng.below(self.copies.len()) as u32;
        let choice = rng.below(CONTENDERS);
        let mut found = None;
        for (n, piece) in self
            .ready
            .common_from(have, start, layout)
            .filter(|piece| !refused(*piece))
            .enumerate()
        {
            found = Some(piece);
            if n >= choice {
                break;
            }
        }
        found
    }

    /// Returns the first ready piece of the content.
    fn first(
        &self,
        have: &PieceSet,
        refused: impl Fn(PieceIndex) -> bool,
        layout: &Layout,
    ) -> Option<PieceIndex> {
        self.ready
            .common_from(have, 0, layout)
            .find(|piece| !refused(*piece))
    }

    /// Returns the piece after `last`, if it is ready, as rare and in the same extent.
    fn neighbour(&self, last: PieceIndex, layout: &Layout) -> Option<PieceIndex> {
        let next = layout.piece(last.get() + 1)?;
        (next.get() % self.pieces_per_extent != 0
            && self.ready.contains(next)
            && self.copies[next.as_usize()] <= self.copies[last.as_usize()])
        .then_some(next)
    }
}

#[cfg(test)]
mod tests {
    use bittorrent_protocol::PieceLength;
    use proptest::prelude::*;

    use super::*;
    use crate::rng::Rng;

    fn layout(pieces: u32, piece_length: u64) -> Layout {
        let length = u64::from(pieces) * piece_length;
        Layout::new(PieceLength::new(piece_length).unwrap(), [(length, None)]).unwrap()
    }

    #[test]
    fn the_rarest_piece_of_the_peer_comes_first() {
        let layout = layout(100, 8 << 20);
        let mut rng = Rng::new([1; 32]);
        let mut picker = PiecePicker::new(&layout);
        for piece in layout.piece_indices() {
            picker.insert(piece);
            for _ in 0..(2 + piece.get() % 3) {
                picker.add_copy(piece);
            }
        }
        let rare = layout.piece(50).unwrap();
        picker.remove_copy(rare);
        picker.remove_copy(rare);
        picker.remove_copy(rare);
        let full = PieceSet::full(100);
        let pick = |picker: &PiecePicker, have: &PieceSet, rng: &mut Rng| {
            picker.pick(have, None, |_| false, &layout, rng)
        };
        assert_eq!(pick(&picker, &full, &mut rng), Some(rare));
        picker.remove(rare);
        for _ in 0..20 {
            assert_eq!(pick(&picker, &full, &mut rng).unwrap().get() % 3, 0);
        }
        let mut one = PieceSet::new(100);
        one.insert(rare);
        assert_eq!(pick(&picker, &one, &mut rng), None);
        one.insert(layout.piece(2).unwrap());
        assert_eq!(pick(&picker, &one, &mut rng), layout.piece(2));
        assert_eq!(picker.pick(&one, None, |_| true, &layout, &mut rng), None);
    }

    #[test]
    fn short_pieces_are_begun_in_stretches() {
        let layout = layout(4_096, 16_384);
        let mut rng = Rng::new([2; 32]);
        let mut picker = PiecePicker::new(&layout);
        for piece in layout.piece_indices() {
            picker.insert(piece);
        }
        picker.add_seed();
        let full = PieceSet::full(4_096);
        let mut last = None;
        let mut jumps = 0;
        while let Some(piece) = picker.pick(&full, last, |_| false, &layout, &mut rng) {
            jumps += u32::from(last.is_none_or(|last: PieceIndex| last.get() + 1 != piece.get()));
            picker.remove(piece);
            last = Some(piece);
        }
        assert!(picker.is_empty());
        // 16 extents of 256 pieces, each picked first somewhere inside: a few jumps for each.
        assert!(jumps < 400, "{jumps}");
    }

    #[test]
    fn in_order_the_first_piece_of_the_peer_comes_first() {
        let layout = layout(300, 16_384);
        let mut rng = Rng::new([3; 32]);
        let mut picker = PiecePicker::new(&layout);
        picker.download_in_order();
        for piece in layout.piece_indices() {
            picker.insert(piece);
            // The first are the most frequent: rarest first would pick them last.
            for _ in piece.get()..300 {
                picker.add_copy(piece);
            }
        }
        let mut odd = PieceSet::new(300);
        for piece in layout.piece_indices().filter(|piece| piece.get() % 2 == 1) {
            odd.insert(piece);
        }
        let refused = |piece: PieceIndex| piece.get() == 5;
        assert_eq!(
            picker.pick_any(&odd, refused, &layout, &mut rng),
            layout.piece(1)
        );
        let mut last = None;
        let mut order = Vec::new();
        while let Some(piece) = picker.pick(&odd, last, refused, &layout, &mut rng) {
            picker.remove(piece);
            last = Some(piece);
            order.push(piece.get());
        }
        let all: Vec<u32> = (0..300).filter(|n| n % 2 == 1 && *n != 5).collect();
        assert_eq!(order, all);
    }

    #[test]
    fn first_pieces_differ_between_seeds() {
        let layout = layout(10_000, 1 << 20);
        let mut picker = PiecePicker::new(&layout);
        layout
            .piece_indices()
            .for_each(|piece| picker.insert(piece));
        let full = PieceSet::full(10_000);
        let picks: std::collections::BTreeSet<_> = (0..20)
            .map(|seed| picker.pick_any(&full, |_| false, &layout, &mut Rng::new([seed; 32])))
            .collect();
        assert!(picks.len() > 15, "{picks:?}");
        assert!(!picks.contains(&None));
    }

    proptest! {
        #[test]
        fn buckets_agree_with_a_model(
            ops in prop::collection::vec((0_u8..6, 0_u32..40), 1..400),
            have in prop::collection::vec(any::<bool>(), 40),
            seed in any::<u8>(),
        ) {
            let layout = layout(40, 8 << 20);
            let mut rng = Rng::new([seed; 32]);
            let mut picker = PiecePicker::new(&layout);
            let mut copies = [0_u16; 40];
            let mut ready = [false; 40];
            for (op, number) in ops {
                let piece = layout.piece(number).unwrap();
                let n = number as usize;
                match op {
                    0 => { picker.add_copy(piece); copies[n] += 1; }
                    1 => { picker.remove_copy(piece); copies[n] = copies[n].saturating_sub(1); }
                    2 => { picker.insert(piece); ready[n] = true; }
                    4 | 5 => {
                        let mut some = PieceSet::new(40);
                        for other in (0..40).filter(|other| other % 7 < number % 8) {
                            some.insert(layout.piece(other).unwrap());
                            let copies = &mut copies[other as usize];
                            *copies = if op == 4 { *copies + 1 } else { copies.saturating_sub(1) };
                        }
                        match op {
                            4 => picker.add_copies(&some, &layout),
                            _ => picker.remove_copies(&some, &layout),
                        }
                    }
                    _ => prop_assert_eq!(picker.remove(piece), std::mem::take(&mut ready[n])),
                }
                prop_assert_eq!(picker.copies(piece), usize::from(copies[n]));
            }
            let mut set = PieceSet::new(40);
            for (n, has) in have.iter().enumerate() {
                if *has { set.insert(layout.piece(n as u32).unwrap()); }
            }
            let best = (0..40).filter(|n| ready[*n] && have[*n]).map(|n| copies[n]).min();
            let picked = picker.pick(&set, None, |_| false, &layout, &mut rng);
            prop_assert_eq!(picked.map(|piece| copies[piece.as_usize()]), best);
            if let Some(piece) = picked {
                prop_assert!(ready[piece.as_usize()] && have[piece.as_usize()]);
            }
            let any = picker.pick_any(&set, |_| false, &layout, &mut rng);
            prop_assert_eq!(any.is_some(), best.is_some());
        }
    }
}
