//! What was made of what: so that a ledger to which nothing was committed is not copied, packed and
//! hashed again, whether its snapshot got as far as being published or not.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use bittorrent_protocol::InfoHashV2;
use nano_ledger::LedgerFile;
use serde::{Deserialize, Serialize};

use crate::cli::{LayoutArg, ProduceArgs, Publish};
use crate::data_dir::{DataDir, StreamName, write_atomically};

/// The state of what a snapshot is made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Origin {
    /// A ledger: LMDB gives every state that is committed a number.
    Ledger {
        path: PathBuf,
        inode: u64,
        /// When the file was made, in nanoseconds since 1970, where the file system knows: a new file
        /// often gets the inode of one that was removed.
        created: Option<u64>,
        transaction: u64,
    },
    /// Something on a web server.
    Url(Resource),
}

/// What a web server says of something, so that it is known again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Resource {
    pub(super) url: String,
    pub(super) etag: Option<String>,
    pub(super) last_modified: Option<String>,
    /// Bytes.
    pub(super) length: u64,
}

impl Origin {
    /// The ledger at `path` in the state of the file at `state`: itself, or a copy of it.
    pub(super) fn of_ledger(path: &Path, state: &Path) -> Result<Self> {
        let metadata = path
            .metadata()
            .with_context(|| format!("cannot look at {}", path.display()))?;
        Ok(Self::Ledger {
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            inode: metadata.ino(),
            created: metadata.created().ok().and_then(nanoseconds),
            transaction: LedgerFile::open(state)?.meta().txn(),
        })
    }
}

fn nanoseconds(time: SystemTime) -> Option<u64> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    since.as_nanos().try_into().ok()
}

/// How a snapshot is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Recipe {
    /// Another version may make something else of the same.
    version: String,
    publish: String,
    layout: String,
    piece_length: u32,
}

impl Recipe {
    pub(super) fn of(args: &ProduceArgs) -> Self {
        let publish = match args.publish {
            Publish::Exact => "exact",
            Publish::Scrubbed => "scrubbed",
        };
        let layout = match args.layout {
            Some(LayoutArg::Plain) => "plain",
            Some(LayoutArg::TarZst) => "tar.zst",
            None if args.from_url.is_some() => "as-it-is",
            None => "plain",
        };
        Self {
            version: env!("CARGO_PKG_VERSION").into(),
            publish: publish.into(),
            layout: layout.into(),
            piece_length: args.piece_length.bytes(),
        }
    }
}

/// The last snapshot made for a stream, in `produced/<stream>.json`.
pub(super) struct Memory {
    place: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
struct Noted {
    origin: Origin,
    recipe: Recipe,
    snapshot: String,
}

impl Memory {
    pub(super) fn of(data: &DataDir, stream: &StreamName) -> Self {
        let name = format!("{}.json", stream.as_str());
        Self {
            place: data.root().join("produced").join(name),
        }
    }

    /// The snapshot that was made of this in this way. What cannot be read was never noted: it costs
    /// making a snapshot again.
    pub(super) fn made_of(&self, origin: &Origin, recipe: &Recipe) -> Option<InfoHashV2> {
        let (noted, id) = self.last(recipe)?;
        (noted == *origin).then_some(id)
    }

    /// What a snapshot was made of in this way, and which.
    pub(super) fn last(&self, recipe: &Recipe) -> Option<(Origin, InfoHashV2)> {
        let noted: Noted = serde_json::from_slice(&std::fs::read(&self.place).ok()?).ok()?;
        let id = noted.snapshot.parse().ok()?;
        (noted.recipe == *recipe).then_some((noted.origin, id))
    }

    pub(super) fn note(&self, origin: &Origin, recipe: &Recipe, id: InfoHashV2) -> Result<()> {
        let noted = Noted {
            origin: origin.clone(),
            recipe: recipe.clone(),
            snapshot: id.to_string(),
        };
        let json = serde_json::to_vec_pretty(&noted).context("cannot write JSON")?;
        if let Some(dir) = self.place.parent() {
            std::fs::create_dir_all(dir)
                .with_context(|| format!("cannot make {}", dir.display()))?;
        }
        write_atomically(&self.place, &json)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_made_in_the_same_way_is_remembered() {
        let temp = tempfile::tempdir().unwrap();
        let data = DataDir::create(Some(temp.path())).unwrap();
        let memory = Memory::of(&data, &StreamName::of_salt(&"daily".parse().unwrap()));
        let made = |created, transaction| Origin::Ledger {
            path: "/var/lib/nano/data.ldb".into(),
            inode: 5,
            created,
            transaction,
        };
        let origin = |transaction| made(Some(1), transaction);
        let recipe = |layout: &str| Recipe {
            version: "1".into(),
            publish: "exact".into(),
            layout: layout.into(),
            piece_length: 1 << 22,
        };
        let id = InfoHashV2::from_bytes([7; 32]);
        assert_eq!(memory.made_of(&origin(3), &recipe("plain")), None);
        memory.note(&origin(3), &recipe("plain"), id).unwrap();
        assert_eq!(memory.made_of(&origin(3), &recipe("plain")), Some(id));
        assert_eq!(memory.made_of(&origin(4), &recipe("plain")), None);
        assert_eq!(memory.made_of(&made(Some(2), 3), &recipe("plain")), None);
        assert_eq!(memory.made_of(&origin(3), &recipe("tar.zst")), None);
        let other = Memory::of(&data, &StreamName::of_salt(&"weekly".parse().unwrap()));
        assert_eq!(other.made_of(&origin(3), &recipe("plain")), None);
        std::fs::write(&memory.place, "{").unwrap();
        assert_eq!(memory.made_of(&origin(3), &recipe("plain")), None);
    }
}
