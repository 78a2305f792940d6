//! The state of a node's ledger, and resuming an interrupted copy of it.
//!
//! A copy can be resumed for this reason: LMDB never writes to a page of the newest committed state. It writes other
//! pages, and then one of the two meta pages with a greater transaction number. While the newest state is still the one
//! that was being copied, all its pages are unchanged, with or without a reader slot in between. Pages that are free
//! in it may have been written to meanwhile. An uninterrupted copy has the same property: the node writes to free pages
//! during the copy, nothing in the copy refers to them, and they are overwritten when private rows are removed.
//!
//! The transaction number alone does not identify a state. After a crash of the system, a node that does not sync its
//! commits may continue from an older state and reach the same number with other blocks. The state therefore includes
//! the file's metadata: after a crash, the next commit changes its times.

use std::fmt;
use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use crate::live::LiveLedger;
use crate::live::error::CopyError;
use crate::lmdb::file::LedgerFile;
use crate::lmdb::meta::META_LEN;

/// Bytes read and written at a time.
const BUFFER: usize = 1 << 20;

/// The state of a ledger file: its newest committed transaction, and the file it is in.
///
/// Its text ([`Display`](fmt::Display)) is the same exactly for the same state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerState {
    device: u64,
    inode: u64,
    /// Bytes.
    length: u64,
    /// Seconds and nanoseconds of the last change of the content and of the inode.
    times: [i64; 4],
    /// Number of the newest committed transaction.
    transaction: u64,
    /// Bytes up to the end of the last page given out in this state.
    end: u64,
    metas: Vec<u8>,
}

impl fmt::Display for LedgerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.device, self.inode, self.length)?;
        self.times
            .iter()
            .try_for_each(|time| write!(f, "-{time}"))?;
        f.write_str("-")?;
        self.metas
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl LedgerState {
    fn read(path: &Path) -> Result<Self, CopyError> {
        let read = |source| CopyError::Read {
            path: path.to_owned(),
            source,
        };
        let file = File::open(path).map_err(read)?;
        // What came in between would show in both.
        let metadata = file.metadata().map_err(read)?;
        let ledger = LedgerFile::open(path).map_err(|source| CopyError::Source { source })?;
        let meta = ledger.meta();
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            times: [
                metadata.mtime(),
                metadata.mtime_nsec(),
                metadata.ctime(),
                metadata.ctime_nsec(),
            ],
            transaction: meta.txn(),
            end: meta.used_len().min(metadata.len()),
            metas: metas(&file, meta.page_size()).map_err(read)?,
        })
    }

    /// Whether the copy at `copy`, whole or not, was begun in this state. What cannot be read was not.
    #[must_use]
    pub fn is_of(&self, copy: &Path) -> bool {
        let read = || {
            let ledger = LedgerFile::open(copy).ok()?;
            metas(&File::open(copy).ok()?, ledger.meta().page_size()).ok()
        };
        read().is_some_and(|metas| metas == self.metas)
    }
}

/// What is written of both meta pages.
fn metas(file: &File, page_size: u32) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; 2 * META_LEN];
    let (first, second) = bytes.split_at_mut(META_LEN);
    file.read_exact_at(first, 0)?;
    file.read_exact_at(second, page_size.into())?;
    Ok(bytes)
}

impl LiveLedger {
    /// The state the ledger is in now.
    ///
    /// # Errors
    ///
    /// [`CopyError::Read`] and [`CopyError::Source`] when it cannot be read.
    pub fn state(&self) -> Result<LedgerState, CopyError> {
        LedgerState::read(self.path())
    }

    /// Writes to `out` what a copy of the state with the text `state` has from byte `from` on. As
    /// [`copy_to`](Self::copy_to) it holds the node's reader slot until all is written, and `out` may be
    /// a pipe.
    ///
    /// # Errors
    ///
    /// [`CopyError::MovedOn`] when the ledger is in another state, before anything was written; else as
    /// `copy_to`.
    pub fn copy_rest_to(&self, state: &str, from: u64, out: &mut File) -> Result<(), CopyError> {
        let moved_on = || CopyError::MovedOn {
            path: self.path().to_owned(),
        };
        // First the reader slot, then the look: from here on no page of this state is written to.
        let reader = self.reader()?;
        let now = self.state()?;
        if now.to_string() != state || reader.id() as u64 != now.transaction {
            return Err(moved_on());
        }
        let read = |source| CopyError::Read {
            path: self.path().to_owned(),
            source,
        };
        let file = File::open(self.path()).map_err(read)?;
        let mut buffer = vec![0; BUFFER];
        let mut at = from;
        while at < now.end {
            let len = BUFFER.min(usize::try_from(now.end - at).unwrap_or(BUFFER));
            let Some(chunk) = buffer.get_mut(..len) else {
                break;
            };
            file.read_exact_at(chunk, at).map_err(read)?;
            out.write_all(chunk).map_err(CopyError::from_write)?;
            at += len as u64;
        }
        drop(reader);
        Ok(())
    }
}
