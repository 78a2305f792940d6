//! The stored snapshots in which a download looks for blocks before it asks peers for them.

use std::cmp::Reverse;
use std::fs;
use std::sync::Arc;

use anyhow::Result;
use bittorrent_protocol::InfoHashV2;
use bittorrent_store::{ReuseSources, StoreError, TorrentStore};
use snapshot_store::{DataDir, DirLock, Entry, Mark, SnapshotDir};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::text::Causes;

/// A snapshot that this process has open.
pub(crate) type OpenStore = (InfoHashV2, Arc<TorrentStore>);

/// Complete and partial snapshots other than the one that is downloaded. Their locks keep other processes
/// from removing them.
pub(crate) struct Reuse {
    sources: Arc<ReuseSources>,
    _held: Vec<DirLock>,
}

impl Reuse {
    /// Finds the snapshots, the newest first, and indexes all their blocks. Those in `open` are not opened again. Skips damaged snapshots; the
    /// scrub reports them. Blocks the thread while it reads the disk. `stop` ends the search early, with fewer snapshots.
    pub(crate) fn find(
        data: &DataDir,
        wanted: InfoHashV2,
        open: &[OpenStore],
        stop: &CancellationToken,
    ) -> Self {
        let mut ids = data.snapshot_ids().unwrap_or_else(|error| {
            warn!("cannot list snapshots, reusing none: {}", Causes(&error));
            Vec::new()
        });
        ids.retain(|id| *id != wanted);
        // A ledger shares most blocks with the newest one before it.
        ids.sort_by_key(|id| Reverse((data.snapshot(*id).added_at(), *id)));
        let (stores, held): (Vec<_>, Vec<_>) = ids
            .into_iter()
            .filter(|_| !stop.is_cancelled())
            .filter_map(|id| open_locked(data, id, open))
            .unzip();
        Self {
            sources: Arc::new(sources(stores, data, stop)),
            _held: held,
        }
    }

    pub(crate) const fn sources(&self) -> &Arc<ReuseSources> {
        &self.sources
    }
}

/// Opens a complete or partial snapshot and locks it against removal and writes.
fn open_locked(
    data: &DataDir,
    id: InfoHashV2,
    open: &[OpenStore],
) -> Option<(Arc<TorrentStore>, DirLock)> {
    if let Some((_, store)) = open.iter().find(|(known, _)| *known == id) {
        return Some((store.clone(), data.share_snapshot(id).ok()??));
    }
    match snapshot_store::open(data, id)? {
        Entry::Whole(generation) | Entry::Degraded(generation) => {
            Some((generation.store, generation.lock))
        }
        // A download that was abandoned when the pointer changed.
        Entry::Partial => {
            let dir = data.snapshot(id);
            let lock = data.own_snapshot(id).ok()??;
            let known = dir.is_created() && !Mark::Unread.is_set(&dir);
            let store = known.then(|| dir.open().ok()).flatten()?;
            Some((Arc::new(store), lock))
        }
        Entry::Refused(_) | Entry::Busy | Entry::Damaged(_) | Entry::Unavailable(_) => None,
    }
}

/// Returns the stores with an index that finds blocks at other offsets. Without the index a download only
/// fetches more.
fn sources(
    stores: Vec<Arc<TorrentStore>>,
    data: &DataDir,
    stop: &CancellationToken,
) -> ReuseSources {
    if stores.iter().any(|store| store.is_sealed()) && !stop.is_cancelled() {
        match indexed(&stores, data, stop) {
            Ok(Ok(indexed)) => return indexed,
            Ok(Err(StoreError::Cancelled)) => debug!("stopped while indexing stored snapshots"),
            Ok(Err(error)) => warn!(
                "cannot index stored snapshots, blocks at other offsets are downloaded: {}",
                Causes(&error)
            ),
            Err(error) => warn!(
                "cannot index stored snapshots, blocks at other offsets are downloaded: {error:#}"
            ),
        }
    }
    ReuseSources::new(stores)
}

fn indexed(
    stores: &[Arc<TorrentStore>],
    data: &DataDir,
    stop: &CancellationToken,
) -> Result<Result<ReuseSources, StoreError>> {
    // If this process dies before it removes the directory, the next start does.
    let (scratch, _ours) = data.new_build()?;
    let sources = ReuseSources::new(stores.to_vec());
    let indexed = sources.with_index(&scratch, &*SnapshotDir::io(), &|| !stop.is_cancelled());
    // The index stays usable: an unlinked file exists until it is closed.
    fs::remove_dir_all(&scratch)?;
    Ok(indexed)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::{Duration, SystemTime};

    use bittorrent_protocol::PieceLength;
    use bittorrent_store::create::{Cut, Draft, Shape};

    use super::*;

    /// Adds a snapshot that was added `days` days after the first one.
    fn add(data: &DataDir, days: u64, content: &[u8]) -> (InfoHashV2, Arc<TorrentStore>) {
        let (build, _ours) = data.new_build().unwrap();
        let cut = Cut {
            piece_length: PieceLength::DEFAULT,
            hybrid: false,
        };
        let name = "segment";
        let mut draft =
            Draft::begin(&build, name, Shape::SingleFile, cut, SnapshotDir::io()).unwrap();
        let mut source = content;
        draft.add_file(&[], &mut source, &mut |_| true).unwrap();
        let id = draft.finish(|builder| builder).unwrap().info().hashes().v2;
        let place = data.adopt(&build, id, &data.lock().unwrap()).unwrap();
        let came = SystemTime::UNIX_EPOCH + Duration::from_secs(86_400 * (20_000 + days));
        let metadata = File::open(place.metadata_path()).unwrap();
        metadata.set_modified(came).unwrap();
        (id, Arc::new(place.open().unwrap()))
    }

    #[test]
    fn stored_snapshots_are_searched_newest_first_and_opened_once() {
        let temp = tempfile::tempdir().unwrap();
        let data = DataDir::create(Some(temp.path())).unwrap();
        let stop = CancellationToken::new();
        let [second, (wanted, _), first, third] =
            [(2, "b"), (9, "w"), (1, "a"), (3, "c")].map(|(days, text)| {
                let content = text.repeat(100_000);
                add(&data, days, content.as_bytes())
            });
        let open = [second.clone()];
        let reuse = Reuse::find(&data, wanted, &open, &stop);
        let found = reuse.sources().generations();
        let ids: Vec<InfoHashV2> = found.iter().map(|store| store.info().hashes().v2).collect();
        assert_eq!(ids, [third.0, second.0, first.0]);
        assert!(Arc::ptr_eq(&found[1], &second.1));
        // The snapshots cannot be removed meanwhile, and the index leaves no file.
        let lock = data.lock().unwrap();
        assert!(!data.remove_snapshot(second.0, &lock).unwrap());
        assert!(data.incoming().read_dir().unwrap().next().is_none());
        drop(reuse);
        assert!(data.remove_snapshot(second.0, &lock).unwrap());
    }
}
