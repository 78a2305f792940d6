//! Opens the directory of a generation.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use bittorrent_protocol::bencode::Limits;
use bittorrent_protocol::metainfo::Metainfo;
use bittorrent_protocol::{BLOCK_LEN, InfoHashV2, merkle};

use super::block_states::BlockStates;
use super::durability::Durability;
use super::inspect::is_same;
use super::stored_files::StoredFiles;
use super::{TorrentStore, create_with};
use crate::disk::io::{Io, OpenMode, read_full};
use crate::disk::paths::Paths;
use crate::disk::whole_file::read_whole;
use crate::error::{Operation, StoreError};
use crate::record::claims::ClaimsRecord;
use crate::record::journal;

/// What opening a generation found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recovery {
    /// Claimed blocks, which count as verified without being read.
    pub blocks_claimed: u64,
    /// Blocks verified after the last checkpoint that were read again and are good.
    pub blocks_rehashed: u64,
    /// Blocks verified after the last checkpoint that are not good, and claimed blocks whose file was
    /// replaced or changed.
    pub blocks_dropped: u64,
    /// Whether claims were lost although the content may be good: the claims are missing or damaged, or a
    /// file was changed or copied. [`TorrentStore::verify_all`] finds the good blocks.
    pub claims_lost: bool,
}

impl TorrentStore {
    /// Creates the directory of a torrent, without any block. Content files get their full length and take
    /// no space. All of it is durable, the directory's own entry included.
    ///
    /// # Errors
    ///
    /// [`StoreError::Exists`] when the directory has a generation, and when something cannot be created.
    /// What was created stays, and a second attempt continues.
    pub fn create(dir: &Path, metainfo: &Metainfo, io: Arc<dyn Io>) -> Result<Self, StoreError> {
        create_with(dir, metainfo.clone(), io, &mut |_, _, _| Ok(()))
    }

    /// Opens a directory that [`Self::create`] made. Reads the blocks that were verified after the last
    /// checkpoint again and claims the good ones. Reads no other content, whatever the size.
    ///
    /// # Errors
    ///
    /// When `snapshot.torrent` or a content file is missing or unreadable. Damaged claims are no error:
    /// then nothing is claimed. [`StoreError::SyncFailed`] when the disk lost blocks that were not claimed;
    /// a second attempt opens the generation without them.
    pub fn open(dir: &Path, io: Arc<dyn Io>) -> Result<(Self, Recovery), StoreError> {
        Self::open_expecting(dir, None, io)
    }

