//! Making a new generation's directory.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bittorrent_protocol::FileIndex;
use bittorrent_protocol::metainfo::Metainfo;

use super::{Claims, TorrentStore};
use crate::error::{StoreError, is_out_of_space};
use crate::files::open_content;
use crate::io::{Io, IoFile, OpenMode};
use crate::paths::Paths;
use crate::progress::replace;
use crate::reuse::ReuseSources;

/// What of a new generation began as a clone of held files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Clones {
    /// How many files.
    pub files: u32,
    /// Bytes that they share with the old ones, at most: what is overwritten is no longer shared.
    pub bytes: u64,
    /// How many files have a counterpart that could not be cloned: the file system cannot share
    /// content, or not with where the counterpart lies.
    pub refused: u32,
}

impl TorrentStore {
    /// Makes the directory of a torrent of which nothing is there yet. Content files have their full
    /// length and take no space. All of it is durable, also its entry in the directory above.
    ///
    /// # Errors
    ///
    /// [`StoreError::Exists`] when the directory holds a generation. When something cannot be made; what
    /// was made stays, and a second attempt continues.
    pub fn create(dir: &Path, metainfo: &Metainfo, io: Arc<dyn Io>) -> Result<Self, StoreError> {
        let none = ReuseSources::new(Vec::new());
        Self::create_from(dir, metainfo, io, &none).map(|(store, _)| store)
    }

    /// [`Self::create`], but where the file system can, content files begin as clones (reflinks) of the
    /// held files with the same content or the same name: they take no space, and what is the same
    /// stands in its place already. Nothing of it is verified before [`Self::adopt`] has seen it.
    /// Elsewhere the files are empty, as with [`Self::create`]. Piece layers of files with the same
    /// content are taken over.
    ///
    /// # Errors
    ///
    /// As [`Self::create`].
    pub fn create_from(
        dir: &Path,
        metainfo: &Metainfo,
        io: Arc<dyn Io>,
        sources: &ReuseSources,
    ) -> Result<(Self, Clones), StoreError> {
        let paths = Paths::new(dir);
        match io.open(&paths.torrent(), OpenMode::Read) {
            Ok(_) => {
                return Err(StoreError::Exists {
                    path: dir.to_owned(),
                });
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(StoreError::io("open", &paths.torrent())(error)),
        }
        let mut metainfo = metainfo.clone();
        let info = metainfo.info().clone();
        let missing: Vec<FileIndex> = metainfo.missing_layers().collect();
        for file in missing {
            let root = info.file(file).root();
            if let Some(layer) = root.and_then(|root| sources.layer(&root)) {
                // One that was made for another piece length does not fit, and is fetched.
                let _ = metainfo.set_layer(file, layer);
            }
        }
        for made in [paths.root().to_owned(), paths.content(), paths.leaves_dir()] {
            io.create_dir_all(&made)
                .map_err(StoreError::io("make directory", &made))?;
        }
        let mut directories = BTreeSet::from([paths.root().to_owned(), paths.content()]);
        if let Some(above) = paths.root().parent() {
            let here = above.as_os_str().is_empty();
            directories.insert(if here { Path::new(".") } else { above }.to_owned());
        }
        let mut clones = Clones::default();
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
                        .map_err(StoreError::io("make directory", above))?;
                }
            }
            let content = open_content(&*io, &path, OpenMode::Create)
                .map_err(StoreError::io("create", &path))?;
            if file.length() > 0 {
                let like = sources.counterparts(&info, index);
                clone(&*io, &paths, &*content, &like, sources, &mut clones)
                    .map_err(StoreError::io("clone", &path))?;
            }
            content
                .set_len(file.length())
                .map_err(StoreError::io("extend", &path))?;
            content.sync_data().map_err(StoreError::io("sync", &path))?;
        }
        if clones.files == 0 && clones.refused > 0 {
            // Left behind it only makes the need for room look greater.
            let _ = io.remove_file(&paths.cloned());
        }
        for directory in &directories {
            io.sync_dir(directory)
                .map_err(StoreError::io("sync", directory))?;
        }
        replace(&*io, &paths, &paths.torrent(), &metainfo.encode())?;
        let claims = Claims::none(info.layout());
        let store = Self::assemble(paths, io, metainfo, claims, false)?;
        store.cloned.store(clones.files > 0, Ordering::Relaxed);
        store.settle(1)?;
        Ok((store, clones))
    }
}

/// Makes a new file a clone of the first of its counterparts that lets it be one. It stays empty where
/// none does.
fn clone(
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
        let Ok(open) = source.contents.get(*file) else {
            continue;
        };
        if clones.files == 0 {
            // What takes no space now may take it later: to be known after a restart, too.
            io.open(&paths.cloned(), OpenMode::Create)?;
        }
        match content.reflink_from(&*open) {
            Ok(()) => {
                clones.files += 1;
                clones.bytes += source.layout().file(*file).length();
                return Ok(());
            }
            Err(error) if is_out_of_space(&error) => return Err(error),
            // Whatever else is wrong with it: without a clone it goes, too.
            Err(_) => {}
        }
    }
    clones.refused += u32::from(!like.is_empty());
    Ok(())
}
