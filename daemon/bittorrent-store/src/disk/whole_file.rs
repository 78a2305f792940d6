//! Small files that are read and replaced as a whole.

use std::io;
use std::path::{Path, PathBuf};

use super::io::{Io, OpenMode, read_full};
use super::paths::Paths;
use crate::error::{Operation, StoreError};

/// Reads a whole file, but at most `most` bytes, so that a damaged file cannot take all memory.
/// Returns `None` if there is none.
pub(crate) fn read_whole(
    io: &dyn Io,
    path: &Path,
    most: u64,
) -> Result<Option<Vec<u8>>, StoreError> {
    let file = match io.open(path, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io(Operation::Open, path)(error)),
    };
    let length = file
        .identity()
        .map_err(StoreError::io(Operation::Inspect, path))?
        .length;
    let mut bytes = vec![0; length.min(most) as usize];
    let read = read_full(&*file, &mut bytes, 0).map_err(StoreError::io(Operation::Read, path))?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// Replaces a file of the generation, durably. After a crash it has the old or the new bytes.
pub(crate) fn replace(
    io: &dyn Io,
    paths: &Paths,
    path: &Path,
    bytes: &[u8],
) -> Result<(), StoreError> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    let file = io
        .open(&fresh, OpenMode::Replace)
        .map_err(StoreError::io(Operation::Create, &fresh))?;
    file.write_all_at(&mut [io::IoSlice::new(bytes)], 0)
        .map_err(StoreError::io(Operation::Write, &fresh))?;
    file.sync_data()
        .map_err(StoreError::io(Operation::Sync, &fresh))?;
    io.rename(&fresh, path)
        .map_err(StoreError::io(Operation::Rename, &fresh))?;
    io.sync_dir(paths.root())
        .map_err(StoreError::io(Operation::Sync, paths.root()))
}
