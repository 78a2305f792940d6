//! What cannot be made into a torrent, and which piece layers a torrent takes.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use bittorrent_protocol::metainfo::{
    BuildError, HashedContent, InfoError, LayerError, Metainfo, MetainfoBuilder, TreeError,
};
use bittorrent_protocol::{Layout, LayoutError, MerkleHash, PieceLayer, PieceLength, merkle};

#[test]
fn layers_fit_their_file_exactly() {
    let piece_length = PieceLength::new(32768).unwrap();
    let leaves: Vec<MerkleHash> = (0..5u8).map(|n| merkle::leaf(&[n])).collect();
    let root = merkle::file_root_from_leaves(&leaves);
    let hashes = merkle::piece_layer_from_leaves(&leaves, piece_length);
    let layout = |length, root| Layout::new(piece_length, [(length, Some(root))]).unwrap();
    let length = 4 * 16384 + 1;
    let file = &layout(length, root).files()[0].clone();
    let new = |hashes: &[MerkleHash]| PieceLayer::new(file, piece_length, hashes.to_vec());
    let layer = new(&hashes).unwrap();
    assert_eq!(layer.hashes(), hashes);
    for count in [0, 2, 4] {
        let mut wrong = hashes.clone();
        wrong.resize(count, hashes[0]);
        assert_eq!(
            new(&wrong),
            Err(LayerError::Count {
                found: count,
                expected: 3
            })
        );
    }
    let swapped = [hashes[1], hashes[0], hashes[2]];
    assert!(matches!(new(&swapped), Err(LayerError::Root { .. })));
    let zero = [hashes[0], MerkleHash::ZERO, hashes[2]];
    assert_eq!(new(&zero), Err(LayerError::Zero { index: 1 }));
    let short = &layout(32768, root).files()[0].clone();
    assert!(matches!(
        PieceLayer::new(short, piece_length, vec![root]),
        Err(LayerError::NoLayer { length: 32768, .. })
    ));

    // Nodes from the piece layer up, padding included, and nothing else.
    assert_eq!(layer.node(1, 2), Some(hashes[2]));
    assert_eq!(layer.node(1, 3), Some(merkle::pad(1)));
    assert_eq!(layer.node(1, 4), None);
    assert_eq!(
        layer.node(2, 1),
        Some(merkle::parent(&hashes[2], &merkle::pad(1)))
    );
    assert_eq!(layer.node(3, 0), Some(root));
    for (number, index) in [(0, 0), (3, 1), (4, 0), (255, 0), (1, u64::MAX)] {
        assert_eq!(layer.node(number, index), None, "{number} {index}");
    }
}

/// A torrent of one file of three blocks.
fn three_blocks(seed: u8, piece_length: PieceLength) -> Metainfo {
    let leaves: Vec<MerkleHash> = (0..3).map(|n| merkle::leaf(&[seed, n])).collect();
    let content = HashedContent {
        length: 3 * 16384,
        root: Some(merkle::file_root_from_leaves(&leaves)),
        layer: merkle::piece_layer_from_leaves(&leaves, piece_length),
        ..HashedContent::default()
    };
    let builder = MetainfoBuilder::new("name", piece_length);
    builder.single_file(content).build().unwrap()
}

#[test]
fn a_torrent_takes_no_other_layer() {
    let metainfo = three_blocks(1, PieceLength::MIN);
    let file = metainfo.info().layout().file_index(0).unwrap();
    let layer_of = |other: &Metainfo| other.layer(file).unwrap().clone();
    let bare = Metainfo::from_info(metainfo.info().clone());
    assert!(bare.clone().set_layer(file, layer_of(&metainfo)).is_ok());
    let others = three_blocks(2, PieceLength::MIN);
    assert!(matches!(
        bare.clone().set_layer(file, layer_of(&others)),
        Err(LayerError::Root { .. })
    ));
    // The same content in longer pieces has the same root and another layer.
    let longer = three_blocks(1, PieceLength::new(32768).unwrap());
    assert!(matches!(
        bare.clone().set_layer(file, layer_of(&longer)),
        Err(LayerError::Count {
            found: 2,
            expected: 3
        })
    ));
    // One piece holds all of it.
    let longest = three_blocks(1, PieceLength::new(65536).unwrap());
    assert!(matches!(
        longest.clone().set_layer(file, layer_of(&metainfo)),
        Err(LayerError::NoLayer { .. })
    ));
}

#[test]
fn what_cannot_be_built() {
    let content = || HashedContent {
        length: 5,
        root: Some(merkle::leaf(b"12345")),
        ..HashedContent::default()
    };
    let path = |path: &str| path.split('/').map(str::to_owned).collect::<Vec<_>>();
    let new = || MetainfoBuilder::new("name", PieceLength::MIN);
    assert!(new().file(path("a/b"), content()).build().is_ok());
    for bad in ["", "..", "a/..", "a//b", "a\\b", "a\0", "a\u{202e}b"] {
        let built = new().file(path(bad), content()).build();
        assert!(matches!(built, Err(BuildError::Name { .. })), "{bad:?}");
    }
    let long = vec!["123456789".to_owned(); 300];
    for bad in [Vec::new(), long] {
        let built = new().file(bad, content()).build();
        assert!(matches!(built, Err(BuildError::Name { .. })));
    }
    let unnamed = MetainfoBuilder::new("", PieceLength::MIN).file(path("a"), content());
    assert!(matches!(unnamed.build(), Err(BuildError::Name { .. })));

    let twice = new().file(path("a"), content()).file(path("a"), content());
    let taken = |path: &str| BuildError::Taken { path: path.into() };
    assert_eq!(twice.build(), Err(taken("a")));
    let below = new()
        .file(path("a"), content())
        .file(path("a/b"), content())
        .file(path("a.c"), content());
    assert_eq!(below.build(), Err(taken("a")));
    let crowded = new().single_file(content()).file(path("a"), content());
    assert_eq!(crowded.build(), Err(BuildError::NotSingle { files: 2 }));
    let unhashed = new().hybrid(true).file(path("a"), content());
    assert!(matches!(
        unhashed.build(),
        Err(BuildError::V1Pieces {
            found: 0,
            expected: 1,
            ..
        })
    ));
    assert_eq!(
        new().build(),
        Err(BuildError::Info(InfoError::Layout(LayoutError::Empty)))
    );
    let rootless = HashedContent {
        root: None,
        ..content()
    };
    assert!(matches!(
        new().file(path("a"), rootless).build(),
        Err(BuildError::Info(InfoError::FileTree(
            TreeError::Root { .. }
        )))
    ));
    let layerless = HashedContent {
        length: 16385,
        ..content()
    };
    assert!(matches!(
        new().file(path("a"), layerless).build(),
        Err(BuildError::Layer { .. })
    ));
}