    /// Opens a directory as [`Self::open`] does, if `snapshot.torrent` has the info-hash `expected`; `None`
    /// accepts any. Writes nothing to the directory of another torrent.
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
        let (metainfo, record) = read_records(&paths, expected, &*io)?;
        let mut recovery = Recovery {
            claims_lost: record.is_none(),
            ..Recovery::default()
        };
        let sealed = record.as_ref().is_some_and(|record| record.sealed);
        let epoch = record.as_ref().map_or(0, |record| record.epoch);
        let mut store = Self::assemble(paths, io, metainfo, epoch, sealed)?;
        if let Some(record) = record {
            let same = store.restore_claims(&record, &mut recovery)?;
            if sealed && !same {
                // Another program changed a sealed file. The generation opens unsealed, so that it can be
                // repaired.
                store = store.reopen_for_writing()?;
            }
        }
        if !store.is_sealed() {
            store.restore_lengths()?;
            // Without claims all blocks in the journals are tried: each is read and compared.
            let epoch = store.durability.epoch();
            store.replay_journal(epoch, &mut recovery)?;
            store
                .durability
                .settle(&store.files, &store.blocks, epoch.saturating_add(1))?;
        }
        Ok((store, recovery))
    }

    /// Opens a directory whose content is complete, sealed and unchanged. Returns `None` for any other.
    /// Writes nothing, so that other processes may have it open too.
    ///
    /// # Errors
    ///
    /// When `snapshot.torrent`, the claims or a content file is missing or unreadable.
    pub fn open_sealed(dir: &Path, io: Arc<dyn Io>) -> Result<Option<Self>, StoreError> {
        Self::open_sealed_expecting(dir, None, io)
    }

    /// Opens a directory as [`Self::open_sealed`] does, if `snapshot.torrent` has the info-hash `expected`;
    /// `None` accepts any.
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
        let (metainfo, record) = read_records(&paths, expected, &*io)?;
        let Some(record) = record.filter(|record| record.sealed) else {
            return Ok(None);
        };
        let store = Self::assemble(paths, io, metainfo, record.epoch, true)?;
        let same = store.restore_claims(&record, &mut Recovery::default())?;
        Ok(same.then_some(store))
    }

    /// Opens a generation that was just created and has no block.
    pub(super) fn start(
        paths: Paths,
        io: Arc<dyn Io>,
        metainfo: Metainfo,
    ) -> Result<Self, StoreError> {
        let store = Self::assemble(paths, io, metainfo, 0, false)?;
        // A mark may be left of an earlier attempt.
        store.set_cloned(false);
        store.durability.settle(&store.files, &store.blocks, 1)?;
        Ok(store)
    }

    /// Sets whether content files started as clones.
    pub(crate) fn set_cloned(&self, cloned: bool) {
        self.cloned.store(cloned, Ordering::Relaxed);
    }

    /// Opens a generation whose content and leaf hashes were just written completely, and seals it.
    pub(crate) fn seal_whole(
        paths: Paths,
        io: Arc<dyn Io>,
        metainfo: Metainfo,
    ) -> Result<Self, StoreError> {
        let layout = metainfo.info().layout().clone();
        let store = Self::assemble(paths, io, metainfo, 0, false)?;
        let content = store.files.paths().content();
        let mut directories = BTreeSet::from([content.clone()]);
        for number in 0..layout.files().len() as u32 {
            let Some(file) = layout.file_index(number) else {
                continue;
            };
            for number in store.files.numbers(file) {
                store.blocks.set_verified(number);
            }
            store.durability.restore_claims(store.files.numbers(file));
            let path = store.file_path(file);
            let above = path
                .ancestors()
                .skip(1)
                .take_while(|above| above.starts_with(&content));
            directories.extend(above.map(Path::to_owned));
        }
        for directory in &directories {
            store
                .files
                .io()
                .sync_dir(directory)
                .map_err(StoreError::io(Operation::Sync, directory))?;
        }
        store.finish()?;
        Ok(store)
    }

    /// Opens the files of a generation of which nothing is known yet but the epoch of its claims.
    fn assemble(
        paths: Paths,
        io: Arc<dyn Io>,
        metainfo: Metainfo,
        epoch: u64,
        sealed: bool,
    ) -> Result<Self, StoreError> {
        let info = metainfo.info().clone();
        let (blocks, durability) = {
            let layout = info.layout();
            (
                BlockStates::new(layout),
                Durability::new(layout, epoch, sealed),
            )
        };
        let files = StoredFiles::open(paths, io, info, sealed)?;
        Ok(Self::of_parts(
            files,
            blocks,
            durability,
            Arc::new(metainfo),
        ))
    }

    fn of_parts(
        files: StoredFiles,
        blocks: BlockStates,
        durability: Durability,
        metainfo: Arc<Metainfo>,
    ) -> Self {
        let mark = files.paths().cloned();
        let cloned = !durability.is_sealed() && files.io().open(&mark, OpenMode::Read).is_ok();
        Self {
            files,
            blocks,
            durability,
            metainfo: RwLock::new(metainfo),
            cloned: AtomicBool::new(cloned),
            gate: RwLock::new(()),
            torrent_file: Mutex::new(()),
            unreadable: Mutex::default(),
        }
    }

    fn reopen_for_writing(self) -> Result<Self, StoreError> {
        let metainfo = self.metainfo();
        let files = self.files.reopen_for_writing()?;
        let durability = self.durability.unsealed();
        Ok(Self::of_parts(files, self.blocks, durability, metainfo))
    }

    /// Sets the length of each file whose length was changed by another program.
    fn restore_lengths(&self) -> Result<(), StoreError> {
        let contents = self.files.contents();
        for file in contents.all() {
            let length = self.layout().file(file).length();
            if contents
                .identity(file)
                .is_some_and(|is| is.length != length)
            {
                contents.change(file, Operation::SetLength, |open| open.set_len(length))?;
            }
        }
        Ok(())
    }

    /// Takes over the claims of files that are unchanged; returns whether all are.
    fn restore_claims(
        &self,
        record: &ClaimsRecord,
        recovery: &mut Recovery,
    ) -> Result<bool, StoreError> {
        let mut all_same = true;
        for file in self.files.contents().all() {
            let was = record.identities.get(file.as_usize());
            let Some((is, was)) = self.files.contents().identity(file).zip(was) else {
                continue;
            };
            let length = self.layout().file(file).length();
            let same = is_same(is, *was, length, record.sealed);
            all_same &= same;
            let claimed = self.files.numbers(file).filter(|n| record.claims(*n));
            if !same {
                recovery.blocks_dropped += claimed.count() as u64;
                continue;
            }
            let restored = claimed.inspect(|number| {
                self.blocks.set_verified(*number);
                recovery.blocks_claimed += 1;
            });
            self.durability.restore_claims(restored);
        }
        recovery.claims_lost |= !all_same;
        Ok(all_same)
    }

    /// Reads the blocks in the journals again from the disk, and takes those that are good.
    fn replay_journal(&self, epoch: u64, recovery: &mut Recovery) -> Result<(), StoreError> {
        let layout = self.layout();
        let mut buffer = vec![0; BLOCK_LEN as usize];
        // A block may be named more than once, with the same leaf each time.
        let mut bad = BTreeSet::new();
        let mut reread = BTreeSet::new();
        let (paths, torrent) = (self.files.paths(), self.files.torrent_id());
        let named = journal::replay(paths, self.files.io(), torrent, epoch)?;
        for (number, leaf) in named {
            let block = self.files.block_of(number);
            let Some(block) = block.filter(|block| !self.is_block_verified(*block)) else {
                continue;
            };
            let (file, content) = self.files.content_of(block.piece())?;
            let slot = buffer.split_at_mut(layout.block_size(block) as usize).0;
            let offset = layout.offset_in_file(block.piece()) + u64::from(block.begin());
            if reread.insert(file) {
                content
                    .forget_cached(0, layout.file(file).length())
                    .map_err(StoreError::io(Operation::Read, &self.file_path(file)))?;
            }
            let read = read_full(&*content, slot, offset)
                .map_err(StoreError::io(Operation::Read, &self.file_path(file)))?;
            if read < slot.len() || merkle::leaf(slot) != leaf {
                bad.insert(number);
                continue;
            }
            self.files.write_leaves(file, &[(number, leaf)])?;
            self.blocks.set_verified(number);
            self.durability.restore_pending(file, block);
            recovery.blocks_rehashed += 1;
        }
        recovery.blocks_dropped += bad.len() as u64;
        Ok(())
    }
}

