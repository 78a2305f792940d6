//! `--once`: find the newest snapshot, fetch it, verify it, put it in its place, and exit.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, anyhow, bail};
use bittorrent_protocol::InfoHashV2;
use serde::{Deserialize, Serialize};
use snapshot_pointer::{Decision, Tally};
use tokio::task::{block_in_place, spawn_blocking};
use tokio::time::sleep;
use tracing::{info, warn};

use crate::catalogue::{self, Entry};
use crate::cli::{MirrorArgs, OnceArgs, SeedFor};
use crate::data_dir::{DataDir, write_atomically};
use crate::extract::{self, Method};
use crate::network::{Network, PortTaken};
use crate::progress::Display;
use crate::signals::Signals;
use crate::space;
use crate::stream::{self, Stream};
use crate::text::{Bytes, Time};
use crate::torrent::{self, Fetched, Torrent};

/// How long to try to reach the DHT before giving up.
const LOOKUP_PATIENCE: Duration = Duration::from_secs(60);

/// Look-ups that reached the DHT and found nothing, before that is believed.
const LOOKUP_TRIES: u32 = 3;

/// Pause after a look-up that found nothing.
const LOOKUP_RETRY: Duration = Duration::from_secs(3);

/// Pause after the first one that reached nobody; doubled each time.
const UNREACHED_RETRY: Duration = Duration::from_secs(2);

/// How a fetch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Everything that was asked for is done.
    Done,
    /// A signal came first. What was received is kept for the next run.
    Interrupted,
}

/// Fetches once.
pub(crate) async fn run(
    once: &OnceArgs,
    args: &MirrorArgs,
    display: &Display,
    signals: &Signals,
) -> Result<Ended> {
    let started = Instant::now();
    let data = DataDir::create(args.data.data_dir.as_deref())?;
    data.clean_incoming()?;
    let stream = Stream::open(&args.stream, &data)?;
    let network = Network::start(args, &data, PortTaken::TakeAnother).await?;
    let fetch = Fetch {
        once,
        data: &data,
        stream: &stream,
        network: &network,
        display,
        signals,
    };
    let ended = fetch.run().await;
    network.close(&data).await;
    let Some(left) = ended? else {
        return Ok(Ended::Interrupted);
    };
    if once.extract && left.to_extract {
        block_in_place(|| extract_last(&data, &stream, left.id, display, signals))?;
    }
    let place = if once.extract {
        data.root().join("data.ldb")
    } else {
        data.root().join("current").join(stream.name.as_str())
    };
    info!(took = %Time(started.elapsed()), "done: {}", place.display());
    println!("{}", place.display());
    Ok(Ended::Done)
}

/// What the network part leaves to do.
struct Left {
    id: InfoHashV2,
    to_extract: bool,
}

struct Fetch<'a> {
    once: &'a OnceArgs,
    data: &'a DataDir,
    stream: &'a Stream,
    network: &'a Network,
    display: &'a Display,
    signals: &'a Signals,
}

