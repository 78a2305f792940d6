//! Taking up a generation's directory.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use bittorrent_protocol::bencode::Limits;
use bittorrent_protocol::metainfo::Metainfo;
use bittorrent_protocol::{BLOCK_LEN, FileSpan, InfoHashV2, merkle};

use super::inspect::is_same;
use super::{Claims, Pending, TorrentStore};
use crate::bitmap::AtomicBitmap;
use crate::error::StoreError;
use crate::files::{FileTable, Kind};
use crate::io::{Io, OpenMode, read_full};
use crate::journal;
use crate::paths::Paths;
use crate::progress::{Progress, read_whole};

/// What was found when a generation was taken up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovery {
    /// Blocks that were claimed and are believed without being read.
    pub blocks_claimed: u64,
    /// Blocks verified after the last checkpoint, hashed again and found good.
    pub blocks_rehashed: u64,
    /// Blocks verified after the last checkpoint that were not good, and blocks whose file is no
    /// longer the one they were claimed for.
    pub blocks_dropped: u64,
    /// Whether claims were lost although the content may be good: the record of progress is missing
    /// or damaged, or a file was changed or copied. [`TorrentStore::verify_all`] finds what is good.
    pub claims_lost: bool,
}

impl TorrentStore {
    /// Takes up a directory that [`Self::create`] made. What was verified after the last checkpoint
    /// is hashed again and claimed; nothing else is read, whatever the size.
    ///
    /// # Errors
    ///
    /// When `snapshot.torrent` or a content file is missing or unreadable. A damaged record of
    /// progress is no error: it claims nothing. [`StoreError::SyncFailed`] when the disk lost what was
    /// not claimed: a second attempt does without.
    pub fn open(dir: &Path, io: Arc<dyn Io>) -> Result<(Self, Recovery), StoreError> {
        Self::open_expecting(dir, None, io)
    }

    /// [`Self::open`], but only if `snapshot.torrent` has the info-hash `expected`; `None` accepts any.
    /// Nothing is written to the directory of another torrent.
    ///
    /// # Errors
    ///
    /// As [`Self::open`], and [`StoreError::OtherTorrent`].
    pub fn open_expecting(
        dir: &Path,
        expected: Option<InfoHashV2>,
        io: Arc<dyn Io>,
    ) -> Result<(Self, Recovery), StoreError> {
        let paths = Paths::new(dir);
        let (metainfo, progress) = read_notes(&paths, expected, &*io)?;
        let mut claims = Claims::none(metainfo.info().layout());
        let mut recovery = Recovery {
            claims_lost: progress.is_none(),
            ..Recovery::default()
        };
        let sealed = progress.as_ref().is_some_and(|progress| progress.sealed);
        claims.epoch = progress.as_ref().map_or(0, |progress| progress.epoch);
        let mut store = Self::assemble(paths, io, metainfo, claims, sealed)?;
        if let Some(progress) = progress {
            let same = store.believe(&progress, &mut recovery)?;
            if sealed && !same {
                // Someone changed a sealed file: it counts as unsealed, so that it can be mended.
                store = store.reopen_for_writing()?;
            }
        }
        if !store.is_sealed() {
            store.restore_lengths()?;
            // Without claims everything that is in the journals may be tried: it proves itself.
            let epoch = store.claims().epoch;
            store.replay_journal(epoch, &mut recovery)?;
            store.settle(epoch.saturating_add(1))?;
        }
        Ok((store, recovery))
    }

    /// Takes up a directory whose content is whole and sealed, and unchanged since. `None` for any other.
    /// Nothing is written, so that others may have it open, too.
    ///
    /// # Errors
    ///
    /// When `snapshot.torrent`, the record of progress or a content file is missing or unreadable.
    pub fn open_sealed(dir: &Path, io: Arc<dyn Io>) -> Result<Option<Self>, StoreError> {
        Self::open_sealed_expecting(dir, None, io)
    }

