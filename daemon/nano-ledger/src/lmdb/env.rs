//! Opening LMDB environments: the only unsafe code of the crate.
#![expect(
    unsafe_code,
    reason = "heed declares opening a memory-mapped environment unsafe"
)]

use std::path::Path;

use heed::{Env, EnvFlags, EnvOpenOptions, WithoutTls};

/// More named tables than any store version has.
const MAX_TABLES: u32 = 64;

/// Opens an existing environment for reading, with the lock file beside it.
///
/// The map size is the one in the file's meta page, at least what is in use.
pub(crate) fn open_for_reading(path: &Path) -> heed::Result<Env<WithoutTls>> {
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    // SAFETY: `flags` is unsafe for NO_LOCK, NO_SYNC and their like; these two are not among them.
    let options = unsafe { options.flags(EnvFlags::NO_SUB_DIR | EnvFlags::READ_ONLY) };
    // SAFETY: mapping a file is sound while no process truncates it or writes outside of LMDB's rules.
    // All that write to a node's ledger do so through LMDB under the same lock file, which this
    // environment uses too (never NO_LOCK, and `LiveLedger::open` refuses the one case in which
    // LMDB goes without: a read-only file system). LMDB never truncates. heed refuses to open the
    // same file twice in one process, which would break the lock.
    unsafe { options.open(path) }
}

/// Opens or creates an environment for writing invented content, with the lock file beside it.
///
/// Commits are not synced: the caller does that at the end with `force_sync`. `map_size` is a
/// multiple of the system's page size.
pub(crate) fn open_for_generating(path: &Path, map_size: usize) -> heed::Result<Env<WithoutTls>> {
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.max_dbs(MAX_TABLES).map_size(map_size);
    // SAFETY: NO_SYNC may lose or damage the file when the system crashes; the content is invented
    // and its maker syncs before calling it done.
    let options = unsafe { options.flags(EnvFlags::NO_SUB_DIR | EnvFlags::NO_SYNC) };
    // SAFETY: as above; the file is one this process makes, or an invented ledger it adds to.
    unsafe { options.open(path) }
}

/// Opens a file that no other process uses for writing, without a lock file. Commits are not synced.
pub(crate) fn open_private(path: &Path) -> heed::Result<Env<WithoutTls>> {
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.max_dbs(MAX_TABLES);
    let flags = EnvFlags::NO_SUB_DIR | EnvFlags::NO_SYNC | EnvFlags::NO_LOCK;
    // SAFETY: without a lock, other processes must not use the file meanwhile, which is the contract of this function.
    // Without a sync it may be damaged when the system crashes; then it is discarded.
    let options = unsafe { options.flags(flags) };
    // SAFETY: no other process truncates or writes the file, by the same contract.
    unsafe { options.open(path) }
}
