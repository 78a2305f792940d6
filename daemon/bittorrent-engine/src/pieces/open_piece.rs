//! A piece that is open: being downloaded or looked up, and not verified.
//!
//! Each block is in one of five states; the methods of [`OpenPiece`] are the only ways between them:
//!
//! | from | to | by |
//! |---|---|---|
//! | missing | written | [`OpenPiece::adopt`], only when the leaves are proven |
//! | missing | requested | [`OpenPiece::request`] |
//! | requested | missing | [`OpenPiece::release`], when the last request for it ends |
//! | missing, requested | arrived | [`OpenPiece::arrive`] (the answer is `Write`) |
//! | arrived | written | [`OpenPiece::written`] |
//! | arrived | missing | [`OpenPiece::write_failed`] |
//! | written | verified | [`OpenPiece::verify`], only when the leaves are proven |
//! | written | missing | [`OpenPiece::revoke`], [`OpenPiece::revoke_all`] |
//!
//! An arrived block is never given up: its write is under way, and a second write to the same
//! offset could end before the first. So a piece that is found false waits for its writes to end
//! before anything is revoked.

use bittorrent_protocol::{BlockIndex, Layout, MerkleHash, PieceIndex};

use crate::api::keys::PeerKey;
use crate::pieces::descent::Descent;
use crate::pieces::leaves::LeafQuery;
use crate::pieces::senders::Sender;

/// The state of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlockState {
    /// Neither stored nor requested.
    Missing,
    /// Requested, from [`Slot::requests`] peers.
    Requested,
    /// Received; its write is under way.
    Arrived,
    /// Written.
    Written,
    /// Written and proven.
    Verified,
}

/// A block of a piece.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    /// The hash of what arrived, or, once the piece's leaves are proven, of what must arrive.
    pub(crate) leaf: MerkleHash,
    /// The peer that sent it.
    pub(crate) sender: Sender,
    pub(crate) state: BlockState,
    /// How many peers it is requested from. Above 0 exactly in [`BlockState::Requested`].
    pub(crate) requests: u8,
}

/// What an open piece waits for.
#[derive(Debug, Clone, Default)]
pub(crate) enum PieceStage {
    /// Blocks are being collected.
    #[default]
    Collecting,
    /// All blocks have arrived; the piece's hash is not known.
    Unproven,
    /// The blocks do not fold to the piece's hash; the next step waits for writes to end.
    False,
    /// The piece's leaves are being requested, to find the false blocks.
    FindingFalseBlocks(LeafQuery),
    /// A block was requested from this peer, or has arrived from it, so that it can send the piece's leaves.
    Probing(PeerKey),
    /// The piece's leaves were requested from this peer, so that blocks can be looked up by them.
    RequestingLeaves(PeerKey),
    /// Coarse nodes of it are proven, and leaves below them are being looked up in older content.
    LookingUpLeaves(Box<Descent>),
    /// Leaves below some of those nodes are being requested.
    Descending(Box<Descent>),
    /// Its leaves are proven, and its missing blocks are being looked up in older content.
    LookingUpBlocks,
}

/// A block that was part of a false piece.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Suspect {
    pub(crate) in_piece: u16,
    pub(crate) leaf: MerkleHash,
    pub(crate) sender: Sender,
}

/// A piece that is open: being downloaded or looked up, and not verified.
#[derive(Debug)]
pub(crate) struct OpenPiece {
    piece: PieceIndex,
    slots: Vec<Slot>,
    missing: u32,
    requested: u32,
    arrived: u32,
    written: u32,
    /// No slot before this one is missing.
    hint: u16,
    /// The leaves in the slots are proven, whatever the slots' states.
    proven: bool,
    pub(crate) stage: PieceStage,
    /// It may be requested from one peer only, because it was false before.
    pub(crate) solo: bool,
    /// That peer, once there is one.
    pub(crate) exclusive: Option<PeerKey>,
    /// The peer that works on it.
    pub(crate) worker: Option<PeerKey>,
    /// The blocks that arrived the last time, when the piece turned out false.
    pub(crate) suspects: Vec<Suspect>,
}

impl OpenPiece {
    /// Creates a piece without any block.
    pub(crate) fn new(piece: PieceIndex, layout: &Layout) -> Self {
        let blocks = layout.block_count(piece);
        Self {
            piece,
            slots: vec![
                Slot {
                    leaf: MerkleHash::ZERO,
                    sender: Sender::NONE,
                    state: BlockState::Missing,
                    requests: 0,
                };
                blocks as usize
            ],
            missing: blocks,
            requested: 0,
            arrived: 0,
            written: 0,
            hint: 0,
            proven: false,
            stage: PieceStage::Collecting,
            solo: false,
            exclusive: None,
            worker: None,
            suspects: Vec::new(),
        }
    }

