//! Makes torrents.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::bencode::{DictEncoder, Encoder, Limits};
use crate::hash::{MerkleHash, PieceSha1};
use crate::metainfo::info::{Info, InfoError};
use crate::metainfo::layer::{LayerError, PieceLayer};
use crate::metainfo::names;
use crate::metainfo::torrent::{Metainfo, UnhashedFields};
use crate::units::{FileIndex, PieceLength};

/// Why no torrent can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// A name or path that other clients would have to change: empty, `.`, `..`, with separators or
    /// control characters, or too long.
    #[error("{name:?} cannot be the name of a file in a torrent")]
    Name {
        /// The name or component.
        name: String,
    },
    /// A path was added twice, or a file is where another path needs a directory.
    #[error("{path:?} is in the torrent already, as a file or directory")]
    Taken {
        /// The path.
        path: String,
    },
    /// A single-file torrent has exactly one file, called like the torrent.
    #[error("a single-file torrent has one file with the torrent's name, not {files} files")]
    NotSingle {
        /// How many files were added.
        files: usize,
    },
    /// In a hybrid every file needs one SHA-1 for each piece.
    #[error("{path:?} has {found} SHA-1 piece hashes, {expected} are needed")]
    V1Pieces {
        /// The path.
        path: String,
        /// The number of hashes.
        found: usize,
        /// How many pieces the file has.
        expected: u64,
    },
    /// The piece layer of a file is wrong.
    #[error("the piece layer of {path:?} is wrong")]
    Layer {
        /// The path.
        path: String,
        /// What is wrong.
        #[source]
        source: LayerError,
    },
    /// The files and options make no usable torrent.
    #[error("the torrent would not be usable")]
    Info(#[source] InfoError),
}

/// A file's content as hashes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HashedContent {
    /// In bytes.
    pub length: u64,
    /// The root of its merkle tree; ignored for empty files.
    pub root: Option<MerkleHash>,
    /// Its piece layer; ignored for files of at most one piece.
    pub layer: Vec<MerkleHash>,
    /// For hybrids, the SHA-1 of each piece. If [`v1_pads_tail`] is true, the last piece is hashed
    /// padded with zeros.
    pub v1_pieces: Vec<PieceSha1>,
    /// Whether it is executable (BEP 47).
    pub executable: bool,
}

/// Whether the last v1 piece of *every* file of a hybrid is hashed with zeros up to the full piece
/// length, as pad files make it; else the one file's last piece is hashed at its true length.
/// `files` counts all files of the torrent, empty ones included.
///
/// libtorrent 2.0.8 and later pads behind the last file too when there is more than one.
pub const fn v1_pads_tail(files: usize) -> bool {
    files > 1
}

/// Makes v2 and hybrid torrents. The same input makes the same bytes: there is no date unless one
/// is set.
#[derive(Debug, Clone)]
pub struct MetainfoBuilder {
    name: String,
    piece_length: PieceLength,
    hybrid: bool,
    private: bool,
    snapshot: Option<Vec<u8>>,
    files: BTreeMap<Vec<String>, HashedContent>,
    single: bool,
    taken: Option<String>,
    /// The fields that the info-hash does not cover.
    pub unhashed: UnhashedFields,
}

impl MetainfoBuilder {
    /// Starts a torrent called `name`, of version 2 only.
    pub fn new(name: impl Into<String>, piece_length: PieceLength) -> Self {
        Self {
            name: name.into(),
            piece_length,
            hybrid: false,
            private: false,
            snapshot: None,
            files: BTreeMap::new(),
            single: false,
            taken: None,
            unhashed: UnhashedFields::default(),
        }
    }

    /// Makes a hybrid: every file then needs [`HashedContent::v1_pieces`].
    pub const fn hybrid(mut self, hybrid: bool) -> Self {
        self.hybrid = hybrid;
        self
    }

    /// Restricts where peers may come from (BEP 27).
    pub const fn private(mut self, private: bool) -> Self {
        self.private = private;
        self
    }

    /// Puts a byte string under `x-snapshot` into the info dictionary.
    pub fn snapshot(mut self, snapshot: impl Into<Vec<u8>>) -> Self {
        self.snapshot = Some(snapshot.into());
        self
    }

    /// Makes it a torrent of this one file, which has the torrent's name.
    pub fn single_file(mut self, content: HashedContent) -> Self {
        let path = vec![self.name.clone()];
        self.single = true;
        self.file(path, content)
    }

    /// Adds a file at a path below the torrent's directory. The order in which files are added
    /// does not matter; they end up sorted by path.
    pub fn file(mut self, path: Vec<String>, content: HashedContent) -> Self {
        let shown = path.join("/");
        if self.files.insert(path, content).is_some() {
            self.taken.get_or_insert(shown);
        }
        self
    }

