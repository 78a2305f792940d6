//! The files of a generation. Only some are open at a time, because a torrent may have more files
//! than a process may have descriptors.

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

/// The kind of files in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The content files that are not empty.
    Content,
    /// The leaf hashes of files of more than one block.
    Leaves,
}

impl Kind {
    /// Returns the most files that stay open. Processes may have 1024 descriptors by default.
    const fn most_open(self) -> usize {
        match self {
            Self::Content => 64,
            Self::Leaves => 32,
        }
    }
}

/// Files of one kind by number. They are opened when needed, and the recently used ones stay open.
///
/// A file that was written to is synced before it is closed. If that fails, the next [`Self::sync`]
/// returns the error. Locks are taken in this order: `closing`, `slots`.
#[derive(Debug)]
pub(crate) struct FileTable {
    io: Arc<dyn Io>,
    paths: Paths,
    info: Arc<Info>,
    kind: Kind,
    writable: AtomicBool,
    slots: Mutex<Slots>,
    /// Locked while a file is synced to be closed, so that [`FileTable::sync`] waits for it. Has
    /// the error of such a sync.
    closing: Mutex<Option<StoreError>>,
}

#[derive(Debug, Default)]
struct Slots {
    open: HashMap<u32, Slot>,
    /// The identities of the files when they were first opened or sealed.
    identities: HashMap<u32, Identity>,
    /// Counts uses, to find the least recently used file.
    clock: u64,
}

#[derive(Debug)]
struct Slot {
    file: Arc<dyn IoFile>,
    /// Whether the file was written to since it was last synced.
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

    /// Returns the files of this kind.
    pub(crate) fn all(&self) -> impl Iterator<Item = FileIndex> + '_ {
        let layout = self.info.layout();
        let numbered = (0..).zip(layout.files());
        numbered
            .filter_map(|(number, _)| layout.file_index(number))
            .filter(|file| self.has(*file))
    }

    /// Returns whether a torrent's file has a file of this kind. Empty files have none, and the
    /// leaf of a single block is the root.
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

    /// Returns the error of a failed operation on a file.
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

    /// Sets whether files are opened for writing. All files must be synced. Users of an open file
    /// keep it.
    pub(crate) fn set_writable(&self, writable: bool) {
        let mut slots = self.slots();
        if self.writable.swap(writable, Ordering::AcqRel) != writable {
            slots.open.clear();
        }
    }

    /// Returns a file if it is open right now. Never waits for a disk.
    pub(crate) fn open_file(&self, file: FileIndex) -> Option<Arc<dyn IoFile>> {
        let mut slots = self.slots();
        slots.clock += 1;
        let now = slots.clock;
        let slot = slots.open.get_mut(&file.get())?;
        slot.used = now;
        Some(slot.file.clone())
    }

    /// Returns a file to read from, and opens it if needed.
    pub(crate) fn get(&self, file: FileIndex) -> Result<Arc<dyn IoFile>, StoreError> {
        if let Some(open) = self.open_file(file) {
            return Ok(open);
        }
        let opened = self.open(file)?;
        let mut slots = self.slots();
        let room = slots.open.len() < self.kind.most_open() || {
            // Closes clean files only, so that readers never wait for the sync of another file.
            let clean = slots.last_used(|slot| !slot.dirty);
            clean.is_some_and(|number| slots.open.remove(&number).is_some())
        };
        Ok(if room {
            slots.keep(file, opened)
        } else {
            opened
        })
    }

    /// Returns a file to write to. It stays in the table while it is in use.
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

    /// Opens a file, and checks that it was not replaced.
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

    /// Writes all slices in a row from a position of a file on.
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

    /// Makes a change to a file that has to be synced.
    pub(crate) fn change(
        &self,
        file: FileIndex,
        operation: Operation,
        change: impl FnOnce(&dyn IoFile) -> io::Result<()>,
    ) -> Result<(), StoreError> {
        let open = self.get_to_write(file)?;
        let changed = change(&*open).map_err(self.failed(operation, file));
        // Set after the change, because a sync during it may have missed it, and also if the change
        // failed, because it may be done in part. Files in use are not closed.
        if let Some(slot) = self.slots().open.get_mut(&file.get()) {
            slot.dirty = true;
        }
        changed
    }

    /// Makes all earlier writes to some files durable, given by number. After an error, all writes
    /// to any file since the last success may be lost.
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
            // A closed file was synced, but the kernel may have reported a failure to a descriptor
            // of another process only. And earlier processes may have written to it.
            let open = open.map_or_else(|| self.open(file), Ok)?;
            open.sync_data()
                .map_err(self.failed(Operation::Sync, file))?;
        }
        self.closing().take().map_or(Ok(()), Err)
    }

    /// Returns the identity of a file when it was first opened or sealed; `None` if it has no file
    /// of this kind.
    pub(crate) fn identity(&self, file: FileIndex) -> Option<Identity> {
        self.slots().identities.get(&file.get()).copied()
    }

    /// Makes a file read-only, durably, and records its new identity.
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
    /// Returns the least recently used file that is not in use; clean files come first.
    fn last_used(&self, which: impl Fn(&Slot) -> bool) -> Option<u32> {
        self.open
            .iter()
            .filter(|(_, slot)| Arc::strong_count(&slot.file) == 1 && which(slot))
            .min_by_key(|(_, slot)| (slot.dirty, slot.used))
            .map(|(number, _)| *number)
    }

    /// Keeps a file that was just opened, unless another thread opened it first.
    fn keep(&mut self, file: FileIndex, opened: Arc<dyn IoFile>) -> Arc<dyn IoFile> {
        let fresh = Slot {
            file: opened,
            dirty: false,
            used: self.clock,
        };
        self.open.entry(file.get()).or_insert(fresh).file.clone()
    }
}

/// Opens the leaf hashes of a file. Creates an empty file if they are missing:
/// [`crate::TorrentStore::verify_all`] can compute them again. Those of a sealed generation may be
/// read-only for this user.
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

/// Opens a content file. If it was sealed, makes it writable for its owner first.
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
