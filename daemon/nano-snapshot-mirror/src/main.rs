//! Mirrors Nano ledger snapshots over BitTorrent v2: the command `nano-snapshot-mirror`.

mod cli;
mod data_dir;
mod extract;
mod key_file;
mod logging;
mod progress;
mod reconcile;
mod signals;
mod snapshot_info;
mod space;
mod text;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;

use crate::cli::{Cli, Command};
use crate::progress::Display;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let display = Display::new();
    logging::start(cli.log_level(), display.bars());
    match run(cli, &display) {
        Ok(code) => code,
        Err(error) => {
            // The chain in one line: what failed, and why.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli, _display: &Display) -> Result<ExitCode> {
    match cli.command {
        Some(Command::Keygen(args)) => key_file::keygen(&args)?,
        _ => {}
    }
    Ok(ExitCode::SUCCESS)
}
