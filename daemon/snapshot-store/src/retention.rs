//! Which snapshots may be removed.

use std::time::SystemTime;

use bittorrent_protocol::InfoHashV2;
use file_kit::space::occupied;
use tracing::info;

use crate::data_dir::{DataDir, StoreLock};
use crate::error::Result;
use crate::marks::Mark;
use crate::snapshots::{Entry, open};

/// What retention considers about a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its info-hash.
    pub id: InfoHashV2,
    /// What its directory is worth.
    pub worth: Worth,
    /// When it was added.
    pub added_at: SystemTime,
    /// Bytes that it occupies, as if it shared none with others.
    pub size: u64,
    /// A person wants it kept.
    pub pinned: bool,
}

impl Candidate {
    /// Reads when a snapshot was added, its size and its pin.
    pub fn new(data: &DataDir, id: InfoHashV2, worth: Worth) -> Self {
        let dir = data.snapshot(id);
        Self {
            id,
            worth,
            added_at: dir.added_at(),
            size: occupied(dir.path()),
            pinned: Mark::Pinned.is_set(&dir),
        }
    }
}

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Whole snapshots of a stream, the current one included: 1 keeps no other.
    pub generations: u32,
    /// Bytes on disk of all snapshots together; `None` for no limit.
    pub size: Option<u64>,
}

impl Retention {
    /// Keeps only what has to be kept, to free space.
    pub const LEAST: Self = Self {
        generations: 1,
        size: None,
    };
}

/// What the directory of a snapshot is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worth {
    /// A whole snapshot.
    Whole,
    /// Part of one, or one whose ledger is refused.
    Remnant,
    /// Used by another process, or not readable at this moment.
    Untouchable,
}

impl From<&Entry> for Worth {
    fn from(entry: &Entry) -> Self {
        match entry {
            Entry::Whole(_) | Entry::Degraded(_) => Self::Whole,
            Entry::Refused(_) | Entry::Partial | Entry::Damaged(_) => Self::Remnant,
            Entry::Busy | Entry::Unavailable(_) => Self::Untouchable,
        }
    }
}

/// Returns the snapshots that may be removed, the oldest first.
///
/// Kept are the `current` snapshot of each stream, those that are `wanted` or pinned, those that cannot be touched, and
/// of the other whole ones the newest, as many and as large as `keep` allows. Returns nothing while no stream has a
/// current snapshot.
pub fn superseded(
    stored: &[Candidate],
    current: &[InfoHashV2],
    wanted: &[InfoHashV2],
    keep: Retention,
) -> Vec<InfoHashV2> {
    if current.is_empty() {
        return Vec::new();
    }
    let (mut others, fixed): (Vec<&Candidate>, Vec<&Candidate>) = stored.iter().partition(|one| {
        !current.contains(&one.id)
            && !wanted.contains(&one.id)
            && !one.pinned
            && one.worth != Worth::Untouchable
    });
    let mut taken: u64 = fixed.iter().map(|one| one.size).sum();
    // The newest whole ones first, remnants last: once one does not fit, none behind it does.
    others.sort_by_key(|one| (one.worth == Worth::Whole, one.added_at, one.id));
    let mut going = Vec::new();
    for (rank, one) in (1..).zip(others.iter().rev()) {
        taken = taken.saturating_add(one.size);
        let fits = rank < keep.generations && keep.size.is_none_or(|most| taken <= most);
        if one.worth != Worth::Whole || !fits || !going.is_empty() {
            going.push(one.id);
        }
    }
    // The oldest first, because it is needed least.
    going.reverse();
    going
}

/// Removes the superseded snapshots of a data directory in which this process uses none. Those that another process
/// uses are removed by a later call.
///
/// # Errors
///
/// When the data directory cannot be locked or listed, or a snapshot cannot be removed.
pub fn remove_superseded(data: &DataDir, wanted: &[InfoHashV2], keep: Retention) -> Result<()> {
    let lock = data.lock()?;
    let mut stored = Vec::new();
    for id in data.snapshot_ids()? {
        if let Some(entry) = open(data, id) {
            stored.push(Candidate::new(data, id, Worth::from(&entry)));
        }
    }
    for id in superseded(&stored, &data.current_ids()?, wanted, keep) {
        remove(data, id, &lock)?;
    }
    Ok(())
}

