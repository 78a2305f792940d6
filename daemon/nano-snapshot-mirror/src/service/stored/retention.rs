//! Removal of superseded and of unfinished snapshots.
//!
//! Every pointer that moves on before a download ends leaves an unfinished snapshot behind. A few are worth
//! keeping: the pointer may come back, and their blocks are found again in the next snapshot. Each costs
//! descriptors, memory and disk space, so their number is bounded.

use anyhow::Result;
use bittorrent_protocol::InfoHashV2;
use snapshot_store::retention::{self, Candidate, Retention, Worth};
use tokio::task::block_in_place;
use tracing::{info, warn};

use super::StoredSnapshots;
use crate::service::problems::Problems;

/// The number of unfinished snapshots to keep besides desired ones.
const UNFINISHED: usize = 2;

impl StoredSnapshots<'_> {
    /// Removes superseded snapshots that are neither `wanted` nor kept by the retention. A producer in the same store cannot remove them while this
    /// process seeds them.
    pub(in crate::service) async fn retire(
        &mut self,
        keep: Retention,
        wanted: &[InfoHashV2],
        problems: &mut Problems,
    ) -> Result<()> {
        let current = self.data.current_ids()?;
        let ids = self.data.snapshot_ids()?;
        // Opening partial ones takes time, so only if there may be some to remove.
        let kept = current.len().saturating_add(keep.generations as usize - 1);
        if ids.len() <= kept && keep.size.is_none() {
            return Ok(());
        }
        let held: Vec<Candidate> = ids
            .into_iter()
            .map(|id| {
                let state = if self.contains(id) {
                    Worth::Whole
                } else {
                    self.state_on_disk(id)
                };
                Candidate::new(self.data, id, state)
            })
            .collect();
        for old in retention::superseded(&held, &current, wanted, keep) {
            self.remove(old, problems).await;
            if let Err(error) = self.delete(old) {
                warn!(snapshot = %old, "cannot remove a superseded snapshot: {error:#}");
            }
        }
        Ok(())
    }

    /// Removes all unfinished snapshots but the newest ones, those that are `wanted`, and pinned ones.
    pub(in crate::service) fn remove_unfinished(&self, wanted: &[InfoHashV2]) -> Result<()> {
        let mut ids = self.data.snapshot_ids()?;
        ids.retain(|id| !(self.contains(*id) || wanted.contains(id)));
        // Most of the time there are too few to look at.
        if ids.len() <= UNFINISHED {
            return Ok(());
        }
        let mut held = Vec::new();
        for id in ids {
            self.pulse.beat();
            held.push(Candidate::new(self.data, id, self.state_on_disk(id)));
        }
        for old in surplus(&held) {
            self.pulse.beat();
            info!(snapshot = %old, "removing an unfinished snapshot: newer ones are kept");
            if let Err(error) = self.delete(old) {
                warn!(snapshot = %old, "cannot remove an unfinished snapshot: {error:#}");
            }
        }
        Ok(())
    }

    fn state_on_disk(&self, id: InfoHashV2) -> Worth {
        block_in_place(|| snapshot_store::open(self.data, id))
            .map_or(Worth::Untouchable, |entry| Worth::from(&entry))
    }

    fn delete(&self, id: InfoHashV2) -> Result<()> {
        Ok(block_in_place(|| {
            retention::remove(self.data, id, &self.data.lock()?)
        })?)
    }
}

/// Returns the surplus of unfinished and damaged snapshots, the oldest first. Complete, used and pinned
/// ones do not count.
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

    fn held(byte: u8, state: Worth) -> Candidate {
        Candidate {
            id: InfoHashV2::from_bytes([byte; 32]),
            worth: state,
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
