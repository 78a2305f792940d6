//! The mirror keeps everything it writes below one directory, the data directory (`--data-dir`). A mirror, a producer
//! and a fetch may share it.
//!
//! ```text
//! DATA-DIR/
//!   lock                       locked for the moments in which a process changes this tree
//!   produce.lock               locked while a producer runs
//!   control.sock               the socket of a running mirror, unless `control.socket` names another path
//!   dht-nodes                  DHT nodes to ask at the next start, one IP:PORT a line
//!   monthly-upload.json        bytes uploaded this month, for `limits.upload_quota`
//!   given-this-month.json      the same, as written by earlier versions; read once
//!   data.ldb                   the ledger that `fetch --extract` extracted, for a node
//!   extracted.json             which snapshot `data.ldb` was when it was extracted
//!   current/
//!     STREAM                   link to the current snapshot of a stream: `../snapshots/HASH`
//!     .STREAM.new              the next link, for a moment
//!   snapshots/
//!     HASH/                    one snapshot, whole or in part, named by its info-hash
//!       snapshot.torrent       info dictionary and piece layers
//!       content/NAME           the file, or the directory with the files, as the torrent names them
//!       leaves/N               32 bytes for each block of file N, for files of more than one block
//!       progress               which blocks are verified, and how the files are recognised
//!       journal.0, journal.1   blocks verified since `progress` was written
//!       cloned                 present if content files began as clones of older ones
//!       scrub.json             how far the scrub is, when it last ended, and what damage was found
//!       ledger.json            what verification found in the ledger
//!       pinned                 present if a person wants the snapshot kept
//!       unread                 present if all content must be read before any of it counts as verified
//!       discarded              present if the archive is being discarded while it is extracted
//!   incoming/
//!     NAME/                    a snapshot under construction; locked while its process lives
//!     removed-HASH/            a snapshot that is being removed
//!   streams/
//!     KEY.SALT.json            the last pointer accepted from an authority, or the successor that it named
//!   produced/
//!     STREAM.json              what the last snapshot of a stream was made from
//!     STREAM.making.json       how far the snapshot in `incoming/` is, to resume it
//!   downloads/
//!     STREAM.part              the part of a `--from-url` download that has arrived
//!     STREAM.json              what the server said about it
//!   set-aside/                 damaged parts of snapshots, for a person to look at: the last eight files and one directory
//! ```
//!
//! A file that is replaced is first written as `NAME.new.NUMBER` beside it and then renamed. Such a file that is not
//! locked is the leftover of a killed process and is removed by the next write.
//!
//! Everything but `data.ldb`, `streams/` and the pins can be lost without harm: it is fetched, verified or computed
//! again. Without `streams/` a mirror no longer knows the highest sequence number it accepted.

pub use bittorrent_store::names::{CLONED, CONTENT, JOURNALS, LEAVES, METADATA, PROGRESS};

/// Locked for the moments in which a process changes the tree.
pub const LOCK: &str = "lock";
/// Locked while a producer runs.
pub const PRODUCE_LOCK: &str = "produce.lock";
/// The socket of a running mirror.
pub const CONTROL_SOCKET: &str = "control.sock";
/// DHT nodes to ask at the next start.
pub const DHT_NODES: &str = "dht-nodes";
/// Bytes uploaded this month.
pub const MONTHLY_UPLOAD: &str = "monthly-upload.json";
/// Bytes uploaded this month, as written by earlier versions.
pub const OLD_MONTHLY_UPLOAD: &str = "given-this-month.json";
/// The ledger that was extracted for a node.
pub const LEDGER: &str = "data.ldb";
/// Which snapshot [`LEDGER`] was when it was extracted.
pub const EXTRACTED: &str = "extracted.json";
/// The current snapshot of each stream.
pub const CURRENT: &str = "current";
/// The snapshots.
pub const SNAPSHOTS: &str = "snapshots";
/// How far the scrub of a snapshot is.
pub const SCRUB_PROGRESS: &str = "scrub.json";
/// What verification found in the ledger of a snapshot.
pub const LEDGER_RECORD: &str = "ledger.json";
/// Marks a snapshot that a person wants kept.
pub const PINNED: &str = "pinned";
/// Marks a snapshot whose content must be read before any of it counts as verified.
pub const UNREAD: &str = "unread";
/// Marks a snapshot whose archive is being discarded while it is extracted.
pub const DISCARDED: &str = "discarded";
/// Snapshots under construction, and those that are being removed.
pub const INCOMING: &str = "incoming";
/// The last pointer accepted from each authority.
pub const STREAMS: &str = "streams";
/// What the producer remembers.
pub const PRODUCED: &str = "produced";
/// How the name of a record of a snapshot under construction ends, in [`PRODUCED`].
pub const MAKING: &str = ".making.json";
/// Downloads of a producer.
pub const DOWNLOADS: &str = "downloads";
/// Damaged parts of snapshots.
pub const SET_ASIDE: &str = "set-aside";

/// The files that may be directly in the directory of a snapshot.
pub const SNAPSHOT_FILES: [&str; 10] = [
    METADATA,
    PROGRESS,
    JOURNALS[0],
    JOURNALS[1],
    CLONED,
    SCRUB_PROGRESS,
    LEDGER_RECORD,
    PINNED,
    UNREAD,
    DISCARDED,
];

/// The directories that may be in the directory of a snapshot.
pub const SNAPSHOT_DIRECTORIES: [&str; 2] = [CONTENT, LEAVES];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// The page that this module's documentation makes.
    fn page() -> String {
        let source = include_str!("layout.rs");
        let lines = source.lines().map_while(|line| line.strip_prefix("//!"));
        let lines = lines.map(|line| line.strip_prefix(' ').unwrap_or(line));
        let text: Vec<&str> = lines.collect();
        format!(
            "# The data directory\n\n<!-- Generated from daemon/snapshot-store/src/layout.rs: \
             REGENERATE=1 cargo test --workspace --lib the_page -->\n\n{}\n",
            text.join("\n")
        )
    }

    #[test]
    fn the_page_of_the_data_directory_is_this_documentation() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/data-directory.md");
        if std::env::var_os("REGENERATE").is_some() {
            std::fs::write(&path, page()).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap();
        assert_eq!(written, page(), "regenerate docs/data-directory.md");
    }

    #[test]
    fn the_tree_has_every_name_once() {
        let page = page();
        let (_, tree) = page.split_once("```text").unwrap();
        let (tree, _) = tree.split_once("```").unwrap();
        // A line has one name or several before its description.
        let names: Vec<&str> = tree
            .lines()
            .filter_map(|line| line.trim().split("  ").next())
            .flat_map(|names| names.split(", "))
            .map(|name| name.trim_end_matches('/'))
            .collect();
        let top = [
            LOCK,
            PRODUCE_LOCK,
            CONTROL_SOCKET,
            DHT_NODES,
            MONTHLY_UPLOAD,
            OLD_MONTHLY_UPLOAD,
            LEDGER,
            EXTRACTED,
            CURRENT,
            SNAPSHOTS,
            INCOMING,
            STREAMS,
            PRODUCED,
            DOWNLOADS,
            SET_ASIDE,
        ];
        let below = ["content/NAME", "leaves/N"];
        let files = SNAPSHOT_FILES.into_iter();
        for name in top.into_iter().chain(files).chain(below) {
            let count = names.iter().filter(|found| **found == name).count();
            assert_eq!(count, 1, "{name} in {names:?}");
        }
    }
}
