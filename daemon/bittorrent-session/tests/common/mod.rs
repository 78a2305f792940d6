//! Torrents, stores and sessions for tests.

#![allow(
    dead_code,
    unreachable_pub,
    reason = "every test file takes this in as its own module and uses a part of it"
)]

pub mod http;
pub mod wire;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bittorrent_protocol::merkle;
use bittorrent_protocol::metainfo::{HashedContent, Metainfo, MetainfoBuilder, v1_pads_tail};
use bittorrent_protocol::{BLOCK_LEN, Layout, MerkleHash, PieceIndex, PieceLength, PieceSha1};
use bittorrent_session::{Session, SessionConfig, TorrentHandle, TorrentStatus};
use bittorrent_store::{RealIo, TorrentStore};
use bytes::Bytes;
use sha1::Digest as _;

/// How long a whole transfer may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes that look random and follow from a number.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A torrent with its content in memory.
pub struct Sample {
    pub meta: Metainfo,
    /// Content by file, in the order of the layout.
    pub contents: Vec<Vec<u8>>,
}

fn hashed(
    content: &[u8],
    piece_length: PieceLength,
    hybrid: bool,
    pads_tail: bool,
) -> HashedContent {
    let leaves: Vec<MerkleHash> = content
        .chunks(BLOCK_LEN as usize)
        .map(merkle::leaf)
        .collect();
    let piece = piece_length.bytes() as usize;
    let v1 = |bytes: &[u8]| {
        let mut whole = bytes.to_vec();
        if pads_tail {
            whole.resize(piece, 0);
        }
        PieceSha1::from_bytes(sha1::Sha1::digest(&whole).into())
    };
    HashedContent {
        length: content.len() as u64,
        root: (!content.is_empty()).then(|| merkle::file_root_from_leaves(&leaves)),
        layer: if content.len() > piece {
            merkle::fold_layer(&leaves, 0, piece_length.layer())
        } else {
            Vec::new()
        },
        v1_pieces: if hybrid {
            content.chunks(piece).map(v1).collect()
        } else {
            Vec::new()
        },
        executable: false,
    }
}

impl Sample {
    /// A torrent of one file.
    pub fn file(name: &str, len: usize, piece_length: u64, hybrid: bool) -> Self {
        let content = noise(len as u64, len);
        let piece_length = PieceLength::new(piece_length).unwrap();
        let meta = MetainfoBuilder::new(name, piece_length)
            .hybrid(hybrid)
            .single_file(hashed(&content, piece_length, hybrid, false))
            .build()
            .unwrap();
        Self {
            meta,
            contents: vec![content],
        }
    }

    /// A torrent of a directory; files are named so that their order is the one given.
    pub fn directory(name: &str, lens: &[usize], piece_length: u64, hybrid: bool) -> Self {
        let piece_length = PieceLength::new(piece_length).unwrap();
        let mut builder = MetainfoBuilder::new(name, piece_length).hybrid(hybrid);
        let mut contents = Vec::new();
        for (n, len) in lens.iter().enumerate() {
            let content = noise(n as u64 * 7919 + *len as u64, *len);
            let path = vec![format!("{:02}", n / 4), format!("file {n:03}")];
            let hashed = hashed(&content, piece_length, hybrid, v1_pads_tail(lens.len()));
            builder = builder.file(path, hashed);
            contents.push(content);
        }
        Self {
            meta: builder.build().unwrap(),
            contents,
        }
    }

    /// A torrent of one file with this content.
    pub fn of(name: &str, content: Vec<u8>, piece_length: u64) -> Self {
        let piece_length = PieceLength::new(piece_length).unwrap();
        let meta = MetainfoBuilder::new(name, piece_length)
            .single_file(hashed(&content, piece_length, false, false))
            .build()
            .unwrap();
        Self {
            meta,
            contents: vec![content],
        }
    }

    /// A torrent of a directory with these files, in the order of their names.
    pub fn files(name: &str, files: &[(String, Vec<u8>)], piece_length: u64) -> Self {
        let piece_length = PieceLength::new(piece_length).unwrap();
        let mut builder = MetainfoBuilder::new(name, piece_length);
        for (path, content) in files {
            let hashed = hashed(content, piece_length, false, false);
            builder = builder.file(vec![path.clone()], hashed);
        }
        Self {
            meta: builder.build().unwrap(),
            contents: files.iter().map(|(_, content)| content.clone()).collect(),
        }
    }

