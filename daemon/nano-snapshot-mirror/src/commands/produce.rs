//! `produce`: makes a snapshot of a node's ledger, stores it, and publishes a signed pointer to it in the DHT.
//!
//! A crash at any point leaves either the old state or one that the next run completes. The order of the steps
//! ensures it. The copy is written in `incoming/` and moves into `snapshots/` when it is complete and sound. Only
//! then the next sequence number is taken and the item is signed. The signed item is saved on this disk before it is
//! put into the DHT. The `current/` link is changed last, when the DHT has the item.

mod build;
mod copy;
pub(crate) mod copying;
mod counted;
mod download;
mod incoming;
mod making;
mod memory;
mod pieces;
mod plan;
pub(crate) mod readers;

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read as _, Write as _};

use anyhow::{Context as _, Result, bail};
use rustix::fs::FlockOperation;
use service_kit::output::outln;
use service_kit::signals::Signals;
use snapshot_pointer::{Authority, ItemKind, RecordStore, Salt};
use snapshot_store::retention::Retention;
use snapshot_store::{DataDir, StreamName, retention};
use tokio::task::block_in_place;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::cli::ProduceArgs;
use crate::commands::outcome::Outcome;
use crate::commands::publishing::{Mirror, Published, Publishing, Signer};
use crate::config::{Config, Size, default_salt};
use crate::progress::ProgressDisplay;
use crate::text::Bytes;

pub(crate) use build::Unpublishable;
use build::{Built, Source};
use download::Fetched;
use memory::{Memory, Origin, Recipe};

/// Makes a snapshot and publishes it.
pub(crate) async fn run(
    args: &ProduceArgs,
    config: &Config,
    display: &ProgressDisplay,
    signals: &Signals,
) -> Result<Outcome> {
    // Reports errors that the user can fix before the copy, which takes hours.
    let salt = args.salt();
    if args.validation {
        refuse_followed(&salt, config)?;
    }
    let signer = args.key.as_deref().map(Signer::new).transpose()?;
    let data = DataDir::create(config.data_dir.as_deref())?
        .with_reserve(config.disk.reserve.map(Size::get));
    let _alone = Alone::take(&data)?;
    if let (true, Some(ledger)) = (args.dry_run, &args.ledger) {
        outln!("{}", block_in_place(|| plan::of(args, ledger, &data))?);
        return Ok(Outcome::Done);
    }
    data.clean_incoming()?;
    let records = RecordStore::open(&data.streams())?;
    let stream = StreamName::of_salt(salt.as_bytes());

    let Some(built) = build(args, config, &data, &stream, display, &signals.stop).await? else {
        return Ok(Outcome::Interrupted);
    };
    let unchanged = data.current_of(&stream)? == Some(built.id);
    if unchanged {
        info!(snapshot = %built.id, "unchanged: this is the current snapshot already");
    }
    let Some(signer) = signer.filter(|_| !args.offline) else {
        outln!("{}", Summary::of(&built, unchanged));
        info!(snapshot = %built.id, "not published: run produce without --offline to sign it");
        return Ok(Outcome::Unpublished);
    };
    let publishing = Publishing {
        config,
        data: &data,
        records: &records,
        authority: signer.authority,
        salt: &salt,
        kind: ItemKind::Pointer,
        first: args.first,
    };
    let published = tokio::select! {
        () = signals.stop.cancelled() => return Ok(Outcome::Interrupted),
        published = publishing.publish_pointer(&signer, built.id) => published.with_context(|| format!(
            "snapshot {} is in the store but not published: run produce again to retry",
            built.id
        ))?,
    };
    data.switch(&stream, built.id, &data.lock()?)?;
    Memory::of(&data, &stream).note_published(built.id)?;
    if let Some(mirror) = config.control.path(data.root()).and_then(Mirror::at) {
        mirror.add(built.id).await;
    }
    block_in_place(|| {
        retention::remove_superseded(&data, &[], Retention::from(&config.retention))
    })?;
    let mut summary = Summary::of(&built, unchanged);
    summary.publication(&published, signer.authority);
    outln!("{summary}");
    Ok(Outcome::Done)
}

/// Refuses to publish a validation run under a salt that mirrors follow.
fn refuse_followed(salt: &Salt, config: &Config) -> Result<()> {
    let mut followed = config.stream.iter().map(|(_, stream)| &stream.salt);
    if *salt == default_salt() || followed.any(|one| one == salt) {
        bail!(
            "--validation publishes under a salt of its own, and mirrors follow {salt}: leave \
             --salt out, or name one that no stream has"
        );
    }
    Ok(())
}

/// Returns a snapshot in the store, built by this run or an earlier one; `None` when cancelled.
async fn build(
    args: &ProduceArgs,
    config: &Config,
    data: &DataDir,
    stream: &StreamName,
    display: &ProgressDisplay,
    stop: &CancellationToken,
) -> Result<Option<Built>> {
    let source = match (&args.ledger, &args.from_url) {
        (Some(ledger), _) => Source::Ledger(ledger.clone()),
        (None, Some(url)) => {
            let last = Memory::of(data, stream).last(&Recipe::of(args));
            let held = last.and_then(|(origin, id)| match origin {
                Origin::Url(resource) if resource.is_at(url) => {
                    Some((resource, Built::held(data, id)?))
                }
                _ => None,
            });
            let known = held.as_ref().map(|(resource, _)| resource);
            match download::fetch(url, known, data, stream, display, stop).await? {
                Fetched::Stopped => return Ok(None),
                Fetched::Whole(downloaded) => Source::Downloaded(downloaded),
                Fetched::Unchanged => {
                    let built = held.map(|(_, built)| built);
                    info!("{url} is unchanged since the last snapshot was made from it");
                    return Ok(built);
                }
            }
        }
        (None, None) => bail!("name a ledger with --ledger, or --from-url"),
    };
    block_in_place(|| build::snapshot(args, config, source, data, display, stop))
}

/// A lock against a second `produce`, which would make the same copy and might take the same sequence number.
struct Alone(#[expect(dead_code, reason = "closing the file is the release")] File);

impl Alone {
    fn take(data: &DataDir) -> Result<Self> {
        let path = data.produce_lock();
        let failed = || format!("cannot lock {}", path.display());
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&path)
            .with_context(failed)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                // The process ID is only for the error message.
                let _ = file.read_to_string(&mut holder);
                bail!(
                    "another produce is running in {}{}: wait until it ends",
                    data.root().display(),
                    match holder.trim() {
                        "" => String::new(),
                        pid => format!(" (process {pid})"),
                    }
                );
            }
            Err(error) => return Err(error).with_context(failed),
        }
        file.set_len(0)
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .with_context(failed)?;
        Ok(Self(file))
    }
}

/// The summary at the end, for people and scripts: one line for each value.
struct Summary(String);

impl Summary {
    fn of(built: &Built, unchanged: bool) -> Self {
        let mut summary = Self(String::new());
        summary.line("snapshot", &built.id);
        summary.line("state", &if unchanged { "unchanged" } else { "new" });
        summary.line(
            "size",
            &format_args!("{} ({} bytes)", Bytes(built.length), built.length),
        );
        summary.line("magnet", &built.magnet);
        summary
    }

    fn publication(&mut self, published: &Published, authority: Authority) {
        self.line("seq", &published.seq);
        self.line("authority", &authority);
        self.line("nodes", &published.nodes());
    }

    fn line(&mut self, key: &str, value: &dyn std::fmt::Display) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{:<11}{value}", format!("{key}:"));
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.trim_end())
    }
}
