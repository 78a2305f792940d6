//! A test double of a disk that loses what was not synced, as in a power failure.
//!
//! A [`ForgetfulDisk`] keeps files in memory, each as its programs see it and as the platter has it.
//! Between two syncs the platter may get any part of what was written, torn into sectors, and any of
//! the changes to a directory, in any combination: [`ForgetfulDisk::crash`] rolls the dice. A sync
//! that was made to [fail](ForgetfulDisk::fail) does what Linux does: some of what was to be written
//! is forgotten, the next sync succeeds, and programs go on seeing what is not on the platter.
//! [`ForgetfulDisk::restart`] is what a program finds that was killed: everything it wrote.

mod change;
mod file;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::disk::io::Io;
use crate::sync::lock;

use change::{Change, survivors};

pub use change::Dice;

/// The node of the root directory.
const ROOT: u64 = 1;

/// An operation that can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Opening or creating a file.
    Open,
    /// Writing to a file, or changing its length.
    Write,
    /// Syncing a file: what it was to make durable is lost.
    Sync,
    /// Syncing a directory.
    SyncDirectory,
    /// Renaming a file.
    Rename,
}

/// A disk in memory. Clones are the same disk.
#[derive(Debug, Clone)]
pub struct ForgetfulDisk(Arc<Mutex<Disk>>);

#[derive(Debug)]
struct Disk {
    nodes: BTreeMap<u64, Node>,
    next: u64,
    clock: i128,
    changes: u64,
    power_for: Option<u64>,
    reflinks: bool,
    written: u64,
    room: Option<u64>,
    failures: Vec<Failure>,
    scratches: Vec<(PathBuf, Range<u64>)>,
    hook: Option<Hook>,
}

/// A hook that runs before an operation.
struct Hook {
    operation: Operation,
    path: String,
    run: Box<dyn FnOnce() + Send>,
}

impl std::fmt::Debug for Hook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "before {:?} of {}", self.operation, self.path)
    }
}

#[derive(Debug)]
struct Failure {
    operation: Operation,
    path: String,
    kind: ErrorKind,
    /// How many times it is still skipped.
    skip: u32,
    times: u32,
}

#[derive(Debug)]
enum Node {
    Directory(Directory),
    Regular(Regular),
}

#[derive(Debug, Default)]
struct Directory {
    seen: BTreeMap<OsString, u64>,
    durable: BTreeMap<OsString, u64>,
    pending: Vec<EntryChange>,
}

#[derive(Debug, Clone)]
enum EntryChange {
    Set(OsString, u64),
    Remove(OsString),
    Rename(OsString, OsString, u64),
}

impl EntryChange {
    fn apply(self, entries: &mut BTreeMap<OsString, u64>) {
        match self {
            Self::Set(name, node) => {
                entries.insert(name, node);
            }
            Self::Remove(name) => {
                entries.remove(&name);
            }
            Self::Rename(from, to, node) => {
                entries.remove(&from);
                entries.insert(to, node);
            }
        }
    }
}

#[derive(Debug)]
struct Regular {
    /// What programs see: a real file, so that there is a descriptor.
    seen: Arc<File>,
    modified: i128,
    durable: Vec<u8>,
    durable_modified: i128,
    pending: Vec<Change>,
    read_only: bool,
}

impl Regular {
    fn new(bytes: Vec<u8>, modified: i128) -> io::Result<Self> {
        let file = rustix::fs::memfd_create("forgetful", rustix::fs::MemfdFlags::CLOEXEC)?;
        let file = File::from(file);
        file.write_all_at(&bytes, 0)?;
        Ok(Self {
            seen: Arc::new(file),
            modified,
            durable: bytes,
            durable_modified: modified,
            pending: Vec::new(),
            read_only: false,
        })
    }
}

impl Default for ForgetfulDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl ForgetfulDisk {
    /// Makes an empty disk.
    pub fn new() -> Self {
        let root = Node::Directory(Directory::default());
        Self(Arc::new(Mutex::new(Disk {
            nodes: BTreeMap::from([(ROOT, root)]),
            next: ROOT + 1,
            clock: 0,
            changes: 0,
            power_for: None,
            reflinks: false,
            written: 0,
            room: None,
            failures: Vec::new(),
            scratches: Vec::new(),
            hook: None,
        })))
    }

    /// Returns the disk as an [`Io`].
    pub fn io(&self) -> Arc<dyn Io> {
        Arc::new(self.clone())
    }

    /// Returns the same disk, with support for reflinks.
    #[must_use]
    pub fn with_reflinks(self) -> Self {
        self.disk().reflinks = true;
        self
    }

    /// Lets `bytes` more bytes be written; then the disk is full. Removing files frees nothing.
    pub fn fill_up_after(&self, bytes: u64) {
        self.disk().room = Some(bytes);
    }

    /// Returns whether the bound of [`Self::fill_up_after`] was reached.
    pub fn is_full(&self) -> bool {
        self.disk().room == Some(0)
    }

    /// Removes the bound of [`Self::fill_up_after`].
    pub fn make_room(&self) {
        self.disk().room = None;
    }

