//! Creates generations and torrents of local content that is in no torrent yet.

mod folder;
mod parallel;
mod pipeline;
mod v1;

use std::collections::BTreeSet;
use std::io::{IoSlice, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bittorrent_protocol::metainfo::{BuildError, HashedContent, Metainfo, MetainfoBuilder};
use bittorrent_protocol::{MerkleHash, PieceLength, merkle};

use crate::disk::io::{Io, OpenMode};
use crate::disk::paths::Paths;
use crate::disk::whole_file::replace;
use crate::error::{Operation, StoreError};
use crate::store::TorrentStore;

use folder::LeafSink;
use parallel::hash_file;
pub use pipeline::hash_stream;
pub use v1::V1Pieces;
/// The shape of a torrent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One file, which has the torrent's name.
    SingleFile,
    /// A directory of the torrent's name with files in it.
    Directory {
        /// The number of files, empty ones included.
        files: usize,
    },
}

/// How content is cut and hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// The piece length.
    pub piece_length: PieceLength,
    /// Whether v1 clients can use the torrent too.
    pub hybrid: bool,
}

/// Called with the bytes of the current file hashed so far; returns whether to continue.
pub type ProgressCallback<'a> = &'a mut dyn FnMut(u64) -> bool;

/// A generation that is being created. Files are written below its directory and hashed in the same
/// pass.
///
/// A finished directory may be renamed. Dropping an unfinished draft leaves its directory, which
/// the caller removes.
#[derive(Debug)]
pub struct Draft {
    paths: Paths,
    io: Arc<dyn Io>,
    name: String,
    shape: Shape,
    cut: Cut,
    files: Vec<DraftFile>,
    /// The paths of `files`, in lower case.
    added: BTreeSet<Vec<String>>,
}

#[derive(Debug)]
struct DraftFile {
    path: Vec<String>,
    content: HashedContent,
    leaves: PathBuf,
}

impl Draft {
    /// Starts a generation in a directory, and creates it if missing.
    ///
    /// # Errors
    ///
    /// When the directory cannot be created, or the name is no valid file name.
    pub fn begin(
        dir: &Path,
        name: &str,
        shape: Shape,
        cut: Cut,
        io: Arc<dyn Io>,
    ) -> Result<Self, StoreError> {
        let paths = Paths::new(dir);
        check_names(name, &[])?;
        for made in [paths.root().to_owned(), paths.content(), paths.leaves_dir()] {
            io.create_dir_all(&made)
                .map_err(StoreError::io(Operation::CreateDirectory, &made))?;
        }
        Ok(Self {
            paths,
            io,
            name: name.to_owned(),
            shape,
            cut,
            files: Vec::new(),
            added: BTreeSet::new(),
        })
    }

    /// Returns the path of a file of the draft. `path` is relative to the torrent's directory, and
    /// ignored for a single file.
    pub fn content_path(&self, path: &[String]) -> PathBuf {
        let mut location = self.paths.content();
        match (self.shape, path) {
            (Shape::SingleFile, _) => location.push(&self.name),
            // A v2 torrent of one file without a directory is a single-file torrent.
            (Shape::Directory { files: 1 }, [name]) if !self.cut.hybrid => location.push(name),
            (Shape::Directory { .. }, path) => {
                location.push(&self.name);
                location.extend(path);
            }
        }
        location
    }

    /// Reads a source to its end, writes it to its file and hashes it in the same pass, with
    /// bounded memory. Returns its length in bytes.
    ///
    /// # Errors
    ///
    /// When the source or the disk fails, when a name is invalid, and [`StoreError::Cancelled`].
    pub fn add_file(
        &mut self,
        path: &[String],
        source: &mut (dyn Read + Send),
        progress: ProgressCallback<'_>,
    ) -> Result<u64, StoreError> {
        let path = self.free_path(path)?;
        let location = self.content_path(path);
        for above in location
            .ancestors()
            .skip(1)
            .take_while(|above| above.starts_with(self.paths.content()))
        {
            self.io
                .create_dir_all(above)
                .map_err(StoreError::io(Operation::CreateDirectory, above))?;
        }
        let file = self
            .io
            .open(&location, OpenMode::Replace)
            .map_err(StoreError::io(Operation::Create, &location))?;
        let (cut, v1) = (self.cut, self.v1());
        let hashed = self.keep_leaves(|keep| {
            let to = Some((&*file, location.as_path()));
            hash_stream(source, to, cut.piece_length, v1, keep, progress)
        })?;
        file.sync_data()
            .map_err(StoreError::io(Operation::Sync, &location))?;
        Ok(self.keep_file(path, hashed))
    }

