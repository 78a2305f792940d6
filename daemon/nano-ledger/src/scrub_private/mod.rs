//! Removes the node's private data from a copy.
//!
//! `peers` contains the addresses of peers of the producer's node, `online_weight` its samples of the online weight, and
//! `final_votes` its votes. Nodes fill all three again. Emptying the tables is not enough: LMDB never overwrites rows.
//! Old rows stay in free pages, and, since it writes pages from buffers it used before, in the unused middle of
//! pages of any other table (314 whole rows of `final_votes` in pages of blocks in a ledger of 4 MB). There are three
//! steps:
//!
//! 1. LMDB empties the tables in a transaction of its own. Their pages join the list of free pages, as
//!    the node that will use the copy can use them; the pages of other tables stay where they are.
//! 2. Free pages with such rows, recognised by the sizes of keys and values, are filled with zeros.
//! 3. The unused middle of every other page is filled with zeros.
//!
//! The treatment of a page depends only on its bytes and on whether it is free. Pages that do not change from one day to
//! the next therefore do not change in the scrubbed copies either.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use heed::CommitOrAbort;
use heed::types::Bytes;

use crate::bytes::{u16_at, u64_at};
use crate::lmdb::env;
use crate::lmdb::error::LedgerError;
use crate::lmdb::file::LedgerFile;
use crate::lmdb::free_list;
use crate::lmdb::meta::{META_LEN, PAGE_HEADER};
use crate::lmdb::page::{NodeValue, Page, PageKind};
use crate::lmdb::tables::find;
use crate::lmdb::walk::Value;
use crate::summary::ledger_tables;

/// The tables that are emptied, and the bytes of their keys and values.
const PRIVATE: [(&str, usize, usize); 3] = [
    ("peers", 18, 8),
    ("online_weight", 8, 16),
    ("final_votes", 64, 32),
];

/// Bytes read and written at a time; a multiple of every page size.
const CHUNK: usize = 1 << 20;

/// The result of scrubbing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ScrubReport {
    /// The emptied tables and the rows each had.
    pub cleared: Vec<(&'static str, u64)>,
    /// Pages of these tables, filled with zeros.
    pub pages_in_use: u64,
    /// Free pages with rows of these tables, filled with zeros.
    pub pages_stale: u64,
    /// Pages of which only the unused middle was filled with zeros.
    pub pages_trimmed: u64,
}

/// Why a copy could not be scrubbed. The file is neither the original copy nor a scrubbed one then.
#[derive(Debug, thiserror::Error)]
pub enum ScrubError {
    /// The copy is no sound ledger.
    #[error("the copy cannot be read")]
    Read(#[from] LedgerError),
    /// LMDB could not empty the tables.
    #[error("LMDB cannot empty tables of {}", path.display())]
    Lmdb {
        /// The copy.
        path: PathBuf,
        /// Its answer.
        #[source]
        source: heed::Error,
    },
    /// The list of free pages contradicts itself, so that pages in use could be taken for free ones.
    #[error("the list of free pages of {} is damaged: {detail}", path.display())]
    FreeList {
        /// The copy.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// The copy could not be read or written.
    #[error("cannot overwrite pages of {}", path.display())]
    Write {
        /// The copy.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: std::io::Error,
    },
}

/// Empties `peers`, `online_weight` and `final_votes` of the ledger at `path` and overwrites every
/// trace of their rows, then syncs the file. The same file becomes the same bytes.
///
/// `path` must be a copy that this program made of a trusted ledger, and no other process may have it open: LMDB maps it
/// and takes no lock.
///
/// # Errors
///
/// [`ScrubError`]; discard the copy then.
pub fn scrub_copy(path: &Path) -> Result<ScrubReport, ScrubError> {
    let mut report = ScrubReport::default();
    let ledger = LedgerFile::open(path)?;
    let tables = ledger_tables(&ledger)?;
    for (name, ..) in PRIVATE {
        if let Some(table) = find(&tables, name) {
            report.cleared.push((name, table.tree.entries()));
            report.pages_in_use += table.tree.pages();
        }
    }
    drop(ledger);
    let full: Vec<_> = report
        .cleared
        .iter()
        .filter_map(|(name, rows)| (*rows > 0).then_some(*name))
        .collect();
    if !full.is_empty() {
        empty(path, &full).map_err(|source| ScrubError::Lmdb {
            path: path.to_owned(),
            source,
        })?;
    }
    overwrite(path, &mut report)?;
    Ok(report)
}

/// Empties tables in one transaction.
fn empty(path: &Path, tables: &[&str]) -> heed::Result<()> {
    let env = env::open_private(path)?;
    let txn = env.write_txn()?;
    env.create_databases_and_commit(txn, |opener, txn| {
        for name in tables {
            let table = opener.create_database::<Bytes, Bytes>(txn, Some(name))?;
            table.clear(txn)?;
        }
        Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit(()))
    })?;
    Ok(())
}

/// Pages that are not to be treated as one page of a tree.
struct Pages {
    /// One bit for each page: whether it is free.
    free: Vec<u64>,
    /// Values in pages of their own: first page, pages, bytes in use from the start of the first.
    runs: Vec<(u64, u64, u64)>,
    /// Leaves of the list of free pages.
    lists: Vec<u64>,
}

impl Pages {
    fn read(ledger: &LedgerFile) -> Result<Self, ScrubError> {
        let words = usize::try_from(ledger.pages() / 64 + 1).unwrap_or(usize::MAX);
        let mut pages = Self {
            free: vec![0; words],
            runs: Vec::new(),
            lists: Vec::new(),
        };
        let list = free_list::read_each(ledger, &mut |page| {
            let word = usize::try_from(page / 64).ok();
            if let Some(word) = word.and_then(|word| pages.free.get_mut(word)) {
                *word |= 1 << (page % 64);
            }
        })?;
        if let Some(detail) = list.fault {
            return Err(ScrubError::FreeList {
                path: ledger.path().to_owned(),
                detail,
            });
        }
        let size = u64::from(ledger.meta().page_size());
        let mut entries = ledger.free_entries();
        while let Some((_, value)) = entries.next_raw()? {
            if let Value::Run(run) = value {
                let mut count = [0; 8];
                ledger.read_at(run.offset, &mut count)?;
                let listed = u64::from_le_bytes(count)
                    .saturating_mul(8)
                    .saturating_add(8);
                let used = PAGE_HEADER as u64 + listed.min(run.len.into());
                let bytes = PAGE_HEADER as u64 + u64::from(run.len);
                pages.runs.push((run.page, bytes.div_ceil(size), used));
            }
            let leaf = entries.leaf();
            if pages.lists.last() != leaf.as_ref() {
                pages.lists.extend(leaf);
            }
        }
        pages.runs.sort_unstable();
        pages.lists.sort_unstable();
        Ok(pages)
    }

