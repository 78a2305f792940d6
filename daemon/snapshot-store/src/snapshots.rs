//! What is in the directory of a snapshot.

use std::sync::Arc;

use bittorrent_protocol::InfoHashV2;
use bittorrent_store::{Condition, TorrentStore};

use crate::data_dir::{DataDir, DirLock};
use crate::error::{Result, SnapshotStoreError, is_temporary, with_causes};
use crate::ledger_record::LedgerRecord;
use crate::repair::{allow_owner, clear_path, repair};
use crate::scrub_progress::ScrubProgress;
use crate::snapshot_dir::SnapshotDir;

/// A whole snapshot, open and locked against removal.
pub struct Generation {
    /// Its info-hash.
    pub id: InfoHashV2,
    /// Its open content.
    pub store: Arc<TorrentStore>,
    /// Its directory.
    pub dir: SnapshotDir,
    /// The lock against removal.
    pub lock: DirLock,
}

/// What is in the directory of a snapshot.
pub enum Entry {
    /// A whole snapshot. Whether its ledger may be used is for the policy to decide.
    Whole(Generation),
    /// A snapshot that was whole until blocks of it were found damaged. They have to be downloaded again.
    Degraded(Generation),
    /// A snapshot in which verification found these faults. An archive may be refused before it is whole.
    Refused(Vec<String>),
    /// Part of a snapshot.
    Partial,
    /// Another process writes to it.
    Busy,
    /// It cannot be opened because it is damaged; [`repair()`] makes it usable.
    Damaged(SnapshotStoreError),
    /// It cannot be opened at this moment, for a reason that is not in the snapshot: see [`is_temporary`].
    Unavailable(SnapshotStoreError),
}

/// Opens a snapshot. Returns `None` if there is nothing at its path. Repairs nothing.
pub fn open(data: &DataDir, id: InfoHashV2) -> Option<Entry> {
    let dir = data.snapshot(id);
    if !dir.exists() {
        return None;
    }
    Some(try_open(data, id, dir).unwrap_or_else(|error| {
        if is_temporary(&error) {
            Entry::Unavailable(error)
        } else {
            Entry::Damaged(error)
        }
    }))
}

/// Opens a snapshot as [`open`] does, but first repairs one that is damaged, unless another process uses it.
pub fn open_and_repair(data: &DataDir, id: InfoHashV2) -> Option<Entry> {
    let found = open(data, id)?;
    let Entry::Damaged(why) = found else {
        return Some(found);
    };
    match try_repair(data, id, &with_causes(&why)) {
        Ok(true) => open(data, id),
        Ok(false) => Some(Entry::Damaged(why)),
        Err(source) => Some(Entry::Damaged(SnapshotStoreError::Repair {
            why: with_causes(&why),
            source: Box::new(source),
        })),
    }
}

/// Returns `false` if another process uses the snapshot.
fn try_repair(data: &DataDir, id: InfoHashV2, why: &str) -> Result<bool> {
    let _lock = data.lock()?;
    if clear_path(data, id)? {
        return Ok(true);
    }
    allow_owner(data.snapshot(id));
    let Some(own) = data.own_snapshot(id)? else {
        return Ok(false);
    };
    repair(data, id, why, &own)?;
    Ok(true)
}

fn try_open(data: &DataDir, id: InfoHashV2, dir: SnapshotDir) -> Result<Entry> {
    // An exclusive lock, because opening a partial snapshot writes to it. If others have it and let us read, it is
    // whole.
    let owned = data.own_snapshot(id)?;
    let alone = owned.is_some();
    let Some(lock) = owned.map_or_else(|| data.share_snapshot(id), |lock| Ok(Some(lock)))? else {
        return Ok(Entry::Busy);
    };
    dir.refuse_discarded()?;
    if let Some(record) = LedgerRecord::load(&dir).filter(|record| !record.is_sound()) {
        return Ok(Entry::Refused(record.faults));
    }
    // Nothing is changed that a fetch will resume.
    if !dir.is_created() {
        return Ok(Entry::Partial);
    }
    let was_whole = ScrubProgress::has_damage(&dir);
    let looks_whole = match dir.inspect()?.condition {
        Condition::Sealed | Condition::Changed { .. } => true,
        Condition::Partial { .. } | Condition::NoRecord => false,
    };
    if !was_whole && !looks_whole {
        return Ok(Entry::Partial);
    }
    let store = if alone {
        dir.open()?
    } else {
        // The other process may be repairing it: only read it.
        match dir.open_sealed()? {
            Some(store) => store,
            None => return Ok(Entry::Partial),
        }
    };
    let whole = store.is_complete();
    if !whole && !was_whole {
        return Ok(Entry::Partial);
    }
    lock.share()?;
    let generation = Generation {
        id,
        store: Arc::new(store),
        dir,
        lock,
    };
    Ok(if whole {
        Entry::Whole(generation)
    } else {
        Entry::Degraded(generation)
    })
}
