//! Names of files in a torrent, made safe to create on a Unix file system.
//!
//! The rules are libtorrent's (2.0.13 and later), so that the same torrent has the same paths:
//! separators are dropped, control characters and broken UTF-8 become `_`, marks that turn the
//! direction of writing are dropped, long names are cut before their extension, and what would be
//! empty, `.` or `..` becomes `_`. Colon and the reserved names of Windows are ordinary here.

use std::collections::{HashMap, HashSet};

/// The longest name in bytes; file systems allow 255, and room is kept for suffixes.
pub const MAX_NAME_LEN: usize = 240;

/// The longest path in bytes, separators counted; Linux allows 4095 for the whole.
pub const MAX_PATH_LEN: usize = 2048;

/// The most files that may be renamed because their path is taken; more are not an accident.
pub const MAX_RENAMED: usize = 100;

/// The most bytes that all paths of a torrent together may take in memory: deep trees repeat the
/// same directories in many paths.
pub const MAX_PATHS_MEMORY: usize = 32 << 20;

/// Paths of a torrent cannot be made into files.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// A path longer than [`MAX_PATH_LEN`].
    #[error("path of {len} bytes is longer than {MAX_PATH_LEN}")]
    TooLong {
        /// Its length in bytes, separators counted.
        len: usize,
    },
    /// All paths together take more than [`MAX_PATHS_MEMORY`].
    #[error("the paths of all files take more than {MAX_PATHS_MEMORY} bytes")]
    TooMuch,
    /// More than [`MAX_RENAMED`] files whose path is taken.
    #[error("more than {MAX_RENAMED} files have the path of another file")]
    TooManyEqual,
}

/// One component of a path, safe to create: neither empty nor `.` or `..`, without separators,
/// NUL and control characters, and at most [`MAX_NAME_LEN`] bytes.
pub(super) fn safe_component(raw: &[u8]) -> String {
    safe_name(raw).unwrap_or_else(|| "_".to_owned())
}

/// The same, or `None` where nothing is left of a name.
pub(super) fn safe_name(raw: &[u8]) -> Option<String> {
    let mut name = String::with_capacity(raw.len().min(MAX_NAME_LEN));
    for chunk in raw.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '/' | '\\' => {}
                // Marks, embeddings, overrides and isolates: they can make a name read as another.
                '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {}
                character if character.is_control() => name.push('_'),
                character => name.push(character),
            }
        }
        if !chunk.invalid().is_empty() {
            name.push('_');
        }
    }
    if name.len() > MAX_NAME_LEN {
        cut(&mut name);
    }
    (!matches!(name.as_str(), "" | "." | "..")).then_some(name)
}

/// Cuts a name to [`MAX_NAME_LEN`] bytes, keeping an extension of up to 16 bytes.
fn cut(name: &mut String) {
    let extension = name
        .rfind('.')
        .map(|dot| name[dot..].to_owned())
        .filter(|extension| extension.len() <= 16)
        .unwrap_or_default();
    let mut end = MAX_NAME_LEN - extension.len();
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name.truncate(end);
    name.push_str(&extension);
}

/// The same name with `.1`, `.2`, … in front of its extension.
fn numbered(name: &str, number: u32) -> String {
    let dot = name.rfind('.').filter(|dot| *dot > 0);
    let (stem, extension) = name.split_at(dot.unwrap_or(name.len()));
    format!("{stem}.{number}{extension}")
}

/// Turns the raw paths of a torrent's files into safe ones that are all different, also where
/// upper and lower case are one, and none of which is a directory on the way to another.
pub(super) fn safe_paths<'a, P>(
    raw: impl IntoIterator<Item = P>,
) -> Result<Vec<Vec<String>>, PathError>
where
    P: IntoIterator<Item = &'a [u8]>,
{
    let mut memory = 0;
    let mut paths = Vec::new();
    for raw in raw {
        let path: Vec<String> = raw.into_iter().map(safe_component).collect();
        let bytes = path.iter().map(|name| name.len() + 1).sum::<usize>();
        if bytes > MAX_PATH_LEN + 1 {
            return Err(PathError::TooLong { len: bytes - 1 });
        }
        memory += bytes + size_of::<String>() * (path.len() + 1);
        if memory > MAX_PATHS_MEMORY {
            return Err(PathError::TooMuch);
        }
        paths.push(path);
    }
    make_unique(&mut paths)?;
    Ok(paths)
}

/// A directory in the tree of names, numbered as it is first seen; the root is 0.
type Directory = u32;

