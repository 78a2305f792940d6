//! The held snapshots in which a fetch looks for blocks before it asks peers for them.

use std::sync::Arc;

use bittorrent_protocol::InfoHashV2;
use bittorrent_store::ReuseSources;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::catalogue::{self, Entry, Generation};
use crate::data_dir::DataDir;

/// Whole snapshots besides the one that is fetched. While this lives, nobody removes them.
pub(crate) struct Reuse {
    sources: Arc<ReuseSources>,
    _held: Vec<Generation>,
}

impl Reuse {
    /// Finds them, the newest first. Damaged ones are passed over: others will tell of them. Waits
    /// for the disk; `stop` ends it early, with less to look through.
    pub(crate) fn find(data: &DataDir, wanted: InfoHashV2, stop: &CancellationToken) -> Self {
        let ids = data.snapshot_ids().unwrap_or_else(|error| {
            warn!("nothing is reused: {error:#}");
            Vec::new()
        });
        let mut held: Vec<Generation> = ids
            .into_iter()
            .filter(|id| *id != wanted && !stop.is_cancelled())
            .filter_map(|id| match catalogue::look(data, id)? {
                Entry::Whole(generation) => Some(generation),
                _ => None,
            })
            .collect();
        // One day's ledger is most like the one of the day before.
        held.sort_by_key(|generation| std::cmp::Reverse(made(generation)));
        let stores = held.iter().map(|generation| generation.store.clone());
        Self {
            sources: Arc::new(ReuseSources::new(stores.collect())),
            _held: held,
        }
    }

    pub(crate) const fn sources(&self) -> &Arc<ReuseSources> {
        &self.sources
    }
}

/// When the directory of a snapshot was made or last added to.
fn made(generation: &Generation) -> Option<std::time::SystemTime> {
    let metadata = std::fs::metadata(&generation.dir).ok()?;
    metadata.modified().ok()
}
