//! The records that a mirror keeps of each authority, on disk.
//!
//! One file per authority and salt, `<key hex>.<salt hex>.json`, in the store's `streams/`. The
//! file contains the high-water mark that protects against rollback. So it is only replaced
//! atomically and durably, and a damaged file is an error: it never counts as "nothing seen yet".
//!
//! Several processes may share the directory. Each change takes a lock on the directory and reads
//! the file again first.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use file_kit::FileError;
use file_kit::json_file::{self, JsonFileError};
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::acceptance::{Acceptance, AuthorityState, ItemKind};
use crate::item::{Authority, RawItem, Refusal, Salt, SignedItem};
use crate::lookup_result::LookupResult;

/// The state of one authority under one salt, with the times at which its items were seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    state: AuthorityState,
    first_seen: Option<SystemTime>,
    last_seen: Option<SystemTime>,
    refreshed: Option<SystemTime>,
}

impl Record {
    /// Makes the record of an authority that was never seen.
    pub fn new(authority: Authority, salt: Salt, kind: ItemKind) -> Self {
        Self {
            state: AuthorityState::new(authority, salt, kind),
            first_seen: None,
            last_seen: None,
            refreshed: None,
        }
    }

    /// Returns the items and the high-water mark.
    pub fn state(&self) -> &AuthorityState {
        &self.state
    }

    /// Returns when this mirror first saw the *value* of the accepted item, under any `seq`. Whole
    /// seconds.
    pub fn first_seen(&self) -> Option<SystemTime> {
        self.first_seen
    }

    /// Returns when a look-up last found the accepted item.
    pub fn last_seen(&self) -> Option<SystemTime> {
        self.last_seen
    }

    /// Returns when the accepted item was last put into the DHT, as far as this mirror knows. For
    /// an item of a producer this is the last look-up that did not find it.
    pub fn refreshed(&self) -> Option<SystemTime> {
        self.refreshed
    }

    /// Takes items that are not known to be in the DHT, as [`AuthorityState::take`] does, at the time
    /// `now`.
    pub fn take(
        &mut self,
        items: &[SignedItem],
        now: SystemTime,
    ) -> Vec<Result<Acceptance, Refusal>> {
        let now = whole_seconds(now);
        let before = self.state.accepted().cloned();
        let verdicts = self.state.take(items);
        let accepted = self.state.accepted();
        if accepted.map(SignedItem::value) != before.as_ref().map(SignedItem::value) {
            self.first_seen = Some(now);
        }
        if accepted != before.as_ref() {
            // What was put before was another item.
            self.refreshed = None;
        }
        if verdicts.iter().any(Result::is_ok) {
            self.last_seen = Some(now);
        }
        verdicts
    }

    /// Takes the items of a look-up, as [`Self::take`] does.
    pub fn take_found(
        &mut self,
        found: &LookupResult,
        now: SystemTime,
    ) -> Vec<Result<Acceptance, Refusal>> {
        let looked_before = self.last_seen;
        let verdicts = self.take(&found.items(), now);
        if verdicts.contains(&Ok(Acceptance::Newer)) {
            // It was published after that look-up. At the first look-up of all, the age of the item
            // is unknown.
            self.refreshed = looked_before;
        }
        verdicts
    }

    /// Notes that the accepted item was put into the DHT.
    pub fn note_put(&mut self, now: SystemTime) {
        self.refreshed = Some(whole_seconds(now));
    }