    /// [`Self::open_sealed`], but only if `snapshot.torrent` has the info-hash `expected`; `None`
    /// accepts any.
    ///
    /// # Errors
    ///
    /// As [`Self::open_sealed`], and [`StoreError::OtherTorrent`].
    pub fn open_sealed_expecting(
        dir: &Path,
        expected: Option<InfoHashV2>,
        io: Arc<dyn Io>,
    ) -> Result<Option<Self>, StoreError> {
        let paths = Paths::new(dir);
        let (metainfo, progress) = read_notes(&paths, expected, &*io)?;
        let Some(progress) = progress.filter(|progress| progress.sealed) else {
            return Ok(None);
        };
        let mut claims = Claims::none(metainfo.info().layout());
        claims.epoch = progress.epoch;
        let store = Self::assemble(paths, io, metainfo, claims, true)?;
        let same = store.believe(&progress, &mut Recovery::default())?;
        Ok(same.then_some(store))
    }

    /// Claims what was found when a generation was taken up, as of the next epoch, and starts its
    /// journal. Until the claims are written the old journals stay as they are.
    pub(super) fn settle(&self, epoch: u64) -> Result<(), StoreError> {
        let mut claims = self.claims();
        let window = std::mem::take(&mut self.pending().window);
        self.claim(&mut claims, window, epoch)?;
        let mut pending = self.pending();
        pending.since = None;
        pending.journal = Some(self.new_journal(epoch)?);
        self.count_dirty(&pending);
        Ok(())
    }

    /// Takes over a directory whose content and leaf hashes were just written whole, and seals it.
    pub(crate) fn seal_whole(
        paths: Paths,
        io: Arc<dyn Io>,
        metainfo: Metainfo,
    ) -> Result<Self, StoreError> {
        let layout = metainfo.info().layout().clone();
        let claims = Claims::none(&layout);
        let store = Self::assemble(paths, io, metainfo, claims, false)?;
        let mut directories = BTreeSet::from([store.paths.content()]);
        for number in 0..layout.files().len() as u32 {
            let Some(file) = layout.file_index(number) else {
                continue;
            };
            for number in store.numbers(file) {
                store.verified.set(number);
                store.claims().set(number);
            }
            let path = store.file_path(file);
            let above = path
                .ancestors()
                .skip(1)
                .take_while(|above| above.starts_with(store.paths.content()));
            directories.extend(above.map(Path::to_owned));
        }
        for directory in &directories {
            store
                .io
                .sync_dir(directory)
                .map_err(StoreError::io("sync", directory))?;
        }
        store.finish()?;
        Ok(store)
    }

    /// Opens the files. Sealed content is opened to be read only.
    pub(super) fn assemble(
        paths: Paths,
        io: Arc<dyn Io>,
        metainfo: Metainfo,
        claims: Claims,
        sealed: bool,
    ) -> Result<Self, StoreError> {
        let info = metainfo.info().clone();
        let table = |kind| FileTable::new(io.clone(), paths.clone(), info.clone(), kind, !sealed);
        let (contents, leaves) = (table(Kind::Content), table(Kind::Leaves));
        // By these they are known again, should they be closed meanwhile.
        contents
            .all()
            .try_for_each(|file| contents.get(file).map(drop))?;
        leaves
            .all()
            .try_for_each(|file| leaves.get(file).map(drop))?;
        if !sealed {
            let directory = paths.leaves_dir();
            io.sync_dir(&directory)
                .map_err(StoreError::io("sync", &directory))?;
        }
        let cloned = !sealed && io.open(&paths.cloned(), OpenMode::Read).is_ok();
        let layout = info.layout();
        Ok(Self {
            total: layout.files().iter().map(FileSpan::blocks).sum(),
            verified: AtomicBitmap::new(layout.block_numbers()),
            touched: AtomicBitmap::new(layout.block_numbers()),
            forgotten: AtomicBitmap::new(layout.files().len() as u64),
            lost: OnceLock::new(),
            dirty: AtomicU64::new(0),
            sealed: AtomicBool::new(sealed),
            cloned: AtomicBool::new(cloned),
            gate: RwLock::new(()),
            torrent_file: Mutex::new(()),
            metainfo: RwLock::new(Arc::new(metainfo)),
            progress: Mutex::new(Pending::default()),
            unreadable: Mutex::default(),
            checkpoint: Mutex::new(claims),
            contents,
            leaves,
            info,
            paths,
            io,
        })
    }

