//! Records of one value per file, as JSON.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::FileError;
use crate::fs;

/// The longest record that is read, in bytes. The longest written ones have some hundred KiB.
const MOST: u64 = 64 << 20;

/// A record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JsonFileError {
    /// An operation on the file failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file is not the JSON that its reader expects; an empty or cut file is among these.
    #[error("cannot understand {}", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The value has no JSON form.
    #[error("cannot write {} as JSON", path.display())]
    Encode {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

/// Reads a record; `None` when there is no file.
///
/// # Errors
///
/// [`JsonFileError::File`] and [`JsonFileError::Parse`].
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, JsonFileError> {
    let Some(text) = fs::read(path, MOST)? else {
        return Ok(None);
    };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|source| JsonFileError::Parse {
            path: path.to_owned(),
            source,
        })
}

/// Reads a record whose loss costs only repeated work: a missing, unreadable or damaged file counts as the default,
/// which is `None` for an `Option`.
pub fn read_or_default<T: DeserializeOwned + Default>(path: &Path) -> T {
    read(path).ok().flatten().unwrap_or_default()
}

/// Replaces a record, atomically and durably, as [`fs::write_atomically`] does.
///
/// # Errors
///
/// [`JsonFileError::Encode`] and [`JsonFileError::File`].
pub fn write<T: Serialize + ?Sized>(path: &Path, value: &T) -> Result<(), JsonFileError> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|source| JsonFileError::Encode {
        path: path.to_owned(),
        source,
    })?;
    text.push(b'\n');
    Ok(fs::write_atomically(path, &text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("numbers.json");
        assert_eq!(read::<Vec<u32>>(&path).unwrap(), None);
        assert!(read_or_default::<Vec<u32>>(&path).is_empty());
        write(&path, &[1, 2]).unwrap();
        assert_eq!(read::<Vec<u32>>(&path).unwrap(), Some(vec![1, 2]));
        assert_eq!(read_or_default::<Option<Vec<u32>>>(&path), Some(vec![1, 2]));
    }

    #[test]
    fn a_damaged_record_is_an_error_or_the_default() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("numbers.json");
        for text in ["", "[1,", "{}"] {
            std::fs::write(&path, text).unwrap();
            let error = read::<Vec<u32>>(&path).unwrap_err();
            assert!(
                matches!(error, JsonFileError::Parse { .. }),
                "{text}: {error}"
            );
            assert_eq!(read_or_default::<Option<Vec<u32>>>(&path), None);
        }
    }

    #[test]
    fn a_failed_write_names_the_file_once() {
        let error = write(Path::new("/nonexistent/a.json"), &1).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("cannot create /nonexistent/a.")
        );
        let source = std::error::Error::source(&error).unwrap();
        assert!(
            source.downcast_ref::<std::io::Error>().is_some(),
            "{source}"
        );
    }
}
