//! Records which source the last snapshot was built from. A ledger without new commits is not copied, packed and
//! hashed again, whether its snapshot was published or not.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use bittorrent_protocol::InfoHashV2;
use bittorrent_session::HttpUrl;
use file_kit::json_file;
use file_kit::recorded_time::unix_seconds;
use nano_ledger::LedgerFile;
use serde::{Deserialize, Deserializer, Serialize};
use snapshot_store::{DataDir, StreamName};

use super::making::FRESH;
use crate::cli::{LayoutArg, ProduceArgs, Publish};

/// The state of the source of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Origin {
    /// A ledger. LMDB numbers every committed state.
    Ledger {
        path: PathBuf,
        inode: u64,
        /// The creation time of the file in nanoseconds since 1970, where the file system has it. A new file often
        /// gets the inode number of a removed one.
        created: Option<u64>,
        transaction: u64,
    },
    /// A file on a web server.
    Url(Resource),
}

/// The metadata of a file on a web server, by which it is recognised.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Resource {
    /// The URL as displayed: without user, password and query, which may be secrets.
    #[serde(deserialize_with = "shown")]
    pub(super) url: String,
    pub(super) etag: Option<String>,
    pub(super) last_modified: Option<String>,
    /// The length in bytes.
    pub(super) length: u64,
}

/// Deserialises the URL of a record. Records of earlier versions have the complete URL.
fn shown<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    Ok(match text.parse::<HttpUrl>() {
        Ok(url) => url.to_string(),
        // The displayed form of a URL need not be a valid URL.
        Err(_) => text,
    })
}

impl Resource {
    /// Returns whether this is the file at `url`, as far as the record allows to compare.
    pub(super) fn is_at(&self, url: &HttpUrl) -> bool {
        self.url == url.to_string()
    }
}

impl Origin {
    /// Returns the origin for the ledger at `path`. The state is read from the file at `state`: the ledger itself or
    /// a copy of it.
    pub(super) fn of_ledger(path: &Path, state: &Path) -> Result<Self> {
        let metadata = path
            .metadata()
            .with_context(|| format!("cannot access {}", path.display()))?;
        Ok(Self::Ledger {
            path: std::path::absolute(path).unwrap_or_else(|_| path.to_owned()),
            inode: metadata.ino(),
            created: metadata.created().ok().and_then(nanoseconds),
            transaction: LedgerFile::open(state)?.meta().txn(),
        })
    }
}

impl Origin {
    /// Returns whether both are the same ledger file, regardless of commits in between.
    pub(super) fn is_same_ledger(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::Ledger {
                    path,
                    inode,
                    created,
                    transaction: _,
                },
                Self::Ledger {
                    path: other_path,
                    inode: other_inode,
                    created: other_created,
                    transaction: _,
                },
            ) => (path, inode, created) == (other_path, other_inode, other_created),
            _ => false,
        }
    }
}

fn nanoseconds(time: SystemTime) -> Option<u64> {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    since.as_nanos().try_into().ok()
}

/// How a snapshot is built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Recipe {
    /// The program version: another version may build different content from the same source.
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

/// The record of the last snapshot built for a stream, `produced/<stream>.json`.
pub(super) struct Memory {
    place: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
struct Noted {
    origin: Origin,
    recipe: Recipe,
    snapshot: String,
    /// When its copy began or its download ended, in seconds since 1970.
    #[serde(default)]
    made_at: u64,
    /// Whether the snapshot was published. Records of earlier versions lack this field.
    #[serde(default = "yes")]
    published: bool,
}

fn yes() -> bool {
    true
}

impl Memory {
    pub(super) fn of(data: &DataDir, stream: &StreamName) -> Self {
        Self {
            place: data.last_produced(stream),
        }
    }

    /// Returns the snapshot that was built from this source with this recipe. An unreadable record counts as none:
    /// the cost is building the snapshot again.
    pub(super) fn made_of(&self, origin: &Origin, recipe: &Recipe) -> Option<InfoHashV2> {
        let (noted, id) = self.last(recipe)?;
        (noted == *origin).then_some(id)
    }

