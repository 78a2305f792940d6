//! One snapshot in the session: seeded, or being fetched.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use bittorrent_protocol::metainfo::{Info, Metainfo};
use bittorrent_protocol::{BlockIndex, InfoHashV2, InfoHashes, MAX_INFO_LEN, SwarmHash};
use bittorrent_session::{AddError, TorrentHandle, TorrentStatus};
use bittorrent_store::{StoreError, TorrentStore, required_space};
use tokio::sync::watch;
use tokio::task::{block_in_place, spawn_blocking};
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, info, warn};

use crate::ledger::policy::{LedgerPolicy, refuses_files};
use crate::progress::{ProgressDisplay, WorkKind};
use crate::store::catalogue::{self, Entry, Generation};
use crate::store::data_dir::{DataDir, DirLock};
use crate::store::space::{self, Shortage};
use crate::text::{Bytes, Count};
use crate::transfer::disk_pause::{Paused, Pauses};
use crate::transfer::reuse::{Open, Reuse};
use crate::transfer::session::Network;
use crate::transfer::swarm_leftover;

/// How often a waiting fetch looks whether another process has let go of a snapshot.
const BUSY_RETRY: Duration = Duration::from_secs(1);

/// What a download into a clone of a held file begins or goes on with, bytes.
const CLONE_STEP: u64 = 256 << 20;

/// How often to look how much is free while a download writes.
const FLOOR_EVERY: Duration = Duration::from_millis(100);

/// What a download that has begun needs room for.
const REST: &str = "the rest of the snapshot";

/// A snapshot in the session. Dropping it leaves the torrent to the session; see [`Self::leave`].
pub(crate) struct Torrent {
    pub(crate) id: InfoHashV2,
    pub(crate) store: Arc<TorrentStore>,
    pub(crate) dir: PathBuf,
    handle: TorrentHandle,
    lock: DirLock,
    _presence: Vec<DropGuard>,
}

impl Torrent {
    /// Seeds a whole snapshot.
    pub(crate) async fn seed(network: &Network, generation: Generation) -> Result<Self> {
        let store = generation.store.clone();
        let handle = network.session().add_store(store).await?;
        Ok(Self::of(network, handle, generation))
    }

    /// What the session has as `handle`, from now on known to whoever looks for it.
    fn of(network: &Network, handle: TorrentHandle, generation: Generation) -> Self {
        let Generation {
            id,
            store,
            dir,
            lock,
        } = generation;
        let presence = network.attend(&handle, swarms(&store.info().hashes(), Some(&store)));
        Self {
            id,
            store,
            dir,
            handle,
            lock,
            _presence: vec![presence],
        }
    }

    /// Fetches blocks again that are damaged on disk, and in the store no longer count as verified.
    pub(crate) async fn mend(&self, damaged: Vec<BlockIndex>) -> Result<(), AddError> {
        self.handle.repair(self.store.clone(), damaged).await
    }

    pub(crate) fn status(&self) -> TorrentStatus {
        self.handle.status()
    }

    /// Takes the torrent out of the session, with everything on disk, and gives back the lock on
    /// its directory, and how it stood last.
    pub(crate) async fn leave(self) -> (DirLock, TorrentStatus) {
        self.handle.remove().await;
        let status = self.handle.status();
        let given = status.uploaded_payload;
        info!(snapshot = %self.id, given, "left, having given {}", Bytes(given));
        (self.lock, status)
    }
}

/// How a fetch ended.
pub(crate) enum Fetched {
    /// The snapshot is whole and is seeded.
    Whole(Box<Torrent>),
    /// We were asked to stop. What was received is on disk.
    Stopped,
}

