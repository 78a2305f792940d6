//! The list of free pages: by transaction, the pages that transaction stopped using.

use crate::bytes::u64_at;
use crate::lmdb::error::LedgerError;
use crate::lmdb::file::LedgerFile;
use crate::lmdb::walk::Value;

/// The content of the list of free pages.
#[derive(Debug, Default)]
pub(crate) struct FreeList {
    /// Pages listed.
    pub(crate) pages: u64,
    /// Of these, pages behind the end of the file: LMDB gives out a page before it writes it, and
    /// never writes one it took back.
    pub(crate) behind_end: u64,
    /// The first record that is not a falling list of page numbers.
    pub(crate) fault: Option<String>,
}

/// Bytes read at a time of a list in overflow pages.
const CHUNK: usize = 32 * 1024;

/// Reads the whole list.
pub(crate) fn read(file: &LedgerFile) -> Result<FreeList, LedgerError> {
    read_each(file, &mut |_| ())
}

/// Reads the whole list and calls `visit` with every page in it.
pub(crate) fn read_each(
    file: &LedgerFile,
    visit: &mut dyn FnMut(u64),
) -> Result<FreeList, LedgerError> {
    let mut list = FreeList::default();
    let mut entries = file.free_entries();
    let mut chunk = vec![0; CHUNK];
    while let Some((key, value)) = entries.next_raw()? {
        let txn = u64_at(key, 0).unwrap_or(0);
        let mut record = Record::default();
        match value {
            Value::Bytes(bytes) | Value::Table(bytes) => record.feed(bytes, file, &mut list, visit),
            Value::Run(run) => {
                let mut at = 0;
                while at < run.len as usize {
                    let len = CHUNK.min(run.len as usize - at);
                    let Some(bytes) = chunk.get_mut(..len) else {
                        break;
                    };
                    file.read_at(run.offset + at as u64, bytes)?;
                    record.feed(bytes, file, &mut list, visit);
                    at += len;
                }
            }
        }
        if !record.is_whole() && list.fault.is_none() {
            list.fault = Some(format!(
                "the pages freed by transaction {txn} are no sound list"
            ));
        }
    }
    Ok(list)
}

/// One record: a count and that many page numbers, falling.
#[derive(Default)]
struct Record {
    /// Page numbers still to come, once the count was read.
    expected: Option<u64>,
    last: Option<u64>,
    broken: bool,
}

impl Record {
    fn feed(
        &mut self,
        bytes: &[u8],
        file: &LedgerFile,
        list: &mut FreeList,
        visit: &mut dyn FnMut(u64),
    ) {
        self.broken |= !bytes.len().is_multiple_of(8);
        for number in bytes.chunks_exact(8).filter_map(|bytes| u64_at(bytes, 0)) {
            let Some(expected) = self.expected else {
                self.expected = Some(number);
                continue;
            };
            // LMDB leaves room at the end of a record it rewrites.
            if expected == 0 {
                return;
            }
            self.expected = Some(expected - 1);
            let falls = self.last.is_none_or(|last| number < last);
            self.broken |= !falls || number < 2 || number > file.meta().last_page;
            self.last = Some(number);
            visit(number);
            list.pages += 1;
            list.behind_end += u64::from(number >= file.pages());
        }
    }

    fn is_whole(&self) -> bool {
        !self.broken && self.expected == Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::{CheckOutcome, Level, VerifyOptions, verify};

    /// Offset of the last page's number in a meta page's record.
    const LAST_PAGE: usize = 16 + 120;
    const PAGE: usize = 4096;

    fn genuine() -> Vec<u8> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/before.ldb");
        std::fs::read(path).unwrap()
    }

    fn check(bytes: &[u8], name: &str) -> CheckOutcome {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.ldb");
        std::fs::write(&path, bytes).unwrap();
        let report = verify(&path, Level::L0, &VerifyOptions::default()).unwrap();
        report
            .checks
            .into_iter()
            .find(|check| check.name == name)
            .unwrap()
            .outcome
    }

    /// The first record of at least two pages: count and numbers.
    fn first_record() -> Vec<u8> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/before.ldb");
        let file = LedgerFile::open(std::path::Path::new(path)).unwrap();
        let mut entries = file.free_entries();
        while let Some((_, value)) = entries.next_raw().unwrap() {
            if let Value::Bytes(bytes) = value
                && u64_at(bytes, 0).unwrap() >= 2
            {
                return bytes.to_vec();
            }
        }
        panic!("no free pages")
    }

    fn replace(bytes: &mut [u8], old: &[u8], new: &[u8]) {
        let mut found = 0;
        for at in 0..bytes.len() - old.len() {
            if bytes[at..].starts_with(old) {
                bytes[at..at + new.len()].copy_from_slice(new);
                found += 1;
            }
        }
        assert!(found > 0);
    }

    #[test]
    fn a_file_may_lack_its_last_pages_only_where_they_are_free() {
        let mut bytes = genuine();
        let pages = (bytes.len() / PAGE) as u64;
        // One page more is given out than the file has.
        for meta in [0, PAGE] {
            bytes[meta + LAST_PAGE..][..8].copy_from_slice(&pages.to_le_bytes());
        }
        assert!(matches!(
            check(&bytes, "file-length"),
            CheckOutcome::Failed { .. }
        ));
        // And it is the highest of a record's numbers.
        let old = first_record();
        let mut new = old.clone();
        new[8..16].copy_from_slice(&pages.to_le_bytes());
        replace(&mut bytes, &old, &new);
        assert!(matches!(
            check(&bytes, "file-length"),
            CheckOutcome::Passed { .. }
        ));
        // Without the page before it is too short again.
        bytes.truncate(bytes.len() - 1);
        assert!(matches!(
            check(&bytes, "file-length"),
            CheckOutcome::Failed { .. }
        ));
    }

    #[test]
    fn records_that_are_no_falling_lists_are_told() {
        let old = first_record();
        // Offsets of numbers in the record, and what is put there.
        let too_many = (old.len() / 8) as u64;
        for (offset, number) in [(0, too_many), (8, 0), (8, 1), (8, 1 << 40), (16, 962)] {
            let mut bytes = genuine();
            let mut new = old.clone();
            new[offset..offset + 8].copy_from_slice(&u64::to_le_bytes(number));
            replace(&mut bytes, &old, &new);
            let outcome = check(&bytes, "free-list");
            assert!(
                matches!(outcome, CheckOutcome::Failed { .. }),
                "{number} at {offset}: {outcome:?}"
            );
        }
        assert!(matches!(
            check(&genuine(), "free-list"),
            CheckOutcome::Passed { .. }
        ));
    }
}
