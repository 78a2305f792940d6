//! The list of pointers that the data directory has a record of, as `status` and the control socket's `/pointers`
//! show it.

use std::fs;

use anyhow::{Context as _, Result};
use data_encoding::HEXLOWER;
use serde::Serialize;
use snapshot_pointer::{Authority, ItemKind, RecordDamage, RecordError, RecordStore, Salt};
use snapshot_store::DataDir;
use tracing::warn;

/// The last pointer that was accepted from an authority.
#[derive(Debug, Serialize)]
pub(crate) struct KnownPointer {
    pub(crate) authority: String,
    pub(crate) salt: String,
    pub(crate) seq: i64,
    pub(crate) snapshot: String,
    /// The authority signed another value with the same number, or a greater one, as well.
    pub(crate) contested: bool,
}

/// Lists the pointers, sorted by authority and salt. A damaged record is logged and left out.
pub(crate) fn pointers(data: &DataDir) -> Result<Vec<KnownPointer>> {
    let dir = data.streams();
    let Ok(entries) = fs::read_dir(&dir) else {
        return Ok(Vec::new());
    };
    let records = RecordStore::open(&dir)?;
    let mut pointers = Vec::new();
    for entry in entries {
        let name = entry
            .with_context(|| format!("cannot list {}", dir.display()))?
            .file_name();
        let Some((authority, salt)) = name.to_str().and_then(parse_record_name) else {
            continue;
        };
        match records.load(&authority, &salt, ItemKind::Pointer) {
            Ok(record) => pointers.extend(record.state().pointer().map(|pointer| KnownPointer {
                authority: authority.to_string(),
                salt: salt.to_string(),
                seq: pointer.seq.get(),
                snapshot: pointer.snapshot.to_string(),
                contested: record.state().is_contested(),
            })),
            // The directory also contains records of successors.
            Err(RecordError::Damaged {
                source: RecordDamage::Other,
                ..
            }) => {}
            Err(error) => warn!("{:#}", anyhow::Error::from(error)),
        }
    }
    pointers.sort_by(|a, b| (&a.authority, &a.salt).cmp(&(&b.authority, &b.salt)));
    Ok(pointers)
}

/// `<key hex>.<salt hex>.json`
fn parse_record_name(name: &str) -> Option<(Authority, Salt)> {
    let (authority, salt) = name.strip_suffix(".json")?.split_once('.')?;
    let salt = HEXLOWER.decode(salt.as_bytes()).ok()?;
    Some((authority.parse().ok()?, Salt::new(&salt).ok()?))
}