/// All names under which peers of a snapshot meet: truncated v2 hash, v1 hash, and the hash aria2
/// computes for the same torrent.
fn swarms(hashes: &InfoHashes, store: Option<&TorrentStore>) -> Vec<SwarmHash> {
    let mut swarms = vec![hashes.v2.truncated()];
    swarms.extend(hashes.v1.map(SwarmHash::from));
    let alias = store.and_then(|store| store.info().aria2_alias().map(SwarmHash::from));
    swarms.extend(alias.filter(|alias| !swarms.contains(alias)));
    swarms
}

/// What is said of an info dictionary that a peer offers and that is not fetched.
pub(crate) fn too_long(length: u32) -> String {
    format!(
        "a peer offers an info dictionary of {} bytes, and at most {} are fetched: its producer has to publish it with a \
         greater --piece-length, unless the peer lies",
        Count(length.into()),
        Count(MAX_INFO_LEN.into())
    )
}

/// Whoever reads a snapshot while it comes.
pub(crate) trait Reader: Sync {
    /// The content has a place. Whether it is to come in its order from now on.
    fn begins(&self, store: &Arc<TorrentStore>) -> bool;
}

/// What to fetch, and how.
pub(crate) struct Wanted<'a> {
    pub(crate) id: InfoHashV2,
    /// Snapshots that this process has open: those need not be opened again to be looked through.
    pub(crate) open: Vec<Open>,
    pub(crate) policy: &'a LedgerPolicy,
    pub(crate) reader: Option<&'a dyn Reader>,
    /// Fail where there is not room enough from the start, rather than wait for it.
    pub(crate) or_refuse: bool,
    /// Is told when there is no room on the disk, and when there is again.
    pub(crate) paused: &'a watch::Sender<Paused>,
}

/// Fetches a snapshot, from nothing or from what is on disk, until it is whole. While the disk is
/// full it waits, unless somebody reads along.
///
/// Cancelling `stop` ends it soon with [`Fetched::Stopped`]. Errors leave what was received on
/// disk.
pub(crate) async fn fetch(
    network: &Network,
    data: &DataDir,
    mut wanted: Wanted<'_>,
    display: &ProgressDisplay,
    stop: &CancellationToken,
) -> Result<Fetched> {
    let fetch = Fetch {
        network,
        data,
        id: wanted.id,
        policy: wanted.policy,
        reader: wanted.reader,
        // Only while nothing was paused: kept open, what goes to make room would still take it.
        open: Mutex::new(std::mem::take(&mut wanted.open)),
        display,
        stop,
        begun: AtomicBool::new(false),
        read: AtomicBool::new(false),
    };
    let mut pauses = Pauses::new(data, wanted.id, display, wanted.paused);
    loop {
        let error = match fetch.run().await {
            Err(error) if stop.is_cancelled() => {
                info!("stopped while failing: {error:#}");
                return Ok(Fetched::Stopped);
            }
            Err(error) if space::is_lacking(&error) && fetch.may_wait(&wanted) => error,
            other => return other,
        };
        let over = CancellationToken::new();
        let pause = async {
            let _over = over.clone().drop_guard();
            pauses.wait(&error, stop).await
        };
        let (goes_on, ()) = tokio::join!(pause, fetch.serve_part(&over));
        if !goes_on? {
            return Ok(Fetched::Stopped);
        }
    }
}

struct Fetch<'a> {
    network: &'a Network,
    data: &'a DataDir,
    id: InfoHashV2,
    policy: &'a LedgerPolicy,
    reader: Option<&'a dyn Reader>,
    open: Mutex<Vec<Open>>,
    display: &'a ProgressDisplay,
    stop: &'a CancellationToken,
    /// The download began, if only once.
    begun: AtomicBool,
    /// Somebody reads what comes.
    read: AtomicBool,
}