/// Reads the torrent of a directory. Another info-hash than `expected` is an error.
pub(super) fn read_torrent(
    paths: &Paths,
    expected: Option<InfoHashV2>,
    io: &dyn Io,
) -> Result<Metainfo, StoreError> {
    let path = paths.torrent();
    // One byte more than allowed, so that a too long file is recognised.
    let most = Limits::TORRENT.max_len as u64 + 1;
    let bytes = read_whole(io, &path, most)?
        .ok_or_else(|| StoreError::io(Operation::Open, &path)(ErrorKind::NotFound.into()))?;
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

/// Reads the claims of a torrent; `None` if they are missing, damaged or of another torrent.
pub(super) fn read_claims(
    paths: &Paths,
    metainfo: &Metainfo,
    io: &dyn Io,
) -> Result<Option<ClaimsRecord>, StoreError> {
    let layout = metainfo.info().layout();
    let words = layout.block_numbers().div_ceil(64);
    Ok(ClaimsRecord::read(paths, io)?.filter(|record| {
        record.torrent == metainfo.info().hashes().v2
            && record.identities.len() == layout.files().len()
            && (record.sealed || record.words.len() as u64 == words)
    }))
}

fn read_records(
    paths: &Paths,
    expected: Option<InfoHashV2>,
    io: &dyn Io,
) -> Result<(Metainfo, Option<ClaimsRecord>), StoreError> {
    let metainfo = read_torrent(paths, expected, io)?;
    let record = read_claims(paths, &metainfo, io)?;
    Ok((metainfo, record))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use bittorrent_protocol::metainfo::{HashedContent, MetainfoBuilder};
    use bittorrent_protocol::{MerkleHash, PieceLength};

    use super::*;
    use crate::disk::io::RealIo;

    #[test]
    fn a_hundred_gigabytes_are_opened_without_being_read() {
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
        let generation = dir.path().join("s");
        // A file with a hole as long as it is has the right content, too.
        let store = TorrentStore::create(&generation, &metainfo, Arc::new(RealIo)).unwrap();
        assert_eq!(store.missing_bytes(), LENGTH);
        drop(store);
        TorrentStore::seal_whole(Paths::new(&generation), Arc::new(RealIo), metainfo).unwrap();

        let started = Instant::now();
        let (store, recovery) = TorrentStore::open(&generation, Arc::new(RealIo)).unwrap();
        let took = started.elapsed();
        println!("{} blocks opened in {took:?}", store.total_blocks());
        assert_eq!(recovery.blocks_claimed, blocks as u64);
        assert!(store.is_sealed() && store.is_complete());
        // Reading it, even from memory, takes longer than this.
        assert!(took < Duration::from_secs(10), "{took:?}");
    }
}