    pub fn layout(&self) -> &Arc<Layout> {
        self.meta.info().layout()
    }

    /// The content of a stretch of a piece, with zeros past the end of its file.
    pub fn stretch(&self, piece: PieceIndex, begin: u32, len: u32) -> Vec<u8> {
        let layout = self.layout();
        let file = &self.contents[layout.file_of(piece).as_usize()];
        let start = layout.offset_in_file(piece) as usize + begin as usize;
        let (start, end) = (
            start.min(file.len()),
            (start + len as usize).min(file.len()),
        );
        let mut bytes = file[start..end].to_vec();
        bytes.resize(len as usize, 0);
        bytes
    }

    /// The leaves of a piece.
    pub fn leaves(&self, piece: PieceIndex) -> Vec<MerkleHash> {
        let bytes = self.stretch(piece, 0, self.layout().piece_size(piece));
        bytes.chunks(BLOCK_LEN as usize).map(merkle::leaf).collect()
    }

    /// A store with these pieces.
    pub fn store_with(&self, dir: &Path, pieces: impl Fn(PieceIndex) -> bool) -> Arc<TorrentStore> {
        let store = self.empty_store(dir);
        self.write_to(&store, pieces);
        store
    }

    /// Brings everything into an empty store and seals it.
    pub fn fill(&self, store: &TorrentStore) {
        self.write_to(store, |_| true);
        store.finish().unwrap();
    }

    /// Brings pieces into a store.
    pub fn write_to(&self, store: &TorrentStore, pieces: impl Fn(PieceIndex) -> bool) {
        let layout = self.layout();
        for piece in layout.piece_indices().filter(|piece| pieces(*piece)) {
            let blocks: Vec<_> = layout
                .blocks(piece)
                .map(|block| {
                    let bytes = self.stretch(piece, block.begin(), layout.block_size(block));
                    (block, Bytes::from(bytes))
                })
                .collect();
            store.write_blocks(&blocks).unwrap();
            store.mark_verified(piece, 0, &self.leaves(piece)).unwrap();
        }
        store.checkpoint().unwrap();
    }

    /// A complete, sealed store.
    pub fn full_store(&self, dir: &Path) -> Arc<TorrentStore> {
        let store = self.store_with(dir, |_| true);
        store.finish().unwrap();
        store
    }

    /// A store with everything still to come.
    pub fn empty_store(&self, dir: &Path) -> Arc<TorrentStore> {
        Arc::new(TorrentStore::create(dir, &self.meta, Arc::new(RealIo)).unwrap())
    }

    /// Checks what a store holds against the content, byte by byte.
    pub fn assert_held_by(&self, store: &TorrentStore) {
        assert!(store.is_complete());
        for piece in self.layout().piece_indices() {
            let mut bytes = vec![0; self.layout().piece_size(piece) as usize];
            store.read(piece, 0, &mut bytes).unwrap();
            assert!(
                bytes == self.stretch(piece, 0, bytes.len() as u32),
                "piece {piece} differs"
            );
        }
    }
}

/// A configuration that listens on loopback only.
pub fn config() -> SessionConfig {
    SessionConfig {
        listen: vec![(Ipv4Addr::LOCALHOST, 0).into()],
        ..SessionConfig::default()
    }
}

pub async fn session() -> Session {
    Session::start(config()).await.unwrap()
}

/// Where to reach a session.
pub fn addr(session: &Session) -> SocketAddr {
    session.local_addrs()[0]
}

/// Waits for a status.
pub async fn wait_for(
    torrent: &TorrentHandle,
    what: &str,
    wanted: impl FnMut(&TorrentStatus) -> bool,
) -> TorrentStatus {
    let mut status = torrent.subscribe();
    let found = tokio::time::timeout(PATIENCE, status.wait_for(wanted))
        .await
        .map(|status| status.unwrap().clone());
    match found {
        Ok(status) => status,
        Err(_) => panic!("not {what} in time: {:#?}", torrent.status()),
    }
}

pub async fn wait_seeding(torrent: &TorrentHandle) -> TorrentStatus {
    let seeding = |status: &TorrentStatus| {
        assert!(status.phase.error().is_none(), "{status:#?}");
        status.phase.is_seeding()
    };
    wait_for(torrent, "seeding", seeding).await
}
