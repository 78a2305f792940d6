//! Info dictionaries: the description of a torrent's content, whose hash identifies the torrent.

use std::sync::Arc;

use crate::bencode::{self, BencodeError, Dict, FlawKind, Limits};
use crate::hash::{InfoHashV1, InfoHashV2, InfoHashes, MerkleHash, PieceSha1};
use crate::layout::{Layout, LayoutError};
use crate::metainfo::alias;
use crate::metainfo::names::{self, PathError};
use crate::metainfo::tree::{self, TreeError, TreeFile};
use crate::metainfo::v1::{Inconsistency, MAX_V1_PIECE_LEN, V1, V1Error};
use crate::units::{FileIndex, PieceIndex, PieceLength};

/// Why bytes are not an info dictionary that we can use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InfoError {
    /// Not bencode, or beyond the limits.
    #[error("the info dictionary cannot be decoded")]
    Bencode(#[from] BencodeError),
    /// Bytes follow the dictionary. Hashing them too would give another info-hash.
    #[error("{len} bytes follow the info dictionary")]
    TrailingBytes {
        /// How many.
        len: usize,
    },
    /// Not a dictionary.
    #[error("the info is no dictionary")]
    NotADictionary,
    /// Other decoders might read another torrent from the same bytes.
    #[error("{kind} at byte {offset} of the info dictionary")]
    Flawed {
        /// What is wrong.
        kind: FlawKind,
        /// Where, in bytes from the start of the info dictionary.
        offset: usize,
    },
    /// A version of the format that did not exist when BEP 52 was written.
    #[error("meta version {0} is unknown")]
    UnknownVersion(i64),
    /// There is a file tree without `meta version` 2, or the version is no number.
    #[error("there is a file tree but no meta version that fits it")]
    MissingVersion,
    /// Version 2 without a file tree.
    #[error("there is no file tree")]
    MissingFileTree,
    /// The name is missing or not a byte string.
    #[error("the torrent has no name")]
    MissingName,
    /// The piece length is missing or not one that is allowed.
    #[error("the piece length is missing or not allowed")]
    PieceLength {
        /// What was found, if it was a number.
        found: Option<i64>,
    },
    /// The file tree is malformed.
    #[error("the file tree is malformed")]
    FileTree(#[source] TreeError),
    /// The file tree's paths cannot be made into files.
    #[error("the file tree cannot be made into paths")]
    Paths(#[source] PathError),
    /// The files are no torrent.
    #[error("the files cannot be laid out in pieces")]
    Layout(#[source] LayoutError),
    /// The v1 half is malformed.
    #[error("the v1 part of the info dictionary is malformed")]
    V1(#[source] V1Error),
    /// A hybrid whose halves describe different content.
    #[error("the v1 and v2 parts of the info dictionary contradict each other")]
    Inconsistent(#[source] Inconsistency),
    /// A well-formed torrent of version 1 only, which this client does not handle.
    #[error("{name:?} ({hash}) is a torrent of version 1 only; version 2 or a hybrid is needed")]
    V1Only {
        /// Its name, safe to print.
        name: String,
        /// Its info-hash.
        hash: InfoHashV1,
    },
}

/// A file of a torrent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    path: Vec<String>,
    length: u64,
    root: Option<MerkleHash>,
    executable: bool,
}

impl File {
    /// Where it belongs below the torrent's own directory, or the one name of a single-file
    /// torrent. Safe to create: at least one component, none empty, `.`, `..` or with separators,
    /// and no other file has the same path, even where upper and lower case are one.
    pub fn path(&self) -> &[String] {
        &self.path
    }

    /// In bytes.
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// The root of its merkle tree; `None` exactly for empty files.
    pub const fn root(&self) -> Option<MerkleHash> {
        self.root
    }

    /// Whether it should be made executable (BEP 47).
    pub const fn is_executable(&self) -> bool {
        self.executable
    }
}

/// The v1 side of a hybrid.
#[derive(Debug, Clone, PartialEq, Eq)]
struct HybridPart {
    pieces: Vec<PieceSha1>,
    /// Bytes that the pieces cover, padding counted.
    length: u64,
}

/// A checked info dictionary of a v2 or hybrid torrent, with its original bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Info {
    raw: Vec<u8>,
    hashes: InfoHashes,
    name: String,
    layout: Arc<Layout>,
    files: Vec<File>,
    v1: Option<HybridPart>,
    private: bool,
    snapshot: Option<Vec<u8>>,
    single_file: bool,
}

impl Info {
    /// Reads an info dictionary, which the bytes must be and nothing more.
    ///
    /// Returns [`InfoError::V1Only`] for a well-formed v1-only one, and another error for anything
    /// malformed, also in fields that only v1 uses.
    pub fn parse(raw: &[u8], limits: &Limits) -> Result<Self, InfoError> {
        let decoded = bencode::decode(raw, limits)?;
        if decoded.consumed != raw.len() {
            return Err(InfoError::TrailingBytes {
                len: raw.len() - decoded.consumed,
            });
        }
        let info = decoded.root.as_dict().ok_or(InfoError::NotADictionary)?;
        let tree = info.get("file tree");
        match info.get("meta version").map(|node| node.as_int()) {
            Some(Some(2)) => {}
            Some(Some(0 | 1)) | None if tree.is_none() => return v1_only(raw, info),
            Some(Some(0 | 1) | None) | None => return Err(InfoError::MissingVersion),
            Some(Some(version)) => return Err(InfoError::UnknownVersion(version)),
        }
        let tree = tree
            .and_then(|tree| tree.as_dict())
            .ok_or(InfoError::MissingFileTree)?;
        if let Some(flaw) = decoded.flaws.first() {
            return Err(InfoError::Flawed {
                kind: flaw.kind,
                offset: flaw.offset,
            });
        }
        let raw_name = info.bytes("name").ok_or(InfoError::MissingName)?;
        let found = info.int("piece length");
        let piece_length = found
            .and_then(|length| u64::try_from(length).ok())
            .and_then(|length| PieceLength::new(length).ok())
            .ok_or(InfoError::PieceLength { found })?;
        let tree = tree::files(tree).map_err(InfoError::FileTree)?;
        let layout = Layout::new(
            piece_length,
            tree.iter().map(|file| (file.length, file.root)),
        )
        .map_err(InfoError::Layout)?;

        let v1 = match V1::keys(info) {
            (false, false) => None,
            (true, true) => {
                let v1 = V1::parse(info).map_err(InfoError::V1)?;
                v1.agrees(raw_name, &tree, &layout)
                    .map_err(InfoError::Inconsistent)?;
                let pieces = v1
                    .pieces(info, piece_length.bytes().into())
                    .map_err(InfoError::V1)?;
                Some((v1, pieces))
            }
            _ => return Err(InfoError::Inconsistent(Inconsistency::Half)),
        };
        // Without a v1 half, a lone file at the top of the tree is a single file.
        let single_file = v1.as_ref().map_or_else(
            || matches!(tree.as_slice(), [file] if file.path.len() == 1),
            |(v1, _)| v1.is_single_file(),
        );

        let hashes = InfoHashes {
            v2: InfoHashV2::of_info(raw),
            v1: v1.is_some().then(|| InfoHashV1::of_info(raw)),
        };
        Ok(Self {
            hashes,
            name: names::safe_name(raw_name).unwrap_or_else(|| hashes.v2.to_string()),
            layout: Arc::new(layout),
            files: files(&tree)?,
            v1: v1.map(|(v1, pieces)| HybridPart {
                pieces,
                length: v1.length,
            }),
            private: info.int("private").is_some_and(|private| private != 0),
            snapshot: info.bytes("x-snapshot").map(<[u8]>::to_vec),
            single_file,
            raw: raw.to_vec(),
        })
    }

    /// Returns the original bytes, of which the info-hashes are computed.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// Returns the info-hashes.
    pub const fn hashes(&self) -> InfoHashes {
        self.hashes
    }

    /// Returns the name of the torrent, safe to create as a file or directory. It is the v2
    /// info-hash if no character of the name is usable.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Bytes in a full piece.
    pub fn piece_length(&self) -> PieceLength {
        self.layout.piece_length()
    }

    /// The piece space.
    pub const fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// The files, in the order and number of [`Layout::files`].
    pub fn files(&self) -> &[File] {
        &self.files
    }

    /// A file. `index` must come from [`Self::layout`].
    pub fn file(&self, index: FileIndex) -> &File {
        &self.files[index.as_usize()]
    }

    /// Returns whether the torrent is one file without a directory of its own.
    pub const fn is_single_file(&self) -> bool {
        self.single_file
    }

    /// The SHA-1 of each piece; `None` when the torrent is no hybrid.
    pub fn v1_pieces(&self) -> Option<&[PieceSha1]> {
        self.v1.as_ref().map(|v1| v1.pieces.as_slice())
    }

    /// How many bytes the SHA-1 of a piece covers, the zero bytes of pad files counted: a full
    /// piece, or less for the last. `None` when the torrent is no hybrid.
    pub fn v1_piece_size(&self, piece: PieceIndex) -> Option<u32> {
        let full = self.piece_length().bytes();
        let start = u64::from(piece.get()) * u64::from(full);
        let left = self.v1.as_ref()?.length.saturating_sub(start);
        Some(left.min(full.into()) as u32)
    }

    /// Whether peers may come from trackers only (BEP 27).
    pub const fn is_private(&self) -> bool {
        self.private
    }

    /// The byte string under `x-snapshot`, in which a publisher describes the content.
    pub fn snapshot(&self) -> Option<&[u8]> {
        self.snapshot.as_deref()
    }

    /// The wrong name by which aria2 knows a hybrid: see
    /// [`alias_info_hash_without_empty_keys`](super::alias_info_hash_without_empty_keys).
    /// `None` when the torrent is no hybrid.
    pub fn aria2_alias(&self) -> Option<InfoHashV1> {
        self.v1
            .as_ref()
            .and_then(|_| alias::alias_info_hash_without_empty_keys(&self.raw))
    }
}

impl std::fmt::Debug for Info {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Info")
            .field("name", &self.name)
            .field("hashes", &self.hashes)
            .field("files", &self.files.len())
            .field("piece_length", &self.piece_length())
            .finish_non_exhaustive()
    }
}

/// Distinguishes a well-formed v1-only info dictionary from a malformed one.
fn v1_only(raw: &[u8], info: &Dict<'_>) -> Result<Info, InfoError> {
    let name = info.bytes("name").ok_or(InfoError::MissingName)?;
    let found = info.int("piece length");
    let piece_length = found
        .and_then(|length| u64::try_from(length).ok())
        .filter(|length| (1..=MAX_V1_PIECE_LEN).contains(length))
        .ok_or(InfoError::PieceLength { found })?;
    let v1 = V1::parse(info).map_err(InfoError::V1)?;
    v1.pieces(info, piece_length).map_err(InfoError::V1)?;
    v1.safe_paths().map_err(InfoError::V1)?;
    let hash = InfoHashV1::of_info(raw);
    Err(InfoError::V1Only {
        name: names::safe_name(name).unwrap_or_else(|| hash.to_string()),
        hash,
    })
}

fn files(tree: &[TreeFile<'_>]) -> Result<Vec<File>, InfoError> {
    let paths = names::safe_paths(tree.iter().map(|file| file.path.iter().copied()))
        .map_err(InfoError::Paths)?;
    Ok(tree
        .iter()
        .zip(paths)
        .map(|(file, path)| File {
            path,
            length: file.length,
            root: file.root,
            executable: file.executable,
        })
        .collect())
}
