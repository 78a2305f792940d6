//! `fetch`, or `--once`: finds the newest snapshot, fetches it, verifies it, extracts it on request, and exits.

mod extracted;
mod final_extract;
mod streaming_extract;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use bittorrent_protocol::InfoHashV2;
use extracted::{Extracted, New};
use final_extract::{FinalExtract, note_damage};
use ledger_archive::LedgerFormat;
use service_kit::output::outln;
use service_kit::signals::Signals;
use snapshot_pointer::{Decision, Tally};
use snapshot_store::retention::Retention;
use snapshot_store::{DataDir, Entry, Mark, retention};
use streaming_extract::StreamingExtract;
use tokio::sync::watch;
use tokio::task::{block_in_place, spawn_blocking};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::cli::FetchOptions;
use crate::commands::install::place::LedgerPlace;
use crate::commands::outcome::Outcome;
use crate::config::{Live, SeedFor, Size};
use crate::ledger::extract::{self, Method};
use crate::ledger::policy::{LedgerPolicy, Verdict};
use crate::ledger::published::Published;
use crate::ledger::unpack::{Unpack, Unpacked};
use crate::pointers::stream::{self, Stream};
use crate::progress::{ProgressDisplay, WorkKind};
use crate::text::{Bytes, Time};
use crate::transfer::download::{self, ContentReader, DownloadOutcome, DownloadRequest};
use crate::transfer::network::{Network, Role};
use crate::transfer::snapshot_torrent::SnapshotTorrent;

/// How long to try to reach the DHT before giving up.
const LOOKUP_PATIENCE: Duration = Duration::from_secs(60);

/// Answered look-ups without an item after which the fetch accepts that nothing is published.
const LOOKUP_TRIES: u32 = 3;

/// The pause after a look-up that found no item.
const LOOKUP_RETRY: Duration = Duration::from_secs(3);

/// The pause after the first look-up that reached no node. It doubles after each further one.
const UNREACHED_RETRY: Duration = Duration::from_secs(2);

/// Fetches the newest snapshot once.
pub(crate) async fn run(
    options: &FetchOptions,
    live: &Live,
    display: &ProgressDisplay,
    signals: &Signals,
) -> Result<Outcome> {
    let started = Instant::now();
    let config = &live.config();
    if options.extract
        && let Some(root) = &config.data_dir
    {
        LedgerPlace::check_unused(root)?;
    }
    let data = DataDir::create(config.data_dir.as_deref())?
        .with_reserve(config.disk.reserve.map(Size::get));
    data.clean_incoming()?;
    let stream = Stream::one(config, options.stream.as_deref(), &data)?;
    let network = Network::start(live, &data, Role::Once).await?;
    network.session().start_accepting();
    let policy = LedgerPolicy::from(&config.verify);
    let fetch = Fetch {
        options,
        retention: Retention::from(&config.retention),
        data: &data,
        stream: &stream,
        network: &network,
        policy: &policy,
        display,
        signals,
    };
    let ended = fetch.run().await;
    network.close(&data).await;
    let Some(left) = ended? else {
        return Ok(Outcome::Interrupted);
    };
    let final_extract = FinalExtract {
        data: &data,
        stream: &stream,
        id: left.id,
        policy: &policy,
        allow_older: options.allow_older,
        display,
        stop: &signals.stop,
    };
    let ended = match left.to_do {
        Remaining::Nothing => Outcome::Done,
        Remaining::Complete => block_in_place(|| final_extract.complete())?,
        Remaining::Extract => block_in_place(|| final_extract.extract())?,
        Remaining::Discard => block_in_place(|| final_extract.extract_discarding())?,
    };
    if ended == Outcome::Interrupted {
        return Ok(ended);
    }
    let place = if options.extract {
        data.ledger()
    } else {
        data.current_link(&stream.name)
    };
    info!(
        took_ms = started.elapsed().as_millis() as u64,
        "done: {}",
        place.display()
    );
    outln!("{}", place.display());
    Ok(Outcome::Done)
}

