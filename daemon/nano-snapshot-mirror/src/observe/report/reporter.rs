//! Assembles the report from the state of the service.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use bittorrent_protocol::InfoHashV2;
use bittorrent_session::{Phase as SessionPhase, TorrentHandle, TorrentStatus};
use file_kit::recorded_time::unix_seconds;
use service_kit::http_server::Updates;
use service_kit::sync::lock;
use service_kit::watchdog::Pulse;
use snapshot_pointer::{Decision, Poll, Record};
use snapshot_store::{SnapshotInfo, StreamName, space};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::notes::{AuthorityNotes, StreamNotes};
use super::observer::{Observed, observe};
use super::reach::PeerListener;
use super::{
    Addresses, DiskReport, MonthReport, PeerReport, PortMapping, Problem, ProblemCode, RateHistory,
    Report, ServicePhase, StreamReport, TorrentReport, TorrentState, TransferTotals, VoteState,
    WorkReport,
};

use crate::pointers::stream::Stream;
use crate::progress::{ProgressDisplay, RunningWork};
use crate::text::Causes;
use crate::transfer::download::metadata_too_long;
use crate::transfer::network::Network;

/// The time between two reports when no event occurs.
const EVERY: Duration = Duration::from_secs(1);

/// Removed torrents whose counters are kept, at most.
const MAX_LEFT: usize = 16;

/// The DHT counts as silent after this time without an answer, and after three polls.
const SILENCE: Duration = Duration::from_secs(5 * 60);

/// The state of a stream that the service passes to the reporter.
pub(crate) struct FollowedState<'a> {
    pub(crate) stream: &'a Stream,
    /// The desired snapshot: the one that the pointer names, or the pinned one.
    pub(crate) desired: Option<InfoHashV2>,
    /// The snapshot that is being fetched.
    pub(crate) active: Option<InfoHashV2>,
    /// Whether the ledger of the desired snapshot failed verification.
    pub(crate) refused: bool,
    /// The snapshot that `current/<stream>` points at.
    pub(crate) current: Option<InfoHashV2>,
    pub(crate) poll_interval: Duration,
    /// When the next look-up begins, while none runs.
    pub(crate) next_lookup: Option<Duration>,
}

/// Makes reports.
pub(crate) struct Reporter {
    clock: Interval,
    started: SystemTime,
    data_dir: PathBuf,
    addresses: Addresses,
    /// Overrides the phase; `None` derives it from the torrents.
    phase: Option<ServicePhase>,
    streams: HashMap<StreamName, StreamNotes>,
    problems: BTreeMap<(ProblemCode, String), String>,
    refusals: BTreeMap<String, u64>,
    transfer: TransferTotals,
    /// Counters of each torrent when they were last added to the sums.
    counted: HashMap<InfoHashV2, TransferTotals>,
    rates: Arc<Mutex<RateHistory>>,
    report: watch::Sender<Arc<Report>>,
    torrents: watch::Sender<Vec<TorrentHandle>>,
    observed: watch::Receiver<Observed>,
    observer: JoinHandle<()>,
    stop: CancellationToken,
}

/// Read access to the reports for the servers. Clones share the same reports.
#[derive(Debug, Clone)]
pub(crate) struct ReportWatch {
    report: watch::Receiver<Arc<Report>>,
    torrents: watch::Receiver<Vec<TorrentHandle>>,
    observed: watch::Receiver<Observed>,
    rates: Arc<Mutex<RateHistory>>,
}

impl ReportWatch {
    /// Returns the newest report.
    pub(crate) fn report(&self) -> Arc<Report> {
        self.report.borrow().clone()
    }

    /// Returns the connections; they are a few seconds old.
    pub(crate) fn peers(&self) -> Vec<PeerReport> {
        self.observed.borrow().listed.clone()
    }

    /// Returns the torrent of a snapshot.
    pub(crate) fn torrent(&self, snapshot: &str) -> Option<TorrentHandle> {
        let torrents = self.torrents.borrow();
        let mut torrents = torrents.iter();
        let same = |torrent: &&TorrentHandle| torrent.id().v2.to_string() == snapshot;
        torrents.find(same).cloned()
    }

    /// Returns the rates of the last hour.
    pub(crate) fn rates(&self) -> RateHistory {
        lock(&self.rates).clone()
    }
}

impl Updates for ReportWatch {
    type Value = Arc<Report>;

    fn current(&self) -> Arc<Report> {
        self.report()
    }

    /// Waits for a report newer than the last one returned. Returns `None` when the mirror ends.
    async fn next(&mut self) -> Option<Arc<Report>> {
        self.report.changed().await.ok()?;
        Some(self.report.borrow_and_update().clone())
    }
}

