//! Making generations: hashes equal those computed plainly, and what was made opens again.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::Read;
use std::sync::Arc;

use bittorrent_protocol::metainfo::Metainfo;
use bittorrent_protocol::{BLOCK_LEN, MerkleHash, PieceLength, PieceSha1, bencode, merkle};
use bittorrent_store::create::{Cut, Draft, Shape, V1Pieces, copy_path, hash_path, hash_stream};
use bittorrent_store::{RealIo, StoreError, TorrentStore};
use sha1::Digest as _;

fn content(length: usize) -> Vec<u8> {
    (0..length as u64)
        .map(|k| (k.wrapping_mul(k) + 7 * k + (k >> 8)) as u8)
        .collect()
}

fn cut(piece_length: u64, hybrid: bool) -> Cut {
    Cut {
        piece_length: PieceLength::new(piece_length).unwrap(),
        hybrid,
    }
}

/// Gives its bytes in small and uneven portions, as a pipe does.
struct Dribble<'a>(&'a [u8]);

impl Read for Dribble<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = buffer
            .len()
            .min(self.0.len())
            .min(1 + self.0.len() % 70_001);
        let (now, later) = self.0.split_at(count);
        buffer[..count].copy_from_slice(now);
        self.0 = later;
        Ok(count)
    }
}

#[test]
fn a_stream_is_hashed_as_plain_code_would() {
    const MIB: usize = 1 << 20;
    let lengths = [
        0,
        1,
        16_383,
        16_384,
        16_385,
        32_768,
        32_769,
        100_000,
        MIB - 1,
        MIB,
        MIB + 1,
        2 * MIB,
        5 * MIB + 77,
    ];
    for length in lengths {
        let bytes = content(length);
        let plain: Vec<MerkleHash> = bytes.chunks(BLOCK_LEN as usize).map(merkle::leaf).collect();
        for piece_length in [16_384, 65_536, 1 << 20, 4 << 20] {
            let piece = PieceLength::new(piece_length).unwrap();
            for v1 in [V1Pieces::None, V1Pieces::Plain, V1Pieces::Padded] {
                let mut leaves = Vec::new();
                let mut keep = |some: &[MerkleHash]| {
                    leaves.extend_from_slice(some);
                    Ok(())
                };
                let mut source = Dribble(&bytes);
                let hashed =
                    hash_stream(&mut source, None, piece, v1, &mut keep, &mut |_| true).unwrap();
                let at = format!("{length} bytes, pieces of {piece_length}, {v1:?}");
                assert_eq!(leaves, plain, "{at}");
                assert_eq!(hashed.length, length as u64);
                let root = (length > 0).then(|| merkle::file_root_from_leaves(&plain));
                assert_eq!(hashed.root, root, "{at}");
                let layer = if length as u64 > piece_length {
                    merkle::piece_layer_from_leaves(&plain, piece)
                } else {
                    Vec::new()
                };
                assert_eq!(hashed.layer, layer, "{at}");
                let pieces: Vec<PieceSha1> = bytes
                    .chunks(piece_length as usize)
                    .map(|chunk| {
                        let mut chunk = chunk.to_vec();
                        if v1 == V1Pieces::Padded {
                            chunk.resize(piece_length as usize, 0);
                        }
                        PieceSha1::from_bytes(sha1::Sha1::digest(&chunk).into())
                    })
                    .collect();
                let expected = if v1 == V1Pieces::None {
                    Vec::new()
                } else {
                    pieces
                };
                assert_eq!(hashed.v1_pieces, expected, "{at}");
            }
        }
    }
}

#[test]
fn a_directory_becomes_a_sealed_generation_that_opens_again() {
    for hybrid in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("files");
        std::fs::create_dir_all(source.join("deep/er")).unwrap();
        for (name, length) in [
            ("z", 70_000),
            ("a", 16_384),
            ("empty", 0),
            ("deep/one", 5),
            ("deep/er/many", 200_001),
        ] {
            std::fs::write(source.join(name), content(length)).unwrap();
        }
        let target = dir.path().join("generation");
        let cut = cut(32_768, hybrid);
        let made = copy_path(&source, &target, cut, Arc::new(RealIo), &mut |_| true).unwrap();
        assert!(made.is_complete() && made.is_sealed());
        let metainfo = made.metainfo();
        assert_eq!(*metainfo, hash_path(&source, cut, &mut |_| true).unwrap());
        let encoded = Metainfo::parse(&metainfo.encode(), &bencode::Limits::TORRENT).unwrap();
        assert_eq!(encoded.info().hashes(), metainfo.info().hashes());
        assert_eq!(metainfo.info().hashes().v1.is_some(), hybrid);
        drop(made);

        let moved = dir.path().join("moved");
        std::fs::rename(&target, &moved).unwrap();
        let (store, recovery) = TorrentStore::open(&moved, Arc::new(RealIo)).unwrap();
        assert!(store.is_complete() && store.is_sealed(), "{recovery:?}");
        assert_eq!(recovery.blocks_claimed, store.total_blocks());
        let verification = store.verify_all(&|_| true).unwrap();
        assert_eq!(verification.bytes, store.layout().content_length());
        assert_eq!((verification.damaged.len(), verification.found), (0, 0));
        let name = moved.join("content/files/deep/er/many");
        assert_eq!(std::fs::read(name).unwrap(), content(200_001));
    }
}

