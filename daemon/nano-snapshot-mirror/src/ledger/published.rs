//! Compares content with the hashes of its torrent while it is read.
//!
//! The piece hashes are proven by the info-hash (BEP 52, "piece layers"). Content that matches them is what was
//! published, whatever the store's record of progress states.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, bail};
use bittorrent_protocol::metainfo::Metainfo;
use bittorrent_protocol::{
    BLOCK_LEN, FileIndex, FileSpan, InfoHashV2, MerkleHash, PieceIndex, merkle,
};
use bittorrent_store::TorrentStore;
use ledger_archive::ArchiveSource;
use service_kit::sync::lock;
use snapshot_store::SnapshotDir;

/// Bytes per read: a whole number of blocks.
pub(crate) const CHUNK: usize = 64 * BLOCK_LEN as usize;

/// The piece hashes of a snapshot, and the file in it that is the ledger or its archive.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    metainfo: Arc<Metainfo>,
    file: FileIndex,
}

/// An error: the content differs from what was published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Damaged {
    path: PathBuf,
    what: Damage,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Damage {
    /// The bytes from `first` to `last`, which are one piece, differ.
    Bytes { first: u64, last: u64 },
    /// The length of the file differs.
    Length { expected: u64 },
}

impl Published {
    /// Reads the hashes of the snapshot `id` in `dir`.
    pub(crate) fn read(dir: &SnapshotDir, id: InfoHashV2) -> Result<Self> {
        let metainfo = dir.read_metainfo()?;
        let found = metainfo.info().hashes().v2;
        if found != id {
            bail!(
                "{} describes snapshot {found}; remove {} to fetch {id} again",
                dir.metadata_path().display(),
                dir.display()
            );
        }
        Self::of(Arc::new(metainfo))
    }

    /// Creates it from a torrent whose piece hashes are known.
    fn of(metainfo: Arc<Metainfo>) -> Result<Self> {
        let info = metainfo.info();
        let wanted = snapshot_store::ledger_file(info);
        let file = (0..)
            .zip(info.files())
            .find(|(_, file)| Some(file.path()) == wanted)
            .and_then(|(number, _)| info.layout().file_index(number))
            .with_context(|| format!("{} has no ledger", info.name()))?;
        let mut pieces = info.layout().file(file).piece_indices();
        if pieces.any(|piece| metainfo.piece_hash(piece).is_none()) {
            bail!("the piece hashes of {} are missing", info.name());
        }
        Ok(Self { metainfo, file })
    }

    /// Starts a comparison of the file at `path`.
    pub(crate) fn comparison<'a>(&'a self, path: &'a Path) -> Comparison<'a> {
        Comparison {
            metainfo: &self.metainfo,
            expected: self.span().length(),
            path,
            pieces: self.span().piece_indices().collect(),
            length: 0,
            leaves: Vec::new(),
        }
    }

    fn span(&self) -> &FileSpan {
        self.metainfo.info().layout().file(self.file)
    }

    /// Reads all of `file` and compares it; `path` is used in errors. `progress` gets the number of bytes compared so
    /// far and returns whether to continue. Returns `false` when it did not.
    ///
    /// # Errors
    ///
    /// [`Damaged`] at the first difference, and an error if the file cannot be read.
    pub(crate) fn compare(
        &self,
        mut file: &File,
        path: &Path,
        progress: &mut dyn FnMut(u64) -> bool,
    ) -> Result<bool> {
        let mut comparison = self.comparison(path);
        let mut buffer = vec![0; CHUNK];
        let mut done = 0;
        loop {
            let bytes = read_chunk(&mut file, path, &mut buffer)?;
            if bytes.is_empty() {
                comparison.finish()?;
                return Ok(true);
            }
            comparison.add(bytes)?;
            done += bytes.len() as u64;
            if !progress(done) {
                return Ok(false);
            }
        }
    }
}

/// Fills `buffer`, or reads up to the end of the file. Returns an empty slice at the end.
pub(crate) fn read_chunk<'b>(
    file: &mut impl Read,
    path: &Path,
    buffer: &'b mut [u8],
) -> Result<&'b [u8]> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        }
    }
    Ok(buffer.get(..filled).unwrap_or_default())
}