/// The result of the part of a fetch that needs the network.
struct NetworkResult {
    id: InfoHashV2,
    to_do: Remaining,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Remaining {
    Nothing,
    /// The ledger is in place. An interrupted run may have left other work undone.
    Complete,
    /// A plain ledger has to be moved or copied.
    Extract,
    /// An archive has to be extracted and deleted.
    Discard,
}

struct Fetch<'a> {
    options: &'a FetchOptions,
    retention: Retention,
    data: &'a DataDir,
    stream: &'a Stream,
    network: &'a Network,
    policy: &'a LedgerPolicy,
    display: &'a ProgressDisplay,
    signals: &'a Signals,
}

impl Fetch<'_> {
    /// Finds and fetches the snapshot. Returns `None` when interrupted.
    async fn run(&self) -> Result<Option<NetworkResult>> {
        let Some(id) = self.look_up().await? else {
            return Ok(None);
        };
        let left = |to_do| Ok(Some(NetworkResult { id, to_do }));
        if self.options.extract && Extracted::is_current(self.data, id) {
            info!(snapshot = %id, "data.ldb is this snapshot already");
            return left(Remaining::Complete);
        }
        if Mark::Discarded.is_set(&self.data.snapshot(id)) {
            if self.options.extract {
                info!(snapshot = %id, "resuming the extraction of a discarded archive");
                return left(Remaining::Discard);
            }
            bail!(
                "the archive of snapshot {id} is partly discarded: finish with --extract \
                 --discard-archive, or remove {} to fetch it again",
                self.data.snapshot(id).display()
            );
        }
        let streaming = StreamingExtract::new(self, id);
        let obtained = self.obtain(id, &streaming).await;
        let unpacked = streaming
            .end(obtained.as_ref().is_ok_and(Option::is_some))
            .await;
        let (torrent, unpacked) = match (obtained, unpacked) {
            // The extraction failed and thereby ended the download.
            (Ok(None) | Err(_), Err(error)) => return Err(error),
            (obtained, unpacked) => (obtained?, unpacked),
        };
        let Some(torrent) = torrent else {
            return Ok(None);
        };
        let to_do = self.put(&torrent, unpacked).await;
        if let Some(seed_for) = self
            .options
            .seed_for
            .filter(|_| matches!(to_do, Ok(Some(_))))
        {
            self.seed(&torrent, seed_for).await;
        }
        torrent.leave().await;
        let Some(to_do) = to_do? else {
            return Ok(None);
        };
        block_in_place(|| retention::remove_superseded(self.data, &[id], self.retention))?;
        left(to_do)
    }

    /// Verifies a complete snapshot, makes it current, and extracts its ledger as far as that is possible while it is
    /// seeded. Returns `None` when interrupted.
    async fn put(
        &self,
        torrent: &SnapshotTorrent,
        unpacked: Result<Option<Unpacked>>,
    ) -> Result<Option<Remaining>> {
        let format = torrent.dir.content(&torrent.store.info());
        let format = format.map(|(format, _)| format);
        if format == Some(LedgerFormat::Plain) || !self.options.extract {
            if !self.check(torrent).await? {
                return Ok(None);
            }
            self.switch(torrent.id)?;
            if !self.options.extract {
                return Ok(Some(Remaining::Nothing));
            }
            return Ok(match self.reflink(torrent).await? {
                Some(Outcome::Interrupted) => None,
                Some(_) => Some(Remaining::Nothing),
                None => Some(Remaining::Extract),
            });
        }
        if self.options.discard_archive {
            return Ok(Some(Remaining::Discard));
        }
        let unpacked = match unpacked? {
            None | Some(Unpacked::NeedsWhole) => {
                let unpack = self.unpack(torrent.id, self.signals.stop.clone());
                let info = torrent.store.info();
                spawn_blocking(move || unpack.whole(&info, false)).await??
            }
            Some(unpacked) => unpacked,
        };
        match unpacked {
            Unpacked::Ready(archived) => {
                self.switch(torrent.id)?;
                block_in_place(|| {
                    let place = LedgerPlace::of_data_dir(self.data.root())?;
                    Extracted::put(
                        self.data,
                        &place,
                        torrent.id,
                        New::Archived(archived),
                        self.options.allow_older,
                    )
                })?;
                Ok(Some(Remaining::Nothing))
            }
            Unpacked::Stopped | Unpacked::NeedsWhole => Ok(None),
        }
    }

    fn switch(&self, id: InfoHashV2) -> Result<()> {
        self.data
            .switch(&self.stream.name, id, &self.data.lock()?)?;
        info!(snapshot = %id, stream = self.stream.name.as_str(), "now current");
        Ok(())
    }

    fn unpack(&self, id: InfoHashV2, stop: CancellationToken) -> Unpack {
        Unpack::new(self.data, id, self.policy, self.display, stop)
    }

    /// Returns the snapshot to fetch; `None` when interrupted.
    async fn look_up(&self) -> Result<Option<InfoHashV2>> {
        let mut meter = self.display.start(WorkKind::LookUpPointer, 0);
        let config = &self.stream.config;
        let patience = match config.pinned {
            Some(_) => config.pinned_after.get(),
            None => LOOKUP_PATIENCE,
        };
        let give_up = Instant::now() + patience;
        let mut reached = 0;
        let mut pause = UNREACHED_RETRY;
        loop {
            let poll = tokio::select! {
                () = self.signals.stop.cancelled() => return Ok(None),
                poll = self.stream.poll(&**self.network.dht()) => poll?,
            };
            stream::log(&poll);
            stream::log_refused(&poll);
            let failed = poll
                .authorities
                .iter()
                .filter(|one| one.lookup.is_err())
                .count();
            let unreached = failed == poll.authorities.len();
            reached += u32::from(stream::was_answered(&poll));
            let over = Instant::now() >= give_up;
            let enough = reached >= LOOKUP_TRIES || over;
            match &poll.decision {
                Decision::Follow(choice) if !unreached || enough => {
                    if unreached {
                        warn!("the pointer could not be looked up: using the last known one");
                    }
                    if let Some(age) = self.stream.stale_for(choice) {
                        warn!(
                            "stale: this snapshot was first seen {} ago; {}",
                            Time(age),
                            stream::STALE
                        );
                    }
                    return Ok(Some(choice.snapshot));
                }
                Decision::Undecided(tally) if config.pinned.is_some() && over => {
                    let why = stream::why_not(&poll, tally);
                    warn!("using the pinned snapshot: {why}");
                    return Ok(config.pinned);
                }
                Decision::Undecided(_) if config.pinned.is_some() => {}
                // Waiting does not settle a contradiction between authorities, or within one.
                Decision::Undecided(tally) if enough || (failed == 0 && says_something(tally)) => {
                    bail!(
                        "there is no snapshot to fetch: {}",
                        stream::why_not(&poll, tally)
                    );
                }
                _ => {}
            }
            meter.message("not found yet");
            tokio::select! {
                () = self.signals.stop.cancelled() => return Ok(None),
                () = sleep(if unreached { pause } else { LOOKUP_RETRY }) => {}
            }
            if unreached {
                pause *= 2;
            }
        }
    }

    /// Returns the complete snapshot as a torrent of the session; `None` when interrupted.
    async fn obtain(
        &self,
        id: InfoHashV2,
        streaming: &StreamingExtract,
    ) -> Result<Option<SnapshotTorrent>> {
        match block_in_place(|| snapshot_store::open(self.data, id)) {
            Some(Entry::Whole(generation)) => {
                info!(snapshot = %id, "already stored");
                return SnapshotTorrent::seed(self.network, generation)
                    .await
                    .map(Some);
            }
            Some(Entry::Refused(faults)) => return Err(unsound(id, &faults)),
            _ => {}
        }
        let is_streaming = self.options.extract && !self.options.discard_archive;
        let wanted = DownloadRequest {
            id,
            open: Vec::new(),
            policy: self.policy,
            reader: is_streaming.then_some(streaming as &dyn ContentReader),
            fail_if_no_space: true,
            paused: &watch::Sender::default(),
        };
        let stop = &streaming.stop_fetch;
        let fetched =
            download::download(self.network, self.data, wanted, self.display, stop).await?;
        Ok(match fetched {
            DownloadOutcome::Whole(torrent) => Some(*torrent),
            DownloadOutcome::Stopped => None,
        })
    }

    /// Verifies the ledger of a complete snapshot unless that was done before. Returns `false` when interrupted.
    async fn check(&self, torrent: &SnapshotTorrent) -> Result<bool> {
        let info = torrent.store.info();
        let verdict = match self.policy.judge(&torrent.dir, &info) {
            Verdict::Unverified => {
                let (policy, dir) = (self.policy.clone(), torrent.dir.clone());
                let (display, stop) = (self.display.clone(), self.signals.stop.clone());
                spawn_blocking(move || policy.verify_held(&dir, &info, &display, &stop)).await??
            }
            verdict => Some(verdict),
        };
        match verdict {
            Some(Verdict::Sound) => Ok(true),
            Some(Verdict::Refused(faults)) => Err(unsound(torrent.id, &faults)),
            Some(Verdict::Unverified) => bail!(
                "the ledger of snapshot {} has no store version, which --store-version \
                 requires",
                torrent.id
            ),
            None => Ok(false),
        }
    }

    /// Extracts the ledger by a reflink of the content. Returns `None` if the file system has no reflinks.
    async fn reflink(&self, torrent: &SnapshotTorrent) -> Result<Option<Outcome>> {
        let content = plain_ledger(torrent)?;
        let (data, id) = (self.data.clone(), torrent.id);
        let (store, dir) = (torrent.store.clone(), torrent.dir.clone());
        let (display, stop) = (self.display.clone(), self.signals.stop.clone());
        let allow_older = self.options.allow_older;
        let work = move || {
            let place = LedgerPlace::of_data_dir(data.root())?;
            let Some(copy) = extract::by_reflink(&content, place.ledger())? else {
                return Ok(None);
            };
            let length = store.layout().content_length();
            let mut meter = display.start(WorkKind::CompareLedger, length);
            let published = Published::read(&dir, id)?;
            let compared = published.compare(copy.file(), &content, &mut |done| {
                meter.set(done, None);
                !stop.is_cancelled()
            });
            drop(meter);
            if !compared.map_err(|error| note_damage(error, || Ok(store), &dir, &stop))? {
                return Ok(Some(Outcome::Interrupted));
            }
            Extracted::put(
                &data,
                &place,
                id,
                New::Copy(copy, Method::Reflink),
                allow_older,
            )?;
            Ok(Some(Outcome::Done))
        };
        spawn_blocking(work).await?
    }

    /// Seeds until the time or the ratio is reached, or until a signal.
    async fn seed(&self, torrent: &SnapshotTorrent, seed_for: SeedFor) {
        let total = torrent.store.layout().content_length();
        let started = Instant::now();
        info!(?seed_for, "seeding");
        let mut meter = self.display.start(WorkKind::Seed, 0);
        loop {
            let status = torrent.status();
            meter.message(&format!(
                "uploaded {} to {} peers",
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
                // The fetch itself is complete; a signal only ends seeding.
                () = self.signals.stop.cancelled() => return,
                () = sleep(Duration::from_millis(500)) => {}
            }
        }
    }
}

/// Returns whether authorities published something, although too few of them or not in agreement.
fn says_something(tally: &Tally) -> bool {
    tally.contested > 0 || tally.leading.is_some()
}

fn unsound(id: InfoHashV2, faults: &[String]) -> anyhow::Error {
    anyhow!(
        "the content of snapshot {id} is not a sound ledger: {}",
        faults.join("; ")
    )
}

fn plain_ledger(torrent: &SnapshotTorrent) -> Result<PathBuf> {
    torrent
        .dir
        .plain_ledger(&torrent.store.info())
        .context("the snapshot is not a plain ledger")
}