impl Reporter {
    /// Starts the observer task. The first report has the phase `starting`. `dht_lives` beats while the DHT node answers.
    pub(crate) fn start(
        network: &Network,
        data_dir: PathBuf,
        addresses: Addresses,
        dht_lives: Pulse,
    ) -> Self {
        let mut clock = interval(EVERY);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let started = SystemTime::now();
        let stop = CancellationToken::new();
        let (torrents, handles) = watch::channel(Vec::new());
        let (sender, observed) = watch::channel(Observed::default());
        let dht = network.dht().clone();
        let listen = network.session().local_addrs();
        let home = PeerListener {
            port: network.session().announce_port(),
            only_here: listen.iter().all(|addr| addr.ip().is_loopback()),
        };
        let observer = observe(
            dht,
            data_dir.clone(),
            handles,
            sender,
            stop.clone(),
            dht_lives,
            home,
        );
        let first = Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: unix_seconds(started),
            now: unix_seconds(started),
            data_dir: data_dir.display().to_string(),
            phase: ServicePhase::Starting,
            ready: false,
            problems: Vec::new(),
            work: Vec::new(),
            streams: Vec::new(),
            torrents: Vec::new(),
            transfer: TransferTotals::default(),
            month: MonthReport::default(),
            peers: super::PeerTotals::default(),
            port_mapping: network
                .port_mapping()
                .map(|status| PortMapping::of(&status)),
            dht: super::DhtReport::default(),
            disk: DiskReport::default(),
            addresses: addresses.clone(),
            refusals: BTreeMap::new(),
        };
        Self {
            clock,
            started,
            data_dir,
            addresses,
            phase: Some(ServicePhase::Starting),
            streams: HashMap::new(),
            problems: BTreeMap::new(),
            refusals: BTreeMap::new(),
            transfer: TransferTotals::default(),
            counted: HashMap::new(),
            rates: Arc::new(Mutex::new(RateHistory::new())),
            report: watch::Sender::new(Arc::new(first)),
            torrents,
            observed,
            observer: tokio::spawn(observer),
            stop,
        }
    }

    /// Returns read access to the reports.
    pub(crate) fn watching(&self) -> ReportWatch {
        ReportWatch {
            report: self.report.subscribe(),
            torrents: self.torrents.subscribe(),
            observed: self.observed.clone(),
            rates: self.rates.clone(),
        }
    }

    /// Waits until the next report is due, about once a second.
    pub(crate) async fn due(&mut self) {
        self.clock.tick().await;
    }

    /// Sets the phase, as at the start and at the end; `None` derives it from the torrents.
    pub(crate) fn enter(&mut self, phase: Option<ServicePhase>) {
        self.phase = phase;
    }

    /// Records a problem of `subject` (a stream or a snapshot); the text `None` removes it.
    pub(crate) fn problem(&mut self, code: ProblemCode, subject: &str, text: Option<String>) {
        let key = (code, subject.to_owned());
        match text {
            Some(text) => self.problems.insert(key, text),
            None => self.problems.remove(&key),
        };
    }

    /// Removes all records of a stream.
    pub(crate) fn forget(&mut self, stream: &StreamName) {
        self.streams.remove(stream);
        self.problems
            .retain(|(_, subject), _| subject != stream.as_str());
    }

    /// Records what earlier runs stored about a stream.
    pub(crate) fn recalled(&mut self, stream: &Stream, decision: &Decision, records: Vec<Record>) {
        let notes = self.streams.entry(stream.name.clone()).or_default();
        notes.decided(decision);
        notes.authorities = records.into_iter().map(AuthorityNotes::new).collect();
    }

    /// Records the result of a poll of a stream.
    pub(crate) fn heard(&mut self, stream: &Stream, poll: &Poll, now: SystemTime) {
        let notes = self.streams.entry(stream.name.clone()).or_default();
        notes.heard(poll, now, &mut self.refusals);
    }

    /// Returns the content uploaded since the process started, in bytes. The number never decreases.
    pub(crate) fn uploaded(&self) -> u64 {
        self.transfer.uploaded
    }

    /// Makes a report and publishes it to all receivers. Returns the previous report and this one.
    pub(crate) fn publish(
        &mut self,
        network: &Network,
        display: &ProgressDisplay,
        following: &[FollowedState<'_>],
        month: MonthReport,
    ) -> (Arc<Report>, Arc<Report>) {
        let now = SystemTime::now();
        let handles = network.torrents();
        let torrents: Vec<TorrentReport> = handles.iter().map(|one| self.torrent(one)).collect();
        // A removed torrent may return under the same handle, with the same counters.
        if self.counted.len() > handles.len() + MAX_LEFT {
            self.counted
                .retain(|id, _| handles.iter().any(|handle| handle.id().v2 == *id));
        }
        self.torrents.send_replace(handles);
        let streams: Vec<StreamReport> = following
            .iter()
            .map(|following| self.stream(following, now))
            .collect();
        let work = display.work();
        let observed = self.observed.borrow().clone();
        self.addresses.dht.clone_from(&observed.dht_address);
        self.transfer.down_rate = torrents.iter().map(|torrent| torrent.down_rate).sum();
        self.transfer.up_rate = torrents.iter().map(|torrent| torrent.up_rate).sum();
        lock(&self.rates).measure(
            self.transfer.downloaded,
            self.transfer.uploaded,
            Instant::now(),
        );
        let next_update = streams
            .iter()
            .filter_map(|stream| stream.current.as_deref())
            .filter_map(|current| torrents.iter().find(|torrent| torrent.snapshot == current))
            .map(|torrent| space::of_file(torrent.bytes_total))
            .max();
        let mut report = Report {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: unix_seconds(self.started),
            now: unix_seconds(now),
            data_dir: self.data_dir.display().to_string(),
            phase: self
                .phase
                .unwrap_or_else(|| phase(&streams, &torrents, &work)),
            ready: false,
            problems: self.all_problems(following, &streams, &torrents, now),
            work: work.into_iter().map(WorkReport::from).collect(),
            streams,
            torrents,
            transfer: self.transfer,
            month,
            peers: observed.peers,
            port_mapping: network
                .port_mapping()
                .map(|status| PortMapping::of(&status)),
            dht: observed.dht,
            disk: DiskReport {
                free: observed.disk_free,
                total: observed.disk_total,
                next_update: next_update.unwrap_or(0),
            },
            addresses: self.addresses.clone(),
            refusals: self.refusals.clone(),
        };
        report.ready = self.phase.is_none() && report.reasons().is_empty();
        let report = Arc::new(report);
        let before = self.report.send_replace(report.clone());
        (before, report)
    }

    /// Stops the observer task.
    pub(crate) async fn end(self) {
        self.stop.cancel();
        // The task never panics and is not aborted.
        let _ = self.observer.await;
    }
}

