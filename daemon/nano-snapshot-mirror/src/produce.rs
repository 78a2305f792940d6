//! `produce`: a node's ledger becomes a snapshot in the store and a signed pointer in the DHT.
//!
//! The order is such that a crash at any point leaves either the old state or one that the next
//! run completes: the copy grows in `incoming/`, moves into `snapshots/` when it is whole and
//! sound, only then is a number taken and signed, the signed item is durable here before anybody
//! else sees it, and `current/` follows when the network has it.

mod build;
mod by_mirror;
mod copy;
mod download;
mod memory;
mod plan;

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use bittorrent_protocol::InfoHashV2;
use rustix::fs::FlockOperation;
use snapshot_pointer::publish::{self, Publication, Seen};
use snapshot_pointer::{
    Authority, Dht, Found, Kind, LookupError, Pointer, Record, RecordStore, Salt, Seq, SignedItem,
};
use tokio::task::block_in_place;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::catalogue::{self, Retention};
use crate::cli::ProduceArgs;
use crate::config::{Config, Size};
use crate::control;
use crate::data_dir::{DataDir, StreamName};
use crate::fetch::Ended;
use crate::key_file;
use crate::network::{self, PortTaken};
use crate::progress::Display;
use crate::signals::Signals;
use crate::text::{Bytes, Time};
use build::{Built, Source};
use by_mirror::Mirror;
use download::Fetched;
use memory::{Memory, Origin, Recipe};

/// Look-ups made before the number in use counts as unknown: a node that has just started may
/// need a second one to meet the others.
const LOOKUP_TRIES: usize = 3;

/// Makes and publishes a snapshot.
pub(crate) async fn run(
    args: &ProduceArgs,
    config: &Config,
    display: &Display,
    signals: &Signals,
) -> Result<Ended> {
    // Faults that a person can mend come out before the hours of copying.
    let signer = args.key.as_deref().map(Signer::new).transpose()?;
    let data = DataDir::create(config.data_dir.as_deref())?
        .with_reserve(config.disk.reserve.map(Size::get));
    let _alone = Alone::take(&data)?;
    if let (true, Some(ledger)) = (args.dry_run, &args.ledger) {
        println!("{}", block_in_place(|| plan::of(args, ledger, &data))?);
        return Ok(Ended::Done);
    }
    data.clean_incoming()?;
    let records = RecordStore::open(&data.streams())?;
    let stream = StreamName::of_salt(&args.salt.salt);

    let Some(built) = build(args, config, &data, &stream, display, &signals.stop).await? else {
        return Ok(Ended::Interrupted);
    };
    let unchanged = data.current_of(&stream)? == Some(built.id);
    if unchanged {
        info!(snapshot = %built.id, "unchanged: this is the current snapshot already");
    }
    let Some(signer) = signer.filter(|_| !args.offline) else {
        println!("{}", Summary::of(&built, unchanged));
        info!(snapshot = %built.id, "not published: run produce without --offline to sign it");
        return Ok(Ended::Unpublished);
    };
    let publishing = Publishing {
        args,
        config,
        signer: &signer,
        data: &data,
        records: &records,
    };
    let published = tokio::select! {
        () = signals.stop.cancelled() => return Ok(Ended::Interrupted),
        published = publishing.publish(built.id) => published.with_context(|| format!(
            "snapshot {} is in the store but not published: run produce again to try that again",
            built.id
        ))?,
    };
    data.switch(&stream, built.id, &data.lock()?)?;
    if let Some(mirror) = control::place(config, &data).and_then(Mirror::at) {
        mirror.add(built.id).await;
    }
    block_in_place(|| catalogue::retire(&data, &[], Retention::from(&config.retention)))?;
    let mut summary = Summary::of(&built, unchanged);
    summary.publication(&published, signer.authority);
    println!("{summary}");
    Ok(Ended::Done)
}

