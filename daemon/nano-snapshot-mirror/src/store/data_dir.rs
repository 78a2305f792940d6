//! The data directory: where things are, who may touch them now, and which snapshot is current.
//!
//! A mirror, a producer and a fetch may share one. They take `lock` for the moments in which they
//! change what is in `snapshots/`, `incoming/` and `current/`; a directory under construction or in
//! use is locked itself, with `flock` on the directory, so that a lock ends with its process.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, anyhow, bail};
use bittorrent_protocol::InfoHashV2;
use rustix::fs::FlockOperation;
use snapshot_pointer::Salt;
use tracing::warn;

use crate::kit::clock;
use crate::store::set_aside::set_aside;

use crate::store::temporary::Temporary;

/// The mode of small files; the user's mask applies.
const PUBLIC: u32 = 0o666;

/// How long an interrupted snapshot waits for the producer to come back.
const KEEP_INTERRUPTED: Duration = Duration::from_secs(24 * 3600);

/// A data directory that exists.
#[derive(Debug, Clone)]
pub(crate) struct DataDir {
    root: PathBuf,
    /// Bytes of its file system that stay free; `None` for the default.
    reserve: Option<u64>,
}

/// The name of a stream as it stands in `current/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct StreamName(String);

impl StreamName {
    /// The name of the stream with this salt: the salt itself where it is plain text that may be
    /// a file name, `default` for the empty salt, its hexadecimal digits otherwise.
    pub(crate) fn of_salt(salt: &Salt) -> Self {
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_".contains(byte);
        let name = match std::str::from_utf8(salt.as_bytes()) {
            Ok("") => "default".to_owned(),
            Ok(text) if text.bytes().all(|byte| plain(&byte)) => text.to_owned(),
            _ => format!("salt-{}", salt.to_hex()),
        };
        Self(name)
    }

    /// The name of a stream that has a section in the configuration, which allows only names that
    /// may be file names.
    pub(crate) fn of_section(name: &str) -> Self {
        Self(name.to_owned())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Holds `lock` of a data directory; released when dropped.
#[derive(Debug)]
pub(crate) struct StoreLock(
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "closing the file is the release")
    )]
    File,
);

/// Holds a directory of `snapshots/` or `incoming/`: shared by those who read it, exclusive for
/// the one who writes or removes it.
#[derive(Debug)]
pub(crate) struct DirLock(File);

impl DataDir {
    /// Opens the data directory at the configured place, and makes what is missing.
    pub(crate) fn create(given: Option<&Path>) -> Result<Self> {
        let root = Self::place(given)?;
        let dir = Self {
            root,
            reserve: None,
        };
        for part in [
            dir.snapshots(),
            dir.incoming(),
            dir.streams(),
            dir.current(),
        ] {
            fs::create_dir_all(&part).with_context(|| {
                format!(
                    "cannot make {}: choose another place with --data-dir",
                    part.display()
                )
            })?;
        }
        Ok(dir)
    }

    /// Opens a data directory that is there already.
    pub(crate) fn existing(given: Option<&Path>) -> Result<Self> {
        let root = Self::place(given)?;
        if !root.join("snapshots").is_dir() {
            bail!(
                "{} is no data directory: it has no snapshots/; name the right one with --data-dir",
                root.display()
            );
        }
        Ok(Self {
            root,
            reserve: None,
        })
    }

    /// With so many bytes of its file system that stay free; `None` for the default.
    pub(crate) fn with_reserve(self, reserve: Option<u64>) -> Self {
        Self { reserve, ..self }
    }

    pub(crate) fn reserve(&self) -> Option<u64> {
        self.reserve
    }

