//! Creates the directory of a new generation.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use bittorrent_protocol::FileIndex;
use bittorrent_protocol::metainfo::Metainfo;

use super::TorrentStore;
use crate::disk::files::open_content;
use crate::disk::io::{Io, IoFile, OpenMode};
use crate::disk::paths::Paths;
use crate::disk::whole_file::replace;
use crate::error::{Operation, StoreError};

/// Called with each new, empty content file and its path.
pub(crate) type Prepare<'a> =
    &'a mut dyn FnMut(FileIndex, &Path, &dyn IoFile) -> Result<(), StoreError>;

/// Creates the directory of a torrent, durably, with its entry in the directory above. `prepare` may
/// fill each non-empty content file, which then gets its full length.
pub(crate) fn create_with(
    dir: &Path,
    metainfo: Metainfo,
    io: Arc<dyn Io>,
    prepare: Prepare<'_>,
) -> Result<TorrentStore, StoreError> {
    let paths = Paths::new(dir);
    match io.open(&paths.torrent(), OpenMode::Read) {
        Ok(_) => {
            return Err(StoreError::Exists {
                path: dir.to_owned(),
            });
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(StoreError::io(Operation::Open, &paths.torrent())(error)),
    }
    let info = metainfo.info().clone();
    for made in [paths.root().to_owned(), paths.content(), paths.leaves_dir()] {
        io.create_dir_all(&made)
            .map_err(StoreError::io(Operation::CreateDirectory, &made))?;
    }
    let mut directories = BTreeSet::from([paths.root().to_owned(), paths.content()]);
    if paths.root().parent().is_some() {
        directories.insert(file_kit::fs::parent(paths.root()).to_owned());
    }
    for (number, file) in (0..).zip(info.files()) {
        let Some(index) = info.layout().file_index(number) else {
            continue;
        };
        let path = paths.file(&info, index);
        // Every directory between the content directory and the file.
        for above in path
            .ancestors()
            .skip(1)
            .take_while(|above| above.starts_with(paths.content()))
        {
            if directories.insert(above.to_owned()) {
                io.create_dir_all(above)
                    .map_err(StoreError::io(Operation::CreateDirectory, above))?;
            }
        }
        let content = open_content(&*io, &path, OpenMode::Create)
            .map_err(StoreError::io(Operation::Create, &path))?;
        if file.length() > 0 {
            prepare(index, &path, &*content)?;
        }
        content
            .set_len(file.length())
            .map_err(StoreError::io(Operation::SetLength, &path))?;
        content
            .sync_data()
            .map_err(StoreError::io(Operation::Sync, &path))?;
    }
    for directory in &directories {
        io.sync_dir(directory)
            .map_err(StoreError::io(Operation::Sync, directory))?;
    }
    replace(&*io, &paths, &paths.torrent(), &metainfo.encode())?;
    TorrentStore::start(paths, io, metainfo)
}