    /// Hashes a file that the caller wrote to its [path](Self::content_path), on every core.
    /// Returns its length in bytes. The file becomes part of the sealed generation.
    ///
    /// # Errors
    ///
    /// As [`add_file`](Self::add_file).
    pub fn add_present(
        &mut self,
        path: &[String],
        progress: ProgressCallback<'_>,
    ) -> Result<u64, StoreError> {
        let path = self.free_path(path)?;
        let location = self.content_path(path);
        let file = self
            .io
            .open(&location, OpenMode::Read)
            .map_err(StoreError::io(Operation::Open, &location))?;
        let (cut, v1) = (self.cut, self.v1());
        let hashed = self.keep_leaves(|keep| {
            hash_file(&*file, &location, cut.piece_length, v1, keep, progress)
        })?;
        file.sync_data()
            .map_err(StoreError::io(Operation::Sync, &location))?;
        Ok(self.keep_file(path, hashed))
    }

    /// Returns the path under which a file is added, if it can be.
    fn free_path<'p>(&self, path: &'p [String]) -> Result<&'p [String], StoreError> {
        let path: &[String] = match self.shape {
            Shape::SingleFile => &[],
            Shape::Directory { .. } => path,
        };
        check_names(&self.name, path)?;
        // Clients rename files whose names differ by case only.
        let taken: Vec<_> = path.iter().map(|name| name.to_lowercase()).collect();
        let needs_path = self.shape != Shape::SingleFile;
        if needs_path && path.is_empty() || self.added.contains(&taken) {
            return Err(StoreError::FileName {
                name: path.join("/"),
            });
        }
        Ok(path)
    }

    /// Hashes the next file and writes its leaf hashes to disk.
    fn keep_leaves(
        &self,
        hash: impl FnOnce(LeafSink<'_>) -> Result<HashedContent, StoreError>,
    ) -> Result<(HashedContent, PathBuf), StoreError> {
        let leaves_path = self
            .paths
            .leaves_dir()
            .join(format!("draft-{}", self.files.len()));
        let leaves = self
            .io
            .open(&leaves_path, OpenMode::Replace)
            .map_err(StoreError::io(Operation::Create, &leaves_path))?;
        let mut end = 0;
        let content = hash(&mut |hashes| {
            let bytes: Vec<u8> = hashes.iter().flat_map(|hash| *hash.as_bytes()).collect();
            let offset = end;
            end += bytes.len() as u64;
            leaves
                .write_all_at(&mut [IoSlice::new(&bytes)], offset)
                .map_err(StoreError::io(Operation::Write, &leaves_path))
        })?;
        Ok((content, leaves_path))
    }

    /// Records a hashed file; returns its length.
    fn keep_file(&mut self, path: &[String], (content, leaves): (HashedContent, PathBuf)) -> u64 {
        let length = content.length;
        let taken = path.iter().map(|name| name.to_lowercase()).collect();
        let path = match self.shape {
            Shape::SingleFile => vec![self.name.clone()],
            Shape::Directory { .. } => path.to_vec(),
        };
        self.files.push(DraftFile {
            path,
            content,
            leaves,
        });
        self.added.insert(taken);
        length
    }

    fn v1(&self) -> V1Pieces {
        V1Pieces::of(self.shape, self.cut)
    }

    /// Makes the torrent of the added files, and seals the generation. `describe` may add fields to
    /// the torrent that are known only now.
    ///
    /// # Errors
    ///
    /// When no torrent can be made of the content, or the disk fails.
    pub fn finish(
        mut self,
        describe: impl FnOnce(MetainfoBuilder) -> MetainfoBuilder,
    ) -> Result<TorrentStore, StoreError> {
        if let Shape::Directory { files } = self.shape
            && files != self.files.len()
        {
            return Err(StoreError::FileCount {
                announced: files,
                added: self.files.len(),
            });
        }
        let builder = describe(builder(&self.name, self.shape, self.cut, &self.files));
        let metainfo = builder
            .build()
            .map_err(|source| StoreError::Build(Box::new(source)))?;
        let info = metainfo.info().clone();
        // The torrent orders files by path.
        self.files.sort_by(|a, b| a.path.cmp(&b.path));
        for (number, file) in (0..).zip(&self.files) {
            let Some(index) = info.layout().file_index(number) else {
                continue;
            };
            let (written, location) =
                (self.content_path(&file.path), self.paths.file(&info, index));
            if written != location {
                // A file and a directory whose names differ by case only.
                return Err(StoreError::FileName {
                    name: file.path.join("/"),
                });
            }
            if info.layout().file(index).blocks() > 1 {
                let location = self.paths.leaves(index);
                self.io
                    .rename(&file.leaves, &location)
                    .map_err(StoreError::io(Operation::Rename, &location))?;
            } else {
                self.io
                    .remove_file(&file.leaves)
                    .map_err(StoreError::io(Operation::Remove, &file.leaves))?;
            }
        }
        replace(
            &*self.io,
            &self.paths,
            &self.paths.torrent(),
            &metainfo.encode(),
        )?;
        TorrentStore::seal_whole(self.paths, self.io, metainfo)
    }
}