    fn place(given: Option<&Path>) -> Result<PathBuf> {
        let place = given
            .ok_or_else(|| anyhow!("no HOME to keep data in: name a place with --data-dir"))?;
        // Absolute, so that it means the same in every message and to every child process.
        std::path::absolute(place)
            .with_context(|| format!("--data-dir {} is no path", place.display()))
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    /// Where the snapshot with this hash is, or would be.
    pub(crate) fn snapshot(&self, id: InfoHashV2) -> PathBuf {
        self.snapshots().join(id.to_string())
    }

    pub(crate) fn incoming(&self) -> PathBuf {
        self.root.join("incoming")
    }

    /// Where damaged parts of snapshots are moved to.
    pub(crate) fn set_aside(&self) -> PathBuf {
        self.root.join("set-aside")
    }

    pub(crate) fn streams(&self) -> PathBuf {
        self.root.join("streams")
    }

    /// What the producer keeps of what it made and of what it makes.
    pub(crate) fn produced(&self) -> PathBuf {
        self.root.join("produced")
    }

    pub(crate) fn dht_nodes(&self) -> PathBuf {
        self.root.join("dht-nodes")
    }

    fn current(&self) -> PathBuf {
        self.root.join("current")
    }

    /// Waits for `lock` and takes it. Hold it for moments, never across a transfer.
    pub(crate) fn lock(&self) -> Result<StoreLock> {
        let path = self.root.join("lock");
        loop {
            let file = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(&path)
                .with_context(|| format!("cannot open {}", path.display()))?;
            rustix::fs::flock(&file, FlockOperation::LockExclusive)
                .with_context(|| format!("cannot lock {}", path.display()))?;
            // Removed meanwhile, its lock would exclude no process that comes later.
            if is_at(&file, &path)? {
                return Ok(StoreLock(file));
            }
        }
    }

    /// Makes this process the only mirror of the data directory, until it ends. The lock is on the
    /// directory itself, so that removing files in it does not let a second mirror in. Fetches and
    /// producers do not take it.
    ///
    /// # Errors
    ///
    /// When another mirror runs.
    pub(crate) fn lock_for_mirror(&self) -> Result<DirLock> {
        try_lock_dir(&self.root, FlockOperation::NonBlockingLockExclusive)?.ok_or_else(|| {
            anyhow!(
                "a mirror is running already in {}: stop it first, or name another directory with \
                 --data-dir",
                self.root.display()
            )
        })
    }

    /// The snapshots that have a directory here, in no order.
    pub(crate) fn snapshot_ids(&self) -> Result<Vec<InfoHashV2>> {
        let names = list(&self.snapshots())?;
        Ok(names.iter().filter_map(|name| name.parse().ok()).collect())
    }

    /// The current snapshot of a stream, if it has one. Something else in the place of the link counts as
    /// none: [`Self::switch`] moves it away.
    pub(crate) fn current_of(&self, stream: &StreamName) -> Result<Option<InfoHashV2>> {
        let place = self.current().join(stream.as_str());
        match read_current(&place).with_context(|| format!("cannot read {}", place.display()))? {
            Current::Snapshot(id) => Ok(Some(id)),
            Current::Nothing | Current::Foreign => Ok(None),
        }
    }

    /// All streams that have a current snapshot, by name. Other files in `current/` are left out.
    pub(crate) fn streams_with_current(&self) -> Result<Vec<(StreamName, InfoHashV2)>> {
        let mut found = Vec::new();
        for name in self.names_in_current()? {
            let stream = StreamName(name);
            if let Some(id) = self.current_of(&stream)? {
                found.push((stream, id));
            }
        }
        found.sort();
        Ok(found)
    }

    /// What lies in `current/` and names no snapshot: other programs, or people, put it there.
    pub(crate) fn foreign_in_current(&self) -> Result<Vec<PathBuf>> {
        let names = self.names_in_current()?.into_iter();
        let places = names.map(|name| self.current().join(name));
        Ok(places
            .filter(|place| matches!(read_current(place), Ok(Current::Foreign)))
            .collect())
    }

    fn names_in_current(&self) -> Result<Vec<String>> {
        let mut names = list(&self.current())?;
        names.retain(|name| !name.starts_with('.'));
        Ok(names)
    }

    /// Makes `id` the current snapshot of a stream: at every moment, and after a power cut, the
    /// link points at the old or the new one. Where the file system has no symbolic links, a small
    /// file with the same text stands in its place.
    pub(crate) fn switch(&self, stream: &StreamName, id: InfoHashV2, _: &StoreLock) -> Result<()> {
        let link = self.current().join(stream.as_str());
        // The lock makes us the only user of this name; a leftover is from a crash.
        let fresh = self.current().join(format!(".{}.new", stream.as_str()));
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", fresh.display()));
            }
            _ => {}
        }
        if matches!(read_current(&link), Ok(Current::Foreign)) {
            let to = set_aside(self, &link, &format!("current.{}", stream.as_str()))?;
            warn!(
                moved_to = %to.display(),
                "{} names no snapshot: moved it away", link.display()
            );
        }
        let target = Path::new("../snapshots").join(id.to_string());
        symlink(&target, &fresh)
            .or_else(|error| write_link(&target, &fresh).map_err(|_| error))
            .with_context(|| format!("cannot make {}", fresh.display()))?;
        fs::rename(&fresh, &link).with_context(|| format!("cannot switch {}", link.display()))?;
        sync_dir(&self.current())
    }

    /// Takes away the link of a stream whose snapshot is leaving the store.
    pub(crate) fn clear_current(&self, stream: &StreamName, _: &StoreLock) -> Result<()> {
        let link = self.current().join(stream.as_str());
        fs::remove_file(&link).with_context(|| format!("cannot remove {}", link.display()))?;
        sync_dir(&self.current())
    }

    /// Makes a new directory in `incoming/`, locked for this process until it ends or drops the
    /// lock.
    pub(crate) fn new_build(&self) -> Result<(PathBuf, DirLock)> {
        let _lock = self.lock()?;
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|error| anyhow!("no randomness: {error}"))?;
        let path = self
            .incoming()
            .join(data_encoding::HEXLOWER.encode(&random));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        let lock = try_lock_dir(&path, FlockOperation::NonBlockingLockExclusive)?
            .ok_or_else(|| anyhow!("{} is locked by another process", path.display()))?;
        Ok((path, lock))
    }

    /// A directory of `incoming/` that a process left behind, locked; `None` when it is not there or
    /// somebody's.
    pub(crate) fn take_build(&self, name: &str) -> Result<Option<(PathBuf, DirLock)>> {
        let _lock = self.lock()?;
        let path = self.incoming().join(name);
        let plain = Path::new(name).file_name() == Some(name.as_ref());
        if !(plain && path.is_dir()) {
            return Ok(None);
        }
        let lock = try_lock_dir(&path, FlockOperation::NonBlockingLockExclusive)?;
        Ok(lock.map(|lock| (path, lock)))
    }

    /// The directories of `incoming/` that the producer goes on with when it comes back soon.
    fn interrupted(&self) -> Vec<String> {
        let Ok(names) = list(&self.produced()) else {
            return Vec::new();
        };
        let build_of = |name: &String| {
            let path = self.produced().join(name);
            let is_old = is_older(&path, KEEP_INTERRUPTED).ok()?;
            if is_old || !name.ends_with(".making.json") {
                return None;
            }
            let noted: serde_json::Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
            Some(noted.get("build")?.as_str()?.to_owned())
        };
        names.iter().filter_map(build_of).collect()
    }

    /// Removes what dead processes left in `incoming/`; whatever is locked is alive and stays, and for
    /// a day what the producer can go on with. Returns how many were removed.
    pub(crate) fn clean_incoming(&self) -> Result<usize> {
        let _lock = self.lock()?;
        let interrupted = self.interrupted();
        let mut removed = 0;
        for name in list(&self.incoming())? {
            if interrupted.contains(&name) {
                continue;
            }
            let path = self.incoming().join(name);
            if try_lock_dir(&path, FlockOperation::NonBlockingLockExclusive)?.is_some() {
                remove_tree(&path)?;
                removed += 1;
            }
        }
        Ok(removed)
    }

    /// Moves a finished directory from `incoming/` to its place in `snapshots/`. A snapshot that
    /// is there already stays, and the directory is removed: the same hash is the same content.
    pub(crate) fn adopt(&self, build: &Path, id: InfoHashV2, _: &StoreLock) -> Result<PathBuf> {
        let place = self.snapshot(id);
        if place.exists() {
            remove_tree(build)?;
            return Ok(place);
        }
        fs::rename(build, &place)
            .with_context(|| format!("cannot rename {} to {}", build.display(), place.display()))?;
        sync_dir(&self.snapshots())?;
        sync_dir(&self.incoming())?;
        Ok(place)
    }

    /// Removes a snapshot, or returns `false` when some process uses it. It leaves `snapshots/` in
    /// one step, so that nobody ever sees half of it.
    pub(crate) fn remove_snapshot(&self, id: InfoHashV2, _: &StoreLock) -> Result<bool> {
        let path = self.snapshot(id);
        // Anything but a directory is used by no process.
        let _in_use = if path.is_dir() {
            match try_lock_dir(&path, FlockOperation::NonBlockingLockExclusive)? {
                Some(lock) => Some(lock),
                None => return Ok(false),
            }
        } else {
            None
        };
        let leaving = self.incoming().join(format!("removed-{id}"));
        if leaving.symlink_metadata().is_ok() {
            remove_tree(&leaving)?;
        }
        fs::rename(&path, &leaving)
            .with_context(|| format!("cannot move {} away", path.display()))?;
        sync_dir(&self.snapshots())?;
        remove_tree(&leaving)?;
        Ok(true)
    }

    /// Locks a snapshot for reading: it will not be removed, and nobody downloads into it.
    /// `None` while some process writes to it.
    pub(crate) fn share_snapshot(&self, id: InfoHashV2) -> Result<Option<DirLock>> {
        try_lock_dir(&self.snapshot(id), FlockOperation::NonBlockingLockShared)
    }

    /// Locks a snapshot for writing. `None` while any other process uses it.
    pub(crate) fn own_snapshot(&self, id: InfoHashV2) -> Result<Option<DirLock>> {
        try_lock_dir(&self.snapshot(id), FlockOperation::NonBlockingLockExclusive)
    }
}

