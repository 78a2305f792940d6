//! What a mirror remembers of each authority, on disk.
//!
//! One file per authority and salt, `<key hex>.<salt hex>.json`, in the store's `streams/`. It holds
//! the high-water mark that protects against rollback, so it is replaced only as a whole and durably
//! (temporary file, fsync, rename, fsync of the directory), and a file that cannot be understood is
//! an error: it never counts as "nothing seen yet".
//!
//! Several processes may share the directory. Every change happens under a lock on it, on top of
//! what is on disk at that moment.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::gather::Found;
use crate::item::{RawItem, Salt, SignedItem};
use crate::judge::{Kind, Refusal, Standing, Verdict};
use crate::key::Authority;

/// What is known of one authority under one salt, and since when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    standing: Standing,
    first_seen: Option<SystemTime>,
    last_seen: Option<SystemTime>,
    refreshed: Option<SystemTime>,
}

impl Record {
    /// Nothing is known yet.
    pub fn new(authority: Authority, salt: Salt, kind: Kind) -> Self {
        Self {
            standing: Standing::new(authority, salt, kind),
            first_seen: None,
            last_seen: None,
            refreshed: None,
        }
    }

    /// The items and the high-water mark.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// When this mirror first saw the *value* of the held item, under whatever `seq`. Whole seconds.
    pub fn first_seen(&self) -> Option<SystemTime> {
        self.first_seen
    }

    /// When a look-up last found the held item.
    pub fn last_seen(&self) -> Option<SystemTime> {
        self.last_seen
    }

    /// When the held item was last put into the DHT, as far as this mirror knows: by itself, or at the
    /// earliest by its producer, namely after the last look-up that did not show it.
    pub fn refreshed(&self) -> Option<SystemTime> {
        self.refreshed
    }

    /// Takes items that are not known to be in the DHT, as [`Standing::take`] does, at the time
    /// `now`.
    pub fn take(&mut self, items: &[SignedItem], now: SystemTime) -> Vec<Result<Verdict, Refusal>> {
        let now = whole_seconds(now);
        let before = self.standing.held().cloned();
        let verdicts = self.standing.take(items);
        let held = self.standing.held();
        if held.map(SignedItem::value) != before.as_ref().map(SignedItem::value) {
            self.first_seen = Some(now);
        }
        if held != before.as_ref() {
            // What was put before was another item.
            self.refreshed = None;
        }
        if verdicts.iter().any(Result::is_ok) {
            self.last_seen = Some(now);
        }
        verdicts
    }

    /// Takes what a look-up found.
    pub fn take_found(&mut self, found: &Found, now: SystemTime) -> Vec<Result<Verdict, Refusal>> {
        let looked_before = self.last_seen;
        let verdicts = self.take(&found.items(), now);
        if verdicts.contains(&Ok(Verdict::Newer)) {
            // It appeared since. At the first look-up ever it may be about to be forgotten.
            self.refreshed = looked_before;
        }
        verdicts
    }

    /// Notes that the held item was put into the DHT.
    pub fn note_put(&mut self, now: SystemTime) {
        self.refreshed = Some(whole_seconds(now));
    }

    /// Whether the held item should be put again: it was not refreshed for `every`, or, by a clock
    /// that was set back since, only in the future.
    pub fn is_put_due(&self, now: SystemTime, every: Duration) -> bool {
        let Some(refreshed) = self.refreshed else {
            return true;
        };
        now.duration_since(refreshed)
            .map_or(true, |age| age >= every)
    }
}

fn whole_seconds(time: SystemTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(unix_seconds(time))
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[derive(Deserialize)]
struct Header {
    format: u32,
}

/// The file format.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordFile {
    format: u32,
    kind: RecordFileKind,
    authority: String,
    salt: String,
    held: Option<RawItem>,
    /// Seconds since 1970, as all times here.
    first_seen: Option<u64>,
    last_seen: Option<u64>,
    refreshed: Option<u64>,
    equivocations: Vec<RawItem>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RecordFileKind {
    Pointer,
    Succession,
}

const FORMAT: u32 = 1;

/// Ten items of the longest value, in hexadecimal with their names, are some 25 KiB.
const MAX_FILE_LEN: u64 = 64 * 1024;

impl From<Kind> for RecordFileKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Pointer => Self::Pointer,
            Kind::Succession => Self::Succession,
        }
    }
}