fn builder(name: &str, shape: Shape, cut: Cut, files: &[DraftFile]) -> MetainfoBuilder {
    let builder = MetainfoBuilder::new(name, cut.piece_length).hybrid(cut.hybrid);
    files.iter().fold(builder, |builder, file| match shape {
        Shape::SingleFile => builder.single_file(file.content.clone()),
        Shape::Directory { .. } => builder.file(file.path.clone(), file.content.clone()),
    })
}

/// Makes a torrent of a file, or of a directory with everything in it, without copying. The torrent
/// has its name. Skips symbolic links.
///
/// # Errors
///
/// When the content cannot be read or no torrent can be made of it, and [`StoreError::Cancelled`].
pub fn hash_path(
    path: &Path,
    cut: Cut,
    progress: ProgressCallback<'_>,
) -> Result<Metainfo, StoreError> {
    let io = crate::disk::io::RealIo;
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    check_names(name, &[])?;
    let (shape, paths) = list(path)?;
    let mut files = Vec::new();
    for relative in paths {
        let location = relative
            .iter()
            .fold(path.to_owned(), |location, component| {
                location.join(component)
            });
        let file = io
            .open(&location, OpenMode::Read)
            .map_err(StoreError::io(Operation::Open, &location))?;
        let v1 = V1Pieces::of(shape, cut);
        let mut ignore = |_: &[MerkleHash]| Ok(());
        let content = hash_file(
            &*file,
            &location,
            cut.piece_length,
            v1,
            &mut ignore,
            progress,
        )?;
        let path = if shape == Shape::SingleFile {
            vec![name.to_owned()]
        } else {
            relative
        };
        files.push(DraftFile {
            path,
            content,
            leaves: PathBuf::new(),
        });
    }
    builder(name, shape, cut, &files)
        .build()
        .map_err(|source| StoreError::Build(Box::new(source)))
}

/// Creates a generation with a copy of a file, or of a directory with everything in it. The torrent
/// has its name. Skips symbolic links.
///
/// # Errors
///
/// As [`Draft::add_file`] and [`Draft::finish`].
pub fn copy_path(
    path: &Path,
    dir: &Path,
    cut: Cut,
    io: Arc<dyn Io>,
    progress: ProgressCallback<'_>,
) -> Result<TorrentStore, StoreError> {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let (shape, paths) = list(path)?;
    let mut draft = Draft::begin(dir, name, shape, cut, io)?;
    for relative in paths {
        let location = relative
            .iter()
            .fold(path.to_owned(), |location, component| {
                location.join(component)
            });
        let mut file =
            std::fs::File::open(&location).map_err(StoreError::io(Operation::Open, &location))?;
        draft.add_file(&relative, &mut file, progress)?;
    }
    draft.finish(|builder| builder)
}

/// Returns the shape of a torrent of a path, and the paths of its files: sorted for a directory,
/// one empty path for a file.
fn list(path: &Path) -> Result<(Shape, Vec<Vec<String>>), StoreError> {
    if !path.is_dir() {
        return Ok((Shape::SingleFile, vec![Vec::new()]));
    }
    let mut found = Vec::new();
    let mut waiting = vec![Vec::new()];
    while let Some(relative) = waiting.pop() {
        let location = relative
            .iter()
            .fold(path.to_owned(), |location, component: &String| {
                location.join(component)
            });
        for entry in
            std::fs::read_dir(&location).map_err(StoreError::io(Operation::List, &location))?
        {
            let entry = entry.map_err(StoreError::io(Operation::List, &location))?;
            let kind = entry
                .file_type()
                .map_err(StoreError::io(Operation::Inspect, &entry.path()))?;
            let name = entry
                .file_name()
                .into_string()
                .map_err(|name| StoreError::FileName {
                    name: name.to_string_lossy().into_owned(),
                })?;
            let below = [&relative[..], &[name]].concat();
            if kind.is_dir() {
                waiting.push(below);
            } else if kind.is_file() {
                found.push(below);
            }
        }
    }
    found.sort();
    Ok((Shape::Directory { files: found.len() }, found))
}

/// Checks names as the torrent does at the end, so that an invalid one is found before hours of
/// hashing.
fn check_names(torrent: &str, path: &[String]) -> Result<(), StoreError> {
    let something = HashedContent {
        length: 1,
        root: Some(merkle::leaf(b"x")),
        ..HashedContent::default()
    };
    let builder = MetainfoBuilder::new(torrent, PieceLength::MIN);
    let builder = match path {
        [] => builder.single_file(something),
        path => builder.file(path.to_vec(), something),
    };
    match builder.build() {
        Ok(_) => Ok(()),
        Err(BuildError::Name { name }) => Err(StoreError::FileName { name }),
        Err(source) => Err(StoreError::Build(Box::new(source))),
    }
}
