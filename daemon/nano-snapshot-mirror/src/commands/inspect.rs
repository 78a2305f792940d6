//! `inspect`: shows the contents of a `.torrent` file or a magnet link, for a person or as JSON.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use crate::cli::InspectArgs;
use crate::text::{Bytes, Count};
use anyhow::{Context as _, Result, bail};
use bittorrent_protocol::Printable;
use bittorrent_protocol::bencode::Limits;
use bittorrent_protocol::magnet::Magnet;
use bittorrent_protocol::metainfo::Metainfo;
use serde::Serialize;
use service_kit::output::{outln, to_json};
use snapshot_store::SnapshotInfo;

/// The maximum size of a `.torrent` file.
const MAX_TORRENT: u64 = Limits::TORRENT.max_len as u64;

/// The maximum number of files listed for a person. JSON lists all of them.
const LISTED: usize = 50;

/// Prints the contents of the file or link `what`.
pub(crate) fn run(args: &InspectArgs) -> Result<()> {
    let text = if args.what.starts_with("magnet:") {
        let link = MagnetLink::of(&args.what)?;
        if args.json {
            to_json(&link)?
        } else {
            link.to_text()
        }
    } else {
        let torrent = Torrent::read(Path::new(&args.what))?;
        if args.json {
            to_json(&torrent)?
        } else {
            torrent.to_text()
        }
    };
    outln!("{text}");
    Ok(())
}

/// Lines of `label: value` with aligned values. The values are untrusted text.
#[derive(Default)]
struct Lines(Vec<String>);

impl Lines {
    fn add(&mut self, label: &str, value: impl std::fmt::Display) {
        let value = Printable(value);
        self.0.push(format!("{:<16}{value}", format!("{label}:")));
    }

    fn add_some(&mut self, label: &str, value: Option<impl std::fmt::Display>) {
        if let Some(value) = value {
            self.add(label, value);
        }
    }

    fn add_all<T: std::fmt::Display>(&mut self, label: &str, values: &[T]) {
        for value in values {
            self.add(label, value);
        }
    }
}

#[derive(Debug, Serialize)]
struct MagnetLink {
    #[serde(skip_serializing_if = "Option::is_none")]
    v2: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    v1: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    trackers: Vec<String>,
    web_seeds: Vec<String>,
    peers: Vec<String>,
}

impl MagnetLink {
    fn of(text: &str) -> Result<Self> {
        let magnet: Magnet = text
            .parse()
            .context("this is not a magnet link of a torrent")?;
        Ok(Self {
            v2: magnet.v2.map(|hash| hash.to_string()),
            v1: magnet.v1.map(|hash| hash.to_string()),
            name: magnet.name.clone(),
            trackers: magnet.trackers.clone(),
            web_seeds: magnet.web_seeds.clone(),
            peers: magnet.peers.iter().map(ToString::to_string).collect(),
        })
    }

    fn to_text(&self) -> String {
        let mut lines = Lines::default();
        lines.add_some("v2 info-hash", self.v2.as_ref());
        lines.add_some("v1 info-hash", self.v1.as_ref());
        if self.v2.is_none() {
            lines.add(
                "note",
                "a v1 link: snapshots are named by their v2 info-hash",
            );
        }
        lines.add_some("name", self.name.as_ref());
        lines.add_all("tracker", &self.trackers);
        lines.add_all("web seed", &self.web_seeds);
        lines.add_all("peer", &self.peers);
        lines.0.join("\n")
    }
}

#[derive(Debug, Serialize)]
struct Torrent {
    name: String,
    v2: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    v1: Option<String>,
    length: u64,
    piece_length: u32,
    pieces: u32,
    private: bool,
    piece_layers_complete: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    snapshot: Option<SnapshotInfo>,
    trackers: Vec<String>,
    web_seeds: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_by: Option<String>,
    files: Vec<Content>,
    magnet: String,
}

#[derive(Debug, Serialize)]
struct Content {
    path: String,
    length: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    root: Option<String>,
}

impl Torrent {
    fn read(path: &Path) -> Result<Self> {
        let failed = || format!("cannot read {}", path.display());
        let file = File::open(path).with_context(failed)?;
        let mut raw = Vec::new();
        file.take(MAX_TORRENT + 1)
            .read_to_end(&mut raw)
            .with_context(failed)?;
        if raw.len() as u64 > MAX_TORRENT {
            bail!("{} is too large for a .torrent file", path.display());
        }
        let meta = Metainfo::parse(&raw, &Limits::TORRENT)
            .with_context(|| format!("{} is not a v2 or hybrid torrent", path.display()))?;
        Ok(Self::of(&meta))
    }

    fn of(meta: &Metainfo) -> Self {
        let info = meta.info();
        let hashes = info.hashes();
        let files = info.files().iter().map(|file| Content {
            path: file.path().join("/"),
            length: file.length(),
            root: file.root().map(|root| root.to_string()),
        });
        Self {
            name: info.name().to_owned(),
            v2: hashes.v2.to_string(),
            v1: hashes.v1.map(|hash| hash.to_string()),
            length: info.layout().content_length(),
            piece_length: info.piece_length().bytes(),
            pieces: info.layout().piece_count(),
            private: info.is_private(),
            piece_layers_complete: meta.missing_layers().next().is_none(),
            snapshot: info.snapshot().and_then(SnapshotInfo::parse),
            trackers: meta.unhashed.trackers.iter().flatten().cloned().collect(),
            web_seeds: meta.unhashed.web_seeds.clone(),
            created_by: meta.unhashed.created_by.clone(),
            files: files.collect(),
            magnet: meta.magnet().to_string(),
        }
    }

    fn to_text(&self) -> String {
        let mut lines = Lines::default();
        lines.add("name", &self.name);
        lines.add("v2 info-hash", &self.v2);
        lines.add_some("v1 info-hash", self.v1.as_ref());
        lines.add(
            "size",
            format_args!("{} ({} bytes)", Bytes(self.length), self.length),
        );
        lines.add(
            "pieces",
            format_args!("{} of {}", self.pieces, Bytes(u64::from(self.piece_length))),
        );
        if !self.piece_layers_complete {
            lines.add("piece layers", "incomplete: peers have to send them");
        }
        if self.private {
            lines.add("private", "yes");
        }
        if let Some(snapshot) = &self.snapshot {
            lines.add_some("made from", snapshot.original_filename.as_ref());
            lines.add_some("store version", snapshot.store_version);
            lines.add_some("needs node", snapshot.minimum_node_version.as_ref());
            lines.add_some("blocks", snapshot.block_count.map(Count));
            lines.add_some("cemented", snapshot.cemented_count.map(Count));
        }
        lines.add_some("created by", self.created_by.as_ref());
        lines.add_all("tracker", &self.trackers);
        lines.add_all("web seed", &self.web_seeds);
        for file in self.files.iter().take(LISTED) {
            lines.add(
                "file",
                format_args!("{} ({})", file.path, Bytes(file.length)),
            );
        }
        if let Some(more) = self
            .files
            .len()
            .checked_sub(LISTED)
            .filter(|more| *more > 0)
        {
            lines.add("file", format_args!("and {more} more"));
        }
        lines.add("magnet", &self.magnet);
        lines.0.join("\n")
    }
}