/// Renames files whose path is taken. Directories come first, so that a file never takes the path
/// of a directory.
fn make_unique(paths: &mut [Vec<String>]) -> Result<(), PathError> {
    let mut directories: HashMap<(Directory, String), Directory> = HashMap::new();
    let mut parents = Vec::with_capacity(paths.len());
    for path in paths.iter() {
        let mut parent = 0;
        for name in path.split_last().map_or(&[][..], |(_, above)| above) {
            // Cannot overflow: each directory takes memory, which is bounded.
            let next = directories.len() as Directory + 1;
            parent = *directories
                .entry((parent, name.to_lowercase()))
                .or_insert(next);
        }
        parents.push(parent);
    }
    let mut files: HashSet<(Directory, String)> = HashSet::new();
    let mut take = |parent: Directory, name: &str| {
        let key = (parent, name.to_lowercase());
        !directories.contains_key(&key) && files.insert(key)
    };
    let mut renamed = 0;
    for (path, parent) in paths.iter_mut().zip(parents) {
        let Some(name) = path.last_mut() else {
            continue;
        };
        if take(parent, name) {
            continue;
        }
        renamed += 1;
        if renamed > MAX_RENAMED {
            return Err(PathError::TooManyEqual);
        }
        for number in 1u32.. {
            let other = numbered(name, number);
            if take(parent, &other) {
                *name = other;
                break;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components() {
        for (raw, safe) in [
            (&b"plain.txt"[..], "plain.txt"),
            (b"", "_"),
            (b".", "_"),
            (b"..", "_"),
            (b"...", "..."),
            (b"/", "_"),
            (b"\\..", "_"),
            (b"./.", "_"),
            (b"/foobar", "foobar"),
            (b"foo/../../bar", "foo....bar"),
            (b"a\0b\nc\x7f", "a_b_c_"),
            (b"\x82est/MB", "_estMB"),
            (b"caf\xc3\xa9", "café"),
            (b"\xf0\x9f\x98", "_"),
            ("abc\u{202e}txt.exe".as_bytes(), "abctxt.exe"),
            ("\u{2066}\u{200f}".as_bytes(), "_"),
            (b"foobar ", "foobar "),
        ] {
            assert_eq!(safe_component(raw), safe, "{raw:?}");
        }
    }

    #[test]
    fn long_names_keep_their_extension_and_whole_characters() {
        let long = "é".repeat(200) + ".tar";
        let safe = safe_component(long.as_bytes());
        assert_eq!(safe.len(), MAX_NAME_LEN);
        assert!(safe.ends_with("é.tar"));
        let dots = ".".repeat(400);
        assert_eq!(safe_component(dots.as_bytes()).len(), MAX_NAME_LEN);
        let odd = "x".to_owned() + &"é".repeat(200);
        assert_eq!(safe_component(odd.as_bytes()).len(), MAX_NAME_LEN - 1);
        assert_eq!(safe_component(&[b'x'; MAX_NAME_LEN]).len(), MAX_NAME_LEN);
    }

    fn unique(paths: &[&str]) -> Vec<String> {
        safe_paths(paths.iter().map(|path| path.split('/').map(str::as_bytes)))
            .unwrap()
            .iter()
            .map(|path| path.join("/"))
            .collect()
    }

    #[test]
    fn paths_become_different() {
        for (paths, expected) in [
            (&["a", "b"][..], &["a", "b"][..]),
            (&["a/x.txt", "A/X.TXT"], &["a/x.txt", "A/X.1.TXT"]),
            (
                &["a.txt", "a.txt", "a.1.txt"],
                &["a.txt", "a.1.txt", "a.1.1.txt"],
            ),
            (&["a", "a", "a"], &["a", "a.1", "a.2"]),
            (&["a", "a/b"], &["a.1", "a/b"]),
            (&["a/b", "A"], &["a/b", "A.1"]),
            (&[".x", ".x"], &[".x", ".x.1"]),
            (&["ÄB", "äb"], &["ÄB", "äb.1"]),
        ] {
            assert_eq!(unique(paths), expected);
        }
    }

    #[test]
    fn hostile_trees_are_refused() {
        let same = vec!["a"; MAX_RENAMED + 1];
        assert_eq!(unique(&same).len(), MAX_RENAMED + 1);
        let more = vec!["a"; MAX_RENAMED + 2];
        let raw = |paths: &[&'static str]| {
            let paths = paths.to_vec();
            safe_paths(
                paths
                    .into_iter()
                    .map(|path| path.split('/').map(str::as_bytes)),
            )
        };
        assert_eq!(raw(&more), Err(PathError::TooManyEqual));

        let deep = |len: usize| {
            let (whole, rest) = (len / 10, len % 10);
            let mut path = vec![&b"123456789"[..]; whole];
            path.push(&b"123456789"[..rest]);
            path
        };
        assert!(safe_paths([deep(MAX_PATH_LEN)]).is_ok());
        assert_eq!(
            safe_paths([deep(MAX_PATH_LEN + 1)]),
            Err(PathError::TooLong {
                len: MAX_PATH_LEN + 1
            })
        );
        let name = [b'x'; 200];
        let path = [&name[..]; 10];
        assert_eq!(
            safe_paths((0..20_000).map(|_| path)),
            Err(PathError::TooMuch)
        );
    }
}
