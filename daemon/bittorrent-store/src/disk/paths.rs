//! The files in the directory of a generation.

use std::path::{Path, PathBuf};

use bittorrent_protocol::FileIndex;
use bittorrent_protocol::metainfo::Info;

/// The names of the parts of a torrent's directory.
pub mod names {
    /// The info dictionary and piece layers.
    pub const METADATA: &str = "snapshot.torrent";
    /// The directory of the content.
    pub const CONTENT: &str = "content";
    /// The directory of the leaf hashes.
    pub const LEAVES: &str = "leaves";
    /// Present if content files began as clones of older ones.
    pub const CLONED: &str = "cloned";
    /// Which blocks are verified.
    pub const PROGRESS: &str = "progress";
    /// Blocks verified since the last checkpoint. Journals of even and odd epochs alternate.
    pub const JOURNALS: [&str; 2] = ["journal.0", "journal.1"];
}

/// The directory of one torrent:
///
/// ```text
/// snapshot.torrent   info dictionary and piece layers
/// content/NAME       the file, or the directory with the files, as the torrent names them
/// leaves/N           32 bytes per block of file N, for files of more than one block
/// cloned             exists while content files that started as clones are incomplete
/// progress           the claims: which blocks are durable, and the identities of the files
/// journal.0, .1      what was verified since `progress` was written
/// ```
#[derive(Debug, Clone)]
pub(crate) struct Paths {
    root: PathBuf,
}

impl Paths {
    pub(crate) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn torrent(&self) -> PathBuf {
        self.root.join(names::METADATA)
    }

    pub(crate) fn content(&self) -> PathBuf {
        self.root.join(names::CONTENT)
    }

    /// Returns the path of a content file. The components of `Info::files` are safe by
    /// construction.
    pub(crate) fn file(&self, info: &Info, file: FileIndex) -> PathBuf {
        let mut path = self.content();
        if !info.is_single_file() {
            path.push(info.name());
        }
        path.extend(info.file(file).path());
        path
    }

    pub(crate) fn leaves_dir(&self) -> PathBuf {
        self.root.join(names::LEAVES)
    }

    pub(crate) fn leaves(&self, file: FileIndex) -> PathBuf {
        self.leaves_dir().join(file.to_string())
    }

    pub(crate) fn cloned(&self) -> PathBuf {
        self.root.join(names::CLONED)
    }

    pub(crate) fn progress(&self) -> PathBuf {
        self.root.join(names::PROGRESS)
    }

    /// Returns the path of the journal of an epoch. Even and odd epochs use different files.
    pub(crate) fn journal(&self, epoch: u64) -> PathBuf {
        let [even, odd] = names::JOURNALS;
        self.root
            .join(if epoch.is_multiple_of(2) { even } else { odd })
    }
}
