//! Hash requests, their answers and proofs on trees of many sizes.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::convert::Infallible;

use bittorrent_protocol::merkle::{
    self, CheckedRequest, HashRequest, MAX_HASH_COUNT, ProofFault, RequestFault,
};
use bittorrent_protocol::{BLOCK_LEN, FileSpan, Layout, MerkleHash, PieceLayer, PieceLength};
use proptest::prelude::*;

/// A file as its leaves; what they are leaves of does not matter here.
struct Tree {
    layout: Layout,
    leaves: PieceLayer,
    height: u8,
}

impl Tree {
    fn new(blocks: u32) -> Self {
        let leaves: Vec<MerkleHash> = (0..blocks)
            .map(|block| merkle::leaf(&block.to_be_bytes()))
            .collect();
        let root = merkle::file_root_from_leaves(&leaves);
        let length = u64::from(blocks) * u64::from(BLOCK_LEN) - 5;
        let layout = Layout::new(PieceLength::MIN, [(length, Some(root))]).unwrap();
        let leaves = PieceLayer::new(&layout.files()[0], PieceLength::MIN, leaves).unwrap();
        Self {
            layout,
            leaves,
            height: merkle::tree_height(blocks.into()),
        }
    }

    fn file(&self) -> &FileSpan {
        &self.layout.files()[0]
    }

    fn root(&self) -> MerkleHash {
        self.leaves.root()
    }

    fn node(&self, layer: u8, index: u64) -> Option<MerkleHash> {
        self.leaves.node(layer, index)
    }

    fn only_root(&self) -> impl Fn(u8, u64) -> Option<MerkleHash> {
        let (height, root) = (self.height, self.root());
        move |layer, index| (layer == height && index == 0).then_some(root)
    }

    fn respond(&self, request: &CheckedRequest) -> Vec<MerkleHash> {
        let nodes = |layer: u8, range: std::ops::Range<u64>| {
            Ok::<_, Infallible>(range.map(|index| self.node(layer, index)).collect())
        };
        request.respond(nodes).unwrap().unwrap()
    }
}

/// A tree and a request in it: number of blocks, base layer, logarithm of the count, a
/// position.
fn request() -> impl Strategy<Value = (u32, u8, u32, u32)> {
    (2u32..300).prop_flat_map(|blocks| {
        let height = merkle::tree_height(blocks.into());
        (0..height).prop_flat_map(move |base| {
            (1..=u32::from(height - base)).prop_flat_map(move |log_count| {
                let places = 1u32 << (u32::from(height - base) - log_count);
                (Just(blocks), Just(base), Just(log_count), 0..places)
            })
        })
    })
}

