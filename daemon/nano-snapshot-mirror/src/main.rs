//! Mirrors Nano ledger snapshots over BitTorrent v2: the command `nano-snapshot-mirror`.

mod attest;
mod catalogue;
mod cli;
mod clock;
mod config;
mod control;
mod data_dir;
mod demo;
mod extract;
mod fetch;
mod followed;
mod happenings;
mod hooks;
mod http;
mod inspect;
mod install;
mod key_file;
mod ledger_policy;
mod ledger_record;
mod left_behind;
mod logging;
mod looking;
mod mirror;
mod network;
mod pause;
mod pins;
mod produce;
mod progress;
mod publishing;
mod quota;
mod reconcile;
mod report;
mod reuse;
mod rotate;
mod scrub;
mod serve;
mod servers;
mod signals;
mod snapshot_info;
mod sources;
mod space;
mod status;
mod stream;
mod systemd;
mod text;
mod torrent;
mod unpack;
mod verify;
mod watchdog;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use tokio::task::block_in_place;
use tracing::info;

use crate::cli::{Cli, Command};
use crate::config::{Live, Loaded};
use crate::fetch::Ended;
use crate::progress::Display;
use crate::signals::{INTERRUPTED, Signals};

/// The exit code after mistakes in flags or elsewhere in the configuration, as clap has it.
const MISTAKEN: u8 = 2;

/// The exit code of `produce` for a snapshot that is whole, and neither signed nor published.
const UNPUBLISHED: u8 = 3;

fn main() -> ExitCode {
    demo::child::end_with_parent_if_asked();
    let cli = Cli::parse();
    let display = Display::new();
    let sources = cli.sources();
    let loaded = match sources.load() {
        Ok(loaded) => loaded,
        Err(mistakes) => {
            for line in mistakes.lines() {
                eprintln!("error: {line}");
            }
            return ExitCode::from(MISTAKEN);
        }
    };
    logging::start(&loaded.config.log, display.bars());
    for notice in &loaded.notices {
        info!("{notice}");
    }
    let live = Live::new(sources, &loaded);
    match run(&cli, &loaded, &live, &display) {
        Ok(Ended::Done) => ExitCode::SUCCESS,
        Ok(Ended::Told(code)) => ExitCode::from(code),
        Ok(Ended::Interrupted) => {
            eprintln!("stopped; run the same again to go on");
            ExitCode::from(INTERRUPTED)
        }
        Ok(Ended::Unpublished) => ExitCode::from(UNPUBLISHED),
        Err(error) => {
            // The chain in one line: what failed, and why.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli, loaded: &Loaded, live: &Live, display: &Display) -> Result<Ended> {
    let config = &loaded.config;
    match &cli.command {
        Some(Command::Keygen(args)) => key_file::keygen(args)?,
        Some(Command::Inspect(args)) => inspect::run(args)?,
        Some(Command::Config(args)) if args.keys => print!("{}", config::keys()),
        Some(Command::Config(_)) => print!("{}", config::effective(loaded)),
        // It has been checked: mistakes end the program before this.
        Some(Command::CheckConfig(_)) => println!("nothing is wrong with the configuration"),
        Some(Command::Status(args)) => return status::run(args, config).map(Ended::Told),
        Some(Command::Pin(args)) => pins::run(args, true, config)?,
        Some(Command::Unpin(args)) => pins::run(args, false, config)?,
        Some(Command::Verify(args)) => {
            return block_on(async |signals| {
                block_in_place(|| verify::run(args, config, display, &signals.stop))
            });
        }
        Some(Command::Install(args)) => {
            return block_on(async |signals| {
                block_in_place(|| install::run(args, config, display, &signals))
            });
        }
        Some(Command::Produce(args)) => {
            return block_on(async |signals| produce::run(args, config, display, &signals).await);
        }
        Some(Command::Attest(args)) => {
            return block_on(async |signals| attest::run(args, config, display, &signals).await);
        }
        Some(Command::Rotate(args)) => {
            return block_on(async |signals| rotate::run(args, config, &signals).await);
        }
        Some(Command::Demo(args)) => {
            block_on(async |signals| demo::run(args, &signals).await)?;
        }
        None if cli.once.once => {
            return block_on(async |signals| fetch::run(&cli.once, live, display, &signals).await);
        }
        None => block_on(async |signals| mirror::run(live, display, &signals).await)?,
    }
    Ok(Ended::Done)
}

/// Runs what needs networks, with signals listened to from the start.
fn block_on<T>(work: impl AsyncFnOnce(Signals) -> Result<T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async { work(Signals::listen()?).await })
}
