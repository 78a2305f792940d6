//! Torrents with known content, and ways to bring it into a store.
#![allow(
    dead_code,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "a module of several test crates, each of which uses some of it"
)]

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bittorrent_protocol::metainfo::{HashedContent, Metainfo, MetainfoBuilder};
use bittorrent_protocol::{
    BLOCK_LEN, BlockIndex, Layout, MerkleHash, PieceIndex, PieceLength, merkle,
};
use bittorrent_store::testing::ForgetfulDisk;
use bittorrent_store::{Io, StoreError, TorrentStore};
use bytes::Bytes;

pub const BLOCK: u64 = BLOCK_LEN as u64;

/// Where tests on a [`ForgetfulDisk`] have their generation.
pub const DIR: &str = "/s";

/// The bytes that the merkle vectors are made of.
pub fn content(length: u64) -> Vec<u8> {
    (0..length)
        .map(|k| (k.wrapping_mul(k) + 7 * k + (k >> 8)) as u8)
        .collect()
}

/// Content of which every block is another one, and differs for each `salt`.
pub fn salted(length: u64, salt: u8) -> Vec<u8> {
    let mut bytes = content(length);
    for (number, block) in bytes.chunks_mut(BLOCK_LEN as usize).enumerate() {
        block[0] = salt;
        let mark = &(number as u32).to_le_bytes();
        let room = block.len().saturating_sub(1).min(mark.len());
        block[1..=room].copy_from_slice(&mark[..room]);
    }
    bytes
}

pub fn hashed(bytes: &[u8], piece_length: PieceLength) -> HashedContent {
    let leaves: Vec<MerkleHash> = bytes.chunks(BLOCK_LEN as usize).map(merkle::leaf).collect();
    HashedContent {
        length: bytes.len() as u64,
        root: (!bytes.is_empty()).then(|| merkle::file_root_from_leaves(&leaves)),
        layer: if bytes.len() as u64 > u64::from(piece_length.bytes()) {
            merkle::piece_layer_from_leaves(&leaves, piece_length)
        } else {
            Vec::new()
        },
        ..HashedContent::default()
    }
}

/// A torrent, with its content in the order of its layout.
#[derive(Debug, Clone)]
pub struct Sample {
    pub meta: Metainfo,
    pub contents: Vec<Vec<u8>>,
    pub blocks: Vec<BlockIndex>,
    /// Of `blocks`.
    leaves: Vec<MerkleHash>,
}

impl Sample {
    pub fn single(piece_length: u64, bytes: Vec<u8>) -> Self {
        let piece_length = PieceLength::new(piece_length).unwrap();
        let meta = MetainfoBuilder::new("data.ldb", piece_length)
            .single_file(hashed(&bytes, piece_length))
            .build()
            .unwrap();
        Self::of(meta, vec![bytes])
    }

    /// Paths with slashes, in the torrent's order.
    pub fn directory(piece_length: u64, files: &[(&str, Vec<u8>)]) -> Self {
        let piece_length = PieceLength::new(piece_length).unwrap();
        let mut builder = MetainfoBuilder::new("sample", piece_length);
        for (path, bytes) in files {
            let path = path.split('/').map(str::to_owned).collect();
            builder = builder.file(path, hashed(bytes, piece_length));
        }
        let meta = builder.build().unwrap();
        for (file, (path, _)) in meta.info().files().iter().zip(files) {
            assert_eq!(file.path().join("/"), *path, "give them in order");
        }
        Self::of(meta, files.iter().map(|(_, bytes)| bytes.clone()).collect())
    }

    /// A directory of four files: several pieces, empty, shorter than a block, and `blocks` whole blocks.
    pub fn four_files(blocks: u64) -> Self {
        Self::directory(
            2 * BLOCK,
            &[
                ("a", salted(4 * BLOCK + 100, 1)),
                ("b", Vec::new()),
                ("c/one", salted(700, 2)),
                ("d", salted(blocks * BLOCK, 3)),
            ],
        )
    }

    /// A complete and sealed generation in [`DIR`] of a disk, opened again.
    pub fn sealed_on(&self, disk: &ForgetfulDisk) -> TorrentStore {
        self.complete(&self.create(Path::new(DIR), disk.io()));
        TorrentStore::open(Path::new(DIR), disk.io()).unwrap().0
    }