    fn is_free(&self, page: u64) -> bool {
        let word = usize::try_from(page / 64).ok();
        word.and_then(|word| self.free.get(word))
            .is_some_and(|word| word >> (page % 64) & 1 == 1)
    }

    /// Bytes in use of a page that belongs to a value in pages of its own.
    fn in_run(&self, page: u64, size: u64) -> Option<u64> {
        let place = self.runs.partition_point(|(first, ..)| *first <= page);
        let (first, count, used) = self.runs.get(place.checked_sub(1)?)?;
        let nth = page - first;
        (nth < *count).then(|| used.saturating_sub(nth * size).min(size))
    }
}

/// Overwrites private rows outside of trees.
fn overwrite(path: &Path, report: &mut ScrubReport) -> Result<(), ScrubError> {
    let failed = |source| ScrubError::Write {
        path: path.to_owned(),
        source,
    };
    let ledger = LedgerFile::open(path)?;
    let pages = Pages::read(&ledger)?;
    let size = ledger.meta().page_size() as usize;
    let out = OpenOptions::new().write(true).open(path).map_err(failed)?;
    let end = ledger.file_len();
    let in_use = ledger.pages() * size as u64;
    let mut wiped = 0;
    let mut buffer = vec![0; CHUNK];
    let mut start = 0;
    while start < end {
        let len = CHUNK.min(usize::try_from(end - start).unwrap_or(CHUNK));
        let Some(chunk) = buffer.get_mut(..len) else {
            break;
        };
        ledger.read_at(start, chunk)?;
        // The first and the end of the last page that changed.
        let mut changed: Option<(usize, usize)> = None;
        for (nth, bytes) in chunk.chunks_mut(size).enumerate() {
            let offset = nth * size;
            let number = (start + offset as u64) / size as u64;
            let did = if number < 2 {
                PageEdit::Nothing
            } else if start + offset as u64 >= in_use || pages.is_free(number) {
                stale(bytes, number)
            } else if let Some(used) = pages.in_run(number, size as u64) {
                let used = usize::try_from(used).unwrap_or(size);
                trim(bytes, used, size)
            } else {
                live(bytes, number, pages.lists.binary_search(&number).is_ok())
            };
            match did {
                PageEdit::Nothing => continue,
                PageEdit::Wiped => wiped += 1,
                PageEdit::Trimmed => report.pages_trimmed += 1,
            }
            let first = changed.map_or(offset, |(first, _)| first);
            changed = Some((first, offset + bytes.len()));
        }
        if let Some((first, last)) = changed
            && let Some(bytes) = chunk.get(first..last)
        {
            out.write_all_at(bytes, start + first as u64)
                .map_err(failed)?;
        }
        start += len as u64;
    }
    report.pages_in_use = report.pages_in_use.min(wiped);
    report.pages_stale = wiped - report.pages_in_use;
    join_metas(&ledger, &out).map_err(failed)?;
    out.sync_data().map_err(failed)
}

/// Writes the newer meta page's content into the other, which still names pages that are gone.
fn join_metas(ledger: &LedgerFile, out: &File) -> std::io::Result<()> {
    let size = u64::from(ledger.meta().page_size());
    let newer = match ledger.metas() {
        [Ok(first), Ok(second)] if second.txn() > first.txn() => size,
        [Ok(_), _] => 0,
        _ => size,
    };
    let mut record = [0; META_LEN - PAGE_HEADER];
    let header = PAGE_HEADER as u64;
    ledger.read_raw(newer + header, &mut record)?;
    out.write_all_at(&record, size - newer + header)
}

/// What was done to a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PageEdit {
    Nothing,
    /// It was filled with zeros.
    Wiped,
    /// A part of it was filled with zeros.
    Trimmed,
}

