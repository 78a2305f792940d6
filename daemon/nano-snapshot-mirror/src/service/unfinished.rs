//! Removal of unfinished snapshots.
//!
//! Every pointer that moves on before a download ends leaves one behind. A few are worth keeping: the
//! pointer may come back, and blocks of them are found again in the next snapshot. Each of them costs
//! descriptors, memory and disk space, so the number is bounded.

use anyhow::Result;
use bittorrent_protocol::InfoHashV2;
use snapshot_store::retention;
use snapshot_store::retention::{Candidate, Worth};
use tokio::task::block_in_place;
use tracing::{info, warn};

use super::Service;
use crate::text::Causes;

/// Unfinished snapshots kept besides those that are wanted or being fetched.
const UNFINISHED: usize = 2;

impl Service<'_> {
    /// Removes all unfinished snapshots but the newest ones, those that are wanted, and pinned ones.
    pub(super) async fn remove_unfinished(&mut self) -> Result<()> {
        let mut ids = self.data.snapshot_ids()?;
        ids.retain(|id| {
            !(self.seeding.contains_key(id) || self.is_fetching(*id) || self.wants(*id))
        });
        // Most of the time there is nothing to look at.
        if ids.len() <= UNFINISHED {
            return Ok(());
        }
        let mut held = Vec::new();
        for id in ids {
            self.life.mirror.beat();
            let entry = block_in_place(|| snapshot_store::open(self.data, id));
            let worth = entry.map_or(Worth::Untouchable, |entry| Worth::from(&entry));
            held.push(Candidate::new(self.data, id, worth));
        }
        for old in surplus(&held) {
            self.life.mirror.beat();
            info!(snapshot = %old, "removing an unfinished snapshot: newer ones are kept");
            let removed = block_in_place(|| retention::remove(self.data, old, &self.data.lock()?));
            if let Err(error) = removed {
                warn!(snapshot = %old, "cannot remove an unfinished snapshot: {}", Causes(&error));
            }
        }
        Ok(())
    }
}

/// The unfinished and damaged snapshots that are too many, the oldest first. What is whole, in use or
/// pinned is not counted.
fn surplus(held: &[Candidate]) -> Vec<InfoHashV2> {
    let mut unfinished: Vec<&Candidate> = held
        .iter()
        .filter(|held| held.worth == Worth::Remnant && !held.pinned)
        .collect();
    unfinished.sort_by_key(|held| (held.added_at, held.id));
    let most = unfinished.len().saturating_sub(UNFINISHED);
    unfinished.iter().take(most).map(|held| held.id).collect()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn held(byte: u8, worth: Worth) -> Candidate {
        Candidate {
            id: InfoHashV2::from_bytes([byte; 32]),
            worth,
            added_at: SystemTime::UNIX_EPOCH + Duration::from_secs(u64::from(byte)),
            size: 10,
            pinned: byte == 1,
        }
    }

    #[test]
    fn the_newest_unfinished_ones_stay() {
        let states = [
            Worth::Remnant, // Pinned.
            Worth::Whole,
            Worth::Remnant,
            Worth::Untouchable,
            Worth::Remnant,
            Worth::Remnant,
            Worth::Remnant,
        ];
        let all: Vec<Candidate> = (1..).zip(states).map(|(n, state)| held(n, state)).collect();
        let going = |count| -> Vec<u8> {
            let going = surplus(&all[..count]);
            going.iter().map(|id| id.as_bytes()[0]).collect()
        };
        assert_eq!(going(7), [3, 5]);
        assert_eq!(going(6), [3]);
        assert_eq!(going(5), [0; 0]);
    }
}