/// A comparison in progress, which reads the file from start to end.
pub(crate) struct Comparison<'a> {
    metainfo: &'a Metainfo,
    /// The published length of the file.
    expected: u64,
    path: &'a Path,
    /// The pieces that are still to be compared.
    pieces: VecDeque<PieceIndex>,
    /// Bytes of the first of these pieces added so far.
    length: usize,
    leaves: Vec<MerkleHash>,
}

impl Comparison<'_> {
    /// Adds the next bytes. Every call except the last before [`Self::finish`] must add whole blocks.
    pub(crate) fn add(&mut self, mut bytes: &[u8]) -> Result<(), Damaged> {
        let layout = self.metainfo.info().layout();
        while !bytes.is_empty() {
            let Some(piece) = self.pieces.front().copied() else {
                return Err(self.wrong_length());
            };
            let size = layout.piece_size(piece) as usize;
            let (some, rest) = bytes.split_at(bytes.len().min(size - self.length));
            merkle::extend_leaves(&mut self.leaves, some);
            self.length += some.len();
            bytes = rest;
            if self.length == size {
                if !is_as_published(self.metainfo, piece, &self.leaves) {
                    return Err(damaged_piece(self.metainfo, piece, self.path));
                }
                self.leaves.clear();
                self.length = 0;
                self.pieces.pop_front();
            }
        }
        Ok(())
    }

    /// Ends the comparison. Fails if bytes are missing.
    pub(crate) fn finish(self) -> Result<(), Damaged> {
        if !self.pieces.is_empty() {
            return Err(self.wrong_length());
        }
        Ok(())
    }

    fn wrong_length(&self) -> Damaged {
        Damaged {
            path: self.path.to_owned(),
            what: Damage::Length {
                expected: self.expected,
            },
        }
    }
}

fn is_as_published(metainfo: &Metainfo, piece: PieceIndex, leaves: &[MerkleHash]) -> bool {
    let found = merkle::piece_hash(leaves, metainfo.info().layout(), piece);
    metainfo.piece_hash(piece) == Some(found)
}

fn damaged_piece(metainfo: &Metainfo, piece: PieceIndex, path: &Path) -> Damaged {
    let layout = metainfo.info().layout();
    let first = layout.offset_in_file(piece);
    Damaged {
        path: path.to_owned(),
        what: Damage::Bytes {
            first,
            last: first + u64::from(layout.piece_size(piece)) - 1,
        },
    }
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match self.what {
            Damage::Bytes { first, last } => write!(
                f,
                "{path} is damaged: bytes {first} to {last} are not as published"
            ),
            Damage::Length { expected } => write!(
                f,
                "{path} is damaged: it does not have the {expected} bytes that were published"
            ),
        }
    }
}

impl Error for Damaged {}

impl Damaged {
    /// Returns the damage in the causes of `error`, if there is any.
    pub(crate) fn of(error: &anyhow::Error) -> Option<&Self> {
        error.chain().find_map(|cause| {
            cause.downcast_ref().or_else(|| {
                let io: &io::Error = cause.downcast_ref()?;
                io.get_ref()?.downcast_ref()
            })
        })
    }
}

/// An archive whose pieces are compared with their hashes before they are used.
pub(crate) struct Compared<S> {
    source: S,
    path: PathBuf,
    hashes: Hashes,
    /// The piece that was read last.
    last: Mutex<Option<(PieceIndex, Vec<u8>)>>,
}

/// The source of the piece hashes.
pub(crate) enum Hashes {
    /// A torrent with all piece hashes.
    Published(Published),
    /// A torrent that is being downloaded. If the hash of a piece is still unknown, each of its blocks was proven
    /// when it was received.
    Arriving(Arc<TorrentStore>),
}

impl Hashes {
    fn metainfo(&self) -> Arc<Metainfo> {
        match self {
            Self::Published(published) => published.metainfo.clone(),
            Self::Arriving(store) => store.metainfo(),
        }
    }

