//! Reading all content again also checks the v1 half of hybrids.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::path::Path;

use bittorrent_protocol::metainfo::{HashedContent, Metainfo, MetainfoBuilder, v1_pads_tail};
use bittorrent_protocol::{PieceLength, PieceSha1};
use bittorrent_store::TorrentStore;
use bittorrent_store::testing::ForgetfulDisk;
use bytes::Bytes;
use common::{BLOCK, hashed, salted};
use sha1::Digest as _;

const PIECE: usize = 32_768;

fn hybrid(files: &[Vec<u8>], lies: &[(usize, usize)]) -> Metainfo {
    let piece_length = PieceLength::new(PIECE as u64).unwrap();
    let contents = files.iter().enumerate().map(|(number, bytes)| {
        let mut content = HashedContent {
            v1_pieces: bytes
                .chunks(PIECE)
                .map(|piece| {
                    let mut piece = piece.to_vec();
                    if v1_pads_tail(files.len()) {
                        piece.resize(PIECE, 0);
                    }
                    PieceSha1::from_bytes(sha1::Sha1::digest(&piece).into())
                })
                .collect(),
            ..hashed(bytes, piece_length)
        };
        for (_, piece) in lies.iter().filter(|(file, _)| *file == number) {
            content.v1_pieces[*piece] = PieceSha1::from_bytes([7; 20]);
        }
        content
    });
    let builder = MetainfoBuilder::new("hybrid", piece_length).hybrid(true);
    let builder = match files {
        [_] => contents.fold(builder, MetainfoBuilder::single_file),
        _ => contents
            .enumerate()
            .fold(builder, |builder, (number, content)| {
                builder.file(vec![format!("file{number}")], content)
            }),
    };
    builder.build().unwrap()
}

/// A store that has everything.
fn store(disk: &ForgetfulDisk, metainfo: &Metainfo, files: &[Vec<u8>]) -> TorrentStore {
    let store = TorrentStore::create(Path::new("/store"), metainfo, disk.io()).unwrap();
    let layout = store.layout().clone();
    for piece in layout.piece_indices() {
        let file = &files[layout.file_of(piece).as_usize()];
        let start = layout.offset_in_file(piece) as usize;
        let bytes = &file[start..start + layout.piece_size(piece) as usize];
        let blocks: Vec<_> = layout
            .blocks(piece)
            .zip(bytes.chunks(BLOCK as usize))
            .map(|(block, bytes)| (block, Bytes::copy_from_slice(bytes)))
            .collect();
        let leaves: Vec<_> = bytes
            .chunks(BLOCK as usize)
            .map(bittorrent_protocol::merkle::leaf)
            .collect();
        store.write_blocks(&blocks).unwrap();
        store.mark_verified(piece, 0, &leaves).unwrap();
    }
    store
}

#[test]
fn pieces_that_contradict_their_v1_hash_are_named() {
    let one = vec![salted(3 * PIECE as u64 + 5, 1)];
    let many = vec![
        salted(PIECE as u64 + 1, 1),
        salted(PIECE as u64, 2),
        Vec::new(),
        salted(9, 3),
    ];
    // Files and pieces in them, and the same pieces in the torrent.
    type Case<'a> = (&'a [Vec<u8>], &'a [(usize, usize)], &'a [u32]);
    let cases: [Case<'_>; 5] = [
        (&one, &[], &[]),
        (&one, &[(0, 0), (0, 3)], &[0, 3]),
        (&many, &[], &[]),
        (&many, &[(0, 1)], &[1]),
        (&many, &[(1, 0), (3, 0)], &[2, 3]),
    ];
    for (files, lies, named) in cases {
        let disk = ForgetfulDisk::new();
        let metainfo = hybrid(files, lies);
        let store = store(&disk, &metainfo, files);
        let found = store.verify_all(&|_| true).unwrap();
        let pieces: Vec<u32> = found
            .contradictions
            .iter()
            .map(|piece| piece.get())
            .collect();
        assert_eq!(pieces, named, "{lies:?}");
        // The truth is v2: what it says is there.
        assert!(found.damaged.is_empty() && store.is_complete());
    }
}

#[test]
fn damage_is_no_contradiction() {
    let files = vec![salted(3 * PIECE as u64 + 5, 1)];
    let disk = ForgetfulDisk::new();
    let store = store(&disk, &hybrid(&files, &[]), &files);
    disk.rot(
        Path::new("/store/content/hybrid"),
        PIECE as u64 + 20_000,
        b"rot",
    )
    .unwrap();
    let found = store.verify_all(&|_| true).unwrap();
    assert_eq!(found.damaged.len(), 1);
    assert!(found.contradictions.is_empty());
}
