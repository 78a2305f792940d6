//! The v1 half of an info dictionary (BEP 3, BEP 47): whether it is well-formed, and in hybrids
//! whether it describes the same content as the file tree (BEP 52, "upgrade path").

use crate::bencode::{Dict, Node, Value};
use crate::hash::PieceSha1;
use crate::layout::Layout;
use crate::metainfo::names::{self, PathError};
use crate::metainfo::tree::{MAX_FILE_LEN, TreeFile, show};

/// The longest piece in bytes that a v1 torrent may have in libtorrent.
pub const MAX_V1_PIECE_LEN: u64 = 32767 * 16384;

/// What is wrong with the v1 half of an info dictionary.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum V1Error {
    /// Neither `length` nor `files`, or both.
    #[error("there must be either a length or a list of files")]
    Shape,
    /// The list of files is no list of dictionaries.
    #[error("entry {index} of the list of files is no dictionary")]
    File {
        /// Its number in the list.
        index: usize,
    },
    /// A length that is missing, negative or too large.
    #[error("the length of {path:?} is missing or not from 0 to {MAX_FILE_LEN}")]
    Length {
        /// The path, as far as it can be shown.
        path: String,
    },
    /// A file that is no pad file has no path.
    #[error("entry {index} of the list of files has no path")]
    MissingPath {
        /// Its number in the list.
        index: usize,
    },
    /// A path, or the target of a symbolic link, is not made of byte strings.
    #[error("the path of entry {index} of the list of files is not made of byte strings")]
    Path {
        /// Its number in the list.
        index: usize,
    },
    /// All files are empty, or there are none.
    #[error("the torrent has no content: every file is empty or there is none")]
    Empty,
    /// There must be one SHA-1 for each piece.
    #[error("{found} bytes of piece hashes, where {expected} are needed")]
    Pieces {
        /// Length of `pieces` in bytes; 0 when it is missing.
        found: usize,
        /// 20 bytes for each piece.
        expected: u64,
    },
    /// The paths cannot be made into files.
    #[error("the list of files cannot be made into paths")]
    Paths(#[source] PathError),
}

/// How the two halves of a hybrid contradict each other. Other clients would take different files
/// for the same torrent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Inconsistency {
    /// Some of the keys of the v1 half are there, others are not.
    #[error("the v1 half has piece hashes without files, or files without piece hashes")]
    Half,
    /// One half has more files with content than the other.
    #[error("the v1 list of files and the file tree have different numbers of files")]
    Files,
    /// A file has another path or name.
    #[error("{v1:?} in the v1 list stands where the file tree has {v2:?}")]
    Path {
        /// The path in the v1 list, as far as it can be shown.
        v1: String,
        /// The path in the file tree, as far as it can be shown.
        v2: String,
    },
    /// A file has another length.
    #[error("{path:?} has {v1} bytes in the v1 list and {v2} in the file tree")]
    Length {
        /// The path, as far as it can be shown.
        path: String,
        /// Length in the v1 list in bytes.
        v1: u64,
        /// Length in the file tree in bytes.
        v2: u64,
    },
    /// A file does not start at the same piece boundary.
    #[error("{path:?} starts at byte {v1} of the v1 list, not at {v2}")]
    Offset {
        /// The path, as far as it can be shown.
        path: String,
        /// Its first byte in the v1 list.
        v1: u64,
        /// The piece boundary where it belongs.
        v2: u64,
    },
    /// What follows the last file does not end where a piece ends.
    #[error("the v1 list ends at byte {v1}; its last piece ends at {v2}")]
    Tail {
        /// Length of the v1 list in bytes.
        v1: u64,
        /// Where the last piece ends.
        v2: u64,
    },
    /// Symbolic links are never made.
    #[error("{path:?} in the v1 list is a symbolic link")]
    Symlink {
        /// The path, as far as it can be shown.
        path: String,
    },
}

/// The well-formed v1 half of an info dictionary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct V1<'a> {
    /// Bytes that the pieces cover, pad files counted.
    pub(super) length: u64,
    /// `None` where the torrent is a single file called like the torrent.
    files: Option<Vec<V1File<'a>>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct V1File<'a> {
    path: Vec<&'a [u8]>,
    length: u64,
    pad: bool,
    symlink: bool,
}

