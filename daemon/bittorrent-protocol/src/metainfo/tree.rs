//! The file tree of a v2 info dictionary (BEP 52, "file tree").

use crate::bencode::{Dict, Node};
use crate::hash::MerkleHash;
use crate::metainfo::names::{MAX_PATHS_MEMORY, PathError};

/// The longest file in bytes that other clients can handle: the number of its blocks must fit 30
/// bits.
pub const MAX_FILE_LEN: u64 = ((1 << 30) - 1) * 16384 - 1;

/// What is wrong with a file tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    /// A directory or file is described by something else than a dictionary.
    #[error("{path:?} is no dictionary")]
    NotADictionary {
        /// The path, as far as it can be shown.
        path: String,
    },
    /// A file or directory without a name, or a file that is a directory too.
    #[error("{path:?} has an entry without a name")]
    EmptyName {
        /// The directory, as far as it can be shown.
        path: String,
    },
    /// A length that is missing, negative or too large.
    #[error("the length of {path:?} is missing or not from 0 to {MAX_FILE_LEN}")]
    Length {
        /// The path, as far as it can be shown.
        path: String,
    },
    /// A file with content needs a root of 32 bytes that are not all zero, an empty one has none.
    #[error("{path:?} has no pieces root that fits its length")]
    Root {
        /// The path, as far as it can be shown.
        path: String,
    },
    /// Pad files exist in v1 only.
    #[error("{path:?} is a pad file, which v2 does not have")]
    PadFile {
        /// The path, as far as it can be shown.
        path: String,
    },
    /// Symbolic links are never made.
    #[error("{path:?} is a symbolic link")]
    Symlink {
        /// The path, as far as it can be shown.
        path: String,
    },
    /// The paths are too many and too deep.
    #[error("the file tree cannot be made into paths")]
    Paths(#[source] PathError),
}

/// A file as the tree describes it; its path is as hostile as the torrent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TreeFile<'a> {
    pub(super) path: Vec<&'a [u8]>,
    pub(super) length: u64,
    /// `None` exactly for empty files.
    pub(super) root: Option<MerkleHash>,
    pub(super) executable: bool,
}

/// Lists the files of a tree in its order, depth first.
pub(super) fn files<'a>(tree: &Dict<'a>) -> Result<Vec<TreeFile<'a>>, TreeError> {
    let mut files = Vec::new();
    let mut memory = 0;
    // The directories that are open, and the names that lead to the innermost.
    let mut open = vec![tree.iter()];
    let mut path: Vec<&'a [u8]> = Vec::new();
    while let Some(directory) = open.last_mut() {
        let Some((name, node)) = directory.next() else {
            open.pop();
            path.pop();
            continue;
        };
        if name.is_empty() {
            return Err(TreeError::EmptyName { path: show(&path) });
        }
        path.push(name);
        let entry = dict(node, &path)?;
        match entry.get("") {
            None => open.push(entry.iter()),
            Some(_) if entry.len() > 1 => {
                return Err(TreeError::EmptyName { path: show(&path) });
            }
            Some(leaf) => {
                memory += size_of::<TreeFile<'_>>() + path.len() * size_of::<String>();
                if memory > MAX_PATHS_MEMORY {
                    return Err(TreeError::Paths(PathError::TooMuch));
                }
                files.push(file(dict(leaf, &path)?, &path)?);
                path.pop();
            }
        }
    }
    Ok(files)
}

fn file<'a>(leaf: &Dict<'a>, path: &[&'a [u8]]) -> Result<TreeFile<'a>, TreeError> {
    let attributes = leaf.bytes("attr").unwrap_or_default();
    if attributes.contains(&b'p') {
        return Err(TreeError::PadFile { path: show(path) });
    }
    if attributes.contains(&b'l') || leaf.get("symlink path").is_some() {
        return Err(TreeError::Symlink { path: show(path) });
    }
    let length = leaf
        .int("length")
        .and_then(|length| u64::try_from(length).ok())
        .filter(|length| *length <= MAX_FILE_LEN)
        .ok_or_else(|| TreeError::Length { path: show(path) })?;
    let root = match (leaf.get("pieces root"), length) {
        (None, 0) => None,
        (root, 1..) => Some(
            root.and_then(Node::as_bytes)
                .and_then(MerkleHash::from_slice)
                .filter(|root| *root != MerkleHash::ZERO)
                .ok_or_else(|| TreeError::Root { path: show(path) })?,
        ),
        (Some(_), 0) => return Err(TreeError::Root { path: show(path) }),
    };
    Ok(TreeFile {
        path: path.to_vec(),
        length,
        root,
        executable: attributes.contains(&b'x'),
    })
}

fn dict<'n, 'a>(node: &'n Node<'a>, path: &[&[u8]]) -> Result<&'n Dict<'a>, TreeError> {
    node.as_dict()
        .ok_or_else(|| TreeError::NotADictionary { path: show(path) })
}

/// A path for an error message: readable, and of bounded length.
pub(super) fn show(path: &[&[u8]]) -> String {
    let mut shown = String::new();
    for name in path {
        if !shown.is_empty() {
            shown.push('/');
        }
        let start = name.get(..64).unwrap_or(name);
        shown.push_str(&String::from_utf8_lossy(start));
        if shown.len() > 200 {
            shown.push('…');
            break;
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bencode::{self, Limits};

    /// Few bytes can describe very many and very long paths.
    #[test]
    fn deep_trees_with_many_files_are_refused() {
        let tree = |depth: usize, count: usize| {
            let files: String = (0..count)
                .map(|n| format!("5:{n:05}d0:d6:lengthi0eee"))
                .collect();
            "d1:d".repeat(depth) + "d" + &files + "e" + &"e".repeat(depth)
        };
        let read = |text: &str| {
            let decoded = bencode::decode(text.as_bytes(), &Limits::TORRENT).unwrap();
            files(decoded.root.as_dict().unwrap()).map(|files| files.len())
        };
        assert_eq!(read(&tree(2, 20_000)), Ok(20_000));
        assert_eq!(
            read(&tree(90, 20_000)),
            Err(TreeError::Paths(PathError::TooMuch))
        );
    }
}
