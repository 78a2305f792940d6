//! The files of a generation, of which only some are open at a time: a torrent may have more files than
//! a process may have descriptors.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, ErrorKind, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use bittorrent_protocol::FileIndex;
use bittorrent_protocol::metainfo::Info;

use super::io::{Identity, Io, IoFile, OpenMode};
use super::paths::Paths;
use crate::error::{Operation, StoreError};
use crate::sync::lock;

/// Of which files a table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The content files that are not empty.
    Content,
    /// The leaf hashes of files of more than one block.
    Leaves,
}

impl Kind {
    /// The most files that stay open: processes may have 1024 descriptors by default.
    const fn most_open(self) -> usize {
        match self {
            Self::Content => 64,
            Self::Leaves => 32,
        }
    }
}

/// Files of one kind by their number, opened when they are needed; those used last stay open.
///
/// A file that was written to is synced before it is closed; should that fail, the next
/// [`Self::sync`] says so. Locks are taken in this order: `closing`, `slots`.
#[derive(Debug)]
pub(crate) struct FileTable {
    io: Arc<dyn Io>,
    paths: Paths,
    info: Arc<Info>,
    kind: Kind,
    writable: AtomicBool,
    slots: Mutex<Slots>,
    /// Held while a file is synced to be closed, with what came of that: so a sync of all of them waits
    /// for it.
    closing: Mutex<Option<StoreError>>,
}

#[derive(Debug, Default)]
struct Slots {
    open: HashMap<u32, Slot>,
    /// By what the files are known again, since they were first opened.
    identities: HashMap<u32, Identity>,
    /// Counts uses, to know which was the last.
    clock: u64,
}

#[derive(Debug)]
struct Slot {
    file: Arc<dyn IoFile>,
    /// Written to since it was last synced.
    dirty: bool,
    used: u64,
}

impl FileTable {
    pub(crate) fn new(
        io: Arc<dyn Io>,
        paths: Paths,
        info: Arc<Info>,
        kind: Kind,
        writable: bool,
    ) -> Self {
        Self {
            io,
            paths,
            info,
            kind,
            writable: AtomicBool::new(writable),
            slots: Mutex::default(),
            closing: Mutex::default(),
        }
    }