    pub(crate) fn piece(&self) -> PieceIndex {
        self.piece
    }

    pub(crate) fn blocks(&self) -> u32 {
        self.slots.len() as u32
    }

    pub(crate) fn missing(&self) -> u32 {
        self.missing
    }

    pub(crate) fn is_proven(&self) -> bool {
        self.proven
    }

    /// Returns whether every block has arrived, written or being written.
    pub(crate) fn is_collected(&self) -> bool {
        self.missing == 0 && self.requested == 0
    }

    /// Returns whether no write is under way.
    pub(crate) fn is_settled(&self) -> bool {
        self.arrived == 0
    }

    /// Every block is written and proven.
    pub(crate) fn is_verified(&self) -> bool {
        self.is_collected() && self.arrived == 0 && self.written == 0
    }

    /// Returns whether nothing of it was received and nothing is requested.
    pub(crate) fn is_untouched(&self) -> bool {
        self.missing == self.blocks()
    }

    pub(crate) fn slot(&self, in_piece: u16) -> &Slot {
        &self.slots[usize::from(in_piece)]
    }

    pub(crate) fn slots(&self) -> impl Iterator<Item = (u16, &Slot)> {
        // At most 16384 blocks a piece.
        (0..).zip(&self.slots)
    }

    pub(crate) fn leaves(&self) -> Vec<MerkleHash> {
        self.slots.iter().map(|slot| slot.leaf).collect()
    }

    /// Marks the next missing block requested and returns it; the caller sends the request.
    pub(crate) fn request_next(&mut self, layout: &Layout) -> Option<BlockIndex> {
        if self.missing == 0 {
            return None;
        }
        while let Some(slot) = self.slots.get(usize::from(self.hint)) {
            let in_piece = self.hint;
            self.hint += 1;
            if slot.state == BlockState::Missing {
                self.request(in_piece);
                return layout.block(self.piece, u32::from(in_piece));
            }
        }
        debug_assert!(false, "a missing block lies before the hint");
        None
    }

    /// Records one more request for this block.
    pub(crate) fn request(&mut self, in_piece: u16) {
        let slot = &mut self.slots[usize::from(in_piece)];
        match slot.state {
            BlockState::Missing => {
                slot.state = BlockState::Requested;
                slot.requests = 1;
                self.missing -= 1;
                self.requested += 1;
            }
            BlockState::Requested => slot.requests = slot.requests.saturating_add(1),
            BlockState::Arrived | BlockState::Written | BlockState::Verified => {
                debug_assert!(false, "a block that is here was requested");
            }
        }
    }

    /// Records that a request for this block ended. `true` when it is missing now.
    pub(crate) fn release(&mut self, in_piece: u16) -> bool {
        let slot = &mut self.slots[usize::from(in_piece)];
        if slot.state != BlockState::Requested {
            return false;
        }
        slot.requests = slot.requests.saturating_sub(1);
        if slot.requests > 0 {
            return false;
        }
        self.requested -= 1;
        self.make_missing(in_piece);
        true
    }

    fn make_missing(&mut self, in_piece: u16) {
        let slot = &mut self.slots[usize::from(in_piece)];
        slot.state = BlockState::Missing;
        slot.requests = 0;
        self.missing += 1;
        self.hint = self.hint.min(in_piece);
    }

    /// Records a block that arrived and goes to the disk. Returns how many requests for it there were.
    pub(crate) fn arrive(&mut self, in_piece: u16, leaf: MerkleHash, sender: Sender) -> u8 {
        let slot = &mut self.slots[usize::from(in_piece)];
        match slot.state {
            BlockState::Missing => self.missing -= 1,
            BlockState::Requested => self.requested -= 1,
            BlockState::Arrived | BlockState::Written | BlockState::Verified => {
                debug_assert!(false, "a block that is here arrived");
                return 0;
            }
        }
        let others = slot.requests;
        slot.requests = 0;
        slot.state = BlockState::Arrived;
        slot.leaf = leaf;
        slot.sender = sender;
        self.arrived += 1;
        others
    }

    /// Records that the write of a block succeeded. `false` when none was under way.
    pub(crate) fn written(&mut self, in_piece: u16) -> bool {
        let slot = &mut self.slots[usize::from(in_piece)];
        if slot.state != BlockState::Arrived {
            return false;
        }
        slot.state = BlockState::Written;
        self.arrived -= 1;
        self.written += 1;
        true
    }

    /// Records that the write of a block failed: it is missing again. `false` when none was under way.
    pub(crate) fn write_failed(&mut self, in_piece: u16) -> bool {
        if self.slot(in_piece).state != BlockState::Arrived {
            return false;
        }
        self.arrived -= 1;
        self.make_missing(in_piece);
        true
    }