/// Fills a part of a page with zeros.
fn trim(bytes: &mut [u8], from: usize, to: usize) -> PageEdit {
    let Some(unused) = bytes.get_mut(from..to) else {
        return PageEdit::Nothing;
    };
    if unused.iter().all(|byte| *byte == 0) {
        return PageEdit::Nothing;
    }
    unused.fill(0);
    PageEdit::Trimmed
}

/// The bytes between the list of nodes and the nodes of a page.
fn middle(bytes: &[u8]) -> Option<(usize, usize)> {
    let lower = usize::from(u16_at(bytes, 12)?);
    let upper = usize::from(u16_at(bytes, 14)?);
    (PAGE_HEADER <= lower && lower <= upper && upper <= bytes.len()).then_some((lower, upper))
}

/// Overwrites the unused middle of a page of a tree.
fn live(bytes: &mut [u8], number: u64, is_list: bool) -> PageEdit {
    let mut did = PageEdit::Nothing;
    if Page::new(bytes, number, PageKind::Leaf).is_err()
        && Page::new(bytes, number, PageKind::Branch).is_err()
    {
        return did;
    }
    if is_list {
        for (from, to) in spare_room(bytes, number) {
            if trim(bytes, from, to) == PageEdit::Trimmed {
                did = PageEdit::Trimmed;
            }
        }
    }
    match middle(bytes) {
        Some((lower, upper)) if trim(bytes, lower, upper) == PageEdit::Trimmed => PageEdit::Trimmed,
        _ => did,
    }
}

/// Returns the unused ends of the records of the list of free pages.
fn spare_room(bytes: &[u8], number: u64) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let Ok(page) = Page::new(bytes, number, PageKind::Leaf) else {
        return found;
    };
    for node in 0..page.len() {
        let Ok(NodeValue::Inline { bytes: value, .. }) = page.value(node) else {
            continue;
        };
        let listed = u64_at(value, 0).and_then(|count| usize::try_from(count).ok());
        let used = listed.and_then(|count| count.checked_mul(8)?.checked_add(8));
        // The value is a part of the page.
        let end = (value.as_ptr_range().end as usize).wrapping_sub(bytes.as_ptr() as usize);
        if let Some(used) = used.filter(|used| *used < value.len()) {
            found.push((end - value.len() + used, end));
        }
    }
    found
}

/// Overwrites a free page, unless it is a page of a tree without private rows.
fn stale(bytes: &mut [u8], number: u64) -> PageEdit {
    if bytes.iter().all(|byte| *byte == 0) {
        return PageEdit::Nothing;
    }
    if is_harmless(bytes, number) {
        return match middle(bytes) {
            Some((lower, upper)) => trim(bytes, lower, upper),
            None => PageEdit::Nothing,
        };
    }
    bytes.fill(0);
    PageEdit::Wiped
}

/// Whether a free page is a page of a tree whose rows are of other sizes than the private ones.
/// Some rows and keys of other tables are of the same sizes, such as the keys of `pending`: pages
/// with them are overwritten too, which does no harm.
fn is_harmless(bytes: &[u8], number: u64) -> bool {
    if let Ok(page) = Page::new(bytes, number, PageKind::Leaf) {
        return (0..page.len()).all(|node| match (page.key(node), page.value(node)) {
            (Ok(key), Ok(NodeValue::Inline { bytes: value, .. })) => !PRIVATE
                .iter()
                .any(|(_, of_key, of_value)| (key.len(), value.len()) == (*of_key, *of_value)),
            (Ok(_), Ok(NodeValue::Overflow { .. })) => true,
            _ => false,
        });
    }
    if let Ok(page) = Page::new(bytes, number, PageKind::Branch) {
        return (0..page.len()).all(|node| {
            page.key(node)
                .is_ok_and(|key| PRIVATE.iter().all(|(_, of_key, _)| key.len() != *of_key))
        });
    }
    false
}

#[cfg(test)]
mod tests;
