//! The archive that nano-snapshot-swarm stores in the data directory, under its name in the torrent. If it is the content of the snapshot, it is
//! copied instead of downloaded, and the original remains. Otherwise only the time to read it is lost.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use bittorrent_protocol::metainfo::{Info, Metainfo};
use bittorrent_store::create::{Cut, hash_path};
use bittorrent_store::{StoreError, TorrentStore};
use snapshot_store::layout::LEDGER;
use snapshot_store::{DataDir, Mark, SnapshotDir};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::progress::{ProgressDisplay, WorkKind};
use crate::text::Causes;

/// Bytes to copy between two checks for a stop request.
const COPY_STEP: u64 = 64 << 20;

/// Returns the file that may be the content of this torrent.
pub(crate) fn find(data: &DataDir, info: &Info) -> Option<PathBuf> {
    // The name of a torrent is a safe file name by construction.
    let path = data.root().join(info.name());
    let found = path.symlink_metadata().ok()?;
    let fits = info.is_single_file() && info.name() != LEDGER;
    (fits && found.is_file() && found.len() == info.layout().content_length()).then_some(path)
}

/// Returns the torrent with its piece layer if the file at `path` is its content; `None` also after a
/// stop request. Reads all of the file.
pub(crate) fn recognise(
    path: &Path,
    info: &Arc<Info>,
    display: &ProgressDisplay,
    stop: &CancellationToken,
) -> Option<Metainfo> {
    let file = info.files().first()?;
    let mut meter = display.start(WorkKind::VerifyLeftover, file.length());
    let cut = Cut {
        piece_length: info.piece_length(),
        hybrid: false,
    };
    let hashed = hash_path(path, cut, &mut |done| {
        meter.set(done, None);
        !stop.is_cancelled()
    });
    let hashed = match hashed {
        Ok(hashed) => hashed,
        Err(StoreError::Cancelled) => return None,
        Err(error) => {
            warn!(path = %path.display(), "cannot reuse the file: {}", Causes(&error));
            return None;
        }
    };
    let mut metainfo = Metainfo::from_info(info.clone());
    let same = hashed.info().files().first().and_then(|one| one.root()) == file.root();
    let missing: Vec<_> = metainfo.missing_layers().collect();
    let known = missing.into_iter().all(|index| {
        let layer = hashed.layer(index).cloned();
        layer.is_some_and(|layer| metainfo.set_layer(index, layer).is_ok())
    });
    if !(same && known) {
        info!(path = %path.display(), "the file belongs to another snapshot: not reused");
        return None;
    }
    info!(path = %path.display(), "the file is the snapshot: copying it instead of downloading");
    Some(metainfo)
}

/// Copies the file into the store. The caller must verify the blocks afterwards; a mark on disk records
/// that, should the process crash. Returns `false` after a stop request.
pub(crate) fn copy(path: &Path, store: &TorrentStore, stop: &CancellationToken) -> Result<bool> {
    let dir = SnapshotDir::at(store.directory());
    Mark::Unread.set(&dir)?;
    let info = store.info();
    let to = dir.only_file(&info).context("no file to copy to")?;
    let failed = || format!("cannot copy {} to {}", path.display(), to.display());
    let mut from = File::open(path).with_context(failed)?;
    let mut to_file = File::options().write(true).open(&to).with_context(failed)?;
    // Shares the blocks where the file system can.
    while !stop.is_cancelled() {
        let mut step = (&mut from).take(COPY_STEP);
        if std::io::copy(&mut step, &mut to_file).with_context(failed)? == 0 {
            to_file.sync_all().with_context(failed)?;
            return Ok(true);
        }
    }
    Ok(false)
}