#[test]
fn a_file_is_hashed_in_place_as_it_is_on_the_way() {
    const MIB: usize = 1 << 20;
    for length in [1, 16_385, MIB, MIB + 1, 3 * MIB - 1, 9 * MIB + 77] {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("data.ldb");
        std::fs::write(&source, content(length)).unwrap();
        for (number, piece_length) in [16_384, 262_144, 1 << 20, 4 << 20].into_iter().enumerate() {
            for hybrid in [false, true] {
                let cut = cut(piece_length, hybrid);
                let target = dir.path().join(format!("{number}-{hybrid}"));
                let copied =
                    copy_path(&source, &target, cut, Arc::new(RealIo), &mut |_| true).unwrap();
                let mut seen = 0;
                let hashed = hash_path(&source, cut, &mut |bytes| {
                    seen = bytes;
                    true
                });
                let at = format!("{length} bytes, pieces of {piece_length}, hybrid {hybrid}");
                assert_eq!(*copied.metainfo(), hashed.unwrap(), "{at}");
                assert_eq!(seen, length as u64, "{at}");
            }
        }
        let stopped = hash_path(&source, cut(16_384, true), &mut |_| false);
        assert!(matches!(stopped, Err(StoreError::Cancelled)));
    }
}

#[test]
fn a_directory_with_one_file_lies_where_the_torrent_says() {
    for (hybrid, name) in [
        (false, "x"),
        (true, "x"),
        (false, "below/x"),
        (true, "below/x"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let source = dir.path().join("files");
        std::fs::create_dir_all(source.join("below")).unwrap();
        std::fs::write(source.join(name), content(40_000)).unwrap();
        let target = dir.path().join("generation");
        let cut = cut(16_384, hybrid);
        let made = copy_path(&source, &target, cut, Arc::new(RealIo), &mut |_| true).unwrap();
        assert!(made.is_sealed());
        let file = made.layout().file_index(0).unwrap();
        assert_eq!(
            std::fs::read(made.file_path(file)).unwrap(),
            content(40_000)
        );
        // A v2 torrent of one file that stands in no directory is that file, whatever its name.
        assert_eq!(made.info().is_single_file(), !hybrid && name == "x");
        assert_eq!(
            *made.metainfo(),
            hash_path(&source, cut, &mut |_| true).unwrap()
        );
    }
}

#[test]
fn a_draft_says_what_is_wrong_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let begin = |name: &str, shape| {
        Draft::begin(
            &dir.path().join("g"),
            name,
            shape,
            cut(16_384, true),
            Arc::new(RealIo),
        )
    };
    for bad in ["", ".", "..", "a/b", "a\0b"] {
        assert!(
            matches!(
                begin(bad, Shape::SingleFile),
                Err(StoreError::FileName { .. })
            ),
            "{bad:?}"
        );
    }
    let mut draft = begin("d", Shape::Directory { files: 2 }).unwrap();
    let escape = ["..".to_owned(), "x".to_owned()];
    let refused = draft.add_file(&escape, &mut &b"1"[..], &mut |_| true);
    assert!(matches!(refused, Err(StoreError::FileName { .. })));
    for bad in ["", ".", "a\nb", "\u{202e}", &"x".repeat(300)] {
        let path = ["dir".to_owned(), bad.to_owned()];
        let refused = draft.add_file(&path, &mut &b"1"[..], &mut |_| true);
        assert!(
            matches!(refused, Err(StoreError::FileName { .. })),
            "{bad:?}"
        );
    }
    let stopped = draft.add_file(&["x".to_owned()], &mut &b"1"[..], &mut |_| false);
    assert!(matches!(stopped, Err(StoreError::Cancelled)));
    draft
        .add_file(&["y".to_owned()], &mut &b"1"[..], &mut |_| true)
        .unwrap();
    for taken in ["y", "Y"] {
        let again = draft.add_file(&[taken.to_owned()], &mut &b"2"[..], &mut |_| true);
        assert!(matches!(again, Err(StoreError::FileName { .. })));
    }
    let short = draft.finish(|builder| builder);
    assert!(matches!(
        short,
        Err(StoreError::FileCount {
            announced: 2,
            added: 1
        })
    ));
}

#[test]
fn a_file_that_is_there_already_becomes_the_same_generation() {
    for (length, hybrid) in [
        (1, false),
        (16_385, true),
        (3_000_000, true),
        (3_000_000, false),
    ] {
        let bytes = content(length);
        let made = |present: bool| {
            let dir = tempfile::tempdir().unwrap();
            let io = Arc::new(RealIo);
            let cut = cut(65_536, hybrid);
            let mut draft =
                Draft::begin(dir.path(), "data.ldb", Shape::SingleFile, cut, io.clone()).unwrap();
            let added = if present {
                std::fs::write(draft.content_path(&[]), &bytes).unwrap();
                draft.add_present(&[], &mut |_| true)
            } else {
                draft.add_file(&[], &mut bytes.as_slice(), &mut |_| true)
            };
            assert_eq!(added.unwrap(), length as u64);
            assert!(
                draft.add_present(&[], &mut |_| true).is_err(),
                "it is added already"
            );
            drop(draft.finish(|builder| builder).unwrap());
            let (store, _) = TorrentStore::open(dir.path(), io).unwrap();
            assert!(store.is_complete());
            assert_eq!(store.verify_all(&|_| true).unwrap().damaged, []);
            store.metainfo().encode()
        };
        assert_eq!(made(true), made(false), "{length} bytes, hybrid: {hybrid}");
    }
}
