//! `status`: what a data directory holds, and what the mirror that works with it says.
//!
//! What is held is read from the disk: nothing is changed, opened for writing or re-hashed, so it may
//! run beside a mirror at any time. The mirror is asked over its control socket.

use std::fmt::Write as _;
use std::fs;
use std::io::{IsTerminal as _, Write as _, stdout};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bittorrent_protocol::InfoHashV2;
use data_encoding::HEXLOWER;
use serde::Serialize;
use snapshot_pointer::{Authority, Damage, Kind, RecordError, RecordStore, Salt};
use tracing::warn;

use crate::catalogue;
use crate::cli::StatusArgs;
use crate::config::Config;
use crate::control;
use crate::data_dir::DataDir;
use crate::ledger_record::LedgerRecord;
use crate::pins;
use crate::progress::percent;
use crate::report::Report;
use crate::snapshot_info::SnapshotInfo;
use crate::space;
use crate::text::{Bytes, Count};

/// Exit code: the mirror runs, and does what it is for.
const READY: u8 = 0;
/// Exit code: the mirror runs, and something is wrong.
const DEGRADED: u8 = 3;
/// Exit code: the mirror runs, nothing is wrong, and it has nothing to give yet.
const NOT_YET: u8 = 4;
/// Exit code: no mirror runs here.
const NOT_RUNNING: u8 = 5;

/// Between two looks with `--watch`.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Prints what the data directory holds and what its mirror says. Gives the exit code.
pub(crate) fn run(args: &StatusArgs, config: &Config) -> Result<u8> {
    let data = DataDir::existing(config.data_dir.as_deref())?;
    let socket = control::place(config, &data);
    if args.watch {
        return watch(&data, socket.as_deref());
    }
    let status = Status::read(&data, socket.as_deref())?;
    if args.json {
        println!(
            "{}",
            serde_json::to_string_pretty(&status).context("cannot write JSON")?
        );
    } else {
        println!("{}", status.to_text());
    }
    if args.alive && status.mirror.is_some() {
        return Ok(READY);
    }
    Ok(status.exit_code())
}

/// Prints until the reader is gone or a signal comes.
fn watch(data: &DataDir, socket: Option<&Path>) -> Result<u8> {
    loop {
        let status = Status::read(data, socket)?;
        // Home, then clear what was below: no flicker.
        let begin = if stdout().is_terminal() {
            "\x1b[H\x1b[J"
        } else {
            ""
        };
        let shown = writeln!(stdout(), "{begin}{}\n", status.to_text());
        if shown.and_then(|()| stdout().flush()).is_err() {
            return Ok(status.exit_code());
        }
        std::thread::sleep(WATCH_EVERY);
    }
}

/// What is held, as the control socket gives it.
pub(crate) fn snapshots(data: &DataDir) -> Result<Vec<Snapshot>> {
    let mut ids = data.snapshot_ids()?;
    ids.sort();
    Ok(ids.into_iter().map(|id| Snapshot::read(data, id)).collect())
}

#[derive(Debug, Serialize)]
struct Status {
    data_dir: String,
    /// Where the mirror was asked.
    control: Option<PathBuf>,
    /// What the mirror says; `null` when none runs.
    mirror: Option<Report>,
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

/// One held snapshot.
#[derive(Debug, Serialize)]
pub(crate) struct Snapshot {
    snapshot: String,
    state: State,
    /// Some process works with it: seeds it, or fetches it.
    in_use: bool,
    /// It is kept until it is unpinned.
    pinned: bool,
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
    fn read(data: &DataDir, socket: Option<&Path>) -> Result<Self> {
        let current = data
            .streams_with_current()?
            .into_iter()
            .map(|(stream, id)| Current {
                stream: stream.as_str().to_owned(),
                snapshot: id.to_string(),
            });
        Ok(Self {
            data_dir: data.root().display().to_string(),
            control: socket.map(Path::to_owned),
            mirror: match socket {
                Some(socket) => control::client::get(socket, "/status")?,
                None => None,
            },
            current: current.collect(),
            snapshots: snapshots(data)?,
            pointers: pointers(data)?,
        })
    }

    fn exit_code(&self) -> u8 {
        match &self.mirror {
            None => NOT_RUNNING,
            Some(report) if report.ready => READY,
            Some(report) if report.problems.is_empty() => NOT_YET,
            Some(_) => DEGRADED,
        }
    }

    fn to_text(&self) -> String {
        let mut text = match &self.mirror {
            Some(report) => format!("mirror: {}\n\n", report.to_text()),
            None => {
                let place = self.control.as_ref().map(|path| path.display().to_string());
                let place = place.unwrap_or_else(|| "no control socket is configured".to_owned());
                format!("mirror: none is running here ({place})\n\n")
            }
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "data directory: {}", self.data_dir);
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
            pinned: pins::is_pinned(&dir),
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
        if self.pinned {
            text.push_str(", pinned");
        }
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