    /// Returns the number of bytes written.
    pub fn written(&self) -> u64 {
        self.disk().written
    }

    /// Returns the number of changes and syncs.
    pub fn changes(&self) -> u64 {
        self.disk().changes
    }

    /// Lets this many more changes and syncs pass, then fails everything: the power is gone.
    pub fn lose_power_after(&self, changes: u64) {
        let mut disk = self.disk();
        disk.power_for = Some(changes);
    }

    /// Returns whether the power is gone.
    pub fn is_dead(&self) -> bool {
        self.disk().powered().is_err()
    }

    /// Makes the next operations of a kind fail on paths that contain `path`. A failing write is
    /// done in part.
    pub fn fail(&self, operation: Operation, path: &str, kind: ErrorKind, times: u32) {
        self.fail_later(operation, path, kind, 0, times);
    }

    /// Does as [`Self::fail`], after letting the operation succeed `skip` times.
    pub fn fail_later(
        &self,
        operation: Operation,
        path: &str,
        kind: ErrorKind,
        skip: u32,
        times: u32,
    ) {
        self.disk().failures.push(Failure {
            operation,
            path: path.to_owned(),
            kind,
            skip,
            times,
        });
    }

    /// Runs a function right before a file whose path contains `path` is next written or synced, on
    /// the same thread: an action of another thread at that moment.
    pub fn before(&self, operation: Operation, path: &str, run: impl FnOnce() + Send + 'static) {
        self.disk().hook = Some(Hook {
            operation,
            path: path.to_owned(),
            run: Box::new(run),
        });
    }

    fn run_hook(&self, operation: Operation, path: &Path) {
        let shown = path.to_string_lossy();
        let meant =
            |hook: &mut Hook| hook.operation == operation && shown.contains(hook.path.as_str());
        let hook = self.disk().hook.take_if(meant);
        if let Some(hook) = hook {
            (hook.run)();
        }
    }

    /// Makes all operations succeed again.
    pub fn heal(&self) {
        self.disk().failures.clear();
    }

    /// Returns the disk as the next process finds it after a kill: with everything that was
    /// written, durable or not. The old disk and its files fail from then on.
    pub fn restart(&self) -> Self {
        let mut disk = self.disk();
        disk.power_for = Some(0);
        Self(Arc::new(Mutex::new(Disk {
            nodes: std::mem::take(&mut disk.nodes),
            next: disk.next,
            clock: disk.clock,
            changes: 0,
            power_for: None,
            reflinks: disk.reflinks,
            written: 0,
            room: None,
            failures: Vec::new(),
            scratches: Vec::new(),
            hook: None,
        })))
    }

    /// Returns the disk as it may be after a power failure.
    ///
    /// # Errors
    ///
    /// When the kernel gives no memory.
    pub fn crash(&self, dice: &mut Dice) -> io::Result<Self> {
        let disk = self.disk();
        let mut nodes = BTreeMap::new();
        // With some dice nothing or everything survives: what most disks do most of the time.
        let (all, none) = (dice.below(8) == 0, dice.below(8) == 0);
        let survives = |dice: &mut Dice| all || (!none && dice.toss());
        for (number, node) in &disk.nodes {
            let found = match node {
                Node::Directory(directory) => {
                    let mut entries = directory.durable.clone();
                    for change in &directory.pending {
                        if survives(dice) {
                            change.clone().apply(&mut entries);
                        }
                    }
                    Node::Directory(Directory {
                        seen: entries.clone(),
                        durable: entries,
                        pending: Vec::new(),
                    })
                }
                Node::Regular(file) => {
                    let mut bytes = file.durable.clone();
                    if all {
                        file.pending
                            .iter()
                            .for_each(|change| change.apply(&mut bytes));
                    } else if !none {
                        survivors(&file.pending, &mut bytes, dice);
                    }
                    let modified = if survives(dice) {
                        file.modified
                    } else {
                        file.durable_modified
                    };
                    let mut found = Regular::new(bytes, modified)?;
                    found.read_only = file.read_only;
                    Node::Regular(found)
                }
            };
            nodes.insert(*number, found);
        }
        Ok(Self(Arc::new(Mutex::new(Disk {
            nodes,
            next: disk.next,
            clock: disk.clock,
            changes: 0,
            power_for: None,
            reflinks: disk.reflinks,
            written: 0,
            room: None,
            failures: Vec::new(),
            scratches: Vec::new(),
            hook: None,
        }))))
    }