/// A snapshot in the store, made now or before; `None` when asked to stop.
async fn build(
    args: &ProduceArgs,
    config: &Config,
    data: &DataDir,
    stream: &StreamName,
    display: &Display,
    stop: &CancellationToken,
) -> Result<Option<Built>> {
    let source = match (&args.ledger, &args.from_url) {
        (Some(ledger), _) => Source::Ledger(ledger.clone()),
        (None, Some(url)) => {
            let last = Memory::of(data, stream).last(&Recipe::of(args));
            let held = last.and_then(|(origin, id)| match origin {
                Origin::Url(resource) if resource.url == url.to_string() => {
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
                    info!("what is at {url} is what the last snapshot was made of");
                    return Ok(built);
                }
            }
        }
        (None, None) => bail!("name a ledger with --ledger, or --from-url"),
    };
    block_in_place(|| build::snapshot(args, config, source, data, display, stop))
}

/// A second `produce` would only copy the same once more, and might take the same number.
struct Alone(#[expect(dead_code, reason = "closing the file is the release")] File);

impl Alone {
    fn take(data: &DataDir) -> Result<Self> {
        let path = data.root().join("produce.lock");
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
                // Only to say more: the lock says enough.
                let _ = file.read_to_string(&mut holder);
                bail!(
                    "another produce works in {}{}: wait for its end",
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

/// The key, in memory only while it signs.
struct Signer {
    path: PathBuf,
    authority: Authority,
}

impl Signer {
    fn new(path: &Path) -> Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            authority: key_file::read(path)?.authority(),
        })
    }

    fn sign(&self, salt: &Salt, pointer: Pointer) -> Result<SignedItem> {
        let key = key_file::read(&self.path)?;
        if key.authority() != self.authority {
            bail!("the key in {} was replaced meanwhile", self.path.display());
        }
        Ok(SignedItem::sign_pointer(&key, salt, pointer)?)
    }
}

/// What is said of a snapshot at the end, for people and scripts: a line for each value.
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
        self.line(
            "nodes",
            &format_args!(
                "{} store it, {} gave it back",
                published.stored, published.read_back
            ),
        );
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

/// A pointer that the network has.
struct Published {
    seq: Seq,
    stored: u32,
    read_back: u32,
}

struct Publishing<'a> {
    args: &'a ProduceArgs,
    config: &'a Config,
    signer: &'a Signer,
    data: &'a DataDir,
    records: &'a RecordStore,
}

impl Publishing<'_> {
    async fn publish(&self, id: InfoHashV2) -> Result<Published> {
        let started = Instant::now();
        let socket = control::place(self.config, self.data);
        let mirror = socket.and_then(Mirror::at);
        let dht: Box<dyn Dht> = match &mirror {
            Some(mirror) => {
                info!("the mirror that runs here is asked for the DHT");
                Box::new(mirror.clone())
            }
            None => {
                let any = Ipv4Addr::UNSPECIFIED;
                let taken = PortTaken::TakeAnother;
                Box::new(network::start_dht(&self.config.dht, any, self.data, taken).await?)
            }
        };
        let lookup = self.look_up(&*dht).await;
        let record = self
            .records
            .load(&self.signer.authority, self.salt(), Kind::Pointer)?;
        let item = match said_already(&record, &lookup, id) {
            Some(item) => item,
            None => self.sign(id, &record, &lookup)?,
        };
        // Durable here before anybody else sees it.
        publish::keep(self.records, &item, SystemTime::now())?;
        let stored = publish::put_and_read_back(&*dht, &item).await?;
        self.note_put()?;
        info!(seq = %item.seq(), took = %Time(started.elapsed()), "pointer published");
        Ok(Published {
            seq: item.seq(),
            stored: stored.stored,
            read_back: stored.read_back,
        })
    }

    fn salt(&self) -> &Salt {
        &self.args.salt.salt
    }

    async fn look_up(&self, dht: &dyn Dht) -> Result<Found, LookupError> {
        let mut tries = 1;
        loop {
            let lookup = dht
                .get_item(&self.signer.authority, self.salt(), &mut |_| {})
                .await;
            if Seen::of(&lookup) != Seen::Unknown || tries == LOOKUP_TRIES {
                return lookup;
            }
            tries += 1;
        }
    }

    /// Takes the next number and signs. The key is in memory here and nowhere else.
    fn sign(
        &self,
        id: InfoHashV2,
        record: &Record,
        lookup: &Result<Found, LookupError>,
    ) -> Result<SignedItem> {
        let on_disk = record.standing().high_water();
        let seen = Seen::of(lookup);
        // A network that answers and knows nothing, and a disk that knows nothing: so it begins.
        let first = self.args.first || (seen == Seen::Nothing && on_disk.is_none());
        let publication = if first {
            Publication::First
        } else {
            Publication::Following
        };
        let seq = match publish::next_seq(seen, on_disk, publication) {
            Ok(seq) => seq,
            Err(refused) => {
                let reason = lookup
                    .as_ref()
                    .err()
                    .map_or(String::new(), |error| format!(" ({error})"));
                bail!("no sequence number to publish with: {refused}{reason}");
            }
        };
        if first {
            warn!(authority = %self.signer.authority, "no earlier pointer of this key: starting at 1");
        }
        self.signer.sign(self.salt(), Pointer { snapshot: id, seq })
    }

    fn note_put(&self) -> Result<()> {
        self.records.update(
            &self.signer.authority,
            self.salt(),
            Kind::Pointer,
            |record| {
                record.note_put(SystemTime::now());
            },
        )?;
        Ok(())
    }
}

/// The signed item that says what is to be said already: what the network has, or what is held
/// here when the network knows nothing newer. It is put again as it is, without a new number.
fn said_already(
    record: &Record,
    lookup: &Result<Found, LookupError>,
    id: InfoHashV2,
) -> Option<SignedItem> {
    let standing = record.standing();
    let held = standing.held().filter(|_| !standing.is_contested());
    // A failed look-up decides nothing: putting an item looks up again before it stores.
    let found = lookup
        .as_ref()
        .ok()
        .filter(|found| found.conflicts.is_empty());
    let there = found.and_then(|found| found.best.as_ref());
    let newest = match (held, there) {
        (Some(held), Some(there)) if there.seq() == held.seq() && there != held => None,
        (Some(held), Some(there)) if there.seq() <= held.seq() => Some(held),
        (_, Some(there)) => Some(there),
        (held, None) => held,
    };
    newest
        .filter(|item| item.pointer().is_ok_and(|pointer| pointer.snapshot == id))
        .filter(|_| {
            lookup
                .as_ref()
                .map_or(true, |found| found.conflicts.is_empty())
        })
        .cloned()
}
