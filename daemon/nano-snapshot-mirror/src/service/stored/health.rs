//! Checks whether the files of seeded snapshots are unchanged.
//!
//! Content may be deleted, truncated or edited under a running mirror, or a disk may fail to read it. Such a
//! snapshot is no longer served, and what is missing of it is downloaded again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Error, Result};
use bittorrent_protocol::{BlockIndex, InfoHashV2};
use bittorrent_store::TorrentStore;
use snapshot_store::{ScrubProgress, SnapshotDir, is_temporary};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};
use tracing::{error, info};

use super::{SNAPSHOTS, StoredSnapshots};
use crate::observe::report::ProblemCode;
use crate::service::events::Event;
use crate::service::problems::Problems;
use crate::service::{Running, running};

/// Time between two checks.
const CHECK_EVERY: Duration = Duration::from_secs(2);

/// Files of one snapshot to check at a time; the next check continues after them.
const FILES_EACH_TIME: u32 = 500;

/// The running check, and the findings of the previous ones.
pub(super) struct Health<'a> {
    /// The file to check next, of each snapshot.
    next_file: HashMap<InfoHashV2, u32>,
    /// Snapshots whose damage is reported as a problem.
    damaged: HashSet<InfoHashV2>,
    check: Option<Running<'a, FileCheck>>,
    next_check: Instant,
}

impl Health<'_> {
    pub(super) fn new() -> Self {
        Self {
            next_file: HashMap::new(),
            damaged: HashSet::new(),
            check: None,
            next_check: Instant::now() + CHECK_EVERY,
        }
    }

    /// Returns the next event: a check is due, or ended.
    pub(super) async fn next_event(&mut self) -> Event {
        tokio::select! {
            check = running(&mut self.check) => {
                self.check = None;
                self.next_check = Instant::now() + CHECK_EVERY;
                Event::FilesChecked(check)
            }
            () = sleep_until(self.next_check), if self.check.is_none() => Event::FileCheckDue,
        }
    }
}

/// Findings of a check of the files of all seeded snapshots.
pub(in crate::service) struct FileCheck {
    /// Whether `snapshots/` can be listed. If not, as after a disk was unmounted, nothing is known about
    /// its content.
    listed: Result<()>,
    snapshots: Vec<CheckedSnapshot>,
}

/// Findings of one snapshot.
struct CheckedSnapshot {
    id: InfoHashV2,
    /// The file to check next time, if all is well.
    next_file: Result<u32>,
    /// Blocks that could not be read when a peer requested them. They count as missing now.
    unreadable: Result<Vec<BlockIndex>>,
}

impl StoredSnapshots<'_> {
    /// Starts to check the files of seeded snapshots on a separate thread.
    pub(in crate::service) fn start_file_check(&mut self) {
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
        self.health.check = Some(Box::pin(async move {
            let checked = spawn_blocking(move || {
                let listed = data.snapshot_ids().map(drop).map_err(Error::from);
                let snapshots = match listed {
                    Ok(()) => stores.into_iter().map(check).collect(),
                    Err(_) => Vec::new(),
                };
                FileCheck { listed, snapshots }
            });
            checked.await.unwrap_or_else(|error| FileCheck {
                listed: Err(error.into()),
                snapshots: Vec::new(),
            })
        }));
    }

    /// Stops serving damaged snapshots. Returns whether a snapshot must be taken up again.
    pub(in crate::service) async fn take_checked(
        &mut self,
        check: FileCheck,
        wanted: &[InfoHashV2],
        problems: &mut Problems,
    ) -> bool {
        problems.check_store(SNAPSHOTS, check.listed);
        let mut found = false;
        for one in check.snapshots {
            let id = one.id;
            match one.next_file {
                Ok(next) => {
                    self.health.next_file.insert(id, next);
                    problems.check_store(&id.to_string(), Ok::<_, Error>(()));
                }
                // Such an error is no evidence about the files.
                Err(error) if is_temporary(error.as_ref()) => {}
                // Open files can still be served.
                Err(error) if is_denied(&error) => {
                    problems.check_store(&id.to_string(), Err::<(), _>(error));
                }
                Err(error) => {
                    found |= self.stop_serving(id, &error, problems).await;
                    continue;
                }
            }
            match one.unreadable {
                Ok(blocks) if blocks.is_empty() => {}
                Ok(blocks) => self.fetch_again(id, blocks, problems).await,
                // This error is no evidence either: the process or the machine temporarily lacks a resource. If blocks were revoked before
                // it, they have to be found again, which only opening the store does.
                Err(error)
                    if is_temporary(error.as_ref())
                        && self
                            .get(id)
                            .is_none_or(|torrent| torrent.store.is_complete()) => {}
                Err(error) => found |= self.stop_serving(id, &error, problems).await,
            }
        }
        self.report_healed(wanted, problems);
        found
    }

    /// Removes a snapshot from the session. Taking it up again finds what is missing.
    async fn stop_serving(
        &mut self,
        id: InfoHashV2,
        error: &Error,
        problems: &mut Problems,
    ) -> bool {
        if !self.contains(id) {
            return false;
        }
        error!(
            snapshot = %id,
            "stopped serving a snapshot whose files have changed, repairing it: {error:#}"
        );
        self.remove(id, problems).await;
        problems.check_store(&id.to_string(), Ok::<_, Error>(()));
        let text = format!("snapshot {id} is not served: {error:#}; repairing it");
        self.report_damaged(id, text, problems);
        problems.retry(id);
        true
    }

    /// Downloads blocks again that the disk could not read.
    async fn fetch_again(
        &mut self,
        id: InfoHashV2,
        blocks: Vec<BlockIndex>,
        problems: &mut Problems,
    ) {
        let Some(torrent) = self.get(id) else {
            return;
        };
        let count = blocks.len();
        error!(snapshot = %id, blocks = count, "cannot read blocks from the disk, fetching them again");
        if let Err(error) = torrent.repair(blocks).await {
            error!(snapshot = %id, "cannot repair the snapshot before the next start: {error}");
        }
        let text = format!("snapshot {id}: {count} blocks cannot be read; fetching them again");
        self.report_damaged(id, text, problems);
    }

    fn report_damaged(&mut self, id: InfoHashV2, text: String, problems: &mut Problems) {
        self.health.damaged.insert(id);
        problems.set(ProblemCode::ContentDamaged, &id.to_string(), Some(text));
    }

    /// Removes the problem of snapshots that are complete again, or that were removed and are not `wanted`.
    fn report_healed(&mut self, wanted: &[InfoHashV2], problems: &mut Problems) {
        let damaged = std::mem::take(&mut self.health.damaged);
        for id in damaged {
            let is_whole = self
                .get(id)
                .is_some_and(|torrent| torrent.status().phase.is_seeding());
            let is_gone = !wanted.contains(&id) && !self.contains(id);
            if is_whole || is_gone {
                if is_whole {
                    info!(snapshot = %id, "repaired the snapshot");
                }
                problems.set(ProblemCode::ContentDamaged, &id.to_string(), None);
            } else {
                self.health.damaged.insert(id);
            }
        }
    }
}

/// Returns whether missing permissions caused the error.
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
            // After a restart the record shows that these blocks existed.
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