impl DirLock {
    /// Lets others read beside us: from exclusive to shared.
    pub(crate) fn share(&self) -> Result<()> {
        rustix::fs::flock(&self.0, FlockOperation::NonBlockingLockShared)
            .context("cannot share a directory")
    }
}

fn try_lock_dir(path: &Path, operation: FlockOperation) -> Result<Option<DirLock>> {
    let dir = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    match rustix::fs::flock(&dir, operation) {
        Ok(()) => Ok(Some(DirLock(dir))),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// What stands at a name in `current/`.
enum Current {
    Nothing,
    Snapshot(InfoHashV2),
    /// Something that names no snapshot.
    Foreign,
}

/// The longest text of a file that stands for a link, in bytes: `../snapshots/`, a hash, a line's end.
const LONGEST_LINK: u64 = 128;

fn read_current(place: &Path) -> io::Result<Current> {
    let target = match fs::read_link(place) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Current::Nothing),
        // Not a link, or a file system that knows none.
        Err(error) => match place.symlink_metadata() {
            Ok(found) if found.is_file() && found.len() <= LONGEST_LINK => {
                PathBuf::from(fs::read_to_string(place).unwrap_or_default().trim_end())
            }
            Ok(found) if !found.is_symlink() => return Ok(Current::Foreign),
            _ => return Err(error),
        },
    };
    let id = target.file_name().and_then(|name| name.to_str());
    let id = id.and_then(|name| name.parse().ok());
    Ok(id.map_or(Current::Foreign, Current::Snapshot))
}

