//! Ledger files.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

use nano_ledger::{LedgerFile, Level, VerifyOptions, summarize, verify};
use rustix::fs::{MemfdFlags, memfd_create};

/// A whole ledger file. Walks must end, give rising keys, and agree with look-ups; a summary must
/// agree with the walks.
pub fn ledger(data: &[u8]) {
    let mut file = File::from(memfd_create("ledger", MemfdFlags::CLOEXEC).expect("a memory file"));
    file.write_all(data).expect("a memory file");
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    let Ok(ledger) = LedgerFile::open(&path) else {
        assert!(summarize(&path).is_err());
        assert!(verify(&path, Level::L0, &VerifyOptions::default()).is_err());
        return;
    };
    assert_eq!(ledger.file_len(), data.len() as u64);
    let mut accounts = None;
    for table in ledger.tables().unwrap_or_default() {
        let mut entries = ledger.entries(&table);
        let mut last: Option<Vec<u8>> = None;
        let mut count = 0;
        let sound = loop {
            match entries.next() {
                Err(_) => break false,
                Ok(None) => break true,
                Ok(Some((key, _))) => {
                    assert!(last.is_none_or(|last| *last < *key), "keys fall");
                    last = Some(key.to_vec());
                    count += 1;
                }
            }
        };
        assert!(count <= data.len(), "more entries than bytes");
        if sound {
            assert_eq!(count as u64, table.tree.entries());
            found_again(&ledger, &table);
            if table.name == "accounts" {
                accounts = Some(count as u64);
            }
        }
    }
    if let Ok(summary) = summarize(&path) {
        assert_eq!(Some(summary.accounts), accounts);
    }
    let _ = verify(&path, Level::L3, &VerifyOptions::default());
}

/// Looks up what a walk found.
fn found_again(ledger: &LedgerFile, table: &nano_ledger::Table) {
    let mut entries = ledger.entries(table);
    while let Ok(Some((key, value))) = entries.next() {
        // Long values are in pages of their own, which look-ups refuse.
        if let Ok(found) = ledger.get(table, key) {
            assert_eq!(found.as_deref(), Some(value));
        }
    }
}
