//! `scrub.json`: how far the scrub of a snapshot is, and what damage was found.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use file_kit::json_file;
use file_kit::recorded_time::is_past;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::layout;
use crate::snapshot_dir::SnapshotDir;

/// The progress of the scrub of one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ScrubProgress {
    /// The next piece to read; 0 between two scrubs.
    pub piece: u32,
    /// When the last scrub ended, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<u64>,
    /// Blocks that were found damaged since the snapshot was added.
    #[serde(default)]
    pub damaged: u64,
}

impl ScrubProgress {
    /// Loads the record of a snapshot. If it is missing or damaged, the scrub starts from the beginning.
    pub fn load(dir: &SnapshotDir) -> Self {
        json_file::read_or_default(&dir.path().join(layout::SCRUB_PROGRESS))
    }

    /// Saves the record.
    ///
    /// # Errors
    ///
    /// When it cannot be written.
    pub fn save(&self, dir: &SnapshotDir) -> Result<()> {
        Ok(json_file::write(
            &dir.path().join(layout::SCRUB_PROGRESS),
            self,
        )?)
    }

    /// Records that more blocks of a snapshot were found damaged.
    ///
    /// # Errors
    ///
    /// When the record cannot be written.
    pub fn add_damage(dir: &SnapshotDir, blocks: u64) -> Result<()> {
        let mut progress = Self::load(dir);
        progress.damaged = progress.damaged.saturating_add(blocks);
        progress.save(dir)
    }

    /// Returns whether blocks of a snapshot were found damaged when it was whole.
    pub fn has_damage(dir: &SnapshotDir) -> bool {
        Self::load(dir).damaged > 0
    }

    /// Returns when the next scrub is due. A recorded end that is in the future is ignored.
    pub fn due(&self, added_at: SystemTime, interval: Duration, now: SystemTime) -> SystemTime {
        if self.piece > 0 {
            return UNIX_EPOCH;
        }
        let finished = self
            .finished_at
            .and_then(|finished| UNIX_EPOCH.checked_add(Duration::from_secs(finished)))
            .filter(|finished| is_past(*finished, now));
        // A snapshot was hashed when it was added.
        finished.unwrap_or(added_at) + interval
    }
}

#[cfg(test)]
mod tests {
    use file_kit::recorded_time::unix_seconds;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_scrub_is_due_an_interval_after_the_last_one_and_at_once_when_interrupted() {
        let added = UNIX_EPOCH + HOUR;
        let ended = |finished_at| ScrubProgress {
            finished_at: Some(finished_at),
            ..ScrubProgress::default()
        };
        let interrupted = ScrubProgress {
            piece: 7,
            ..ended(3 * 3600)
        };
        let now = UNIX_EPOCH + 10 * HOUR;
        for (progress, due) in [
            (ScrubProgress::default(), added + HOUR),
            (ended(3 * 3600), UNIX_EPOCH + 4 * HOUR),
            (interrupted, UNIX_EPOCH),
            // The clock was wrong when it ended.
            (
                ended(unix_seconds(now + 10 * 365 * 24 * HOUR)),
                added + HOUR,
            ),
            (ended(unix_seconds(now + 2 * HOUR)), added + HOUR),
            (ended(u64::MAX), added + HOUR),
        ] {
            assert_eq!(progress.due(added, HOUR, now), due, "{progress:?}");
        }
    }

    #[test]
    fn a_record_that_cannot_be_read_starts_from_the_beginning() {
        let temp = tempfile::tempdir().unwrap();
        let dir = SnapshotDir::at(temp.path());
        assert!(!ScrubProgress::has_damage(&dir));
        ScrubProgress::add_damage(&dir, 2).unwrap();
        ScrubProgress::add_damage(&dir, 1).unwrap();
        assert!(ScrubProgress::has_damage(&dir));
        assert_eq!(ScrubProgress::load(&dir).damaged, 3);
        std::fs::write(temp.path().join(layout::SCRUB_PROGRESS), b"{").unwrap();
        assert_eq!(ScrubProgress::load(&dir), ScrubProgress::default());
    }
}