    /// Returns what a program reads from a file.
    ///
    /// # Errors
    ///
    /// When there is no such file.
    pub fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let disk = self.disk();
        let node = disk.find(path)?;
        read_all(&disk.regular(node)?.seen)
    }

    /// Changes a file as another program does, durably: writes bytes at a position.
    ///
    /// # Errors
    ///
    /// When there is no such file.
    pub fn meddle(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.disk();
        let node = disk.find(path)?;
        disk.clock += 1;
        let now = disk.clock;
        let file = disk.regular_mut(node)?;
        file.seen.write_all_at(bytes, offset)?;
        Change::Write(offset, bytes.to_vec()).apply(&mut file.durable);
        (file.modified, file.durable_modified) = (now, now);
        Ok(())
    }

    /// Changes a file as bit rot does: only the bytes change.
    ///
    /// # Errors
    ///
    /// When there is no such file.
    pub fn rot(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.disk();
        let node = disk.find(path)?;
        let file = disk.regular_mut(node)?;
        file.seen.write_all_at(bytes, offset)?;
        Change::Write(offset, bytes.to_vec()).apply(&mut file.durable);
        Ok(())
    }

    /// Does as [`Self::rot`], but hidden while the file is in the page cache.
    ///
    /// # Errors
    ///
    /// When there is no such file.
    pub fn rot_on_disk(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut disk = self.disk();
        let node = disk.find(path)?;
        Change::Write(offset, bytes.to_vec()).apply(&mut disk.regular_mut(node)?.durable);
        Ok(())
    }

    /// Makes bytes of a file unreadable.
    pub fn scratch(&self, path: &Path, bytes: Range<u64>) {
        self.disk().scratches.push((path.to_owned(), bytes));
    }

    /// Returns the paths of all files.
    pub fn files(&self) -> BTreeSet<PathBuf> {
        let disk = self.disk();
        let mut found = BTreeSet::new();
        let mut waiting = vec![(PathBuf::from("/"), ROOT)];
        while let Some((path, node)) = waiting.pop() {
            match disk.nodes.get(&node) {
                Some(Node::Directory(directory)) => waiting.extend(
                    directory
                        .seen
                        .iter()
                        .map(|(name, node)| (path.join(name), *node)),
                ),
                Some(Node::Regular(_)) => {
                    found.insert(path);
                }
                None => {}
            }
        }
        found
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        lock(&self.0)
    }
}

fn read_all(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; file.metadata()?.len() as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

impl Disk {
    /// Counts a change, unless the power is gone or it was made to fail.
    fn change(&mut self, operation: Operation, path: &Path) -> io::Result<()> {
        self.powered()?;
        if let Some(left) = &mut self.power_for {
            *left -= 1;
        }
        self.changes += 1;
        let shown = path.to_string_lossy();
        let failure = self.failures.iter_mut().find_map(|failure| {
            let meant = failure.times > 0
                && failure.operation == operation
                && shown.contains(failure.path.as_str());
            if !meant {
                return None;
            }
            match failure.skip.checked_sub(1) {
                Some(left) => {
                    failure.skip = left;
                    None
                }
                None => {
                    failure.times -= 1;
                    Some(failure.kind)
                }
            }
        });
        failure.map_or(Ok(()), |kind| Err(kind.into()))
    }

    fn powered(&self) -> io::Result<()> {
        match self.power_for {
            Some(0) => Err(io::Error::other("the power is gone")),
            _ => Ok(()),
        }
    }

    fn find(&self, path: &Path) -> io::Result<u64> {
        let mut node = ROOT;
        for name in path.strip_prefix("/").unwrap_or(path) {
            let directory = self.directory(node)?;
            node = *directory.seen.get(name).ok_or(ErrorKind::NotFound)?;
        }
        Ok(node)
    }

    fn split(&self, path: &Path) -> io::Result<(u64, OsString)> {
        let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
        let above = path.parent().ok_or(ErrorKind::InvalidInput)?;
        Ok((self.find(above)?, name.to_owned()))
    }

    fn directory(&self, node: u64) -> io::Result<&Directory> {
        match self.nodes.get(&node) {
            Some(Node::Directory(directory)) => Ok(directory),
            _ => Err(ErrorKind::NotADirectory.into()),
        }
    }

    fn enter(&mut self, directory: u64, change: EntryChange) -> io::Result<()> {
        match self.nodes.get_mut(&directory) {
            Some(Node::Directory(directory)) => {
                change.clone().apply(&mut directory.seen);
                directory.pending.push(change);
                Ok(())
            }
            _ => Err(ErrorKind::NotADirectory.into()),
        }
    }

    fn regular(&self, node: u64) -> io::Result<&Regular> {
        match self.nodes.get(&node) {
            Some(Node::Regular(file)) => Ok(file),
            _ => Err(ErrorKind::IsADirectory.into()),
        }
    }

    fn regular_mut(&mut self, node: u64) -> io::Result<&mut Regular> {
        match self.nodes.get_mut(&node) {
            Some(Node::Regular(file)) => Ok(file),
            _ => Err(ErrorKind::IsADirectory.into()),
        }
    }

    fn add(&mut self, node: Node) -> u64 {
        let number = self.next;
        self.next += 1;
        self.nodes.insert(number, node);
        number
    }

    fn set_length(&mut self, node: u64, length: u64) -> io::Result<()> {
        self.clock += 1;
        let now = self.clock;
        let file = self.regular_mut(node)?;
        file.seen.set_len(length)?;
        file.pending.push(Change::Length(length));
        file.modified = now;
        Ok(())
    }
}
