//! `status`: what a data directory holds, and what the mirror that works with it says.
//!
//! What is held is read from the disk: nothing is changed, opened for writing or re-hashed, so it may
//! run beside a mirror at any time. The mirror is asked over its control socket.

use std::fmt::Write as _;
use std::fs;
use std::io::{IsTerminal as _, stdout};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bittorrent_protocol::{InfoHashV2, Printable};
use bittorrent_store::Condition;
use data_encoding::HEXLOWER;
use serde::Serialize;
use service_kit::output::{outln, raw_to_stdout, stdout_is_gone, to_json};
use snapshot_pointer::{Authority, ItemKind, RecordDamage, RecordError, RecordStore, Salt};
use tracing::warn;

use crate::cli::StatusArgs;
use crate::config::Config;
use crate::kit::control_client;
use crate::observe::report::Report;
use crate::progress::percent;
use crate::store::catalogue;
use crate::store::data_dir::DataDir;
use crate::store::ledger_record::LedgerRecord;
use crate::store::pins;
use crate::store::snapshot_info::SnapshotInfo;
use crate::store::space;
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
    let socket = config.control.path(data.root());
    if args.watch {
        return watch(&data, socket.as_deref());
    }
    let status = Status::read(&data, socket.as_deref())?;
    if args.json {
        outln!("{}", to_json(&status)?);
    } else {
        outln!("{}", status.to_text());
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
        raw_to_stdout(begin);
        outln!("{}\n", status.to_text());
        if stdout_is_gone() {
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
    /// Why it is damaged.
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
    /// Some process works with it: seeds it, or fetches it.
    in_use: bool,
    /// It is kept until it is unpinned.
    pinned: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// Of the content, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    length: Option<u64>,
    /// Of a partial snapshot, bytes that were verified at the last checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    verified: Option<u64>,
    /// Taken on disk, bytes; of a partial snapshot this may be room that is still to be filled.
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
    /// It cannot be opened, or it was whole and part of its content is damaged or missing: that is
    /// fetched again.
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
                Some(socket) => control_client::get(socket, "/status")?,
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
                let mut text = format!("mirror: none is running here ({place})\n");
                for snapshot in self.snapshots.iter().filter(|one| one.is_being_fetched()) {
                    let id = &snapshot.snapshot;
                    text.push_str(&format!(
                        "another process, such as --once, is fetching {id}\n"
                    ));
                }
                text.push('\n');
                text
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
        let is_refused = ledger.as_ref().is_some_and(|record| !record.is_sound());
        let (state, fault) = match catalogue::inspect(&dir).map(|found| found.condition) {
            // A fetch that has not received the metadata yet.
            Err(_) if dir.is_dir() && !catalogue::is_created(&dir) => (State::Partial, None),
            Err(error) => (State::Damaged, Some(format!("{error:#}"))),
            Ok(_) if is_refused => (State::Refused, None),
            Ok(_) if catalogue::is_discarded(&dir) => (State::Partial, None),
            Ok(Condition::Sealed) => (State::Whole, None),
            Ok(Condition::Changed { path }) => {
                let fault = format!("{} is missing or was changed", path.display());
                (State::Damaged, Some(fault))
            }
            Ok(Condition::Partial { .. } | Condition::NoRecord) => {
                match catalogue::was_whole(&dir) {
                    Ok(true) => {
                        let fault = "blocks are damaged or missing".to_owned();
                        (State::Damaged, Some(fault))
                    }
                    _ => (State::Partial, None),
                }
            }
        };
        Self {
            snapshot: id.to_string(),
            state,
            fault,
            in_use: matches!(data.own_snapshot(id), Ok(None)),
            pinned: pins::is_pinned(&dir),
            name: info.as_ref().map(|info| info.name().to_owned()),
            length: info.as_ref().map(|info| info.layout().content_length()),
            verified: match (&info, state) {
                (Some(info), State::Partial) => {
                    catalogue::claimed(&dir, info.layout().content_length())
                }
                _ => None,
            },
            on_disk: space::occupied(&dir),
            info: info.and_then(|info| SnapshotInfo::parse(info.snapshot()?)),
            ledger,
        }
    }

    fn is_being_fetched(&self) -> bool {
        self.state == State::Partial && self.in_use
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
            State::Partial if self.is_being_fetched() => "being fetched",
            State::Partial => "interrupted",
            State::Refused => "refused: no sound ledger",
            State::Damaged if self.in_use => "damaged, in use",
            State::Damaged => "damaged",
        };
        let _ = write!(text, "\n  {state}");
        if let Some(fault) = &self.fault {
            let _ = write!(text, " ({})", Printable(fault));
        }
        if self.pinned {
            text.push_str(", pinned");
        }
        if let Some(name) = &self.name {
            let _ = write!(text, ", {}, {}", Printable(name), Bytes(length));
        }
        if let Some(verified) = self.verified {
            let done = percent(verified, length.max(1));
            let _ = write!(text, ", {done} % verified at the last checkpoint");
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
                let _ = write!(text, ", for nodes from V{}", Printable(node));
            }
        }
        if let Some(ledger) = &self.ledger {
            let _ = write!(text, "\n  verified to {}", Printable(&ledger.level));
            if let Some(version) = ledger.store_version {
                let _ = write!(text, ": store version {version}");
            }
            if let Some(node) = &ledger.minimum_node_version {
                let _ = write!(text, ", opened by nodes from V{}", Printable(node));
            }
            for fault in &ledger.faults {
                let _ = write!(text, "\n  fault: {}", Printable(fault));
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
        match records.load(&authority, &salt, ItemKind::Pointer) {
            Ok(record) => pointers.extend(record.state().pointer().map(|pointer| Pointer {
                authority: authority.to_string(),
                salt: salt.to_string(),
                seq: pointer.seq.get(),
                snapshot: pointer.snapshot.to_string(),
                contested: record.state().is_contested(),
            })),
            // Records of successors lie beside those of pointers.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot() -> Snapshot {
        Snapshot {
            snapshot: "ab".repeat(32),
            state: State::Whole,
            fault: None,
            in_use: false,
            pinned: false,
            name: Some("data.ldb".to_owned()),
            length: Some(4 << 20),
            verified: None,
            on_disk: 4 << 20,
            info: None,
            ledger: None,
        }
    }

    #[test]
    fn what_a_publisher_wrote_neither_commands_the_terminal_nor_forges_lines() {
        let evil = "\x1b]0;x\x07\nmirror: ready\u{9b}31m\u{202e}".to_owned();
        let mut snapshot = snapshot();
        snapshot.name = Some(evil.clone());
        snapshot.info = Some(SnapshotInfo {
            original_filename: Some(evil.clone()),
            store_version: Some(24),
            minimum_node_version: Some(evil.clone()),
            ..SnapshotInfo::default()
        });
        let mut record = LedgerRecord::refusal(evil.clone());
        record.minimum_node_version = Some(evil);
        snapshot.ledger = Some(record);
        let text = snapshot.to_text(&[]);
        let clean = |c: char| c == '\n' || bittorrent_protocol::is_printable(c);
        assert!(text.chars().all(clean), "{text:?}");
        assert!(!text.contains("\nmirror"), "{text}");
    }

    #[test]
    fn a_fetch_beside_no_mirror_is_named_with_what_is_verified() {
        let mut fetching = snapshot();
        (fetching.state, fetching.in_use) = (State::Partial, true);
        // Room is laid out at the start.
        (fetching.verified, fetching.on_disk) = (Some(1 << 20), 4 << 20);
        let status = Status {
            data_dir: "/d".to_owned(),
            control: Some("/d/control.sock".into()),
            mirror: None,
            current: Vec::new(),
            snapshots: vec![fetching],
            pointers: Vec::new(),
        };
        let text = status.to_text();
        for part in [
            "mirror: none is running here (/d/control.sock)\nanother process, such as --once, is fetching abab",
            "being fetched, data.ldb, 4.00 MiB, 25 % verified at the last checkpoint",
        ] {
            assert!(text.contains(part), "no {part} in {text}");
        }
        assert_eq!(status.exit_code(), NOT_RUNNING);
    }
}