proptest! {
    #[test]
    fn answers_prove_right_and_no_others((blocks, base, log_count, place) in request(),
                                         at in any::<prop::sample::Index>(), bit in 0usize..256) {
        let tree = Tree::new(blocks);
        let count = 1 << log_count;
        let request = HashRequest::anchored(tree.file(), base, place * count, count, tree.height).unwrap();
        prop_assert_eq!(request.anchor_layer(), tree.height);
        let reply = tree.respond(&request);
        prop_assert_eq!(reply.len(), request.reply_len());
        let proven = request.verify(&reply, tree.only_root()).unwrap();
        let first = u64::from(place * count);
        for (hash, index) in proven.iter().zip(first..) {
            prop_assert_eq!(Some(*hash), tree.node(base, index));
        }
        prop_assert_eq!(proven.len(), count as usize);

        // Whatever bit is flipped is seen.
        let mut forged = reply.clone();
        let target = at.get(&forged).to_owned();
        let position = forged.iter().position(|hash| *hash == target).unwrap();
        let mut bytes = *target.as_bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        forged[position] = MerkleHash::from_bytes(bytes);
        prop_assert!(request.verify(&forged, tree.only_root()).is_err());

        // So are hashes too many or too few, and another root.
        let wrong_length = |hashes: &[MerkleHash]| matches!(
            request.verify(hashes, tree.only_root()),
            Err(ProofFault::Length { .. })
        );
        prop_assert!(wrong_length(&reply[1..]));
        prop_assert!(wrong_length(&[&reply[..], &reply[..1]].concat()));
        prop_assert!(wrong_length(&[]));
        let other = merkle::leaf(b"another root");
        let fault = request.verify(&reply, |layer, _| (layer == tree.height).then_some(other));
        prop_assert_eq!(fault, Err(ProofFault::Mismatch { layer: tree.height, index: 0 }));
        prop_assert_eq!(request.verify(&reply, |_, _| None), Err(ProofFault::Unanchored));
    }

    #[test]
    fn any_known_ancestor_is_anchor_enough((blocks, base, log_count, place) in request(),
                                           up in any::<prop::sample::Index>()) {
        let tree = Tree::new(blocks);
        let count = 1 << log_count;
        let folded = base + log_count as u8;
        let anchor = folded + up.index(usize::from(tree.height - folded) + 1) as u8;
        let request = HashRequest::anchored(tree.file(), base, place * count, count, anchor).unwrap();
        prop_assert_eq!(request.anchor_layer(), anchor);
        prop_assert_eq!(request.uncle_count(), anchor - folded);
        let reply = tree.respond(&request);
        let known = |layer, index| (layer == anchor).then(|| tree.node(layer, index)).flatten();
        prop_assert!(request.verify(&reply, known).is_ok());
        // What goes over the wire means the same.
        prop_assert_eq!(request.request().validate(tree.file()), Ok(request));
    }

    #[test]
    fn any_request_is_answered_as_long_as_announced_or_refused(
        blocks in 1u32..200, base in 0u32..12, index in 0u32..300, count in 0u32..300, proof_layers in 0u32..12,
    ) {
        // A single block has no tree to build; its file is asked about all the same.
        let tree = Tree::new(blocks.max(2));
        let request = HashRequest { root: tree.root(), base, index, count, proof_layers };
        if let Ok(checked) = request.validate(tree.file()) {
            let reply = tree.respond(&checked);
            prop_assert_eq!(reply.len(), checked.reply_len());
            // The rule of libtorrent for the number of uncles.
            let skip = count.ilog2().saturating_sub(1);
            prop_assert_eq!(reply.len() as u32 - count, proof_layers.saturating_sub(skip));
            let known = |layer, index| tree.node(layer, index);
            prop_assert!(checked.verify(&reply, known).is_ok());
        }
    }

    #[test]
    fn hostile_requests_do_not_panic(root in any::<bool>(), base: u32, index: u32, count: u32, proof_layers: u32) {
        let tree = Tree::new(5);
        let root = if root { tree.root() } else { MerkleHash::ZERO };
        let _ = HashRequest { root, base, index, count, proof_layers }.validate(tree.file());
    }

    #[test]
    fn folding_in_two_steps_is_folding_in_one(blocks in 1usize..600, height in 0u8..5) {
        let leaves: Vec<MerkleHash> = (0..blocks).map(|n| merkle::leaf(&n.to_be_bytes())).collect();
        let total = merkle::tree_height(blocks as u64).max(height);
        let layer = merkle::fold_layer(&leaves, 0, height);
        prop_assert_eq!(layer.len(), blocks.div_ceil(1 << height));
        prop_assert_eq!(merkle::fold(&layer, height, total - height), merkle::fold(&leaves, 0, total));
    }
}

