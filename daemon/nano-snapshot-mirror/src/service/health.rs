//! Whether what is seeded is still on the disk.
//!
//! Content may be deleted, cut or edited under a running mirror, or a disk may no longer read it. Such a
//! snapshot is not served any longer, and what is missing of it is fetched again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Error, Result};
use bittorrent_protocol::{BlockIndex, InfoHashV2};
use bittorrent_store::TorrentStore;
use snapshot_store::{ScrubProgress, SnapshotDir, is_temporary};
use tokio::task::spawn_blocking;
use tracing::{error, info};

use super::held::SNAPSHOTS;
use super::{Running, Service};

/// How often to look.
pub(super) const CHECK_EVERY: Duration = Duration::from_secs(2);

/// Files of one snapshot that are looked at each time; of a torrent with more, the next ones follow.
const FILES_EACH_TIME: u32 = 500;

/// The problem of content that is not what it was, for programs.
const DAMAGED: &str = "content-damaged";

/// Which file of each snapshot is looked at next, and what is wrong.
#[derive(Debug, Default)]
pub(super) struct Health {
    next_file: HashMap<InfoHashV2, u32>,
    damaged: HashSet<InfoHashV2>,
}

/// What a look at the files of everything seeded found.
pub(super) struct Checked {
    /// Whether `snapshots/` can be listed. If not, as when a disk was unmounted, nothing is known about
    /// what is in it.
    listed: Result<()>,
    snapshots: Vec<CheckedSnapshot>,
}

/// What was found of one snapshot.
struct CheckedSnapshot {
    id: InfoHashV2,
    /// The file to look at next time, if all is well.
    next_file: Result<u32>,
    /// Blocks that could not be read to serve them. They count as missing now.
    unreadable: Result<Vec<BlockIndex>>,
}

impl<'a> Service<'a> {
    /// Looks at the files of what is seeded, on a thread of its own.
    pub(super) fn check_files(&mut self) -> Running<'a, Checked> {
        let seeding = &self.seeding;
        let next_file = &mut self.health.next_file;
        next_file.retain(|id, _| seeding.contains_key(id));
        let stores: Vec<_> = seeding
            .values()
            .map(|torrent| {
                let first = next_file.get(&torrent.id).copied().unwrap_or(0);
                (
                    torrent.id,
                    torrent.store.clone(),
                    torrent.dir.clone(),
                    first,
                )
            })
            .collect();
        let data = self.data.clone();
        Box::pin(async move {
            let checked = spawn_blocking(move || {
                let listed = data.snapshot_ids().map(drop).map_err(Error::from);
                let snapshots = match listed {
                    Ok(()) => stores.into_iter().map(check).collect(),
                    Err(_) => Vec::new(),
                };
                Checked { listed, snapshots }
            });
            checked.await.unwrap_or_else(|error| Checked {
                listed: Err(error.into()),
                snapshots: Vec::new(),
            })
        })
    }

    /// Stops serving what is damaged. Returns whether there is something to do about it.
    pub(super) async fn take_checked(&mut self, checked: Checked) -> bool {
        self.unless_store_fails(SNAPSHOTS, checked.listed);
        let mut found = false;
        for one in checked.snapshots {
            let id = one.id;
            match one.next_file {
                Ok(next) => {
                    self.health.next_file.insert(id, next);
                    self.unless_store_fails(&id.to_string(), Ok::<_, Error>(()));
                }
                // It says nothing about the files.
                Err(error) if is_temporary(error.as_ref()) => {}
                // What is open can be served all the same.
                Err(error) if is_denied(&error) => {
                    self.unless_store_fails(&id.to_string(), Err::<(), _>(error));
                }
                Err(error) => {
                    found |= self.stop_serving(id, &error).await;
                    continue;
                }
            }
            match one.unreadable {
                Ok(blocks) if blocks.is_empty() => {}
                Ok(blocks) => self.fetch_again(id, blocks).await,
                // Nor does this: the process or the machine lacks something for the moment.
                Err(error) if is_temporary(error.as_ref()) => {}
                Err(error) => found |= self.stop_serving(id, &error).await,
            }
        }
        self.forget_healed();
        found
    }

    /// Takes a snapshot out of the session. Looking at it again then finds what is missing.
    async fn stop_serving(&mut self, id: InfoHashV2, error: &Error) -> bool {
        let Some(torrent) = self.leave(id).await else {
            return false;
        };
        error!(
            snapshot = %id,
            "stopped serving a snapshot whose files are not what they were, repairing it: {error:#}"
        );
        drop(self.take_out(torrent).await);
        self.unless_store_fails(&id.to_string(), Ok::<_, Error>(()));
        let text = format!("snapshot {id} is not served: {error:#}; repairing it");
        self.note_damaged(id, text);
        self.failed.remove(&id);
        true
    }

    /// Has blocks fetched again that the disk could not read.
    async fn fetch_again(&mut self, id: InfoHashV2, blocks: Vec<BlockIndex>) {
        let Some(torrent) = self.seeding.get(&id) else {
            return;
        };
        let count = blocks.len();
        error!(snapshot = %id, blocks = count, "cannot read blocks from the disk, fetching them again");
        if let Err(error) = torrent.repair(blocks).await {
            error!(snapshot = %id, "cannot repair the snapshot before the next start: {error}");
        }
        let text = format!("snapshot {id}: {count} blocks cannot be read; fetching them again");
        self.note_damaged(id, text);
    }

    fn note_damaged(&mut self, id: InfoHashV2, text: String) {
        self.health.damaged.insert(id);
        self.reporter.problem(DAMAGED, &id.to_string(), Some(text));
    }

    /// Ends the problem of what is whole again, and of what is gone and not wanted.
    fn forget_healed(&mut self) {
        let damaged = std::mem::take(&mut self.health.damaged);
        for id in damaged {
            let is_whole = self
                .seeding
                .get(&id)
                .is_some_and(|torrent| torrent.status().phase.is_seeding());
            let is_gone = !self.wants(id) && !self.seeding.contains_key(&id);
            if is_whole || is_gone {
                if is_whole {
                    info!(snapshot = %id, "repaired the snapshot");
                }
                self.reporter.problem(DAMAGED, &id.to_string(), None);
            } else {
                self.health.damaged.insert(id);
            }
        }
    }
}

/// Whether permissions are what is wrong.
fn is_denied(error: &Error) -> bool {
    let denied = |io: &std::io::Error| io.kind() == std::io::ErrorKind::PermissionDenied;
    error
        .chain()
        .any(|cause| cause.downcast_ref().is_some_and(denied))
}

fn check(
    (id, store, dir, first): (InfoHashV2, Arc<TorrentStore>, SnapshotDir, u32),
) -> CheckedSnapshot {
    let next_file = store
        .check_files(first, FILES_EACH_TIME)
        .map_err(Error::from);
    let recheck = || {
        let blocks = store.recheck_unreadable()?;
        if !blocks.is_empty() {
            // After a restart it tells that these blocks were here.
            ScrubProgress::add_damage(&dir, blocks.len() as u64)?;
        }
        Ok(blocks)
    };
    CheckedSnapshot {
        id,
        unreadable: match next_file {
            Ok(_) => recheck(),
            Err(_) => Ok(Vec::new()),
        },
        next_file,
    }
}