impl Reporter {
    fn torrent(&mut self, handle: &TorrentHandle) -> TorrentReport {
        let status = handle.status();
        self.count(handle.id().v2, &status);
        let info = handle.known_info();
        let said = info
            .as_ref()
            .and_then(|info| SnapshotInfo::parse(info.snapshot()?));
        let left = status.bytes_total.saturating_sub(status.bytes_verified);
        TorrentReport {
            snapshot: handle.id().v2.to_string(),
            state: match &status.phase {
                SessionPhase::Metadata => TorrentState::Metadata,
                SessionPhase::Downloading => TorrentState::Fetching,
                SessionPhase::Seeding => TorrentState::Seeding,
                SessionPhase::Stopped(_) => TorrentState::Stopped,
            },
            failure: status
                .phase
                .error()
                .map(|error| Causes(&**error).to_string()),
            name: info.map(|info| info.name().to_owned()),
            original_filename: said.and_then(|said| said.original_filename),
            bytes_total: status.bytes_total,
            bytes_verified: status.bytes_verified,
            bytes_reused: status.bytes_reused,
            bytes_fetched: status.bytes_fetched,
            bytes_to_fetch: status.bytes_to_fetch,
            downloaded: status.downloaded_payload,
            uploaded: status.uploaded_payload,
            wasted: status.wasted,
            hash_bytes: status.hash_bytes,
            down_rate: status.down_rate,
            up_rate: status.up_rate,
            pieces_total: status.pieces_total,
            pieces_verified: status.pieces_verified,
            peers: status.peers,
            seeds: status.seeds,
            candidates: status.candidates,
            banned: status.banned,
            seconds_left: left.checked_div(status.down_rate).filter(|_| left > 0),
        }
    }

    /// Adds the transfers of a torrent since its counters were last added.
    pub(crate) fn count(&mut self, id: InfoHashV2, status: &TorrentStatus) {
        let now = TransferTotals {
            downloaded: status.downloaded_payload,
            uploaded: status.uploaded_payload,
            reused: status.bytes_reused,
            wasted: status.wasted,
            hash_bytes: status.hash_bytes,
            ..TransferTotals::default()
        };
        let before = self.counted.insert(id, now).unwrap_or_default();
        // A torrent that was removed and added again counts from 0.
        let since = |before: u64, now: u64| now.checked_sub(before).unwrap_or(now);
        let sums = &mut self.transfer;
        sums.downloaded += since(before.downloaded, now.downloaded);
        sums.uploaded += since(before.uploaded, now.uploaded);
        sums.reused += since(before.reused, now.reused);
        sums.wasted += since(before.wasted, now.wasted);
        sums.hash_bytes += since(before.hash_bytes, now.hash_bytes);
    }