    /// Marks a block missing whose bytes on disk are false or lost.
    pub(crate) fn revoke(&mut self, in_piece: u16) {
        match self.slot(in_piece).state {
            BlockState::Written => self.written -= 1,
            BlockState::Verified => {}
            BlockState::Missing | BlockState::Requested | BlockState::Arrived => return,
        }
        self.make_missing(in_piece);
    }

    /// Revokes every block that is written and not verified.
    pub(crate) fn revoke_all(&mut self) {
        for in_piece in 0..self.slots.len() as u16 {
            if self.slot(in_piece).state == BlockState::Written {
                self.revoke(in_piece);
            }
        }
    }

    /// Marks the leaves in the slots as proven.
    pub(crate) fn accept_leaves(&mut self) {
        self.proven = true;
        // From here on each block is checked by itself, so any peer may send it.
        self.solo = false;
        self.exclusive = None;
    }

    /// Sets the proven leaves, one for each block. Returns the stored blocks that differ; the caller revokes
    /// them.
    pub(crate) fn set_leaves(&mut self, leaves: &[MerkleHash]) -> Vec<Suspect> {
        let mut wrong = Vec::new();
        for (in_piece, (slot, leaf)) in (0..).zip(self.slots.iter_mut().zip(leaves)) {
            let here = matches!(
                slot.state,
                BlockState::Arrived | BlockState::Written | BlockState::Verified
            );
            if here && slot.leaf != *leaf {
                wrong.push(Suspect {
                    in_piece,
                    leaf: slot.leaf,
                    sender: slot.sender,
                });
            }
            slot.leaf = *leaf;
        }
        self.accept_leaves();
        wrong
    }

    /// Marks a block verified that a former run stored.
    pub(crate) fn hold(&mut self, in_piece: u16, leaf: MerkleHash) {
        let Some(slot) = self.slots.get_mut(usize::from(in_piece)) else {
            return;
        };
        if slot.state == BlockState::Missing {
            slot.state = BlockState::Verified;
            slot.leaf = leaf;
            self.missing -= 1;
        }
    }

    /// Marks a block written that was found in older content. `false` when its bytes are false or it is
    /// stored already.
    pub(crate) fn adopt(&mut self, in_piece: u16, leaf: MerkleHash) -> bool {
        let Some(slot) = self.slots.get_mut(usize::from(in_piece)) else {
            return false;
        };
        if !self.proven || slot.state != BlockState::Missing || slot.leaf != leaf {
            return false;
        }
        slot.state = BlockState::Written;
        slot.sender = Sender::NONE;
        self.missing -= 1;
        self.written += 1;
        true
    }

    /// Returns whether it is looked up in older content.
    pub(crate) fn is_looked_for(&self) -> bool {
        matches!(
            self.stage,
            PieceStage::Probing(_)
                | PieceStage::RequestingLeaves(_)
                | PieceStage::LookingUpLeaves(_)
                | PieceStage::Descending(_)
                | PieceStage::LookingUpBlocks
        )
    }

    /// Counts the runs of `blocks` blocks in which one is missing, and all runs.
    pub(crate) fn groups_missing(&self, blocks: usize) -> (usize, usize) {
        let groups = self.slots.chunks(blocks);
        let of = groups.len();
        let missing = |group: &&[Slot]| group.iter().any(|slot| slot.state == BlockState::Missing);
        (groups.filter(missing).count(), of)
    }

    /// Returns the verified blocks.
    pub(crate) fn verified(&self) -> Vec<(u16, MerkleHash)> {
        self.slots()
            .filter(|(_, slot)| slot.state == BlockState::Verified)
            .map(|(in_piece, slot)| (in_piece, slot.leaf))
            .collect()
    }

    /// Marks the written blocks verified and returns them in runs of neighbours: the first one's
    /// number and the leaves.
    pub(crate) fn verify(&mut self) -> Vec<(u16, Vec<MerkleHash>)> {
        debug_assert!(self.proven, "blocks are verified by proven leaves only");
        let mut runs: Vec<(u16, Vec<MerkleHash>)> = Vec::new();
        let mut run_open = false;
        if self.written == 0 {
            return runs;
        }
        for (in_piece, slot) in (0..).zip(&mut self.slots) {
            if slot.state != BlockState::Written {
                run_open = false;
                continue;
            }
            slot.state = BlockState::Verified;
            match runs.last_mut() {
                Some((_, leaves)) if run_open => leaves.push(slot.leaf),
                _ => runs.push((in_piece, vec![slot.leaf])),
            }
            run_open = true;
        }
        self.written = 0;
        runs
    }

    /// Marks one written block verified, for pieces whose leaves were known beforehand.
    pub(crate) fn verify_one(&mut self, in_piece: u16) -> Option<MerkleHash> {
        let slot = &mut self.slots[usize::from(in_piece)];
        (self.proven && slot.state == BlockState::Written).then(|| {
            slot.state = BlockState::Verified;
            self.written -= 1;
            slot.leaf
        })
    }