impl Fetch<'_> {
    /// Whether it may go on with another store later. Readers have hold of this one.
    fn may_wait(&self, wanted: &Wanted<'_>) -> bool {
        let refuses = wanted.or_refuse && !self.begun.load(Ordering::Relaxed);
        !refuses && !self.read.load(Ordering::Relaxed)
    }

    /// Fetches once. What is damaged in the directory is repaired first, and if that does not help, all
    /// of the directory is moved away.
    async fn run(&self) -> Result<Fetched> {
        let mut remedies = [catalogue::heal as Remedy, catalogue::give_up].into_iter();
        loop {
            match self.attempt(&mut remedies).await {
                Err(error) if matches!(error.downcast_ref(), Some(Trouble::Repaired)) => {}
                other => return other,
            }
        }
    }

    /// Fails with [`Trouble::Repaired`] after a remedy was applied.
    async fn attempt(&self, remedies: &mut impl Iterator<Item = Remedy>) -> Result<Fetched> {
        let dir = self.data.snapshot(self.id);
        let lock = match self.own(&dir).await? {
            Place::Ours(lock) => lock,
            Place::Whole(generation) => {
                let torrent = Torrent::seed(self.network, *generation).await?;
                return Ok(Fetched::Whole(Box::new(torrent)));
            }
            Place::Stopped => return Ok(Fetched::Stopped),
        };
        let (data, id, stop) = (self.data.clone(), self.id, self.stop.clone());
        let open = std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner));
        let reuse = spawn_blocking(move || Reuse::find(&data, id, &open, &stop)).await?;
        let joined = if catalogue::is_created(&dir) {
            self.resume(&dir, &reuse).await
        } else {
            self.begin(&dir, &reuse).await
        };
        let joined = match joined {
            Err(error)
                if matches!(error.downcast_ref(), Some(Trouble::Unusable))
                    && !catalogue::is_passing(&error) =>
            {
                let Some(remedy) = remedies.next() else {
                    return Err(error);
                };
                block_in_place(|| remedy(self.data, self.id, &error, &lock))?;
                return Err(error.context(Trouble::Repaired));
            }
            other => other?,
        };
        let Some((handle, store, presence)) = joined else {
            return Ok(Fetched::Stopped);
        };
        if self.reader.is_some_and(|reader| reader.begins(&store)) {
            self.read.store(true, Ordering::Relaxed);
            handle.download_in_order().await;
        }
        let torrent = Torrent {
            id: self.id,
            store,
            dir,
            handle,
            lock,
            _presence: presence,
        };
        // However it ends, what goes on is a torrent with its guards, or none at all.
        match self.download(&torrent).await {
            Ok(true) => {
                // Others may read what nobody will write again.
                torrent.lock.share()?;
                Ok(Fetched::Whole(Box::new(torrent)))
            }
            Ok(false) => {
                torrent.leave().await;
                Ok(Fetched::Stopped)
            }
            Err(error) => {
                torrent.leave().await;
                Err(error)
            }
        }
    }

    /// Serves what is there of the snapshot and writes nothing, until `over`. Where that cannot be, as
    /// when nothing is there yet, it is left.
    async fn serve_part(&self, over: &CancellationToken) {
        match self.offer_part().await {
            Ok(Some(torrent)) => {
                info!(
                    snapshot = %self.id, held_bytes = held_bytes(&torrent.store),
                    "serving meanwhile what is there"
                );
                over.cancelled().await;
                torrent.leave().await;
            }
            Ok(None) => {}
            Err(error) => debug!(snapshot = %self.id, "not served meanwhile: {error:#}"),
        }
    }

    async fn offer_part(&self) -> Result<Option<Torrent>> {
        let dir = self.data.snapshot(self.id);
        if !catalogue::is_created(&dir) || catalogue::must_be_read(&dir) {
            return Ok(None);
        }
        let Some(lock) = self.data.own_snapshot(self.id)? else {
            return Ok(None);
        };
        let place = dir.clone();
        let store = Arc::new(spawn_blocking(move || catalogue::take_up(&place)).await??);
        if store.verified_blocks() == 0 {
            return Ok(None);
        }
        let session = self.network.session();
        let handle = session.add_store_seed_only(store.clone()).await?;
        let generation = Generation {
            id: self.id,
            store,
            dir,
            lock,
        };
        Ok(Some(Torrent::of(self.network, handle, generation)))
    }

    /// Makes the directory and locks it, waiting for any other process to end its work there.
    async fn own(&self, dir: &Path) -> Result<Place> {
        let mut told = false;
        loop {
            {
                let _lock = self.data.lock()?;
                catalogue::clear_place(self.data, self.id)?;
                // Not the directories above: where they are missing, a disk was unmounted.
                match std::fs::create_dir(dir) {
                    Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                        return Err(error)
                            .with_context(|| format!("cannot make {}", dir.display()));
                    }
                    _ => catalogue::unlock(dir),
                }
                if let Some(lock) = self.data.own_snapshot(self.id)? {
                    return Ok(Place::Ours(lock));
                }
            }
            // Others read it: they have made it whole.
            let entry = block_in_place(|| catalogue::look(self.data, self.id));
            if let Some(Entry::Whole(generation)) = entry {
                return Ok(Place::Whole(Box::new(generation)));
            }
            if !told {
                info!(snapshot = %self.id, "another process is fetching it: waiting for its end");
                told = true;
            }
            tokio::select! {
                () = self.stop.cancelled() => return Ok(Place::Stopped),
                () = sleep(BUSY_RETRY) => {}
            }
        }
    }

    /// Takes up what an earlier run left.
    async fn resume(&self, dir: &Path, reuse: &Reuse) -> Result<Option<Joined>> {
        if let Some(reason) = refuses_files(&catalogue::read_info(dir).context(Trouble::Unusable)?)
        {
            bail!("snapshot {} is not resumed: {reason}", self.id);
        }
        let place = dir.to_owned();
        let store = spawn_blocking(move || catalogue::take_up(&place)).await?;
        let store = Arc::new(store.context(Trouble::Unusable)?);
        if catalogue::must_be_read(dir) && !self.find_good(&store, dir).await? {
            return Ok(None);
        }
        info!(snapshot = %self.id, held_bytes = held_bytes(&store), "resuming");
        self.ensure_space(&store)?;
        let session = self.network.session();
        let sources = reuse.sources().clone();
        let handle = session.add_store_reusing(store.clone(), sources).await?;
        let presence = self
            .network
            .attend(&handle, swarms(&store.info().hashes(), Some(&store)));
        Ok(Some((handle, store, vec![presence])))
    }

    /// Reads everything again where the record of what is good was lost, as after a directory was
    /// copied to another disk. `false` when asked to stop before the end.
    async fn find_good(&self, store: &Arc<TorrentStore>, dir: &Path) -> Result<bool> {
        let meter = self
            .display
            .start(WorkKind::VerifyContent, store.layout().content_length());
        let (store, stop) = (store.clone(), self.stop.clone());
        let verified = spawn_blocking(move || {
            let meter = Mutex::new(meter);
            store.verify_all(&|done| {
                meter
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .set(done, None);
                !stop.is_cancelled()
            })
        });
        match verified.await? {
            Ok(_) => catalogue::was_read(dir).map(|()| true),
            Err(StoreError::Cancelled) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Begins with nothing but the hash.
    async fn begin(&self, dir: &Path, reuse: &Reuse) -> Result<Option<Joined>> {
        let hashes = InfoHashes {
            v2: self.id,
            v1: None,
        };
        let handle = self.network.session().add_magnet(hashes).await?;
        let begun = async {
            let searching = self.network.attend(&handle, swarms(&hashes, None));
            let Some(info) = self.ask_for_metadata(&handle).await? else {
                return Ok(None);
            };
            let Some(store) = self.lay_out(info, dir, reuse).await? else {
                return Ok(None);
            };
            let sources = reuse.sources().clone();
            handle.attach_reusing(store.clone(), sources).await?;
            anyhow::Ok(Some((store, searching)))
        };
        match begun.await {
            Ok(Some((store, searching))) => {
                // What is known about it by now goes on; it has more names than were asked for.
                let known = swarms(&hashes, None);
                let mut more = swarms(&store.info().hashes(), Some(&store));
                more.retain(|swarm| !known.contains(swarm));
                let presence = vec![searching, self.network.attend(&handle, more)];
                Ok(Some((handle, store, presence)))
            }
            other => {
                handle.remove().await;
                other.map(|_| None)
            }
        }
    }

    /// Waits for a peer that knows what the snapshot is; `None` when asked to stop before.
    async fn ask_for_metadata(&self, handle: &TorrentHandle) -> Result<Option<Arc<Info>>> {
        let started = Instant::now();
        let mut meter = self.display.start(WorkKind::FetchMetadata, 0);
        let mut clock = tokio::time::interval(Duration::from_secs(1));
        let mut refused = false;
        let info = handle.info();
        tokio::pin!(info);
        let info = loop {
            tokio::select! {
                () = self.stop.cancelled() => return Ok(None),
                info = &mut info => break info,
                _ = clock.tick() => {
                    let status = handle.status();
                    meter.message(&format!("{} peers of {} known", status.peers, status.candidates));
                    if let (Some(length), false) = (status.refused_metadata, refused) {
                        refused = true;
                        warn!(snapshot = %self.id, length, "{}", too_long(length));
                    }
                }
            }
        };
        let Some(info) = info else {
            fail_if_stopped(&handle.status())?;
            bail!("the session ended before the metadata came");
        };
        info!(
            snapshot = %self.id, name = info.name(), took_ms = started.elapsed().as_millis() as u64,
            size_bytes = info.layout().content_length(), "metadata received"
        );
        Ok(Some(info))
    }

    /// Makes room for the content, and takes it from what another program left where it can; `None`
    /// when asked to stop.
    async fn lay_out(
        &self,
        info: Arc<Info>,
        dir: &Path,
        reuse: &Reuse,
    ) -> Result<Option<Arc<TorrentStore>>> {
        if let Some(reason) = self.policy.refuses_claim(&info) {
            bail!(
                "snapshot {} is refused before it is fetched: {reason}",
                self.id
            );
        }
        let left = match swarm_leftover::find(self.data, &info) {
            Some(path) => self.recognise(path, &info).await?,
            None => None,
        };
        let (meta, left) = match left {
            Some((meta, path)) => (meta, Some(path)),
            None => (Metainfo::from_info(info), None),
        };
        let nothing_held = reuse.sources().generations().is_empty();
        if nothing_held {
            space::ensure(self.data, required_space(&meta), "the snapshot")?;
        }
        let place = dir.to_owned();
        let sources = reuse.sources().clone();
        let store = spawn_blocking(move || {
            TorrentStore::create_from(&place, &meta, catalogue::io(), &sources)
        });
        let (store, clones) = store.await?.context(Trouble::Unusable)?;
        debug!(snapshot = %self.id, ?clones, "laid out");
        if !nothing_held {
            // Known only now: what is a clone of something held takes no room of its own.
            space::ensure(
                self.data,
                needed(&store, store.space_needed()?),
                "the snapshot",
            )?;
        }
        let store = Arc::new(store);
        if let Some(path) = left {
            let (into, stop) = (store.clone(), self.stop.clone());
            let copied =
                spawn_blocking(move || swarm_leftover::copy(&path, &into, &stop)).await??;
            if !copied || !self.find_good(&store, dir).await? {
                return Ok(None);
            }
        }
        Ok(Some(store))
    }

    /// The torrent as the file at `path` completes it, where that is its content.
    async fn recognise(
        &self,
        path: PathBuf,
        info: &Arc<Info>,
    ) -> Result<Option<(Metainfo, PathBuf)>> {
        let (info, display, stop) = (info.clone(), self.display.clone(), self.stop.clone());
        Ok(spawn_blocking(move || {
            let meta = swarm_leftover::recognise(&path, &info, &display, &stop)?;
            Some((meta, path))
        })
        .await?)
    }

    fn ensure_space(&self, store: &TorrentStore) -> Result<()> {
        space::ensure(self.data, needed(store, store.space_needed()?), REST)
    }

    /// Fails before the floor of free space is crossed, from what one look to the next takes.
    fn watch_floor(&self, store: &TorrentStore, before: &mut Option<u64>) -> Result<()> {
        let missing = store.missing_bytes();
        let free = bittorrent_store::free_space(self.data.root())?;
        let taken = before
            .replace(free)
            .map_or(0, |before| before.saturating_sub(free));
        let Some(short) = space::shortage(self.data, taken.min(missing), REST)? else {
            return Ok(());
        };
        let needed = needed(store, store.space_needed()?);
        Err(Shortage { needed, ..short }.into())
    }

    /// Waits for the last block; `false` when asked to stop before.
    async fn download(&self, torrent: &Torrent) -> Result<bool> {
        let started = Instant::now();
        let mut free = None;
        let mut floor = tokio::time::interval(FLOOR_EVERY);
        floor.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.begun.store(true, Ordering::Relaxed);
        let mut status = torrent.handle.subscribe();
        let mut meter = self
            .display
            .start(WorkKind::Download, torrent.store.layout().content_length());
        loop {
            let now = status.borrow_and_update().clone();
            fail_if_stopped(&now)?;
            meter.set(now.bytes_verified, Some(now.peers));
            if now.phase.is_seeding() {
                drop(meter);
                info!(
                    snapshot = %self.id,
                    fetched = now.downloaded_payload, wasted = now.wasted,
                    reused = now.bytes_reused, hashes = now.hash_bytes,
                    took_ms = started.elapsed().as_millis() as u64,
                    "downloaded {} of {}, found {} in what is held",
                    Bytes(now.downloaded_payload), Bytes(now.bytes_total),
                    Bytes(now.bytes_reused),
                );
                return Ok(true);
            }
            self.watch_floor(&torrent.store, &mut free)?;
            tokio::select! {
                () = self.stop.cancelled() => return Ok(false),
                _ = floor.tick() => {}
                changed = status.changed() => {
                    changed.map_err(|_| anyhow!("the session ended before the download did"))?;
                }
            }
        }
    }
}

/// Who has the directory of a snapshot that is to be fetched.
enum Place {
    /// We have, alone.
    Ours(DirLock),
    /// Another process has fetched it.
    Whole(Box<Generation>),
    /// We were asked to stop.
    Stopped,
}

/// A way to repair the directory of a snapshot.
type Remedy = fn(&DataDir, InfoHashV2, &anyhow::Error, &DirLock) -> Result<()>;

/// The context of an error.
#[derive(Debug)]
enum Trouble {
    /// What stands in the directory of the snapshot caused it.
    Unusable,
    /// Its cause was removed.
    Repaired,
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Unusable => "cannot use the directory of the snapshot",
            Self::Repaired => "repaired the directory of the snapshot",
        })
    }
}

type Joined = (TorrentHandle, Arc<TorrentStore>, Vec<DropGuard>);

fn fail_if_stopped(status: &TorrentStatus) -> Result<()> {
    if let Some(error) = status.phase.error() {
        return Err(anyhow::Error::new(error.clone()).context("the torrent stopped"));
    }
    Ok(())
}

/// What has to be free before a download goes on. How much of a clone will change is not known, so
/// that it goes on with less, as far as that takes it.
fn needed(store: &TorrentStore, most: u64) -> u64 {
    if store.is_cloned() {
        most.min(CLONE_STEP)
    } else {
        most
    }
}

fn held_bytes(store: &TorrentStore) -> u64 {
    // All blocks have this size but the last of each file.
    let bytes = store.verified_blocks() * u64::from(bittorrent_protocol::BLOCK_LEN);
    bytes.min(store.layout().content_length())
}
