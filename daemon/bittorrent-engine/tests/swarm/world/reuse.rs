//! What a store would do: look through what is held.

use std::time::Duration;

use bittorrent_protocol::merkle::{self, HashRequest};
use bittorrent_protocol::{MerkleHash, PieceIndex};

use super::{SimEvent, World};
use crate::node::{Habits, Held, Node};
use simulation::SyntheticTorrent;

/// How long a look-up takes.
const LOOKUP_TIME: Duration = Duration::from_millis(4);

impl World {
    /// Adds a node that has nothing of the torrent, and holds something.
    pub(crate) fn add_updating(
        &mut self,
        truth: &std::sync::Arc<SyntheticTorrent>,
        habits: Habits,
        held: Held,
    ) -> usize {
        let number = self.add(truth, habits, bittorrent_engine::Config::default());
        self.nodes[number].held = Some(held);
        self.give_content(number, true, |_| false);
        number
    }

    pub(super) fn look_up(
        &mut self,
        number: usize,
        piece: PieceIndex,
        leaves: Option<Vec<MerkleHash>>,
    ) {
        let node = &mut self.nodes[number];
        assert!(node.looking.insert(piece), "{piece} is looked for twice");
        node.lookups += 1;
        for block in node.truth.layout.blocks(piece) {
            assert!(
                !node.writing.contains_key(&block),
                "{block} is being written"
            );
            for link in node.links.values() {
                assert!(
                    !link.asked.contains(&block),
                    "{block} is requested and looked for"
                );
            }
        }
        if let Some(leaves) = &leaves {
            let truth: Vec<_> = node.truth.layout.blocks(piece).collect();
            let truth: Vec<_> = truth.into_iter().map(|b| node.truth.leaf(b)).collect();
            assert_eq!(*leaves, truth, "false leaves of {piece}");
        }
        let held = node
            .held
            .as_ref()
            .expect("nothing is held, and it is looked for");
        if (held.answers)(piece) {
            self.after(LOOKUP_TIME, number, SimEvent::LookedUp { piece, leaves });
        } else {
            assert!(node.forgets_look_ups);
            node.looking.remove(&piece);
        }
    }

    pub(super) fn recall(&mut self, number: usize, piece: PieceIndex, nodes: &[MerkleHash]) {
        let node = &mut self.nodes[number];
        assert!(node.looking.insert(piece), "{piece} is looked for twice");
        let truth: Vec<_> = node.truth.layout.blocks(piece).collect();
        let truth: Vec<_> = truth.into_iter().map(|b| node.truth.leaf(b)).collect();
        assert_eq!(*nodes, merkle::fold_layer(&truth, 0, 2), "false nodes");
        let held = node
            .held
            .as_ref()
            .expect("nothing is held, and it is recalled");
        if (held.answers)(piece) {
            self.after(LOOKUP_TIME, number, SimEvent::Recalled { piece });
        } else {
            assert!(node.forgets_look_ups);
            node.looking.remove(&piece);
        }
    }

    pub(super) fn recalled(&mut self, number: usize, piece: PieceIndex) {
        let now = self.now;
        let node = &mut self.nodes[number];
        assert!(node.looking.remove(&piece));
        let Some(held) = &node.held else { return };
        let leaf = |block| {
            let spoilt = (held.spoils)(block);
            let leaf = if spoilt {
                merkle::leaf(b"spoilt")
            } else {
                node.truth.leaf(block)
            };
            (block, leaf)
        };
        let blocks = node
            .truth
            .layout
            .blocks(piece)
            .filter(|block| (held.has)(*block));
        let leaves: Vec<_> = blocks.map(leaf).collect();
        node.engine
            .handle_leaves_looked_up(node.torrent, piece, &leaves, now);
    }

    pub(super) fn looked_up(
        &mut self,
        number: usize,
        piece: PieceIndex,
        leaves: Option<&[MerkleHash]>,
    ) {
        let now = self.now;
        let node = &mut self.nodes[number];
        assert!(node.looking.remove(&piece));
        let Some(held) = &node.held else { return };
        let mut blocks: Vec<_> = node.truth.layout.blocks(piece).collect();
        let all = blocks.len();
        blocks.retain(|block| (held.has)(*block) && !node.proven.contains(block));
        if leaves.is_none() && blocks.len() < all && !held.halves {
            blocks.clear();
        }
        let mut adopted = Vec::new();
        for block in blocks {
            let leaf = if (held.spoils)(block) {
                merkle::leaf(b"spoilt")
            } else {
                node.truth.leaf(block)
            };
            node.disk.insert(block, leaf);
            adopted.push((block, leaf));
        }
        node.engine
            .handle_looked_up(node.torrent, piece, &adopted, now);
    }
}

impl Node {
    /// It knows the leaves that a request asks for.
    pub(super) fn gives_leaves(&self, request: &HashRequest) -> bool {
        let pieces = self.truth.pieces_of(request);
        self.habits.gives_leaves
            && pieces.iter().all(|piece| {
                let mut blocks = self.truth.layout.blocks(*piece);
                blocks.all(|block| self.proven.contains(&block))
                    && (!self.habits.seed_mode || self.touched.contains(piece))
            })
    }
}
