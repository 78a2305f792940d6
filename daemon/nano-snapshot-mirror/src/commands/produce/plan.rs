//! `--dry-run`: shows what a run would do.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use nano_ledger::{LiveLedger, minimum_node_version, summarize};
use snapshot_store::{DataDir, StreamName, space};

use super::build::{self, Built};
use super::memory::{Memory, Origin, Recipe};
use super::pieces;
use crate::cli::{LayoutArg, ProduceArgs};
use crate::text::{Bytes, Count};

/// Returns one line for each value. Nothing is copied or signed, and the network is not used.
pub(super) fn of(args: &ProduceArgs, path: &Path, data: &DataDir) -> Result<String> {
    let mut text = String::new();
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:<11}{value}", format!("{key}:"));
    };
    let ledger = LiveLedger::open(path)?;
    let size = ledger.size_hint()?;
    line(
        "ledger",
        &format_args!("{}, {}", path.display(), Bytes(size)),
    );
    // A running node may change pages while they are read.
    match summarize(path) {
        Ok(summary) => line(
            "content",
            &format_args!(
                "{} blocks, {} cemented, store version {}, nodes from V{}",
                Count(summary.blocks),
                Count(summary.cemented),
                summary.store_version,
                minimum_node_version(summary.store_version).unwrap_or("?"),
            ),
        ),
        Err(error) => line(
            "content",
            &format_args!("not readable at the moment: {error}"),
        ),
    }
    let memory = Memory::of(data, &StreamName::of_salt(args.salt().as_bytes()));
    let origin = Origin::of_ledger(path, path)?;
    let held = memory
        .made_of(&origin, &Recipe::of(args))
        .and_then(|id| Built::held(data, id));
    if let Some(held) = held {
        line("snapshot", &held.id);
        line("would", &"publish it again: it has this ledger already");
        return Ok(text.trim_end().to_owned());
    }
    let needed = build::space_needed(args.layout.unwrap_or(LayoutArg::Plain), size);
    let free = file_kit::space::FileSystem::of(data.root())?.free();
    line(
        "room",
        &format_args!(
            "{} of {} free in {}",
            Bytes(needed),
            Bytes(free),
            data.root().display()
        ),
    );
    let layout = args.layout.unwrap_or(LayoutArg::Plain);
    let fits = match layout {
        LayoutArg::Plain => pieces::refuse_too_short(args.piece_length, size),
        LayoutArg::TarZst => Ok(()),
    };
    match &fits.and_then(|()| Ok(space::ensure(data, needed, "the snapshot")?)) {
        Ok(()) => line("would", &"copy the ledger, hash it, sign and publish"),
        Err(error) => line("would", &format_args!("fail: {error}")),
    }
    Ok(text.trim_end().to_owned())
}