    /// Returns the piece length and the length of the archive.
    fn lengths(&self) -> (u64, u64) {
        let metainfo = self.metainfo();
        let layout = metainfo.info().layout();
        let archive = match self {
            Self::Published(published) => published.span().length(),
            // Only a single-file snapshot is extracted while it is downloaded.
            Self::Arriving(_) => layout.content_length(),
        };
        (u64::from(layout.piece_length().bytes()), archive)
    }

    /// Returns the index of the archive's first piece.
    fn first(&self) -> u64 {
        match self {
            Self::Published(published) => {
                let first = published.span().piece_indices().next();
                first.map_or(0, |piece| piece.get().into())
            }
            Self::Arriving(_) => 0,
        }
    }
}

impl<S: ArchiveSource> Compared<S> {
    /// Wraps the archive `source`; `path` is used in errors.
    pub(crate) fn new(source: S, path: PathBuf, hashes: Hashes) -> Self {
        Self {
            source,
            path,
            hashes,
            last: Mutex::new(None),
        }
    }

    /// Reads a piece from `source` and compares it with its hash.
    fn piece(&self, metainfo: &Metainfo, piece: PieceIndex) -> io::Result<Vec<u8>> {
        let layout = metainfo.info().layout();
        let mut bytes = vec![0; layout.piece_size(piece) as usize];
        self.source
            .read_exact_at(&mut bytes, layout.offset_in_file(piece))?;
        if metainfo.piece_hash(piece).is_some() {
            let mut leaves = Vec::new();
            merkle::extend_leaves(&mut leaves, &bytes);
            if !is_as_published(metainfo, piece, &leaves) {
                return Err(io::Error::other(damaged_piece(metainfo, piece, &self.path)));
            }
        }
        Ok(bytes)
    }
}

impl<S: ArchiveSource> ArchiveSource for Compared<S> {
    /// Counts only whole pieces.
    fn available(&self) -> u64 {
        let (piece_length, length) = self.hashes.lengths();
        let available = self.source.available();
        if available >= length {
            return available;
        }
        available - available % piece_length
    }

    fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        let metainfo = self.hashes.metainfo();
        let layout = metainfo.info().layout();
        let (piece_length, length) = self.hashes.lengths();
        let first = self.hashes.first();
        if offset.saturating_add(buffer.len() as u64) > length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut last = lock(&self.last);
        while !buffer.is_empty() {
            let number = u32::try_from(first + offset / piece_length).ok();
            let piece = number
                .and_then(|number| layout.piece(number))
                .ok_or(io::ErrorKind::UnexpectedEof)?;
            let bytes = match &mut *last {
                Some((held, bytes)) if *held == piece => &*bytes,
                other => &other.insert((piece, self.piece(&metainfo, piece)?)).1,
            };
            let from = (offset % piece_length) as usize;
            let there = bytes.get(from..).unwrap_or_default();
            let length = there.len().min(buffer.len());
            if length == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let (some, rest) = buffer.split_at_mut(length);
            some.copy_from_slice(there.get(..length).unwrap_or_default());
            buffer = rest;
            offset += length as u64;
        }
        Ok(())
    }

    fn allocated(&self) -> io::Result<u64> {
        self.source.allocated()
    }

    /// Discards only whole pieces: comparing a piece needs all of its bytes.
    fn discard_before(&self, offset: u64) -> io::Result<()> {
        let (piece_length, length) = self.hashes.lengths();
        let offset = if offset >= length {
            offset
        } else {
            offset - offset % piece_length
        };
        self.source.discard_before(offset)
    }
}

#[cfg(test)]
mod tests {
    use bittorrent_protocol::PieceLength;
    use bittorrent_protocol::metainfo::{HashedContent, MetainfoBuilder};
    use ledger_archive::FileSource;

    use super::*;

    const BLOCK: usize = BLOCK_LEN as usize;

