//! `status`: shows the contents of a data directory and the state of the mirror that uses it.
//!
//! The contents are read from the disk. Nothing is changed, opened for writing or re-hashed, so the command may run
//! next to a mirror at any time. The mirror's state is requested over its control socket.

use std::fmt::Write as _;
use std::io::{IsTerminal as _, stdout};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use bittorrent_protocol::Printable;
use serde::Serialize;
use service_kit::output::{outln, raw_to_stdout, stdout_is_gone, to_json};
use snapshot_store::DataDir;
use snapshot_store::inventory::{self, StoredSnapshot, StoredState};

use crate::cli::StatusArgs;
use crate::config::Config;
use crate::kit::control_client;
use crate::observe::report::Report;
use crate::pointers::records::{self, KnownPointer};
use crate::progress::percent;
use crate::text::{Bytes, Count};

/// Exit code: the mirror runs and is ready.
const READY: u8 = 0;
/// Exit code: the mirror runs and reports a problem.
const DEGRADED: u8 = 3;
/// Exit code: the mirror runs without problems and has no usable snapshot yet.
const NOT_YET: u8 = 4;
/// Exit code: no mirror is running here.
const NOT_RUNNING: u8 = 5;

/// The pause between two updates with `--watch`.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Prints the contents of the data directory and the mirror's state. Returns the exit code.
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

/// Prints the status repeatedly until stdout is closed or a signal arrives.
fn watch(data: &DataDir, socket: Option<&Path>) -> Result<u8> {
    loop {
        let status = Status::read(data, socket)?;
        // Moves the cursor home and clears the screen below it, which avoids flicker.
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

#[derive(Debug, Serialize)]
struct Status {
    data_dir: String,
    /// The control socket of the mirror.
    control: Option<PathBuf>,
    /// The mirror's report; `null` when none runs.
    mirror: Option<Report>,
    /// The streams with their current snapshots.
    current: Vec<Current>,
    snapshots: Vec<StoredSnapshot>,
    /// The last pointer accepted from each authority.
    pointers: Vec<KnownPointer>,
}

#[derive(Debug, Serialize)]
struct Current {
    stream: String,
    snapshot: String,
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
            snapshots: inventory::snapshots(data)?,
            pointers: records::pointers(data)?,
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
                for snapshot in self
                    .snapshots
                    .iter()
                    .filter(|one| one.is_being_downloaded())
                {
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
                    ", which it has since contradicted"
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
            let _ = write!(text, "\n{}\n", snapshot_text(snapshot, &streams));
        }
        text.truncate(text.trim_end().len());
        text
    }
}

/// Formats one snapshot for a person.
fn snapshot_text(snapshot: &StoredSnapshot, streams: &[&str]) -> String {
    let mut text = snapshot.snapshot.clone();
    if !streams.is_empty() {
        let _ = write!(text, " (current of {})", streams.join(", "));
    }
    let length = snapshot.length.unwrap_or(0);
    let state = match snapshot.state {
        StoredState::Whole if snapshot.in_use => "whole, in use",
        StoredState::Whole => "whole",
        StoredState::Partial if snapshot.is_being_downloaded() => "being fetched",
        StoredState::Partial => "interrupted",
        StoredState::Refused => "refused: not a sound ledger",
        StoredState::Damaged if snapshot.in_use => "damaged, in use",
        StoredState::Damaged => "damaged",
    };
    let _ = write!(text, "\n  {state}");
    if let Some(fault) = &snapshot.fault {
        let _ = write!(text, " ({})", Printable(fault));
    }
    if snapshot.pinned {
        text.push_str(", pinned");
    }
    if let Some(name) = &snapshot.name {
        let _ = write!(text, ", {}, {}", Printable(name), Bytes(length));
    }
    if let Some(verified) = snapshot.verified {
        let done = percent(verified, length.max(1));
        let _ = write!(text, ", {done} % verified at the last checkpoint");
    }
    if let Some(info) = &snapshot.info {
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
    if let Some(ledger) = &snapshot.ledger {
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

#[cfg(test)]
mod tests {
    use snapshot_store::{LedgerRecord, SnapshotInfo};

    use super::*;

    fn snapshot() -> StoredSnapshot {
        StoredSnapshot {
            snapshot: "ab".repeat(32),
            state: StoredState::Whole,
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
        let text = snapshot_text(&snapshot, &[]);
        let clean = |c: char| c == '\n' || bittorrent_protocol::is_printable(c);
        assert!(text.chars().all(clean), "{text:?}");
        assert!(!text.contains("\nmirror"), "{text}");
    }

    #[test]
    fn a_fetch_beside_no_mirror_is_named_with_what_is_verified() {
        let mut fetching = snapshot();
        (fetching.state, fetching.in_use) = (StoredState::Partial, true);
        // Space is allocated at the start.
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
