//! What was made of what: so that a ledger to which nothing was committed is not copied, packed and
//! hashed again, whether its snapshot got as far as being published or not.

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
    /// As it is shown: without user, password and query, which may be secrets.
    #[serde(deserialize_with = "shown")]
    pub(super) url: String,
    pub(super) etag: Option<String>,
    pub(super) last_modified: Option<String>,
    /// Bytes.
    pub(super) length: u64,
}

/// The URL of a record; earlier versions kept all of it.
fn shown<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    let text = String::deserialize(from)?;
    Ok(match text.parse::<HttpUrl>() {
        Ok(url) => url.to_string(),
        // As it is shown, it need not parse again.
        Err(_) => text,
    })
}

impl Resource {
    /// Whether this is at `url`, as far as the record knows.
    pub(super) fn is_at(&self, url: &HttpUrl) -> bool {
        self.url == url.to_string()
    }
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

impl Origin {
    /// Whether both are the same file, whatever was committed to it in between.
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
    /// When its copy was begun or it was downloaded, in seconds since 1970.
    #[serde(default)]
    made_at: u64,
    /// Whether it got as far as being published; records of old did not say.
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

    /// The snapshot that was made of this in this way. What cannot be read was never noted: it costs
    /// making a snapshot again.
    pub(super) fn made_of(&self, origin: &Origin, recipe: &Recipe) -> Option<InfoHashV2> {
        let (noted, id) = self.last(recipe)?;
        (noted == *origin).then_some(id)
    }

    /// What a snapshot was made of in this way, and which.
    pub(super) fn last(&self, recipe: &Recipe) -> Option<(Origin, InfoHashV2)> {
        let noted = self.read()?;
        let id = noted.snapshot.parse().ok()?;
        (noted.recipe == *recipe).then_some((noted.origin, id))
    }

    /// The snapshot that was made of this ledger in this way within [`FRESH`] and not published,
    /// whatever was committed to the ledger since.
    pub(super) fn unpublished(&self, origin: &Origin, recipe: &Recipe) -> Option<InfoHashV2> {
        let noted = self.read()?;
        let age = unix_seconds(SystemTime::now()).checked_sub(noted.made_at)?;
        let waits = !noted.published && age < FRESH.as_secs();
        let same = noted.recipe == *recipe && noted.origin.is_same_ledger(origin);
        (waits && same).then(|| noted.snapshot.parse().ok())?
    }

    /// Notes a snapshot that is whole, before it is in the store: what is noted and not there costs
    /// nothing, and what is there and not noted would be made again. `made_at` is in seconds since 1970.
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

    /// Notes that a snapshot is published, if it is the last one made.
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

        // Until it is published, it waits for that even when the ledger moved on; not for ever.
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