    fn content(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i * 7 % 251) as u8).collect()
    }

    fn published(content: &[u8], piece_length: PieceLength) -> Published {
        let mut leaves = Vec::new();
        merkle::extend_leaves(&mut leaves, content);
        let per_piece = piece_length.blocks() as usize;
        let (root, layer) = if leaves.len() > per_piece {
            let layer: Vec<_> = leaves
                .chunks(per_piece)
                .map(|leaves| merkle::fold(leaves, 0, piece_length.layer()))
                .collect();
            (merkle::file_root_from_layer(&layer, piece_length), layer)
        } else {
            (merkle::file_root_from_leaves(&leaves), Vec::new())
        };
        let metainfo = MetainfoBuilder::new("data.ldb", piece_length)
            .single_file(HashedContent {
                length: content.len() as u64,
                root: Some(root),
                layer,
                ..HashedContent::default()
            })
            .build()
            .unwrap();
        Published::of(Arc::new(metainfo)).unwrap()
    }

    fn compare(published: &Published, bytes: &[u8]) -> Result<(), String> {
        let temp = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(temp.path(), bytes).unwrap();
        let file = File::open(temp.path()).unwrap();
        match published.compare(&file, Path::new("x"), &mut |_| true) {
            Ok(whole) => {
                assert!(whole);
                Ok(())
            }
            Err(error) => Err(Damaged::of(&error).unwrap().to_string()),
        }
    }

    #[test]
    fn only_what_was_published_passes() {
        for blocks in [1, 4] {
            let piece_length = PieceLength::new(u64::from(blocks * BLOCK_LEN)).unwrap();
            let piece = piece_length.bytes() as usize;
            for length in [
                1,
                BLOCK - 1,
                BLOCK,
                BLOCK + 1,
                piece,
                piece + 1,
                3 * piece - 1,
                3 * piece,
                CHUNK,
                2 * CHUNK + piece + 1,
            ] {
                let right = content(length);
                let published = published(&right, piece_length);
                assert_eq!(compare(&published, &right), Ok(()), "{length}");
                for place in [0, length / 2, length - 1] {
                    let mut wrong = right.clone();
                    wrong[place] ^= 4;
                    let said = compare(&published, &wrong).unwrap_err();
                    assert!(said.contains("are not as published"), "{length}: {said}");
                }
                let mut longer = right.clone();
                longer.push(0);
                for wrong in [&right[..length - 1], &longer] {
                    let said = compare(&published, wrong).unwrap_err();
                    assert!(said.contains("published"), "{length}: {said}");
                }
            }
        }
    }

    #[test]
    fn an_archive_is_read_by_compared_pieces() {
        let piece_length = PieceLength::new(u64::from(2 * BLOCK_LEN)).unwrap();
        let piece = u64::from(piece_length.bytes());
        let right = content(5 * BLOCK + 100);
        let temp = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(temp.path(), &right).unwrap();
        let published = published(&right, piece_length);
        let source = |available| {
            let file = File::options()
                .read(true)
                .write(true)
                .open(temp.path())
                .unwrap();
            let source = FileSource::growing(file);
            source.set_available(available);
            Compared::new(source, "x".into(), Hashes::Published(published.clone()))
        };
        for (available, whole) in [(0, 0), (piece - 1, 0), (piece + 5, piece)] {
            assert_eq!(source(available).available(), whole);
        }
        let length = right.len() as u64;
        assert_eq!(source(length).available(), length);

        let read = |offset: usize, length: usize| {
            let mut buffer = vec![0; length];
            source(right.len() as u64)
                .read_exact_at(&mut buffer, offset as u64)
                .map(|()| buffer)
        };
        for (offset, length) in [(0, 10), (3, right.len() - 3), (40_000, 30_000)] {
            assert_eq!(
                read(offset, length).unwrap(),
                right[offset..offset + length]
            );
        }
        let end = right.len();
        assert_eq!(
            read(end - 1, 2).unwrap_err().kind(),
            io::ErrorKind::UnexpectedEof
        );

        let mut wrong = right.clone();
        wrong[2 * BLOCK + 9] ^= 1;
        std::fs::write(temp.path(), &wrong).unwrap();
        assert!(read(0, 2 * BLOCK).is_ok());
        let error = anyhow::Error::from(read(4 * BLOCK - 1, 1).unwrap_err());
        let said = Damaged::of(&error).unwrap().to_string();
        assert!(said.contains("bytes 32768 to 65535"), "{said}");
        assert!(read(4 * BLOCK, 50).is_ok());
    }
}