impl Fetch<'_> {
    /// `None` when interrupted.
    async fn run(&self) -> Result<Option<Left>> {
        let Some(id) = self.look_up().await? else {
            return Ok(None);
        };
        if self.once.extract && Extracted::is_current(self.data, id) {
            info!(snapshot = %id, "data.ldb is this snapshot already");
            return Ok(Some(Left {
                id,
                to_extract: false,
            }));
        }
        let Some(torrent) = self.obtain(id).await? else {
            return Ok(None);
        };
        self.check(&torrent)?;
        self.data
            .switch(&self.stream.name, id, &self.data.lock()?)?;
        info!(snapshot = %id, stream = self.stream.name.as_str(), "now current");
        let to_extract = self.once.extract && !self.reflink(&torrent).await?;
        if let Some(seed_for) = self.once.seed_for {
            self.seed(&torrent, seed_for).await;
        }
        torrent.leave().await;
        block_in_place(|| catalogue::retire(self.data, Some(id)))?;
        Ok(Some(Left { id, to_extract }))
    }

    /// The snapshot to fetch; `None` when interrupted.
    async fn look_up(&self) -> Result<Option<InfoHashV2>> {
        let mut meter = self.display.phase("Looking up the pointer in the DHT", 0);
        let give_up = Instant::now() + LOOKUP_PATIENCE;
        let mut reached = 0;
        let mut pause = UNREACHED_RETRY;
        loop {
            let poll = tokio::select! {
                () = self.signals.stop.cancelled() => return Ok(None),
                poll = self.stream.follower.poll(
                    &**self.network.dht(), SystemTime::now(), &stream::note_early
                ) => poll?,
            };
            stream::log(&poll);
            let failed = poll
                .authorities
                .iter()
                .filter(|one| one.lookup.is_err())
                .count();
            let unreached = failed == poll.authorities.len();
            reached += u32::from(stream::was_answered(&poll));
            let enough = reached >= LOOKUP_TRIES || Instant::now() >= give_up;
            match &poll.decision {
                Decision::Follow(choice) if !unreached || enough => {
                    if unreached {
                        warn!("the pointer could not be looked up: taking the last one known");
                    }
                    return Ok(Some(choice.snapshot));
                }
                // Authorities contradict themselves or each other: waiting changes nothing.
                Decision::Undecided(tally) if enough || (failed == 0 && says_something(tally)) => {
                    bail!(
                        "there is no snapshot to fetch: {}",
                        stream::why_not(&poll, tally)
                    );
                }
                _ => {}
            }
            meter.say("not found yet");
            tokio::select! {
                () = self.signals.stop.cancelled() => return Ok(None),
                () = sleep(if unreached { pause } else { LOOKUP_RETRY }) => {}
            }
            if unreached {
                pause *= 2;
            }
        }
    }

    /// The snapshot in the session, whole; `None` when interrupted.
    async fn obtain(&self, id: InfoHashV2) -> Result<Option<Torrent>> {
        match block_in_place(|| catalogue::look(self.data, id)) {
            Some(Entry::Whole(generation)) => {
                info!(snapshot = %id, "held already");
                return Torrent::seed(self.network, generation).await.map(Some);
            }
            Some(Entry::Refused(faults)) => return Err(unsound(id, &faults)),
            _ => {}
        }
        let fetched = torrent::fetch(
            self.network,
            self.data,
            id,
            self.display,
            &self.signals.stop,
        )
        .await?;
        Ok(match fetched {
            Fetched::Whole(torrent) => Some(*torrent),
            Fetched::Stopped => None,
        })
    }

    fn check(&self, torrent: &Torrent) -> Result<()> {
        let record = block_in_place(|| catalogue::check_ledger(&torrent.dir, &torrent.store))?;
        match record {
            Some(record) if !record.is_sound() => Err(unsound(torrent.id, &record.faults)),
            None if self.once.extract => bail!(
                "snapshot {} is {}, an archive: --extract takes plain ledgers only",
                torrent.id,
                torrent.store.info().name(),
            ),
            _ => Ok(()),
        }
    }

    async fn reflink(&self, torrent: &Torrent) -> Result<bool> {
        let content = plain_ledger(torrent)?;
        let target = self.data.root().join("data.ldb");
        let place = target.clone();
        let done = spawn_blocking(move || extract::by_reflink(&content, &place)).await??;
        if done {
            Extracted::note(self.data, torrent.id, Method::Reflink)?;
        }
        Ok(done)
    }

    /// Gives back, for a time or up to a ratio, or until a signal.
    async fn seed(&self, torrent: &Torrent, seed_for: SeedFor) {
        let total = torrent.store.layout().content_length();
        let started = Instant::now();
        info!(?seed_for, "seeding");
        let mut meter = self.display.phase("Seeding", 0);
        loop {
            let status = torrent.status();
            meter.say(&format!(
                "{} given to {} peers",
                Bytes(status.uploaded_payload),
                status.peers
            ));
            let enough = match seed_for {
                SeedFor::Duration(duration) => started.elapsed() >= duration,
                SeedFor::Ratio(ratio) => status.uploaded_payload as f64 >= ratio * total as f64,
            };
            if enough {
                return;
            }
            tokio::select! {
                // What was asked for is here; a signal only ends the giving.
                () = self.signals.stop.cancelled() => return,
                () = sleep(Duration::from_millis(500)) => {}
            }
        }
    }
}

/// Whether authorities were heard, if not enough of them or not in agreement.
fn says_something(tally: &Tally) -> bool {
    tally.contested > 0 || tally.leading.is_some()
}