impl<'a> V1<'a> {
    /// Whether an info dictionary has any of the keys that only v1 uses.
    pub(super) fn keys(info: &Dict<'_>) -> (bool, bool) {
        (
            info.get("pieces").is_some(),
            info.get("length").is_some() || info.get("files").is_some(),
        )
    }

    /// Reads the files of an info dictionary.
    pub(super) fn parse(info: &Dict<'a>) -> Result<Self, V1Error> {
        let (length, files) = match (info.get("length"), info.get("files").map(Node::value)) {
            (Some(length), None) => (self::length(Some(length), &[])?, None),
            (None, Some(Value::List(list))) => {
                let files = list
                    .iter()
                    .enumerate()
                    .map(|(index, entry)| file(index, entry))
                    .collect::<Result<Vec<_>, _>>()?;
                let total = files.iter().try_fold(0u64, |sum, file| {
                    sum.checked_add(file.length).ok_or_else(|| V1Error::Length {
                        path: show(&file.path),
                    })
                })?;
                (total, Some(files))
            }
            _ => return Err(V1Error::Shape),
        };
        if length == 0 {
            return Err(V1Error::Empty);
        }
        Ok(Self { length, files })
    }

    /// Reads the SHA-1 of each piece.
    pub(super) fn pieces(
        &self,
        info: &Dict<'_>,
        piece_length: u64,
    ) -> Result<Vec<PieceSha1>, V1Error> {
        let pieces = info.bytes("pieces").unwrap_or_default();
        let expected = self
            .length
            .div_ceil(piece_length)
            .saturating_mul(PieceSha1::LEN as u64);
        if pieces.len() as u64 != expected {
            return Err(V1Error::Pieces {
                found: pieces.len(),
                expected,
            });
        }
        let (pieces, _) = pieces.as_chunks::<{ PieceSha1::LEN }>();
        Ok(pieces.iter().copied().map(PieceSha1::from_bytes).collect())
    }

    /// The paths of a v1-only torrent, made safe; empty for a single file.
    pub(super) fn safe_paths(&self) -> Result<Vec<Vec<String>>, V1Error> {
        let files = self.files.as_deref().unwrap_or_default();
        let raw = files.iter().filter(|file| !file.pad);
        names::safe_paths(raw.map(|file| file.path.iter().copied())).map_err(V1Error::Paths)
    }

    /// Whether the v1 half names a single file instead of a list.
    pub(super) const fn is_single_file(&self) -> bool {
        self.files.is_none()
    }