    /// Returns whether the accepted item should be put again: it was not refreshed for `every`, or
    /// the time of its refresh is in the future because the clock was set back.
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

/// The JSON of a record file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordFile {
    format: u32,
    kind: RecordFileKind,
    authority: Authority,
    salt: String,
    held: Option<RawItem>,
    /// Seconds since 1970, like all times here.
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

impl From<ItemKind> for RecordFileKind {
    fn from(kind: ItemKind) -> Self {
        match kind {
            ItemKind::Pointer => Self::Pointer,
            ItemKind::Succession => Self::Succession,
        }
    }
}

impl RecordFile {
    fn of(record: &Record) -> Self {
        let state = &record.state;
        Self {
            format: FORMAT,
            kind: state.kind().into(),
            authority: *state.authority(),
            salt: state.salt().to_hex(),
            held: state.accepted().map(RawItem::from),
            first_seen: record.first_seen.map(unix_seconds),
            last_seen: record.last_seen.map(unix_seconds),
            refreshed: record.refreshed.map(unix_seconds),
            equivocations: state.evidence().iter().map(RawItem::from).collect(),
        }
    }
}

/// Reads the text of a record; `None` when there is no file.
fn read(path: &Path) -> Result<Option<Vec<u8>>, ReadFailure> {
    file_kit::fs::read(path, MAX_FILE_LEN).map_err(|error| match error {
        FileError::TooLong { .. } => ReadFailure::Damaged(RecordDamage::TooLong),
        error => ReadFailure::Io(error.into_io()),
    })
}

enum ReadFailure {
    Damaged(RecordDamage),
    Io(io::Error),
}

fn parse(text: &[u8]) -> Result<RecordFile, RecordDamage> {
    // Parsed on its own first, because another version's file may have other fields.
    let Header { format } = serde_json::from_slice(text).map_err(RecordDamage::Json)?;
    if format != FORMAT {
        return Err(RecordDamage::Format { found: format });
    }
    serde_json::from_slice(text).map_err(RecordDamage::Json)
}

fn decode(
    text: &[u8],
    authority: Authority,
    salt: &Salt,
    kind: ItemKind,
) -> Result<Record, RecordDamage> {
    let file = parse(text)?;
    if file.kind != kind.into() || file.authority != authority || file.salt != salt.to_hex() {
        return Err(RecordDamage::Other);
    }
    let item = |raw: &RawItem| SignedItem::try_from(raw).map_err(RecordDamage::Item);
    let held = file.held.as_ref().map(item).transpose()?;
    let evidence = file
        .equivocations
        .iter()
        .map(item)
        .collect::<Result<Vec<_>, _>>()?;
    if held.is_some() != file.first_seen.is_some() {
        return Err(RecordDamage::Inconsistent);
    }
    let time = |seconds: u64| {
        UNIX_EPOCH
            .checked_add(Duration::from_secs(seconds))
            .ok_or(RecordDamage::Inconsistent)
    };
    Ok(Record {
        state: AuthorityState::restore(authority, salt.clone(), kind, held, &evidence)
            .ok_or(RecordDamage::Inconsistent)?,
        first_seen: file.first_seen.map(time).transpose()?,
        last_seen: file.last_seen.map(time).transpose()?,
        refreshed: file.refreshed.map(time).transpose()?,
    })
}

/// Reads the item in a copy of a record, of any authority and salt. Items are signed, so a copy may
/// come from any source and carry a pointer to a host without access to the DHT.
///
/// # Errors
///
/// [`UnusableCopy`]. No mark depends on the file.
pub fn carried_item(path: &Path) -> Result<SignedItem, UnusableCopy> {
    let damaged = |source| UnusableCopy::Damaged {
        path: path.to_owned(),
        source,
    };
    let unreadable = |source| UnusableCopy::Read {
        path: path.to_owned(),
        source,
    };
    let text = match read(path) {
        Ok(Some(text)) => text,
        Ok(None) => return Err(unreadable(io::ErrorKind::NotFound.into())),
        Err(ReadFailure::Io(source)) => return Err(unreadable(source)),
        Err(ReadFailure::Damaged(source)) => return Err(damaged(source)),
    };
    let held = parse(&text).map_err(damaged)?.held;
    let held = held.ok_or_else(|| UnusableCopy::Empty {
        path: path.to_owned(),
    })?;
    SignedItem::try_from(&held).map_err(|source| damaged(RecordDamage::Item(source)))
}

/// A copy of a record contains no usable item.
#[derive(Debug, thiserror::Error)]
pub enum UnusableCopy {
    /// The file is missing or cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The file is no record, or its authority did not sign the item.
    #[error("{} is no copy of a file in a mirror's streams/", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with the file.
        #[source]
        source: RecordDamage,
    },
    /// The mirror that wrote the file had not found an item yet.
    #[error("{} holds no item yet: copy it again later", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// What is wrong with a record's file.
#[derive(Debug, thiserror::Error)]
pub enum RecordDamage {
    /// It is not the JSON of a record; an empty or cut file is among these.
    #[error("its text cannot be read")]
    Json(#[source] serde_json::Error),
    /// It is longer than any record.
    #[error("it has more than {MAX_FILE_LEN} bytes")]
    TooLong,
    /// Another version wrote it.
    #[error("its format is {found}, this version reads {FORMAT}")]
    Format {
        /// The number in the file.
        found: u32,
    },
    /// It is the record of another authority, salt or kind.
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
    /// The file exists and cannot be parsed. The high-water mark is unknown, so the stream is not
    /// followed until the operator decides.
    #[error(
        "the record {} is damaged; restore it from a backup, or move it away and accept that an \
         older snapshot of this authority could be followed once",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with the file.
        #[source]
        source: RecordDamage,
    },
    /// The file cannot be read, although it may exist.
    #[error("cannot read the record {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: io::Error,
    },
    /// The new state is not durable. The old one still is.
    #[error("cannot write the record {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The operation that failed.
        #[source]
        source: JsonFileError,
    },
    /// The directory cannot be created, opened or locked.
    #[error("cannot use the directory {} for records", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// The error of the operating system.
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
    /// Opens a directory, and creates it if missing (its parent must exist).
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

    /// Returns the path of a record.
    pub fn path(&self, authority: &Authority, salt: &Salt) -> PathBuf {
        self.dir.join(format!("{authority}.{}.json", salt.to_hex()))
    }

    /// Reads a record. Returns a new one if there is no file.
    ///
    /// # Errors
    ///
    /// [`RecordError::Damaged`] and [`RecordError::Read`].
    pub fn load(
        &self,
        authority: &Authority,
        salt: &Salt,
        kind: ItemKind,
    ) -> Result<Record, RecordError> {
        let path = self.path(authority, salt);
        let text = match read(&path) {
            Ok(Some(text)) => text,
            // Only a missing file proves that there was no mark; any other failure may hide one.
            Ok(None) => return Ok(Record::new(*authority, salt.clone(), kind)),
            Err(ReadFailure::Io(source)) => return Err(RecordError::Read { path, source }),
            Err(ReadFailure::Damaged(source)) => {
                return Err(RecordError::Damaged { path, source });
            }
        };
        decode(&text, *authority, salt, kind)
            .map_err(|source| RecordError::Damaged { path, source })
    }

    /// Reads a record, applies `change` and writes it, under the lock. Returns the result of
    /// `change` and the new record. An unchanged record is not written.
    ///
    /// Blocks the thread on disk I/O.
    ///
    /// # Errors
    ///
    /// Any [`RecordError`]. After [`RecordError::Write`] the change may or may not have become
    /// durable.
    pub fn update<T>(
        &self,
        authority: &Authority,
        salt: &Salt,
        kind: ItemKind,
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
            record.state.high_water() >= before.state.high_water(),
            "a high-water mark never falls"
        );
        if record != before {
            let path = self.path(authority, salt);
            json_file::write(&path, &RecordFile::of(&record))
                .map_err(|source| RecordError::Write { path, source })?;
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

#[cfg(test)]
mod tests;