/// Writes a file that stands for a link.
fn write_link(target: &Path, place: &Path) -> io::Result<()> {
    use std::io::Write as _;
    let mut file = File::create_new(place)?;
    writeln!(file, "{}", target.display())?;
    file.sync_all()
}

/// Whether an open file is what its path names.
fn is_at(file: &File, path: &Path) -> Result<bool> {
    let open = file.metadata().context("cannot inspect a lock file")?;
    Ok(
        fs::metadata(path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (open.dev(), open.ino())),
    )
}

/// Whether a file was written more than `age` ago. A time in the future, from a clock that was wrong,
/// becomes the present time, so that the file grows old from now on.
fn is_older(path: &Path, age: Duration) -> io::Result<bool> {
    let modified = path.metadata()?.modified()?;
    let now = SystemTime::now();
    if !clock::is_past(modified, now) {
        File::open(path)?.set_modified(now)?;
        return Ok(false);
    }
    Ok(now.duration_since(modified).is_ok_and(|found| found > age))
}

/// The names in a directory that are UTF-8; everything we make is.
fn list(dir: &Path) -> Result<Vec<String>> {
    let failed = || format!("cannot list {}", dir.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).with_context(failed)? {
        if let Ok(name) = entry.with_context(failed)?.file_name().into_string() {
            names.push(name);
        }
    }
    Ok(names)
}

/// Removes a file, a link, or a directory with everything in it.
pub(crate) fn remove_tree(path: &Path) -> Result<()> {
    let is_dir = path.symlink_metadata().is_ok_and(|found| found.is_dir());
    let removed = if is_dir {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    removed.with_context(|| format!("cannot remove {}", path.display()))
}

/// Makes renames and new names in a directory survive a power cut.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .with_context(|| format!("cannot sync {}", dir.display()))
}