    /// Checks that this half agrees with the file tree.
    ///
    /// Empty files, attributes and how pad files are called do not matter; padding after the last
    /// file may be there or not.
    pub(super) fn agrees(
        &self,
        name: &[u8],
        tree: &[TreeFile<'_>],
        layout: &Layout,
    ) -> Result<(), Inconsistency> {
        let piece_length = u64::from(layout.piece_length().bytes());
        let own_name = [name];
        let mut offset = 0u64;
        let mut expected = tree
            .iter()
            .zip(layout.files())
            .filter(|(file, _)| file.length > 0);
        let mut last_end = 0;
        let mut compare = |path: &[&[u8]], length: u64, at: u64| {
            let Some((file, span)) = expected.next() else {
                return Err(Inconsistency::Files);
            };
            if file.path != path {
                return Err(Inconsistency::Path {
                    v1: show(path),
                    v2: show(&file.path),
                });
            }
            if file.length != length {
                return Err(Inconsistency::Length {
                    path: show(path),
                    v1: length,
                    v2: file.length,
                });
            }
            let first = span.piece_indices().next().map_or(0, |piece| piece.get());
            let start = u64::from(first) * piece_length;
            if at != start {
                return Err(Inconsistency::Offset {
                    path: show(path),
                    v1: at,
                    v2: start,
                });
            }
            last_end = start + length;
            Ok(())
        };
        match &self.files {
            None => {
                // A single file has no directory: an empty one beside it would have none either.
                if tree.len() != 1 {
                    return Err(Inconsistency::Files);
                }
                compare(&own_name, self.length, 0)?;
            }
            Some(files) => {
                for file in files {
                    if file.symlink {
                        return Err(Inconsistency::Symlink {
                            path: show(&file.path),
                        });
                    }
                    if file.length > 0 && !file.pad {
                        compare(&file.path, file.length, offset)?;
                    }
                    // The sum of all lengths fits, as was checked when it was made.
                    offset += file.length;
                }
            }
        }
        if expected.next().is_some() {
            return Err(Inconsistency::Files);
        }
        let whole = u64::from(layout.piece_count()) * piece_length;
        if self.length != last_end && self.length != whole {
            return Err(Inconsistency::Tail {
                v1: self.length,
                v2: whole,
            });
        }
        Ok(())
    }
}

fn file<'a>(index: usize, entry: &Node<'a>) -> Result<V1File<'a>, V1Error> {
    let entry = entry.as_dict().ok_or(V1Error::File { index })?;
    let attributes = entry.bytes("attr").unwrap_or_default();
    let pad = attributes.contains(&b'p');
    let symlink = attributes.contains(&b'l');
    let strings = |key| -> Result<Vec<&'a [u8]>, V1Error> {
        let Some(list) = entry.get(key) else {
            return Ok(Vec::new());
        };
        list.as_list()
            .and_then(|list| list.iter().map(Node::as_bytes).collect())
            .ok_or(V1Error::Path { index })
    };
    let path = strings("path")?;
    if path.is_empty() && !pad {
        return Err(V1Error::MissingPath { index });
    }
    if symlink {
        strings("symlink path")?;
    }
    let length = match entry.get("length") {
        // A link has no length of its own (BEP 47).
        None if symlink => 0,
        found => length(found, &path)?,
    };
    Ok(V1File {
        path,
        length,
        pad,
        symlink,
    })
}

fn length(found: Option<&Node<'_>>, path: &[&[u8]]) -> Result<u64, V1Error> {
    found
        .and_then(Node::as_int)
        .and_then(|length| u64::try_from(length).ok())
        .filter(|length| *length <= MAX_FILE_LEN)
        .ok_or_else(|| V1Error::Length { path: show(path) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bencode::{self, Limits};

    /// libtorrent's names for the files of v1 torrents, which are full of bad names. v2 torrents go
    /// through the same rules, but few of them are in the catalogue.
    #[test]
    fn paths_are_those_of_libtorrent() {
        let data = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data");
        let catalogue = std::fs::read_to_string(format!("{data}/catalogue.json")).unwrap();
        let catalogue: serde_json::Value = serde_json::from_str(&catalogue).unwrap();
        let mut compared = 0;
        for row in catalogue.as_array().unwrap() {
            if row["version"] != "v1" || row["expect"] != "ok" {
                continue;
            }
            let name = row["file"].as_str().unwrap();
            let bytes = std::fs::read(format!("{data}/torrents/{name}")).unwrap();
            let decoded = bencode::decode(&bytes, &Limits::TORRENT).unwrap();
            let torrent = decoded.root.as_dict().unwrap();
            let info = torrent.get("info").unwrap().as_dict().unwrap();
            let v1 = V1::parse(info).unwrap();
            let directory = row["parsed_by_2_0_8"]["name"].as_str().unwrap();
            let found: Vec<String> = match v1.safe_paths().unwrap() {
                paths if paths.is_empty() => vec![directory.to_owned()],
                paths => paths
                    .iter()
                    .map(|path| format!("{directory}/{}", path.join("/")))
                    .collect(),
            };
            let listed = row["parsed_by_2_0_8"]["first_files"].as_array().unwrap();
            let expected: Vec<&str> = row["paths_2_0_15"]
                .as_array()
                .unwrap()
                .iter()
                .zip(listed)
                .filter(|(_, listed)| listed["flags"].as_u64().unwrap() & 1 == 0)
                .map(|(path, _)| path.as_str().unwrap())
                .collect();
            assert_eq!(found[..expected.len()], expected, "{name}");
            compared += expected.len();
        }
        assert!(compared > 40, "{compared}");
    }
}