fn unsound(id: InfoHashV2, faults: &[String]) -> anyhow::Error {
    anyhow!(
        "what snapshot {id} holds is no sound ledger: {}",
        faults.join("; ")
    )
}

fn plain_ledger(torrent: &Torrent) -> Result<std::path::PathBuf> {
    catalogue::plain_ledger(&torrent.dir, &torrent.store.info())
        .context("the snapshot is no plain ledger")
}

/// Puts the ledger in its place after seeding ended, on file systems without reflinks: by moving
/// it out of the store, or by copying when another process uses the snapshot.
fn extract_last(
    data: &DataDir,
    stream: &Stream,
    id: InfoHashV2,
    display: &Display,
    signals: &Signals,
) -> Result<()> {
    let target = data.root().join("data.ldb");
    let lock = data.lock()?;
    let Some(Entry::Whole(generation)) = catalogue::look(data, id) else {
        bail!("snapshot {id} went away before it could be extracted");
    };
    let content = catalogue::plain_ledger(&generation.dir, &generation.store.info())
        .context("the snapshot is no plain ledger")?;
    let size = generation.store.layout().content_length();
    let dir_lock = generation.lock;
    drop(generation.store);
    drop(dir_lock);
    if let Some(owned) = data.own_snapshot(id)? {
        let shared = data.streams_with_current()?;
        extract::by_move(&content, &target)?;
        for (name, current) in shared {
            if current == id {
                data.clear_current(&name, &lock)?;
            }
        }
        drop(owned);
        data.remove_snapshot(id, &lock)?;
        Extracted::note(data, id, Method::Move)?;
        info!(
            stream = stream.name.as_str(),
            "moved out of the store: it is not seeded any longer"
        );
        return Ok(());
    }
    // A shared lock keeps the content where it is while it is copied.
    let _in_use = data
        .share_snapshot(id)?
        .context("another process is writing the snapshot")?;
    drop(lock);
    space::ensure(data.root(), size, "the copy of the ledger")?;
    let mut meter = display.phase("Copying the ledger", size);
    let done = extract::by_copy(&content, &target, &mut |done| {
        meter.set(done, None);
        !signals.stop.is_cancelled()
    })?;
    if !done {
        bail!("stopped while copying the ledger; the snapshot itself is whole");
    }
    Extracted::note(data, id, Method::Copy)
}

/// `extracted.json`: which snapshot `data.ldb` was when it was put there, so that the same is not
/// fetched again.
#[derive(Debug, Serialize, Deserialize)]
struct Extracted {
    snapshot: String,
    length: u64,
    inode: u64,
    /// Nanoseconds since 1970, as text: a node that opens the file changes it.
    modified: String,
}

impl Extracted {
    fn of(id: InfoHashV2, metadata: &Metadata) -> Self {
        Self {
            snapshot: id.to_string(),
            length: metadata.len(),
            inode: metadata.ino(),
            modified: format!("{}.{:09}", metadata.mtime(), metadata.mtime_nsec()),
        }
    }

    fn place(data: &DataDir) -> std::path::PathBuf {
        data.root().join("extracted.json")
    }

    fn note(data: &DataDir, id: InfoHashV2, method: Method) -> Result<()> {
        let target = data.root().join("data.ldb");
        let metadata = file_metadata(&target)?;
        info!(snapshot = %id, ?method, "ledger at {}", target.display());
        let json = serde_json::to_vec_pretty(&Self::of(id, &metadata))?;
        write_atomically(&Self::place(data), &json)
    }

    /// Whether `data.ldb` is this snapshot, untouched since it was put there.
    fn is_current(data: &DataDir, id: InfoHashV2) -> bool {
        let noted: Option<Self> = std::fs::read(Self::place(data))
            .ok()
            .and_then(|json| serde_json::from_slice(&json).ok());
        let Some((noted, metadata)) = noted.zip(data.root().join("data.ldb").metadata().ok())
        else {
            return false;
        };
        let now = Self::of(id, &metadata);
        (noted.snapshot, noted.length, noted.inode, noted.modified)
            == (now.snapshot, now.length, now.inode, now.modified)
    }
}

fn file_metadata(path: &Path) -> Result<Metadata> {
    path.metadata()
        .with_context(|| format!("cannot look at {}", path.display()))
}
