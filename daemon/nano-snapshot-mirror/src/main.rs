//! Mirrors Nano ledger snapshots over BitTorrent v2: the command `nano-snapshot-mirror`.

// They panic when stdout or stderr is closed or full, see `service_kit::output`.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod api;
mod cli;
mod commands;
mod config;
mod kit;
mod ledger;
mod observe;
mod pointers;
mod progress;
mod service;
mod text;
mod transfer;

use std::io::IsTerminal as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use bittorrent_protocol::Printable;
use service_kit::output::{errln, out, outln};
use service_kit::signals::{INTERRUPTED, Signals};
use tokio::task::block_in_place;
use tracing::info;

use crate::cli::{Cli, Command, FetchOptions};
use crate::commands::outcome::Outcome;
use crate::config::{Live, Loaded};
use crate::progress::ProgressDisplay;

/// The exit code of a command that completed.
const DONE: u8 = 0;

/// The exit code of a command that failed.
const FAILED: u8 = 1;

/// The exit code of `status` when stdout was closed: the same as that of a program killed by SIGPIPE.
const UNREAD: u8 = 141;

/// The exit code for errors in flags or the configuration, the same as clap's.
const MISTAKEN: u8 = 2;

/// The exit code of `produce` when it published nothing: the snapshot is complete and unsigned, or mirrors would
/// refuse the archive.
const UNPUBLISHED: u8 = 3;

fn main() -> ExitCode {
    commands::demo::child::end_with_parent_if_asked();
    let code = match Cli::of_process() {
        Ok(cli) => start(&cli),
        Err(shown) => show(&shown),
    };
    match service_kit::output::finish() {
        Ok(()) => ExitCode::from(code),
        Err(error) => failed(&error.into()),
    }
}

/// Prints help or a version on stdout, and errors in flags on stderr. Returns the exit code.
fn show(shown: &clap::Error) -> u8 {
    if shown.use_stderr() {
        // If stderr is closed, the error cannot be reported anywhere.
        let _ = shown.print();
        return MISTAKEN;
    }
    if std::io::stdout().is_terminal() && shown.print().is_ok() {
        return DONE;
    }
    out!("{}", shown.render());
    DONE
}

/// Runs a command. Returns the exit code.
fn start(cli: &Cli) -> u8 {
    let display = ProgressDisplay::new();
    let sources = cli.sources();
    let loaded = match sources.load() {
        Ok(loaded) => loaded,
        Err(mistakes) => {
            for line in mistakes.lines() {
                errln!("error: {}", Printable(line));
            }
            return MISTAKEN;
        }
    };
    let log = &loaded.config.log;
    kit::logging::start(log.level, log.format, display.bars());
    for notice in &loaded.notices {
        info!("{notice}");
    }
    let live = Live::new(sources, &loaded);
    match run(cli, &loaded, &live, &display) {
        Ok(Outcome::Done) => DONE,
        // An answer that could not be printed counts as none.
        Ok(Outcome::Code(_)) if service_kit::output::stdout_is_closed() => UNREAD,
        Ok(Outcome::Code(code)) => code,
        Ok(Outcome::Interrupted) => {
            errln!("stopped by a signal; run the same command again to continue");
            INTERRUPTED
        }
        Ok(Outcome::Unpublished) => UNPUBLISHED,
        Err(error) => {
            print_error(&error);
            match error.downcast_ref::<commands::produce::Unpublishable>() {
                Some(_) => UNPUBLISHED,
                None => FAILED,
            }
        }
    }
}

fn failed(error: &anyhow::Error) -> ExitCode {
    print_error(error);
    ExitCode::from(FAILED)
}

/// Prints an error and its causes in one line.
fn print_error(error: &anyhow::Error) {
    errln!("error: {}", Printable(format_args!("{error:#}")));
}

fn run(cli: &Cli, loaded: &Loaded, live: &Live, display: &ProgressDisplay) -> Result<Outcome> {
    let config = &loaded.config;
    match &cli.command {
        Some(Command::Keygen(args)) => commands::key_file::keygen(args)?,
        Some(Command::Inspect(args)) => commands::inspect::run(args)?,
        Some(Command::Config(args)) if args.keys => out!("{}", config::keys()),
        Some(Command::Config(_)) => out!("{}", config::effective(loaded)),
        // All errors in single values were reported before, and ended the program.
        Some(Command::CheckConfig(args)) => match config::unusable(loaded, args.elsewhere) {
            None => match &loaded.file {
                Some(file) => outln!("{} is fine", Printable(file.display())),
                None => outln!("there is no configuration file; the defaults are fine"),
            },
            Some(mistake) => {
                errln!("error: {}", Printable(mistake));
                return Ok(Outcome::Code(MISTAKEN));
            }
        },
        Some(Command::Status(args)) => {
            return commands::status::run(args, config).map(Outcome::Code);
        }
        Some(Command::Pin(args)) => commands::pin::run(args, true, config)?,
        Some(Command::Unpin(args)) => commands::pin::run(args, false, config)?,
        Some(Command::Verify(args)) => {
            return block_on(async |signals| {
                block_in_place(|| commands::verify::run(args, config, display, &signals.stop))
            });
        }
        Some(Command::Install(args)) => {
            return block_on(async |signals| {
                block_in_place(|| commands::install::run(args, config, display, &signals))
            });
        }
        Some(Command::Produce(args)) => {
            return block_on(async |signals| {
                commands::produce::run(args, config, display, &signals).await
            });
        }
        Some(Command::ClearReaders(args)) => return commands::produce::readers::run(args),
        Some(Command::CopyLedger(args)) => return commands::produce::copying::run(args),
        Some(Command::Attest(args)) => {
            return block_on(async |signals| {
                commands::attest::run(args, config, display, &signals).await
            });
        }
        Some(Command::Rotate(args)) => {
            return block_on(async |signals| commands::rotate::run(args, config, &signals).await);
        }
        Some(Command::Demo(args)) => {
            return block_on(async |signals| commands::demo::run(args, &signals).await);
        }
        Some(Command::Fetch(args)) => return fetch(&args.options, live, display),
        None if cli.once.once => return fetch(&cli.once.options, live, display),
        None => block_on(async |signals| service::run(live, display, &signals).await)?,
    }
    Ok(Outcome::Done)
}

fn fetch(options: &FetchOptions, live: &Live, display: &ProgressDisplay) -> Result<Outcome> {
    block_on(async |signals| commands::fetch::run(options, live, display, &signals).await)
}

/// Runs a command that uses the network. Signals are handled from the start.
fn block_on<T>(work: impl AsyncFnOnce(Signals) -> Result<T>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(async { work(Signals::listen()?).await })
}
