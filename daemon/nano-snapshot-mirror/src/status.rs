//! `status`: what a data directory holds, read from the disk alone. Nothing is changed, opened for
//! writing or re-hashed, so it may run beside a mirror at any time.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result};
use bittorrent_protocol::InfoHashV2;
use data_encoding::HEXLOWER;
use serde::Serialize;
use snapshot_pointer::{Authority, Damage, Kind, RecordError, RecordStore, Salt};
use tracing::warn;

use crate::catalogue;
use crate::cli::StatusArgs;
use crate::config::Config;
use crate::data_dir::DataDir;
use crate::ledger_record::LedgerRecord;
use crate::progress::percent;
use crate::snapshot_info::SnapshotInfo;
use crate::space;
use crate::text::{Bytes, Count};

/// Prints what the data directory holds.
pub(crate) fn run(args: &StatusArgs, config: &Config) -> Result<()> {
    let data = DataDir::existing(config.data_dir.as_deref())?;
    let status = Status::read(&data)?;
    if args.json {
        println!(
            "{}",
            serde_json::to_string_pretty(&status).context("cannot write JSON")?
        );
    } else {
        println!("{}", status.to_text());
    }
    Ok(())
}

#[derive(Debug, Serialize)]
struct Status {
    data_dir: String,
    /// Stream name and current snapshot.
    current: Vec<Current>,
    snapshots: Vec<Snapshot>,
    /// What the authorities were last heard to say.
    pointers: Vec<Pointer>,
}

#[derive(Debug, Serialize)]
struct Current {
    stream: String,
    snapshot: String,
}

#[derive(Debug, Serialize)]
struct Snapshot {
    snapshot: String,
    state: State,
    /// Some process works with it: seeds it, or fetches it.
    in_use: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Of the content, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    length: Option<u64>,
    /// Taken on disk, bytes.
    on_disk: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<SnapshotInfo>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ledger: Option<LedgerRecord>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// Everything is there and sealed.
    Whole,
    /// Being fetched, or left by an interrupted fetch.
    Partial,
    /// What is in it failed verification.
    Refused,
    /// Its metadata cannot be read.
    Damaged,
}

#[derive(Debug, Serialize)]
struct Pointer {
    authority: String,
    salt: String,
    seq: i64,
    snapshot: String,
    /// The authority signed another value with the same number, or a greater one, as well.
    contested: bool,
}

impl Status {
    fn read(data: &DataDir) -> Result<Self> {
        let mut ids = data.snapshot_ids()?;
        ids.sort();
        let current = data
            .streams_with_current()?
            .into_iter()
            .map(|(stream, id)| Current {
                stream: stream.as_str().to_owned(),
                snapshot: id.to_string(),
            });
        Ok(Self {
            data_dir: data.root().display().to_string(),
            current: current.collect(),
            snapshots: ids.into_iter().map(|id| Snapshot::read(data, id)).collect(),
            pointers: pointers(data)?,
        })
    }

    fn to_text(&self) -> String {
        let mut text = format!("data directory: {}\n", self.data_dir);
        // Writing to a String cannot fail.
        for pointer in &self.pointers {
            let _ = writeln!(
                text,
                "pointer: seq {} of authority {} ({}) names {}{}",
                pointer.seq,
                pointer.authority,
                pointer.salt,
                pointer.snapshot,
                if pointer.contested {
                    ", which it contradicted since"
                } else {
                    ""
                },
            );
        }
        if self.snapshots.is_empty() {
            let _ = writeln!(text, "no snapshots");
        }
        for snapshot in &self.snapshots {
            let streams = self
                .current
                .iter()
                .filter(|current| current.snapshot == snapshot.snapshot);
            let streams: Vec<&str> = streams.map(|current| current.stream.as_str()).collect();
            let _ = write!(text, "\n{}\n", snapshot.to_text(&streams));
        }
        text.truncate(text.trim_end().len());
        text
    }
}

impl Snapshot {
    fn read(data: &DataDir, id: InfoHashV2) -> Self {
        let dir = data.snapshot(id);
        let info = catalogue::read_info(&dir).ok();
        let ledger = LedgerRecord::load(&dir);
        let state = match &info {
            None if catalogue::is_created(&dir) => State::Damaged,
            None => State::Partial,
            Some(_) if ledger.as_ref().is_some_and(|record| !record.is_sound()) => State::Refused,
            Some(info) if !catalogue::is_sealed(&dir, info) => State::Partial,
            Some(_) => State::Whole,
        };
        Self {
            snapshot: id.to_string(),
            state,
            in_use: matches!(data.own_snapshot(id), Ok(None)),
            name: info.as_ref().map(|info| info.name().to_owned()),
            length: info.as_ref().map(|info| info.layout().content_length()),
            on_disk: space::occupied(&dir),
            info: info.and_then(|info| SnapshotInfo::parse(info.snapshot()?)),
            ledger,
        }
    }

    fn to_text(&self, streams: &[&str]) -> String {
        let mut text = self.snapshot.clone();
        if !streams.is_empty() {
            let _ = write!(text, " (current of {})", streams.join(", "));
        }
        let length = self.length.unwrap_or(0);
        let state = match self.state {
            State::Whole if self.in_use => "whole, in use",
            State::Whole => "whole",
            State::Partial if self.in_use => "being fetched",
            State::Partial => "interrupted",
            State::Refused => "refused: no sound ledger",
            State::Damaged => "damaged",
        };
        let _ = write!(text, "\n  {state}");
        if let Some(name) = &self.name {
            let _ = write!(text, ", {name}, {}", Bytes(length));
        }
        if self.state == State::Partial {
            let _ = write!(
                text,
                ", about {} % on disk",
                percent(self.on_disk, length.max(self.on_disk + 1))
            );
        }
        if let Some(info) = &self.info {
            if let Some(blocks) = info.block_count {
                let _ = write!(text, "\n  {} blocks", Count(blocks));
            }
            if let Some(cemented) = info.cemented_count {
                let _ = write!(text, ", {} cemented", Count(cemented));
            }
            if let Some(version) = info.store_version {
                let _ = write!(text, ", store version {version}");
            }
            if let Some(node) = &info.minimum_node_version {
                let _ = write!(text, ", for nodes from V{node}");
            }
        }
        if let Some(ledger) = &self.ledger {
            let _ = write!(text, "\n  verified to {}", ledger.level);
            if let Some(version) = ledger.store_version {
                let _ = write!(text, ": store version {version}");
            }
            if let Some(node) = &ledger.minimum_node_version {
                let _ = write!(text, ", opened by nodes from V{node}");
            }
            for fault in &ledger.faults {
                let _ = write!(text, "\n  fault: {fault}");
            }
        }
        text
    }
}

/// What all records of pointers say.
fn pointers(data: &DataDir) -> Result<Vec<Pointer>> {
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
        match records.load(&authority, &salt, Kind::Pointer) {
            Ok(record) => pointers.extend(record.standing().pointer().map(|pointer| Pointer {
                authority: authority.to_string(),
                salt: salt.to_string(),
                seq: pointer.seq.get(),
                snapshot: pointer.snapshot.to_string(),
                contested: record.standing().is_contested(),
            })),
            // Records of successors lie beside those of pointers.
            Err(RecordError::Damaged {
                source: Damage::Other,
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