    /// Returns the last snapshot built with this recipe, and its source.
    pub(super) fn last(&self, recipe: &Recipe) -> Option<(Origin, InfoHashV2)> {
        let noted = self.read()?;
        let id = noted.snapshot.parse().ok()?;
        (noted.recipe == *recipe).then_some((noted.origin, id))
    }

    /// Returns the unpublished snapshot of this ledger and recipe if it is younger than [`FRESH`]. Later commits to
    /// the ledger do not matter.
    pub(super) fn unpublished(&self, origin: &Origin, recipe: &Recipe) -> Option<InfoHashV2> {
        let noted = self.read()?;
        let age = unix_seconds(SystemTime::now()).checked_sub(noted.made_at)?;
        let waits = !noted.published && age < FRESH.as_secs();
        let same = noted.recipe == *recipe && noted.origin.is_same_ledger(origin);
        (waits && same).then(|| noted.snapshot.parse().ok())?
    }

    /// Records a complete snapshot before it is moved into the store. A record without a snapshot does no harm, while
    /// a snapshot without a record would be built again. `made_at` is in seconds since 1970.
    pub(super) fn note(
        &self,
        origin: &Origin,
        recipe: &Recipe,
        id: InfoHashV2,
        made_at: u64,
    ) -> Result<()> {
        self.write(&Noted {
            origin: origin.clone(),
            recipe: recipe.clone(),
            snapshot: id.to_string(),
            made_at,
            published: false,
        })
    }

    /// Records that a snapshot is published, if it is the last one built.
    pub(super) fn note_published(&self, id: InfoHashV2) -> Result<()> {
        match self.read() {
            Some(noted) if noted.snapshot == id.to_string() && !noted.published => {
                self.write(&Noted {
                    published: true,
                    ..noted
                })
            }
            _ => Ok(()),
        }
    }

    fn read(&self) -> Option<Noted> {
        json_file::read_or_default(&self.place)
    }

    fn write(&self, noted: &Noted) -> Result<()> {
        if let Some(dir) = self.place.parent() {
            std::fs::create_dir_all(dir)
                .with_context(|| format!("cannot make {}", dir.display()))?;
        }
        Ok(json_file::write(&self.place, noted)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_made_in_the_same_way_is_remembered() {
        let temp = tempfile::tempdir().unwrap();
        let data = DataDir::create(Some(temp.path())).unwrap();
        let memory = Memory::of(&data, &StreamName::of_salt(b"daily"));
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
        let now = unix_seconds(SystemTime::now());
        let note = |at| memory.note(&origin(3), &recipe("plain"), id, at).unwrap();
        note(now);
        assert_eq!(memory.made_of(&origin(3), &recipe("plain")), Some(id));
        assert_eq!(memory.made_of(&origin(4), &recipe("plain")), None);
        assert_eq!(memory.made_of(&made(Some(2), 3), &recipe("plain")), None);
        assert_eq!(memory.made_of(&origin(3), &recipe("tar.zst")), None);
        let other = Memory::of(&data, &StreamName::of_salt(b"weekly"));
        assert_eq!(other.made_of(&origin(3), &recipe("plain")), None);

        // An unpublished snapshot is returned although the ledger changed, but only for a limited time.
        let waits = |origin: &Origin, layout| memory.unpublished(origin, &recipe(layout));
        assert_eq!(waits(&origin(4), "plain"), Some(id));
        assert_eq!(waits(&origin(4), "tar.zst"), None);
        assert_eq!(waits(&made(Some(2), 4), "plain"), None);
        note(now - FRESH.as_secs());
        assert_eq!(waits(&origin(4), "plain"), None);
        note(now);
        memory
            .note_published(InfoHashV2::from_bytes([8; 32]))
            .unwrap();
        assert_eq!(waits(&origin(4), "plain"), Some(id));
        memory.note_published(id).unwrap();
        assert_eq!(waits(&origin(4), "plain"), None);
        assert_eq!(memory.made_of(&origin(3), &recipe("plain")), Some(id));

        std::fs::write(&memory.place, "{").unwrap();
        assert_eq!(memory.made_of(&origin(3), &recipe("plain")), None);
    }
}