    fn reopen_for_writing(self) -> Result<Self, StoreError> {
        let metainfo = Metainfo::clone(&self.metainfo());
        let claims = self
            .checkpoint
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let store = Self::assemble(self.paths, self.io, metainfo, claims, false)?;
        Ok(Self {
            verified: self.verified,
            ..store
        })
    }

    /// Gives every file its length again: a file may have been cut or prolonged meanwhile.
    fn restore_lengths(&self) -> Result<(), StoreError> {
        for file in self.contents.all() {
            let length = self.layout().file(file).length();
            if self
                .contents
                .identity(file)
                .is_some_and(|is| is.length != length)
            {
                self.contents
                    .change(file, "extend", |open| open.set_len(length))?;
            }
        }
        Ok(())
    }

    /// Takes over the claims for files that are still the same; true when all are.
    fn believe(&self, progress: &Progress, recovery: &mut Recovery) -> Result<bool, StoreError> {
        let layout = self.layout();
        let mut all_same = true;
        let mut claims = self.claims();
        for index in self.contents.all() {
            let was = progress.identities.get(index.as_usize());
            let Some((is, was)) = self.contents.identity(index).zip(was) else {
                continue;
            };
            let same = is_same(is, *was, layout.file(index).length(), progress.sealed);
            all_same &= same;
            for number in self.numbers(index) {
                match (progress.claims(number), same) {
                    (true, true) => {
                        claims.set(number);
                        self.verified.set(number);
                        recovery.blocks_claimed += 1;
                    }
                    (true, false) => recovery.blocks_dropped += 1,
                    (false, _) => {}
                }
            }
        }
        recovery.claims_lost |= !all_same;
        Ok(all_same)
    }

    /// Hashes again what the journals name, as it is on the disk, and takes what is good.
    fn replay_journal(&self, epoch: u64, recovery: &mut Recovery) -> Result<(), StoreError> {
        let layout = self.layout();
        let mut buffer = vec![0; BLOCK_LEN as usize];
        // A block may be named more than once, with the same leaf each time.
        let mut bad = BTreeSet::new();
        let mut reread = BTreeSet::new();
        let named = journal::replay(&self.paths, &*self.io, self.torrent_id(), epoch)?;
        for (number, leaf) in named {
            let block = self.block_of(number);
            let Some(block) = block.filter(|block| !self.is_block_verified(*block)) else {
                continue;
            };
            let (file, content) = self.content_of(block.piece())?;
            let slot = buffer.split_at_mut(layout.block_size(block) as usize).0;
            let offset = layout.offset_in_file(block.piece()) + u64::from(block.begin());
            if reread.insert(file) {
                content
                    .forget_cached(0, layout.file(file).length())
                    .map_err(StoreError::io("read", &self.file_path(file)))?;
            }
            let read = read_full(&*content, slot, offset)
                .map_err(StoreError::io("read", &self.file_path(file)))?;
            if read < slot.len() || merkle::leaf(slot) != leaf {
                bad.insert(number);
                continue;
            }
            self.write_leaves(file, &[(number, leaf)])?;
            self.verified.set(number);
            let mut pending = self.pending();
            pending.window.blocks.push(block);
            pending.window.files.insert(file.get());
            recovery.blocks_rehashed += 1;
        }
        recovery.blocks_dropped += bad.len() as u64;
        Ok(())
    }
}

