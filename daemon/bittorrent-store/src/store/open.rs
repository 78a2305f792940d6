//! Making a new generation's directory, and taking up one that is there.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Instant;

use bittorrent_protocol::bencode::Limits;
use bittorrent_protocol::metainfo::Metainfo;
use bittorrent_protocol::{BlockIndex, FileIndex, Layout, merkle};

use super::{Claims, OpenFile, Pending, TorrentStore};
use crate::bitmap::AtomicBitmap;
use crate::error::StoreError;
use crate::io::{Io, IoFile, OpenMode, read_full};
use crate::journal::{self, Journal};
use crate::paths::Paths;
use crate::progress::{Progress, read_whole, replace};

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
    /// Makes the directory of a torrent of which nothing is there yet. Content files have their full
    /// length and take no space.
    ///
    /// # Errors
    ///
    /// When something cannot be made; what was made stays, and a second attempt continues.
    pub fn create(dir: &Path, metainfo: &Metainfo, io: Arc<dyn Io>) -> Result<Self, StoreError> {
        let paths = Paths::new(dir);
        let info = metainfo.info().clone();
        for made in [paths.root().to_owned(), paths.content(), paths.leaves_dir()] {
            io.create_dir_all(&made)
                .map_err(StoreError::io("make directory", &made))?;
        }
        let mut directories =
            BTreeSet::from([paths.root().to_owned(), paths.content(), paths.leaves_dir()]);
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
            let content = io
                .open(&path, OpenMode::Create)
                .map_err(StoreError::io("create", &path))?;
            content
                .set_len(file.length())
                .map_err(StoreError::io("extend", &path))?;
        }
        for directory in &directories {
            io.sync_dir(directory)
                .map_err(StoreError::io("sync", directory))?;
        }
        replace(&*io, &paths, &paths.torrent(), &metainfo.encode())?;
        let claims = Claims {
            words: vec![0; words(info.layout())],
            epoch: 1,
        };
        let store = Self::assemble(paths, io, metainfo.clone(), claims, false)?;
        store
            .io
            .sync_dir(&store.paths.leaves_dir())
            .map_err(StoreError::io("sync", &store.paths.leaves_dir()))?;
        store.write_progress(&store.claims(), false)?;
        store.start_journal(1)?;
        Ok(store)
    }

    /// Takes up a directory that [`Self::create`] made. What was verified after the last checkpoint
    /// is hashed again; nothing else is read, whatever the size.
    ///
    /// # Errors
    ///
    /// When `snapshot.torrent` or a content file is missing or unreadable. A damaged record of
    /// progress is no error: it claims nothing.
    pub fn open(dir: &Path, io: Arc<dyn Io>) -> Result<(Self, Recovery), StoreError> {
        let paths = Paths::new(dir);
        let torrent = paths.torrent();
        let bytes = read_whole(&*io, &torrent)?
            .ok_or_else(|| StoreError::io("open", &torrent)(std::io::ErrorKind::NotFound.into()))?;
        let metainfo =
            Metainfo::parse(&bytes, &Limits::TORRENT).map_err(|source| StoreError::Torrent {
                path: torrent,
                source: Box::new(source),
            })?;
        let layout = metainfo.info().layout().clone();
        let progress = Progress::read(&paths, &*io)?.filter(|progress| {
            progress.torrent == metainfo.info().hashes().v2
                && progress.identities.len() == layout.files().len()
                && (progress.sealed || progress.words.len() == words(&layout))
        });
        let mut recovery = Recovery {
            claims_lost: progress.is_none(),
            ..Recovery::default()
        };
        let sealed = progress.as_ref().is_some_and(|progress| progress.sealed);
        let epoch = progress.as_ref().map_or(1, |progress| progress.epoch);
        let claims = Claims {
            words: vec![0; words(&layout)],
            epoch,
        };
        let mut store = Self::assemble(paths, io, metainfo, claims, sealed)?;

        if let Some(progress) = progress {
            let same = store.believe(&progress, &mut recovery)?;
            if sealed && !same {
                // Someone changed a sealed file: it counts as unsealed, so that it can be mended.
                store = store.reopen_for_writing()?;
            }
            if !store.is_sealed() {
                store.replay_journal(epoch, &mut recovery)?;
            }
        }
        if !store.is_sealed() {
            // Two epochs on: neither journal can be taken for the new one's.
            let next = epoch + 2;
            store
                .checkpoint
                .get_mut()
                .unwrap_or_else(std::sync::PoisonError::into_inner)
                .epoch = next;
            store.write_progress(&store.claims(), false)?;
            store.start_journal(next)?;
            store.rejournal()?;
        }
        Ok((store, recovery))
    }

    /// Takes over a directory whose content and leaf hashes were just written whole, and seals it.
    pub(crate) fn adopt(
        paths: Paths,
        io: Arc<dyn Io>,
        metainfo: Metainfo,
    ) -> Result<Self, StoreError> {
        let layout = metainfo.info().layout().clone();
        let claims = Claims {
            words: vec![0; words(&layout)],
            epoch: 1,
        };
        let store = Self::assemble(paths, io, metainfo, claims, false)?;
        for block in layout
            .piece_indices()
            .flat_map(|piece| layout.blocks(piece))
        {
            store.verified.set(layout.block_number(block));
        }
        let mut directories = BTreeSet::from([store.paths.leaves_dir(), store.paths.content()]);
        for number in 0..layout.files().len() as u32 {
            let Some(file) = layout.file_index(number) else {
                continue;
            };
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
    fn assemble(
        paths: Paths,
        io: Arc<dyn Io>,
        metainfo: Metainfo,
        claims: Claims,
        sealed: bool,
    ) -> Result<Self, StoreError> {
        let info = metainfo.info().clone();
        let mode = if sealed {
            OpenMode::Read
        } else {
            OpenMode::Write
        };
        let mut files = Vec::with_capacity(info.files().len());
        for (number, span) in (0..).zip(info.layout().files()) {
            let index = info.layout().file_index(number);
            let Some(index) = index.filter(|_| span.length() > 0) else {
                files.push(None);
                continue;
            };
            let path = paths.file(&info, index);
            let content = open_content(&*io, &path, mode).map_err(StoreError::io("open", &path))?;
            let path = paths.leaves(index);
            let leaves = (span.blocks() > 1)
                .then(|| {
                    let mode = if sealed {
                        OpenMode::Read
                    } else {
                        OpenMode::Create
                    };
                    io.open(&path, mode).map_err(StoreError::io("open", &path))
                })
                .transpose()?;
            files.push(Some(OpenFile { content, leaves }));
        }
        let layout = info.layout();
        Ok(Self {
            total: layout
                .files()
                .iter()
                .map(bittorrent_protocol::FileSpan::blocks)
                .sum(),
            verified: AtomicBitmap::new(layout.block_numbers()),
            metainfo: RwLock::new(Arc::new(metainfo)),
            progress: Mutex::new(Pending {
                blocks: Vec::new(),
                since: None,
                journal: None,
                written: BTreeSet::new(),
                sealed,
            }),
            checkpoint: Mutex::new(claims),
            files,
            info,
            paths,
            io,
        })
    }

    fn reopen_for_writing(self) -> Result<Self, StoreError> {
        let claimed = self.claims().words.clone();
        let epoch = self.claims().epoch;
        let metainfo = Metainfo::clone(&self.metainfo());
        let (paths, io, verified) = (self.paths, self.io, self.verified);
        let mut store = Self::assemble(
            paths,
            io,
            metainfo,
            Claims {
                words: claimed,
                epoch,
            },
            false,
        )?;
        store.verified = verified;
        Ok(store)
    }

    /// Takes over the claims for files that are still the same; true when all are.
    fn believe(&self, progress: &Progress, recovery: &mut Recovery) -> Result<bool, StoreError> {
        let layout = self.layout();
        let mut all_same = true;
        let mut claims = self.claims();
        for (number, (open, was)) in (0..).zip(self.files.iter().zip(&progress.identities)) {
            let Some((open, index)) = open.as_ref().zip(layout.file_index(number)) else {
                continue;
            };
            let is = open
                .content
                .identity()
                .map_err(StoreError::io("inspect", &self.file_path(index)))?;
            // The time of a partial file changes with every block; that of a sealed one never.
            let same = is.length == was.length
                && is.inode == was.inode
                && (!progress.sealed || is.modified == was.modified);
            all_same &= same;
            for block in layout
                .file(index)
                .piece_indices()
                .flat_map(|piece| layout.blocks(piece))
            {
                let bit = layout.block_number(block);
                let claimed = progress.sealed
                    || progress
                        .words
                        .get((bit / 64) as usize)
                        .is_some_and(|word| word >> (bit % 64) & 1 == 1);
                match (claimed, same) {
                    (true, true) => {
                        claims.set(bit);
                        self.verified.set(bit);
                        recovery.blocks_claimed += 1;
                    }
                    (true, false) => recovery.blocks_dropped += 1,
                    (false, _) => {}
                }
            }
            if !same && is.length != layout.file(index).length() && !progress.sealed {
                open.content
                    .set_len(layout.file(index).length())
                    .map_err(StoreError::io("extend", &self.file_path(index)))?;
            }
        }
        recovery.claims_lost |= !all_same;
        Ok(all_same)
    }

    /// Hashes again what the journal names, and takes what is good.
    fn replay_journal(&self, epoch: u64, recovery: &mut Recovery) -> Result<(), StoreError> {
        let layout = self.layout();
        let per_piece = u64::from(layout.piece_length().blocks());
        let mut buffer = vec![0; bittorrent_protocol::BLOCK_LEN as usize];
        for (number, leaf) in journal::replay(&self.paths, &*self.io, epoch)? {
            let block = u32::try_from(number / per_piece)
                .ok()
                .and_then(|piece| layout.block(layout.piece(piece)?, (number % per_piece) as u32));
            let Some(block) = block.filter(|block| !self.is_block_verified(*block)) else {
                continue;
            };
            let Some((file, content)) = self.content_of(block.piece()) else {
                continue;
            };
            let slot = buffer.split_at_mut(layout.block_size(block) as usize).0;
            let offset = layout.offset_in_file(block.piece()) + u64::from(block.begin());
            let read = read_full(&**content, slot, offset)
                .map_err(StoreError::io("read", &self.file_path(file)))?;
            if read == slot.len() && merkle::leaf(slot) == leaf {
                self.keep_leaves(block, &[leaf])?;
                self.verified.set(number);
                self.note_pending(block);
                recovery.blocks_rehashed += 1;
            } else {
                recovery.blocks_dropped += 1;
            }
        }
        Ok(())
    }

    /// Writes what the old journals told into the new one, so that a second crash loses nothing.
    fn rejournal(&self) -> Result<(), StoreError> {
        let blocks: Vec<BlockIndex> = self.pending().blocks.clone();
        for block in blocks {
            let file = self.layout().file_of(block.piece());
            let leaves = self.kept_leaves(file, self.number_in_file(block), 1)?;
            let number = self.layout().block_number(block);
            if let Some(journal) = &mut self.pending().journal {
                journal.append(&self.paths, number, &leaves)?;
            }
        }
        Ok(())
    }

    fn note_pending(&self, block: BlockIndex) {
        let file: FileIndex = self.layout().file_of(block.piece());
        let mut pending = self.pending();
        pending.blocks.push(block);
        pending.since.get_or_insert_with(Instant::now);
        pending.written.insert(file.get());
    }

    fn start_journal(&self, epoch: u64) -> Result<(), StoreError> {
        self.pending().journal = Some(Journal::start(&self.paths, &*self.io, epoch)?);
        Ok(())
    }
}

/// Opens a content file. One that was sealed and is to be mended is read-only for its owner too.
fn open_content(io: &dyn Io, path: &Path, mode: OpenMode) -> std::io::Result<Arc<dyn IoFile>> {
    match io.open(path, mode) {
        Err(error)
            if mode == OpenMode::Write && error.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            io.unseal(path)?;
            io.open(path, mode)
        }
        other => other,
    }
}

/// Words of a bitmap with a bit for every block number.
fn words(layout: &Layout) -> usize {
    layout.block_numbers().div_ceil(64) as usize
}
