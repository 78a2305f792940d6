//! Reading, replacing, renaming and removing files so that a crash leaves the old or the new state.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use crate::error::FileError;
use crate::temporary::Temporary;

/// The mode of a file that is no secret; the umask decides who may read and write it.
pub const PUBLIC: u32 = 0o666;

/// Returns the directory that a file is in: `.` for a bare name.
pub fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Reads a whole file; `None` when there is none. Any other failure is an error, because it may hide a file.
///
/// # Errors
///
/// [`FileError::Read`], and [`FileError::TooLong`] for a file of more than `most` bytes.
pub fn read(path: &Path, most: u64) -> Result<Option<Vec<u8>>, FileError> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(FileError::read(path))?,
    };
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(FileError::read(path))?;
    if bytes.len() as u64 > most {
        return Err(FileError::TooLong {
            path: path.to_owned(),
            most,
        });
    }
    Ok(Some(bytes))
}

/// Replaces the content of a file, or creates the file: a reader, and the next start after a power cut, finds all of
/// the old or all of the new content. The new file has the mode [`PUBLIC`].
///
/// Durable when it returns. A failed attempt leaves the old file and frees what the new one took.
///
/// # Errors
///
/// [`FileError`]; only after [`FileError::Sync`] of the directory may the new content be there.
pub fn write_atomically(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let temporary = Temporary::beside(path, PUBLIC)?;
    let mut file = temporary.file();
    file.write_all(content).map_err(|source| FileError::Write {
        path: path.to_owned(),
        source,
    })?;
    file.sync_all().map_err(FileError::sync(temporary.path()))?;
    temporary.put(path)?;
    sync_dir(parent(path))
}

/// Makes new names, renames and removals in a directory durable.
///
/// # Errors
///
/// [`FileError::Sync`].
pub fn sync_dir(dir: &Path) -> Result<(), FileError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(FileError::sync(dir))
}

/// Renames a file or a directory. Not durable before the directories are synced.
///
/// # Errors
///
/// [`FileError::Rename`].
pub fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    fs::rename(from, to).map_err(|source| FileError::Rename {
        from: from.to_owned(),
        to: to.to_owned(),
        source,
    })
}

/// Renames a file or a directory and syncs the directory that gains it, then the one that loses it.
///
/// # Errors
///
/// [`FileError::Rename`] and [`FileError::Sync`].
pub fn rename_durably(from: &Path, to: &Path) -> Result<(), FileError> {
    rename(from, to)?;
    let (loses, gains) = (parent(from), parent(to));
    sync_dir(gains)?;
    if loses == gains {
        return Ok(());
    }
    sync_dir(loses)
}

/// Removes a file or a link; returns `false` when there was none. Not durable before the directory is synced.
///
/// # Errors
///
/// [`FileError::Remove`].
pub fn remove_if_exists(path: &Path) -> Result<bool, FileError> {
    existed(fs::remove_file(path)).map_err(FileError::remove(path))
}

/// Removes a file, a link, or a directory with everything in it; returns `false` when there was none.
///
/// # Errors
///
/// [`FileError::Remove`].
pub fn remove_tree(path: &Path) -> Result<bool, FileError> {
    let is_dir = path.symlink_metadata().is_ok_and(|found| found.is_dir());
    if is_dir {
        existed(fs::remove_dir_all(path)).map_err(FileError::remove(path))
    } else {
        remove_if_exists(path)
    }
}

fn existed(removed: io::Result<()>) -> io::Result<bool> {
    match removed {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// The names in a directory, sorted.
    pub(crate) fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_replaced_file_has_the_new_content_and_no_neighbour() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("record.json");
        for content in [&b"one"[..], b"", b"three"] {
            write_atomically(&path, content).unwrap();
            assert_eq!(read(&path, 5).unwrap().unwrap(), content);
        }
        assert_eq!(names(temp.path()), ["record.json"]);
    }

    #[test]
    fn a_failed_replacement_keeps_the_old_file() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("occupied");
        fs::create_dir(&path).unwrap();
        let error = write_atomically(&path, b"new").unwrap_err();
        assert!(matches!(error, FileError::Rename { .. }), "{error}");
        assert_eq!(names(temp.path()), ["occupied"]);
    }

    #[test]
    fn only_a_missing_file_reads_as_none() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("file");
        assert!(read(&path, 9).unwrap().is_none());
        fs::write(&path, "0123456789").unwrap();
        assert!(matches!(
            read(&path, 9),
            Err(FileError::TooLong { most: 9, .. })
        ));
        assert_eq!(read(&path, 10).unwrap().unwrap().len(), 10);
        assert!(matches!(read(temp.path(), 9), Err(FileError::Read { .. })));
        assert!(matches!(
            read(&path.join("below"), 9),
            Err(FileError::Read { .. })
        ));
    }

    #[test]
    fn what_is_removed_may_be_missing() {
        let temp = tempfile::tempdir().unwrap();
        let at = |name: &str| temp.path().join(name);
        fs::write(at("file"), "x").unwrap();
        fs::create_dir_all(at("dir/below")).unwrap();
        symlink(at("dir"), at("link")).unwrap();
        assert!(remove_if_exists(&at("dir")).is_err());
        assert!(remove_if_exists(&at("file")).unwrap());
        assert!(!remove_if_exists(&at("file")).unwrap());
        // The link is removed, not what it names.
        assert!(remove_tree(&at("link")).unwrap() && at("dir").exists());
        assert!(remove_tree(&at("dir")).unwrap());
        assert!(!remove_tree(&at("dir")).unwrap());
        assert!(names(temp.path()).is_empty());
    }

    #[test]
    fn a_rename_crosses_directories() {
        let temp = tempfile::tempdir().unwrap();
        let (from, to) = (temp.path().join("from"), temp.path().join("dir/to"));
        fs::write(&from, "x").unwrap();
        let error = rename_durably(&from, &to).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("/from to ") && text.ends_with("/dir/to"),
            "{text}"
        );
        fs::create_dir(temp.path().join("dir")).unwrap();
        rename_durably(&from, &to).unwrap();
        assert!(to.exists() && !from.exists());
    }

    #[test]
    fn the_directory_of_a_bare_name_is_the_current_one() {
        assert_eq!(parent(Path::new("key")), Path::new("."));
        assert_eq!(parent(Path::new("dir/key")), Path::new("dir"));
        assert_eq!(parent(Path::new("/key")), Path::new("/"));
    }
}