/// Writes a small file so that a reader, or the next start, sees all of the old or all of the new.
pub(crate) fn write_atomically(path: &Path, content: &[u8]) -> Result<()> {
    let failed = || format!("cannot write {}", path.display());
    let dir = path.parent().with_context(failed)?;
    let fresh = Temporary::beside(path, PUBLIC)?;
    let write = || {
        use std::io::Write as _;
        fresh.file().write_all(content)?;
        fresh.file().sync_all()
    };
    // What a full disk took of it is room for the next attempt.
    write().with_context(failed)?;
    fresh.put(path)?;
    sync_dir(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> InfoHashV2 {
        InfoHashV2::from_bytes([byte; 32])
    }

    fn data_dir() -> (tempfile::TempDir, DataDir) {
        let temp = tempfile::tempdir().unwrap();
        let dir = DataDir::create(Some(&temp.path().join("data"))).unwrap();
        (temp, dir)
    }

    fn stream() -> StreamName {
        StreamName::of_salt(&"daily".parse().unwrap())
    }

    #[test]
    fn salts_make_file_names() {
        let name = |salt: &[u8]| StreamName::of_salt(&Salt::new(salt).unwrap()).0;
        assert_eq!(name(b"daily"), "daily");
        assert_eq!(name(b""), "default");
        assert_eq!(name(b"../x"), "salt-2e2e2f78");
        assert_eq!(name(b"a\xff"), "salt-61ff");
    }

    #[test]
    fn switching_replaces_the_link_and_survives_a_leftover() {
        let (_temp, dir) = data_dir();
        assert_eq!(dir.current_of(&stream()).unwrap(), None);
        dir.switch(&stream(), id(1), &dir.lock().unwrap()).unwrap();
        symlink("nowhere", dir.current().join(".daily.new")).unwrap();
        dir.switch(&stream(), id(2), &dir.lock().unwrap()).unwrap();
        assert_eq!(dir.current_of(&stream()).unwrap(), Some(id(2)));
        assert_eq!(dir.streams_with_current().unwrap(), [(stream(), id(2))]);
        let target = fs::read_link(dir.root().join("current/daily")).unwrap();
        assert_eq!(target, Path::new("../snapshots").join(id(2).to_string()));
    }

    #[test]
    fn a_small_file_stands_for_a_link_where_there_are_none() {
        let (_temp, dir) = data_dir();
        let place = dir.current().join("daily");
        write_link(&Path::new("../snapshots").join(id(1).to_string()), &place).unwrap();
        assert_eq!(dir.current_of(&stream()).unwrap(), Some(id(1)));
        assert_eq!(dir.streams_with_current().unwrap(), [(stream(), id(1))]);
        dir.switch(&stream(), id(2), &dir.lock().unwrap()).unwrap();
        assert_eq!(dir.current_of(&stream()).unwrap(), Some(id(2)));
        assert!(!dir.set_aside().exists());
    }

    #[test]
    fn foreign_files_in_current_are_left_alone_until_they_stand_in_the_way() {
        let (_temp, dir) = data_dir();
        dir.switch(&stream(), id(1), &dir.lock().unwrap()).unwrap();
        let foreign = |name: &str| dir.current().join(name);
        fs::write(foreign("README"), "hello").unwrap();
        fs::write(foreign("long"), "x".repeat(10_000)).unwrap();
        fs::create_dir(foreign("lost+found")).unwrap();
        symlink("/nowhere", foreign("link")).unwrap();
        assert_eq!(dir.streams_with_current().unwrap(), [(stream(), id(1))]);
        let mut found = dir.foreign_in_current().unwrap();
        found.sort();
        assert_eq!(found, ["README", "link", "long", "lost+found"].map(foreign));
        // In the place of the link.
        for number in 2..6 {
            let place = foreign("daily");
            fs::remove_file(&place).unwrap();
            match number {
                2 => fs::write(&place, "mine").unwrap(),
                3 => fs::create_dir_all(place.join("below")).unwrap(),
                4 => symlink("/nowhere", &place).unwrap(),
                _ => symlink("daily", &place).unwrap(),
            }
            assert_eq!(dir.current_of(&stream()).unwrap(), None);
            dir.switch(&stream(), id(number), &dir.lock().unwrap())
                .unwrap();
            assert_eq!(dir.current_of(&stream()).unwrap(), Some(id(number)));
        }
    }

    #[test]
    fn one_mirror_works_with_a_directory_whatever_is_removed_from_it() {
        let (_temp, dir) = data_dir();
        let first = dir.lock_for_mirror().unwrap();
        for name in ["lock", "dht-nodes"] {
            let _ = fs::remove_file(dir.root().join(name));
        }
        let refused = dir.lock_for_mirror().unwrap_err();
        assert!(refused.to_string().contains("running already"), "{refused}");
        // A fetch and a producer go on beside it.
        drop(dir.lock().unwrap());
        drop(dir.new_build().unwrap());
        drop(first);
        dir.lock_for_mirror().unwrap();
    }

    #[test]
    fn a_lock_file_that_was_removed_while_it_was_waited_for_is_not_believed() {
        let (_temp, dir) = data_dir();
        let path = dir.root().join("lock");
        let held = dir.lock().unwrap();
        let waiting = std::thread::spawn({
            let dir = dir.clone();
            move || {
                let lock = dir.lock().unwrap();
                assert!(is_at(&lock.0, &dir.root().join("lock")).unwrap());
            }
        });
        fs::remove_file(&path).unwrap();
        drop(held);
        waiting.join().unwrap();
    }

    #[test]
    fn a_file_from_the_future_grows_old_from_now_on() {
        let (_temp, dir) = data_dir();
        let path = dir.root().join("file");
        let day = Duration::from_secs(86_400);
        fs::write(&path, "x").unwrap();
        let set = |time| File::open(&path).unwrap().set_modified(time).unwrap();
        assert!(!is_older(&path, day).unwrap());
        set(SystemTime::now() - 2 * day);
        assert!(is_older(&path, day).unwrap());
        set(SystemTime::now() + 3_650 * day);
        assert!(!is_older(&path, day).unwrap());
        let modified = path.metadata().unwrap().modified().unwrap();
        assert!(modified <= SystemTime::now());
    }

    #[test]
    fn only_builds_of_dead_processes_are_cleaned() {
        let (_temp, dir) = data_dir();
        let (alive, alive_lock) = dir.new_build().unwrap();
        let (dead, dead_lock) = dir.new_build().unwrap();
        fs::write(dead.join("half"), "x").unwrap();
        drop(dead_lock);
        assert_eq!(dir.clean_incoming().unwrap(), 1);
        assert!(alive.exists() && !dead.exists());
        drop(alive_lock);
        assert_eq!(dir.clean_incoming().unwrap(), 1);
    }

    #[test]
    fn adopting_the_same_content_twice_keeps_the_first() {
        let (_temp, dir) = data_dir();
        for _ in 0..2 {
            let (build, _lock) = dir.new_build().unwrap();
            dir.adopt(&build, id(7), &dir.lock().unwrap()).unwrap();
            assert!(!build.exists());
        }
        assert_eq!(dir.snapshot_ids().unwrap(), [id(7)]);
    }

    #[test]
    fn a_snapshot_in_use_is_not_removed() {
        let (_temp, dir) = data_dir();
        fs::create_dir(dir.snapshot(id(1))).unwrap();
        let reader = dir.share_snapshot(id(1)).unwrap().unwrap();
        assert!(dir.share_snapshot(id(1)).unwrap().is_some());
        assert!(dir.own_snapshot(id(1)).unwrap().is_none());
        assert!(!dir.remove_snapshot(id(1), &dir.lock().unwrap()).unwrap());
        drop(reader);
        assert!(dir.remove_snapshot(id(1), &dir.lock().unwrap()).unwrap());
        assert!(!dir.snapshot(id(1)).exists());
    }

    #[test]
    fn an_owner_can_let_readers_in() {
        let (_temp, dir) = data_dir();
        fs::create_dir(dir.snapshot(id(1))).unwrap();
        let owner = dir.own_snapshot(id(1)).unwrap().unwrap();
        assert!(dir.share_snapshot(id(1)).unwrap().is_none());
        owner.share().unwrap();
        assert!(dir.share_snapshot(id(1)).unwrap().is_some());
    }

    #[test]
    fn files_are_replaced_whole() {
        let (_temp, dir) = data_dir();
        let path = dir.root().join("x.json");
        write_atomically(&path, b"one").unwrap();
        write_atomically(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert!(
            list(dir.root())
                .unwrap()
                .iter()
                .all(|name| !name.contains("new"))
        );
    }
}