    /// Returns the sender of all blocks that are not verified, if there is only one.
    pub(crate) fn only_sender(&self) -> Option<Sender> {
        let mut senders = self
            .slots
            .iter()
            .filter(|slot| matches!(slot.state, BlockState::Arrived | BlockState::Written))
            .map(|slot| slot.sender);
        let first = senders.next()?;
        senders.all(|sender| sender == first).then_some(first)
    }
}

#[cfg(test)]
mod tests {
    use bittorrent_protocol::{PieceLength, merkle};
    use proptest::prelude::*;

    use super::*;
    use crate::pieces::senders::Senders;

    impl OpenPiece {
        /// Counts states the slow way.
        fn check(&self) {
            let count = |state| self.slots.iter().filter(|slot| slot.state == state).count() as u32;
            assert_eq!(self.missing, count(BlockState::Missing));
            assert_eq!(self.requested, count(BlockState::Requested));
            assert_eq!(self.arrived, count(BlockState::Arrived));
            assert_eq!(self.written, count(BlockState::Written));
            for (in_piece, slot) in self.slots() {
                assert_eq!(slot.requests > 0, slot.state == BlockState::Requested);
                assert!(slot.state != BlockState::Missing || in_piece >= self.hint);
            }
        }
    }

    fn layout() -> Layout {
        Layout::new(PieceLength::new(8 * 16_384).unwrap(), [(8 * 16_384, None)]).unwrap()
    }

    #[test]
    fn written_blocks_are_reported_in_runs_once() {
        let layout = layout();
        let piece = layout.piece(0).unwrap();
        let mut open_piece = OpenPiece::new(piece, &layout);
        let leaf = |n: u16| merkle::leaf(&n.to_le_bytes());
        open_piece.hold(3, leaf(3));
        for n in [0, 1, 2, 4, 6] {
            open_piece.arrive(n, leaf(n), Sender::NONE);
            assert!(open_piece.written(n) && !open_piece.written(n));
        }
        open_piece.accept_leaves();
        let runs = open_piece.verify();
        let shape: Vec<_> = runs.iter().map(|(n, leaves)| (*n, leaves.len())).collect();
        assert_eq!(shape, [(0, 3), (4, 1), (6, 1)]);
        assert_eq!(runs[0].1, [leaf(0), leaf(1), leaf(2)]);
        assert!(open_piece.verify().is_empty());
        assert!(!open_piece.is_collected() && !open_piece.is_verified());
    }

    #[test]
    fn leaves_name_the_false_blocks_and_their_senders() {
        let layout = layout();
        let mut senders = Senders::default();
        let liar = senders.name("192.0.2.1:1".parse().unwrap());
        let honest = senders.name("192.0.2.2:1".parse().unwrap());
        let mut open_piece = OpenPiece::new(layout.piece(0).unwrap(), &layout);
        let truth: Vec<_> = (0..8_u8).map(|n| merkle::leaf(&[n])).collect();
        for n in 0..6_u16 {
            let lies = n == 2 || n == 5;
            let leaf = if lies {
                merkle::leaf(b"lie")
            } else {
                truth[usize::from(n)]
            };
            open_piece.arrive(n, leaf, if lies { liar } else { honest });
            open_piece.written(n);
        }
        assert_eq!(open_piece.only_sender(), None);
        let wrong = open_piece.set_leaves(&truth);
        assert!(wrong.iter().all(|suspect| suspect.sender == liar));
        let numbers: Vec<_> = wrong.iter().map(|suspect| suspect.in_piece).collect();
        assert_eq!(numbers, [2, 5]);
        for suspect in wrong {
            open_piece.revoke(suspect.in_piece);
        }
        open_piece.check();
        assert_eq!(open_piece.missing(), 4);
        assert_eq!(open_piece.only_sender(), Some(honest));
        assert_eq!(open_piece.leaves(), truth);
    }

    proptest! {
        #[test]
        fn counters_follow_the_slots(ops in prop::collection::vec((0_u8..7, 0_u16..8), 0..200)) {
            let layout = layout();
            let mut open_piece = OpenPiece::new(layout.piece(0).unwrap(), &layout);
            let leaf = merkle::leaf(b"x");
            for (op, n) in ops {
                let here = !matches!(open_piece.slot(n).state, BlockState::Missing | BlockState::Requested);
                match op {
                    0 => { open_piece.request_next(&layout); }
                    1 if !here => open_piece.request(n),
                    2 => { open_piece.release(n); }
                    3 if !here => { open_piece.arrive(n, leaf, Sender::NONE); }
                    4 => { open_piece.written(n); }
                    5 => { open_piece.write_failed(n); }
                    6 => open_piece.revoke(n),
                    _ => {}
                }
                open_piece.check();
            }
        }
    }
}