#[test]
fn requests_at_the_edges() {
    let tree = Tree::new(19);
    let root = tree.root();
    let check = |base, index, count, proof_layers| {
        let request = HashRequest {
            root,
            base,
            index,
            count,
            proof_layers,
        };
        request
            .validate(tree.file())
            .map(|checked| checked.reply_len())
    };
    // 19 blocks: 32 padded leaves, the root at layer 5.
    assert_eq!(check(0, 0, 32, 4), Ok(32));
    assert_eq!(check(0, 0, 32, 0), Ok(32));
    assert_eq!(check(0, 30, 2, 4), Ok(2 + 4));
    assert_eq!(check(3, 0, 4, 1), Ok(4));
    assert_eq!(check(4, 0, 2, 0), Ok(2));
    for (fields, fault) in [
        ((5, 0, 2, 0), RequestFault::Base { base: 5, height: 5 }),
        (
            (256, 0, 2, 0),
            RequestFault::Base {
                base: 256,
                height: 5,
            },
        ),
        ((0, 0, 0, 0), RequestFault::Count { count: 0 }),
        ((0, 0, 1, 0), RequestFault::Count { count: 1 }),
        ((0, 0, 6, 0), RequestFault::Count { count: 6 }),
        (
            (0, 0, 2 * MAX_HASH_COUNT, 0),
            RequestFault::Count {
                count: 2 * MAX_HASH_COUNT,
            },
        ),
        (
            (0, 32, 2, 0),
            RequestFault::Range {
                index: 32,
                end: 34,
                width: 32,
            },
        ),
        (
            (0, u32::MAX - 1, 2, 0),
            RequestFault::Range {
                index: u32::MAX - 1,
                end: (1 << 32),
                width: 32,
            },
        ),
        ((0, 1, 2, 0), RequestFault::Unaligned { index: 1, count: 2 }),
        (
            (0, 0, 2, 5),
            RequestFault::ProofLayers {
                proof_layers: 5,
                base: 0,
                height: 5,
            },
        ),
        (
            (4, 0, 2, 1),
            RequestFault::ProofLayers {
                proof_layers: 1,
                base: 4,
                height: 5,
            },
        ),
    ] {
        let (base, index, count, proof_layers) = fields;
        assert_eq!(check(base, index, count, proof_layers), Err(fault));
    }
    let other = HashRequest {
        root: merkle::leaf(b"another"),
        base: 0,
        index: 0,
        count: 2,
        proof_layers: 0,
    };
    assert_eq!(other.validate(tree.file()), Err(RequestFault::OtherFile));

    // Files of one block, and empty ones, have nothing to ask for.
    let lone = merkle::leaf(b"x");
    let layout = Layout::new(PieceLength::MIN, [(1, Some(lone)), (0, None)]).unwrap();
    let lone = HashRequest {
        root: lone,
        ..other
    };
    assert_eq!(
        lone.validate(&layout.files()[0]),
        Err(RequestFault::Base { base: 0, height: 0 })
    );
    assert_eq!(
        lone.validate(&layout.files()[1]),
        Err(RequestFault::OtherFile)
    );
}

#[test]
fn padding_and_zeros_are_checked_where_they_belong() {
    let tree = Tree::new(19);
    let request = HashRequest::anchored(tree.file(), 0, 16, 16, 5).unwrap();
    assert_eq!(request.content(), 16..19);
    let reply = tree.respond(&request);
    assert_eq!(reply[3..16], [MerkleHash::ZERO; 13]);

    let mut padded = reply.clone();
    padded[3] = merkle::pad(1);
    assert_eq!(
        request.verify(&padded, tree.only_root()),
        Err(ProofFault::Padding {
            layer: 0,
            index: 19
        })
    );
    let mut zeroed = reply.clone();
    zeroed[2] = MerkleHash::ZERO;
    assert_eq!(
        request.verify(&zeroed, tree.only_root()),
        Err(ProofFault::Zero {
            layer: 0,
            index: 18
        })
    );
    let mut uncle = reply;
    uncle[16] = MerkleHash::ZERO;
    assert_eq!(
        request.verify(&uncle, tree.only_root()),
        Err(ProofFault::Zero { layer: 4, index: 0 })
    );
}

#[test]
fn what_is_not_known_is_not_answered() {
    let tree = Tree::new(19);
    let request = HashRequest::anchored(tree.file(), 0, 0, 8, 5).unwrap();
    let nodes = |missing: u8| {
        request.respond(|layer, range| {
            let known = range.map(|index| tree.node(layer, index).filter(|_| layer != missing));
            Ok::<_, Infallible>(known.collect())
        })
    };
    assert!(nodes(9).unwrap().is_some());
    for missing in [0, 3, 4] {
        assert_eq!(nodes(missing), Ok(None), "layer {missing}");
    }
    assert_eq!(request.respond(|_, _| Err("disk")), Err("disk"));
    // A source that gives another number of nodes than asked for is not believed.
    let short = request.respond(|_, _| Ok::<_, Infallible>(Some(Vec::new())));
    assert_eq!(short, Ok(None));
}