/// Removes a superseded snapshot, unless another process uses it or it was pinned meanwhile.
///
/// # Errors
///
/// When the snapshot cannot be removed.
pub fn remove(data: &DataDir, id: InfoHashV2, lock: &StoreLock) -> Result<()> {
    if Mark::Pinned.is_set(&data.snapshot(id)) {
        return Ok(());
    }
    if data.remove_snapshot(id, lock)? {
        info!(snapshot = %id, "removed: superseded");
    } else {
        info!(snapshot = %id, "superseded, but in use");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn id(byte: u8) -> InfoHashV2 {
        InfoHashV2::from_bytes([byte; 32])
    }

    fn ids(bytes: &[u8]) -> Vec<InfoHashV2> {
        bytes.iter().map(|byte| id(*byte)).collect()
    }

    /// They were added in the order of their numbers, and have 10 bytes each.
    fn stored(byte: u8, worth: Worth) -> Candidate {
        Candidate {
            id: id(byte),
            worth,
            added_at: SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(byte)),
            size: 10,
            pinned: false,
        }
    }

    fn keep_two() -> Retention {
        Retention {
            generations: 2,
            size: None,
        }
    }

    fn whole(bytes: std::ops::RangeInclusive<u8>) -> Vec<Candidate> {
        bytes.map(|byte| stored(byte, Worth::Whole)).collect()
    }

    #[test]
    fn the_newest_stay_as_many_and_as_large_as_allowed() {
        let keep = |generations, size| Retention { generations, size };
        let two = keep_two();
        // Stored are 1 to 5, all whole: current, wanted, what is kept, what is removed.
        type Case = (&'static [u8], &'static [u8], Retention, &'static [u8]);
        let cases: [Case; 16] = [
            (&[5], &[], two, &[1, 2, 3]),
            (&[5], &[], keep(1, None), &[1, 2, 3, 4]),
            (&[5], &[], keep(3, None), &[1, 2]),
            (&[5], &[], keep(9, None), &[]),
            (&[5], &[], keep(u32::MAX, None), &[]),
            (&[5, 1], &[], two, &[2, 3]),
            (&[5], &[1], two, &[2, 3]),
            // One that is older is current: the newest of the others stays.
            (&[2], &[], two, &[1, 3, 4]),
            (&[], &[], two, &[]),
            (&[], &[], keep(1, Some(0)), &[]),
            // The current one takes 10 of these.
            (&[5], &[], keep(9, Some(50)), &[]),
            (&[5], &[], keep(9, Some(49)), &[1]),
            (&[5], &[], keep(9, Some(29)), &[1, 2, 3]),
            (&[5], &[], keep(2, Some(50)), &[1, 2, 3]),
            // What has to be kept is kept, however little is allowed.
            (&[5], &[4], keep(9, Some(0)), &[1, 2, 3]),
            (&[5], &[], Retention::LEAST, &[1, 2, 3, 4]),
        ];
        for (current, wanted, keep, goes) in cases {
            let found = superseded(&whole(1..=5), &ids(current), &ids(wanted), keep);
            assert_eq!(found, ids(goes), "{current:?} {wanted:?} {keep:?}");
        }
    }

    #[test]
    fn pinned_snapshots_are_kept_and_count_by_their_size_alone() {
        let mut all = whole(1..=5);
        all[1].pinned = true;
        let two = keep_two();
        assert_eq!(superseded(&all, &[id(5)], &[], two), ids(&[1, 3]));
        assert_eq!(
            superseded(&all, &[id(5)], &[], Retention::LEAST),
            ids(&[1, 3, 4])
        );
        let size = |size| Retention {
            generations: 9,
            size: Some(size),
        };
        assert_eq!(superseded(&all, &[id(5)], &[], size(30)), ids(&[1, 3]));
        assert_eq!(superseded(&all, &[id(5)], &[], size(0)), ids(&[1, 3, 4]));
        // Also one that is no whole snapshot.
        all[0] = Candidate {
            pinned: true,
            ..stored(1, Worth::Remnant)
        };
        assert_eq!(superseded(&all, &[id(5)], &[], two), ids(&[3]));
    }

    #[test]
    fn remnants_are_removed_and_what_cannot_be_touched_is_kept() {
        let mixed = [
            stored(1, Worth::Whole),
            stored(2, Worth::Remnant),
            stored(3, Worth::Untouchable),
            stored(4, Worth::Whole),
            stored(5, Worth::Remnant),
        ];
        let goes = |wanted: &[u8], keep| superseded(&mixed, &[id(4)], &ids(wanted), keep);
        let two = keep_two();
        assert_eq!(goes(&[5], two), ids(&[2]));
        assert_eq!(goes(&[], two), ids(&[2, 5]));
        assert_eq!(goes(&[5], Retention::LEAST), ids(&[2, 1]));
    }
}