    fn of(meta: Metainfo, contents: Vec<Vec<u8>>) -> Self {
        let layout = meta.info().layout().clone();
        let blocks = layout
            .piece_indices()
            .flat_map(|piece| layout.blocks(piece))
            .collect();
        let mut sample = Self {
            meta,
            contents,
            blocks,
            leaves: Vec::new(),
        };
        let leaf = |block| merkle::leaf(sample.slice(block));
        sample.leaves = sample.blocks.iter().copied().map(leaf).collect();
        sample
    }

    pub fn layout(&self) -> &Arc<Layout> {
        self.meta.info().layout()
    }

    fn place(&self, piece: PieceIndex, begin: u32, length: u32) -> (usize, Range<usize>) {
        let start = (self.layout().offset_in_file(piece) + u64::from(begin)) as usize;
        let file = self.layout().file_of(piece).as_usize();
        (file, start..start + length as usize)
    }

    fn slice(&self, block: BlockIndex) -> &[u8] {
        let size = self.layout().block_size(block);
        let (file, range) = self.place(block.piece(), block.begin(), size);
        &self.contents[file][range]
    }

    pub fn bytes(&self, block: BlockIndex) -> Bytes {
        Bytes::copy_from_slice(self.slice(block))
    }

    pub fn leaf(&self, block: BlockIndex) -> MerkleHash {
        self.leaves[self.blocks.binary_search(&block).unwrap()]
    }

    /// The leaves of a piece.
    pub fn leaves(&self, piece: PieceIndex) -> Vec<MerkleHash> {
        self.layout()
            .blocks(piece)
            .map(|block| self.leaf(block))
            .collect()
    }

    /// All leaves of a file.
    pub fn file_leaves(&self, file: usize) -> Vec<MerkleHash> {
        self.contents[file]
            .chunks(BLOCK_LEN as usize)
            .map(merkle::leaf)
            .collect()
    }

    pub fn create(&self, dir: &Path, io: Arc<dyn Io>) -> TorrentStore {
        TorrentStore::create(dir, &self.meta, io).unwrap()
    }

    pub fn write(&self, store: &TorrentStore, blocks: &[BlockIndex]) -> Result<(), StoreError> {
        let batch: Vec<_> = blocks
            .iter()
            .map(|block| (*block, self.bytes(*block)))
            .collect();
        store.write_blocks(&batch)
    }

    pub fn mark(&self, store: &TorrentStore, block: BlockIndex) -> Result<(), StoreError> {
        store.mark_verified(block.piece(), block.in_piece(), &[self.leaf(block)])
    }

    /// Writes and marks blocks.
    pub fn fill(&self, store: &TorrentStore, blocks: &[BlockIndex]) {
        self.write(store, blocks).unwrap();
        for block in blocks {
            self.mark(store, *block).unwrap();
        }
    }

    /// Writes and marks everything that is missing, and seals.
    pub fn complete(&self, store: &TorrentStore) {
        let missing: Vec<_> = self
            .blocks
            .iter()
            .copied()
            .filter(|block| !store.is_block_verified(*block))
            .collect();
        self.fill(store, &missing);
        store.finish().unwrap();
        assert!(store.is_complete() && store.is_sealed());
    }

    /// Whether what is verified is good, and all of it was counted.
    pub fn check_verified(&self, store: &TorrentStore) -> Result<(), String> {
        let count = self.check_verified_so_far(store)?;
        if count != store.verified_blocks() {
            return Err(format!("{count} verified, not {}", store.verified_blocks()));
        }
        Ok(())
    }

    /// The same while more becomes verified: how many were seen.
    pub fn check_verified_so_far(&self, store: &TorrentStore) -> Result<u64, String> {
        let mut count = 0;
        for block in &self.blocks {
            if !store.is_block_verified(*block) {
                continue;
            }
            count += 1;
            let good = self.bytes(*block);
            let mut is = vec![0; good.len()];
            store
                .read(block.piece(), block.begin(), &mut is)
                .map_err(|error| {
                    format!("block {block} is verified and cannot be read: {error}")
                })?;
            if is != good {
                return Err(format!("block {block} is verified and wrong"));
            }
        }
        Ok(count)
    }
}

/// An operation that fails because of the disk, whatever it is.
pub fn broken() -> io::ErrorKind {
    io::ErrorKind::Other
}