/// Reads the torrent of a directory. What has another info-hash than `expected` is an error.
pub(super) fn read_torrent(
    paths: &Paths,
    expected: Option<InfoHashV2>,
    io: &dyn Io,
) -> Result<Metainfo, StoreError> {
    let path = paths.torrent();
    // One byte more than may be, so that what is too long is told from what is cut.
    let most = Limits::TORRENT.max_len as u64 + 1;
    let bytes = read_whole(io, &path, most)?
        .ok_or_else(|| StoreError::io("open", &path)(ErrorKind::NotFound.into()))?;
    let metainfo = match Metainfo::parse(&bytes, &Limits::TORRENT) {
        Ok(metainfo) => metainfo,
        Err(source) => {
            return Err(StoreError::Torrent {
                path,
                source: Box::new(source),
            });
        }
    };
    let found = metainfo.info().hashes().v2;
    match expected.filter(|expected| *expected != found) {
        Some(expected) => Err(StoreError::OtherTorrent {
            path,
            expected,
            found,
        }),
        None => Ok(metainfo),
    }
}

/// Reads the record of progress of a torrent; `None` where it is missing, damaged or about something
/// else.
pub(super) fn read_progress(
    paths: &Paths,
    metainfo: &Metainfo,
    io: &dyn Io,
) -> Result<Option<Progress>, StoreError> {
    let layout = metainfo.info().layout();
    let words = layout.block_numbers().div_ceil(64);
    Ok(Progress::read(paths, io)?.filter(|progress| {
        progress.torrent == metainfo.info().hashes().v2
            && progress.identities.len() == layout.files().len()
            && (progress.sealed || progress.words.len() as u64 == words)
    }))
}

fn read_notes(
    paths: &Paths,
    expected: Option<InfoHashV2>,
    io: &dyn Io,
) -> Result<(Metainfo, Option<Progress>), StoreError> {
    let metainfo = read_torrent(paths, expected, io)?;
    let progress = read_progress(paths, &metainfo, io)?;
    Ok((metainfo, progress))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use bittorrent_protocol::metainfo::{HashedContent, MetainfoBuilder};
    use bittorrent_protocol::{MerkleHash, PieceLength};

    use super::*;
    use crate::io::RealIo;

    #[test]
    fn a_hundred_gigabytes_are_taken_up_without_being_read() {
        const LENGTH: u64 = 100_000_000_000 / BLOCK_LEN as u64 * BLOCK_LEN as u64;
        let piece_length = PieceLength::DEFAULT;
        let zeros = merkle::leaf(&[0; BLOCK_LEN as usize]);
        let per_piece = piece_length.blocks() as usize;
        let full = merkle::fold(&vec![zeros; per_piece], 0, piece_length.layer());
        let blocks = (LENGTH / u64::from(BLOCK_LEN)) as usize;
        let mut layer: Vec<MerkleHash> = vec![full; blocks / per_piece];
        if !blocks.is_multiple_of(per_piece) {
            let rest = vec![zeros; blocks % per_piece];
            layer.push(merkle::fold(&rest, 0, piece_length.layer()));
        }
        let metainfo = MetainfoBuilder::new("data.ldb", piece_length)
            .single_file(HashedContent {
                length: LENGTH,
                root: Some(merkle::file_root_from_layer(&layer, piece_length)),
                layer,
                ..HashedContent::default()
            })
            .build()
            .unwrap();

        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("s");
        // A file with a hole as long as it is has the right content, too.
        let store = TorrentStore::create(&place, &metainfo, Arc::new(RealIo)).unwrap();
        assert_eq!(store.missing_bytes(), LENGTH);
        drop(store);
        TorrentStore::seal_whole(Paths::new(&place), Arc::new(RealIo), metainfo).unwrap();

        let started = Instant::now();
        let (store, recovery) = TorrentStore::open(&place, Arc::new(RealIo)).unwrap();
        let took = started.elapsed();
        println!("{} blocks taken up in {took:?}", store.total_blocks());
        assert_eq!(recovery.blocks_claimed, blocks as u64);
        assert!(store.is_sealed() && store.is_complete());
        // Reading it, even from memory, takes longer than this.
        assert!(took < Duration::from_secs(10), "{took:?}");
    }
}
