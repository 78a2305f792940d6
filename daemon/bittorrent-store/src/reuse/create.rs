//! Creates a generation whose files start as clones of older ones.

use std::path::Path;
use std::sync::Arc;

use bittorrent_protocol::FileIndex;
use bittorrent_protocol::metainfo::Metainfo;

use super::ReuseSources;
use crate::disk::io::{Io, IoFile, OpenMode};
use crate::disk::paths::Paths;
use crate::error::{Operation, StoreError, is_out_of_space};
use crate::store::{TorrentStore, create_with};

/// Which files of a new generation started as clones of older files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Clones {
    /// The number of cloned files.
    pub files: u32,
    /// The bytes that they share with the older files at first.
    pub bytes: u64,
    /// The number of files with a counterpart that could not be cloned: the file system cannot share
    /// content, or the counterpart is on another one.
    pub refused: u32,
}

/// Does the work of [`ReuseSources::create`].
pub(super) fn create(
    sources: &ReuseSources,
    dir: &Path,
    metainfo: &Metainfo,
    io: Arc<dyn Io>,
) -> Result<(TorrentStore, Clones), StoreError> {
    let paths = Paths::new(dir);
    let mut metainfo = metainfo.clone();
    let info = metainfo.info().clone();
    let missing: Vec<FileIndex> = metainfo.missing_layers().collect();
    for file in missing {
        let root = info.file(file).root();
        if let Some(layer) = root.and_then(|root| sources.layer(&root)) {
            // A layer for another piece length does not fit, and is fetched.
            let _ = metainfo.set_layer(file, layer);
        }
    }
    let mut clones = Clones::default();
    let disk = io.clone();
    let mut prepare = |file, path: &Path, content: &dyn IoFile| {
        let like = sources.counterparts(&info, file);
        clone_counterpart(&*disk, &paths, content, &like, sources, &mut clones)
            .map_err(StoreError::io(Operation::Clone, path))
    };
    let store = create_with(dir, metainfo, io, &mut prepare)?;
    if clones.files > 0 {
        store.set_cloned(true);
    } else if clones.refused > 0 {
        // A leftover mark only makes the needed space look greater.
        let _ = disk.remove_file(&paths.cloned());
    }
    Ok((store, clones))
}

/// Makes a new file a clone of the first counterpart that can be cloned. It stays empty if none can.
fn clone_counterpart(
    io: &dyn Io,
    paths: &Paths,
    content: &dyn IoFile,
    like: &[(usize, FileIndex)],
    sources: &ReuseSources,
    clones: &mut Clones,
) -> std::io::Result<()> {
    for (generation, file) in like {
        let Some(source) = sources.generation(*generation) else {
            continue;
        };
        let Ok(open) = source.files().contents().get(*file) else {
            continue;
        };
        if clones.files == 0 {
            // Cloned content may take space later, which has to be known after a restart too.
            io.open(&paths.cloned(), OpenMode::Create)?;
        }
        match content.reflink_from(&*open) {
            Ok(()) => {
                clones.files += 1;
                clones.bytes += source.layout().file(*file).length();
                return Ok(());
            }
            Err(error) if is_out_of_space(&error) => return Err(error),
            // For any other error: a generation needs no clone.
            Err(_) => {}
        }
    }
    clones.refused += u32::from(!like.is_empty());
    Ok(())
}
