//! The list of free pages: by transaction, the pages that transaction stopped using.

use crate::bytes::u64_at;
use crate::error::LedgerError;
use crate::file::LedgerFile;
use crate::walk::Value;

/// What the list of free pages says.
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
    let mut list = FreeList::default();
    let mut entries = file.free_entries();
    let mut chunk = vec![0; CHUNK];
    while let Some((key, value)) = entries.next_raw()? {
        let txn = u64_at(key, 0).unwrap_or(0);
        let mut record = Record::default();
        match value {
            Value::Bytes(bytes) | Value::Table(bytes) => record.feed(bytes, file, &mut list),
            Value::Run(run) => {
                let mut at = 0;
                while at < run.len as usize {
                    let len = CHUNK.min(run.len as usize - at);
                    let Some(bytes) = chunk.get_mut(..len) else {
                        break;
                    };
                    file.read_at(run.offset + at as u64, bytes)?;
                    record.feed(bytes, file, &mut list);
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
    fn feed(&mut self, bytes: &[u8], file: &LedgerFile, list: &mut FreeList) {
        self.broken |= bytes.len() % 8 != 0;
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
            list.pages += 1;
            list.behind_end += u64::from(number >= file.pages());
        }
    }

    fn is_whole(&self) -> bool {
        !self.broken && self.expected == Some(0)
    }
}