    fn stream(&self, following: &FollowedState<'_>, now: SystemTime) -> StreamReport {
        let FollowedState { stream, .. } = following;
        let policy = stream.follower.policy();
        let notes = self.streams.get(&stream.name);
        let choice = notes.and_then(|notes| notes.choice.as_ref());
        let desired = following.desired;
        let authorities = notes.map_or(&[][..], |notes| &notes.authorities);
        StreamReport {
            name: stream.name.as_str().to_owned(),
            salt: policy.salt().to_string(),
            threshold: policy.threshold(),
            authorities: authorities
                .iter()
                .map(|authority| authority.report(desired))
                .collect(),
            desired: desired.map(|id| id.to_string()),
            active: following.active.map(|id| id.to_string()),
            refused: following.refused,
            current: following.current.map(|id| id.to_string()),
            seq: authorities
                .iter()
                .filter_map(|authority| authority.record.state().pointer())
                .filter(|pointer| Some(pointer.snapshot) == desired)
                .map(|pointer| pointer.seq.get())
                .max(),
            since: choice.map(|choice| unix_seconds(choice.since)),
            stale: choice.is_some_and(|choice| policy.freshness(choice, now).stale),
            answered: notes.and_then(|notes| notes.answered).map(unix_seconds),
            next_lookup: following
                .next_lookup
                .and_then(|left| now.checked_add(left))
                .map(unix_seconds),
        }
    }

    fn all_problems(
        &self,
        following: &[FollowedState<'_>],
        streams: &[StreamReport],
        torrents: &[TorrentReport],
        now: SystemTime,
    ) -> Vec<Problem> {
        let mut problems: Vec<Problem> = self
            .problems
            .iter()
            .map(|((code, _), text)| problem(*code, text.clone()))
            .collect();
        for (following, stream) in following.iter().zip(streams) {
            let name = &stream.name;
            let notes = self.streams.get(&following.stream.name);
            if let Some(why) = notes.and_then(|notes| notes.nothing.as_ref()) {
                problems.push(problem(
                    ProblemCode::NoPointer,
                    format!("stream {name}: {why}"),
                ));
            }
            let last = notes
                .and_then(|notes| notes.answered)
                .unwrap_or(self.started);
            let silent = now.duration_since(last).unwrap_or_default();
            if silent > SILENCE.max(following.poll_interval * 3) {
                let text = format!(
                    "stream {name}: no DHT node has answered for {}; is UDP blocked?",
                    crate::text::Time(silent)
                );
                problems.push(problem(ProblemCode::DhtSilent, text));
            }
            if stream.stale {
                let text = format!(
                    "stream {name}: the authorities have published nothing newer for longer than max-age"
                );
                problems.push(problem(ProblemCode::PointerStale, text));
            }
            for authority in &stream.authorities {
                if authority.state == VoteState::Contested {
                    let text = format!(
                        "stream {name}: authority {} signed two snapshots with one sequence \
                         number; the proof is kept in streams/",
                        authority.authority
                    );
                    problems.push(problem(ProblemCode::Equivocation, text));
                }
            }
        }
        for torrent in torrents {
            if let Some(failure) = &torrent.failure {
                let text = format!("snapshot {}: {failure}", torrent.snapshot);
                problems.push(problem(ProblemCode::TorrentStopped, text));
            }
        }
        for handle in self.torrents.borrow().iter() {
            let status = handle.status();
            if let (SessionPhase::Metadata, Some(length)) = (&status.phase, status.refused_metadata)
            {
                let text = format!("snapshot {}: {}", handle.id().v2, metadata_too_long(length));
                problems.push(problem(ProblemCode::MetadataTooLong, text));
            }
        }
        problems
    }
}

fn problem(code: ProblemCode, text: String) -> Problem {
    Problem { code, text }
}

/// Returns the main activity.
fn phase(
    streams: &[StreamReport],
    torrents: &[TorrentReport],
    work: &[RunningWork],
) -> ServicePhase {
    let any = |state| torrents.iter().any(|torrent| torrent.state == state);
    if work.iter().any(|work| work.kind.is_verification()) {
        ServicePhase::Verifying
    } else if any(TorrentState::Fetching) {
        ServicePhase::Fetching
    } else if any(TorrentState::Metadata) {
        ServicePhase::Metadata
    } else if any(TorrentState::Seeding) {
        ServicePhase::Seeding
    } else if streams.iter().any(|stream| stream.desired.is_none()) {
        ServicePhase::Discovering
    } else {
        ServicePhase::Idle
    }
}