    /// Makes the torrent, with the piece layers of all files.
    pub fn build(self) -> Result<Metainfo, BuildError> {
        self.check()?;
        let raw = self.encode_info();
        let info = Info::parse(&raw, &Limits::TORRENT).map_err(BuildError::Info)?;
        let mut metainfo = Metainfo::from_info(Arc::new(info));
        let missing: Vec<FileIndex> = metainfo.missing_layers().collect();
        // Sorted by path, the files are in file-tree order.
        let mut contents: Vec<_> = self.files.into_iter().collect();
        for index in missing {
            let Some((path, content)) = contents.get_mut(index.as_usize()) else {
                continue;
            };
            let wrong = |source| BuildError::Layer {
                path: path.join("/"),
                source,
            };
            let span = metainfo.info().layout().file(index);
            let hashes = std::mem::take(&mut content.layer);
            let layer = PieceLayer::new(span, self.piece_length, hashes).map_err(wrong)?;
            metainfo.set_layer(index, Arc::new(layer)).map_err(wrong)?;
        }
        metainfo.unhashed = self.unhashed;
        Ok(metainfo)
    }

    fn check(&self) -> Result<(), BuildError> {
        if let Some(path) = &self.taken {
            return Err(BuildError::Taken { path: path.clone() });
        }
        if self.single && self.files.len() != 1 {
            return Err(BuildError::NotSingle {
                files: self.files.len(),
            });
        }
        for name in self.files.keys().flatten().chain([&self.name]) {
            // A name that readers would change is refused.
            if names::safe_name(name.as_bytes()).as_ref() != Some(name) {
                return Err(BuildError::Name { name: name.clone() });
            }
        }
        for (path, content) in &self.files {
            let len = path.iter().map(|name| name.len() + 1).sum::<usize>();
            if !(1..=names::MAX_PATH_LEN + 1).contains(&len) {
                return Err(BuildError::Name {
                    name: path.join("/"),
                });
            }
            let expected = content
                .length
                .div_ceil(u64::from(self.piece_length.bytes()));
            if self.hybrid && content.v1_pieces.len() as u64 != expected {
                return Err(BuildError::V1Pieces {
                    path: path.join("/"),
                    found: content.v1_pieces.len(),
                    expected,
                });
            }
        }
        // Sorted, a file and the paths below it are neighbours.
        for (above, below) in self.files.keys().zip(self.files.keys().skip(1)) {
            if below.starts_with(above) {
                return Err(BuildError::Taken {
                    path: above.join("/"),
                });
            }
        }
        Ok(())
    }

    fn encode_info(&self) -> Vec<u8> {
        let entries: Vec<_> = self
            .files
            .iter()
            .map(|(path, content)| (path.as_slice(), content))
            .collect();
        let mut encoder = Encoder::new();
        encoder.dict(|info| {
            info.key("file tree")
                .dict(|tree| encode_directory(tree, &entries, 0));
            if self.hybrid && !self.single {
                info.key("files").list(|list| self.encode_v1_files(list));
            }
            if self.hybrid && self.single {
                let length = entries.iter().map(|(_, content)| content.length).sum();
                info.key("length").uint(length);
            }
            info.int("meta version", 2);
            info.bytes("name", &self.name);
            info.int("piece length", self.piece_length.bytes().into());
            if self.hybrid {
                let pieces = self.files.values().flat_map(|content| &content.v1_pieces);
                let pieces: Vec<u8> = pieces.flat_map(PieceSha1::as_bytes).copied().collect();
                info.bytes("pieces", pieces);
            }
            if self.private {
                info.int("private", 1);
            }
            if let Some(snapshot) = &self.snapshot {
                info.bytes("x-snapshot", snapshot);
            }
        });
        encoder.finish()
    }

    /// The v1 list of files, with pad files that bring each next file to a piece boundary
    /// (BEP 47).
    fn encode_v1_files(&self, list: &mut Encoder) {
        let piece_length = u64::from(self.piece_length.bytes());
        for (path, content) in &self.files {
            list.dict(|file| {
                if content.executable {
                    file.bytes("attr", "x");
                }
                file.key("length").uint(content.length);
                file.key("path")
                    .list(|names| path.iter().for_each(|name| names.bytes(name)));
            });
            let padding = content.length.next_multiple_of(piece_length) - content.length;
            if padding > 0 && v1_pads_tail(self.files.len()) {
                list.dict(|pad| {
                    pad.bytes("attr", "p");
                    pad.key("length").uint(padding);
                    pad.key("path").list(|names| {
                        names.bytes(".pad");
                        names.bytes(padding.to_string());
                    });
                });
            }
        }
    }
}

/// Writes the entries of a directory. `entries` are the sorted files below it, whose paths begin
/// with the same `depth` names.
fn encode_directory(
    directory: &mut DictEncoder<'_>,
    entries: &[(&[String], &HashedContent)],
    depth: usize,
) {
    for group in entries.chunk_by(|(one, _), (other, _)| one.get(depth) == other.get(depth)) {
        let Some((path, content)) = group.first() else {
            continue;
        };
        let Some(name) = path.get(depth) else {
            continue;
        };
        directory.key(name).dict(|entry| {
            if path.len() > depth + 1 {
                encode_directory(entry, group, depth + 1);
                return;
            }
            entry.key("").dict(|leaf| {
                if content.executable {
                    leaf.bytes("attr", "x");
                }
                leaf.key("length").uint(content.length);
                if let Some(root) = content.root.filter(|_| content.length > 0) {
                    leaf.bytes("pieces root", root.as_bytes());
                }
            });
        });
    }
}