fn encode(record: &Record) -> Result<Vec<u8>, serde_json::Error> {
    let file = RecordFile {
        format: FORMAT,
        kind: record.standing.kind().into(),
        authority: record.standing.authority().to_string(),
        salt: record.standing.salt().to_hex(),
        held: record.standing.held().map(RawItem::from),
        first_seen: record.first_seen.map(unix_seconds),
        last_seen: record.last_seen.map(unix_seconds),
        refreshed: record.refreshed.map(unix_seconds),
        equivocations: record
            .standing
            .evidence()
            .iter()
            .map(RawItem::from)
            .collect(),
    };
    let mut text = serde_json::to_vec_pretty(&file)?;
    text.push(b'\n');
    Ok(text)
}

/// The text of a record, or one byte more than any record has.
fn read_bounded(file: File) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.take(MAX_FILE_LEN + 1).read_to_end(&mut text)?;
    Ok(text)
}

fn parse(text: &[u8]) -> Result<RecordFile, Damage> {
    if text.len() as u64 > MAX_FILE_LEN {
        return Err(Damage::TooLong);
    }
    // First alone, as another version's file may have other fields.
    let Header { format } = serde_json::from_slice(text).map_err(Damage::Json)?;
    if format != FORMAT {
        return Err(Damage::Format { found: format });
    }
    serde_json::from_slice(text).map_err(Damage::Json)
}

fn decode(text: &[u8], authority: Authority, salt: &Salt, kind: Kind) -> Result<Record, Damage> {
    let file = parse(text)?;
    if file.kind != kind.into()
        || file.authority != authority.to_string()
        || file.salt != salt.to_hex()
    {
        return Err(Damage::Other);
    }
    let item = |raw: &RawItem| SignedItem::try_from(raw).map_err(Damage::Item);
    let held = file.held.as_ref().map(item).transpose()?;
    let evidence = file
        .equivocations
        .iter()
        .map(item)
        .collect::<Result<Vec<_>, _>>()?;
    if held.is_some() != file.first_seen.is_some() {
        return Err(Damage::Inconsistent);
    }
    let time = |seconds: u64| {
        UNIX_EPOCH
            .checked_add(Duration::from_secs(seconds))
            .ok_or(Damage::Inconsistent)
    };
    Ok(Record {
        standing: Standing::restore(authority, salt.clone(), kind, held, &evidence)
            .ok_or(Damage::Inconsistent)?,
        first_seen: file.first_seen.map(time).transpose()?,
        last_seen: file.last_seen.map(time).transpose()?,
        refreshed: file.refreshed.map(time).transpose()?,
    })
}

/// The item in a copy of a record, of whatever authority and salt: signed as it is, it may come
/// from anywhere, so a copy carries a pointer to a host that the DHT does not reach.
///
/// # Errors
///
/// [`UnusableCopy`]; nothing else depends on the file.
pub fn carried_item(path: &Path) -> Result<SignedItem, UnusableCopy> {
    let text = File::open(path)
        .and_then(read_bounded)
        .map_err(|source| UnusableCopy::Read {
            path: path.to_owned(),
            source,
        })?;
    let damaged = |source| UnusableCopy::Damaged {
        path: path.to_owned(),
        source,
    };
    let held = parse(&text).map_err(damaged)?.held;
    let held = held.ok_or_else(|| UnusableCopy::Empty {
        path: path.to_owned(),
    })?;
    SignedItem::try_from(&held).map_err(|source| damaged(Damage::Item(source)))
}

