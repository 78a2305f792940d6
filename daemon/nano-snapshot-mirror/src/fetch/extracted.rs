//! What was put at `data.ldb`.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use bittorrent_protocol::InfoHashV2;
use serde::{Deserialize, Serialize};
use tracing::info;

use crate::data_dir::{DataDir, write_atomically};
use crate::extract::Method;

/// `extracted.json`: which snapshot `data.ldb` was when it was put there, so that the same is not
/// fetched again.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Extracted {
    snapshot: String,
    length: u64,
    inode: u64,
    /// Nanoseconds since 1970, as text: a node that opens the file changes it.
    modified: String,
}

impl Extracted {
    fn of(id: InfoHashV2, metadata: &Metadata) -> Self {
        Self {
            snapshot: id.to_string(),
            length: metadata.len(),
            inode: metadata.ino(),
            modified: format!("{}.{:09}", metadata.mtime(), metadata.mtime_nsec()),
        }
    }

    fn place(data: &DataDir) -> PathBuf {
        data.root().join("extracted.json")
    }

    pub(super) fn note(data: &DataDir, id: InfoHashV2, method: Method) -> Result<()> {
        let target = data.root().join("data.ldb");
        let metadata = file_metadata(&target)?;
        info!(snapshot = %id, ?method, "ledger at {}", target.display());
        let json = serde_json::to_vec_pretty(&Self::of(id, &metadata))?;
        write_atomically(&Self::place(data), &json)
    }

    /// Whether `data.ldb` is this snapshot, untouched since it was put there.
    pub(super) fn is_current(data: &DataDir, id: InfoHashV2) -> bool {
        let noted: Option<Self> = std::fs::read(Self::place(data))
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok());
        let Some((noted, metadata)) = noted.zip(data.root().join("data.ldb").metadata().ok())
        else {
            return false;
        };
        let now = Self::of(id, &metadata);
        (noted.snapshot, noted.length, noted.inode, noted.modified)
            == (now.snapshot, now.length, now.inode, now.modified)
    }
}

fn file_metadata(path: &Path) -> Result<Metadata> {
    path.metadata()
        .with_context(|| format!("cannot look at {}", path.display()))
}