    /// The files of this kind.
    pub(crate) fn all(&self) -> impl Iterator<Item = FileIndex> + '_ {
        let layout = self.info.layout();
        let numbered = (0..).zip(layout.files());
        numbered
            .filter_map(|(number, _)| layout.file_index(number))
            .filter(|file| self.has(*file))
    }

    /// Whether a file has one of this kind: empty files have none, and the leaf of a single block is the
    /// root.
    pub(crate) fn has(&self, file: FileIndex) -> bool {
        let least = match self.kind {
            Kind::Content => 1,
            Kind::Leaves => 2,
        };
        self.info.layout().file(file).blocks() >= least
    }

    pub(crate) fn path(&self, file: FileIndex) -> PathBuf {
        match self.kind {
            Kind::Content => self.paths.file(&self.info, file),
            Kind::Leaves => self.paths.leaves(file),
        }
    }

    /// A failed operation on a file.
    pub(crate) fn failed(
        &self,
        operation: Operation,
        file: FileIndex,
    ) -> impl FnOnce(io::Error) -> StoreError {
        move |source| StoreError::io(operation, &self.path(file))(source)
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Acquire)
    }

    /// Lets files be written to, or no longer. Who has one keeps it; all have to be synced.
    pub(crate) fn set_writable(&self, writable: bool) {
        let mut slots = self.slots();
        if self.writable.swap(writable, Ordering::AcqRel) != writable {
            slots.open.clear();
        }
    }

    /// A file, if it is open right now: never waits for a disk.
    pub(crate) fn open_file(&self, file: FileIndex) -> Option<Arc<dyn IoFile>> {
        let mut slots = self.slots();
        slots.clock += 1;
        let now = slots.clock;
        let slot = slots.open.get_mut(&file.get())?;
        slot.used = now;
        Some(slot.file.clone())
    }

    /// A file to read from.
    pub(crate) fn get(&self, file: FileIndex) -> Result<Arc<dyn IoFile>, StoreError> {
        if let Some(open) = self.open_file(file) {
            return Ok(open);
        }
        let opened = self.open(file)?;
        let mut slots = self.slots();
        let room = slots.open.len() < self.kind.most_open() || {
            // Readers do not wait until another file is synced.
            let clean = slots.last_used(|slot| !slot.dirty);
            clean.is_some_and(|number| slots.open.remove(&number).is_some())
        };
        Ok(if room {
            slots.keep(file, opened)
        } else {
            opened
        })
    }

    /// A file to write to, which stays in the table while it is in use.
    fn get_to_write(&self, file: FileIndex) -> Result<Arc<dyn IoFile>, StoreError> {
        if let Some(open) = self.open_file(file) {
            return Ok(open);
        }
        let opened = self.open(file)?;
        let mut closing = self.closing();
        let mut slots = self.slots();
        let full = slots.open.len() >= self.kind.most_open();
        let last = slots.last_used(|_| true).filter(|_| full);
        let put_out = last.and_then(|number| Some((number, slots.open.remove(&number)?)));
        let kept = slots.keep(file, opened);
        drop(slots);
        if let Some((number, slot)) = put_out
            && slot.dirty
            && let Err(source) = slot.file.sync_data()
            && let Some(file) = self.info.layout().file_index(number)
        {
            closing.get_or_insert(self.failed(Operation::Sync, file)(source));
        }
        Ok(kept)
    }

    /// Opens a file, and makes sure that it is still the same one.
    fn open(&self, file: FileIndex) -> Result<Arc<dyn IoFile>, StoreError> {
        let path = self.path(file);
        let writable = self.is_writable();
        let opened = match (self.kind, writable) {
            (Kind::Content, true) => open_content(&*self.io, &path, OpenMode::Write),
            (Kind::Content, false) => self.io.open(&path, OpenMode::Read),
            (Kind::Leaves, _) => open_leaves(&*self.io, &path, !writable),
        };
        let opened = opened.map_err(StoreError::io(Operation::Open, &path))?;
        if self.kind == Kind::Content {
            let is = opened
                .identity()
                .map_err(StoreError::io(Operation::Inspect, &path))?;
            let mut slots = self.slots();
            let was = slots.identities.entry(file.get()).or_insert(is);
            if was.inode != is.inode {
                return Err(StoreError::Replaced { path });
            }
        }
        Ok(opened)
    }

    /// Writes all slices, one behind the other, from a position of a file on.
    pub(crate) fn write(
        &self,
        file: FileIndex,
        slices: &mut [IoSlice<'_>],
        offset: u64,
    ) -> Result<(), StoreError> {
        self.change(file, Operation::Write, |open| {
            open.write_all_at(slices, offset)
        })
    }

    /// Does something to a file that has to be synced.
    pub(crate) fn change(
        &self,
        file: FileIndex,
        operation: Operation,
        change: impl FnOnce(&dyn IoFile) -> io::Result<()>,
    ) -> Result<(), StoreError> {
        let open = self.get_to_write(file)?;
        let changed = change(&*open).map_err(self.failed(operation, file));
        // Afterwards, as a sync meanwhile may have missed it, and also when it failed: it may be done in
        // part. Files in use are not put out.
        if let Some(slot) = self.slots().open.get_mut(&file.get()) {
            slot.dirty = true;
        }
        changed
    }

    /// Makes durable what was written to some files before, by whomever, given by number. After an error
    /// nothing that was written to any file since the last success can be relied on.
    pub(crate) fn sync(&self, files: &BTreeSet<u32>) -> Result<(), StoreError> {
        let layout = self.info.layout();
        let files = files
            .iter()
            .filter_map(|number| layout.file_index(*number))
            .filter(|file| self.has(*file));
        for file in files {
            let open = self.slots().open.get_mut(&file.get()).map(|slot| {
                slot.dirty = false;
                slot.file.clone()
            });
            // One that was put out was synced, but the failure of that may have been told to another
            // process's descriptor only; and earlier processes wrote, too.
            let open = open.map_or_else(|| self.open(file), Ok)?;
            open.sync_data()
                .map_err(self.failed(Operation::Sync, file))?;
        }
        self.closing().take().map_or(Ok(()), Err)
    }

    /// By what a file is known again, as of when it was first opened or sealed; `None` for files without
    /// one of this kind.
    pub(crate) fn identity(&self, file: FileIndex) -> Option<Identity> {
        self.slots().identities.get(&file.get()).copied()
    }

    /// Forbids writing to a file, durably, and takes note of it as it is from then on.
    pub(crate) fn seal(&self, file: FileIndex) -> Result<(), StoreError> {
        let open = self.get(file)?;
        let executable = self.info.file(file).is_executable();
        open.seal(executable)
            .map_err(self.failed(Operation::Seal, file))?;
        let is = open
            .identity()
            .map_err(self.failed(Operation::Inspect, file))?;
        let mut slots = self.slots();
        slots.identities.insert(file.get(), is);
        if let Some(slot) = slots.open.get_mut(&file.get()) {
            slot.dirty = false;
        }
        Ok(())
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        lock(&self.slots)
    }

    fn closing(&self) -> MutexGuard<'_, Option<StoreError>> {
        lock(&self.closing)
    }
}

impl Slots {
    /// Of the files that nobody is using, the one that was not used for longest; first those that need
    /// not be synced.
    fn last_used(&self, which: impl Fn(&Slot) -> bool) -> Option<u32> {
        self.open
            .iter()
            .filter(|(_, slot)| Arc::strong_count(&slot.file) == 1 && which(slot))
            .min_by_key(|(_, slot)| (slot.dirty, slot.used))
            .map(|(number, _)| *number)
    }

    /// Takes a file in that was just opened, unless another thread was faster.
    fn keep(&mut self, file: FileIndex, opened: Arc<dyn IoFile>) -> Arc<dyn IoFile> {
        let fresh = Slot {
            file: opened,
            dirty: false,
            used: self.clock,
        };
        self.open.entry(file.get()).or_insert(fresh).file.clone()
    }
}

/// Opens the leaf hashes of a file. Where they are missing there is an empty file from now on:
/// [`crate::TorrentStore::verify_all`] can compute them again. Of a sealed generation they may belong to
/// someone who lets us read only.
fn open_leaves(io: &dyn Io, path: &Path, sealed: bool) -> io::Result<Arc<dyn IoFile>> {
    match io.open(path, OpenMode::Create) {
        Err(error)
            if sealed
                && matches!(
                    error.kind(),
                    ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem
                ) =>
        {
            io.open(path, OpenMode::Read)
        }
        other => other,
    }
}

/// Opens a content file. One that was sealed and is to be mended is read-only for its owner too.
pub(crate) fn open_content(
    io: &dyn Io,
    path: &Path,
    mode: OpenMode,
) -> io::Result<Arc<dyn IoFile>> {
    match io.open(path, mode) {
        Err(error) if mode != OpenMode::Read && error.kind() == ErrorKind::PermissionDenied => {
            io.unseal(path)?;
            io.open(path, mode)
        }
        other => other,
    }
}