/// A copy of a record gives no item.
#[derive(Debug, thiserror::Error)]
pub enum UnusableCopy {
    /// It is not there, or cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// It is no record, or its item is not signed by whom it names.
    #[error("{} is no copy of a file in a mirror's streams/", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: Damage,
    },
    /// The mirror it comes from had not found an item yet.
    #[error("{} holds no item yet: copy it again later", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// What is wrong with a record's file.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// Not the JSON it should be; an empty or cut file is among these.
    #[error("its text cannot be read")]
    Json(#[source] serde_json::Error),
    /// Longer than any record.
    #[error("it has more than {MAX_FILE_LEN} bytes")]
    TooLong,
    /// Written by another version.
    #[error("its format is {found}, this version reads {FORMAT}")]
    Format {
        /// The number in the file.
        found: u32,
    },
    /// The file of another authority, salt or kind.
    #[error("it is the record of something else")]
    Other,
    /// An item in it is not what its authority signed.
    #[error("an item in it does not verify")]
    Item(#[source] crate::item::InvalidRawItem),
    /// Its parts contradict each other.
    #[error("its parts contradict each other")]
    Inconsistent,
}

/// A record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file exists and cannot be understood. What it protected against is unknown, so nothing is
    /// followed before somebody decides.
    #[error(
        "the record {} is damaged; restore it from a backup, or move it away and accept that an \
         older snapshot of this authority could be followed once",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: Damage,
    },
    /// The file may exist and cannot be read.
    #[error("cannot read the record {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The new state is not durable. What was known before still is.
    #[error("cannot write the record {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The directory cannot be made, opened or locked.
    #[error("cannot use the directory {} for records", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
}

/// The directory of records. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RecordStore {
    dir: PathBuf,
}

impl RecordStore {
    /// Uses a directory, made when missing (its parent must exist).
    ///
    /// # Errors
    ///
    /// [`RecordError::Directory`].
    pub fn open(dir: &Path) -> Result<Self, RecordError> {
        match fs::create_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(RecordError::Directory {
                    path: dir.to_owned(),
                    source: error,
                });
            }
            _ => {}
        }
        let store = Self {
            dir: dir.to_owned(),
        };
        store.directory()?;
        Ok(store)
    }

    /// The file of a record.
    pub fn path(&self, authority: &Authority, salt: &Salt) -> PathBuf {
        self.dir.join(format!("{authority}.{}.json", salt.to_hex()))
    }

    /// Reads a record; a new one when there is no file.
    ///
    /// # Errors
    ///
    /// [`RecordError::Damaged`] and [`RecordError::Read`].
    pub fn load(
        &self,
        authority: &Authority,
        salt: &Salt,
        kind: Kind,
    ) -> Result<Record, RecordError> {
        let path = self.path(authority, salt);
        let file = match File::open(&path) {
            Ok(file) => file,
            // Only this says that there never was one; any other failure may hide a mark.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Record::new(*authority, salt.clone(), kind));
            }
            Err(source) => return Err(RecordError::Read { path, source }),
        };
        let text = match read_bounded(file) {
            Ok(text) => text,
            Err(source) => return Err(RecordError::Read { path, source }),
        };
        decode(&text, *authority, salt, kind)
            .map_err(|source| RecordError::Damaged { path, source })
    }

    /// Reads a record, lets `change` change it and writes it, under the lock; gives what `change`
    /// gave and the record as it is now. An unchanged record is not written.
    ///
    /// Blocks on the disk.
    ///
    /// # Errors
    ///
    /// Any [`RecordError`]. After [`RecordError::Write`] the change may or may not have become
    /// durable.
    pub fn update<T>(
        &self,
        authority: &Authority,
        salt: &Salt,
        kind: Kind,
        change: impl FnOnce(&mut Record) -> T,
    ) -> Result<(T, Record), RecordError> {
        let dir = self.directory()?;
        rustix::fs::flock(&dir, FlockOperation::LockExclusive).map_err(|error| {
            RecordError::Directory {
                path: self.dir.clone(),
                source: error.into(),
            }
        })?;
        let mut record = self.load(authority, salt, kind)?;
        let before = record.clone();
        let result = change(&mut record);
        debug_assert!(
            record.standing.high_water() >= before.standing.high_water(),
            "a high-water mark never falls"
        );
        if record != before {
            let path = self.path(authority, salt);
            replace(&dir, &path, &record).map_err(|source| RecordError::Write { path, source })?;
        }
        // Closing the directory unlocks it.
        Ok((result, record))
    }

    fn directory(&self) -> Result<File, RecordError> {
        File::open(&self.dir).map_err(|source| RecordError::Directory {
            path: self.dir.clone(),
            source,
        })
    }
}

/// Puts a record durably in the place of the one before. The caller holds the lock, so one
/// temporary name is enough, and one left over from a crash is written over.
fn replace(dir: &File, path: &Path, record: &Record) -> io::Result<()> {
    let text = encode(record)?;
    let temporary = path.with_extension("json.tmp");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o644)
        .open(&temporary)?;
    file.write_all(&text)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    dir.sync_all()
}

#[cfg(test)]
mod tests;
