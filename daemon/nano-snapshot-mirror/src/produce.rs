//! `produce`: a node's ledger becomes a snapshot in the store and a signed pointer in the DHT.
//!
//! The order is such that a crash at any point leaves either the old state or one that the next
//! run completes: the copy grows in `incoming/`, moves into `snapshots/` when it is whole and
//! sound, only then is a number taken and signed, the signed item is durable here before anybody
//! else sees it, and `current/` follows when the network has it.

mod build;

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, Result, bail};
use bittorrent_protocol::InfoHashV2;
use snapshot_pointer::publish::{self, Publication, Seen};
use snapshot_pointer::{
    Authority, Dht, Found, Kind, LookupError, MainlineDht, Pointer, Record, RecordStore, Salt, Seq,
    SignedItem,
};
use tokio::task::block_in_place;
use tracing::{info, warn};

use crate::catalogue;
use crate::cli::ProduceArgs;
use crate::data_dir::{DataDir, StreamName};
use crate::fetch::Ended;
use crate::key_file;
use crate::network::{self, PortTaken};
use crate::progress::Display;
use crate::signals::Signals;
use crate::text::{Bytes, Time};
use build::Built;

/// Look-ups made before the number in use counts as unknown: a node that has just started may
/// need a second one to meet the others.
const LOOKUP_TRIES: usize = 3;

/// Makes and publishes a snapshot.
pub(crate) async fn run(args: &ProduceArgs, display: &Display, signals: &Signals) -> Result<Ended> {
    // Faults that a person can mend come out before the hours of copying.
    let authority = key_file::read(&args.key)?.authority();
    let data = DataDir::create(args.data.data_dir.as_deref())?;
    data.clean_incoming()?;
    let records = RecordStore::open(&data.streams())?;

    let Some(built) = block_in_place(|| build::snapshot(args, &data, display, &signals.stop))?
    else {
        return Ok(Ended::Interrupted);
    };
    let stream = StreamName::of_salt(&args.salt.salt);
    let unchanged = data.current_of(&stream)? == Some(built.id);
    if unchanged {
        info!(snapshot = %built.id, "unchanged: the ledger is what the current snapshot holds");
    }
    let publishing = Publishing {
        args,
        authority,
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
    block_in_place(|| catalogue::retire(&data, None))?;
    println!("{}", summary(&built, &published, authority, unchanged));
    Ok(Ended::Done)
}

/// A pointer that the network has.
struct Published {
    seq: Seq,
    stored: u32,
    read_back: u32,
}

fn summary(built: &Built, published: &Published, authority: Authority, unchanged: bool) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: &dyn std::fmt::Display| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:<11}{value}", format!("{key}:"));
    };
    line("snapshot", &built.id);
    line("state", &if unchanged { "unchanged" } else { "new" });
    line("seq", &published.seq);
    line("authority", &authority);
    line(
        "size",
        &format_args!("{} ({} bytes)", Bytes(built.length), built.length),
    );
    line(
        "nodes",
        &format_args!(
            "{} store it, {} gave it back",
            published.stored, published.read_back
        ),
    );
    line("magnet", &built.magnet);
    text.truncate(text.trim_end().len());
    text
}

struct Publishing<'a> {
    args: &'a ProduceArgs,
    authority: Authority,
    data: &'a DataDir,
    records: &'a RecordStore,
}

impl Publishing<'_> {
    async fn publish(&self, id: InfoHashV2) -> Result<Published> {
        let started = Instant::now();
        let any = Ipv4Addr::UNSPECIFIED;
        let dht =
            network::start_dht(&self.args.dht, any, self.data, PortTaken::TakeAnother).await?;
        let lookup = self.look_up(&dht).await;
        let record = self
            .records
            .load(&self.authority, self.salt(), Kind::Pointer)?;
        let item = match said_already(&record, &lookup, id) {
            Some(item) => item,
            None => self.sign(id, &record, &lookup)?,
        };
        // Durable here before anybody else sees it.
        publish::keep(self.records, &item, SystemTime::now())?;
        let stored = publish::put_and_read_back(&dht, &item).await?;
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

    async fn look_up(&self, dht: &MainlineDht) -> Result<Found, LookupError> {
        let mut tries = 1;
        loop {
            let lookup = dht
                .get_item(&self.authority, self.salt(), &mut |_| {})
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
            warn!(authority = %self.authority, "no earlier pointer of this key: starting at 1");
        }
        let item = {
            let key = key_file::read(&self.args.key)?;
            if key.authority() != self.authority {
                bail!(
                    "the key in {} was replaced meanwhile",
                    self.args.key.display()
                );
            }
            SignedItem::sign_pointer(&key, self.salt(), Pointer { snapshot: id, seq })?
        };
        Ok(item)
    }

    fn note_put(&self) -> Result<()> {
        self.records
            .update(&self.authority, self.salt(), Kind::Pointer, |record| {
                record.note_put(SystemTime::now());
            })?;
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
